// Builds elements. Whatever comes from a run becomes text: nothing here, or in the other files, ever parses markup.
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

let shapes = {};

export function learnShapes(known) {
  shapes = known;
}

// A status differs in shape as well as in color, and screen readers read its name.
export function stoplight(name) {
  if (!(name in shapes)) return el("span", { class: "light" });
  return el("span", { class: `light ${name}`, role: "img", "aria-label": name }, shapes[name]);
}

export function table(headings, rows) {
  return el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, headings.map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, rows)));
}

export function synthetic() {
  return el("span", { class: "tag" }, "SYNTHETIC");
}

export function percent(part) {
  return part === null ? "" : `${Math.floor(100 * part)} %`;
}

// The trend of a score and, dashed, the best baseline's level on the same scale.
export function sparkline(values, level) {
  const [width, height, pad] = [96, 26, 3];
  const known = level === null ? values : [...values, level];
  if (!values.length) return "";
  const low = Math.min(...known);
  const span = Math.max(...known) - low || 1;
  const x = (index) => pad + ((width - 2 * pad) * index) / Math.max(1, values.length - 1);
  const y = (value) => height - pad - ((height - 2 * pad) * (value - low)) / span;
  const points = values.map((value, index) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  const last = values.length - 1;
  return svg("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
    level === null ? "" : svg("line", { class: "level", x1: 0, x2: width, y1: y(level), y2: y(level) }),
    svg("polyline", { points }),
    svg("circle", { cx: x(last), cy: y(values[last]), r: 2.5 }));
}
