// Says in words why the page cannot start. A plain script: opened as a file, a browser runs no
// modules, and a module that did not arrive cannot speak for itself.

(() => {
  const isFile = location.protocol === "file:";
  const words = isFile
    ? [
        "This page needs a web server",
        "It was opened as a file, and browsers do not run it that way. In its folder, run " +
          "“python3 -m http.server” and open http://localhost:8000/.",
      ]
    : ["Part of this page did not load", "Check your connection, then reload the page."];

  function explain() {
    document.getElementById("answer").dataset.status = "error";
    document.getElementById("headline").textContent = words[0];
    document.getElementById("advice").textContent = words[1];
    document.getElementById("progress").hidden = true;
  }

  const onceParsed = () =>
    document.readyState === "loading"
      ? document.addEventListener("DOMContentLoaded", explain)
      : explain();
  if (isFile) onceParsed();
  else {
    const isScript = (event) => event.target instanceof HTMLScriptElement;
    addEventListener("error", (event) => isScript(event) && onceParsed(), true);
  }
})();
