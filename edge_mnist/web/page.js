// The page: what is drawn, chosen, dropped or pasted goes to the backend, and its answer on screen.

import { BackendError, announce, find, makeBars, showAnswer } from "./answer.js";
import { showBackend, showEmpty, showLoading, showProblem, showSeen } from "./answer.js";
import { openBackend } from "./backend.js";
import { Drawing } from "./drawing.js";
import { drawWithKeys, drawWithPointers } from "./input.js";

// While a stroke goes on, an answer is shown once the model has been sure of it for a moment. After
// it an answer is shown at once, a rejection after a pause: the next stroke may complete a digit.
const SURE = 0.9; // of the probability
const HOLD_MS = 300;
const PAUSE_MS = 700;
// Not left to the model: it would be given the dot as large as a digit, and read a 0.
const DOT_ANSWER = { status: "rejected", reason: "dot", image: null };
const SAMPLE_STEP = 2; // of an example's 100 units, from one point of a stroke to the next

const canvas = find("canvas");
const [undo, redo, clear] = ["undo", "redo", "clear"].map(find);

let backend = null;
let apiKey = "";
let version = 0; // grows with every change of the picture
let contentVersion = 0; // grows when another picture or drawing took its place
let isStrokeLatest = false; // of the changes; else undo, redo, clear, an example or a picture
let isReading = false;
let pause = 0; // timer before a rejection is shown
let candidate = { name: null, since_ms: 0 };

const drawing = new Drawing(canvas, (change) => {
  version++;
  isStrokeLatest = change === "stroke";
  if (!isStrokeLatest) contentVersion++;
  clearTimeout(pause);
  undo.disabled = !drawing.canUndo;
  redo.disabled = !drawing.canRedo;
  clear.disabled = drawing.isEmpty;
  readLatest();
});

/** Read the picture as it is now. While an answer is awaited, only the newest picture waits. */
async function readLatest() {
  if (!backend) return;
  if (drawing.isEmpty || drawing.isDot) find("result").ariaBusy = "false";
  if (drawing.isEmpty) return showEmpty();
  if (drawing.isDot) {
    const wait_ms = isStrokeLatest ? PAUSE_MS : 0;
    if (!drawing.isStrokeOpen) pause = setTimeout(showAnswer, wait_ms, DOT_ANSWER, 0);
    return;
  }
  if (isReading) return;
  isReading = true;
  let readVersion;
  do {
    readVersion = version;
    await readOnce(backend, contentVersion);
    await nextPaint(); // what was drawn meanwhile comes first
  } while (readVersion !== version && !drawing.isEmpty && !drawing.isDot);
  isReading = false;
}

async function readOnce(backend, readContent) {
  find("result").ariaBusy = "true";
  find("result").classList.toggle("picture", drawing.hasPicture);
  if (drawing.hasPicture) await nextPaint(); // a large one may keep the page busy for a while
  const start_ms = performance.now();
  let answer = null;
  let show;
  try {
    answer = await backend.predict(await drawing.toFile(), apiKey);
    const duration_ms = performance.now() - start_ms;
    show = () => showAnswer(answer, duration_ms);
  } catch (error) {
    show = () => showProblem(toProblem(error));
  }
  if (readContent !== contentVersion) return; // of what is no longer there
  find("result").ariaBusy = "false";
  present(answer, show);
}

/** Wait until what has changed is on screen. */
const nextPaint = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));

/** Show an answer now, later or not at all. `answer`: null for a problem. */
function present(answer, show) {
  if (answer?.image) showSeen(answer.image);
  if (drawing.isStrokeOpen) return isSettled(answer) && show();
  candidate = { name: null, since_ms: 0 };
  const isWiped = answer?.reason === "blank" && !drawing.hasPicture; // with the eraser
  const display = isWiped ? showEmpty : show;
  if (answer?.status === "ok" || !isStrokeLatest) display();
  else pause = setTimeout(display, PAUSE_MS);
}

function isSettled(answer) {
  const isSure = answer?.status === "ok" && (answer.confidence ?? 0) >= SURE;
  const name = isSure ? answer.name : null;
  if (name !== candidate.name) candidate = { name, since_ms: performance.now() };
  return name !== null && performance.now() - candidate.since_ms >= HOLD_MS;
}

function toProblem(error) {
  if (error instanceof BackendError) return error;
  return new BackendError("Something went wrong", `Reload the page and try again. (${error})`);
}

async function readFile(file) {
  if (!file) return;
  const readContent = contentVersion;
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (readContent === contentVersion) drawing.showPicture({ file, bitmap });
}

function takeFrom(data) {
  const file = data?.files[0];
  if (file) return readFile(file);
  if (!data?.types.length) return;
  const advice = "Save the picture on your device first, then choose it here.";
  showProblem(new BackendError("That is not a picture file", advice));
  find("retry").hidden = true;
}

/** Turn an example, lines of an SVG picture of 100 x 100, into strokes. */
function drawExample(example) {
  drawing.showLines(
    [...example.querySelectorAll("path")].map((path) => {
      const steps = Math.ceil(path.getTotalLength() / SAMPLE_STEP);
      return Array.from({ length: steps + 1 }, (_, step) => {
        const { x, y } = path.getPointAtLength((path.getTotalLength() * step) / steps);
        return [x / 100, y / 100];
      });
    }),
  );
}

function listenToTools() {
  undo.addEventListener("click", () => drawing.undo());
  redo.addEventListener("click", () => drawing.redo());
  clear.addEventListener("click", () => drawing.clear());
  find("tools").addEventListener("change", ({ target }) => {
    if (!(target instanceof HTMLInputElement)) return;
    Object.assign(drawing, { [target.name]: target.value });
    canvas.classList.toggle("erasing", drawing.tool === "eraser");
  });
  for (const example of document.querySelectorAll(".example")) {
    example.addEventListener("click", () => drawExample(example));
  }
  document.addEventListener("keydown", (event) => {
    const isCommand = (event.ctrlKey || event.metaKey) && !event.altKey;
    if (!isCommand || event.target instanceof HTMLInputElement) return;
    const key = event.key.toLowerCase();
    if (key === "y" || (key === "z" && event.shiftKey)) drawing.redo();
    else if (key === "z") drawing.undo();
    else return;
    event.preventDefault();
  });
}

function listenForFiles() {
  for (const [button, input] of [["choose", "file"], ["photograph", "camera"]]) {
    const chooser = find(input);
    find(button).addEventListener("click", () => chooser.click());
    chooser.addEventListener("change", () => {
      readFile(chooser.files?.[0]);
      chooser.value = ""; // so that the same file can be chosen again
    });
  }
  document.addEventListener("paste", (event) => {
    if (!(event.target instanceof HTMLInputElement)) takeFrom(event.clipboardData);
  });
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault(); // else the browser opens the picture instead of the page
      document.body.classList.toggle("dropping", name === "dragover");
      if (name === "drop") takeFrom(event.dataTransfer);
    });
  }
}

function listenToProblems() {
  const retry = () => (backend ? readLatest() : location.reload());
  find("retry").addEventListener("click", retry);
  window.addEventListener("online", () => !find("retry").hidden && retry());
  find("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    apiKey = find("key").value.trim();
    readLatest();
  });
}

async function start() {
  listenToTools();
  listenForFiles();
  listenToProblems();
  drawWithPointers(find("stage"), drawing);
  drawWithKeys(drawing, announce);
  try {
    backend = await openBackend(showLoading);
  } catch (error) {
    return showProblem(toProblem(error));
  }
  makeBars(backend.classNames);
  showBackend(backend);
  await readLatest();
}

start();
