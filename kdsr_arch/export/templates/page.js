"use strict";
// Planes are Float32Arrays (C, h, w) in [0, 1]. What needs no page is reached as `kdsr` by the trial in Chromium.

const $ = (id) => document.getElementById(id);
const facts = JSON.parse($("facts").textContent);
const { scale, halo } = facts;
const channels = facts.color === "y" ? 1 : 3;
const [tileHeight, tileWidth] = facts.size;

const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

async function unpacked(id) {
  const stream = new Blob([bytesOf($(id).textContent)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

let opening;

/** Starts ONNX Runtime with what this page holds; once. */
function open() {
  opening ??= (async () => {
    const url = URL.createObjectURL(new Blob([await unpacked("runtime")], { type: "text/javascript" }));
    const ort = await import(url);
    ort.env.wasm.wasmBinary = (await unpacked("wasm")).buffer;
    ort.env.wasm.numThreads = 1; // more need a server that isolates the page
    ort.env.logLevel = "error";
    const session = await ort.InferenceSession.create(await unpacked("network"), { executionProviders: ["wasm"] });
    return { ort, session };
  })();
  return opening;
}

/** Where tiles of one side begin, so that they cover the length and overlap by twice the halo. */
function starts(length, side) {
  const places = [];
  for (let at = 0; at + side < length; at += side - 2 * halo) places.push(at);
  places.push(Math.max(0, length - side));
  return places;
}

/** One tile of the size that the network has; beyond the image its last pixels are repeated. */
async function restoreTile({ ort, session }, planes, width, height, left, top) {
  const data = new Float32Array(channels * tileHeight * tileWidth);
  let i = 0;
  for (let c = 0; c < channels; c++)
    for (let y = 0; y < tileHeight; y++) {
      const row = (c * height + Math.min(top + y, height - 1)) * width;
      for (let x = 0; x < tileWidth; x++) data[i++] = planes[row + Math.min(left + x, width - 1)];
    }
  const tensor = new ort.Tensor("float32", data, [1, channels, tileHeight, tileWidth]);
  return (await session.run({ [session.inputNames[0]]: tensor }))[session.outputNames[0]].data;
}

/** Restores an image in tiles; each gives what is at least a halo away from those of its edges inside the image. */
async function restore(planes, width, height, tell = () => {}) {
  const runtime = await open();
  const [W, H] = [width * scale, height * scale];
  const result = new Float32Array(channels * W * H);
  const [rows, columns] = [starts(height, tileHeight), starts(width, tileWidth)];
  let done = 0;
  for (const top of rows)
    for (const left of columns) {
      const tile = await restoreTile(runtime, planes, width, height, left, top);
      const [x0, y0] = [left ? halo : 0, top ? halo : 0];
      const [x1, y1] = [Math.min(tileWidth, width - left), Math.min(tileHeight, height - top)];
      for (let c = 0; c < channels; c++)
        for (let y = y0 * scale; y < y1 * scale; y++) {
          const from = (c * tileHeight * scale + y) * tileWidth * scale;
          const to = (c * H + top * scale + y) * W + left * scale;
          result.set(tile.subarray(from + x0 * scale, from + x1 * scale), to + x0 * scale);
        }
      tell(++done / (rows.length * columns.length));
      await new Promise((resolve) => setTimeout(resolve)); // the page shows it
    }
  return result;
}

// ------------------------------------------------------------------------------------------------ bicubic, as MATLAB's

function keys(x) {
  const a = Math.abs(x);
  if (a <= 1) return (1.5 * a - 2.5) * a * a + 1;
  return a < 2 ? ((-0.5 * a + 2.5) * a - 4) * a + 2 : 0;
}

/** The four LR pixels and weights of each enlarged one; borders are mirrored. */
function taps(length) {
  return Array.from({ length: length * scale }, (_, i) => {
    const center = (i + 0.5) / scale - 0.5;
    return [-1, 0, 1, 2].map((k) => {
      const at = Math.floor(center) + k;
      const mirrored = at < 0 ? -1 - at : at >= length ? 2 * length - 1 - at : at;
      return [Math.min(Math.max(mirrored, 0), length - 1), keys(center - at)];
    });
  });
}

/** Enlarges planes bicubically. */
function bicubic(planes, count, width, height) {
  const [W, H] = [width * scale, height * scale];
  const [across, down] = [taps(width), taps(height)];
  const tall = new Float32Array(count * H * width);
  for (let c = 0; c < count; c++)
    for (let y = 0; y < H; y++)
      for (const [from, weight] of down[y])
        for (let x = 0; x < width; x++)
          tall[(c * H + y) * width + x] += weight * planes[(c * height + from) * width + x];
  const result = new Float32Array(count * H * W);
  for (let row = 0; row < count * H; row++)
    for (let x = 0; x < W; x++) {
      let sum = 0;
      for (const [from, weight] of across[x]) sum += weight * tall[row * width + from];
      result[row * W + x] = sum;
    }
  return result;
}

// ------------------------------------------------------------------------------------------------------------ pictures

function planesOf(image) {
  const size = image.width * image.height;
  const planes = new Float32Array(3 * size);
  for (let i = 0; i < size; i++) for (let c = 0; c < 3; c++) planes[c * size + i] = image.data[4 * i + c] / 255;
  return planes;
}

function imageOf(planes, width, height) {
  const image = new ImageData(width, height);
  const size = width * height;
  for (let i = 0; i < size; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = Math.round(255 * planes[c * size + i]);
    image.data[4 * i + 3] = 255;
  }
  return image;
}

// BT.601 as in image files: luma from 16 / 255, chroma around 0
const LUMA = [65.481 / 255, 128.553 / 255, 24.966 / 255];

function lumaOf(rgb, size) {
  const luma = new Float32Array(size);
  for (let i = 0; i < size; i++)
    luma[i] = 16 / 255 + LUMA[0] * rgb[i] + LUMA[1] * rgb[size + i] + LUMA[2] * rgb[2 * size + i];
  return luma;
}

/** Upscales an ImageData; returns it bicubic and by the student. A student of luma leaves chroma bicubic. */
async function upscale(image, tell) {
  const { width, height } = image;
  const rgb = planesOf(image);
  const soft = bicubic(rgb, 3, width, height);
  const [W, H] = [width * scale, height * scale];
  let sharp;
  if (channels === 3) sharp = await restore(rgb, width, height, tell);
  else {
    const better = await restore(lumaOf(rgb, width * height), width, height, tell);
    const worse = lumaOf(soft, W * H);
    sharp = soft.slice();
    for (let i = 0; i < W * H; i++) {
      const gain = ((better[i] - worse[i]) * 255) / 219; // the same for R, G and B: chroma stays
      for (let c = 0; c < 3; c++) sharp[c * W * H + i] += gain;
    }
  }
  return [imageOf(soft, W, H), imageOf(sharp, W, H)];
}

// ------------------------------------------------------------------------------------------------------------ the page

function say(text, fault = false) {
  $("state").textContent = text;
  $("state").classList.toggle("fault", fault);
}

function pixelsOf(source, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // under what is transparent
  context.fillRect(0, 0, width, height);
  context.drawImage(source, 0, 0);
  return context.getImageData(0, 0, width, height);
}

let busy = false;
let saveName = "upscaled.png";

async function show(source, width, height, name) {
  if (busy) return;
  busy = true;
  try {
    if (width * height * scale ** 2 > 64e6) throw new Error("the result would be above 64 megapixels; crop the image");
    say("Starting ONNX Runtime ...");
    await open();
    const began = performance.now();
    const images = await upscale(pixelsOf(source, width, height), (part) => say(`${Math.round(100 * part)} %`));
    const seconds = ((performance.now() - began) / 1000).toFixed(2);
    ["before", "after"].forEach((id, i) => {
      $(id).width = images[i].width;
      $(id).height = images[i].height;
      $(id).getContext("2d").putImageData(images[i], 0, 0);
    });
    $("pair").style.setProperty("--most", `${2 * images[0].width}px`);
    saveName = `${name.replace(/\.[^.]*$/, "")}_x${scale}.png`;
    $("result").hidden = false;
    say(`${width}x${height} to ${images[0].width}x${images[0].height} in ${seconds} s, on one thread of the processor`);
  } catch (error) {
    say(`${name}: ${error.message}`, true);
  } finally {
    busy = false;
  }
}

async function take(file) {
  if (!file) return;
  const video = file.type.startsWith("video/");
  $("film").hidden = !video;
  if (video) {
    $("video").src = URL.createObjectURL(file);
    $("video").dataset.name = file.name;
    return say("Choose a frame, then upscale it.");
  }
  try {
    const bitmap = await createImageBitmap(file);
    await show(bitmap, bitmap.width, bitmap.height, file.name);
  } catch (error) {
    say(`${file.name}: is no image that this browser can read`, true);
  }
}

function cutAt(part) {
  $("cut").value = part;
  $("pair").style.setProperty("--cut", `${part}%`);
}

$("about").textContent =
  `${facts.label}: ${facts.network.type} x${scale} ` +
  `${channels === 1 ? "on luma" : "in RGB"}, beside bicubic. It runs in this page, in tiles of ${tileWidth}x${tileHeight}.`;
$("file").addEventListener("change", (event) => take(event.target.files[0]));
for (const kind of ["dragenter", "dragover", "dragleave", "drop"])
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files[0]);
  });
document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
$("drop").addEventListener("keydown", (event) => ["Enter", " "].includes(event.key) && $("file").click());
$("video").addEventListener("error", () => say(`${$("video").dataset.name}: is no video that this browser can play`, true));
$("frame").addEventListener("click", () => {
  const video = $("video");
  video.pause();
  if (video.videoWidth) show(video, video.videoWidth, video.videoHeight, video.dataset.name);
});
$("cut").addEventListener("input", () => cutAt($("cut").value));
$("pair").addEventListener("pointermove", (event) => {
  if (event.pointerType === "mouse" && !event.buttons) return;
  const box = $("before").getBoundingClientRect();
  cutAt(Math.min(Math.max((100 * (event.clientX - box.left)) / box.width, 0), 100));
});
$("fit").addEventListener("change", () => $("view").classList.toggle("fit", $("fit").checked));
$("view").classList.add("fit");
$("save").addEventListener("click", () =>
  $("after").toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = saveName;
    link.click();
  }),
);

/** Runs planes that come and go as base64, for the trial before this page was written. */
window.kdsr = {
  async restore(text, width, height) {
    const result = await restore(new Float32Array(bytesOf(text).buffer), width, height);
    const reader = new FileReader();
    const read = new Promise((resolve) => (reader.onload = resolve));
    reader.readAsDataURL(new Blob([result]));
    await read;
    return reader.result.split(",")[1];
  },
};
