// Arrow keys in a heat map, which is one tab stop.
"use strict";
(() => {
  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

  const linkAt = (table, row, column) => table.rows[row]?.cells[column]?.querySelector("a");

  // The next link in a direction; up and down go on in the table before or after this one.
  function next(map, table, cell, [down, right]) {
    let row = cell.parentElement.rowIndex + down;
    let column = cell.cellIndex + right;
    while (table.rows[row]?.cells[column]) {
      const link = linkAt(table, row, column);
      if (link) return link;
      row += down;
      column += right;
    }
    if (!down) return null;
    const tables = [...map.querySelectorAll("table")];
    const links = [...(tables[tables.indexOf(table) + down]?.querySelectorAll("a") || [])];
    return down > 0 ? links[0] : links.at(-1);
  }

  function end(row, key) {
    const links = [...row.querySelectorAll("a")];
    return key === "Home" ? links[0] : links.at(-1);
  }

  document.addEventListener("keydown", (event) => {
    const cell = event.target.closest("[data-grid] td, [data-grid] th");
    if (!cell || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
    const map = cell.closest("[data-grid]");
    let link = null;
    if (STEPS[event.key]) link = next(map, cell.closest("table"), cell, STEPS[event.key]);
    else if (event.key === "Home" || event.key === "End") link = end(cell.parentElement, event.key);
    else return;
    event.preventDefault();
    if (link) link.focus();
  });

  // The cell that was used last is the one that the tab key comes to.
  document.addEventListener("focusin", (event) => {
    const map = event.target.closest("[data-grid]");
    if (!map || event.target.tagName !== "A") return;
    for (const stop of map.querySelectorAll('a[tabindex="0"]')) stop.tabIndex = -1;
    event.target.tabIndex = 0;
  });
})();
