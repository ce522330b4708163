// ---- wiring

function options(id, pairs) {
  by(`label-${id}`).hidden = pairs.length < 2;
  by(`filter-${id}`).append(...pairs.map(([value, text]) => element("option", { value, textContent: text })));
}

options("folder", folders.map((name, at) => [String(at), name]));
options("format", [...new Set(rows.map((row) => row.format).filter(Boolean))].sort().map((name) => [name, name]));
document.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());
by("filter-text").addEventListener("input", (event) => change({ text: event.target.value.toLowerCase() }));
for (const name of ["verdict", "tail", "origin", "atypical", "group", "folder", "format", "reviewed"]) {
  by(`filter-${name}`)?.addEventListener("change", (event) => change({ [name]: event.target.value }));
}
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
by("notes-export").addEventListener("click", exportNotes);
by("note-reviewed").addEventListener("change", (event) => keepNote(shown, { reviewed: event.target.checked }));
by("note-text").addEventListener("input", (event) => keepNote(shown, { text: event.target.value }));
by("exhibit-close").addEventListener("click", () => by("exhibit").close());
by("exhibit-previous").addEventListener("click", () => step(-1));
by("exhibit-next").addEventListener("click", () => step(1));
by("exhibit").addEventListener("close", closed);
by("exhibit").addEventListener("keydown", (event) => {
  const turned = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  // In a text, and on the slider, these keys have another meaning.
  if (turned && !event.target.matches("textarea, input[type=range]") && !event.altKey && !event.ctrlKey && !event.metaKey) step(turned);
});
window.addEventListener("hashchange", follow);
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
tellNotes();
follow();
