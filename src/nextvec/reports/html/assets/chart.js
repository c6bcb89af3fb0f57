// Draws a chart in the colours of the page's style: a colour is a name behind `$`.
"use strict";
const scheme = window.matchMedia("(prefers-color-scheme: dark)");

function coloured(value, key, style) {
  if (Array.isArray(value)) return value.map((item) => coloured(item, "", style));
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, coloured(item, name, style)]));
  }
  const named = typeof value === "string" && key.endsWith("color") && value.startsWith("$");
  return named ? style.getPropertyValue("--" + value.slice(1)).trim() : value;
}

function drawChart(place, figure) {
  const { data, layout } = coloured(figure, "", getComputedStyle(document.documentElement));
  return Plotly.react(place, data, layout, { displayModeBar: false, responsive: true });
}
