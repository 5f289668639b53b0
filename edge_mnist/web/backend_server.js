// The backend of `edge-mnist serve`: sends the picture to the server that sent this page.

import { BackendError, toErrorAnswer } from "./answer.js";

const TIMEOUT_MS = 20_000;
const OFFLINE = "Check that the server is running and that you are online. Your picture is kept.";

export async function openBackend() {
  const response = await request("healthz", {});
  if (!response.ok) throw await toError(response);
  const health = await response.json();
  const facts = { Model: health.model, "SHA-256": health.model_sha256 };
  facts["Runs on"] = `the server (${health.provider})`;
  return {
    classNames: health.class_names,
    facts: Object.entries(facts),
    privacy: "Your picture is sent to the server that runs this page, and is not kept there.",
    docsUrl: new URL("docs", import.meta.url).href,
    predict,
  };
}

async function predict(picture, key) {
  // Not the file's own type: browsers guess it from the name, and the server reads the content.
  const headers = new Headers({ "content-type": "application/octet-stream" });
  if (/[^ -\xff]/.test(key)) throw keyError(key); // no header may hold these characters
  if (key) headers.set("x-api-key", key);
  const response = await request("predict?seen=true", { method: "POST", headers, body: picture });
  if ([400, 413, 415].includes(response.status)) return toErrorAnswer(await readError(response));
  if (response.status === 401) throw keyError(key);
  if (!response.ok) throw await toError(response);
  const item = (await response.json()).items[0];
  if (item.status === "error") return toErrorAnswer(item.error);
  const image = Uint8Array.from(atob(item.seen), (character) => character.charCodeAt(0));
  return { name: null, reason: null, error: null, ...item, image };
}

async function request(path, options) {
  const url = new URL(path, import.meta.url);
  try {
    return await fetch(url, { ...options, signal: AbortSignal.timeout(TIMEOUT_MS) });
  } catch (error) {
    if (error instanceof DOMException && error.name === "TimeoutError") {
      throw new BackendError("The server takes too long to answer", "Try again in a moment.");
    }
    throw new BackendError("No connection to the server", OFFLINE);
  }
}

async function toError(response) {
  const isBusy = [429, 503].includes(response.status);
  if (isBusy) return new BackendError("The server is busy", "Try again in a moment.");
  return new BackendError("The server reports a problem", await readError(response));
}

/** `key`: what was tried, or empty. */
function keyError(key) {
  const message = key ? "This key is not accepted" : "This server asks for a key";
  const advice = "Ask the person who runs the server for it.";
  return new BackendError(message, advice, { needsKey: true });
}

async function readError(response) {
  const body = await response.json().catch(() => ({}));
  return typeof body.error === "string" ? body.error : `it answered ${response.status}`;
}
