// The backend of `edge-mnist export --target web`: reads the picture here, in WebAssembly.

import { BackendError, find, toErrorAnswer } from "./answer.js";
import { PictureError, decode } from "./decoding.js";
import { checkCanvas } from "./drawing.js";
import { openWasm } from "./wasm.js";

export async function openBackend(onProgress) {
  if (typeof WebAssembly !== "object") {
    const advice = "This page reads digits with WebAssembly. Allow it, or use another browser.";
    throw new BackendError("WebAssembly is switched off", advice);
  }
  checkCanvas();
  if (location.protocol !== "file:") offerInstallation().catch(() => {}); // it works without
  const model = JSON.parse(find("model").textContent);
  const network = model.runtime_bytes ? undefined : await unpack("network");
  const wasm = await openWasm(await unpack("wasm"), network);
  const computeLogits = network ? wasm.computeLogits : await openRuntime(model, onProgress);
  return {
    classNames: model.class_names,
    facts: model.facts,
    privacy: "Everything happens in this browser: your picture never leaves your device.",
    docsUrl: null,
    predict: async (picture) => {
      try {
        const { image, reason } = wasm.read(await decode(picture), model.framing);
        return toAnswer(await computeLogits(image), image, reason, model);
      } catch (error) {
        if (error instanceof PictureError) return toErrorAnswer(error.message);
        throw error;
      }
    },
  };
}

/** `reason`: why the picture shows no single digit. */
function toAnswer(logits, image, reason, model) {
  const largest = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - largest));
  const sum = powers.reduce((one, other) => one + other);
  const probabilities = powers.map((power) => power / sum);
  const label = probabilities.indexOf(Math.max(...probabilities));
  const confidence = probabilities[label];
  const unsure = model.framing === "digit" ? "not a digit" : "none of the classes";
  reason ??= confidence < model.rejection_threshold ? unsure : null;
  const name = reason === null ? model.class_names[label] : null;
  const status = reason === null ? "ok" : "rejected";
  return { status, name, confidence, probabilities, reason, error: null, image };
}

/** Let the browser install the page, with two files that lie beside it where it is hosted. */
async function offerInstallation() {
  const manifest = { rel: "manifest", href: "manifest.webmanifest" };
  document.head.append(Object.assign(document.createElement("link"), manifest));
  await navigator.serviceWorker.register("service_worker.js");
}

/** Decode what the page holds: base64 of zlib's format. */
async function unpack(id) {
  const packed = Uint8Array.from(atob(find(id).textContent), (one) => one.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Open a model with onnxruntime-web, whose files lie beside the page: `--runtime ort`. */
async function openRuntime(model, onProgress) {
  if (location.protocol === "file:") {
    const advice = "In its folder, run “python3 -m http.server” and open http://localhost:8000/.";
    throw new BackendError("This page needs a web server", advice);
  }
  try {
    let loadedBytes = 0;
    const fetchBytes = async (name) => {
      const response = await fetch(name);
      if (!response.ok || !response.body) throw new Error(`${name}: ${response.status}`);
      const counter = new TransformStream({
        transform(chunk, controller) {
          onProgress((loadedBytes += chunk.byteLength), model.runtime_bytes + model.size_bytes);
          controller.enqueue(chunk);
        },
      });
      return new Response(response.body.pipeThrough(counter)).arrayBuffer();
    };
    const files = await Promise.all([fetchBytes("ort/ort.wasm"), fetchBytes(model.file)]);
    const ort = await import(new URL("ort/ort.js", document.baseURI).href);
    ort.env.wasm.numThreads = 1; // more need headers that many hosts cannot send
    ort.env.wasm.wasmBinary = files[0];
    ort.env.logLevel = "error";
    const session = await ort.InferenceSession.create(new Uint8Array(files[1]));
    return async (image) => {
      const images = new ort.Tensor("uint8", image, [1, 28, 28]);
      return (await session.run({ images }, ["logits"])).logits.data;
    };
  } catch (error) {
    const advice = `Check your connection, then try again. (${error})`;
    throw new BackendError("Part of this page did not load", advice);
  }
}
