"""Exporting a model as a web page: a folder that any static host serves, and that needs no other.

Runs on the device side, without torch and onnx. The page's own files lie in ``edge_mnist/web``; the
runtime, onnxruntime-web, is taken by npm when the page is made and is no part of this package.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_mnist.errors import MissingPackageError
from edge_mnist.files import make_folder, refuse_foreign, write_atomically
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
        model: The model file that it holds.
        model_bytes: Bytes of that file.
        files: Files written.
        size_bytes: Bytes of all of them.
        runtime: Name and version of the runtime.
    """

    folder: str
    model: str
    model_bytes: int
    files: int
    size_bytes: int
    runtime: str
    schema_version: int = 1

    @property
    def next_command(self) -> str:
        """A command that shows the page."""
        return f"python3 -m http.server -d {shell_path(self.folder)} -b 127.0.0.1 8000"

    def to_text(self) -> str:
        """Return a line on what was written."""
        size = f"{self.files} files, {self.size_bytes:,} bytes"
        return f"{self.folder}: {size}, with {self.model}"


def export_web(
    model: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] = "web",
    *,
    offline: bool = False,
    overwrite: bool = False,
) -> WebResult:
    """Write a page that reads digits in the browser.

    Args:
        model: A model file, or a folder written by export; see ``model_file.find_model``. Of a
            folder's models the int8 one is taken, where there is one.
        folder: Where to write.
        offline: Take the runtime from npm's cache only.
        overwrite: Replace a page that no export wrote, too.

    Raises:
        ModelError: The model is missing or breaks the contract.
        MissingPackageError: npm is missing, or cannot get the runtime.
        OutputError: The folder cannot be written, or holds another page.
    """
    chosen = read_model(choose_model(model))
    about = describe_model(chosen)
    target = Path(folder)
    if not overwrite:
        refuse_foreign(target / "index.html", MARK)
    runtime = fetch_runtime(offline=offline)
    about["runtime_bytes"] = len(runtime["ort/ort.wasm"])
    files = {about["file"]: chosen.content, "model.json": json.dumps(about, indent=1).encode()}
    files |= runtime | read_page()
    for name in sorted(files, key=lambda name: name == "index.html"):  # last: then all is there
        path = target / name
        make_folder(path.parent)
        write_atomically(path, files[name])
    size_bytes = sum(map(len, files.values()))
    return WebResult(
        str(target), str(chosen.path), chosen.size_bytes, len(files), size_bytes, about["runtime"]
    )


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
    return {
        "file": INT8_NAME if info.quantization != "none" else FLOAT32_NAME,
        "sha256": model.sha256,
        "size_bytes": model.size_bytes,
        "class_names": info.class_names,
        "rejection_threshold": info.rejection_threshold,
        "framing": info.framing,
        "dataset": info.metadata.get("dataset", ""),
        "accuracy": float(info.metadata.get("accuracy", "0")),
        "runtime": f"{RUNTIME} {VERSION}",
    }


def read_page() -> dict[str, bytes]:
    """Return the page's own files by their names below the folder.

    The page loads its backend under the name ``backend.js``; the server sends another one.
    """
    paths = [path for path in PAGE.rglob("*") if path.is_file()]
    files = {path.relative_to(PAGE).as_posix(): path.read_bytes() for path in paths}
    del files["backend_server.js"]
    files["backend.js"] = files.pop("backend_web.js")
    return files


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
