"""The frame and the style of a comparison page."""

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
