// PNG files, decoded to the bit. A browser's own way through a canvas loses what is
// semi-transparent, and all beyond 8 bits.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const CHANNELS = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
const DEPTHS = { 0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16] };
const [GREY, COLOR, PALETTE, GREY_ALPHA] = [0, 2, 3, 4];

/** Tell whether a file begins as a PNG file does. */
export function isPng(bytes) {
  return SIGNATURE.every((byte, at) => bytes[at] === byte);
}

/** Return the header: {width, height, depth, kind, interlaced}. */
export function readHeader(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  return { width, height, depth: bytes[24], kind: bytes[25], interlaced: bytes[28] !== 0 };
}

/**
 * Decode a PNG file.
 *
 * @returns {Promise<object | null>} {height, width, channels, data}, `data` of 16 bits where the
 *   file is grey of 16 bits; null for the rare kinds left to the browser: interlaced, turned by
 *   EXIF, one colour of 16 bits made transparent
 */
export async function decodePng(bytes) {
  const header = readHeader(bytes);
  const { pixels, palette, clear, isTurned } = readChunks(bytes);
  const isOdd = header.interlaced || isTurned || (clear && header.depth === 16);
  if (isOdd || !DEPTHS[header.kind]?.includes(header.depth)) return null;
  const packed = unfilter(await inflate(pixels), header);
  const samples = header.depth < 8 ? unpack(packed, header) : packed;
  const { height, width, kind, depth } = header;
  if (kind === PALETTE) return { height, width, ...applyPalette(samples, palette, clear) };
  if (kind === GREY && depth === 16) {
    return { height, width, channels: 1, data: joinBytes(samples) };
  }
  const data = depth === 16 ? samples.filter((_, at) => at % 2 === 0) : samples;
  if (kind === GREY_ALPHA) return { height, width, channels: 4, data: spreadGrey(data) };
  if (!clear) return { height, width, channels: CHANNELS[kind], data };
  return { height, width, channels: 4, data: clearColor(data, CHANNELS[kind], clear, depth) };
}

function readChunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const found = { pixels: [], palette: null, clear: null, isTurned: false };
  for (let at = 8; at + 8 <= bytes.length; ) {
    const length = view.getUint32(at);
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const content = bytes.subarray(at + 8, at + 8 + length);
    if (name === "IDAT") found.pixels.push(content);
    if (name === "PLTE") found.palette = content;
    if (name === "tRNS") found.clear = content;
    if (name === "eXIf") found.isTurned = true;
    if (name === "IEND") break;
    at += length + 12;
  }
  return found;
}

async function inflate(parts) {
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Undo the filter of each row. */
function unfilter(raw, { width, height, depth, kind }) {
  const step = Math.max(1, (CHANNELS[kind] * depth) >> 3);
  const length = Math.ceil((width * CHANNELS[kind] * depth) / 8);
  if (raw.length < (length + 1) * height) throw new Error("truncated");
  const out = new Uint8Array(length * height);
  for (let y = 0; y < height; y++) {
    const from = y * (length + 1);
    const row = out.subarray(y * length, (y + 1) * length);
    const above = y ? out.subarray((y - 1) * length, y * length) : new Uint8Array(length);
    row.set(raw.subarray(from + 1, from + 1 + length));
    unfilterRow(raw[from], row, above, step);
  }
  return out;
}

function unfilterRow(filter, row, above, step) {
  if (filter > 4) throw new Error("damaged");
  for (let x = 0; x < row.length; x++) {
    const left = x >= step ? row[x - step] : 0;
    if (filter === 1) row[x] += left;
    else if (filter === 2) row[x] += above[x];
    else if (filter === 3) row[x] += (left + above[x]) >> 1;
    else if (filter === 4) row[x] += predict(left, above[x], x >= step ? above[x - step] : 0);
  }
}

/** Paeth's predictor. */
function predict(left, above, corner) {
  const a = Math.abs(above - corner); // no array here: this runs once a byte
  const b = Math.abs(left - corner);
  const c = Math.abs(left + above - 2 * corner);
  if (a <= b && a <= c) return left;
  return b <= c ? above : corner;
}

/** Spread samples of less than 8 bits; grey ones are brought to 0..255. */
function unpack(packed, { width, height, depth, kind }) {
  const [length, full] = [Math.ceil((width * depth) / 8), 2 ** depth - 1];
  const gain = kind === GREY ? 255 / full : 1;
  const out = new Uint8Array(width * height);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const bit = x * depth;
      const byte = packed[y * length + (bit >> 3)];
      out[to++] = ((byte >> (8 - depth - (bit & 7))) & full) * gain;
    }
  }
  return out;
}

function applyPalette(samples, palette, clear) {
  const channels = clear ? 4 : 3;
  const data = new Uint8Array(samples.length * channels);
  samples.forEach((index, at) => {
    data.set(palette.subarray(3 * index, 3 * index + 3), at * channels);
    if (clear) data[at * channels + 3] = clear[index] ?? 255;
  });
  return { channels, data };
}

function joinBytes(samples) {
  const view = new DataView(samples.buffer);
  return Uint16Array.from({ length: samples.length / 2 }, (_, at) => view.getUint16(2 * at));
}

function spreadGrey(data) {
  const out = new Uint8Array(data.length * 2);
  for (let from = 0, to = 0; from < data.length; from += 2, to += 4) {
    out.fill(data[from], to, to + 3);
    out[to + 3] = data[from + 1];
  }
  return out;
}

/** Make the pixels of one colour transparent. */
function clearColor(data, channels, clear, depth) {
  const gain = depth < 8 ? 255 / (2 ** depth - 1) : 1;
  const color = Array.from({ length: channels }, (_, at) => clear[2 * at + 1] * gain);
  const out = new Uint8Array((data.length / channels) * 4);
  for (let from = 0, to = 0; from < data.length; from += channels, to += 4) {
    for (let at = 0; at < 3; at++) out[to + at] = data[from + (at % channels)];
    out[to + 3] = color.every((level, at) => level === data[from + at]) ? 0 : 255;
  }
  return out;
}
