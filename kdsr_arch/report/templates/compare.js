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
const versus = data.truth ? "" : ` to ${data.reference}`;
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
  return (method) => data.truth && numbers.length > 1 && numberOf(values[method]) === best;
};
const drawHeads = () => {
  const [column, direction] = state.sort.split("|");
  byId("heads").replaceChildren(...["", ...data.columns].map((method, index) => {
    const active = state.sort && column === method;
    const head = element("th", { scope: "col",
      "aria-sort": active ? (direction === "up" ? "ascending" : "descending") : "none" });
    if (index) head.classList.add("number");
    const button = element("button", { type: "button" }, method ? method + versus : "image");
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
  const rows = data.means.flatMap((group) => data.columns.map((method) => {
    const row = element("tr");
    row.append(element("th", { scope: "row" }, [group.name, method + versus].filter(Boolean).join(": ")));
    data.metrics.forEach((metric) => {
      const values = group.values[metric] || {};
      row.append(element("td", { class: bestOf(values, metric)(method) ? "number top" : "number" },
        shown(values[method], metric)));
    });
    return row;
  }));
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
  return number === undefined ? method : `${method}  ${shown(number, state.metric)}${versus}`;
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
byId("lead").textContent = `${data.count} images; ${data.columns.join(", ")} against ${data.reference}`
  + (data.truth ? "" : ": no ground truth, so numbers tell how alike pictures are, not how good");
if (!data.truth) {
  ["least alike first", "most alike first"].forEach((text, k) => { byId("order").options[k].textContent = text; });
}
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
