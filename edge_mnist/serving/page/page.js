"use strict";
// Draws on a sheet, asks the server while one draws, shows its answer. One request at a time: what
// is drawn meanwhile is asked as soon as the answer is there, so a slow line never builds a queue.

const find = (id) => document.getElementById(id);
const sheet = find("sheet");
const pen = sheet.getContext("2d", { willReadFrequently: true });
const PEN_PX = 20;
const READ_AGAIN_MS = 60;
const SPEAK_MS = 700; // a screen reader is told what stands still, not every change while one draws

let strokes = [];
let stroke = null;
let picture = null; // a file that was chosen, instead of strokes
let asking = false;
let askAgain = false;
let apiKey = "";
let classNames = [];
let speaking = 0;

function drawAll() {
  pen.fillStyle = "#ffffff";
  pen.fillRect(0, 0, sheet.width, sheet.height);
  pen.strokeStyle = pen.fillStyle = "#000000";
  pen.lineWidth = PEN_PX;
  pen.lineCap = pen.lineJoin = "round";
  for (const points of strokes) {
    pen.beginPath();
    pen.moveTo(points[0].x, points[0].y);
    for (const point of points) pen.lineTo(point.x, point.y);
    pen.stroke();
  }
}

function placeOf(event) {
  const box = sheet.getBoundingClientRect();
  const scale = sheet.width / box.width;
  return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
}

function begin(event) {
  if (event.button !== 0 || stroke) return;
  if (picture) forgetPicture();
  sheet.setPointerCapture(event.pointerId);
  stroke = { id: event.pointerId, points: [placeOf(event)] };
  strokes.push(stroke.points);
  changed();
}

function go(event) {
  if (!stroke || event.pointerId !== stroke.id) return;
  const all = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
  for (const one of all.length ? all : [event]) stroke.points.push(placeOf(one));
  changed();
}

function end(event) {
  if (stroke && event.pointerId === stroke.id) stroke = null;
}

function changed() {
  drawAll();
  ask();
}

function forgetPicture() {
  picture = null;
  find("file").value = "";
}

function clearAll() {
  strokes = [];
  stroke = null;
  forgetPicture();
  drawAll();
  showNothing();
}

function undo() {
  if (picture) return clearAll();
  strokes.pop();
  if (strokes.length) changed();
  else clearAll();
}

async function choose(file) {
  if (!file) return;
  strokes = [];
  picture = file;
  drawAll();
  ask();
  try {
    const image = await createImageBitmap(file);
    const scale = Math.min(sheet.width / image.width, sheet.height / image.height);
    const [width, height] = [image.width * scale, image.height * scale];
    pen.drawImage(image, (sheet.width - width) / 2, (sheet.height - height) / 2, width, height);
  } catch {
    // The browser cannot show it; the server may read it all the same.
  }
}

async function ask() {
  if (asking) {
    askAgain = true;
    return;
  }
  asking = true;
  try {
    do {
      askAgain = false;
      if (picture || strokes.length) await askOnce();
      await new Promise((resolve) => setTimeout(resolve, READ_AGAIN_MS));
    } while (askAgain);
  } finally {
    asking = false;
  }
}

async function askOnce() {
  const body = picture || (await new Promise((resolve) => sheet.toBlob(resolve, "image/png")));
  const headers = { "content-type": "application/octet-stream" };
  if (apiKey) headers["x-api-key"] = apiKey;
  const start = performance.now();
  let answer;
  try {
    answer = await fetch("/predict?seen=true", { method: "POST", body, headers });
    const spent = performance.now() - start;
    const report = await answer.json();
    if (answer.status === 401) find("key-form").hidden = false;
    if (report.error) return showProblem(report.error);
    if (picture || strokes.length) show(report.items[0], answer.headers.get("server-timing"), spent);
  } catch {
    showProblem("The server does not answer.");
  }
}

function show(item, timing, spent) {
  const dur = /dur=([\d.]+)/.exec(timing || "");
  find("server-time").textContent = dur ? `${Number(dur[1]).toFixed(1)} ms` : "-";
  find("whole-time").textContent = `${spent.toFixed(1)} ms`;
  if (item.status === "error") return showProblem(`Cannot be read: ${item.error}`);
  const percent = (item.confidence * 100).toFixed(1);
  if (item.status === "ok") say(`${item.name}, ${percent} % sure`, false);
  else say(`Rejected: ${item.reason}`, true);
  showSeen(item.seen);
  showBars(item.probabilities);
}

function say(text, isBad) {
  const answer = find("answer");
  answer.classList.toggle("bad", isBad);
  answer.textContent = text;
  clearTimeout(speaking);
  speaking = setTimeout(() => (find("spoken").textContent = text), SPEAK_MS);
}

function showProblem(text) {
  say(text, true);
  showSeen(null);
  showBars(null);
}

function showNothing() {
  showProblem("Nothing drawn yet.");
  find("answer").classList.remove("bad");
  find("server-time").textContent = find("whole-time").textContent = "-";
}

function showSeen(text) {
  const canvas = find("seen");
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  canvas.setAttribute("aria-label", `What the model saw: ${text ? "your picture" : "nothing yet"}`);
  if (!text) return;
  const levels = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const image = context.createImageData(28, 28);
  levels.forEach((level, place) => image.data.set([level, level, level, 255], place * 4));
  context.putImageData(image, 0, 0);
}

function makeBars() {
  const rows = classNames.map((name) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    const cell = document.createElement("td");
    const track = document.createElement("div");
    track.className = "track";
    const bar = document.createElement("div");
    bar.className = "bar";
    track.append(bar);
    cell.append(track);
    const number = document.createElement("td");
    number.className = "number";
    number.textContent = "-";
    row.append(head, cell, number);
    return row;
  });
  document.querySelector("#bars tbody").replaceChildren(...rows);
}

function showBars(probabilities) {
  const best = probabilities ? probabilities.indexOf(Math.max(...probabilities)) : -1;
  document.querySelectorAll("#bars tbody tr").forEach((row, place) => {
    const share = probabilities ? probabilities[place] * 100 : 0;
    row.classList.toggle("best", place === best);
    row.querySelector(".bar").style.width = `${share}%`;
    row.querySelector(".number").textContent = probabilities ? share.toFixed(1) : "-";
  });
}

async function greet() {
  try {
    const health = await (await fetch("/healthz")).json();
    classNames = health.class_names;
    find("model").textContent = `${health.model} (${health.model_sha256.slice(0, 12)}) on ${health.provider}`;
    makeBars();
  } catch {
    find("model").textContent = "The server does not answer.";
  }
}

sheet.addEventListener("pointerdown", begin);
sheet.addEventListener("pointermove", go);
sheet.addEventListener("pointerup", end);
sheet.addEventListener("pointercancel", end);
find("clear").addEventListener("click", clearAll);
find("undo").addEventListener("click", undo);
find("file").addEventListener("change", (event) => choose(event.target.files[0]));
find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  apiKey = find("key").value;
  find("key-form").hidden = true;
  ask();
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault(); // else a picture that misses is opened instead of the page
    find("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") choose(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => choose(event.clipboardData.files[0]));
drawAll();
greet();
