// From a picture's file to grey levels, with the browser's decoder; see edge_mnist/picture/decode.py.

const MAX_BYTES = 32_000_000;
const MAX_PIXELS = 48_000_000;
const MAX_SIDE_PX = 65_535;
const LUMA = [19595, 38470, 7471]; // ITU-R BT.601, in units of 1 / 65536
const PNG_START = 0x89504e47;

/** A picture cannot be read; the message is one line for the user. */
export class PictureError extends Error {}

/**
 * Decode a picture's file.
 *
 * @param {Blob} file
 * @returns {Promise<{height: number, width: number, data: Uint8Array}>} grey levels
 * @throws {PictureError}
 */
export async function decode(file) {
  if (!file.size) throw new PictureError("the file is empty");
  if (file.size > MAX_BYTES) throw new PictureError("larger than 32 MB");
  try {
    const options = /** @type {const} */ ({ colorSpaceConversion: "none", premultiplyAlpha: "none" });
    const bitmap = await createImageBitmap(file, options); // turned as EXIF says
    const { height, width } = bitmap;
    const size = `${width} x ${height} pixels`;
    if (Math.max(height, width) > MAX_SIDE_PX) throw new PictureError(`${size}: a side is too long`);
    if (height * width > MAX_PIXELS) throw new PictureError(`${size} are too many`);
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    if (!context) throw new Error("no canvas");
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    const data = toGrey(context.getImageData(0, 0, width, height).data);
    if (await isDeepGrey(file)) stretch(data);
    return { height, width, data };
  } catch (error) {
    if (error instanceof PictureError) throw error;
    throw new PictureError("not a picture that this browser can read, or damaged");
  }
}

/**
 * Bring pixels to grey levels, transparent parts filled.
 *
 * @param {ArrayLike<number>} pixels red, green, blue and alpha of each
 */
export function toGrey(pixels) {
  const grey = new Uint8Array(pixels.length / 4);
  const histogram = new Uint32Array(256); // of what is more opaque than not
  let isClear = false;
  for (let i = 0, at = 0; i < grey.length; i++, at += 4) {
    const [red, green, blue] = LUMA;
    grey[i] =
      (pixels[at] * red + pixels[at + 1] * green + pixels[at + 2] * blue + 0x8000) >> 16;
    const alpha = pixels[at + 3];
    isClear ||= alpha !== 255;
    if (alpha > 127) histogram[grey[i]]++;
  }
  if (!isClear) return grey;
  const sheet = chooseSheet(histogram);
  return grey.map((level, i) => {
    const alpha = pixels[4 * i + 3];
    return Math.round((level * alpha + sheet * (255 - alpha)) / 255);
  });
}

/**
 * Choose the level below transparent parts that makes their ink readable.
 *
 * Ink of one tone gets a sheet of the other. A picture that has ink and sheet of its own, cut out
 * with soft corners say, is continued by its own middle tone.
 *
 * @param {Uint32Array} histogram
 */
function chooseSheet(histogram) {
  const n = histogram.reduce((sum, count) => sum + count, 0);
  if (!n) return 255;
  const [low, middle, high] = [0.05, 0.5, 0.95].map((share) => {
    let left = share * (n - 1);
    return histogram.findIndex((count) => (left -= count) < 0);
  });
  if (high - low > 100) return middle;
  return middle < 128 ? 255 : 0;
}

/** Tell whether a file is a PNG of grey levels of 16 bits. @param {Blob} file */
async function isDeepGrey(file) {
  const head = new DataView(await file.slice(0, 26).arrayBuffer());
  return head.byteLength === 26 && head.getUint32(0) === PNG_START && head.getUint16(24) === 0x1000;
}

/** Bring levels of 16 bits, of which often a part is used, to 0..255. @param {Uint8Array} grey */
function stretch(grey) {
  const high = grey.reduce((best, level) => Math.max(best, level), 0);
  const low = grey.reduce((best, level) => Math.min(best, level), 255);
  if (high > 127 || high === low) return;
  grey.forEach((level, i) => (grey[i] = Math.round(((level - low) * 255) / (high - low))));
}
