// Reads pictures in a thread of its own: a large photo takes a second, and the page stays usable.

import { PictureError, decode } from "./picture/decoding.js";
import { readPicture } from "./picture/reading.js";

/**
 * @typedef {object} PictureRequest
 * @property {Blob} picture
 * @property {string} framing `digit`, `ink` or `whole`, see picture/reading.js
 * @property {MessagePort} port where the reply goes
 */

/**
 * @typedef {object} PictureReply
 * @property {{image: Uint8Array, reason: string | null}} [input] what the model is given
 * @property {string} [error] why the picture cannot be read
 * @property {string} [failure] what went wrong otherwise
 */

addEventListener("message", async ({ data }) => {
  const { picture, framing, port } = /** @type {PictureRequest} */ (data);
  /** @type {PictureReply} */
  let reply;
  try {
    reply = { input: readPicture(await decode(picture), framing) };
  } catch (error) {
    reply = error instanceof PictureError ? { error: error.message } : { failure: `${error}` };
  }
  port.postMessage(reply);
});
postMessage("ready");
