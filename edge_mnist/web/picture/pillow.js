// The arithmetic of Pillow on 8-bit images, to the bit. An image here is
// {height, width, channels, data}: rows of pixels of interleaved channels, Uint8Array.

const WEIGHT_BITS = 22; // of a resampling weight: 32 less 8 of a pixel and 2 for overshoot

/** Make an image of one channel. */
export function makeGrey(height, width, data = new Uint8Array(height * width)) {
  return { height, width, channels: 1, data };
}

/**
 * Return an image averaged down: across first, then down, each pass rounded to 8 bits.
 *
 * Pillow 13 goes down first where that is less work, which moves some pixels by one level.
 */
export function shrink(image, height, width) {
  const narrow = width === image.width ? image : averageRows(image, width);
  if (height === image.height) return { ...narrow, data: narrow.data.slice() };
  return transpose(averageRows(transpose(narrow), height));
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

/** Return where each output pixel's inputs begin, how many there are, and their weight. */
function makeBoxes(from, to) {
  const scale = from / to;
  return Array.from({ length: to }, (_, at) => {
    const [begin, end] = [at * scale, (at + 1) * scale];
    const inputs = [];
    for (let x = Math.floor(begin); x < Math.min(from, end); x++) {
      if (x + 0.5 > begin && x + 0.5 <= end) inputs.push(x);
    }
    const weight = Math.trunc(2 ** WEIGHT_BITS / inputs.length + 0.5);
    return { first: inputs[0], n: inputs.length, weight };
  });
}

function averageRows(image, width) {
  const { height, channels, data } = image;
  const out = new Uint8Array(height * width * channels);
  const boxes = makeBoxes(image.width, width);
  for (let y = 0, to = 0; y < height; y++) {
    for (const { first, n, weight } of boxes) {
      for (let channel = 0; channel < channels; channel++) {
        let sum = 0;
        let from = (y * image.width + first) * channels + channel;
        for (let at = 0; at < n; at++, from += channels) sum += data[from];
        out[to++] = (sum * weight + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS;
      }
    }
  }
  return { height, width, channels, data: out };
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
