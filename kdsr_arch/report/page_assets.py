"""The style and the script inside every page: no file beside it is needed."""

from __future__ import annotations

STYLE = r"""
:root { --paper: #fbfbfa; --ink: #22262b; --faint: #626973; --rule: #dfe2e6; --card: #ffffff; --mark: #0063a0;
  --wash: #eef4f8; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15181c; --ink: #e6e8eb; --faint: #9aa2ad; --rule: #31373f; --card: #1c2026; --mark: #7cc0ee;
    --wash: #1d2a35; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 3rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 0.4rem; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 0.5rem; padding-top: 1.1rem; border-top: 1px solid var(--rule); }
p { max-width: 46rem; margin: 0.5rem 0; }
.lead { color: var(--faint); font-size: 1.05rem; }
.finding { background: var(--wash); border-left: 3px solid var(--mark); border-radius: 0 6px 6px 0;
  padding: 0.8rem 1rem; margin: 1.2rem 0; max-width: none; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; color: var(--faint); font-size: 0.87rem; padding-top: 0.5rem; }
th, td { text-align: left; padding: 0.42rem 0.7rem; border-bottom: 1px solid var(--rule); white-space: nowrap; }
tbody th { font-weight: 600; }
.number, thead th.number button { text-align: right; }
thead th { padding: 0; border-bottom: 2px solid var(--rule); }
thead button { all: unset; box-sizing: border-box; width: 100%; padding: 0.42rem 0.7rem; cursor: pointer;
  color: var(--faint); font-size: 0.87rem; font-weight: 600; }
thead button:hover, thead button:focus-visible { color: var(--mark); }
thead button::after { content: "\2195"; opacity: 0.35; margin-left: 0.35em; }
th[aria-sort="ascending"] button::after { content: "\2191"; opacity: 1; }
th[aria-sort="descending"] button::after { content: "\2193"; opacity: 1; }
tbody tr:hover { background: var(--wash); }
figure { margin: 1.2rem 0; }
figure img { display: block; max-width: 100%; background: #fff; border: 1px solid var(--rule); border-radius: 8px;
  padding: 6px; cursor: zoom-in; }
figure img.full { max-width: none; cursor: zoom-out; }
figure { overflow-x: auto; }
figcaption { color: var(--faint); font-size: 0.87rem; margin-top: 0.45rem; max-width: 46rem; }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 0.8rem 1rem;
  overflow-x: auto; font-size: 0.85rem; line-height: 1.5; }
@media print { figure img { break-inside: avoid; } thead button::after { content: none; } }
"""

SCRIPT = r"""
"use strict";
const valueOf = (cell) => {
  const number = parseFloat(cell.textContent.replace(/,/g, ""));
  return Number.isNaN(number) ? cell.textContent.trim().toLowerCase() : number;
};
const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
document.querySelectorAll("table.sortable").forEach((table) => {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const cells = [...table.tBodies[0].rows].map((row) => row.cells[column]);
    if (cells.length && cells.every((cell) => cell.classList.contains("number"))) head.classList.add("number");
    head.firstElementChild.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      [...table.tBodies[0].rows]
        .sort((a, b) => sign * compare(valueOf(a.cells[column]), valueOf(b.cells[column])))
        .forEach((row) => table.tBodies[0].append(row));
    });
  });
});
document.querySelectorAll("figure img").forEach((image) => {
  const toggle = () => image.classList.toggle("full");
  image.addEventListener("click", toggle);
  image.addEventListener("keydown", (event) => { if (event.key === "Enter") toggle(); });
});
"""
