// The picture path: from grey levels to the model's input. reader.wasm is compiled from
// edge_mnist/picture/reader.c by build_wasm.sh beside it.

const SIDE_PX = 28;
const FRAMINGS = ["digit", "ink", "whole"]; // as reader.h numbers them
const REASONS = [null, "blank", "more than one digit"];
const N_PIXELS = SIDE_PX * SIDE_PX;
const ANSWER_BYTES = N_PIXELS + 8; // the image, the reason, and up to a multiple of 8
const PAGE_BYTES = 65_536; // of WebAssembly's memory

/**
 * Compile the picture path.
 *
 * @param {BufferSource} wasm the content of reader.wasm
 * @returns {Promise<(grey: {height: number, width: number, data: Uint8Array}, framing: string) =>
 *   {image: Uint8Array, reason: string | null}>} reads grey levels with a framing, `digit`, `ink`
 *   or `whole`; the image is 0 = background, 255 = full ink
 */
export async function openReader(wasm) {
  const { instance } = await WebAssembly.instantiate(wasm);
  const { memory, __heap_base, edge_mnist_scratch_size, edge_mnist_read_framed } =
    /** @type {any} */ (instance.exports);
  return ({ height, width, data }, framing) => {
    const scratchBytes = edge_mnist_scratch_size(width, height);
    const answerAt = __heap_base.value;
    const greyAt = answerAt + ANSWER_BYTES;
    const scratchAt = greyAt + data.length;
    const missing = scratchAt + scratchBytes - memory.buffer.byteLength;
    if (missing > 0) memory.grow(Math.ceil(missing / PAGE_BYTES));
    new Uint8Array(memory.buffer).set(data, greyAt);
    const frame = FRAMINGS.indexOf(framing);
    const error = edge_mnist_read_framed(
      greyAt, width, height, width, frame, answerAt, scratchAt, scratchBytes,
    );
    if (error) throw new Error(`the picture path returned error ${error}`);
    const [reason] = new Int32Array(memory.buffer, answerAt + N_PIXELS, 1);
    const image = new Uint8Array(memory.buffer, answerAt, N_PIXELS).slice();
    return { image, reason: REASONS[reason] };
  };
}
