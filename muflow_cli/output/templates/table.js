// ---- the table

function show(printed = false) {
  const passing = printed && by("print-rows").value === "flagged"
    ? chosen().filter((row) => row.verdict === "flagged") : chosen();
  const pages = Math.max(1, Math.ceil(passing.length / state.size));
  if (!printed) state.page = Math.min(state.page, pages - 1);
  const first = state.page * state.size;
  const part = printed ? passing : passing.slice(first, first + state.size);
  by("rows").replaceChildren(...part.map(tableRow));
  by("row-count").textContent = `${passing.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} inputs`
    + (printed && by("print-rows").value === "flagged" ? ", the flagged ones" : "")
    + (passing.length > part.length ? `, rows ${first + 1}–${first + part.length} shown` : "");
  by("page-number").textContent = `Page ${state.page + 1} of ${pages}`;
  for (const id of ["page-first", "page-previous"]) by(id).disabled = state.page === 0;
  for (const id of ["page-next", "page-last"]) by(id).disabled = state.page === pages - 1;
  for (const head of document.querySelectorAll("th[data-key]")) {
    head.setAttribute("aria-sort", head.dataset.key === state.key ? state.order : "none");
  }
  by("sort-key").value = state.key;
  by("sort-order").value = state.order;
}

function change(changes) {
  Object.assign(state, { page: 0 }, changes);
  show();
}

function turn(page) {
  state.page = page;
  show();
  by("images").scrollIntoView();
}

function cell(label, className, ...children) {
  const made = element("td", { className }, ...children);
  if (label) made.dataset.label = label;
  return made;
}

function thumbnail(row) {
  const inside = row.thumbnail
    ? element("img", { src: row.thumbnail, alt: "", loading: "lazy", decoding: "async", width: 64, height: 64 })
    : row.error ? "why" : "details";
  const button = element("button", { type: "button", className: "thumbnail" }, inside);
  const what = row.heat ? "heat map and details" : "details";
  button.setAttribute("aria-label", `Show ${what} for ${row.path}`);
  button.addEventListener("click", () => open(row));
  return button;
}

function remarks(row) {
  const parts = [];
  if (row.error) parts.push(`${words(row.error.code)}: ${row.error.message}`);
  if (row.calibration && row.calibration !== "matched") parts.push(`calibration: ${row.calibration}`);
  if (row.duplicate_of !== undefined) parts.push("duplicate");
  const faces = row.faces || [];
  if (faces.length > 1) parts.push(`${faces.length} faces, ${faces.filter((face) => face.verdict === "flagged").length} flagged`);
  if (row.faces_left_out) parts.push(`${row.faces_left_out} ${row.faces_left_out === 1 ? "face" : "faces"} not scored`);
  if (row.damaged) parts.push("damaged");
  return parts.map((part) => element("div", { className: "detail", textContent: part }));
}

function badges(row) {
  const made = [];
  const badge = (kind, text) => made.push(element("span", { className: `badge ${kind}`, textContent: text }));
  if (row.atypical_input) badge("is-atypical", `atypical ${words(row.atypical_input.join(", "))}`);
  if (origin(row) !== "none") {
    badge(`says-${origin(row)}`, { camera: "names a camera", edited: "declared edited", synthetic: "declared synthetic" }[origin(row)]);
  }
  if (noteOf(row).reviewed) badge("is-reviewed", "reviewed");
  return made;
}

function size(row) {
  return row.format ? `${row.format}, ${row.width} × ${row.height}` : "";
}

function named(row) {
  const lines = [element("bdi", { className: "path", textContent: row.path }), element("div", { className: "detail", textContent: size(row) })];
  if (row.group !== undefined) lines.push(element("div", { className: "detail" }, "group ", element("bdi", { textContent: row.group })));
  if (noteOf(row).text) lines.push(element("div", { className: "detail note" }, "note: ", element("bdi", { textContent: noteOf(row).text })));
  return element("div", {}, ...lines);
}

function tableRow(row) {
  const verdict = element("span", { className: `verdict is-${row.verdict.replace("_", "-")}`, textContent: words(row.verdict) });
  const cells = [
    cell("", "number", element("a", { href: `#image-${row.index}`, textContent: String(row.index) })),
    cell("", "", element("div", { className: "image" }, thumbnail(row), named(row))),
    cell("Verdict", "judged", verdict, ...badges(row), ...remarks(row)),
    cell("Tail", "tail", tail(row)),
    cell("p-value", "number", decimal(row.p_value)),
  ];
  if (document.querySelector('th[data-key="adaptive_p_value"]')) cells.push(cell("adaptive p", "number", decimal(row.adaptive_p_value)));
  if (document.querySelector('th[data-key="weighted_p_value"]')) cells.push(cell("weighted p", "number", decimal(row.weighted_p_value)));
  if (document.querySelector('th[data-key="q_value"]')) cells.push(cell("q-value", "number", decimal(row.q_value)));
  cells.push(cell("Score", "number", decimal(row.score)));
  columns.forEach((column, at) => cells.push(cell(column, "number of-column", decimal(row[`column-${at}`]))));
  const made = element("tr", { className: row.verdict === "flagged" ? "flagged" : "" }, ...cells);
  made.dataset.index = row.index;
  return made;
}

function tail(row) {
  return row.tail ? { high: "▲ high", low: "▼ low" }[row.tail] : "–";
}

