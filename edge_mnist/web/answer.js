// Showing an answer: the digit, why there is none, bars, what the model saw, the time it took.

const find = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** Make a bar for each class. */
export function makeBars(classNames) {
  const rows = classNames.map((name) => {
    const row = document.createElement("li");
    const track = make("div", "track");
    track.append(document.createElement("span"));
    row.append(make("span", "name", name), track, make("span", "share"));
    return row;
  });
  find("bars").classList.toggle("words", classNames.some((name) => name.length > 2));
  find("bars").replaceChildren(...rows);
}

/** Show an answer; `isFinal` says it to screen readers, too. */
export function showAnswer(answer, isFinal) {
  find("digit").textContent = answer.name ?? "";
  find("digit").classList.toggle("word", (answer.name ?? "").length > 2);
  find("summary").textContent = summarize(answer);
  if (isFinal) find("spoken").textContent = `${answer.name ?? ""} ${summarize(answer)}`;
  showBars(answer.probabilities);
  showSeen(answer.image);
  find("times").textContent = answer.image
    ? `Picture read in ${round(answer.read_ms)} ms, model run in ${round(answer.run_ms)} ms.`
    : "";
  setState(answer.status, answer.reason);
}

/** Show that there is nothing to answer yet. */
export function showNothing(text) {
  find("digit").textContent = "";
  find("summary").textContent = text;
  find("spoken").textContent = text;
  find("times").textContent = "";
  showBars(null);
  showSeen(null);
  setState("empty");
}

/** Tell the style sheet, and whoever drives the page, how things stand. */
function setState(status, reason) {
  document.body.dataset.status = status;
  if (reason) document.body.dataset.reason = reason;
  else delete document.body.dataset.reason;
}

function summarize({ status, reason, error, confidence }) {
  if (status === "error") return `This picture cannot be read: ${error}.`;
  if (status === "rejected") return REASONS[reason] ?? `Rejected: ${reason}.`;
  return `${percent(confidence)} sure`;
}

const REASONS = {
  blank: "Rejected: the sheet is blank.",
  "more than one digit": "Rejected: this shows more than one digit.",
  "not a digit": "Rejected: this does not look like a digit.",
};

function showBars(probabilities) {
  const best = probabilities ? Math.max(...probabilities) : 2;
  [...find("bars").children].forEach((row, label) => {
    const share = probabilities?.[label] ?? 0;
    row.classList.toggle("best", share === best);
    row.querySelector(".track span").style.setProperty("--share", share);
    row.querySelector(".share").textContent = probabilities ? percent(share) : "";
  });
}

function showSeen(image) {
  const pen = find("seen").getContext("2d");
  const pixels = pen.createImageData(28, 28);
  for (let at = 0; at < 28 * 28; at++) {
    const level = image?.[at] ?? 0;
    pixels.data.set([level, level, level, 255], 4 * at);
  }
  pen.putImageData(pixels, 0, 0);
}

function make(tag, name, text = "") {
  const element = document.createElement(tag);
  element.className = name;
  element.textContent = text;
  return element;
}

function round(ms) {
  return ms < 10 ? ms.toFixed(1) : ms.toFixed(0);
}
