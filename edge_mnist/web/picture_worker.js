// Reads pictures in a thread of its own: a large photo takes a second, and the page stays usable.

import { PictureError, decode, toGrey } from "./picture/decoding.js";
import { openReader } from "./picture/reader.js";

/**
 * @typedef {object} PictureRequest
 * @property {Blob} picture
 * @property {string} framing `digit`, `ink` or `whole`, see picture/reader.js
 * @property {MessagePort} port where the reply goes
 */

/**
 * @typedef {object} PictureReply
 * @property {{image: Uint8Array, reason: string | null}} [input] what the model is given
 * @property {string} [error] why the picture cannot be read
 * @property {string} [failure] what went wrong otherwise
 */

/** @type {Awaited<ReturnType<typeof openReader>>} */
let readGrey;

addEventListener("message", async ({ data }) => {
  const { picture, framing, port } = /** @type {PictureRequest} */ (data);
  /** @type {PictureReply} */
  let reply;
  try {
    reply = { input: readGrey(toGrey(await decode(picture)), framing) };
  } catch (error) {
    reply = error instanceof PictureError ? { error: error.message } : { failure: `${error}` };
  }
  port.postMessage(reply);
});

// Tells the page that it may ask, or what is missing for that.
fetch(new URL("picture/reader.wasm", import.meta.url))
  .then((response) => {
    if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
    return response.arrayBuffer();
  })
  .then(openReader)
  .then((opened) => {
    readGrey = opened;
    postMessage(null);
  })
  .catch((error) => postMessage(`picture/reader.wasm: ${error.message}`));
