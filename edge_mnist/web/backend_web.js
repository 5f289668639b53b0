// The backend of `edge-mnist export --target web`: reads the picture here, with onnxruntime-web.

import { BackendError, toErrorAnswer } from "./backend_types.js";

const SIDE_PX = 28;

/** @typedef {import("./backend_types.js").Answer} Answer */
/** @typedef {import("./picture_worker.js").PictureReply} PictureReply */

/**
 * What `export --target web` wrote into model.json.
 *
 * @typedef {object} ModelInfo
 * @property {string} file name of the model file
 * @property {number} size_bytes of that file
 * @property {string} sha256
 * @property {string[]} class_names
 * @property {number} rejection_threshold probability below which a class is not answered
 * @property {string} framing `digit` or `whole`, see picture/reading.js
 * @property {string} dataset
 * @property {number} accuracy 0..1; 0 if it was not measured
 * @property {string} runtime name and version
 * @property {number} runtime_bytes of ort/ort.wasm
 */

/** @type {import("./backend_types.js").OpenBackend} */
export async function openBackend(onProgress) {
  if (typeof WebAssembly !== "object") {
    throw new BackendError(
      "WebAssembly is switched off",
      "This page reads digits with WebAssembly. Allow it for this page, or use another browser.",
    );
  }
  /** @type {ModelInfo} */
  const info = await (await fetchBeside("model.json")).json();
  const totalBytes = info.runtime_bytes + info.size_bytes;
  let loadedBytes = 0;
  const count = (/** @type {number} */ n) => onProgress((loadedBytes += n), totalBytes);
  const [worker, runtime, model] = await Promise.all([
    startWorker(),
    download("ort/ort.wasm", count),
    download(info.file, count),
  ]);
  const ort = await import("./ort/ort.js").catch((error) => {
    throw loadError(error.message);
  });
  const session = await openSession(ort, runtime, model);
  return {
    classNames: info.class_names,
    facts: describe(info),
    privacy: "Everything happens in this browser: your picture never leaves your device.",
    docsUrl: null,
    predict: (picture) => predict(picture, { worker, ort, session, info }),
  };
}

/**
 * @param {any} ort the module of onnxruntime-web
 * @param {ArrayBuffer} runtime
 * @param {ArrayBuffer} model
 */
async function openSession(ort, runtime, model) {
  ort.env.wasm.numThreads = 1; // more need shared memory, and so headers that many hosts cannot send
  ort.env.wasm.wasmBinary = runtime;
  ort.env.logLevel = "error";
  try {
    return await ort.InferenceSession.create(new Uint8Array(model));
  } catch (error) {
    throw new BackendError(
      "The model cannot be started",
      `Reload the page, or use a newer browser. (${error})`,
    );
  }
}

/** Start the thread that reads pictures. */
async function startWorker() {
  const worker = new Worker(new URL("picture_worker.js", import.meta.url), { type: "module" });
  await new Promise((resolve, reject) => {
    worker.onmessage = resolve;
    worker.onerror = () => reject(loadError("picture_worker.js"));
  });
  return worker;
}

/**
 * @param {Worker} worker
 * @param {Blob} picture
 * @param {string} framing
 * @returns {Promise<PictureReply>}
 */
function readInWorker(worker, picture, framing) {
  const { port1, port2 } = new MessageChannel();
  return new Promise((resolve) => {
    port1.onmessage = ({ data }) => resolve(data);
    worker.postMessage({ picture, framing, port: port2 }, [port2]);
  });
}

/**
 * Read one picture: its file to 28 x 28, and that to the probability of each class.
 *
 * @param {Blob} picture
 * @param {{worker: Worker, ort: any, session: any, info: ModelInfo}} model
 * @returns {Promise<Answer>}
 */
async function predict(picture, { worker, ort, session, info }) {
  const { input, error, failure } = await readInWorker(worker, picture, info.framing);
  if (error !== undefined) return toErrorAnswer(error);
  if (!input) throw new Error(failure);
  const images = new ort.Tensor("uint8", input.image, [1, SIDE_PX, SIDE_PX]);
  const outputs = await session.run({ images }, ["probabilities"]);
  /** @type {number[]} */
  const probabilities = Array.from(outputs.probabilities.data);
  const label = probabilities.indexOf(Math.max(...probabilities));
  const confidence = probabilities[label];
  const unsure = info.framing === "digit" ? "not a digit" : "none of the classes";
  const reason = input.reason ?? (confidence < info.rejection_threshold ? unsure : null);
  const name = reason === null ? info.class_names[label] : null;
  const status = reason === null ? "ok" : "rejected";
  return { status, name, confidence, probabilities, reason, error: null, image: input.image };
}

/** @param {ModelInfo} info */
function describe(info) {
  /** @type {[string, string][]} */
  const facts = [["Model", `${info.file}, ${Math.round(info.size_bytes / 1000)} kB`]];
  if (info.accuracy) {
    const percent = (100 * info.accuracy).toFixed(2);
    facts.push(["Accuracy", `${percent} % of the test images of ${info.dataset}`]);
  }
  facts.push(["SHA-256", info.sha256], ["Runs on", `your device, with ${info.runtime}`]);
  return facts;
}

/**
 * Fetch a file and count its bytes while they arrive.
 *
 * @param {string} name
 * @param {(bytes: number) => void} count
 */
async function download(name, count) {
  const response = await fetchBeside(name);
  const counter = new TransformStream({
    transform(chunk, controller) {
      count(chunk.byteLength);
      controller.enqueue(chunk);
    },
  });
  return new Response(response.body?.pipeThrough(counter)).arrayBuffer().catch((error) => {
    throw loadError(error.message);
  });
}

/** @param {string} name */
async function fetchBeside(name) {
  const response = await fetch(new URL(name, import.meta.url)).catch(() => null);
  if (!response) throw loadError("no connection");
  if (!response.ok) throw loadError(`${name}: ${response.status} ${response.statusText}`);
  return response;
}

/** @param {string} detail */
function loadError(detail) {
  return new BackendError(
    "Part of this page did not load",
    `Check your connection, then try again. (${detail})`,
  );
}
