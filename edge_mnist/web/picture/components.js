// Connected parts of a mask; the counterpart of picture/digit.py.

/** The 8-connected parts of a mask, as horizontal runs of pixels. */
export class Components {
  /**
   * @param {{height: number, width: number}} shape of the mask
   * @param {{row: number, start: number, end: number}[]} runs from left to right, downwards
   * @param {Int32Array} labels which component each run belongs to, 0 .. n - 1
   * @param {number} n number of components
   */
  constructor(shape, runs, labels, n) {
    Object.assign(this, { height: shape.height, width: shape.width, runs, labels, n });
  }

  /** Add up an image's values over each component. */
  sumOver(values) {
    const sums = new Float64Array(this.n);
    const running = new Float64Array(this.width + 1);
    let filled = -1;
    this.runs.forEach(({ row, start, end }, index) => {
      if (row !== filled) {
        const from = row * this.width;
        for (let x = 0; x < this.width; x++) running[x + 1] = running[x] + values.data[from + x];
        filled = row;
      }
      sums[this.labels[index]] += running[end] - running[start];
    });
    return sums;
  }

  /** Return {top, bottom, left, right} of each component; bottom and right lie outside. */
  boxes() {
    const { height, width } = this;
    const make = () => ({ top: height, bottom: 0, left: width, right: 0 });
    const boxes = Array.from({ length: this.n }, make);
    this.runs.forEach(({ row, start, end }, index) => {
      const box = boxes[this.labels[index]];
      box.top = Math.min(box.top, row);
      box.bottom = Math.max(box.bottom, row + 1);
      box.left = Math.min(box.left, start);
      box.right = Math.max(box.right, end);
    });
    return boxes;
  }

  /** Return each pixel's component; -1 outside of all. */
  numberPixels() {
    const numbers = new Int32Array(this.height * this.width).fill(-1);
    this.runs.forEach(({ row, start, end }, index) => {
      numbers.fill(this.labels[index], row * this.width + start, row * this.width + end);
    });
    return numbers;
  }

  /** Return the mask of some components; `keep` has one entry for each. */
  maskOf(keep) {
    const data = new Uint8Array(this.height * this.width);
    this.runs.forEach(({ row, start, end }, index) => {
      if (keep[this.labels[index]]) {
        data.fill(1, row * this.width + start, row * this.width + end);
      }
    });
    return { height: this.height, width: this.width, data };
  }
}

/** Return the same runs with every component replaced by its group's number. */
export function joinComponents(components, groups) {
  const names = [...new Set(groups)].sort((a, b) => a - b);
  const numbers = new Map(names.map((name, number) => [name, number]));
  const labels = components.labels.map((label) => numbers.get(groups[label]));
  return new Components(components, components.runs, labels, names.length);
}

/** Find the 8-connected parts of a mask. */
export function findComponents(mask) {
  const { runs, firstOfRow } = findRuns(mask);
  const roots = joinRuns(runs, firstOfRow);
  const numbers = new Map();
  const labels = roots.map((root) => {
    if (!numbers.has(root)) numbers.set(root, numbers.size);
    return numbers.get(root);
  });
  return new Components(mask, runs, labels, numbers.size);
}

function findRuns({ height, width, data }) {
  const runs = [];
  const firstOfRow = [];
  for (let row = 0; row < height; row++) {
    firstOfRow.push(runs.length);
    for (let x = 0, from = row * width; x < width; x++) {
      if (!data[from + x]) continue;
      const start = x;
      while (x < width && data[from + x]) x++;
      runs.push({ row, start, end: x });
    }
  }
  firstOfRow.push(runs.length);
  return { runs, firstOfRow };
}

/** Return for each run the first run it is connected with, through touching runs. */
function joinRuns(runs, firstOfRow) {
  const parents = Int32Array.from(runs, (_, index) => index);
  const find = (run) => {
    while (parents[run] !== run) {
      parents[run] = parents[parents[run]];
      run = parents[run];
    }
    return run;
  };
  for (let row = 1; row < firstOfRow.length - 1; row++) {
    let [upper, lower] = [firstOfRow[row - 1], firstOfRow[row]];
    while (upper < firstOfRow[row] && lower < firstOfRow[row + 1]) {
      if (runs[upper].end >= runs[lower].start && runs[lower].end >= runs[upper].start) {
        const [first, second] = [find(upper), find(lower)];
        parents[Math.max(first, second)] = Math.min(first, second);
      }
      if (runs[upper].end < runs[lower].end) upper++;
      else lower++;
    }
  }
  return parents.map((_, run) => find(run));
}
