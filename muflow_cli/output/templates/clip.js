// ---- a clip: its worst frames as a film strip, and the scores of its frames over time

function clock(seconds) {
  if (seconds < 60) return `${decimal(seconds, 2)} s`;
  const [hours, minutes, rest] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, (seconds % 60).toFixed(1)];
  return `${hours ? `${hours}:${String(minutes).padStart(2, "0")}` : minutes}:${rest.padStart(4, "0")}`;
}

// Of the faces at one time, the one that is meant is not known here: the scores of all are named.
function scoresAt(clip, time) {
  return clip.frames.filter(([at]) => at === time).map(([, score]) => decimal(score, 3)).join(", ");
}

function chooseFrame(row, frame, buttons, button) {
  by("exhibit-image").src = frame.thumbnail;
  by("exhibit-image").alt = `Frame of ${row.path} at ${clock(frame.time)}`;
  for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
}

function filmStrip(row) {
  const list = element("ol", { className: "film" });
  list.setAttribute("aria-label", "Worst frames, the worst first");
  const buttons = [];
  list.append(...row.clip.worst.map((frame, at) => {
    const texts = [element("span", { textContent: clock(frame.time) }),
      element("span", { className: "detail", textContent: scoresAt(row.clip, frame.time) })];
    if (!frame.thumbnail) return element("li", {}, element("div", { className: "frame" }, ...texts));
    const image = element("img", { src: frame.thumbnail, alt: "", width: 96, height: 96 });
    const button = element("button", { type: "button", className: "frame" }, image, ...texts);
    button.setAttribute("aria-pressed", String(at === 0));
    button.setAttribute("aria-label", `Show the frame at ${clock(frame.time)}, score ${scoresAt(row.clip, frame.time)}`);
    button.addEventListener("click", () => chooseFrame(row, frame, buttons, button));
    buttons.push(button);
    return element("li", {}, button);
  }));
  return list;
}

// A score that decides on the whole clip exists where it is judged as one, and not face by face.
function clipLimits(clip) {
  return clip.judged_by === "clip" && (clip.tracks || 1) === 1 ? limits.filter((limit) => limit !== null) : [];
}

function curve(row) {
  const { frames, worst, seconds } = row.clip;
  const levels = [...frames.map(([, score]) => score), ...clipLimits(row.clip)];
  const [low, high] = [Math.min(...levels), Math.max(...levels)];
  const end = Math.max(seconds || 0, ...frames.map(([time]) => time)) || 1;
  const x = (time) => 100 * time / end;
  const y = (score) => (high > low ? 38 - 36 * (score - low) / (high - low) : 20);
  const lowest = Math.min(...frames.map(([, score]) => score)), highest = Math.max(...frames.map(([, score]) => score));
  const svg = drawn("svg", { viewBox: "0 0 100 40", preserveAspectRatio: "none", role: "img", class: "curve",
    "aria-label": `Scores of ${frames.length} sampled frames from ${decimal(lowest, 3)} to ${decimal(highest, 3)}, over ${clock(end)}` });
  const across = (score, name) => drawn("line", { x1: 0, x2: 100, y1: y(score), y2: y(score), class: name });
  svg.append(...clipLimits(row.clip).map((limit) => across(limit, "limit")));
  for (const track of new Set(frames.map((frame) => frame[2]))) {
    const points = frames.filter((frame) => frame[2] === track).map(([time, score]) => `${x(time)},${y(score)}`);
    svg.append(drawn("polyline", { points: points.join(" "), class: "scores" }));
  }
  const marked = new Set(worst.map((frame) => frame.time));
  // A line without length is a round dot, however the plot is stretched.
  svg.append(...frames.map(([time, score, , flagged]) => drawn("line", { x1: x(time), x2: x(time), y1: y(score), y2: y(score),
    class: flagged ? "dot is-flagged" : marked.has(time) ? "dot is-worst" : "dot" })));
  const side = element("div", { className: "scale" }, element("span", { textContent: decimal(high, 3) }), element("span", { textContent: decimal(low, 3) }));
  const foot = element("div", { className: "times" }, element("span", { textContent: clock(0) }), element("span", { textContent: clock(end) }));
  return element("figure", { className: "over-time" }, side, svg, foot, element("figcaption", { textContent: curveText(row) }));
}

function curveText(row) {
  const { frames, judged_by: judgedBy, tracks } = row.clip;
  const at = clipLimits(row.clip).length ? ["below", "above"].map((side, index) => (limits[index] === null ? "" : `${side} ${decimal(limits[index], 3)}`))
    .filter(Boolean).join(" or ") : "";
  const flagged = frames.filter((frame) => frame[3]).length;
  return [`Score over time, ${frames.length} sampled ${(tracks || 0) > 0 ? "faces" : "frames"}; the larger dots are the worst frames.`,
    at && `Dashed: a video whose own score (${decimal(row.score, 3)}, from the mean and the 90 % quantile of its frames) is ${at} is flagged.`,
    judgedBy === "frame" && `${flagged} of them flagged as images, by the p-value times their number (Bonferroni).`,
    !judgedBy && "The video is not judged, since the detector is calibrated on images."].filter(Boolean).join(" ");
}

function clipParts(row) {
  return row.clip ? [element("h3", { textContent: "Worst frames" }), filmStrip(row), curve(row)] : [];
}

