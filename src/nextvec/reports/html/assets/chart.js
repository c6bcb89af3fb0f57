// Draws a chart with the colors of the page's style: `$name` stands for the CSS variable `--name`.
"use strict";
const scheme = window.matchMedia("(prefers-color-scheme: dark)");

function resolveColors(value, key, style) {
  if (Array.isArray(value)) return value.map((item) => resolveColors(item, "", style));
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, resolveColors(item, name, style)]));
  }
  const isVariable = typeof value === "string" && key.endsWith("color") && value.startsWith("$");
  return isVariable ? style.getPropertyValue("--" + value.slice(1)).trim() : value;
}

function drawChart(element, figure) {
  const { data, layout } = resolveColors(figure, "", getComputedStyle(document.documentElement));
  return Plotly.react(element, data, layout, { displayModeBar: false, responsive: true });
}
