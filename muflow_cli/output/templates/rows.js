// The rows: what they hold, which of them are chosen, and in which order.
const { rows, columns, folders, limits, report } = JSON.parse(document.getElementById("data").textContent);
const by = (id) => document.getElementById(id);
const state = {
  key: "notable", order: "ascending", page: 0, size: 50,
  text: "", verdict: "", tail: "", atypical: "", origin: "", group: "", folder: "", format: "", reviewed: "",
};
const collator = new Intl.Collator("en", { numeric: true });
// What an analyst looks at first: flagged, then declared synthetic, then what could not be decided.
const RANK = { flagged: 0, inconclusive: 2, not_judged: 3, not_flagged: 4, no_face: 5, unreadable: 6 };

// Rows hold only known values; what cells, filters and sorting need besides is added here once.
rows.forEach((row, index) => {
  row.index = index + 1;
  row.verdict = row.error ? "unreadable" : row.verdict;
  row.lowerPath = row.path.toLowerCase();
  (row.column_scores || []).forEach((score, at) => { row[`column-${at}`] = score; });
  const rank = origin(row) === "synthetic" ? Math.min(1, RANK[row.verdict]) : RANK[row.verdict];
  // A p-value is at most 1, so that it orders rows of one rank only.
  row.notable = 2 * rank + (row.adaptive_p_value ?? row.weighted_p_value ?? row.p_value ?? 1);
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

function words(code) {
  return code.replaceAll("_", " ");
}

function origin(row) {
  return row.declared ? row.declared.origin : "none";
}

function compare(a, b) {
  const [x, y] = [a[state.key], b[state.key]];
  if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
  const difference = typeof x === "number" ? x - y : collator.compare(x, y);
  return state.order === "ascending" ? difference : -difference;
}

function passes(row) {
  const atypical = row.atypical_input ? "yes" : row.p_value === undefined ? "" : "no";
  const { reviewed, text } = noteOf(row);
  return row.lowerPath.includes(state.text)
    && (!state.verdict || row.verdict === state.verdict) && (!state.tail || row.tail === state.tail)
    && (!state.origin || origin(row) === state.origin) && (!state.atypical || atypical === state.atypical)
    && (!state.group || row.group === state.group) && (!state.folder || String(row.folder) === state.folder)
    && (!state.format || row.format === state.format)
    && (!state.reviewed || (state.reviewed === "noted" ? text !== "" : reviewed === (state.reviewed === "yes")));
}

function chosen() {
  return rows.filter(passes).sort(compare); // stable: ties stay in the order of the inputs
}

