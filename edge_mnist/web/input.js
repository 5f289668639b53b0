// From mouse, finger, pen and keys to strokes of a drawing.

const PALM_PX = 80; // a contact wider than any finger's
const PALM_MS = 500; // a hand may still rest on the screen for this long after the pen was lifted
const STEP = 0.04; // of the canvas's side, for one press of an arrow key
const FINE_STEP = 0.01; // with Shift
const ERASER_BUTTON = 5; // the other end of a pen
const DRAWING_BUTTONS = 1 | 32; // of `buttons`: the main one, and the other end of a pen
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
// A press that began on one of these is not a stroke that begins outside the canvas.
const CONTROLS = "button, input, label, summary, a, .selectable";

// Draw with pointers. One draws at a time: further fingers and a hand beside a pen do nothing.
// `stage`: the canvas and a margin around it, where strokes may begin too.
export function drawWithPointers(stage, drawing) {
  const { canvas } = drawing;
  let [active, pressedOn, penTime] = [null, null, -Infinity];

  const toPoint = (event) => {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    return [(event.clientX - left) / width, (event.clientY - top) / height];
  };

  const isPalm = ({ pointerType, width, height, timeStamp }) =>
    pointerType === "touch" && (Math.max(width, height) > PALM_PX || timeStamp - penTime < PALM_MS);

  const begin = (event) => {
    if (isPalm(event)) return;
    if (active) {
      if (event.pointerType !== "pen" || active.type !== "touch") return;
      drawing.cancelStroke(); // the hand came down before the pen
    }
    active = { id: event.pointerId, type: event.pointerType };
    stage.setPointerCapture(event.pointerId);
    getSelection()?.removeAllRanges();
    const isErasing = (event.buttons & 32) !== 0 || undefined;
    drawing.beginStroke(toPoint(event), { isErasing });
  };

  stage.addEventListener("pointerdown", (event) => {
    if (event.button === 0 || event.button === ERASER_BUTTON) begin(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (event.pointerType === "pen") penTime = event.timeStamp;
    if (active?.id === event.pointerId) {
      const steps = event.getCoalescedEvents?.() ?? [];
      drawing.extendStroke((steps.length ? steps : [event]).map(toPoint));
    } else if (!active && pressedOn && event.buttons & DRAWING_BUTTONS) begin(event);
  });
  for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
    stage.addEventListener(name, (event) => {
      if (active?.id !== event.pointerId) return;
      active = null;
      drawing.endStroke();
    });
  }

  // A mouse that is pressed elsewhere and then comes in draws from there.
  const notePress = ({ target, pointerType }) => {
    const isControl = target instanceof Element && target.closest(CONTROLS);
    pressedOn = isControl || pointerType === "touch" ? null : target;
  };
  document.addEventListener("pointerdown", notePress, true);
  for (const name of ["pointerup", "pointercancel"]) {
    document.addEventListener(name, () => (pressedOn = null), true);
  }

  stage.addEventListener("mousedown", (event) => {
    event.preventDefault(); // selects nothing, and drags nothing that is selected
    if (!active) return; // a tap: this event comes after it
    canvas.focus({ preventScroll: true, focusVisible: false });
    drawing.showCursor(null); // of the keyboard's pen
  });
  document.addEventListener("dragstart", (event) => event.preventDefault());
  stage.addEventListener("contextmenu", (event) => event.preventDefault()); // of a long press
}

// Draw with keys: arrows move the pen, Space puts it down and lifts it, Delete clears. `announce`:
// tells a screen reader.
export function drawWithKeys(drawing, announce) {
  const { canvas } = drawing;
  let place = [0.5, 0.5];
  const held = new Set(); // arrow keys that are down; two of them move diagonally

  const lift = () => {
    if (!drawing.isStrokeOpen) return;
    drawing.endStroke();
    announce("Pen up");
  };

  const toggle = () => {
    if (drawing.isStrokeOpen) return lift();
    drawing.beginStroke(place);
    announce("Pen down");
  };

  const move = (isFine) => {
    const step = isFine ? FINE_STEP : STEP;
    const directions = [...held].map((key) => ARROWS[key]);
    place = place.map((position, axis) => {
      const way = directions.reduce((sum, direction) => sum + direction[axis], 0);
      return Math.min(Math.max(position + step * way, 0), 1);
    });
    drawing.extendStroke([place]);
  };

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in ARROWS) {
      held.add(event.key);
      move(event.shiftKey);
    } else if (event.key === " ") {
      if (!event.repeat) toggle();
    } else if (event.key === "Escape") {
      lift();
      return;
    } else if (event.key === "Delete" || event.key === "Backspace") {
      drawing.clear();
    } else return;
    event.preventDefault(); // else the page scrolls
    drawing.showCursor(place);
  });
  canvas.addEventListener("keyup", (event) => held.delete(event.key));
  canvas.addEventListener("focus", () => {
    if (canvas.matches(":focus-visible")) drawing.showCursor(place);
  });
  canvas.addEventListener("blur", () => {
    held.clear();
    lift();
    drawing.showCursor(null);
  });
}
