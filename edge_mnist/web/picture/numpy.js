// The arithmetic of numpy and Python where JavaScript's own differs: what is float32 there is
// rounded to float32 here, after each operation.

/** Round to the nearest integer, halves to the even one, as numpy and Python do. */
export function roundHalfEven(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Return a percentile of sorted values. */
export function percentileOf(ordered, percent) {
  const place = (ordered.length - 1) * (percent / 100);
  const floor = Math.min(Math.floor(place), ordered.length - 1);
  const low = ordered[floor];
  const high = ordered[Math.min(floor + 1, ordered.length - 1)];
  const gamma = place - floor;
  const apart = Math.fround(high - low);
  return gamma >= 0.5 ? high - apart * (1 - gamma) : low + apart * gamma;
}

/** Return the largest value, without spreading a long array over the stack. */
export function maxOf(values) {
  let best = values[0];
  for (const value of values) if (value > best) best = value;
  return best;
}

/** Return the smallest value. */
export function minOf(values) {
  let best = values[0];
  for (const value of values) if (value < best) best = value;
  return best;
}
