// The page: tables that sort, plots, the slider of budgets, and runs that are filled in when they are opened.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const MARKERS = ["circle", "square", "diamond", "up", "down", "cross", "star"];
const CASCADE = "as a cascade, which looks again where its first answer is unsure";
const byId = id => document.getElementById(id);

function element(kind, properties = {}, ...children) {
  const made = Object.assign(document.createElement(kind), properties);
  made.append(...children);
  return made;
}

// ---- Tables -----------------------------------------------------------------------------------------------------
function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = element("button", {type: "button", textContent: head.textContent});
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const order = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach(h => h.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order === 1 ? "ascending" : "descending");
      const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const compare = (a, b) => {
        const x = value(a), y = value(b), empty = (x === "") - (y === "");
        if (empty) return empty;  // what is missing stands last in either order
        const numbers = x !== "" && y !== "" && !isNaN(x) && !isNaN(y);
        return order * (numbers ? x - y : x.localeCompare(y, "en", {numeric: true}));
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
    });
  });
}

// ---- Accuracy over cost -----------------------------------------------------------------------------------------
function accuracyCost(section, table) {
  const place = section.querySelector(".chart"), list = section.querySelector(".legend");
  const radios = [...section.querySelectorAll("input[type=radio]")];
  const draw = () => {
    const cost = radios.find(r => r.checked)?.value ?? "macs";
    const measured = table.networks.filter(n => n.points.length);
    const groups = [...new Set(measured.map(n => n.group))];
    const look = name => ({colour: `var(--s${groups.indexOf(name)})`, marker: MARKERS[groups.indexOf(name)]});
    const crowded = measured.length > groups.length;
    const along = points => points.filter(p => p[cost] !== null).map(p => ({
      x: p[cost], y: p.top1, bar: p.bar, star: p.budget === 1 && !p.small, small: p.small, tip: p.tip}))
      .sort((a, b) => a.x - b.x);
    const series = measured.map(n => ({
      name: n.group, ...look(n.group), dash: n.single ? "6 4" : "", hollow: n.single, faint: crowded,
      points: along([...n.points, ...n.between])}));
    const cascades = measured.filter(n => n.cascade.length).map(n => ({
      name: CASCADE, ...look(n.group), dash: "1 3", faint: crowded, points: along(n.cascade)}));
    const published = cost !== "macs" ? [] : table.published.map((p, i) => ({
      name: `${p.model}, published, a network a budget`, colour: "var(--grey)", dash: "2 4",
      marker: ["cross", "up", "down", "diamond", "square"][i % 5], hollow: i > 0,
      points: p.points.map(q => ({x: q[1], y: q[2],
        tip: `${p.model}, published\nbudget ${q[0]}: ${q[2].toFixed(2)} %\n` +
          `at ${count(q[1])} MACs, those of this network`}))}));
    const [low, high] = table.top1[cost];
    chart(place, {label: `Top-1 over ${{macs: "MACs", latency: "latency", budget: "budget"}[cost]}: ${table.title}`,
      y: {label: "top-1, %", low, high},
      x: {label: {macs: "MACs an image (mean)", latency: "latency, ms", budget: "budget"}[cost], zero: true,
        counts: cost === "macs"},
      series: [...published, ...series, ...cascades]});
    const shown = groups.map(g => series.find(s => s.name === g));
    const dotted = cascades.length ? [{name: CASCADE, colour: "var(--grey)", dash: "1 3", marker: null}] : [];
    legend(list, [...shown, ...dotted, ...published]);
  };
  radios.forEach(r => r.addEventListener("change", draw));
  draw();
}

// ---- Masks ------------------------------------------------------------------------------------------------------
function maskViewer() {
  const choice = byId("network"), slider = byId("budget"), said = byId("budget-said"), tiles = byId("tiles");
  let viewer = null;
  const paint = () => {
    const stop = viewer.stops[slider.value], all = stop.masks === null;
    const text = all ? "1, dense: every block everywhere" :
      stop.trained ? `${stop.budget}` : `${stop.budget}, between those that were trained`;
    said.textContent = text;
    slider.setAttribute("aria-valuetext", `budget ${text}`);
    [...tiles.children].forEach((tile, i) => {
      const masks = tile.querySelector(".masks");
      masks.classList.toggle("all", all);
      masks.style.backgroundImage = all ? "none" : `url(${stop.masks})`;
      const predicted = all ? null : stop.predictions[i], label = viewer.labels[i];
      const verdict = predicted === null ? "" : label === null ? `: ${predicted}` :
        predicted === label ? `: ✓ ${predicted}` : `: ✗ ${predicted}`;
      tile.querySelector("figcaption").textContent = `${label ?? `image ${i + 1}`}${verdict}`;
      tile.querySelector(".stack").setAttribute("aria-label",
        `where the network ran on image ${i + 1} at budget ${text}`);
    });
  };
  const open = () => {
    const before = viewer ? viewer.stops[slider.value].budget : null;
    viewer = DATA.viewers[choice.value];
    const at = viewer.stops.findIndex(s => s.budget === before);
    slider.max = viewer.stops.length - 1;
    slider.value = at >= 0 ? at : 0;
    byId("blocks").textContent = `${viewer.blocks}`;
    tiles.classList.toggle("photo", viewer.photo);
    tiles.replaceChildren(...Array.from({length: viewer.count}, (_, i) => {
      const part = kind => {
        const made = element("div", {className: `picture ${kind}`});
        made.style.cssText = `--strip: ${viewer.count * 100}%; aspect-ratio: ${viewer.ratio}; ` +
          `background-position: ${viewer.count > 1 ? i / (viewer.count - 1) * 100 : 0}% 0`;
        if (kind !== "masks") made.style.backgroundImage = `url(${DATA.images[viewer.images]})`;
        return made;
      };
      const image = part("image"), stack = element("div", {className: "stack"}, part("under"), part("masks"));
      for (const [made, label] of [[image, `image ${i + 1}`], [stack, ""]]) {
        made.setAttribute("role", "img");
        made.setAttribute("aria-label", label);
      }
      return element("figure", {}, element("div", {className: "pictures"}, image, stack), element("figcaption"));
    }));
    paint();
  };
  choice.addEventListener("change", open);
  slider.addEventListener("input", paint);
  open();
}

// ---- Runs -------------------------------------------------------------------------------------------------------
function fillRun(details) {
  if (details.dataset.filled) return;
  details.dataset.filled = "yes";
  const run = DATA.runs[details.dataset.run], body = details.querySelector(".run");
  const words = (settings, except) => Object.keys(settings).filter(k => !except || !(k in except)).sort()
    .map(k => `${k}=${settings[k]}`).join("\n");
  body.append(element("h3", {textContent: "Command"}), element("pre", {className: "command", tabIndex: 0,
    textContent: run.command}));
  if (run.note) body.append(element("p", {className: "absent", textContent: run.note}));
  if (run.made) body.append(element("p", {className: "soft", textContent: run.made}));
  const charts = element("div", {className: "pair"});
  body.append(charts);
  const add = (title, spec) => {
    if (!spec.series.some(s => s.points.length)) return;
    const place = element("div", {className: "chart"}), list = element("ul", {className: "legend"});
    charts.append(element("div", {}, element("h3", {textContent: title}), place, list));
    chart(place, {label: title, ...spec});
    legend(list, spec.series);
  };
  const colour = budget => `var(--b${DATA.budgets.indexOf(Number(budget))})`;
  const byBudget = ([a], [b]) => Number(a) - Number(b);  // a key "1" would come first
  const curves = key => Object.entries(run.curves).sort(byBudget).map(([budget, c]) => ({name: `budget ${budget}`,
    colour: colour(budget), points: c.epoch.map((e, i) => ({x: e, y: c[key][i]})).filter(p => p.y !== null)}));
  const epochs = {label: "epoch", whole: true};
  add("Top-1 by epoch", {x: epochs, y: {label: "top-1, %"}, series: curves("top1")});
  add("Conditional fraction by epoch", {x: epochs, y: {label: "conditional fraction", low: 0, high: 1.05},
    series: curves("fraction")});
  add(`Density of each block, mean of ${run.measured.toLocaleString("en")} images`, {x: {label: "block", whole: true},
    y: {label: "positions that ran, %", low: 0, high: 103},
    series: Object.entries(run.densities).sort(byBudget).map(([budget, values]) => ({
      name: `budget ${budget}`, colour: colour(budget),
      marker: "circle", points: values.map((v, i) => ({x: i + 1, y: 100 * v,
        tip: `block ${i + 1}, budget ${budget}\n${(100 * v).toFixed(1)} % of the positions`}))}))});
  if (Object.keys(run.settings).length && DATA.runs.length > 1)
    body.append(element("h3", {textContent: "Settings that are not the same in all runs"}),
      element("pre", {tabIndex: 0, textContent: words(run.settings)}));
  const rest = DATA.runs.length > 1 ? "Settings that all runs share" : "Settings";
  body.append(element("h3", {textContent: rest}), element("pre", {className: "config", tabIndex: 0,
    textContent: words(DATA.common)}));
}

function runList() {
  const all = [...document.querySelectorAll("details[data-run]")], filter = byId("filter"), shown = byId("shown");
  all.forEach(d => d.addEventListener("toggle", () => { if (d.open) fillRun(d); }));
  if (all.length === 1) all[0].open = true;
  filter?.addEventListener("input", () => {
    const wanted = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const details of all) {
      const run = DATA.runs[details.dataset.run];
      const settings = Object.entries(run.settings).map(s => s.join("=")).join(" ");
      run.text ??= `${details.textContent} ${settings}`.toLowerCase();
      details.hidden = !wanted.every(word => run.text.includes(word));
      left += !details.hidden;
    }
    shown.textContent = `${left} of ${all.length} runs`;
  });
}

document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("[data-table]").forEach(s => accuracyCost(s, DATA.tables[s.dataset.table]));
if (DATA.viewers.length) maskViewer();
runList();
