"""What the report page does in a browser: sort tables by a column, and hide rows. Without it, nothing is missing."""

from __future__ import annotations

import base64
import hashlib

SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], given = [...body.rows], heads = [...table.tHead.rows[0].cells];
  if (given.length < 2) continue;
  const button = (label, act) => {
    const made = document.createElement("button");
    made.type = "button"; made.append(label); made.onclick = act;
    return made;
  };
  const value = (row, column) => {
    const text = row.cells[column].innerText.trim();
    const number = text.replace("−", "-").replace(/,(?=\\d{3})/g, "").match(/^[+-]?\\d+(\\.\\d+)?(e[+-]?\\d+)?/);
    return number ? Number(number[0]) : text.toLowerCase();
  };
  const order = (a, b) => {
    if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
    return typeof a === "number" ? -1 : 1;
  };
  heads.forEach((head, column) => {
    const sort = button("", () => {
      const next = {none: "descending", descending: "ascending", ascending: "none"}[head.getAttribute("aria-sort")];
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", next);
      const sorted = [...given], sign = next === "descending" ? -1 : 1;
      if (next !== "none") sorted.sort((a, b) => sign * order(value(a, column), value(b, column)));
      body.append(...sorted);
    });
    sort.className = "sort"; sort.title = "Sort by this column";
    sort.append(...head.childNodes);
    head.setAttribute("aria-sort", "none");
    head.append(sort);
  });
  const hidden = () => given.filter((row) => row.hidden);
  const show = button("", () => { hidden().forEach((row) => { row.hidden = false; }); tell(); });
  const tell = () => {
    show.hidden = !hidden().length;
    show.textContent = `Show ${hidden().length} hidden row${hidden().length > 1 ? "s" : ""}`;
  };
  tell();
  table.parentNode.after(show);
  given.forEach((row) => {
    const hide = button("×", () => { row.hidden = true; tell(); show.focus(); });
    hide.className = "hide"; hide.title = "Hide this row";
    hide.setAttribute("aria-label", `Hide ${row.cells[0].innerText}`);
    row.cells[0].append(hide);
  });
}
"""

CSS = """
button { font: inherit; color: inherit; cursor: pointer; }
button:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.sort { all: unset; cursor: pointer; }
[aria-sort=descending] .sort::after { content: " ▼"; }
[aria-sort=ascending] .sort::after { content: " ▲"; }
.hide { border: 0; background: none; padding: 0 .4rem; opacity: 0; }
tr:hover .hide, .hide:focus-visible { opacity: 1; }
@media (hover: none) { .hide { opacity: .6; } }
@media print { .hide { display: none; } }
"""

# A browser runs a script that the page's policy names by this hash, and no other.
HASH = "sha256-" + base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
