"""Ask every way for the same pictures: ``python benchmarks/compare_ways.py FOLDER``.

Library, command, server (one picture in a request, and five), the server's page and the page
without a server in Chromium, and Ray. FOLDER holds pictures and nothing else. Needs what the tests
need, npm and Chromium; exits with 1 where an answer differs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from edge_mnist import Predictor
from edge_mnist.cli.predict import predict_paths
from edge_mnist.exporting.web import export_web

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the tests know how to drive a server and a browser
Items = list[dict[str, Any]]


def brief(item: dict[str, Any]) -> tuple[Any, ...]:
    """Return what all ways say of a picture: status, class, reason."""
    return item["status"], item.get("name"), item.get("reason")


def ask_command(paths: list[Path], model: Path) -> Items:
    """Ask ``edge-mnist predict``."""
    command = [sys.executable, "-m", "edge_mnist", "predict", "--json", "-m", str(model)]
    done = subprocess.run([*command, *map(str, paths)], capture_output=True, text=True, check=False)
    return list(json.loads(done.stdout)["items"])


def ask_ray(folder: Path, model: Path, output: Path) -> Items:
    """Ask ``edge-mnist predict --engine ray``."""
    import pyarrow.parquet as pq

    command = [sys.executable, "-m", "edge_mnist", "predict", "--engine", "ray", str(folder)]
    subprocess.run([*command, "-o", str(output), "-m", str(model)], check=False)
    rows = pq.read_table(output).to_pylist()
    return sorted(rows, key=lambda row: str(row["path"]))


def ask_server(server: Any, paths: list[Path], *, together: int) -> Items:
    """Ask ``POST /predict``."""
    items: Items = []
    for start in range(0, len(paths), together):
        files = [(str(path), path.read_bytes()) for path in paths[start : start + together]]
        items += server.post_form(files).json()["items"]
    return items


def ask_page(url: str, paths: list[Path], profile: Path) -> list[tuple[Any, ...]]:
    """Ask the page at an address, of the server or of an exported folder."""
    from page_driver import Page

    with Page(profile) as page:
        page.show(url)
        return [brief(page.read_picture(path)) for path in paths]


def ask_web(model: Path, paths: list[Path], folder: Path) -> list[tuple[Any, ...]]:
    """Ask the page that needs no server."""
    from conftest import serve

    export_web(model, folder / "web")
    with serve(folder / "web") as address:
        return ask_page(address, paths, folder / "profile")


def main() -> None:
    """Ask every way and count what differs from the library."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, default=ROOT / "exports" / "model.int8.onnx")
    given = parser.parse_args()
    folder, model = given.folder.resolve(), given.model.resolve()
    from test_serving import run_server

    paths = sorted(path for path in folder.iterdir() if path.is_file())
    predictor = Predictor(model, "cpu")
    names = predictor.info.class_names
    items = [
        {"path": path, **prediction.to_dict(names)}
        for path, prediction in predict_paths(predictor, map(str, paths))
    ]
    wanted: Items = json.loads(json.dumps(items))
    differing: dict[str, int] = {}

    def count(way: str, found: list[Any], expected: list[Any]) -> None:
        pairs = zip(found, expected, strict=True)
        differing[way] = sum(one != other for one, other in pairs)
        print(f"{way}: {differing[way]} of {len(expected)} differ", flush=True)

    count("command", ask_command(paths, model), wanted)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        with run_server(scratch, f"--model={model}") as server:
            for together in (1, 5):
                answers = ask_server(server, paths, together=together)
                count(f"server, {together} in a request", answers, wanted)
            found = ask_page(f"{server.url}/", paths, scratch / "profile-server")
        count("the server's page", found, [brief(item) for item in wanted])
        found = ask_web(model, paths, scratch)
        count("the page without a server", found, [brief(item) for item in wanted])
        rows = ask_ray(folder, model, scratch / "ray")
        count("Ray", [brief(row) for row in rows], [brief(item) for item in wanted])
    sys.exit(1 if any(differing.values()) else 0)


if __name__ == "__main__":
    main()
