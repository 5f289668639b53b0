// Growing, closing and opening of images; the counterpart of picture/digit.py. An image here is
// {height, width, data} with Float32Array, a mask the same with Uint8Array.

/** Grey closing: fill everything dark that is narrower than `window` pixels. */
export function closeGaps(levels, window) {
  const grown = spread(spread(levels, window, 0), window, 1);
  return negate(spread(spread(negate(grown), window, 0), window, 1));
}

/** Opening of a mask's 0 and 1 along an axis: what is at least `window` pixels long there. */
export function openAlong(values, window, axis) {
  const opened = spread(negate(spread(negate(values), window, axis)), window, axis);
  return { ...opened, data: new Uint8Array(opened.data) }; // of 0 and 1
}

/** Return the running maximum over `window` pixels (made odd); axis 0 is down, 1 across. */
export function spread(values, window, axis) {
  const radius = Math.floor(window / 2);
  const { height, width } = values;
  const [lines, length] = axis === 0 ? [width, height] : [height, width];
  const [stride, step] = axis === 0 ? [1, width] : [width, 1];
  const data = new Float32Array(values.data.length);
  const line = new Float32Array(length + 2 * radius);
  for (let one = 0; one < lines; one++) {
    const from = one * stride;
    for (let at = 0; at < length; at++) line[radius + at] = values.data[from + at * step];
    line.fill(line[radius], 0, radius);
    line.fill(line[radius + length - 1], radius + length);
    spreadLine(line, 2 * radius + 1);
    for (let at = 0; at < length; at++) data[from + at * step] = line[at];
  }
  return { height, width, data };
}

/**
 * Return how thick the strokes of a mask are on average, in pixels: twice its area over its
 * outline. Where most pixels belong to no square of 2 x 2, strokes are one pixel wide, and those
 * pixels are both sides of the outline. Elsewhere such pixels are ragged edges.
 */
export function measureThickness({ height, width, data }) {
  const has = (y, x) => y >= 0 && y < height && x >= 0 && x < width && data[y * width + x];
  const isSquare = (y, x) => has(y, x) && has(y, x + 1) && has(y + 1, x) && has(y + 1, x + 1);
  let area = 0;
  let outline = 0;
  let thin = 0;
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (!data[at]) continue;
      area++;
      const level = (x === 0 || data[at - 1]) && (x === width - 1 || data[at + 1]);
      const upright = (y === 0 || data[at - width]) && (y === height - 1 || data[at + width]);
      if (!(level && upright)) outline++;
      const isWide =
        isSquare(y, x) || isSquare(y - 1, x) || isSquare(y, x - 1) || isSquare(y - 1, x - 1);
      if (!isWide) thin++;
    }
  }
  return (2 * area) / Math.max(1, outline + (2 * thin > area ? thin : 0));
}

/** Running maximum in place, by doubling: line[i] becomes the largest of the next `wanted`. */
function spreadLine(line, wanted) {
  for (let size = 1, left = line.length; size < wanted; ) {
    const reach = Math.min(size, wanted - size);
    left -= reach;
    for (let at = 0; at < left; at++) line[at] = Math.max(line[at], line[at + reach]);
    size += reach;
  }
}

function negate(values) {
  const data = new Float32Array(values.data.length);
  for (let at = 0; at < data.length; at++) data[at] = -values.data[at];
  return { ...values, data };
}
