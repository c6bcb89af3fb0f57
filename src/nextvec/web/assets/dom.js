// Builds elements. Values of a run are inserted as text: no script of this page parses markup.
const SVG = "http://www.w3.org/2000/svg";

export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== "" && child !== undefined));
  return element;
}

// A message with its code, which is between backticks.
export function withCode(text) {
  return text.split(/`([\w.= -]+)`/).map((part, index) => (index % 2 ? el("code", {}, part) : part));
}

let symbols = {};

export function setSymbols(values) {
  symbols = values;
}

// A stoplight status. It differs in shape as well as in color, and screen readers read its name.
export function statusSymbol(name) {
  if (!(name in symbols)) return el("span", { class: "status" });
  return el("span", { class: `status ${name}`, role: "img", "aria-label": name }, symbols[name]);
}

export function table(headings, rows) {
  return el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, headings.map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, rows)));
}

export function syntheticTag() {
  return el("span", { class: "tag" }, "SYNTHETIC");
}

export function percent(fraction) {
  return fraction === null ? "" : `${Math.floor(100 * fraction)} %`;
}

// The trend of a score and, as a dashed line, the best baseline on the same scale.
export function sparkline(values, baseline) {
  const [width, height, pad] = [96, 26, 3];
  const known = baseline === null ? values : [...values, baseline];
  if (!values.length) return "";
  const low = Math.min(...known);
  const span = Math.max(...known) - low || 1;
  const x = (index) => pad + ((width - 2 * pad) * index) / Math.max(1, values.length - 1);
  const y = (value) => height - pad - ((height - 2 * pad) * (value - low)) / span;
  const points = values.map((value, index) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  const last = values.length - 1;
  return svg("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
    baseline === null ? "" : svg("line", { class: "baseline", x1: 0, x2: width, y1: y(baseline), y2: y(baseline) }),
    svg("polyline", { points }),
    svg("circle", { cx: x(last), cy: y(values[last]), r: 2.5 }));
}
