"use strict";
(() => {
  const { rows, columns } = JSON.parse(document.getElementById("data").textContent);
  const by = (id) => document.getElementById(id);
  const state = { key: "index", order: "ascending", text: "", verdict: "", tail: "", atypical: "", origin: "", group: "", page: 0, size: 50 };
  const collator = new Intl.Collator("en", { numeric: true });

  // Rows hold only known values; what cells, filters and sorting need besides is added here once.
  rows.forEach((row, index) => {
    row.index = index + 1;
    row.verdict = row.error ? "unreadable" : row.verdict;
    row.lowerPath = row.path.toLowerCase();
    (row.column_scores || []).forEach((score, at) => { row[`column-${at}`] = score; });
  });

  function element(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  function decimal(value, digits = 4) {
    if (value === undefined) return "–";
    const small = value !== 0 && Math.abs(value) < 0.5 * 10 ** -digits;
    return (small ? value.toExponential(1) : value.toFixed(digits)).replaceAll("-", "−");
  }

  // ---- filter, sort, page

  function compare(a, b) {
    const [x, y] = [a[state.key], b[state.key]];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    const difference = typeof x === "number" ? x - y : collator.compare(x, y);
    return state.order === "ascending" ? difference : -difference;
  }

  function chosen() {
    const passing = rows.filter((row) => row.lowerPath.includes(state.text)
      && (!state.verdict || row.verdict === state.verdict) && (!state.tail || row.tail === state.tail) && (!state.origin || origin(row) === state.origin)
      && (!state.atypical || (row.atypical_input ? "yes" : row.p_value === undefined ? "" : "no") === state.atypical)
      && (!state.group || row.group === state.group));
    return passing.sort(compare); // stable: ties stay in the order of the inputs
  }

  function show(everything = false) {
    const passing = chosen();
    const pages = Math.max(1, Math.ceil(passing.length / state.size));
    state.page = Math.min(state.page, pages - 1);
    const first = state.page * state.size;
    const part = everything ? passing : passing.slice(first, first + state.size);
    by("rows").replaceChildren(...part.map(tableRow));
    by("row-count").textContent = `${passing.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} inputs`
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

  function words(verdict) {
    return verdict.replaceAll("_", " ");
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

  // ---- one row

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
    if (row.error) parts.push(`${row.error.code}: ${row.error.message}`);
    if (row.calibration && row.calibration !== "matched") parts.push(`calibration: ${row.calibration}`);
    if (row.duplicate_of !== undefined) parts.push("duplicate");
    const faces = row.faces || [];
    if (faces.length > 1) parts.push(`${faces.length} faces, ${faces.filter((face) => face.verdict === "flagged").length} flagged`);
    if (row.faces_left_out) parts.push(`${row.faces_left_out} ${row.faces_left_out === 1 ? "face" : "faces"} not scored`);
    if (row.damaged) parts.push("damaged");
    return parts.map((part) => element("div", { className: "detail", textContent: part }));
  }

  function origin(row) {
    return row.declared ? row.declared.origin : "none";
  }

  function badges(row) {
    const outside = row.atypical_input
      ? [element("span", { className: "badge is-atypical", textContent: `atypical ${row.atypical_input.join(", ").replaceAll("_", " ")}` })] : [];
    if (origin(row) === "none") return outside;
    return [...outside, element("span", { className: `badge says-${origin(row)}`, textContent: { camera: "names a camera", edited: "declared edited", synthetic: "declared synthetic" }[origin(row)] })];
  }

  function size(row) {
    return row.format ? `${row.format}, ${row.width} × ${row.height}` : "";
  }

  function tableRow(row) {
    const name = element("div", {}, element("bdi", { className: "path", textContent: row.path }),
      element("div", { className: "detail", textContent: size(row) }),
      ...(row.group === undefined ? [] : [element("div", { className: "detail" }, "group ", element("bdi", { textContent: row.group }))]));
    const verdict = element("span", { className: `verdict is-${row.verdict.replace("_", "-")}`, textContent: words(row.verdict) });
    const cells = [
      cell("", "number", String(row.index)),
      cell("", "", element("div", { className: "image" }, thumbnail(row), name)),
      cell("Verdict", "", verdict, ...badges(row), ...remarks(row)),
      cell("Tail", "tail", tail(row)),
      cell("p-value", "number", decimal(row.p_value)),
    ];
    if (document.querySelector('th[data-key="adaptive_p_value"]')) cells.push(cell("adaptive p", "number", decimal(row.adaptive_p_value)));
    if (document.querySelector('th[data-key="weighted_p_value"]')) cells.push(cell("weighted p", "number", decimal(row.weighted_p_value)));
    if (document.querySelector('th[data-key="q_value"]')) cells.push(cell("q-value", "number", decimal(row.q_value)));
    cells.push(cell("Score", "number", decimal(row.score)));
    columns.forEach((column, at) => cells.push(cell(column, "number", decimal(row[`column-${at}`]))));
    return element("tr", { className: row.verdict === "flagged" ? "flagged" : "" }, ...cells);
  }

  function tail(row) {
    return row.tail ? { high: "▲ high", low: "▼ low" }[row.tail] : "–";
  }

  // ---- the exhibit: image, heat map, facts

  // Magma (Smith & van der Walt, 2015): lightness rises evenly, so that it reads without colour vision too.
  const RAMP = ["#000004", "#3b0f70", "#8c2981", "#de4968", "#fe9f6d", "#fcfdbf"]
    .map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  const maps = rows.flatMap((row) => [row, ...(row.faces || [])]).filter((part) => part.heat).map((part) => part.heat);
  const whole = { low: Math.min(...maps.map((map) => map.low)), high: Math.max(...maps.map((map) => map.high)) };
  let shown = null;
  let span = "image";

  function colour(share) {
    const position = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1);
    const [from, to] = [RAMP[Math.floor(position)], RAMP[Math.ceil(position)]];
    const part = position - Math.floor(position);
    return `rgb(${from.map((value, at) => Math.round(value + part * (to[at] - value))).join(" ")})`;
  }

  function drawn(name, attributes) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  function rectangle(x, y, fill) {
    const made = drawn("rect", {});
    // A hair wider than the cell: no seam between neighbours.
    for (const [name, value] of Object.entries({ x, y, width: 1.01, height: 1.01, fill })) made.setAttribute(name, value);
    return made;
  }

  function heatCells({ side, low, high, levels }, range) {
    return Array.from(atob(levels), (letter, at) => {
      const value = low + (letter.charCodeAt(0) / 255) * (high - low);
      return rectangle(at % side, Math.floor(at / side), colour((value - range.low) / (range.high - range.low || 1)));
    });
  }

  function paint() {
    const { side, low, high } = shown.heat;
    const range = span === "image" ? { low, high } : whole;
    by("exhibit-heat").setAttribute("viewBox", `0 0 ${side} ${side}`);
    by("exhibit-heat").replaceChildren(...heatCells(shown.heat, range));
    by("heat-low").textContent = decimal(range.low, 2);
    by("heat-high").textContent = decimal(range.high, 2);
    by("span-image").setAttribute("aria-pressed", String(span === "image"));
    by("span-report").setAttribute("aria-pressed", String(span === "report"));
  }

  function facts(row) {
    const parts = [["Verdict", words(row.verdict)], ["Tail", row.tail && tail(row)], ["p-value", row.p_value !== undefined && decimal(row.p_value, 6)],
      ["Adaptive p-value", row.adaptive_p_value !== undefined && decimal(row.adaptive_p_value, 6)],
      ["Weighted p-value", row.weighted_p_value !== undefined && decimal(row.weighted_p_value, 6)],
      ["q-value", row.q_value !== undefined && decimal(row.q_value, 6)], ["Score", row.score !== undefined && decimal(row.score, 6)]];
    (row.column_scores || []).forEach((score, at) => parts.push([`Score, ${columns[at] || at + 1}`, decimal(score, 6)]));
    parts.push(["Heaviest column", row.heaviest], ["Calibration", row.calibration], ["Stratum", row.stratum],
      ["Atypical", row.atypical_input && row.atypical_input.join(", ")], ["Group", row.group], ["Duplicate of", row.duplicate_of],
      ["Unreadable because", row.error && `${row.error.code}: ${row.error.message}`], ["Format", size(row)],
      ["Bytes", row.bytes !== undefined && row.bytes.toLocaleString("en")], ["JPEG quality", row.jpeg_quality],
      ["Faces", row.faces && row.faces.length], ["Faces not scored", row.faces_left_out || undefined],
      ["Sharpness", row.sharpness !== undefined && decimal(row.sharpness, 2)],
      ["Damaged", row.damaged && (row.missing === undefined ? "yes" : `yes, about ${Math.round(100 * row.missing)} % is missing`)], ["SHA-256", row.sha256]);
    return parts.filter(([, value]) => value !== undefined && value !== false && value !== "").flatMap(([name, value]) => [
      element("dt", { textContent: name }), element("dd", {}, element(name === "SHA-256" ? "code" : "span", { textContent: value }))]);
  }

  // ---- faces: their boxes over the image, and each aligned face beside its heat map

  function boxes() {
    const image = by("exhibit-image");
    const faces = shown.faces || [];
    by("exhibit-boxes").toggleAttribute("hidden", !faces.length || !shown.thumbnail);
    if (!faces.length || !image.naturalWidth) return;
    // The thumbnail is upright and so are the boxes; width and height are as stored, perhaps turned by a quarter.
    const scale = Math.max(shown.width, shown.height) / Math.max(image.naturalWidth, image.naturalHeight);
    by("exhibit-boxes").setAttribute("viewBox", `0 0 ${image.naturalWidth * scale} ${image.naturalHeight * scale}`);
    by("exhibit-boxes").replaceChildren(...faces.flatMap((face, at) => {
      const [left, top, right, bottom] = face.box;
      const size = Math.max(14 * scale * image.naturalWidth / 384, (right - left) / 6);
      const label = drawn("text", { x: left, y: top - size / 4, "font-size": size });
      label.textContent = String(at + 1);
      return [drawn("rect", { x: left, y: top, width: right - left, height: bottom - top, class: `box is-${face.verdict.replace("_", "-")}` }), label];
    }));
  }

  function faceFigure(face, at) {
    const stage = element("div", { className: "stage" });
    if (face.thumbnail) stage.append(element("img", { src: face.thumbnail, alt: `Face ${at + 1}, aligned`, width: 128, height: 128 }));
    const pictures = element("div", { className: "pair" }, stage);
    if (face.heat) {
      const heat = drawn("svg", { viewBox: `0 0 ${face.heat.side} ${face.heat.side}`, role: "img", "aria-label": `Heat map of face ${at + 1}` });
      heat.append(...heatCells(face.heat, whole));
      pictures.append(heat);
    }
    const [left, top, right, bottom] = face.box.map(Math.round);
    const lines = [`p-value ${decimal(face.p_value, 6)}, ${tail(face)}, score ${decimal(face.score, 4)}`,
      `${right - left} × ${bottom - top} px at ${left}, ${top}, confidence ${decimal(face.confidence, 2)}`,
      ...(face.atypical_input && face.atypical_input.length ? [`atypical: ${face.atypical_input.join(", ").replaceAll("_", " ")}`] : [])];
    return element("figure", {}, pictures, element("figcaption", {},
      element("span", { className: `verdict is-${face.verdict.replace("_", "-")}`, textContent: `Face ${at + 1}: ${words(face.verdict)}` }),
      ...lines.map((text) => element("div", { className: "detail", textContent: text }))));
  }

  // What a file says is text from outside: it only ever becomes textContent.
  function marks(row) {
    const found = (row.declared && row.declared.marks) || [];
    const heading = element("h3", { textContent: "What the file says of itself" });
    if (!found.length) return [heading, element("p", { className: "detail", textContent: "Nothing, which is no evidence of any origin." })];
    return [heading, element("dl", {}, ...found.flatMap((mark) => [
      element("dt", { textContent: words(mark.kind) }),
      element("dd", {}, element("div", { textContent: `${mark.claim === "none" ? "no claim" : mark.claim}, ${words(mark.trust)}` }),
        ...Object.entries(mark.detail).map(([name, value]) => element("div", { className: "detail" }, `${name}: `, element("bdi", { textContent: value }))))]))];
  }

  function open(row) {
    shown = row;
    by("exhibit-title").replaceChildren(element("bdi", { textContent: row.path }));
    by("exhibit-image").hidden = !row.thumbnail;
    if (row.thumbnail) by("exhibit-image").src = row.thumbnail;
    by("exhibit-image").alt = `Thumbnail of ${row.path}`;
    document.querySelector(".stage").classList.toggle("bare", !row.thumbnail);
    document.querySelector(".view").hidden = !row.thumbnail && !row.heat;
    document.querySelector(".exhibit-body").classList.toggle("alone", !row.thumbnail && !row.heat);
    by("exhibit-heat").toggleAttribute("hidden", !row.heat);
    by("heat-controls").hidden = !row.heat;
    by("heat-none").hidden = Boolean(row.heat);
    if (row.heat) paint();
    boxes();
    by("exhibit-faces").replaceChildren(...(row.faces || []).map(faceFigure));
    by("heat-none").hidden = Boolean(row.heat) || Boolean((row.faces || []).length);
    by("exhibit-facts").replaceChildren(...facts(row));
    by("exhibit-marks").replaceChildren(...marks(row));
    by("exhibit").showModal();
  }

  function strength() {
    by("exhibit-heat").setAttribute("opacity", by("heat-strength").value / 100);
  }

  // ---- wiring

  document.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());
  by("filter-text").addEventListener("input", (event) => change({ text: event.target.value.toLowerCase() }));
  by("filter-verdict").addEventListener("change", (event) => change({ verdict: event.target.value }));
  by("filter-tail").addEventListener("change", (event) => change({ tail: event.target.value }));
  by("filter-origin").addEventListener("change", (event) => change({ origin: event.target.value }));
  by("filter-atypical").addEventListener("change", (event) => change({ atypical: event.target.value }));
  if (by("filter-group")) by("filter-group").addEventListener("change", (event) => change({ group: event.target.value }));
  by("sort-key").addEventListener("change", (event) => change({ key: event.target.value }));
  by("sort-order").addEventListener("change", (event) => change({ order: event.target.value }));
  by("page-size").addEventListener("change", (event) => change({ size: Number(event.target.value) }));
  for (const head of document.querySelectorAll("th[data-key]")) {
    head.querySelector("button").addEventListener("click", () => {
      const again = state.key === head.dataset.key && state.order === "ascending";
      change({ key: head.dataset.key, order: again ? "descending" : "ascending" });
    });
  }
  by("page-first").addEventListener("click", () => turn(0));
  by("page-previous").addEventListener("click", () => turn(state.page - 1));
  by("page-next").addEventListener("click", () => turn(state.page + 1));
  by("page-last").addEventListener("click", () => turn(Infinity));
  by("exhibit-close").addEventListener("click", () => by("exhibit").close());
  by("exhibit").addEventListener("click", (event) => { if (event.target === by("exhibit")) by("exhibit").close(); });
  by("exhibit-image").addEventListener("load", boxes);
  by("heat-strength").addEventListener("input", strength);
  by("span-image").addEventListener("click", () => { span = "image"; paint(); });
  by("span-report").addEventListener("click", () => { span = "report"; paint(); });
  by("heat-ramp").append(...Array.from({ length: 50 }, (_, at) => {
    const made = rectangle(at / 10, 0, colour(at / 49));
    made.setAttribute("width", "0.11");
    return made;
  }));
  window.addEventListener("beforeprint", () => show(true));
  window.addEventListener("afterprint", () => show());
  strength();
  show();
})();
