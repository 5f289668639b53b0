// How a JPEG is turned for viewing, as its EXIF says. The browser turns it by itself; this tells
// which of its sides were the first before that.

const ORIENTATION = 0x0112;
const [START_OF_SCAN, APP1] = [0xffda, 0xffe1];
const FROM_RIGHT = [2, 3, 6, 7]; // orientations whose picture begins at the right, or below
const FROM_BOTTOM = [3, 4, 7, 8];

/** Return {right, bottom}: whether the rows of a JPEG file began there before it was turned. */
export function readOrigin(bytes) {
  let orientation = 1;
  try {
    orientation = readOrientation(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength));
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // cut off: as if there were none
  }
  return {
    right: FROM_RIGHT.includes(orientation),
    bottom: FROM_BOTTOM.includes(orientation),
  };
}

function readOrientation(view) {
  for (let at = 2; view.getUint16(at) !== START_OF_SCAN; at += 2 + view.getUint16(at + 2)) {
    const isExif = view.getUint16(at) === APP1 && view.getUint32(at + 4) === 0x45786966; // "Exif"
    if (isExif) return findOrientation(new DataView(view.buffer, view.byteOffset + at + 10));
    if (view.getUint8(at) !== 0xff) return 1;
  }
  return 1;
}

/** Find the orientation in the first directory of a TIFF header. */
function findOrientation(view) {
  const isLittle = view.getUint16(0) === 0x4949;
  const directory = view.getUint32(4, isLittle);
  const entries = view.getUint16(directory, isLittle);
  for (let entry = 0; entry < entries; entry++) {
    const at = directory + 2 + 12 * entry;
    if (view.getUint16(at, isLittle) === ORIENTATION) return view.getUint16(at + 8, isLittle);
  }
  return 1;
}
