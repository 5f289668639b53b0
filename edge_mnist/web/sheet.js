// The sheet: strokes by mouse, finger, pen or arrow keys, on a canvas that keeps them as lines.

const SIDE_PX = 640; // of the canvas; strokes are kept in units of its side, 0..1
const READ_PX = 200; // of the picture that is read: enough for 28 x 28, and quick
const PEN = 0.075;
const KEY_STEP = 0.04;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Sheet {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {function} onChange called when what is drawn has changed
   */
  constructor(canvas, onChange) {
    Object.assign(this, { canvas, onChange, strokes: [], stroke: null, pictured: null });
    this.place = [0.5, 0.3]; // of the pen that keys move
    canvas.width = canvas.height = SIDE_PX;
    this.pen = canvas.getContext("2d");
    this.listen();
    this.draw();
  }

  clear() {
    Object.assign(this, { strokes: [], stroke: null, pictured: null });
    this.place = [0.5, 0.3];
    this.change();
  }

  undo() {
    if (this.pictured) this.pictured = null;
    else this.strokes.pop();
    this.change();
  }

  /** Show a picture that was chosen instead of drawn. */
  show(bitmap) {
    Object.assign(this, { strokes: [], stroke: null, pictured: bitmap });
    this.draw();
  }

  /** Return the drawing as opaque pixels. */
  read() {
    const canvas = new OffscreenCanvas(READ_PX, READ_PX);
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    this.paint(pen, READ_PX);
    return pen.getImageData(0, 0, READ_PX, READ_PX);
  }

  draw() {
    this.paint(this.pen, SIDE_PX);
    if (this.pictured) drawInside(this.pen, this.pictured, SIDE_PX);
  }

  paint(pen, side) {
    pen.fillStyle = "#ffffff";
    pen.fillRect(0, 0, side, side);
    pen.strokeStyle = "#000000";
    Object.assign(pen, { lineWidth: PEN * side, lineCap: "round", lineJoin: "round" });
    for (const stroke of this.strokes) {
      pen.beginPath();
      stroke.forEach(([x, y]) => pen.lineTo(x * side, y * side));
      const [x, y] = stroke[0];
      if (stroke.length === 1) pen.lineTo(x * side, y * side + 0.01); // a dot
      pen.stroke();
    }
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.follow(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, () => this.end());
    }
    canvas.addEventListener("keydown", (event) => this.press(event));
    canvas.addEventListener("keyup", (event) => event.key === "Shift" && this.end());
    canvas.addEventListener("blur", () => this.end());
  }

  begin(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.start(this.placeOf(event));
  }

  start(place) {
    this.pictured = null;
    this.stroke = [place];
    this.strokes.push(this.stroke);
    this.change();
  }

  follow(event) {
    if (!this.stroke || !this.canvas.hasPointerCapture(event.pointerId)) return;
    const steps = event.getCoalescedEvents?.() ?? [];
    for (const step of steps.length ? steps : [event]) this.stroke.push(this.placeOf(step));
    this.change();
  }

  end() {
    this.stroke = null;
  }

  /** Move the pen by a key; with Shift it draws. */
  press(event) {
    const way = ARROWS[event.key];
    if (!way) return;
    event.preventDefault();
    if (event.shiftKey && !this.stroke) this.start(this.place);
    this.place = this.place.map((at, axis) => Math.min(Math.max(at + KEY_STEP * way[axis], 0), 1));
    if (!event.shiftKey) return;
    this.stroke.push(this.place);
    this.change();
  }

  placeOf(event) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    return [(event.clientX - left) / width, (event.clientY - top) / height];
  }

  change() {
    this.draw();
    this.onChange();
  }
}

/** Draw a picture as large as it fits. */
function drawInside(pen, bitmap, side) {
  const scale = side / Math.max(bitmap.width, bitmap.height);
  const [width, height] = [bitmap.width * scale, bitmap.height * scale];
  pen.drawImage(bitmap, (side - width) / 2, (side - height) / 2, width, height);
}
