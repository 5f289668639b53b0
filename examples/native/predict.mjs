// Reads PGM files with Node: node predict.mjs EDGE_MNIST_WASM FILE...
//
//     clang --target=wasm32 -std=c99 -O3 -ffreestanding -nostdlib -mbulk-memory -Wl,--no-entry \
//         -Wl,--export-all edge_mnist.c edge_mnist_reader.c edge_mnist_predict.c -o edge_mnist.wasm
//
// Prints for each its class, or "rejected: " and the reason, and the confidence.
import { readFileSync } from "node:fs";

const PAGE_BYTES = 65536;
const [, , wasmPath, ...paths] = process.argv;
const { instance } = await WebAssembly.instantiate(readFileSync(wasmPath));
const library = instance.exports;

function readPgm(path) {
  const content = readFileSync(path);
  const words = [];
  let at = 0;
  while (words.length < 4) {
    const end = content.findIndex((byte, index) => index >= at && byte <= 32);
    words.push(content.toString("latin1", at, end));
    at = end + 1;
  }
  const [kind, width, height, most] = [words[0], ...words.slice(1).map(Number)];
  const levels = content.subarray(at);
  if (kind !== "P5" || most !== 255 || levels.length !== width * height) {
    throw new Error(`${path}: no PGM file of 8 bits`);
  }
  return { levels, width, height };
}

/** Read a picture: rows of grey levels, one after another. Memory begins behind the library's own. */
function predict({ levels, width, height }) {
  const size = library.edge_mnist_predict_scratch_size(width, height);
  const prediction = Math.ceil(library.__heap_base.value / 8) * 8;
  const grey = prediction + 16;
  const scratch = grey + levels.length;
  const missing = scratch + size - library.memory.buffer.byteLength;
  if (missing > 0) library.memory.grow(Math.ceil(missing / PAGE_BYTES));
  new Uint8Array(library.memory.buffer).set(levels, grey);
  const error = library.edge_mnist_predict(
    grey, width, height, width, prediction, scratch, size,
  );
  if (error) throw new Error(`error ${error}`);
  const [label, confidence, reason] = new Int32Array(library.memory.buffer, prediction, 3);
  return { label, confidence: confidence / 65536, reason };
}

function readString(address) {
  const bytes = new Uint8Array(library.memory.buffer, address);
  return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
}

for (const path of paths) {
  const { label, confidence, reason } = predict(readPgm(path));
  const name = label < 0
    ? `rejected: ${readString(library.edge_mnist_reason_name(reason))}`
    : readString(library.edge_mnist_class_name(label));
  console.log(`${name} ${confidence.toFixed(4)}`);
}
