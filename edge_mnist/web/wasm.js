// Picture path and network in WebAssembly: edge_mnist.wasm, which wasm/build.sh compiles.

const FRAMINGS = ["digit", "ink", "whole"]; // as edge_mnist/picture/reader.h numbers them
const REASONS = [null, "blank", "more than one digit"];
const N_PIXELS = 28 * 28;
const PAGE_BYTES = 65_536; // of WebAssembly's memory

// Compile the picture path and the network. `wasm`: the content of edge_mnist.wasm; `network`: what
// edge_mnist/exporting/c/data.py writes of a model.
export async function openWasm(wasm, network = new Uint8Array()) {
  const { instance } = await WebAssembly.instantiate(wasm);
  const { memory, __heap_base, ...functions } = instance.exports;
  const networkAt = Math.ceil(__heap_base.value / 8) * 8;
  const answerAt = networkAt + Math.ceil(network.length / 8) * 8; // image and reason
  const freeAt = answerAt + N_PIXELS + 8;

  const reach = (endAt) => {
    const missing = endAt - memory.buffer.byteLength;
    if (missing > 0) memory.grow(Math.ceil(missing / PAGE_BYTES));
  };
  reach(freeAt);
  new Uint8Array(memory.buffer).set(network, networkAt);
  if (network.length) functions.edge_mnist_open_network(networkAt);

  /** Bring the ink of a picture to 28 x 28 levels, 0 = background; `framing` as above. */
  const read = ({ height, width, data }, framing) => {
    const scratchAt = freeAt + data.length;
    const scratchBytes = functions.edge_mnist_scratch_size(width, height);
    reach(scratchAt + scratchBytes);
    new Uint8Array(memory.buffer).set(data, freeAt);
    const rest = [width, FRAMINGS.indexOf(framing), answerAt, scratchAt, scratchBytes];
    const error = functions.edge_mnist_read_framed(freeAt, width, height, ...rest);
    if (error) throw new Error(`the picture path returned error ${error}`);
    const [reason] = new Int32Array(memory.buffer, answerAt + N_PIXELS, 1);
    const image = new Uint8Array(memory.buffer, answerAt, N_PIXELS).slice();
    return { image, reason: REASONS[reason] };
  };

  /** Compute the logits of an image, equal to onnxruntime's. */
  const computeLogits = (image) => {
    const [nClasses, scratchBytes] = new Uint32Array(memory.buffer, networkAt, 2);
    const scratchAt = freeAt + 4 * nClasses;
    reach(scratchAt + scratchBytes);
    new Uint8Array(memory.buffer).set(image, answerAt);
    functions.edge_mnist_compute_logits(answerAt, freeAt, scratchAt);
    return new Float32Array(memory.buffer, freeAt, nClasses).slice();
  };
  return { read, computeLogits };
}
