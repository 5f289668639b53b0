"use strict";
// Renders the OpenAPI document as plain HTML; text is only ever set as text.

function make(tag, text, ...children) {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  element.append(...children);
  return element;
}

function describeSchema(schema, document_) {
  if (schema && schema.$ref) return document_.components.schemas[schema.$ref.split("/").pop()];
  return schema;
}

function listItems(pairs) {
  const list = make("dl");
  for (const [name, text] of pairs) list.append(make("dt", name), make("dd", text));
  return list;
}

function describeBodies(content, document_) {
  return Object.entries(content).map(([type, media]) => {
    const details = make("details", "", make("summary", type));
    details.append(make("pre", JSON.stringify(describeSchema(media.schema, document_), null, 2)));
    return details;
  });
}

function describeOperation(path, method, operation, document_) {
  const section = make("section", "", make("h2", "", make("code", `${method.toUpperCase()} ${path}`)));
  const about = operation.description || operation.summary;
  if (about) section.append(make("p", about));
  const parameters = operation.parameters || [];
  if (parameters.length) {
    section.append(make("h3", "Parameters"));
    section.append(listItems(parameters.map((one) => [`${one.name} (${one.in})`, one.description || one.schema.type || ""])));
  }
  if (operation.requestBody) {
    section.append(make("h3", "Body"), ...describeBodies(operation.requestBody.content, document_));
  }
  section.append(make("h3", "Answers"));
  section.append(listItems(Object.entries(operation.responses).map(([code, one]) => [code, one.description])));
  return section;
}

async function render() {
  const place = document.getElementById("operations");
  try {
    const document_ = await (await fetch("/openapi.json")).json();
    const sections = Object.entries(document_.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, one]) => describeOperation(path, method, one, document_)),
    );
    place.replaceChildren(...sections);
  } catch {
    place.textContent = "The document cannot be read.";
  }
}

render();
