// Rows of tables. A row is kept as long as its item is there, so that the keyboard's focus and the
// place of a screen reader survive an update.

// An element with a class and children; strings become text nodes.
export function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

// Shows one row for each item. `key` names an item; `fill(cells, item)` writes its cells; `hidden` is the
// number of items that are left out.
export function show(body, items, columns, key, fill, empty, hidden = 0) {
  const names = items.map((item) => String(key(item)));
  const wanted = new Set(names);
  const known = new Map();
  // First the rows that go: moving a row would take the focus from the button in it.
  for (const row of [...body.children]) {
    if (wanted.has(row.dataset.key)) known.set(row.dataset.key, row);
    else row.remove();
  }
  let place = body.firstElementChild;
  items.forEach((item, index) => {
    const row = known.get(names[index]) ?? newRow(names[index], columns);
    if (row === place) place = place.nextElementSibling;
    else body.insertBefore(row, place);
    fill([...row.children], item);
  });
  const note = items.length === 0 ? empty : hidden > 0 ? `and ${hidden} more` : null;
  if (note === null) return;
  const cell = element("td", "empty", note);
  cell.colSpan = columns;
  body.append(element("tr", "", cell));
}

function newRow(name, columns) {
  const row = element("tr");
  row.dataset.key = name;
  for (let column = 0; column < columns; column += 1) {
    row.append(element(column === 0 ? "th" : "td"));
  }
  row.firstElementChild.scope = "row";
  return row;
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

// Buttons that stay the same elements, one for each `[name, label, describedBy, act]`; `act` is called with
// the latest item.
export function buttons(cell, wanted) {
  const names = wanted.map(([name]) => name);
  for (const known of [...cell.children]) if (!names.includes(known.dataset.name)) known.remove();
  for (const [name, label, describedBy, act] of wanted) {
    let made = [...cell.children].find((known) => known.dataset.name === name);
    if (!made) {
      made = element("button");
      made.type = "button";
      made.dataset.name = name;
      made.addEventListener("click", (event) => event.currentTarget.act());
      cell.append(made);
    }
    if (made.textContent !== label) made.textContent = label;
    made.setAttribute("aria-label", `${label} ${describedBy}`);
    made.act = act;
  }
}
