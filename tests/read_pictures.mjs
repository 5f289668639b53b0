// Read pictures with the page's own path, without a browser:
// node read_pictures.mjs WEB PICTURES FRAMING
// prints one JSON object a picture, in the order of their names.

import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [web, folder, framing] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(join(web, "picture", name)).href);
const [{ decode, toGrey }, { openReader }] = [await load("decoding.js"), await load("reader.js")];
const readGrey = await openReader(readFileSync(join(web, "picture", "reader.wasm")));

for (const name of readdirSync(folder).sort()) {
  const picture = await decode(new Blob([readFileSync(join(folder, name))]));
  const { image, reason } = readGrey(toGrey(picture), framing);
  console.log(JSON.stringify({ name, reason, image: Buffer.from(image).toString("base64") }));
}
