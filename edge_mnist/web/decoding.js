// From a picture's file to grey levels, as edge_mnist/picture/decode.py, by the browser's decoder.

const MAX_BYTES = 32_000_000;
const MAX_PIXELS = 48_000_000;
const MAX_SIDE_PX = 65_535; // Chromium's canvas stays blank beyond
const LUMA = [19595, 38470, 7471]; // ITU-R BT.601, in units of 1 / 65536
const PNG_START = 0x89504e47;
const KEPT_PIXELS = 1_000_000; // a larger picture is averaged down to no fewer
const DRAFT_SIDE_PX = 512; // Pillow decodes a JPEG at 1/2, 1/4 or 1/8 of its size, no smaller
const STRIP_PIXELS = 1_000_000; // of a JPEG, read at once; between strips the page handles input

/** A picture cannot be read; the message is one line for the user. */
export class PictureError extends Error {}

/** Decode a picture's file to {height, width, data}; throws PictureError. */
export async function decode(file) {
  if (!file.size) throw new PictureError("the file is empty");
  if (file.size > MAX_BYTES) throw new PictureError("larger than 32 MB");
  try {
    const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
    const bitmap = await createImageBitmap(file, options); // turned as EXIF says
    const { height, width } = bitmap;
    const isHuge = height * width > MAX_PIXELS || Math.max(height, width) > MAX_SIDE_PX;
    if (isHuge) throw new PictureError(`${width} x ${height} pixels are too many`);
    const head = new DataView(await file.slice(0, 26).arrayBuffer());
    const isJpeg = head.getUint16(0) === 0xffd8; // it is opaque
    const shorter = Math.floor(Math.min(height, width) / DRAFT_SIDE_PX);
    const factor = (isJpeg && [8, 4, 2].find((n) => shorter >= n)) || 1;
    const nRows = isJpeg ? Math.ceil(STRIP_PIXELS / width / factor) * factor : height;
    const canvas = new OffscreenCanvas(width, Math.min(nRows, height));
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const size = { height: Math.ceil(height / factor), width: Math.ceil(width / factor) };
    const grey = { ...size, data: new Uint8Array(size.height * size.width) };
    for (let top = 0; top < height; top += nRows) {
      if (top) await new Promise((done) => setTimeout(done));
      context.drawImage(bitmap, 0, -top);
      const strip = toGrey(context.getImageData(0, 0, width, Math.min(nRows, height - top)));
      grey.data.set(downscale(strip, factor).data, (top / factor) * grey.width);
    }
    bitmap.close();
    const isDeepGrey = head.getUint32(0) === PNG_START && head.getUint16(24) === 0x1000; // 16 bits
    if (isDeepGrey) stretch(grey.data);
    return reduceLarge(grey);
  } catch (error) {
    if (error instanceof PictureError) throw error;
    throw new PictureError("not a picture that this browser can read, or damaged");
  }
}

/** Average a large picture down. */
export function reduceLarge(grey) {
  return downscale(grey, Math.floor(Math.sqrt((grey.height * grey.width) / KEPT_PIXELS)));
}

/** Average square blocks. */
function downscale(grey, factor) {
  if (factor < 2) return grey;
  const [height, width] = [Math.ceil(grey.height / factor), Math.ceil(grey.width / factor)];
  const data = Uint8Array.from({ length: height * width }, (_, i) => {
    const [top, left] = [Math.floor(i / width) * factor, (i % width) * factor];
    const bottom = Math.min(top + factor, grey.height);
    const right = Math.min(left + factor, grey.width);
    let sum = 0;
    for (let y = top; y < bottom; y++) {
      for (let x = left; x < right; x++) sum += grey.data[y * grey.width + x];
    }
    return Math.round(sum / ((bottom - top) * (right - left)));
  });
  return { height, width, data };
}

/** Bring pixels to grey levels, transparent parts filled. `picture`: red, green, blue, alpha. */
export function toGrey({ height, width, data: pixels }) {
  const data = new Uint8Array(height * width);
  const histogram = new Uint32Array(256); // of what is more opaque than not
  const [red, green, blue] = LUMA;
  let isClear = false;
  for (let i = 0, at = 0; i < data.length; i++, at += 4) {
    data[i] = (pixels[at] * red + pixels[at + 1] * green + pixels[at + 2] * blue + 0x8000) >> 16;
    isClear ||= pixels[at + 3] !== 255;
    if (pixels[at + 3] > 127) histogram[data[i]]++;
  }
  if (isClear) {
    const sheet = chooseSheet(histogram);
    data.forEach((level, i) => {
      const alpha = pixels[4 * i + 3];
      data[i] = Math.round((level * alpha + sheet * (255 - alpha)) / 255);
    });
  }
  return { height, width, data };
}

// Choose the level below transparent parts that makes their ink readable. Ink of one tone gets a
// sheet of the other. A picture with ink and sheet of its own is continued by its middle tone.
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

/** Bring levels of 16 bits, of which often a part is used, to 0..255. */
function stretch(grey) {
  const high = grey.reduce((best, level) => Math.max(best, level), 0);
  const low = grey.reduce((best, level) => Math.min(best, level), 255);
  if (high > 127 || high === low) return;
  grey.forEach((level, i) => (grey[i] = Math.round(((level - low) * 255) / (high - low))));
}
