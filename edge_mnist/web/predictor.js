// The predictor: a model file, opened once, that reads digits; the twin of predictor.py.

import * as ort from "./ort/ort.js";
import { PictureError, decode } from "./picture/decoding.js";
import { argmax } from "./picture/numpy.js";
import { SIDE_PX, readPicture } from "./picture/reading.js";

// One thread needs no shared memory, and so no headers that many hosts cannot send.
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = { wasm: new URL("ort/ort.wasm", import.meta.url).href };
ort.env.logLevel = "error";

/** Reads digits with one model file. */
export class Predictor {
  constructor(session, info) {
    this.session = session;
    this.info = info;
  }

  /** Open the model beside this file; `info` is what the export wrote into model.json. */
  static async open() {
    const info = await (await fetchBeside("model.json")).json();
    const content = await (await fetchBeside(info.file)).arrayBuffer();
    const session = await ort.InferenceSession.create(new Uint8Array(content));
    return new Predictor(session, info);
  }

  /**
   * Read the digit in one picture.
   *
   * @param {Blob | ImageData} picture a picture's file, or pixels
   * @returns {Promise<object>} what Python's Prediction holds, and read_ms and run_ms
   */
  async predict(picture) {
    const start = performance.now();
    let sight;
    try {
      const decoded = picture instanceof Blob ? await decode(picture) : fromPixels(picture);
      sight = readPicture(decoded, this.info.framing);
    } catch (error) {
      if (error instanceof PictureError) return { status: "error", error: error.message };
      throw error;
    }
    const between = performance.now();
    const probabilities = await this.classify(sight.image);
    const run_ms = performance.now() - between;
    return { ...this.judge(sight, probabilities), read_ms: between - start, run_ms };
  }

  /** Return the probability of each class for one image of 784 levels. */
  async classify(image) {
    const images = new ort.Tensor("uint8", image, [1, SIDE_PX, SIDE_PX]);
    const { probabilities } = await this.session.run({ images }, ["probabilities"]);
    return Array.from(probabilities.data);
  }

  judge({ image, reason }, probabilities) {
    const label = argmax(probabilities);
    const confidence = probabilities[label];
    const unsure = confidence < this.info.rejection_threshold ? "not a digit" : null;
    const why = reason ?? unsure;
    return {
      status: why ? "rejected" : "ok",
      digit: why ? null : label,
      name: why ? null : this.info.class_names[label],
      confidence,
      probabilities,
      reason: why,
      error: null,
      image,
    };
  }
}

async function fetchBeside(name) {
  const response = await fetch(new URL(name, import.meta.url));
  if (!response.ok) throw new Error(`${name}: ${response.status} ${response.statusText}`);
  return response;
}

/** Take pixels of a canvas, which are opaque. */
function fromPixels({ height, width, data }) {
  return { height, width, channels: 4, data, isOpaque: true };
}
