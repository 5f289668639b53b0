// The page: what is drawn, chosen, dropped or pasted goes to the back-end, its answer on screen.

import { makeBars, showAnswer, showModel, showNothing } from "./answer.js";
import { Sheet } from "./sheet.js";

const find = (id) => document.getElementById(id);
let backend = null;
let busy = false;
let waiting = null; // the newest question that could not be asked at once
let subject = 0; // grows with each new sheet or file, so that answers to old ones are dropped

const sheet = new Sheet(find("sheet"), () => {
  if (sheet.strokes.length) ask(() => sheet.read());
  else stop();
});

function stop() {
  subject++;
  waiting = null;
  if (backend) showNothing();
}

/** Ask for an answer; while one is on its way, only the newest question waits. */
async function ask(source) {
  waiting = { source, subject };
  if (busy || !backend) return;
  busy = true;
  try {
    while (waiting) {
      const question = waiting;
      waiting = null;
      const answer = await backend.read(question.source());
      if (question.subject === subject) showAnswer(answer);
      await new Promise(requestAnimationFrame); // what was drawn meanwhile comes first
    }
  } finally {
    busy = false;
  }
}

async function take(file) {
  if (!file) return;
  subject++;
  const current = subject;
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (current !== subject) return;
  sheet.show(bitmap);
  await ask(() => file);
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
    if (event.key === "z" && (event.ctrlKey || event.metaKey)) sheet.undo();
  });
  document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault(); // else a picture that misses is opened instead of the page
      find("drop").classList.toggle("over", name === "dragover");
      if (name === "drop") take(event.dataTransfer.files[0]);
    });
  }
}

async function start() {
  listen();
  try {
    const { openBackend } = await import("./backend.js"); // here, so that its failure is seen
    backend = await openBackend();
  } catch (error) {
    showModel(`The model cannot be loaded: ${error.message}`);
    return;
  }
  makeBars(backend.classNames);
  showModel(backend.about);
  if (waiting) await ask(waiting.source);
  else showNothing();
}

start();
