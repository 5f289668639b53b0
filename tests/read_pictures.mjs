// Read pictures with the page's own path, without a browser:
// node read_pictures.mjs WEB PICTURES FRAMING NETWORK
// PICTURES holds, for each, width and height, four bytes each, and its pixels as the browser decodes
// them: red, green, blue, alpha. Prints one JSON object a picture.

import { openSync, readFileSync, readSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [web, pictures, framing, network] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(join(web, name)).href);
const [{ reduceLarge, toGrey }, { openWasm }] = [await load("decoding.js"), await load("wasm.js")];
const wasm = await openWasm(readFileSync(join(web, "edge_mnist.wasm")), readFileSync(network));

const encode = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");
const file = openSync(pictures);
const head = Buffer.alloc(8);
while (readSync(file, head) === head.length) {
  const [width, height] = [head.readUInt32LE(0), head.readUInt32LE(4)];
  const data = Buffer.alloc(4 * width * height);
  readSync(file, data);
  const { image, reason } = wasm.read(reduceLarge(toGrey({ height, width, data })), framing);
  const logits = wasm.computeLogits(image);
  console.log(JSON.stringify({ reason, image: encode(image), logits: encode(logits) }));
}
