// The answer on screen: the digit in large type or the reason why there is none, what the model
// saw, and a bar for each class.

const ANNOUNCE_MS = 700; // a screen reader is told what stays, not every change while one draws
const SIDE_PX = 28;
/** @type {Record<string, [string, string]>} what happened and what to do, by reason */
const REJECTIONS = {
  dot: ["Draw larger", "This is only a dot. A digit may fill the canvas."],
  blank: ["No digit found", "Draw a digit, or choose a picture with dark writing on light paper."],
  "more than one digit": ["More than one digit", "Draw or photograph one digit at a time."],
  "not a digit": [
    "Not sure what this is",
    "Draw it larger and more clearly, or try another picture.",
  ],
  "none of the classes": ["Not sure what this is", "Try another picture."],
};

/**
 * What the model reads in one picture.
 *
 * @typedef {object} Answer
 * @property {"ok" | "rejected" | "error"} status `rejected`: the picture shows no single digit;
 *   `error`: it cannot be read
 * @property {string | null} name the predicted class; null unless ok
 * @property {number | null} confidence probability of the likeliest class, 0..1; null on error
 * @property {number[] | null} probabilities one for each class; null on error
 * @property {string | null} reason why it was rejected; null unless rejected
 * @property {string | null} error why it cannot be read; null unless error
 * @property {Uint8Array | null} image the model's input, 28 x 28 levels; null on error
 */

/**
 * A model that is ready to read pictures: backend_web.js in an exported page, backend_server.js in
 * that of `edge-mnist serve`, both loaded as backend.js.
 *
 * @typedef {object} Backend
 * @property {string[]} classNames
 * @property {[string, string][]} facts names and values for "About the model"
 * @property {string} privacy where a picture goes, in one sentence
 * @property {string | null} docsUrl documentation of the server, if there is one
 * @property {(picture: Blob, key: string) => Promise<Answer>} predict reads a picture's file; `key`
 *   is the API key that the user gave, or empty; throws BackendError
 */

/**
 * @callback OpenBackend
 * @param {(loadedBytes: number, totalBytes: number) => void} onProgress
 * @returns {Promise<Backend>} throws BackendError
 */

/** No answer can be had. The message says what happened and `advice` what to do, in words. */
export class BackendError extends Error {
  /**
   * @param {string} message
   * @param {string} advice
   * @param {{needsKey?: boolean}} [options] `needsKey`: a right API key would help
   */
  constructor(message, advice, { needsKey = false } = {}) {
    super(message);
    this.advice = advice;
    this.needsKey = needsKey;
  }
}

/** Make the answer to a picture that cannot be read. @param {string} error @returns {Answer} */
export function toErrorAnswer(error) {
  const nothing = { name: null, confidence: null, probabilities: null, reason: null, image: null };
  return { status: "error", error, ...nothing };
}

/** Return the element with an id. @param {string} id */
export const find = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
const progress = /** @type {HTMLProgressElement} */ (find("progress"));
let announcing = 0;
let invitation = "Draw a digit from 0 to 9";

/**
 * Make a row with a bar for each class.
 *
 * @param {string[]} classNames
 */
export function makeBars(classNames) {
  const template = /** @type {HTMLTemplateElement} */ (find("bar-row"));
  const rows = classNames.map((name) => {
    const row = /** @type {DocumentFragment} */ (template.content.cloneNode(true));
    /** @type {HTMLElement} */ (row.querySelector("th")).textContent = name;
    return row;
  });
  find("bars")
    .querySelector("tbody")
    ?.replaceChildren(...rows);
  find("bars").classList.toggle("named", classNames.some(isWord));
}

/**
 * Show what is known of the model.
 *
 * @param {Backend} backend
 */
export function showBackend({ classNames, facts, privacy, docsUrl }) {
  const make = (/** @type {string} */ tag, /** @type {string} */ text) => {
    const element = document.createElement(tag);
    element.textContent = text;
    return element;
  };
  const items = facts.flatMap(([name, value]) => [make("dt", name), make("dd", value)]);
  find("facts").replaceChildren(...items);
  find("privacy").textContent = privacy;
  const link = /** @type {HTMLAnchorElement} */ (find("docs"));
  link.hidden = docsUrl === null;
  if (docsUrl !== null) link.href = docsUrl;
  if (classNames.every((name) => /^[0-9]$/.test(name))) return;
  invitation = find("title").textContent = "Draw or choose a picture"; // clothes, letters, ...
  find("examples").hidden = true;
}

/**
 * Show how much has been loaded.
 *
 * @param {number} loadedBytes
 * @param {number} totalBytes
 */
export function showLoading(loadedBytes, totalBytes) {
  const toMegabytes = (/** @type {number} */ bytes) => (bytes / 1e6).toFixed(1);
  progress.value = Math.min(loadedBytes / totalBytes, 1);
  const sizes = `${toMegabytes(loadedBytes)} of ${toMegabytes(totalBytes)} MB`;
  find("advice").textContent = `You can draw already. ${sizes} loaded.`;
}

/** Show that there is nothing to read. */
export function showEmpty() {
  showResult("empty", invitation, "The answer appears here while you draw.");
  announce("");
}

/**
 * Show what the model reads in a picture.
 *
 * @param {Answer} answer
 * @param {number} duration_ms how long it took
 */
export function showAnswer({ status, name, confidence, reason, error, ...rest }, duration_ms) {
  if (status === "ok" && name !== null) {
    const percent = formatPercent(confidence ?? 0);
    showResult("ok", `${percent} sure`, `Read in ${Math.max(1, Math.round(duration_ms))} ms`, name);
    announce(`${name}, ${percent} sure`);
    showBars(rest.probabilities);
  } else if (status === "rejected") {
    const known = REJECTIONS[reason ?? ""];
    const [headline, advice] = known ?? ["Not one digit", toSentence(reason ?? "")];
    showResult("rejected", headline, advice);
    announce(`${headline}. ${advice}`);
  } else {
    const headline = "This file cannot be read";
    const advice = `${toSentence(error ?? "")} Try a PNG or JPEG picture.`;
    showResult("error", headline, advice);
    announce(`${headline}. ${advice}`);
  }
  showSeen(rest.image);
}

/**
 * Show why there is no answer, and what to do about it.
 *
 * @param {{message: string, advice: string, needsKey: boolean}} problem
 */
export function showProblem({ message, advice, needsKey }) {
  showResult("error", message, advice);
  find("key-form").hidden = !needsKey;
  find("retry").hidden = needsKey;
  announce(`${message}. ${advice}`);
}

/**
 * Show the model's input.
 *
 * @param {Uint8Array | null} image 28 x 28 levels
 */
export function showSeen(image) {
  const canvas = /** @type {HTMLCanvasElement} */ (find("seen"));
  const context = canvas.getContext("2d");
  if (!context) return;
  const pixels = context.createImageData(SIDE_PX, SIDE_PX);
  image?.forEach((level, at) => pixels.data.set([level, level, level, 255], 4 * at));
  context.putImageData(pixels, 0, 0);
}

/**
 * Have a screen reader say something, once nothing else was announced for a moment.
 *
 * @param {string} text
 */
export function announce(text) {
  clearTimeout(announcing);
  announcing = window.setTimeout(() => (find("spoken").textContent = text), ANNOUNCE_MS);
}

/**
 * @param {"empty" | "ok" | "rejected" | "error"} status
 * @param {string} headline
 * @param {string} advice
 * @param {string} [name] the class in large type
 */
function showResult(status, headline, advice, name = "") {
  find("answer").dataset.status = status;
  find("digit").textContent = name;
  find("digit").classList.toggle("word", isWord(name));
  find("headline").textContent = headline;
  find("advice").textContent = advice;
  progress.hidden = find("key-form").hidden = find("retry").hidden = true;
  if (status !== "ok") showBars(null); // a bar would contradict what the words say
  if (status !== "ok" && status !== "rejected") showSeen(null);
}

/** @param {number[] | null} probabilities */
function showBars(probabilities) {
  const best = probabilities ? probabilities.indexOf(Math.max(...probabilities)) : -1;
  const rows = /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("#bars tbody tr"));
  rows.forEach((row, label) => {
    const [bar, cell] = [row.querySelector(".bar"), row.querySelector(".percent")];
    if (!(bar instanceof HTMLElement) || !cell) return;
    const percent = probabilities ? 100 * probabilities[label] : 0;
    row.classList.toggle("best", label === best);
    bar.style.width = `${percent}%`;
    cell.textContent = probabilities ? formatPercent(probabilities[label]) : "–";
  });
}

/** @param {number} share 0..1 */
function formatPercent(share) {
  if (share < 0.0005) return "0\u00a0%";
  return `${(100 * Math.min(share, 0.999)).toFixed(1)}\u00a0%`; // no model is 100 % sure
}

/** @param {string} className */
function isWord(className) {
  return className.length > 2;
}

/** @param {string} text */
function toSentence(text) {
  const ending = /[.!?]$/.test(text) ? "" : ".";
  return text.charAt(0).toUpperCase() + text.slice(1) + ending;
}
