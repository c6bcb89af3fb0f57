// Draws the charts of a page that stands alone from the JSON beside them, and again when light turns to dark.
function draw() {
  for (const source of document.querySelectorAll("script[type='application/json']")) {
    drawChart(source.previousElementSibling, JSON.parse(source.textContent));
  }
}

draw();
scheme.addEventListener("change", draw);
