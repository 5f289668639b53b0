// From any picture to what the model eats: one image, 28 x 28, 0 = background, 255 = full ink.
// The counterpart of picture/reading.py.

import { toGrey } from "./decoding.js";
import { BOX_PX, borderOf, boundsOf, crop, findInk } from "./ink.js";
import { measureThickness } from "./morphology.js";
import { maxOf, medianOf, roundHalfEven } from "./numpy.js";
import { makeGrey, resize, scaleSide } from "./pillow.js";

export const SIDE_PX = 28;
const MIN_BINARY_STROKE_PX = 1.5; // of images without grey levels; see picture/frame.py

/**
 * Turn a decoded picture of one digit into the model's input.
 *
 * @param {object} picture what `decoding.decode` returns
 * @param {string} framing `digit`, `ink` or `whole`, see picture/frame.py
 * @returns {{image: Uint8Array, reason: string | null}} 784 levels, and why this is no picture of
 *   one digit
 */
export function readPicture(picture, framing = "digit") {
  const grey = toGrey(picture);
  if (framing === "whole") return { image: frameWhole(grey), reason: null };
  for (const levels of [grey, invert(grey)]) {
    if (isMnistImage(levels)) return { image: levels.data, reason: null };
  }
  const ink = findInk(grey, framing === "ink");
  if (ink === null) return { image: new Uint8Array(SIDE_PX * SIDE_PX), reason: "blank" };
  const { height, width, data } = ink.amount;
  const levels = Uint8Array.from(data, (amount) => roundHalfEven(Math.fround(amount * 255)));
  const image = frameInk(makeGrey(height, width, levels));
  return { image, reason: ink.hasMore ? "more than one digit" : null };
}

/**
 * Tell whether levels already have MNIST's form, as all 70,000 of its images have it. Strokes that
 * are one pixel wide, without grey levels, are those of a paint program's pencil.
 */
export function isMnistImage({ height, width, data }) {
  if (height !== SIDE_PX || width !== SIDE_PX || data[0] || maxOf(data) < 254) return false;
  const nInked = data.reduce((n, level) => n + (level > 0), 0);
  const strongest = maxOf(data);
  const nFull = data.reduce((n, level) => n + (level === strongest), 0);
  if (2 * nInked > data.length) return false;
  if (nFull === nInked && measureThickness({ height, width, data }) < MIN_BINARY_STROKE_PX) {
    return false;
  }
  const [rows, columns] = sumSides({ height, width, data });
  const spans = [rows, columns].map((side) => {
    const inked = [...side.keys()].filter((place) => side[place]);
    return inked[inked.length - 1] - inked[0] + 1;
  });
  if (![BOX_PX - 1, BOX_PX].includes(Math.max(...spans))) return false;
  const mass = rows.reduce((sum, weight) => sum + weight, 0);
  return [rows, columns].every((side) => {
    const center = momentOf(side) / mass;
    return 13.4 < center && center < 14.6;
  });
}

/** Bring ink to MNIST's form: longer side 20 pixels, centre of mass in the middle. */
export function frameInk(ink) {
  const cropped = crop(ink, boundsOf(ink));
  const scale = BOX_PX / Math.max(cropped.height, cropped.width);
  const [height, width] = [cropped.height, cropped.width].map((side) => scaleSide(side, scale));
  const small = resize(cropped, height, width, scale < 1 ? "box" : "bicubic");
  // Antialiasing dims thin strokes; MNIST's reach full ink. A few pixels may clip.
  const ordered = small.data.slice().sort();
  const strong = ordered[ordered.length - Math.max(3, Math.floor(ordered.length / 25))];
  const gain = 255 / Math.max(strong, 40);
  const bright = small.data.map((level) => Math.min(roundHalfEven(level * gain), 255));
  return centerMass(makeGrey(height, width, bright));
}

/** Bring a whole picture to 28 x 28, light on dark; a light border is taken for paper. */
export function frameWhole(grey) {
  const levels = medianOf(borderOf(grey).sort()) > 127 ? invert(grey) : grey;
  const scale = SIDE_PX / Math.max(grey.height, grey.width);
  const [height, width] = [grey.height, grey.width].map((side) => scaleSide(side, scale));
  const small = resize(levels, height, width, "box");
  return place(small, Math.floor((SIDE_PX - height) / 2), Math.floor((SIDE_PX - width) / 2));
}

/** Place ink of at most 28 x 28 so that its centre of mass is the middle of 28 x 28. */
function centerMass(ink) {
  const mass = ink.data.reduce((sum, level) => sum + level, 0);
  const sides = [ink.height, ink.width];
  const [top, left] = sumSides(ink).map((side, axis) => {
    const offset = roundHalfEven(SIDE_PX / 2 - momentOf(side) / mass);
    return Math.min(Math.max(offset, 0), SIDE_PX - sides[axis]);
  });
  return place(ink, top, left);
}

function place({ height, width, data }, top, left) {
  const framed = new Uint8Array(SIDE_PX * SIDE_PX);
  for (let y = 0; y < height; y++) {
    framed.set(data.subarray(y * width, (y + 1) * width), (top + y) * SIDE_PX + left);
  }
  return framed;
}

/** Return the sums of all rows and of all columns. */
function sumSides({ height, width, data }) {
  const [rows, columns] = [new Float64Array(height), new Float64Array(width)];
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      rows[y] += data[at];
      columns[x] += data[at];
    }
  }
  return [rows, columns];
}

function momentOf(side) {
  return side.reduce((sum, weight, place) => sum + weight * place, 0);
}

function invert(grey) {
  return { ...grey, data: grey.data.map((level) => 255 - level) };
}
