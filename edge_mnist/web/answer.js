// Showing an answer: the digit, or why there is none, bars, what the model saw, the time it took.

const SPEAK_MS = 700; // a screen reader is told what stands still, not every change while one draws
const SIDE_PX = 28;

const find = (id) => document.getElementById(id);
let speaking = 0;

/** Say in a line which model answers, or that none does. */
export function showModel(text) {
  find("model").textContent = text;
}

/** Make a bar for each class. */
export function makeBars(classNames) {
  const rows = classNames.map((name) => {
    const row = make("tr");
    const head = make("th", "", name);
    head.scope = "row";
    const [cell, track] = [make("td"), make("div", "track")];
    track.append(make("div", "bar"));
    cell.append(track);
    row.append(head, cell, make("td", "number", "-"));
    return row;
  });
  find("bars").querySelector("tbody").replaceChildren(...rows);
}

/** Show an answer of the back-end. */
export function showAnswer({ status, reason, error, name, confidence, ...rest }) {
  const { probabilities, image, read_ms, run_ms } = rest;
  if (status === "error") say(`Cannot be read: ${error}`);
  else if (status === "rejected") say(`Rejected: ${reason}`);
  else say(`${name}, ${(100 * confidence).toFixed(1)} % sure`);
  showSeen(image);
  showBars(probabilities);
  find("read-time").textContent = image ? `${read_ms.toFixed(1)} ms` : "-";
  find("run-time").textContent = image ? `${run_ms.toFixed(1)} ms` : "-";
  find("answer").classList.toggle("bad", status !== "ok");
  Object.assign(document.body.dataset, { status, reason: reason ?? "", name: name ?? "" });
}

/** Show that there is nothing to answer. */
export function showNothing() {
  say("Nothing drawn yet.");
  showSeen(null);
  showBars(null);
  find("read-time").textContent = find("run-time").textContent = "-";
  find("answer").classList.remove("bad");
  Object.assign(document.body.dataset, { status: "empty", reason: "", name: "" });
}

function say(text) {
  find("answer").textContent = text;
  clearTimeout(speaking);
  speaking = setTimeout(() => (find("spoken").textContent = text), SPEAK_MS);
}

function showSeen(image) {
  const canvas = find("seen");
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, SIDE_PX, SIDE_PX);
  const what = image ? "your picture" : "nothing yet";
  canvas.setAttribute("aria-label", `What the model saw: ${what}`);
  if (!image) return;
  const pixels = pen.createImageData(SIDE_PX, SIDE_PX);
  image.forEach((level, at) => pixels.data.set([level, level, level, 255], 4 * at));
  pen.putImageData(pixels, 0, 0);
}

function showBars(probabilities) {
  const best = probabilities ? probabilities.indexOf(Math.max(...probabilities)) : -1;
  find("bars").querySelectorAll("tbody tr").forEach((row, label) => {
    const share = probabilities ? 100 * probabilities[label] : 0;
    row.classList.toggle("best", label === best);
    row.querySelector(".bar").style.width = `${share}%`;
    row.querySelector(".number").textContent = probabilities ? share.toFixed(1) : "-";
  });
}

function make(tag, name = "", text = "") {
  const element = document.createElement(tag);
  element.className = name;
  element.textContent = text;
  return element;
}
