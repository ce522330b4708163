// ---- notes of whoever reads the page: in the storage of this browser, under the digest of this report

const place = `muflow notes ${report}`;
const notes = storedNotes();

function storedNotes() {
  try {
    const stored = JSON.parse(localStorage.getItem(place));
    return stored && typeof stored === "object" ? stored : {};
  } catch { // a browser that stores nothing, or what another page has put there
    return {};
  }
}

function noteOf(row) {
  const own = notes[row.index] || {};
  return { reviewed: own.reviewed === true, text: typeof own.text === "string" ? own.text : "" };
}

function keepNote(row, changes) {
  Object.assign(notes, storedNotes()); // those of the same page in another tab
  notes[row.index] = { ...noteOf(row), ...changes };
  let kept = report !== "";
  try {
    if (kept) localStorage.setItem(place, JSON.stringify(notes));
  } catch {
    kept = false;
  }
  tellNotes(kept ? "" : "This browser does not keep the notes of this page; export them before you close it.");
}

function noted() {
  return rows.filter((row) => noteOf(row).reviewed || noteOf(row).text);
}

function tellNotes(warning = "") {
  const reviewed = rows.filter((row) => noteOf(row).reviewed).length;
  by("notes-state").textContent = warning || (noted().length ? `${reviewed.toLocaleString("en")} reviewed` : "");
  by("notes-export").disabled = !noted().length;
}

// As in muflow's own CSV: an apostrophe before what a spreadsheet could take for a formula.
function csvCell(value) {
  const text = /^\s*[=+\-@'\uff1d\uff0b\uff0d\uff20]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function exportNotes() {
  const lines = [["number", "path", "sha256", "verdict", "p_value", "reviewed", "note"]];
  for (const row of noted()) {
    const { reviewed, text } = noteOf(row);
    lines.push([row.index, row.path, row.sha256 ?? "", words(row.verdict), row.p_value ?? "", reviewed ? "yes" : "no", text]);
  }
  const csv = lines.map((cells) => `${cells.map(csvCell).join(",")}\r\n`).join("");
  const address = URL.createObjectURL(new Blob(["\ufeff", csv], { type: "text/csv" }));
  element("a", { href: address, download: `notes-${report.slice(0, 12)}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

