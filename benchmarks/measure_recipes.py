"""Train, export, quantise and validate recipes by their commands; record what they reach.

    python benchmarks/measure_recipes.py --seeds 3 lenet-max lenet-avg

Writes edge_mnist/training/measured.json, which ``edge-mnist recipes`` shows, and the table of
docs/recipes.md. The test set is used once for each seed, after the last epoch.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from edge_mnist.machine import processor_name
from edge_mnist.training.catalogue import MEASURED
from edge_mnist.training.recipes import PUBLISHED, RECIPES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "recipes.md"
TABLE_START, TABLE_END = "<!-- measured -->\n", "<!-- end -->\n"


def edge_mnist(*args: object) -> dict[str, Any]:
    """Run one command; anything but exit code 0 ends the measurement."""
    command = [sys.executable, "-m", "edge_mnist", *map(str, args), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure_seed(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """Take one recipe the whole way, and return what was measured."""
    trained = edge_mnist(
        "train", "--recipe", name, "--seed", seed, "--output", folder / "run", "-q"
    )
    first = folder / "run" / "fold-1" if "folds" in trained else folder / "run"
    exported = edge_mnist("export", first, "--quantize", "-o", folder / "exports")
    edge_mnist("validate", folder / "exports" / "model.onnx", folder / "exports/model.int8.onnx")
    float32, int8 = exported["models"]
    found = {
        "float32": float32["accuracy"],
        "int8": int8["accuracy"],
        "int8_bytes": int8["size_bytes"],
        "validation": trained.get("validation_mean", trained.get("validation_accuracy")),
        "train_s": trained.get("train_s"),
    }
    if "folds" in trained:
        found["folds"] = [one["validation_accuracy"] for one in trained["folds"]]
        found["train_s"] = sum(one["train_s"] for one in trained["folds"])
    return found


def measure_recipe(name: str, seeds: int) -> dict[str, Any]:
    """Measure every seed of one recipe."""
    runs = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(measure_seed(name, seed, Path(folder)))
            print(name, seed, runs[-1], flush=True)
    return {"processor": processor_name(), "seeds": list(range(seeds)), "runs": runs}


def spread(values: list[float]) -> str:
    """Return mean and standard deviation in percent."""
    mean = f"{statistics.fmean(values):.2%}".replace("%", "")
    deviation = f" +- {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{mean}{deviation} %"


def describe(name: str, record: dict[str, Any]) -> str:
    """Return a recipe's row of the table."""
    runs = record["runs"]
    published = f"{PUBLISHED[name]:.2%}".replace("%", " %") if name in PUBLISHED else "-"
    cells = [
        f"`edge-mnist train --recipe {name}`",
        RECIPES[name].network,
        published,
        spread([run["float32"] for run in runs]),
        spread([run["int8"] for run in runs]),
        f"{runs[0]['int8_bytes']:,}",
        str(len(runs)),
        f"{statistics.median(run['train_s'] for run in runs):,.0f} s",
    ]
    return f"| {' | '.join(cells)} |\n"


def describe_folds(name: str, record: dict[str, Any]) -> str:
    """Return what each fold of a recipe reached on its own part of the training images."""
    run = record["runs"][0]
    if "folds" not in run:
        return ""
    each = ", ".join(f"{100 * accuracy:.2f}" for accuracy in run["folds"])
    return f"\nFolds of `{name}`, on their own parts: {each}: {spread(run['folds'])}\n"


def write_page(measured: dict[str, Any]) -> None:
    """Put the table of all that was measured into the page."""
    head = "| command | network | published | float32 | int8 | int8 bytes | seeds | training |\n"
    rows = [describe(name, measured[name]) for name in RECIPES if name in measured]
    before, rest = PAGE.read_text().split(TABLE_START)
    table = head + "|---" * 8 + "|\n" + "".join(rows)
    table += "".join(describe_folds(name, record) for name, record in measured.items())
    PAGE.write_text(before + TABLE_START + table + TABLE_END + rest.split(TABLE_END)[1])


def main() -> None:
    """Measure what is asked for, one recipe after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    for name in arguments.recipes:
        record = measure_recipe(name, arguments.seeds)
        measured = json.loads(MEASURED.read_text())
        measured[name] = record
        MEASURED.write_text(json.dumps(measured, indent=1) + "\n")
    write_page(json.loads(MEASURED.read_text()))


if __name__ == "__main__":
    main()
