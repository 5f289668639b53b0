"""Time training on a machine that is otherwise quiet, and beside two busy loops.

Three ways, each in processes of its own, in turns: as the command trains (threads that sleep while
they wait; their number measured at the start), on one thread, and as PyTorch trains by itself (a
thread for each core, which spins while it waits). One epoch of a recipe on a part of MNIST.

    python benchmarks/time_busy_training.py --data-dir FOLDER [--rounds 3] [--images 9000]
"""

import argparse
import contextlib
import dataclasses
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

WAYS = {"as the command": "auto", "one thread": "1", "as PyTorch alone": "all"}
BUSY_LOOPS = 2


def train_once(way: str, recipe: str, n_images: int, data_dir: Path | None) -> None:
    """Train for one epoch and print images per second and the number of threads."""
    from edge_mnist.machine import passive_waiting

    with contextlib.nullcontext() if way == "all" else passive_waiting():
        from edge_mnist.training.datasets import load_dataset
        from edge_mnist.training.recipes import find_recipe
        from edge_mnist.training.run import train

    whole = load_dataset("mnist", data_dir=data_dir)
    part = dataclasses.replace(
        whole,
        train_images=whole.train_images[:n_images],
        train_labels=whole.train_labels[:n_images],
        test_images=whole.test_images[:100],
        test_labels=whole.test_labels[:100],
    )
    threads = {"auto": "auto", "1": 1, "all": None}[way]
    run = train(find_recipe(recipe, epochs=1), part, threads=threads)
    print(run.history[0].images_per_s, run.result.threads)


@contextlib.contextmanager
def busy_loops(n: int) -> Iterator[None]:
    """Keep cores busy with so many processes."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main() -> None:
    """Run every way in turns and print medians, their ratios and every number."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=9000)
    parser.add_argument("--once", choices=WAYS.values(), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        train_once(arguments.once, arguments.recipe, arguments.images, arguments.data_dir)
        return
    command = [sys.executable, *sys.argv, "--once"]
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(arguments.rounds):
        for n_loops in (0, BUSY_LOOPS):
            for name, way in WAYS.items():
                with busy_loops(n_loops):
                    done = subprocess.run(
                        [*command, way], capture_output=True, text=True, check=True
                    )
                rate, threads = done.stdout.split()
                found.setdefault((name, n_loops), []).append(float(rate))
                load = os.getloadavg()[0]
                print(f"{name}, {n_loops} busy loops: {float(rate):,.0f} images/s", end=" ")
                print(f"on {threads} threads, load {load:.1f}", flush=True)
    for name in WAYS:
        quiet, busy = (statistics.median(found[name, n]) for n in (0, BUSY_LOOPS))
        print(
            f"{name}: {quiet:,.0f} images/s, beside {BUSY_LOOPS} busy loops {busy:,.0f}: "
            f"{busy / quiet:.2f} of it, n = {arguments.rounds}"
        )


if __name__ == "__main__":
    main()
