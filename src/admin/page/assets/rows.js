// Rows of tables. A row is kept as long as its item is there, so that the keyboard's focus and the
// place of a screen reader survive an update.

// An element with a class and children; strings become text nodes.
export function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

// Shows one row for each item. `key` names an item; `fill(cells, item, row)` writes its cells.
export function show(body, items, columns, key, fill, empty) {
  const known = new Map();
  for (const row of [...body.children]) {
    if (row.dataset.key === undefined) row.remove();
    else known.set(row.dataset.key, row);
  }
  let place = body.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    let row = known.get(name);
    known.delete(name);
    if (!row) {
      row = element("tr");
      row.dataset.key = name;
      for (let column = 0; column < columns; column += 1) {
        row.append(element(column === 0 ? "th" : "td"));
      }
      row.firstElementChild.scope = "row";
    }
    if (row === place) place = place.nextElementSibling;
    else body.insertBefore(row, place);
    fill([...row.children], item, row);
  }
  for (const row of known.values()) row.remove();
  if (items.length === 0) {
    const cell = element("td", "empty", empty);
    cell.colSpan = columns;
    body.append(element("tr", "", cell));
  }
}

// Writes a text, if it has changed.
export function write(cell, text, className = "") {
  if (cell.textContent !== text) cell.textContent = text;
  if (cell.className !== className) cell.className = className;
}

// Writes several lines, each with a class.
export function lines(cell, rows) {
  const before = cell.dataset.lines;
  const now = JSON.stringify(rows);
  if (before === now) return;
  cell.dataset.lines = now;
  cell.replaceChildren(...rows.map(([text, className]) => element("div", className, text)));
}

// A button that stays the same element; `act` is called with the latest item.
export function button(cell, label, describedBy, act) {
  let made = cell.querySelector("button");
  if (!made) {
    made = element("button");
    made.type = "button";
    made.addEventListener("click", () => made.act());
    cell.append(made);
  }
  if (made.textContent !== label) made.textContent = label;
  made.setAttribute("aria-label", `${label} ${describedBy}`);
  made.act = act;
}
