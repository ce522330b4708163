// ---- the exhibit: image, heat map, facts

// Magma (Smith & van der Walt, 2015): lightness rises evenly, so that it reads without colour vision too.
const RAMP = ["#000004", "#3b0f70", "#8c2981", "#de4968", "#fe9f6d", "#fcfdbf"]
  .map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
const maps = rows.flatMap((row) => [row, ...(row.faces || [])]).filter((part) => part.heat).map((part) => part.heat);
const whole = { low: Math.min(...maps.map((map) => map.low)), high: Math.max(...maps.map((map) => map.high)) };
let shown = null;
let sequence = rows;
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

function cellsOf({ side }) {
  return `${side} × ${side} cells, each ${Math.round(1000 / side) / 10} % of the width and of the height`;
}

function paint() {
  const { side, low, high } = shown.heat;
  const range = span === "image" ? { low, high } : whole;
  by("exhibit-heat").setAttribute("viewBox", `0 0 ${side} ${side}`);
  by("exhibit-heat").replaceChildren(...heatCells(shown.heat, range));
  by("heat-low").textContent = decimal(range.low, 2);
  by("heat-high").textContent = decimal(range.high, 2);
  by("heat-cells").textContent = `${cellsOf(shown.heat)}; nothing smaller than a cell can be located`;
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
    ["Atypical", row.atypical_input && words(row.atypical_input.join(", "))], ["Group", row.group], ["Duplicate of", row.duplicate_of],
    ["Unreadable because", row.error && `${words(row.error.code)}: ${row.error.message}`], ["Format", size(row)],
    ["Converted from", row.clip && row.clip.converted_from && `HDR (${row.clip.converted_from})`],
    ["Length", row.clip && row.clip.seconds && clock(row.clip.seconds)], ["Frames scored", row.clip && row.clip.frames.length],
    ["Judged by", row.clip && row.clip.judged_by && { clip: "the whole video", frame: "its frames as images" }[row.clip.judged_by]],
    ["Bytes", row.bytes !== undefined && row.bytes.toLocaleString("en")], ["JPEG quality", row.jpeg_quality],
    ["Faces", row.faces && row.faces.length], ["Faces not scored", row.faces_left_out || undefined],
    ["Sharpness", row.sharpness !== undefined && decimal(row.sharpness, 2)],
    ["Damaged", row.damaged && (row.missing === undefined ? "yes" : `yes, about ${Math.round(100 * row.missing)} % is missing`)], ["SHA-256", row.sha256]);
  return parts.filter(([, value]) => value !== undefined && value !== false && value !== "").flatMap(([name, value]) => [
    element("dt", { textContent: name }), name === "SHA-256" ? hash(value) : element("dd", {}, element("span", { textContent: value }))]);
}

function hash(value) {
  const code = element("code", { textContent: value });
  const button = element("button", { type: "button", id: "hash-copy", textContent: "Copy" });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(value);
      button.textContent = "Copied";
    } catch { // not allowed: the hash is selected, so that the keyboard can copy it
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
  });
  return element("dd", { className: "hash" }, code, button);
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
    ...(face.heat ? [`heat map of ${cellsOf(face.heat)}`] : []),
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
  // The order is that of the table when the first image was opened, whatever a note changes.
  if (!by("exhibit").open) sequence = chosen().includes(row) ? chosen() : rows;
  shown = row;
  address(`#image-${row.index}`);
  const at = sequence.indexOf(row);
  by("exhibit-place").textContent = `${(at + 1).toLocaleString("en")} of ${sequence.length.toLocaleString("en")}`;
  by("exhibit-previous").disabled = at === 0;
  by("exhibit-next").disabled = at === sequence.length - 1;
  by("exhibit-open").hidden = !row.link;
  if (row.link) by("exhibit-link").href = row.link;
  by("note-reviewed").checked = noteOf(row).reviewed;
  by("note-text").value = noteOf(row).text;
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
  by("exhibit-clip").replaceChildren(...clipParts(row));
  by("heat-none").hidden = Boolean(row.heat || row.clip) || Boolean((row.faces || []).length);
  by("exhibit-facts").replaceChildren(...facts(row));
  by("exhibit-marks").replaceChildren(...marks(row));
  if (!by("exhibit").open) by("exhibit").showModal();
}

function step(direction) {
  const next = sequence[sequence.indexOf(shown) + direction];
  if (next) open(next);
}

function address(fragment) {
  history.replaceState(null, "", location.href.split("#")[0] + fragment);
}

// The table shows the image that was looked at last, and the keyboard is there again.
function closed() {
  address("");
  const at = chosen().indexOf(shown);
  if (at >= 0) state.page = Math.floor(at / state.size);
  show();
  document.querySelector(`#rows tr[data-index="${shown.index}"] .thumbnail`)?.focus();
}

function follow() {
  const match = /^#image-([0-9]+)$/.exec(location.hash);
  const row = match && rows[Number(match[1]) - 1];
  if (row) open(row);
}

function strength() {
  by("exhibit-heat").setAttribute("opacity", by("heat-strength").value / 100);
}

