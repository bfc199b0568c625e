
"use strict";
// Headers of sortable tables become buttons: the first press sorts upwards, so that the worst class comes first.
const byName = new Intl.Collator(undefined, { numeric: true }).compare;
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const isUp = header.getAttribute("aria-sort") !== "ascending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", isUp ? "ascending" : "descending");
      const isName = column === 0 || header.classList.contains("name");
      const keyed = [...table.tBodies[0].rows].map((row) => {
        const text = row.cells[column].textContent;
        const number = parseFloat(text.replaceAll(",", ""));
        return [row, isName ? text : Number.isNaN(number) ? -Infinity : number];
      });
      const compare = isName ? byName : (a, b) => (a > b) - (a < b);
      keyed.sort((a, b) => (isUp ? 1 : -1) * compare(a[1], b[1]));
      table.tBodies[0].append(...keyed.map(([row]) => row));
    });
  });
}
