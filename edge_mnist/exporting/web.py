"""Exporting a model as a web page: one HTML file that needs no server and no network.

Runs on the device side, without torch and onnx. The page's sources lie in ``edge_mnist/web``. Its
WebAssembly computes the networks that the C target takes; onnxruntime-web, for other networks, is
taken by npm when the page is made and is no part of this package.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edge_mnist.errors import MissingPackageError, ModelError, UsageError
from edge_mnist.files import make_folder, refuse_foreign_files, write_atomically
from edge_mnist.model_file import (
    FLOAT32_NAME,
    INT8_NAME,
    ModelFile,
    check_contract,
    find_model,
    read_model,
    shell_path,
)

PAGE = Path(__file__).parents[1] / "web"
# In this order they are one module: each uses names of those before it only while it runs.
MODULES = ("answer", "drawing", "input", "decoding", "wasm", "backend_web", "page")
RUNTIMES = ("wasm", "ort")
MANIFEST, WORKER = "manifest.webmanifest", "service_worker.js"
MARK = b'<meta name="generator" content="edge-mnist">'
RUNTIME, VERSION = "onnxruntime-web", "1.30.0"
# The two of its five hundred files that one thread of wasm takes; under names ending in .js and
# .wasm, because some hosts serve .mjs as plain text, which a browser does not run.
RUNTIME_FILES = {
    "ort/ort.js": (
        "package/dist/ort.wasm.bundle.min.mjs",
        "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    ),
    "ort/ort.wasm": (
        "package/dist/ort-wasm-simd-threaded.wasm",
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    ),
}
# Its cache first; and without a network npm would try for three minutes.
NPM_OPTIONS = ("--loglevel=error", "--ignore-scripts", "--prefer-offline", "--fetch-retries=0")
CODES = ("code", "errno", "syscall")
NPM_S = 600  # a slow line takes this long for 30 MB


@dataclass(frozen=True)
class WebResult:
    """What one export of a page wrote.

    Attributes:
        folder: Where the page is.
        page: The HTML file.
        page_bytes: Bytes of that file.
        model: The model file that it holds.
        model_bytes: Bytes of that file.
        files: Files written.
        size_bytes: Bytes of all of them.
        runtime: What computes the network: wasm or ort.
    """

    folder: str
    page: str
    page_bytes: int
    model: str
    model_bytes: int
    files: int
    size_bytes: int
    runtime: str
    schema_version: int = 2

    @property
    def next_command(self) -> str:
        """A command that shows the page."""
        if self.runtime == "wasm":
            return f"python3 -m webbrowser {Path(self.page).resolve().as_uri()}"
        return f"python3 -m http.server -d {shell_path(self.folder)} -b 127.0.0.1 8000"

    def to_text(self) -> str:
        """Return a line on what was written."""
        size = f"{self.page_bytes:,} bytes"
        if self.runtime != "wasm":
            size += f", in all {self.files} files, {self.size_bytes:,} bytes"
        return f"{self.page}: {size}, with {self.model}"


def export_web(
    model: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] = "web",
    *,
    runtime: str = "wasm",
    offline: bool = False,
    overwrite: bool = False,
) -> WebResult:
    """Write a page that reads digits in the browser.

    ``index.html`` holds everything. Where it is hosted, a manifest and a service worker beside it
    let browsers install it and open it without a connection.

    Args:
        model: A model file, or a folder written by export; see ``model_file.find_model``. Of a
            folder's models the int8 one is taken, where there is one.
        folder: Where to write.
        runtime: ``wasm`` computes the int8 networks that the C target takes, within the page; or
            ``ort``, onnxruntime-web, which computes all but lies beside the page with the model,
            and needs a web server.
        offline: Take onnxruntime-web from npm's cache only.
        overwrite: Replace files that no export wrote, too.

    Raises:
        ModelError: The model is missing or breaks the contract, or is none that wasm computes.
        MissingPackageError: npm is missing, or cannot get onnxruntime-web.
        OutputError: The folder cannot be written, or holds files that no export wrote.
        UsageError: ``runtime`` is neither.
    """
    if runtime not in RUNTIMES:
        raise UsageError(f"--runtime: expected wasm or ort, got {runtime}")
    chosen = read_model(choose_model(model))
    about = describe_model(chosen)
    target = Path(folder)
    files: dict[str, bytes] = {}
    network = b""
    if runtime == "ort":
        files = fetch_runtime(offline=offline)
        about["runtime_bytes"] = len(files["ort/ort.wasm"])
        files[about["file"]] = chosen.content
    else:
        network = _write_network(chosen)
    name = "WebAssembly" if runtime == "wasm" else f"{RUNTIME} {VERSION}"
    about["facts"].append(("Runs on", f"your device, with {name}"))
    files["index.html"] = make_page(about, network)
    files |= make_installable(files)
    if not overwrite:
        refuse_foreign_files(target, files, marked="index.html", mark=MARK)
    # Last the page: then all is there; and before it the worker, which is what names the version.
    for name in sorted(files, key=lambda name: (name == "index.html", name == WORKER)):
        path = target / name
        make_folder(path.parent)
        write_atomically(path, files[name])
    return WebResult(
        folder=str(target),
        page=str(target / "index.html"),
        page_bytes=len(files["index.html"]),
        model=str(chosen.path),
        model_bytes=chosen.size_bytes,
        files=len(files),
        size_bytes=sum(map(len, files.values())),
        runtime=runtime,
    )


def _write_network(model: ModelFile) -> bytes:
    """Return a model's network as the page's WebAssembly takes it.

    Raises:
        ModelError: It is none that this can compute.
    """
    from edge_mnist.exporting.c import compare_with_onnxruntime
    from edge_mnist.exporting.c.data import write_data
    from edge_mnist.exporting.c.layers import read_network
    from edge_mnist.exporting.golden import draw_golden_images

    try:
        if check_contract(model).quantization == "none":
            raise ModelError(f"{model.path} is float32; expected an int8 file ({INT8_NAME})")
        network = read_network(model)
        compare_with_onnxruntime(model, network, draw_golden_images()[0])
        return write_data(network)
    except ModelError as error:
        raise ModelError(f"{error}; --runtime ort computes it with onnxruntime-web") from error


def choose_model(name: str | os.PathLike[str] | None = None) -> Path:
    """Return the model that a page takes: a named file, else int8 before float32.

    Raises:
        ModelError: There is no such file.
    """
    path = find_model(name, prefer_exports=True)
    named = name or os.environ.get("EDGE_MNIST_MODEL")
    small = path.with_name(INT8_NAME)
    is_named = named is not None and Path(named).name == path.name
    return small if path.name == FLOAT32_NAME and small.is_file() and not is_named else path


def describe_model(model: ModelFile) -> dict[str, Any]:
    """Return what the page has to know of a model, which it need not parse for it.

    Raises:
        ModelError: It breaks the contract.
    """
    info = check_contract(model)
    file = INT8_NAME if info.quantization != "none" else FLOAT32_NAME
    facts = [("Model", f"{file}, {round(model.size_bytes / 1000)} kB")]
    if accuracy := float(info.metadata.get("accuracy", "0")):
        dataset = info.metadata.get("dataset", "")
        facts.append(("Accuracy", f"{accuracy:.2%} of the test images of {dataset}"))
    facts.append(("SHA-256", model.sha256))
    return {
        "file": file,
        "size_bytes": model.size_bytes,
        "runtime_bytes": 0,
        "class_names": info.class_names,
        "rejection_threshold": info.rejection_threshold,
        "framing": info.framing,
        "facts": facts,
    }


def make_page(about: dict[str, Any], network: bytes) -> bytes:
    """Return the HTML file: sources, WebAssembly, the model's description and the network.

    Its Content-Security-Policy names the hashes of script and style, and lets the page fetch
    nothing; only onnxruntime-web, where ``about`` has its size, may be fetched from beside it.
    """
    style = _read("page.css")
    script = "".join(map(_read_module, MODULES))
    is_fetching = about["runtime_bytes"] > 0
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash(script)} 'wasm-unsafe-eval'" + " 'self'" * is_fetching,
            f"style-src {_hash(style)}",
            "img-src data:",
            f"connect-src '{'self' if is_fetching else 'none'}'",
            "manifest-src 'self'",
            "worker-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    blocks = {"wasm": (PAGE / "edge_mnist.wasm").read_bytes(), "network": network}
    data = [
        f'<script type="application/octet-stream" id="{name}">{_pack(content)}</script>'
        for name, content in blocks.items()
    ]
    described = json.dumps(about).replace("<", "\\u003c")  # which would end the script
    data.append(f'<script type="application/json" id="model">{described}</script>')
    allowed = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    changes = {
        '<meta name="generator"': f'{allowed}\n<meta name="generator"',
        'href="icon.svg"': f'href="data:image/svg+xml,{quote(_read("icon.svg"))}"',
        '<link rel="stylesheet" href="page.css">': f"<style>{style}</style>",
        '<script type="module" src="page.js"></script>\n': "",
        "</body>": "\n".join([*data, f'<script type="module">{script}</script>', "</body>"]),
    }
    page = _read("index.html")
    for source, text in changes.items():
        assert page.count(source) == 1, source
        page = page.replace(source, text)
    return page.encode()


def make_installable(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return what lets browsers install a hosted page and open it without a connection."""
    icon = f"data:image/svg+xml,{quote(_read('icon.svg'))}"
    manifest = {
        "name": "Draw a digit",
        "short_name": "Digit",
        "start_url": "./",
        "display": "standalone",
        "background_color": "#f4f5f8",
        "theme_color": "#1d4ed8",
        "icons": [{"src": icon, "sizes": "any", "type": "image/svg+xml"}],
    }
    version = hashlib.sha256(b"".join(files.values())).hexdigest()[:16]
    kept = ["./", MANIFEST, *sorted(set(files) - {"index.html"})]
    constants = f"const VERSION = {json.dumps(version)};\nconst FILES = {json.dumps(kept)};\n"
    return {
        MANIFEST: json.dumps(manifest, indent=1).encode(),
        WORKER: constants.encode() + (PAGE / WORKER).read_bytes(),
    }


def _read_module(name: str) -> str:
    """Return a module without what a single script needs not: imports, exports and comments."""
    text = re.sub(r"^import [^;]*;\n", "", _read(f"{name}.js"), flags=re.MULTILINE)
    text = re.sub(r"^export ", "", text, flags=re.MULTILINE)
    return re.sub(r"^ *(//.*|/\*\*((?!\*/)[\s\S])*\*/)\n", "", text, flags=re.MULTILINE)


def _read(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    """Return the source of a Content-Security-Policy that allows one script or style."""
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _pack(content: bytes) -> str:
    """Return bytes as the page unpacks them: compressed by zlib, then base64."""
    return base64.b64encode(zlib.compress(content, 9)).decode()


def fetch_runtime(*, offline: bool = False) -> dict[str, bytes]:
    """Have npm get the runtime, and return the files of it that the page needs.

    Raises:
        MissingPackageError: npm is missing, cannot get it, or got something else.
    """
    package = f"{RUNTIME}@{VERSION}"
    with tempfile.TemporaryDirectory(prefix="edge-mnist-web-") as folder:
        npm = shutil.which("npm") or "npm"  # on Windows it is npm.cmd, which only which() finds
        command = [npm, "pack", package, *NPM_OPTIONS, *["--offline"] * offline]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=NPM_S, check=False
            )
        except FileNotFoundError as error:
            raise MissingPackageError(
                f"npm is not installed, and it brings {package}; install Node.js"
            ) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MissingPackageError(f"npm cannot get {package}: {error}") from error
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode or not archives:
            raise MissingPackageError(f"npm cannot get {package}: {_explain(done.stderr)}")
        return _unpack(archives[0])


def _unpack(archive: Path) -> dict[str, bytes]:
    files = {}
    with tarfile.open(archive) as members:
        for name, (member, sha256) in RUNTIME_FILES.items():
            file = members.extractfile(member)
            content = file.read() if file else b""
            if hashlib.sha256(content).hexdigest() != sha256:
                raise MissingPackageError(f"{member} of {RUNTIME} {VERSION} is not the known one")
            files[name] = content
    return files


def _explain(complaint: str) -> str:
    """Return the first line of npm's error output that is not one of its codes."""
    lines = [line for line in complaint.splitlines() if line.startswith("npm error ")]
    messages = [line.removeprefix("npm error ") for line in lines]
    return next((line for line in messages if line.split()[0] not in CODES), "no reason given")[
        :300
    ]
