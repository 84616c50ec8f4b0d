// Sorts a table by the column whose header is pressed; again turns it round.
"use strict";
document.querySelectorAll("table").forEach((table) => {
  const body = table.querySelector("tbody");
  const headers = [...table.querySelectorAll("thead th")];

  const compare = (one, two) => {
    const [a, b] = [one, two].map(Number);
    const numbers = one !== "" && two !== "" && !Number.isNaN(a) && !Number.isNaN(b);
    return numbers ? a - b : one.localeCompare(two, undefined, { numeric: true });
  };

  headers.forEach((header, column) => {
    const button = header.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const first = header.dataset.first || "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = header.getAttribute("aria-sort") === first ? other : first;
      const sign = order === "ascending" ? 1 : -1;
      const value = (row) => row.cells[column].dataset.value;
      const rows = [...body.rows].sort((one, two) => sign * compare(value(one), value(two)));
      body.append(...rows);
      headers.forEach((each) => each.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", order);
    });
  });
});
