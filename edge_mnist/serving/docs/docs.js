"use strict";
// Renders the OpenAPI document, with a form to send each request; text is only ever set as text.

const EXAMPLE_PICTURE = "/example.png";

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function quote(text) {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}

// Each field has its element, and adds what it says to a request: query, headers, body.
function makeParameter({ name, schema, description }) {
  const input = make("input", { placeholder: schema.default ?? "" });
  const label = make("label", {}, `${name} `, input);
  if (description) label.append(make("br"), description);
  return {
    element: label,
    apply(request) {
      if (input.value) request.url.searchParams.set(name, input.value);
    },
  };
}

function makeJsonBody(media) {
  const area = make("textarea", { rows: 8, value: JSON.stringify(media.example), spellcheck: false });
  return {
    element: make("label", {}, "Body, application/json ", area),
    apply(request) {
      request.headers["content-type"] = "application/json";
      request.body = area.value;
      request.shown = quote(area.value);
    },
  };
}

function makePictureBody() {
  const file = make("input", { type: "file", accept: "image/*" });
  return {
    element: make("label", {}, "Picture; without one, an example that shows a 7 ", file),
    async apply(request) {
      const picture = file.files[0] ?? (await (await fetch(EXAMPLE_PICTURE)).blob());
      request.headers["content-type"] = picture.type || "application/octet-stream";
      request.body = picture;
      request.shown = `@${file.files[0]?.name ?? "example.png"}`;
    },
  };
}

function makeBody(content) {
  return content["application/json"] ? makeJsonBody(content["application/json"]) : makePictureBody();
}

async function send(path, method, fields, command, answer) {
  const url = new URL(location.origin);
  url.pathname = path;
  const request = { url, headers: {} };
  for (const field of fields) await field.apply(request);
  const key = document.getElementById("key").value;
  if (key) request.headers["x-api-key"] = key;
  const headers = Object.entries(request.headers).map(([name, value]) => ` -H ${quote(`${name}: ${key && name === "x-api-key" ? "KEY" : value}`)}`);
  const data = request.shown ? ` --data-binary ${request.shown}` : "";
  command.textContent = `curl -X ${method}${headers.join("")}${data} ${quote(url.href)}`;
  answer.textContent = "Waiting.";
  const started = performance.now();
  try {
    const { headers: more, body } = request;
    const response = await fetch(url, { method, headers: more, body });
    const text = await response.text();
    const spent = Math.round(performance.now() - started);
    const isJson = response.headers.get("content-type")?.startsWith("application/json");
    answer.textContent = `${response.status} ${response.statusText}, ${spent} ms\n${isJson ? JSON.stringify(JSON.parse(text), null, 1) : text}`;
  } catch {
    answer.textContent = "No connection to the server.";
  }
}

function describe(path, method, operation) {
  const fields = (operation.parameters ?? []).map(makeParameter);
  if (operation.requestBody) fields.push(makeBody(operation.requestBody.content));
  const command = make("pre", { tabIndex: 0 });
  const answer = make("pre", { tabIndex: 0 });
  answer.setAttribute("role", "status");
  const form = make("form", {}, ...fields.map((field) => field.element), make("button", {}, "Send"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    form.after(command, answer);
    send(path, method.toUpperCase(), fields, command, answer);
  });
  const kinds = Object.keys(operation.requestBody?.content ?? {}).join(", ");
  const codes = Object.entries(operation.responses).map(([code, one]) => `${code} ${one.description}`);
  return make(
    "details",
    {},
    make("summary", {}, make("h2", {}, make("code", {}, `${method.toUpperCase()} ${path}`))),
    make(
      "div",
      {},
      make("p", {}, operation.description ?? operation.summary),
      ...(kinds ? [make("p", {}, `Body: ${kinds}.`)] : []),
      form,
      make("p", {}, `Answers: ${codes.join("; ")}.`),
    ),
  );
}

async function render() {
  const place = document.getElementById("operations");
  try {
    const { info, paths, components } = await (await fetch("/openapi.json")).json();
    document.getElementById("title").textContent = `${info.title} ${info.version}: API`;
    document.getElementById("about").textContent = info.description;
    document.getElementById("access").hidden = !components.securitySchemes;
    const operations = Object.entries(paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, one]) => describe(path, method, one)),
    );
    operations[0].open = true;
    place.replaceChildren(...operations);
  } catch {
    place.textContent = "The OpenAPI document cannot be read.";
  }
}

render();
