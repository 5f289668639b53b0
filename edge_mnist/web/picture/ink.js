// Finding the ink of one digit in a grey picture; the counterpart of picture/digit.py, which says why.

import { PHOTO_SIDE, chooseComponents } from "./choice.js";
import { findComponents } from "./components.js";
import { closeGaps, measureThickness, openAlong, spread } from "./morphology.js";
import { medianOf, percentileOf, roundHalfEven, sorted } from "./numpy.js";
import { boxBlur, makeGrey, resize, scaleSide } from "./pillow.js";

const WORK_PIXELS = 256 * 256;
const WORK_SIDE = 2048; // for long strips
const LEAST_SIDE = 3;
const TINY_SIDE = 40;
const SHEET_WINDOW = 0.14; // of the side; wider than a stroke, narrower than a shadow
const LEAST_CONTRAST = 10; // grey levels
export const BOX_PX = 20; // MNIST: "size normalized to fit in a 20x20 pixel box"
const THINNEST_PX = 1.9; // of those
const LEAST_SIZE = 5; // pixels of the working picture

/**
 * Find the ink of one digit.
 *
 * @param {{height: number, width: number, data: Uint8Array}} grey grey levels
 * @param {boolean} keepAll take all the ink there is, not one digit's
 * @returns {{amount: object, hasMore: boolean} | null} the ink, 0..1, cropped to the digit, and
 *   whether something of similar size lies elsewhere; null if the picture is blank
 */
export function findInk(grey, keepAll = false) {
  let levels = shrink(grey);
  if (Math.min(levels.height, levels.width) < LEAST_SIDE) return null;
  if (meanSide(levels) > PHOTO_SIDE) levels = blur(levels);
  if (!isInkDark(levels)) levels = map(levels, (level) => 255 - level);
  const ink = subtractSheet(levels);
  const threshold = chooseThreshold(ink);
  if (threshold === null) return null;
  const least = Math.fround(threshold);
  const mask = { ...ink, data: new Uint8Array(map(ink, (amount) => amount > least).data) };
  const choice = chooseComponents(findComponents(dropLines(mask)), ink, keepAll);
  if (choice === null) return null;
  const amount = cropInk(ink, choice.mask);
  if (Math.max(amount.height, amount.width) < LEAST_SIZE) return null;
  return { amount: thicken(amount, choice.mask), hasMore: choice.hasMore };
}

/** Return the side of the square with as many pixels. */
function meanSide({ data }) {
  return Math.sqrt(data.length);
}

/** Bring a picture to at most `WORK_PIXELS` pixels and `WORK_SIDE` a side, averaging. */
function shrink(grey) {
  const { height, width, data } = grey;
  const side = Math.max(height, width);
  const factor = Math.min(Math.sqrt(WORK_PIXELS / data.length), WORK_SIDE / side);
  const [down, across] = [scaleSide(height, factor), scaleSide(width, factor)];
  const small = factor < 1 ? resize(grey, down, across, "box") : grey;
  return { ...small, data: new Float32Array(small.data) };
}

/** Take away the noise of single pixels, with a 1-2-1 kernel both ways. */
function blur(levels) {
  const { height, width, data } = levels;
  const down = new Float32Array(data.length);
  const across = new Float32Array(data.length);
  for (let y = 0, at = 0; y < height; y++) {
    const [above, below] = [y > 0 ? width : 0, y < height - 1 ? width : 0];
    for (let x = 0; x < width; x++, at++) {
      down[at] = (data[at - above] + 2 * data[at] + data[at + below]) / 4;
    }
  }
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const [left, right] = [x > 0 ? 1 : 0, x < width - 1 ? 1 : 0];
      across[at] = (down[at - left] + 2 * down[at] + down[at + right]) / 4;
    }
  }
  return { height, width, data: across };
}

/** Return the outermost pixels. */
export function borderOf({ height, width, data }) {
  const border = [...data.subarray(0, width), ...data.subarray((height - 1) * width)];
  for (let y = 0; y < height; y++) border.push(data[y * width], data[(y + 1) * width - 1]);
  return new Float32Array(border);
}

/** Tell the polarity: is the ink darker than the sheet? Two votes: by detail, by the border. */
function isInkDark(levels) {
  const radius = Math.max(2, Math.floor(Math.max(levels.height, levels.width) / 10));
  const around = blurSheet(levels, radius);
  const detail = levels.data.map((level, at) => level - around.data[at]).sort();
  const n = Math.max(6, Math.trunc(0.003 * detail.length));
  const darkest = -meanOf(detail.subarray(0, n));
  const lightest = meanOf(detail.subarray(-n));
  const byDetail = (darkest - lightest) / (darkest + lightest + 1e-6);
  const ordered = sorted(levels.data);
  const low = (percentileOf(ordered, 1) + ordered[0]) / 2;
  const high = (percentileOf(ordered, 99) + ordered[ordered.length - 1]) / 2;
  const border = medianOf(borderOf(levels).sort());
  const byBorder = (border - low - (high - border)) / Math.max(high - low, 1);
  return 0.3 * byBorder + byDetail > 0;
}

/** Average over squares of 2 radius + 1 pixels, in whole levels. */
function blurSheet({ height, width, data }, radius) {
  const whole = new Uint8ClampedArray(map({ height, width, data }, Math.trunc).data);
  return boxBlur(makeGrey(height, width, whole), radius);
}

/** Return how much darker each pixel is than the sheet there, in grey levels, 0 or more. */
function subtractSheet(levels) {
  const sheet = medianOf(borderOf(levels).sort());
  let even = 0;
  for (const level of levels.data) if (Math.abs(Math.fround(level - sheet)) <= 8) even++;
  if (even / levels.data.length > 0.5 || meanSide(levels) <= TINY_SIDE) {
    return map(levels, (level) => Math.max(sheet - level, 0));
  }
  const local = closeGaps(levels, Math.max(3, Math.trunc(meanSide(levels) * SHEET_WINDOW)));
  // Smoother, but never lighter: else the edge of a hard shadow would look like a line of ink.
  const smooth = blurSheet(local, Math.max(1, Math.floor(Math.trunc(meanSide(levels)) / 40)));
  // Light falls on ink and paper alike, so ink in shadow is measured against its own paper.
  return map(levels, (level, at) => {
    const paper = Math.min(local.data[at], smooth.data[at]);
    return Math.max(Math.fround(paper - level), 0) * Math.fround(200 / Math.max(paper, 40));
  });
}

/** Return the amount above which a pixel is ink, or null if there is none. */
function chooseThreshold(ink) {
  const ordered = sorted(ink.data);
  const n = Math.min(Math.max(12, Math.trunc(0.002 * ordered.length)), ordered.length);
  const strongest = medianOf(ordered.subarray(-n));
  const middle = medianOf(ordered);
  const spreads = ordered.map((amount) => Math.abs(Math.fround(amount - middle))).sort();
  const noise = middle + 1.48 * medianOf(spreads); // robust standard deviation
  if (strongest < Math.max(LEAST_CONTRAST, 4 * noise)) return null;
  const isClean = noise < 0.02 * strongest;
  return Math.max((isClean ? 0.25 : 0.42) * strongest, 3 * noise);
}

/** Take away the lines of ruled or squared paper: thin, straight, right across the sheet. */
function dropLines(mask) {
  const { height, width } = mask;
  if (Math.min(height, width) < 60) return mask;
  const values = { ...mask, data: new Float32Array(mask.data) };
  const thick = Math.max(5, Math.trunc(0.03 * meanSide(values)));
  const data = mask.data.slice();
  for (const [axis, side] of [[1, width], [0, height]]) {
    const long = openAlong(values, Math.max(9, Math.floor(side / 8)), axis).data;
    const broad = openAlong(values, thick, 1 - axis).data;
    for (let at = 0; at < long.length; at++) long[at] = long[at] && !broad[at];
    if (countReached({ height, width, data: long }, axis) / side <= 0.9) continue;
    for (let at = 0; at < long.length; at++) if (long[at]) data[at] = 0;
  }
  return { height, width, data };
}

/** Count the columns (axis 1) or rows (axis 0) that hold a pixel of a mask. */
function countReached({ width, data }, axis) {
  const reached = new Set();
  data.forEach((value, at) => {
    if (value) reached.add(axis === 1 ? at % width : Math.floor(at / width));
  });
  return reached.size;
}

/** Cut out the chosen ink with its soft edges, full ink as 1. */
function cropInk(ink, mask) {
  const reach = meanSide(ink) > PHOTO_SIDE ? 5 : 3;
  const values = { ...mask, data: new Float32Array(mask.data) };
  const around = spread(spread(values, reach, 0), reach, 1).data;
  const chosen = ink.data.filter((_, at) => mask.data[at]).sort();
  const full = Math.fround(percentileOf(chosen, 70, Math.fround));
  const least = Math.fround(0.12);
  const amount = map(ink, (value, at) => {
    const share = Math.min(Math.max(Math.fround(value / full), 0), 1);
    return around[at] > 0 && share >= least ? share : 0;
  });
  return crop(amount, boundsOf(mask));
}

/** Return {top, bottom, left, right} of what is not 0; bottom and right lie outside. */
export function boundsOf({ height, width, data }) {
  const box = { top: height, bottom: 0, left: width, right: 0 };
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (!data[at]) continue;
      box.top = Math.min(box.top, y);
      box.bottom = y + 1;
      box.left = Math.min(box.left, x);
      box.right = Math.max(box.right, x + 1);
    }
  }
  return box;
}

/** Cut a box out of an image. */
export function crop(image, { top, bottom, left, right }) {
  const [height, width] = [bottom - top, right - left];
  const data = new image.data.constructor(height * width);
  for (let y = 0; y < height; y++) {
    const from = (top + y) * image.width + left;
    data.set(image.data.subarray(from, from + width), y * width);
  }
  return { ...image, height, width, data };
}

/** Make strokes that are too thin for 20 pixels as thick as a thin pen's in MNIST. */
function thicken(amount, mask) {
  let longSide = Math.max(amount.height, amount.width);
  let thickness = measureThickness(mask);
  if (longSide < BOX_PX && thickness * BOX_PX < THINNEST_PX * longSide) {
    // Two more pixels, the least that keeps a stroke in its place, would be too many.
    [amount, longSide, thickness] = [double(amount), 2 * longSide, 2 * thickness];
  }
  let missing = roundHalfEven((THINNEST_PX * longSide) / BOX_PX - thickness);
  if (missing < 1) return amount;
  missing += missing % 2;
  const rim = missing / 2;
  const [height, width] = [amount.height + missing, amount.width + missing];
  const padded = { height, width, data: new Float32Array(height * width) };
  for (let y = 0; y < amount.height; y++) {
    const row = amount.data.subarray(y * amount.width, (y + 1) * amount.width);
    padded.data.set(row, (y + rim) * width + rim);
  }
  return spread(spread(padded, missing + 1, 0), missing + 1, 1);
}

/** Return an image with each pixel as a square of 2 x 2. */
function double({ height, width, data }) {
  const doubled = { height: 2 * height, width: 2 * width, data: new Float32Array(4 * data.length) };
  for (let y = 0, at = 0; y < 2 * height; y++) {
    for (let x = 0; x < 2 * width; x++) doubled.data[at++] = data[(y >> 1) * width + (x >> 1)];
  }
  return doubled;
}

/** Return a float32 image with each value changed. */
function map({ height, width, data }, change) {
  const changed = new Float32Array(data.length); // a plain loop: ten times as quick as from()
  for (let at = 0; at < data.length; at++) changed[at] = change(data[at], at);
  return { height, width, data: changed };
}

function meanOf(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

