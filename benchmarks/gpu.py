"""Everything that needs a GPU, in one command and without a network; writes a folder.

The tests marked gpu; ``fast`` to 99 %, and ``default`` to its end, start of the device apart;
``max`` with larger warps, over several seeds, for as many epochs as the minutes allow; and the
released models on the CUDA provider against the CPU provider. Checkpoints and gpu.json stay.

    python benchmarks/gpu.py --minutes 8 --data-dir FOLDER --out gpu

The same in full on a machine without a GPU, to know that it works:

    python benchmarks/gpu.py --device cpu --minutes 0.5 --images 2000 --epochs 2 --seeds 1
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edge_mnist import Predictor
from edge_mnist.errors import DataError, ProviderError
from edge_mnist.model_file import find_model
from edge_mnist.training.datasets import Dataset, load_dataset
from edge_mnist.training.recipes import Recipe, find_recipe
from edge_mnist.training.run import TrainingRun, describe_environment, train
from edge_mnist.training.trainer import pick_device
from edge_mnist.training.unipen import Characters, load_unipen
from edge_mnist.validation.timing import time_in_turns

ROOT = Path(__file__).parents[1]
TARGET = 0.99  # validation accuracy that ``fast`` is timed to
LARGER_WARPS = {"rotation_deg": 16.0, "shear_deg": 10.0, "scale_share": 0.15, "shift_px": 3.0}
MODELS = ("default/model.onnx", "default/model.int8.onnx", "max/model.int8.onnx")
BATCH_SIZES = (1, 64, 1024)
Sheet = dict[str, Any]


class Bench:
    """The data and the limits of all measurements."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Load the data sets.

        Raises:
            DataError: There is no MNIST.
            ProviderError: CUDA was asked for and does not run here.
        """
        self.device = pick_device(arguments.device)
        self.out: Path = arguments.out
        self.max_epochs: int | None = arguments.epochs
        dataset = load_dataset("mnist", data_dir=arguments.data_dir, offline=True)
        self.dataset = shorten(dataset, arguments.images) if arguments.images else dataset
        self.characters: Characters | None = None
        try:
            self.characters = load_unipen(arguments.data_dir, offline=True)
        except DataError as error:
            print(f"without UNIPEN: {error}", file=sys.stderr)

    def plan(self, name: str, **changes: Any) -> Recipe:
        """Return a recipe, as far as the data at hand and the limits allow."""
        recipe = find_recipe(name, **changes)
        if self.max_epochs:
            recipe = dataclasses.replace(recipe, epochs=min(recipe.epochs, self.max_epochs))
        if not self.characters:
            recipe = dataclasses.replace(recipe, handwriting_share=0.0)
        return recipe

    def train(self, recipe: Recipe, folder: str | None = None) -> TrainingRun:
        """Train by a recipe, into a folder below ``out`` if it has a name."""
        return train(
            recipe,
            self.dataset,
            handwriting=self.characters,
            out=self.out / folder if folder else None,
            device=self.device,
            overwrite=True,
        )


def shorten(dataset: Dataset, n: int) -> Dataset:
    """Return the first images of a data set, as many for the test as a fifth of those to train."""
    return dataclasses.replace(
        dataset,
        train_images=dataset.train_images[:n],
        train_labels=dataset.train_labels[:n],
        test_images=dataset.test_images[: n // 5],
        test_labels=dataset.test_labels[: n // 5],
    )


def run_tests() -> Sheet:
    """Run the tests that are marked gpu."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-n", "0", str(ROOT / "tests")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {"returncode": done.returncode, "last_line": done.stdout.strip().splitlines()[-1:]}


def warm_up(bench: Bench) -> Sheet:
    """Start the device and its libraries with a short training, and time that."""
    start = time.perf_counter()
    train(find_recipe("fast", epochs=1), shorten(bench.dataset, 1000), device=bench.device)
    return {"warm_up_s": time.perf_counter() - start}


def time_fast(bench: Bench) -> Sheet:
    """Time ``fast`` to the target, and to its end."""
    run = bench.train(bench.plan("fast"), "fast")
    spent_s, to_target_s = 0.0, None
    for epoch in run.history:
        spent_s += epoch.train_s
        if epoch.validation_accuracy >= TARGET:
            to_target_s = spent_s
            break
    return {"to_99_percent_s": to_target_s, **describe(run)}


def describe(run: TrainingRun) -> Sheet:
    """Return a training's figures."""
    result = run.result
    return {
        "epochs": result.recipe.epochs,
        "train_s": result.train_s,
        "validation_accuracy": result.validation_accuracy,
        "test_accuracy": result.test_accuracy,
        "n_test_images": result.n_test_images,
        "handwriting_accuracy": result.handwriting_accuracy,
        "n_handwriting_images": result.n_handwriting_images,
        "letters_rejected": result.letters_rejected,
    }


def train_max(bench: Bench, seeds: int, *, left_s: float) -> Sheet:
    """Train ``max`` with larger warps for as many epochs as fit, the same number for each seed."""
    one = bench.train(bench.plan("max", epochs=1, **LARGER_WARPS))
    epoch_s = one.result.train_s
    epochs = max(1, int((left_s - epoch_s) / seeds / (1.05 * epoch_s)))
    runs = []
    for seed in range(seeds):
        recipe = find_recipe("max", epochs=epochs, seed=seed, **LARGER_WARPS)
        if not bench.characters:
            recipe = dataclasses.replace(recipe, handwriting_share=0.0)
        runs.append(describe(bench.train(recipe, f"max-{seed}")))
    accuracies = [run["test_accuracy"] for run in runs]
    return {
        "epoch_s": epoch_s,
        "runs": runs,
        "test_mean": statistics.fmean(accuracies),
        "test_std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
    }


def compare_providers(name: str, images: np.ndarray[Any, np.dtype[np.uint8]]) -> Sheet:
    """Compare a model on CUDA with the same one on the CPU: labels, logits, latency."""
    predictors = {"cpu": Predictor(find_model(name), provider="cpu")}
    try:
        predictors["cuda"] = Predictor(find_model(name), provider="cuda")
    except ProviderError as error:
        sheet: Sheet = {"cuda": str(error)}
    else:
        cpu, cuda = (predictors[one].compute_logits(images) for one in ("cpu", "cuda"))
        sheet = {
            "n_images": len(images),
            "labels_changed": int((cpu.argmax(axis=1) != cuda.argmax(axis=1)).sum()),
            "max_logit_difference": float(np.abs(cpu - cuda).max()),
        }
    for size in BATCH_SIZES:
        batch = np.resize(images, (size, 28, 28))
        runs = {
            provider: partial(predictor.compute_logits, batch, batch_size=size)
            for provider, predictor in predictors.items()
        }
        spent_s = time_in_turns(runs, rounds=7, runs_per_round=5)
        sheet[f"batch_{size}_p50_us"] = {
            provider: float(np.median(times)) * 1e6 for provider, times in spent_s.items()
        }
    return sheet


def main() -> None:
    """Measure everything, and write the sheet after each step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything together")
    parser.add_argument("--data-dir", type=Path, help="folder with MNIST and UNIPEN")
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of max")
    parser.add_argument("--epochs", type=int, help="most epochs of fast and default")
    parser.add_argument("--images", type=int, help="training images; all without it")
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    arguments = parser.parse_args()
    start = time.perf_counter()
    bench = Bench(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    sheet: Sheet = {
        "command": sys.argv,
        "environment": describe_environment(bench.device),
    }

    def left_s() -> float:
        return 60 * arguments.minutes - (time.perf_counter() - start)

    images = bench.dataset.test_images
    steps = {
        "tests": run_tests,
        "warm_up": lambda: warm_up(bench),
        "fast": lambda: time_fast(bench),
        "default": lambda: describe(bench.train(bench.plan("default"), "default")),
        "providers": lambda: {name: compare_providers(name, images) for name in MODELS},
        "max": lambda: train_max(bench, arguments.seeds, left_s=left_s()),
    }
    for name, step in steps.items():
        began = time.perf_counter()
        sheet[name] = step()
        sheet[name]["step_s"] = time.perf_counter() - began
        (arguments.out / "gpu.json").write_text(json.dumps(sheet, indent=2) + "\n")
        print(name, json.dumps(sheet[name]), flush=True)


if __name__ == "__main__":
    main()
