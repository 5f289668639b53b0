// What both backends return and throw. The page loads one of them, under the name backend.js:
// backend_web.js in the folder that `edge-mnist export --target web` writes, backend_server.js from
// `edge-mnist serve`.

/**
 * What the model reads in one picture.
 *
 * @typedef {object} Answer
 * @property {"ok" | "rejected" | "error"} status `rejected`: the picture shows no single digit;
 *   `error`: it cannot be read
 * @property {string | null} name the predicted class; null unless ok
 * @property {number | null} confidence probability of the likeliest class, 0..1; null on error
 * @property {number[] | null} probabilities one for each class; null on error
 * @property {string | null} reason why it was rejected; null unless rejected
 * @property {string | null} error why it cannot be read; null unless error
 * @property {Uint8Array | null} image the model's input, 28 x 28 levels in rows, 0 = background,
 *   255 = full ink; null on error
 */

/**
 * A model that is ready to read pictures.
 *
 * @typedef {object} Backend
 * @property {string[]} classNames
 * @property {[string, string][]} facts names and values for "About the model"
 * @property {string} privacy where a picture goes, in one sentence
 * @property {string | null} docsUrl documentation of the server, if there is one
 * @property {(picture: Blob, key: string) => Promise<Answer>} predict reads a picture's file; `key`
 *   is the API key that the user gave, or empty; throws BackendError
 */

/**
 * Open the model.
 *
 * @callback OpenBackend
 * @param {(loadedBytes: number, totalBytes: number) => void} onProgress
 * @returns {Promise<Backend>} throws BackendError
 */

/** No answer can be had. The message says what happened and `advice` what to do, in words. */
export class BackendError extends Error {
  /**
   * @param {string} message
   * @param {string} advice
   * @param {{needsKey?: boolean}} [options] `needsKey`: a right API key would help
   */
  constructor(message, advice, { needsKey = false } = {}) {
    super(message);
    this.advice = advice;
    this.needsKey = needsKey;
  }
}

/**
 * Make the answer to a picture that cannot be read.
 *
 * @param {string} error
 * @returns {Answer}
 */
export function toErrorAnswer(error) {
  const nothing = { name: null, confidence: null, probabilities: null, reason: null, image: null };
  return { status: "error", error, ...nothing };
}
