// The backend of `edge-mnist serve`: sends the picture to the server that sent this page.

import { BackendError, toErrorAnswer } from "./answer.js";

const TIMEOUT_MS = 20_000;
const OFFLINE = [
  "No connection to the server",
  "Check that the server is running and that you are online. Your picture is still here.",
];

/** @type {import("./answer.js").OpenBackend} */
export async function openBackend() {
  const response = await request("healthz", {});
  if (!response.ok) throw await toError(response);
  const health = await response.json();
  return {
    classNames: health.class_names,
    facts: [
      ["Model", health.model],
      ["SHA-256", health.model_sha256],
      ["Runs on", `the server (${health.provider})`],
    ],
    privacy: "Your picture is sent to the server that runs this page, and is not kept there.",
    docsUrl: new URL("docs", import.meta.url).href,
    predict,
  };
}

/** @type {import("./answer.js").Backend["predict"]} */
async function predict(picture, key) {
  // Not the file's own type: browsers guess it from the name, and the server reads the content.
  const headers = new Headers({ "content-type": "application/octet-stream" });
  if (key) setKey(headers, key);
  const response = await request("predict?seen=true", { method: "POST", headers, body: picture });
  if ([400, 413, 415].includes(response.status)) return toErrorAnswer(await readError(response));
  if (response.status === 401) throw keyError(key);
  if (!response.ok) throw await toError(response);
  const item = (await response.json()).items[0];
  if (item.status === "error") return toErrorAnswer(item.error);
  return {
    status: item.status,
    name: item.name ?? null,
    confidence: item.confidence,
    probabilities: item.probabilities,
    reason: item.reason ?? null,
    error: null,
    image: Uint8Array.from(atob(item.seen), (character) => character.charCodeAt(0)),
  };
}

/** @param {string} path @param {RequestInit} options */
async function request(path, options) {
  const url = new URL(path, import.meta.url);
  try {
    return await fetch(url, { ...options, signal: AbortSignal.timeout(TIMEOUT_MS) });
  } catch (error) {
    if (error instanceof DOMException && error.name === "TimeoutError") {
      throw new BackendError("The server takes too long to answer", "Try again in a moment.");
    }
    throw new BackendError(OFFLINE[0], OFFLINE[1]);
  }
}

/** @param {Headers} headers @param {string} key */
function setKey(headers, key) {
  try {
    headers.set("x-api-key", key);
  } catch {
    throw keyError(key); // it has characters that no header may hold
  }
}

/** @param {Response} response */
async function toError(response) {
  if ([429, 503].includes(response.status)) {
    return new BackendError("The server is busy", "Try again in a moment.");
  }
  return new BackendError("The server reports a problem", await readError(response));
}

/** @param {string} key what was tried, or empty */
function keyError(key) {
  return new BackendError(
    key ? "This key is not accepted" : "This server asks for a key",
    "Ask the person who runs the server for it.",
    { needsKey: true },
  );
}

/** @param {Response} response */
async function readError(response) {
  const body = await response.json().catch(() => ({}));
  return typeof body.error === "string" ? body.error : `it answered ${response.status}`;
}
