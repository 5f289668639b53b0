// The arithmetic of Pillow on 8-bit images, to the bit. An image here is
// {height, width, channels, data}: rows of pixels of interleaved channels, Uint8Array.

import { roundHalfEven } from "./numpy.js";

const WEIGHT_BITS = 22; // of a resampling weight: 32 less 8 of a pixel and 2 for overshoot
const FILTERS = {
  box: { support: 0.5, weigh: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bicubic: { support: 2, weigh: weighBicubic },
};

/** Make an image of one channel. */
export function makeGrey(height, width, data = new Uint8Array(height * width)) {
  return { height, width, channels: 1, data };
}

/**
 * Return an image resized: across first, then down, each pass rounded to 8 bits.
 *
 * Pillow 13 goes down first where that is less work, which moves some pixels by one level.
 */
export function resize(image, height, width, filter) {
  const wide = width === image.width ? image : resampleRows(image, width, FILTERS[filter]);
  if (height === image.height) return { ...wide, data: wide.data.slice() };
  return transpose(resampleRows(transpose(wide), height, FILTERS[filter]));
}

/** Return an image averaged over blocks, counted from its `origin`; the last hold what is left. */
export function reduce(image, across, down) {
  const { width, channels, data, origin } = image;
  const rows = cut(image.height, down, origin?.bottom);
  const columns = cut(width, across, origin?.right);
  const out = new Uint8Array(rows.length * columns.length * channels);
  let to = 0;
  for (const down of rows) {
    for (const across of columns) {
      for (let channel = 0; channel < channels; channel++) {
        out[to++] = averageBlock(data, width, channels, channel, down, across);
      }
    }
  }
  return { ...image, height: rows.length, width: columns.length, data: out };
}

/** Return grey levels averaged over squares of 2 radius + 1 pixels, the border continued. */
export function boxBlur(image, radius) {
  return transpose(blurRows(transpose(blurRows(image, radius)), radius));
}

/** Return the grey levels of an image's first three channels. */
export function toLuma(image) {
  const { height, width, channels, data } = image;
  if (channels === 1) return image;
  const grey = makeGrey(height, width);
  for (let at = 0, from = 0; at < grey.data.length; at++, from += channels) {
    grey.data[at] =
      (data[from] * 19595 + data[from + 1] * 38470 + data[from + 2] * 7471 + 0x8000) >> 16;
  }
  return grey;
}

/** Multiply colours by their alpha, as Pillow does before it averages. */
export function premultiply(image) {
  const data = image.data.slice();
  for (let at = 0; at < data.length; at += 4) {
    for (let channel = 0; channel < 3; channel++) {
      const product = data[at + channel] * data[at + 3] + 128;
      data[at + channel] = ((product >> 8) + product) >> 8;
    }
  }
  return { ...image, data };
}

/** Undo `premultiply`. */
export function unpremultiply(image) {
  const data = image.data.slice();
  for (let at = 0; at < data.length; at += 4) {
    const alpha = data[at + 3];
    if (alpha === 0 || alpha === 255) continue;
    for (let channel = 0; channel < 3; channel++) {
      data[at + channel] = Math.min(255, Math.floor((255 * data[at + channel]) / alpha));
    }
  }
  return { ...image, data };
}

/** Lay one RGBA pixel's channel of a given alpha on an opaque one. */
export function composite(over, alpha, under) {
  if (alpha === 0) return under;
  const sum = (over * alpha + under * (255 - alpha) + 128) * 128;
  return (((sum >> 8) + sum) >> 8) >> 7;
}

/** Return the size that a thumbnail within `side` has, or null if the image is not larger. */
export function thumbnailSize(height, width, side) {
  if (side >= width && side >= height) return null;
  const aspect = width / height;
  const choose = (number, far) => {
    const near = [Math.floor(number), Math.ceil(number)];
    return Math.max(far(near[1]) < far(near[0]) ? near[1] : near[0], 1);
  };
  if (aspect <= 1) return [side, choose(side * aspect, (n) => Math.abs(aspect - n / side))];
  return [choose(side / aspect, (n) => (n === 0 ? 0 : Math.abs(aspect - side / n))), side];
}

/** Cut a side into pieces of one length, from its beginning or its end: [begin, end] of each. */
function cut(side, length, fromEnd) {
  const pieces = [];
  for (let at = 0; at < side; at += length) pieces.push([at, Math.min(at + length, side)]);
  return fromEnd ? pieces.map(([begin, end]) => [side - end, side - begin]).reverse() : pieces;
}

function averageBlock(data, width, channels, channel, rows, columns) {
  const count = (rows[1] - rows[0]) * (columns[1] - columns[0]);
  let sum = count >> 1;
  for (let row = rows[0]; row < rows[1]; row++) {
    let from = (row * width + columns[0]) * channels + channel;
    for (let x = columns[0]; x < columns[1]; x++, from += channels) sum += data[from];
  }
  const multiplier = Math.floor(Math.fround(2 ** 32 / (256 * count)));
  return Math.floor((sum * multiplier) / 2 ** 24);
}

function weighBicubic(x) {
  const far = Math.abs(x);
  if (far < 1) return (1.5 * far - 2.5) * far * far + 1;
  return far < 2 ? (((far - 5) * far + 8) * far - 4) * -0.5 : 0;
}

/** Return where each output pixel's inputs begin, and their weights as integers. */
function makeWeights(from, to, filter) {
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  const support = filter.support * stretch;
  return Array.from({ length: to }, (_, at) => {
    const center = (at + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(from, Math.trunc(center + support + 0.5));
    const raw = [];
    for (let x = first; x < end; x++) raw.push(filter.weigh((x - center + 0.5) * (1 / stretch)));
    const sum = raw.reduce((total, weight) => total + weight, 0);
    const weights = Int32Array.from(raw, (weight) => toFixed(sum === 0 ? weight : weight / sum));
    return { first, weights };
  });
}

function toFixed(weight) {
  return Math.trunc(weight * 2 ** WEIGHT_BITS + (weight < 0 ? -0.5 : 0.5));
}

function resampleRows(image, width, filter) {
  const { height, channels, data } = image;
  const out = new Uint8ClampedArray(height * width * channels);
  const columns = makeWeights(image.width, width, filter);
  for (let y = 0, to = 0; y < height; y++) {
    for (const { first, weights } of columns) {
      for (let channel = 0; channel < channels; channel++) {
        let sum = 1 << (WEIGHT_BITS - 1);
        let from = (y * image.width + first) * channels + channel;
        for (let at = 0; at < weights.length; at++) {
          sum += data[from] * weights[at];
          from += channels;
        }
        out[to++] = sum >> WEIGHT_BITS;
      }
    }
  }
  return { height, width, channels, data: new Uint8Array(out.buffer) };
}

function transpose({ height, width, channels, data }) {
  const out = new Uint8Array(data.length);
  for (let y = 0, from = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const to = (x * height + y) * channels;
      for (let channel = 0; channel < channels; channel++) out[to + channel] = data[from++];
    }
  }
  return { height: width, width: height, channels, data: out };
}

/** Average along rows of one channel, in 24-bit fixed point. */
function blurRows({ height, width, data }, radius) {
  const inside = Math.trunc(Math.fround(2 ** 24 / (2 * radius + 1)));
  const rim = Math.trunc((2 ** 24 - (2 * radius + 1) * inside) / 2);
  const out = makeGrey(height, width);
  const clamp = (x) => Math.min(Math.max(x, 0), width - 1);
  for (let y = 0; y < height; y++) {
    const row = y * width;
    let sum = 0;
    for (let x = -radius - 1; x < radius; x++) sum += data[row + clamp(x)];
    for (let x = 0; x < width; x++) {
      const left = data[row + clamp(x - radius - 1)];
      sum += data[row + clamp(x + radius)] - left;
      const bulk = sum * inside + (left + data[row + clamp(x + radius + 1)]) * rim;
      out.data[row + x] = Math.floor((bulk + 2 ** 23) / 2 ** 24);
    }
  }
  return out;
}

/** Return a side times a factor as Python's round does, at least 1. */
export function scaleSide(side, factor) {
  return Math.max(1, roundHalfEven(side * factor));
}
