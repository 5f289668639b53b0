// Choosing which connected parts of the ink belong to one digit; the counterpart of picture/digit.py.

import { findComponents, joinComponents } from "./components.js";
import { measureThickness, spread } from "./morphology.js";
import { argmax, argsortDown, maxOf } from "./numpy.js";

export const PHOTO_SIDE = 100; // a smaller picture is a canvas: no noise or shadow to take away
const LEAST_STEEPNESS = 0.15; // of full ink, from one pixel to the next
const PIECE_SHARE = 0.04; // of the largest component's ink; less is a speck

/**
 * Choose the components of one digit, or with `keepAll` every one but specks, lines and edges.
 *
 * @returns {{mask: object, hasMore: boolean} | null} the mask of those that belong to it, and
 *   whether another one of similar size does not; null if there is nothing
 */
export function chooseComponents(found, ink, keepAll = false) {
  if (!found.n) return null;
  const components = joinPieces(found, ink);
  const parts = describe(components, ink);
  const dropped = findClutter(components, parts, !keepAll);
  const main = pickMain(components, parts, dropped, ink);
  if (main === null) return null;
  if (keepAll) {
    const kept = parts.map((part, one) => !dropped[one] && isPart(part, parts[main]));
    return { mask: components.maskOf(kept), hasMore: false };
  }
  const similar = parts.map((part, one) => !dropped[one] && isSimilar(part, parts[main]));
  const kept = parts.map((part, one) => {
    if (one === main) return true;
    if (dropped[one]) return false;
    return !(similar[one] && isBeside(part, parts[main])) && belongs(part, parts[main]);
  });
  return { mask: components.maskOf(kept), hasMore: similar.some((is, one) => is && !kept[one]) };
}

/** Join the pieces of a stroke that was interrupted: no further apart than it is thick. */
export function joinPieces(components, ink) {
  const parts = describe(components, ink);
  const clutter = findClutter(components, parts);
  const largest = Math.max(...parts.map((part, one) => (clutter[one] ? -1 : part.mass)));
  const pieces = parts.map((part, one) => !clutter[one] && part.mass >= PIECE_SHARE * largest);
  if (pieces.filter(Boolean).length < 2) return components;
  const mask = components.maskOf(pieces);
  const reach = Math.max(2, Math.trunc(measureThickness(mask))) | 1; // half of it from either side
  const grown = spread(spread({ ...mask, data: new Float32Array(mask.data) }, reach, 0), reach, 1);
  const joined = findComponents(grown);
  const numbers = joined.numberPixels();
  const groups = pieces.map((_, one) => joined.n + one);
  components.runs.forEach(({ row, start }, run) => {
    const label = components.labels[run];
    if (pieces[label]) groups[label] = numbers[row * components.width + start];
  });
  return joinComponents(components, groups);
}

/** Return what is known of each component: its box, size, ink and the sides it touches. */
function describe(components, ink) {
  const mass = components.sumOver(ink);
  return components.boxes().map((box, one) => {
    const [tall, wide] = [box.bottom - box.top, box.right - box.left];
    const sides = [box.top === 0, box.bottom === components.height];
    sides.push(box.left === 0, box.right === components.width);
    const touches = sides.filter(Boolean).length;
    return { ...box, tall, wide, size: Math.max(tall, wide), mass: mass[one], touches };
  });
}

/** Return the component that most likely is the digit, or null. */
function pickMain(components, parts, dropped, ink) {
  const steepness = measureSteepness(ink);
  const slope = components.sumOver(steepness);
  // Strokes have sharp edges, what is left of shadows has not; the middle is likelier.
  const score = parts.map(({ size, touches }, one) =>
    dropped[one] ? 0 : slope[one] * size * (touches > 0 ? 0.35 : 1),
  );
  for (const one of findBlurred(components, parts, score, ink, steepness)) score[one] = 0;
  const main = argmax(score);
  return score[main] > 0 ? main : null;
}

function isSimilar(part, main) {
  const share = part.mass / main.mass;
  return part.tall >= 0.6 * main.tall && share >= 0.35 && part.touches === 0;
}

/** Tell whether a similar component is a digit of its own, not a piece of the main one. */
function isBeside(part, main) {
  const apart = Math.max(0, part.left - main.right, main.left - part.right);
  const level = Math.min(part.bottom, main.bottom) - Math.max(part.top, main.top);
  return apart > 0.08 * main.size && level > 0.6 * Math.min(part.tall, main.tall);
}

function belongs(part, main) {
  const x = Math.max(0, part.left - main.right, main.left - part.right);
  const y = Math.max(0, part.top - main.bottom, main.top - part.bottom);
  const gap = Math.sqrt(x * x + y * y) / main.size;
  const share = part.mass / main.mass;
  const near = share >= 0.02 && gap <= 0.12;
  return near || (share >= 0.08 && gap <= 0.3 && part.touches <= main.touches);
}

/** Tell whether a component is a part of a sign of several, wherever it lies. */
function isPart(part, main) {
  const isLarge = part.mass / main.mass >= PIECE_SHARE && part.touches <= main.touches;
  return isLarge || belongs(part, main);
}

/** Find lines across the sheet, printed boxes and, where there is more, dark sheet edges. */
function findClutter({ height, width, ...rest }, parts, withBoxes = true) {
  const side = Math.sqrt(height * width);
  const boxes = withBoxes ? findBoxes(rest, parts) : parts.map(() => false);
  const edges = parts.map(({ tall, wide, touches }) => {
    const flat = wide > 0.5 * width && tall < 0.16 * height;
    return touches > 0 && (flat || (tall > 0.5 * height && wide < 0.16 * width));
  });
  const clutter = parts.map((part, one) => {
    const { tall, wide, top, bottom, left, right } = part;
    if (wide > 0.75 * width && tall < 0.1 * height) return true;
    if (tall > 0.75 * height && wide < 0.04 * width && side > PHOTO_SIDE) return true;
    // Along a side and into a corner. A 1 that is cut tight reaches from edge to edge, too.
    const corner = (left === 0 || right === width) && (top === 0 || bottom === height);
    return (edges[one] && corner && side > PHOTO_SIDE) || boxes[one];
  });
  const more = parts.some(({ size }, one) => !clutter[one] && !edges[one] && size > 0.04 * side);
  return more ? clutter.map((is, one) => is || edges[one]) : clutter;
}

/**
 * Find what a shadow leaves at the border, where no sheet is seen beyond it.
 *
 * Only the candidates in front are looked at, down to the first that is sharp.
 */
function findBlurred(components, parts, score, ink, steepness) {
  const blurred = [];
  for (const one of argsortDown(score).slice(0, 6)) {
    if (!parts[one].touches) break;
    const { data } = components.maskOf(parts.map((_, other) => other === one));
    const steepest = maxOf(steepness.data.filter((_, at) => data[at]));
    const fullest = maxOf(ink.data.filter((_, at) => data[at]));
    if (steepest > Math.fround(Math.fround(LEAST_STEEPNESS) * fullest)) break;
    blurred.push(one);
  }
  return blurred;
}

/** Find frames: large components with much ink inside that is not theirs. */
function findBoxes(components, parts) {
  const boxes = parts.map(() => false);
  for (const one of argsortDown(parts.map(({ size }) => size)).slice(0, 6)) {
    const frame = parts[one];
    const inside = parts.filter(
      ({ top, bottom, left, right, size }) =>
        top > frame.top && bottom < frame.bottom && left > frame.left && right < frame.right &&
        size > 0.25 * frame.size,
    );
    if (frame.size < 12 || !inside.length) continue;
    const share = Math.max(...inside.map(({ mass }) => mass)) / frame.mass;
    boxes[one] = share > 0.45 || (share > 0.1 && isHollow(components, frame, one));
  }
  return boxes;
}

/** Tell whether nearly all of a component lies along the sides of its box. */
function isHollow({ runs, labels }, { top, bottom, left, right }, one) {
  const [rimY, rimX] = [0.12 * (bottom - top), 0.12 * (right - left)];
  let [along, all] = [0, 0];
  runs.forEach(({ row, start, end }, run) => {
    if (labels[run] !== one) return;
    all += end - start;
    if (row < top + rimY || row >= bottom - rimY) along += end - start;
    else {
      along += Math.max(0, Math.min(end, left + rimX) - start);
      along += Math.max(0, end - Math.max(start, right - rimX));
    }
  });
  return along > 0.8 * all;
}

/** Return how steep the ink is at each pixel: the length of numpy's gradient. */
function measureSteepness({ height, width, data }) {
  const steepness = new Float32Array(data.length);
  const slope = (low, high, apart) => Math.fround(data[high] - data[low]) / apart;
  for (let y = 0, at = 0; y < height; y++) {
    const [up, down] = [y > 0 ? width : 0, y < height - 1 ? width : 0];
    for (let x = 0; x < width; x++, at++) {
      const [before, after] = [x > 0 ? 1 : 0, x < width - 1 ? 1 : 0];
      const dy = slope(at - up, at + down, (up + down) / width);
      const dx = slope(at - before, at + after, before + after);
      steepness[at] = Math.sqrt(dy * dy + dx * dx);
    }
  }
  return { height, width, data: steepness };
}
