// Decoding: from a picture's bytes to grey levels, within limits; the counterpart of picture/decode.py.
// A decoded picture is {height, width, channels, data}, channels 1, 3 or 4.

import { readOrigin } from "./exif.js";
import { maxOf, minOf, percentileOf, roundHalfEven } from "./numpy.js";
import {
  composite,
  makeGrey,
  premultiply,
  reduce,
  shrink,
  thumbnailSize,
  toLuma,
  unpremultiply,
} from "./pillow.js";
import { decodePng, isPng, readHeader } from "./png.js";

const MAX_BYTES = 32_000_000;
const MAX_PIXELS = 48_000_000; // what 192 MB hold of RGB
const MAX_SIDE = 65_535;
const KEPT_PIXELS = 1_000_000; // larger pictures are made smaller as soon as they are decoded
const DRAFT_SIDE = 512; // a JPEG is decoded no smaller than this
const THUMBNAIL_SIDE = 1024;
const LUMA = [0.299, 0.587, 0.114].map(Math.fround);

/** A picture cannot be read; the message is one line for the user. */
export class PictureError extends Error {}

/**
 * Decode a picture's file.
 *
 * @param {Blob} file
 * @returns {Promise<object>} the decoded picture
 * @throws {PictureError}
 */
export async function decode(file) {
  if (!file.size) throw new PictureError("the file is empty");
  if (file.size > MAX_BYTES) throw new PictureError("larger than 32 MB");
  const bytes = new Uint8Array(await file.arrayBuffer());
  try {
    if (isPng(bytes)) {
      refuseHuge(readHeader(bytes));
      const picture = await decodePng(bytes);
      if (picture) return picture;
    }
    const isJpeg = bytes[0] === 0xff && bytes[1] === 0xd8;
    return await decodeInBrowser(file, isJpeg ? readOrigin(bytes) : null);
  } catch (error) {
    if (error instanceof PictureError) throw error;
    throw new PictureError("not a picture that this browser can read, or damaged");
  }
}

/** Bring a decoded picture to grey levels, transparent parts filled. */
export function toGrey(picture) {
  if (picture.data instanceof Uint16Array) return stretch(reduceDeep(picture));
  const isClear = picture.channels === 4 && !picture.isOpaque;
  const small = reduceLarge(picture, isClear);
  return isClear ? fillTransparent(small) : toLuma(small);
}

async function decodeInBrowser(file, jpegOrigin) {
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(file, options); // turned as EXIF says
  const { height, width } = bitmap;
  refuseHuge(bitmap);
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = pen.getImageData(0, 0, width, height);
  const picture = { height, width, channels: 4, data };
  if (!jpegOrigin) return { ...picture, isOpaque: hasNoAlpha(data) };
  return draftJpeg({ ...picture, isOpaque: true, origin: jpegOrigin });
}

/** Make a JPEG smaller, as the decoder of Pillow does while it decodes. */
function draftJpeg(picture) {
  const factor = Math.floor(Math.min(picture.width, picture.height) / DRAFT_SIDE);
  const draft = [8, 4, 2].find((one) => factor >= one);
  return draft ? reduce(picture, draft, draft) : picture;
}

function hasNoAlpha(data) {
  for (let at = 3; at < data.length; at += 4) if (data[at] !== 255) return false;
  return true;
}

function refuseHuge({ height, width }) {
  const size = `${width} x ${height} pixels`;
  if (Math.max(height, width) > MAX_SIDE) throw new PictureError(`${size}: a side is too long`);
  if (height * width > MAX_PIXELS) throw new PictureError(`${size} are too many`);
}

/** Make a large picture smaller, averaging, before copies of it are made. */
function reduceLarge(picture, isClear) {
  const { height, width } = picture;
  const factor = Math.trunc(Math.sqrt((width * height) / KEPT_PIXELS));
  if (factor < 2) return picture;
  const [across, down] = [Math.min(factor, width), Math.min(factor, height)];
  if (!isClear) return reduce(picture, across, down);
  return unpremultiply(reduce(premultiply(picture), across, down));
}

/**
 * Lay a transparent picture on the sheet that makes its ink readable.
 *
 * Ink of one tone gets a sheet of the other. A picture that has ink and sheet of its own, cut out
 * with soft corners say, is continued by its own middle tone.
 */
function fillTransparent(large) {
  const size = thumbnailSize(large.height, large.width, THUMBNAIL_SIDE);
  const picture = size ? unpremultiply(shrink(premultiply(large), ...size)) : large;
  const level = chooseSheet(picture);
  const { height, width, data } = picture;
  const filled = data.map((over, at) => {
    const alpha = data[at | 3];
    return at % 4 === 3 ? 255 : composite(over, alpha, level);
  });
  return toLuma({ height, width, channels: 4, data: filled });
}

function chooseSheet({ data }) {
  const opaque = [];
  for (let at = 0; at < data.length; at += 4) {
    if (data[at + 3] > 127) opaque.push(luminance(data[at], data[at + 1], data[at + 2]));
  }
  if (!opaque.length) return 255;
  const ordered = Float32Array.from(opaque).sort();
  const [low, middle, high] = [5, 50, 95].map((percent) => percentileOf(ordered, percent));
  if (high - low > 100) return roundHalfEven(middle);
  return middle < 128 ? 255 : 0;
}

function luminance(red, green, blue) {
  const parts = [red * LUMA[0], green * LUMA[1], blue * LUMA[2]].map(Math.fround);
  return Math.fround(Math.fround(parts[0] + parts[1]) + parts[2]);
}

/** Average large pictures of 16 bits. */
function reduceDeep(picture) {
  const { height, width, data } = picture;
  const factor = Math.trunc(Math.sqrt((width * height) / KEPT_PIXELS));
  if (factor < 2) return picture;
  const small = { height: Math.ceil(height / factor), width: Math.ceil(width / factor) };
  const out = Float32Array.from({ length: small.height * small.width }, (_, at) => {
    const [top, left] = [Math.floor(at / small.width) * factor, (at % small.width) * factor];
    const [bottom, right] = [Math.min(top + factor, height), Math.min(left + factor, width)];
    let sum = 0;
    for (let y = top; y < bottom; y++) {
      for (let x = left; x < right; x++) sum += data[y * width + x];
    }
    return Math.trunc(sum / ((bottom - top) * (right - left)) + 0.5);
  });
  return { ...small, data: out };
}

/** Bring 16-bit levels, of which often a part is used, to 0..255. */
function stretch({ height, width, data }) {
  let [low, high] = [minOf(data), maxOf(data)];
  if (high > 32767) [low, high] = [0, 65535]; // full 16 bits stay exact
  const gain = Math.fround(255 / Math.max(high - low, 1e-6));
  const levels = Uint8Array.from(data, (level) =>
    roundHalfEven(Math.fround(Math.fround(level - low) * gain)),
  );
  return makeGrey(height, width, levels);
}
