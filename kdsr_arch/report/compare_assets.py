"""The frame, the style and the script of a comparison page. The address' hash holds its state: a link shows a view."""

from __future__ import annotations

BODY = r"""
<main id="compare">
<header><h1>TITLE</h1><p class="lead" id="lead"></p></header>
<div id="bar" role="toolbar" aria-label="View">
  <span class="group" id="modes" role="group" aria-label="Mode"></span>
  <label class="pick only-slider">left <select id="a"></select></label>
  <label class="pick only-slider">right <select id="b"></select></label>
  <label class="pick only-difference">against <select id="ref"></select></label>
  <label class="pick only-difference">gain <input id="gain" type="range" min="1" max="20" step="1">
    <output id="gain-value"></output></label>
  <span class="group" role="group" aria-label="Zoom"><button id="out" title="smaller (-)">&minus;</button>
  <output id="zoom"></output><button id="in" title="larger (+)">+</button><button id="fit" title="whole image (0)"
  >fit</button><button id="one" title="one pixel per pixel (1)">1:1</button></span>
  <span id="where"></span>
</div>
<div id="panes" tabindex="0" aria-label="Images: wheel zooms, dragging moves, arrow keys choose"></div>
<div id="lists">
  <section><div class="head"><h2>Images</h2>
    <label class="pick">metric <select id="metric"></select></label>
    <label class="pick">order <select id="order"><option value="worst">worst first</option>
      <option value="best">best first</option><option value="spread">largest differences first</option>
      <option value="name">by name</option></select></label></div>
    <div class="wide" id="rows-box"><table id="table"><thead><tr id="heads"></tr></thead><tbody id="rows"></tbody>
    </table></div><p class="lead" id="protocol"></p></section>
  <section><div class="head"><h2>Means over all images</h2></div><div class="wide"><table id="means"></table></div>
    <p class="lead">Wheel or pinch zooms at the pointer, dragging moves, all images together. Keys: &uarr; &darr; image,
    s slider, g side by side, d difference, 0 whole image, 1 pixel for pixel.</p></section>
</div>
</main>
"""

STYLE = r"""
#compare { max-width: 100rem; padding: 1.4rem 1.25rem 3rem; }
#compare header { display: flex; gap: 1rem; align-items: baseline; flex-wrap: wrap; }
#compare h1 { font-size: 1.35rem; margin: 0; } #compare .lead { margin: 0; font-size: 0.9rem; max-width: none; }
#bar { display: flex; flex-wrap: wrap; gap: 0.5rem 0.9rem; align-items: center; margin: 0.9rem 0 0.6rem;
  font-size: 0.88rem; }
.group { display: inline-flex; align-items: center; border: 1px solid var(--rule); border-radius: 7px;
  overflow: hidden; background: var(--card); }
.group button { all: unset; padding: 0.28rem 0.75rem; cursor: pointer; }
.group button:hover, .group button:focus-visible { color: var(--mark); }
.group button[aria-pressed="true"] { background: var(--mark); color: var(--paper); }
.group output { min-width: 3.6em; text-align: center; font-variant-numeric: tabular-nums; color: var(--faint); }
.pick { display: inline-flex; gap: 0.4rem; align-items: center; color: var(--faint); }
.pick select { font: inherit; color: var(--ink); background: var(--card); border: 1px solid var(--rule);
  border-radius: 7px; padding: 0.22rem 0.4rem; max-width: 16rem; }
.pick output { min-width: 2.2em; color: var(--ink); }
#where { margin-left: auto; color: var(--faint); }
[data-mode]:not([data-mode="slider"]) .only-slider, [data-mode]:not([data-mode="difference"]) .only-difference
  { display: none; }
#panes { display: grid; gap: 8px; outline: none; user-select: none; touch-action: none; }
.pane { position: relative; overflow: hidden; background: #101214; border-radius: 8px; cursor: grab; }
.pane:active { cursor: grabbing; }
.pane img, .pane canvas { position: absolute; left: 0; top: 0; transform-origin: 0 0; image-rendering: pixelated;
  max-width: none; pointer-events: none; }
.pane .label { position: absolute; left: 8px; bottom: 8px; z-index: 2; background: rgb(0 0 0 / 0.66); color: #fff;
  font-size: 0.8rem; padding: 0.15rem 0.5rem; border-radius: 5px; pointer-events: none;
  font-variant-numeric: tabular-nums; }
.pane .label.right { left: auto; right: 8px; }
.layer { position: absolute; inset: 0; pointer-events: none; }
.handle { position: absolute; top: 0; bottom: 0; width: 28px; margin-left: -14px; cursor: ew-resize; z-index: 3; }
.handle::before { content: ""; position: absolute; left: 13px; top: 0; bottom: 0; width: 2px; background: #fff;
  box-shadow: 0 0 4px rgb(0 0 0 / 0.7); }
.handle::after { content: "\2194"; position: absolute; left: 0; top: calc(50% - 14px); width: 28px; height: 28px;
  border-radius: 50%; background: #fff; color: #222; text-align: center; line-height: 27px; font-size: 16px;
  box-shadow: 0 0 5px rgb(0 0 0 / 0.5); }
.handle:focus-visible::after { outline: 3px solid var(--mark); }
#lists { display: grid; grid-template-columns: minmax(0, 5fr) minmax(0, 2fr); gap: 0 2.2rem; margin-top: 1.2rem; }
@media (max-width: 60rem) { #lists { grid-template-columns: minmax(0, 1fr); } }
.head { display: flex; flex-wrap: wrap; gap: 0.3rem 1rem; align-items: baseline; font-size: 0.88rem; }
.head h2 { border: 0; margin: 0; padding: 0; font-size: 1.02rem; margin-right: auto; }
#rows-box { max-height: 24rem; overflow: auto; margin: 0.5rem 0; } #lists .wide { margin: 0.5rem 0; }
#lists table { font-size: 0.86rem; } #lists td, #lists tbody th { padding: 0.25rem 0.6rem; }
#lists thead th { position: sticky; top: 0; z-index: 1; background: var(--paper); padding: 0; }
#means thead th { padding: 0.25rem 0.6rem; color: var(--faint); font-size: 0.82rem; }
#rows tr { cursor: pointer; } #rows tr.absent { cursor: default; opacity: 0.55; }
#rows tr[aria-selected="true"] { background: var(--wash); box-shadow: inset 3px 0 var(--mark); }
#rows td.top, #means td.top { font-weight: 650; color: var(--mark); }
#rows small { color: var(--faint); font-weight: 400; margin-left: 0.5em; }
"""

SCRIPT = r"""
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const MODES = { slider: "slider", grid: "side by side", difference: "difference" };
const state = { mode: "slider", item: 0, metric: data.metrics[0], order: "worst", sort: "", gain: 5, cut: 0.5,
  a: data.methods[0], b: data.columns[data.columns.length - 1], ref: data.reference, zoom: 0, x: 0.5, y: 0.5 };
if (state.a === state.b) state.b = data.methods[data.methods.length - 1];
const root = byId("compare");
const lower = (metric) => data.lower.includes(metric);
const numberOf = (value) => (value === "inf" ? Infinity : value === "-inf" ? -Infinity : Number(value));
const shown = (value, metric) => {
  if (value === undefined) return "-";
  const number = numberOf(value);
  return Number.isFinite(number) ? number.toFixed(metric.startsWith("psnr") || Math.abs(number) >= 10 ? 2 : 4)
    : String(value).replace("inf", "\u221e");
};
const element = (tag, attributes = {}, text = "") => {
  const made = document.createElement(tag);
  Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
  if (text) made.textContent = text;
  return made;
};
const current = () => data.items[state.item];

/* ---- state in the address ---- */
const KEPT = ["mode", "item", "metric", "order", "sort", "gain", "cut", "a", "b", "ref", "zoom", "x", "y"];
const remember = () => {
  const hash = new URLSearchParams(KEPT.map((key) => [key, state[key]]));
  try { history.replaceState(null, "", "#" + hash); } catch (error) { /* some viewers forbid it: no harm */ }
};
const recall = () => {
  new URLSearchParams(location.hash.slice(1)).forEach((value, key) => {
    if (KEPT.includes(key)) state[key] = typeof state[key] === "number" ? Number(value) : value;
  });
  if (!MODES[state.mode]) state.mode = "slider";
  if (!data.metrics.includes(state.metric)) state.metric = data.metrics[0];
  ["a", "b", "ref"].forEach((key) => { if (!data.methods.includes(state[key])) state[key] = data.methods[0]; });
  if (!current() || !current().images) state.item = -1;
};

/* ---- the table ---- */
const folders = data.items.map((item) => item.name.split("/").slice(0, -1));
const common = folders.length ? folders[0].findIndex((part, k) => folders.some((f) => f[k] !== part)) : 0;
const depth = common < 0 ? Math.min(...folders.map((f) => f.length)) : common;
const short = (name) => name.split("/").slice(depth).join("/");
const value = (item, method) => numberOf((item.values[state.metric] || {})[method]);
const spread = (item) => {
  const all = data.columns.map((method) => value(item, method)).filter(Number.isFinite);
  return all.length ? Math.max(...all) - Math.min(...all) : 0;
};
const compareNumbers = (a, b) => (a === b ? 0 : Number.isNaN(a) ? 1 : Number.isNaN(b) ? -1 : a - b);
const ordered = () => {
  const numbers = data.items.map((_, index) => index);
  const last = data.columns[data.columns.length - 1];
  const sign = lower(state.metric) ? -1 : 1;
  const [column, direction] = state.sort.split("|");
  const by = {
    worst: (i, j) => sign * compareNumbers(value(data.items[i], last), value(data.items[j], last)),
    best: (i, j) => -sign * compareNumbers(value(data.items[i], last), value(data.items[j], last)),
    spread: (i, j) => spread(data.items[j]) - spread(data.items[i]),
    name: (i, j) => data.items[i].name.localeCompare(data.items[j].name, undefined, { numeric: true }),
    column: (i, j) => (direction === "up" ? 1 : -1) * (column === "" ? by.name(i, j)
      : compareNumbers(value(data.items[i], column), value(data.items[j], column))),
  };
  const profile = (index) => (data.items[index].kind === "profile" ? 1 : 0);
  return numbers.sort((i, j) => profile(i) - profile(j) || (state.sort ? by.column : by[state.order])(i, j) || i - j);
};
const bestOf = (values, metric) => {
  const numbers = data.columns.map((method) => numberOf(values[method])).filter((n) => !Number.isNaN(n));
  const best = lower(metric) ? Math.min(...numbers) : Math.max(...numbers);
  return (method) => numbers.length > 1 && numberOf(values[method]) === best;
};
const drawHeads = () => {
  const [column, direction] = state.sort.split("|");
  byId("heads").replaceChildren(...["", ...data.columns].map((method, index) => {
    const active = state.sort && column === method;
    const head = element("th", { scope: "col",
      "aria-sort": active ? (direction === "up" ? "ascending" : "descending") : "none" });
    if (index) head.classList.add("number");
    const button = element("button", { type: "button" }, method || "image");
    button.addEventListener("click", () => {
      state.sort = `${method}|${active && direction === "down" ? "up" : "down"}`;
      draw();
    });
    head.append(button);
    return head;
  }));
};
const drawRow = (index) => {
  const item = data.items[index];
  const row = element("tr", { "data-item": index, "aria-selected": index === state.item });
  const name = element("th", { scope: "row" }, short(item.name));
  if (item.note) name.append(element("small", {}, item.note));
  if (!item.images) { row.classList.add("absent"); row.title = "measured, but its pictures are not on this page"; }
  row.append(name);
  const values = item.values[state.metric] || {};
  const best = bestOf(values, state.metric);
  data.columns.forEach((method) => {
    row.append(element("td", { class: best(method) ? "number top" : "number" }, shown(values[method], state.metric)));
  });
  if (item.images) row.addEventListener("click", () => { select(index); });
  return row;
};
const drawTable = () => {
  drawHeads();
  byId("rows").replaceChildren(...ordered().map(drawRow));
};
const drawMeans = () => {
  const head = element("tr");
  head.append(element("th"), ...data.metrics.map((metric) => element("th", { class: "number" }, metric)));
  const rows = data.columns.map((method) => {
    const row = element("tr");
    row.append(element("th", { scope: "row" }, method));
    data.metrics.forEach((metric) => {
      const values = data.means[metric] || {};
      row.append(element("td", { class: bestOf(values, metric)(method) ? "number top" : "number" },
        shown(values[method], metric)));
    });
    return row;
  });
  const top = element("thead"), body = element("tbody");
  top.append(head); body.append(...rows);
  byId("means").replaceChildren(top, body);
};

/* ---- the panes ---- */
const RAMP = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39],
  [252, 255, 164]];
const LUT = new Uint8ClampedArray(256 * 3);
for (let i = 0; i < 256; i += 1) {
  const at = (i / 255) * (RAMP.length - 1), low = Math.min(Math.floor(at), RAMP.length - 2), part = at - low;
  for (let c = 0; c < 3; c += 1) LUT[3 * i + c] = RAMP[low][c] * (1 - part) + RAMP[low + 1][c] * part;
}
const decoded = new Map();
const picture = (method) => {
  const key = `${state.item}|${method}`;
  if (!decoded.has(key)) {
    if (decoded.size > 64) decoded.clear();
    const image = new Image();
    image.src = current().images[method];
    decoded.set(key, image.decode().then(() => image));
  }
  return decoded.get(key);
};
const pixels = (image) => {
  const canvas = element("canvas", { width: image.naturalWidth, height: image.naturalHeight });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
};
const drawDifference = async (canvas, label, method) => {
  const [first, second] = await Promise.all([picture(method), picture(state.ref)]);
  const a = pixels(first), b = pixels(second), made = new ImageData(a.width, a.height);
  let sum = 0;
  for (let i = 0; i < a.data.length; i += 4) {
    const d = (Math.abs(a.data[i] - b.data[i]) + Math.abs(a.data[i + 1] - b.data[i + 1])
      + Math.abs(a.data[i + 2] - b.data[i + 2])) / 3;
    sum += d;
    const level = 3 * Math.min(255, Math.round(d * state.gain));
    made.data[i] = LUT[level]; made.data[i + 1] = LUT[level + 1]; made.data[i + 2] = LUT[level + 2];
    made.data[i + 3] = 255;
  }
  canvas.width = a.width; canvas.height = a.height;
  canvas.getContext("2d").putImageData(made, 0, 0);
  const mean = (4 * sum) / a.data.length;
  canvas.dataset.mean = mean.toFixed(4);
  label.textContent = `${caption(method)}  mean |difference| ${mean.toFixed(2)}`;
};
const caption = (method) => {
  const number = (current().values[state.metric] || {})[method];
  return number === undefined ? method : `${method}  ${shown(number, state.metric)}`;
};
const addImage = (parent, method) => {
  const image = element("img", { alt: `${current().name}: ${method}`, class: "view", "data-method": method });
  image.src = current().images[method];
  image.width = current().width; image.height = current().height;
  parent.append(image);
};
const makePane = (method) => {
  const pane = element("div", { class: "pane", "data-method": method });
  pane.append(element("span", { class: "label" }, caption(method)));
  if (state.mode === "difference") {
    const canvas = element("canvas", { class: "view" });
    pane.append(canvas);
    drawDifference(canvas, pane.firstChild, method);
  } else addImage(pane, method);
  return pane;
};
const makeSlider = () => {
  const pane = element("div", { class: "pane slider" });
  addImage(pane, state.b);
  const layer = element("div", { class: "layer" });
  addImage(layer, state.a);
  const handle = element("div", { class: "handle", tabindex: "0", role: "slider", "aria-label": "divide",
    "aria-valuemin": "0", "aria-valuemax": "100" });
  pane.append(layer, handle, element("span", { class: "label" }, caption(state.a)),
    element("span", { class: "label right" }, caption(state.b)));
  handle.addEventListener("pointerdown", (event) => {
    event.stopPropagation();
    handle.setPointerCapture(event.pointerId);
  });
  handle.addEventListener("pointermove", (event) => {
    if (!handle.hasPointerCapture(event.pointerId)) return;
    const box = pane.getBoundingClientRect();
    cutAt((event.clientX - box.left) / box.width);
  });
  handle.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.02, ArrowRight: 0.02 }[event.key];
    if (step) { cutAt(state.cut + step); event.preventDefault(); event.stopPropagation(); }
  });
  return pane;
};
const cutAt = (part) => {
  state.cut = Math.min(1, Math.max(0, part));
  place();
};
const columnsFor = (count) => {
  const aspect = current().width / current().height, width = root.clientWidth, height = stageHeight();
  let best = 1, size = 0;
  for (let n = 1; n <= count; n += 1) {
    const fits = Math.min(width / n / aspect, height / Math.ceil(count / n));
    if (fits > size * 1.001) { size = fits; best = n; }
  }
  return best;
};
const stageHeight = () => Math.max(window.innerHeight * 0.62, 320);
const drawPanes = () => {
  const panes = byId("panes");
  const methods = data.methods.filter((method) => state.mode !== "difference" || method !== state.ref);
  const count = state.mode === "slider" ? 1 : methods.length;
  const columns = columnsFor(count);
  panes.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
  panes.replaceChildren(...(state.mode === "slider" ? [makeSlider()] : methods.map(makePane)));
  const width = (panes.clientWidth - 8 * (columns - 1)) / columns;
  const rows = Math.ceil(count / columns);
  const height = Math.min((stageHeight() - 8 * (rows - 1)) / rows, width * current().height / current().width);
  panes.querySelectorAll(".pane").forEach((pane) => { pane.style.height = `${Math.max(height, 90)}px`; });
  place();
};

/* ---- zoom: the point (x, y) of the image, 0..1, is in the middle of every pane; zoom 0 fits ---- */
const fitScale = () => {
  const pane = document.querySelector(".pane");
  return Math.min(pane.clientWidth / current().width, pane.clientHeight / current().height);
};
const scale = () => state.zoom || fitScale();
const place = () => {
  const s = scale();
  document.querySelectorAll(".pane").forEach((pane) => {
    const left = pane.clientWidth / 2 - state.x * current().width * s;
    const top = pane.clientHeight / 2 - state.y * current().height * s;
    pane.querySelectorAll(".view").forEach((view) => {
      view.style.transform = `translate(${left}px, ${top}px) scale(${s})`;
    });
    const layer = pane.querySelector(".layer");
    if (layer) {
      layer.style.clipPath = `inset(0 ${100 * (1 - state.cut)}% 0 0)`;
      const handle = pane.querySelector(".handle");
      handle.style.left = `${100 * state.cut}%`;
      handle.setAttribute("aria-valuenow", Math.round(100 * state.cut));
    }
  });
  byId("zoom").textContent = `${Math.round(100 * s)} %`;
  remember();
};
const zoomBy = (factor, pane, clientX, clientY) => {
  const before = scale(), after = Math.min(Math.max(before * factor, fitScale() / 2), 64);
  if (pane) {
    const box = pane.getBoundingClientRect();
    const dx = clientX - box.left - box.width / 2, dy = clientY - box.top - box.height / 2;
    state.x += (dx / before - dx / after) / current().width;
    state.y += (dy / before - dy / after) / current().height;
  }
  state.zoom = after;
  bound();
  place();
};
const bound = () => { ["x", "y"].forEach((axis) => { state[axis] = Math.min(1, Math.max(0, state[axis])); }); };
const fit = () => { Object.assign(state, { zoom: 0, x: 0.5, y: 0.5 }); place(); };
const pointers = new Map();
const panesBox = byId("panes");
panesBox.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoomBy(Math.exp(-event.deltaY * 0.0018), event.target.closest(".pane"), event.clientX, event.clientY);
}, { passive: false });
panesBox.addEventListener("pointerdown", (event) => {
  pointers.set(event.pointerId, event);
  panesBox.setPointerCapture(event.pointerId);
});
panesBox.addEventListener("pointermove", (event) => {
  const last = pointers.get(event.pointerId);
  if (!last) return;
  if (pointers.size === 2) {
    const other = [...pointers.values()].find((p) => p.pointerId !== event.pointerId);
    const distance = (p) => Math.hypot(p.clientX - other.clientX, p.clientY - other.clientY);
    zoomBy(distance(event) / Math.max(distance(last), 1), document.querySelector(".pane"),
      (event.clientX + other.clientX) / 2, (event.clientY + other.clientY) / 2);
  } else {
    state.zoom = scale();
    state.x -= (event.clientX - last.clientX) / scale() / current().width;
    state.y -= (event.clientY - last.clientY) / scale() / current().height;
    bound();
    place();
  }
  pointers.set(event.pointerId, event);
});
["pointerup", "pointercancel"].forEach((name) => panesBox.addEventListener(name, (event) => {
  pointers.delete(event.pointerId);
}));

/* ---- the bar ---- */
const fillSelect = (id, values, then) => {
  const select = byId(id);
  if (values) select.replaceChildren(...values.map((text) => element("option", { value: text }, text)));
  select.value = state[id];
  select.addEventListener("change", () => { state[id] = select.value; if (then) then(); draw(); });
};
const setMode = (mode) => { state.mode = mode; draw(); };
const select = (index) => {
  const kind = current().kind;
  state.item = index;
  if (current().kind !== kind) Object.assign(state, { zoom: 0, x: 0.5, y: 0.5 });
  draw();
};
const move = (step) => {
  const order = ordered().filter((index) => data.items[index].images);
  const next = order[order.indexOf(state.item) + step];
  if (next !== undefined) {
    select(next);
    byId("rows").querySelector('[aria-selected="true"]').scrollIntoView({ block: "nearest" });
  }
};
const draw = () => {
  root.dataset.mode = state.mode;
  document.querySelectorAll("#modes button").forEach((button) => {
    button.setAttribute("aria-pressed", button.dataset.mode === state.mode);
  });
  byId("gain").value = state.gain;
  byId("gain-value").textContent = `\u00d7${state.gain}`;
  byId("where").textContent = [short(current().name), current().note].filter(Boolean).join(" \u00b7 ");
  drawTable();
  drawPanes();
};
recall();
if (state.item < 0) { state.item = 0; state.item = ordered().find((index) => data.items[index].images); }
else if (!location.hash.includes("item=")) state.item = ordered().find((index) => data.items[index].images);
Object.entries(MODES).forEach(([mode, text]) => {
  const button = element("button", { type: "button", "data-mode": mode }, text);
  button.addEventListener("click", () => setMode(mode));
  byId("modes").append(button);
});
fillSelect("a", data.methods);
fillSelect("b", data.methods);
fillSelect("ref", data.methods);
fillSelect("metric", data.metrics);
fillSelect("order", null, () => { state.sort = ""; });
byId("gain").addEventListener("input", (event) => { state.gain = Number(event.target.value); draw(); });
byId("in").addEventListener("click", () => zoomBy(1.5));
byId("out").addEventListener("click", () => zoomBy(1 / 1.5));
byId("fit").addEventListener("click", fit);
byId("one").addEventListener("click", () => { state.zoom = 1; place(); });
byId("lead").textContent = `${data.count} images; ${data.columns.join(", ")} against ${data.reference}`;
byId("protocol").textContent = data.protocol;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input")) return;
  const action = { ArrowDown: () => move(1), ArrowUp: () => move(-1), s: () => setMode("slider"),
    g: () => setMode("grid"), d: () => setMode("difference"), 0: fit, "+": () => zoomBy(1.5),
    "-": () => zoomBy(1 / 1.5), 1: () => { state.zoom = 1; place(); } }[event.key];
  if (action) { action(); event.preventDefault(); }
});
window.addEventListener("resize", drawPanes);
drawMeans();
draw();
const chosen = byId("rows").querySelector('[aria-selected="true"]');
if (chosen) byId("rows-box").scrollTop = Math.max(chosen.offsetTop - 120, 0);
"""
