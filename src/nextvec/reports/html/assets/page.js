// Draws the charts of a self-contained page from the JSON next to them, and again when the color scheme changes.
function draw() {
  for (const source of document.querySelectorAll("script[type='application/json']")) {
    drawChart(source.previousElementSibling, JSON.parse(source.textContent));
  }
}

draw();
scheme.addEventListener("change", draw);
