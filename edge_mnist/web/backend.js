// What the page asks, and the only module that knows where the model runs: here, in the browser.
// A page of a server brings another backend.js with the same one function.

import { Predictor } from "./predictor.js";

/**
 * Open the model.
 *
 * @returns {Promise<{classNames: string[], about: string, read: function}>} the classes, a line
 *   about the model, and `read(picture)`: a Blob or ImageData in, and out {status: "ok" |
 *   "rejected" | "error", digit, name, confidence, probabilities, reason, error,
 *   image: 784 levels, read_ms, run_ms}
 */
export async function openBackend() {
  const predictor = await Predictor.open();
  const { info } = predictor;
  return {
    classNames: info.class_names,
    about: describe(info),
    read: (picture) => predictor.predict(picture),
  };
}

function describe(info) {
  const share = (100 * info.accuracy).toFixed(2);
  const accuracy = info.accuracy ? `, ${share} % right on the test images of ${info.dataset}` : "";
  return `${info.file} (${info.sha256.slice(0, 12)})${accuracy}, in this browser`;
}
