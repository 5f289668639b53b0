// The drawing: strokes, or a picture that was chosen, on a canvas, with undo and redo, as a file.

import { BackendError } from "./answer.js";

const VIEW_PX = 800; // side of the canvas; strokes are kept in units of it, 0..1
const FILE_PX = 200; // side of the PNG file: enough for the model's 28 x 28
const WIDTHS = {
  pen: { thin: 0.05, medium: 0.075, thick: 0.11 },
  eraser: { thin: 0.08, medium: 0.14, thick: 0.22 },
};
const DOT = 0.1; // in sides of the canvas; a drawing that reaches no further is no digit
const [PAPER, INK, ACCENT] = ["#ffffff", "#000000", "#1d4ed8"];

// A point is [x, y] from the upper left corner, in sides of the canvas; a stroke is {points, width,
// isErasing}; a picture is {file, bitmap}, bitmap null if it has no preview.
const EMPTY = { strokes: [], picture: null };

export class Drawing {
  #content = EMPTY;
  #undone = [];
  #past = [];
  #stroke = null;
  #cursor = null;
  #frame = 0; // in which it is painted anew
  tool = "pen";
  size = "medium";

  /** `onChange` is told "stroke" when one grows or ends, "content" when all is replaced. */
  constructor(canvas, onChange) {
    this.canvas = canvas;
    this.onChange = onChange;
    canvas.width = canvas.height = VIEW_PX;
    this.#paintSoon();
  }

  get isEmpty() { return !this.#content.strokes.length && !this.#content.picture; }

  /** Whether all that is drawn is a dot, or several in one place. */
  get isDot() {
    const { strokes } = this.#content;
    if (!strokes.length) return false;
    const [left, top] = strokes[0].points[0];
    return strokes.every(({ points }) =>
      points.every(([x, y]) => Math.hypot(x - left, y - top) < DOT),
    );
  }

  get isStrokeOpen() { return this.#stroke !== null; }
  get hasPicture() { return this.#content.picture !== null; }
  get canUndo() { return this.#past.length > 0; }
  get canRedo() { return this.#undone.length > 0; }

  /** Put the pen down. A picture makes room for the new drawing. */
  beginStroke(point, { isErasing = this.tool === "eraser" } = {}) {
    this.endStroke();
    const width = WIDTHS[isErasing ? "eraser" : "pen"][this.size];
    this.#stroke = { points: [point], width, isErasing };
    this.#record({ strokes: [...this.#content.strokes, this.#stroke], picture: null });
    this.#notify("stroke");
  }

  extendStroke(points) {
    if (!this.#stroke) return;
    this.#stroke.points.push(...points);
    this.#notify("stroke");
  }

  /** Lift the pen. A stroke that never came near the canvas is dropped. */
  endStroke() {
    if (!this.#stroke) return;
    if (!reachesCanvas(this.#stroke)) return this.cancelStroke();
    this.#stroke = null;
    this.#notify("stroke");
  }

  /** Take back the stroke that is being drawn. */
  cancelStroke() {
    if (!this.#stroke) return;
    this.#stroke = null;
    this.#content = this.#past.pop() ?? EMPTY;
    this.#notify("content");
  }

  undo() { this.#step(this.#past, this.#undone); }
  redo() { this.#step(this.#undone, this.#past); }

  clear() {
    this.endStroke();
    if (!this.isEmpty) this.#replace(EMPTY);
  }

  showPicture(picture) { this.#replace({ strokes: [], picture }); }

  /** Replace the drawing by other strokes. */
  showLines(lines) {
    const width = WIDTHS.pen.medium;
    const strokes = lines.map((points) => ({ points, width, isErasing: false }));
    this.#replace({ strokes, picture: null });
  }

  /** Show where the keyboard's pen is. */
  showCursor(point) {
    this.#cursor = point;
    this.#paintSoon();
  }

  /** Return the chosen picture's file as it came, or the drawing as PNG. */
  async toFile() {
    if (this.#content.picture) return this.#content.picture.file;
    checkCanvas();
    const canvas = new OffscreenCanvas(FILE_PX, FILE_PX);
    this.#paintStrokes(canvas.getContext("2d"), FILE_PX);
    return canvas.convertToBlob({ type: "image/png" });
  }

  #record(content) {
    this.#past.push(this.#content);
    this.#undone = [];
    this.#content = content;
  }

  #step(from, to) {
    this.endStroke();
    if (!from.length) return;
    to.push(this.#content);
    this.#content = from.pop();
    this.#notify("content");
  }

  #replace(content) {
    this.endStroke();
    this.#record(content);
    this.#notify("content");
  }

  #notify(change) {
    this.#paintSoon();
    this.onChange(change);
  }

  #paintSoon() { this.#frame ||= requestAnimationFrame(() => this.#paint()); }

  #paint() {
    this.#frame = 0;
    const context = this.canvas.getContext("2d");
    this.#paintStrokes(context, VIEW_PX);
    if (this.#content.picture) paintPicture(context, this.#content.picture);
    if (this.#cursor) this.#paintCursor(context, this.#cursor);
  }

  #paintStrokes(context, side) {
    context.fillStyle = PAPER;
    context.fillRect(0, 0, side, side);
    context.lineCap = context.lineJoin = "round";
    for (const { points, width, isErasing } of this.#content.strokes) {
      context.strokeStyle = isErasing ? PAPER : INK;
      context.lineWidth = width * side;
      context.beginPath();
      for (const [x, y] of points) context.lineTo(x * side, y * side);
      const [x, y] = points[points.length - 1];
      context.lineTo(x * side + 0.01, y * side); // a line without length, a dot, is not painted
      context.stroke();
    }
  }

  #paintCursor(context, [x, y]) {
    const radius = (WIDTHS[this.tool][this.size] * VIEW_PX) / 2;
    context.beginPath();
    context.arc(x * VIEW_PX, y * VIEW_PX, radius, 0, 2 * Math.PI);
    for (const [style, width] of [[PAPER, 14], [ACCENT, 8]]) {
      context.strokeStyle = style; // a light rim, so that it is seen on ink too
      context.lineWidth = width;
      context.stroke();
    }
    context.fillStyle = ACCENT;
    if (this.#stroke) context.fill();
  }
}

/** Throw BackendError if this browser hides from pages what is on a canvas, as Tor Browser does. */
export function checkCanvas() {
  const context = new OffscreenCanvas(8, 8).getContext("2d");
  context.fillRect(0, 0, 8, 8);
  const { data } = context.getImageData(0, 0, 8, 8);
  if (data.every((level, at) => (at % 4 === 3 ? level > 247 : level < 8))) return; // opaque black
  throw new BackendError("This browser hides what is drawn", "Allow this page to read the canvas.");
}

function reachesCanvas({ points, width }) {
  const [low, high] = [-width / 2, 1 + width / 2];
  return points.some(([x, y]) => x > low && x < high && y > low && y < high);
}

/** Paint a picture as large as it fits. */
function paintPicture(context, { bitmap }) {
  if (!bitmap) {
    Object.assign(context, { fillStyle: "#565d6b", font: "40px sans-serif", textAlign: "center" });
    context.fillText("No preview", VIEW_PX / 2, VIEW_PX / 2);
    return;
  }
  const scale = VIEW_PX / Math.max(bitmap.width, bitmap.height);
  const [width, height] = [bitmap.width * scale, bitmap.height * scale];
  context.drawImage(bitmap, (VIEW_PX - width) / 2, (VIEW_PX - height) / 2, width, height);
}
