// The page: what is drawn, chosen, dropped or pasted goes to the back-end, its answer on screen.

import { makeBars, showAnswer, showNothing } from "./answer.js";
import { openBackend } from "./backend.js";
import { Sheet } from "./sheet.js";

const find = (id) => document.getElementById(id);
let backend = null;
let busy = false;
let waiting = null; // the newest question that could not be asked at once
let subject = 0; // grows with each new sheet or file, so that answers to old ones are dropped

const sheet = new Sheet(find("sheet"), (isDrawing) => {
  refresh();
  if (sheet.isEmpty) stop();
  else ask(() => sheet.read(), !isDrawing);
});

function refresh() {
  find("hint").hidden = !sheet.isEmpty || sheet.pictured !== null;
  find("undo").disabled = sheet.isEmpty;
}

function stop() {
  subject++;
  waiting = null;
  if (backend) showNothing("Draw a digit, or choose a picture.");
}

/** Ask for an answer; while one is on its way, only the newest question waits. */
async function ask(source, isFinal) {
  waiting = { source, isFinal, subject };
  if (busy || !backend) return;
  busy = true;
  while (waiting) {
    const question = waiting;
    waiting = null;
    const answer = await backend.read(question.source());
    if (question.subject === subject) showAnswer(answer, question.isFinal && !waiting);
    await new Promise(requestAnimationFrame); // what was drawn meanwhile comes first
  }
  busy = false;
}

async function take(file) {
  if (!file) return;
  subject++;
  const bitmap = await createImageBitmap(file).catch(() => null);
  sheet.show(bitmap);
  refresh();
  await ask(() => file, true);
}

function listen() {
  find("clear").addEventListener("click", () => sheet.clear());
  find("undo").addEventListener("click", () => sheet.undo());
  find("file").addEventListener("change", ({ target }) => {
    take(target.files[0]);
    target.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") sheet.clear();
    if (event.key === "z" && (event.ctrlKey || event.metaKey) && !sheet.isEmpty) sheet.undo();
  });
  document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
  document.addEventListener("dragover", (event) => drag(event, true));
  document.addEventListener("dragleave", (event) => drag(event, false));
  document.addEventListener("drop", (event) => {
    drag(event, false);
    take(event.dataTransfer.files[0]);
  });
}

function drag(event, isOver) {
  event.preventDefault();
  document.body.classList.toggle("dropping", isOver);
}

async function start() {
  listen();
  refresh();
  try {
    backend = await openBackend();
  } catch (error) {
    document.body.dataset.status = "error";
    find("summary").textContent = `The model cannot be loaded: ${error.message}`;
    return;
  }
  makeBars(backend.classNames);
  find("about").textContent = backend.about;
  if (waiting) await ask(waiting.source, waiting.isFinal);
  else stop();
}

start();
