// A line chart as inline SVG: hover, touch or arrow keys say what a point is. Drawn at the width of its place.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

function shape(kind, attributes, parent) {
  const made = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (parent) parent.append(made);
  return made;
}

const UNITS = [[1e12, " T"], [1e9, " G"], [1e6, " M"], [1e3, " k"], [1, ""]];
const unitOf = value => UNITS.find(([size]) => Math.abs(value) >= size) ?? [1, ""];

function count(value) {  // 41234567 -> "41.2 M"
  const [size, unit] = unitOf(value);
  return Number((value / size).toPrecision(size > 1 ? 3 : 4)) + unit;
}

function tickTexts(values, counts) {  // all in the unit of the largest, with the same number of decimals: 90.0, 90.5
  const [size, unit] = counts ? unitOf(Math.max(...values.map(Math.abs))) : [1, ""];
  const short = values.map(v => String(Number((v / size).toPrecision(6))));
  const decimals = Math.max(...short.map(text => (text.split(".")[1] ?? "").length));
  return short.map(text => text === "0" ? text : Number(text).toFixed(decimals) + unit);
}

function ticks(low, high, wanted, whole) {
  const raw = Math.max((high - low) / wanted || 1, whole ? 1 : 0), power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(f => f * power).find(s => s >= raw);
  const found = [];
  for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-9; t += step) found.push(t);
  return found;
}

function marker(kind, x, y, size, attributes, parent) {
  const corners = {
    square: [[-1, -1], [1, -1], [1, 1], [-1, 1]], diamond: [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]],
    up: [[0, -1.2], [1.2, 1], [-1.2, 1]], down: [[0, 1.2], [1.2, -1], [-1.2, -1]],
    star: [...Array(10).keys()].map(i => { const r = i % 2 ? 0.8 : 2, a = Math.PI * (i / 5 - 0.5);
      return [r * Math.cos(a), r * Math.sin(a)]; }),
    cross: [[-1.2, -.4], [-.4, -.4], [-.4, -1.2], [.4, -1.2], [.4, -.4], [1.2, -.4], [1.2, .4], [.4, .4], [.4, 1.2],
      [-.4, 1.2], [-.4, .4], [-1.2, .4]],
  }[kind];
  if (!corners) return shape("circle", {cx: x, cy: y, r: size, ...attributes}, parent);
  return shape("polygon", {points: corners.map(([a, b]) => `${x + a * size},${y + b * size}`).join(" "), ...attributes},
    parent);
}

// spec: {label, x: {label, zero, counts, whole, low, high}, y: {...}, series: [{name, colour, dash, hollow, marker,
// faint, points: [{x, y, tip, bar: [low, high], star, small}]}]}; points are drawn where a series has a marker.
function drawChart(place, spec) {
  const width = Math.max(280, Math.min(place.clientWidth || 700, 1000));
  const height = Math.max(220, Math.min(width * .55, 460));
  const left = 52, right = 14, top = 10, bottom = 44;
  const points = spec.series.flatMap(s => s.points);
  const range = (axis, key) => {
    const values = points.map(p => p[key]);
    let low = axis.low ?? (axis.zero ? 0 : Math.min(...values)), high = axis.high ?? Math.max(...values);
    if (low === high) { low -= 1; high += 1; }
    const room = .05 * (high - low);
    return [axis.zero || axis.low !== undefined ? low : low - room, axis.high !== undefined ? high : high + room];
  };
  place.querySelector("svg")?.remove();
  if (!points.length) return;
  const [x0, x1] = range(spec.x, "x"), [y0, y1] = range(spec.y, "y");
  const X = x => left + (x - x0) / (x1 - x0) * (width - left - right);
  const Y = y => height - bottom - (y - y0) / (y1 - y0) * (height - top - bottom);
  const svg = shape("svg", {viewBox: `0 0 ${width} ${height}`, height, role: "group", "aria-label": spec.label});
  const across = ticks(x0, x1, width / (spec.x.whole ? 40 : 90), spec.x.whole), up = ticks(y0, y1, height / 60);
  tickTexts(across, spec.x.counts).forEach((text, i) => {
    const x = X(across[i]);
    shape("line", {class: "grid", x1: x, x2: x, y1: top, y2: height - bottom}, svg);
    shape("text", {class: "x", x, y: height - bottom + 16, "text-anchor": "middle"}, svg).textContent = text;
  });
  tickTexts(up).forEach((text, i) => {
    const y = Y(up[i]);
    shape("line", {class: "grid", x1: left, x2: width - right, y1: y, y2: y}, svg);
    shape("text", {class: "y", x: left - 6, y: y + 4, "text-anchor": "end"}, svg).textContent = text;
  });
  shape("text", {x: (left + width) / 2, y: height - 8, "text-anchor": "middle"}, svg).textContent = spec.x.label;
  shape("text", {x: 12, y: height / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${height / 2})`}, svg)
    .textContent = spec.y.label;
  const marks = [];
  for (const s of spec.series) {
    shape("polyline", {points: s.points.map(p => `${X(p.x)},${Y(p.y)}`).join(" "), fill: "none", stroke: s.colour,
      "stroke-width": s.faint ? 1 : 2, "stroke-dasharray": s.dash || "none", opacity: s.faint ? .5 : 1}, svg);
    if (!s.marker) continue;
    for (const p of s.points) {
      if (p.bar && !s.faint) shape("path", {class: "bar", stroke: s.colour, "stroke-width": 1.5, fill: "none",
        d: `M${X(p.x)} ${Y(p.bar[0])}V${Y(p.bar[1])}` + p.bar.map(end => `M${X(p.x) - 4} ${Y(end)}h8`).join("")}, svg);
      const made = marker(p.star ? "star" : s.marker, X(p.x), Y(p.y), p.small ? 2 : s.faint ? 3 : 4.5, {class: "point",
        fill: s.hollow && !p.star ? "var(--page)" : s.colour, stroke: s.colour, "stroke-width": 1.5,
        tabindex: marks.length ? -1 : 0, role: "img", "aria-label": p.tip.replaceAll("\n", ", ")}, svg);
      made.report = {left: X(p.x) / width, top: Y(p.y) / height, text: p.tip};
      marks.push(made);
    }
  }
  place.prepend(svg);
  hover(place, marks);
}

function hover(place, marks) {
  place.querySelector(".tip")?.remove();
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  place.append(tip);
  const show = mark => {
    const box = place.querySelector("svg").getBoundingClientRect(), {left, top, text} = mark.report;
    tip.textContent = text;
    tip.hidden = false;
    tip.style.left = `${Math.max(0, Math.min(left * box.width + 12, box.width - tip.offsetWidth))}px`;
    tip.style.top = `${Math.max(0, top * box.height - tip.offsetHeight - 8)}px`;
  };
  marks.forEach((mark, index) => {
    mark.addEventListener("pointerenter", () => show(mark));
    mark.addEventListener("pointerleave", () => { tip.hidden = true; });
    mark.addEventListener("focus", () => show(mark));
    mark.addEventListener("blur", () => { tip.hidden = true; });
    mark.addEventListener("keydown", event => {
      const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
      if (event.key === "Escape") tip.hidden = true;
      if (!step) return;
      event.preventDefault();
      marks[(index + step + marks.length) % marks.length].focus();
    });
  });
}

// Draw now, and again whenever the width changes.
function chart(place, spec) {
  place.spec = spec;
  drawChart(place, spec);
  if (place.watched) return;
  let width = place.clientWidth;
  place.watched = new ResizeObserver(() => {
    if (Math.abs(place.clientWidth - width) > 4) { width = place.clientWidth; drawChart(place, place.spec); }
  });
  place.watched.observe(place);
}

function legend(list, series) {
  list.replaceChildren(...series.map(s => {
    const item = document.createElement("li"), svg = shape("svg", {viewBox: "0 0 34 12", "aria-hidden": "true"});
    shape("line", {x1: 0, x2: 34, y1: 6, y2: 6, stroke: s.colour, "stroke-width": 2,
      "stroke-dasharray": s.dash || "none"}, svg);
    if (s.marker) marker(s.marker, 17, 6, 4, {fill: s.hollow ? "var(--page)" : s.colour, stroke: s.colour}, svg);
    item.append(svg, s.name);
    return item;
  }));
}
