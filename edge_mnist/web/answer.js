// The answer on screen: the digit in large type or the reason why there is none, what the model
// saw, and a bar for each class.

const ANNOUNCE_MS = 700; // a screen reader is told what stays, not every change while one draws
const REJECTIONS = {
  dot: ["Draw larger", "This is only a dot. A digit may fill the canvas."],
  blank: ["No digit found", "Draw a digit, or choose a picture with dark writing on light paper."],
  "more than one digit": ["More than one digit", "Draw or photograph one digit at a time."],
  "not a digit": ["Not sure what this is", "Draw it larger, or try another picture."],
  "none of the classes": ["Not sure what this is", "Try another picture."],
};

// A backend, backend_web.js in an exported page or backend_server.js of `edge-mnist serve`, exports
// openBackend(onProgress), which returns {classNames, facts: pairs of name and value for "About the
// model", privacy: where a picture goes, docsUrl: of the server's documentation or null, predict}.
// predict(picture, key) takes a file and the API key that the user gave, and returns an answer:
// {status: "ok", "rejected" (no single digit) or "error" (cannot be read), name, confidence: 0..1,
// probabilities, reason, error, image: 28 x 28 levels}; what does not apply is null. Both throw
// BackendError.

/** No answer can be had. The message says what happened, `advice` what to do, in words. */
export class BackendError extends Error {
  constructor(message, advice, { needsKey = false } = {}) {
    super(message);
    this.advice = advice;
    this.needsKey = needsKey;
  }
}

/** Make the answer to a picture that cannot be read. */
export function toErrorAnswer(error) {
  const nothing = { name: null, confidence: null, probabilities: null, reason: null, image: null };
  return { status: "error", error, ...nothing };
}

/** Return the element with an id. */
export const find = (id) => document.getElementById(id);
let announcing = 0;
let invitation = "Draw a digit from 0 to 9";

/** Make a row with a bar for each class. */
export function makeBars(classNames) {
  const rows = classNames.map((name) => {
    const row = find("bar-row").content.cloneNode(true);
    row.querySelector("th").textContent = name;
    return row;
  });
  document.querySelector("#bars tbody").replaceChildren(...rows);
  find("bars").classList.toggle("named", classNames.some(isWord));
}

/** Show what is known of the model. */
export function showBackend({ classNames, facts, privacy, docsUrl }) {
  const make = (tag, textContent) => Object.assign(document.createElement(tag), { textContent });
  const items = facts.flatMap(([name, value]) => [make("dt", name), make("dd", value)]);
  find("facts").replaceChildren(...items);
  find("privacy").textContent = privacy;
  Object.assign(find("docs"), { hidden: docsUrl === null, href: docsUrl ?? "" });
  if (classNames.every((name) => /^[0-9]$/.test(name))) return;
  invitation = find("title").textContent = "Draw or choose a picture"; // clothes, letters, ...
  find("examples").hidden = true;
}

/** Show how much has been loaded. */
export function showLoading(loadedBytes, totalBytes) {
  find("progress").value = Math.min(loadedBytes / totalBytes, 1);
  const sizes = `${(loadedBytes / 1e6).toFixed(1)} of ${(totalBytes / 1e6).toFixed(1)} MB`;
  find("advice").textContent = `You can draw already. ${sizes} loaded.`;
}

/** Show that there is nothing to read. */
export function showEmpty() {
  showResult("empty", invitation, "The answer appears here while you draw.");
  announce("");
}

/** Show what the model reads in a picture. `duration_ms`: how long it took. */
export function showAnswer({ status, name, confidence, reason, error, ...rest }, duration_ms) {
  const percent = formatPercent(confidence ?? 0);
  let words = ["This file cannot be read", `${toSentence(error ?? "")} Try a PNG or JPEG picture.`];
  const duration = `Read in ${Math.max(1, Math.round(duration_ms))} ms`;
  if (status === "ok") words = [`${percent} sure`, duration];
  if (status === "rejected") words = REJECTIONS[reason] ?? ["Not one digit", toSentence(reason)];
  showResult(status, words[0], words[1], name ?? "");
  announce(status === "ok" ? `${name}, ${percent} sure` : words.join(". "));
  if (status === "ok") showBars(rest.probabilities);
  showSeen(rest.image);
}

/** Show why there is no answer, and what to do about it. */
export function showProblem({ message, advice, needsKey }) {
  showResult("error", message, advice);
  find("key-form").hidden = !needsKey;
  find("retry").hidden = needsKey;
  announce(`${message}. ${advice}`);
}

/** Show the model's input. `image`: 28 x 28 levels. */
export function showSeen(image) {
  const context = find("seen").getContext("2d");
  const pixels = context.createImageData(28, 28);
  image?.forEach((level, at) => pixels.data.set([level, level, level, 255], 4 * at));
  context.putImageData(pixels, 0, 0);
}

/** Have a screen reader say something, once nothing else was announced for a moment. */
export function announce(text) {
  clearTimeout(announcing);
  announcing = window.setTimeout(() => (find("spoken").textContent = text), ANNOUNCE_MS);
}

function showResult(status, headline, advice, name = "") {
  find("answer").dataset.status = status;
  find("digit").textContent = name;
  find("digit").classList.toggle("word", isWord(name));
  find("headline").textContent = headline;
  find("advice").textContent = advice;
  for (const id of ["progress", "key-form", "retry"]) find(id).hidden = true;
  if (status !== "ok") showBars(null); // a bar would contradict what the words say
  if (status !== "ok" && status !== "rejected") showSeen(null);
}

function showBars(probabilities) {
  const best = probabilities ? probabilities.indexOf(Math.max(...probabilities)) : -1;
  document.querySelectorAll("#bars tbody tr").forEach((row, label) => {
    row.classList.toggle("best", label === best);
    row.querySelector(".bar").style.width = `${probabilities ? 100 * probabilities[label] : 0}%`;
    const percent = probabilities ? formatPercent(probabilities[label]) : "–";
    row.querySelector(".percent").textContent = percent;
  });
}

function formatPercent(share) {
  if (share < 0.0005) return "0\u00a0%";
  return `${(100 * Math.min(share, 0.999)).toFixed(1)}\u00a0%`; // no model is 100 % sure
}

const isWord = (className) => className.length > 2;

const toSentence = (text) =>
  text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
