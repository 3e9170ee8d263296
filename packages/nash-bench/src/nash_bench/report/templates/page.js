"use strict";
(() => {
  const root = document.documentElement;
  const button = document.querySelector("button.theme");
  const show = (theme) => { root.dataset.theme = theme; button.textContent = theme === "dark" ? "Light" : "Dark"; };
  show(root.dataset.theme);
  button.hidden = false;
  button.addEventListener("click", () => {
    const theme = root.dataset.theme === "dark" ? "light" : "dark";
    show(theme);
    try { localStorage.setItem("nash-theme", theme); } catch { /* a page from disk may have no storage */ }
  });

  const tip = document.getElementById("tip");
  const rowOf = (id) => document.getElementById(id);
  const pointsOf = (id) => document.querySelectorAll(`.point[data-row="${id}"]`);
  const mark = (id, isOn) => {
    for (const point of pointsOf(id)) point.classList.toggle("on", isOn);
    rowOf(id)?.classList.toggle("on", isOn);
  };
  const element = (name, text) => Object.assign(document.createElement(name), { textContent: text });
  const openTip = (point) => {
    const said = JSON.parse(point.dataset.tip);
    const list = document.createElement("dl");
    for (const [name, value] of said.lines) list.append(element("dt", name), element("dd", value));
    tip.replaceChildren(element("b", said.title), element("i", said.kind), list);
    tip.hidden = false;
    const at = point.querySelector(".mark").getBoundingClientRect(), size = tip.getBoundingClientRect();
    const right = at.right + 12, left = at.left - 12 - size.width;
    const x = right + size.width < innerWidth - 8 ? right : Math.max(8, left);
    const y = Math.min(Math.max(8, at.top + at.height / 2 - size.height / 2), innerHeight - size.height - 8);
    tip.style.left = `${x}px`;
    tip.style.top = `${y}px`;
    mark(point.dataset.row, true);
  };
  const closeTip = (point) => { tip.hidden = true; mark(point.dataset.row, false); };
  for (const point of document.querySelectorAll(".point")) {
    point.querySelector("title")?.remove(); // the richer tooltip takes its place
    point.addEventListener("pointerenter", () => openTip(point));
    point.addEventListener("pointerleave", () => closeTip(point));
    point.addEventListener("focus", () => openTip(point));
    point.addEventListener("blur", () => closeTip(point));
  }
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
  for (const row of document.querySelectorAll("tr[data-row]")) {
    row.addEventListener("pointerenter", () => mark(row.dataset.row, true));
    row.addEventListener("pointerleave", () => mark(row.dataset.row, false));
  }

  for (const link of document.querySelectorAll('a[href^="#n"]')) {
    link.addEventListener("click", () => {
      const target = document.getElementById(link.hash.slice(1));
      if (target instanceof HTMLDetailsElement) target.open = true;
    });
  }

  const filter = document.querySelector(".filter");
  filter.hidden = false;
  filter.querySelector("select").addEventListener("change", ({ target }) => {
    for (const shown of document.querySelectorAll("#published [data-dataset]")) {
      shown.hidden = target.value !== "" && shown.dataset.dataset !== target.value;
    }
  });

  const keyOf = (row, column) => {
    const cell = row.cells[column];
    if (!("sort" in cell.dataset)) return cell.textContent.trim();
    return cell.dataset.sort === "" ? null : Number(cell.dataset.sort);
  };
  const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    for (const [column, head] of heads.entries()) {
      head.querySelector("button").addEventListener("click", () => {
        const isAscending = head.ariaSort ? head.ariaSort !== "ascending" : !("descending" in head.dataset);
        for (const other of heads) other.ariaSort = null;
        head.ariaSort = isAscending ? "ascending" : "descending";
        const keyed = [...body.rows].map((row) => [keyOf(row, column), row]);
        keyed.sort(([a], [b]) => {
          if (a === null || b === null) return (a === null) - (b === null); // what is not known comes last, either way
          return isAscending ? order(a, b) : order(b, a);
        });
        body.append(...keyed.map(([, row]) => row));
      });
    }
  }
})();
