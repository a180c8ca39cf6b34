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
