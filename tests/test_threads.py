"""Threads of a training: how they wait, how many there are, and what is recorded of it."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import Command

from edge_mnist.errors import UsageError
from edge_mnist.model_file import CHECKPOINT_NAME
from edge_mnist.training import threads
from edge_mnist.training.checkpoint import load_checkpoint
from edge_mnist.training.datasets import Dataset
from edge_mnist.training.networks import limited_threads
from edge_mnist.training.recipes import find_recipe
from edge_mnist.training.run import train
from edge_mnist.training.threads import choose_threads
from edge_mnist.training.trainer import Trainer

SHORT = find_recipe(dataset="digits", epochs=1)
WAITING = """
import os
from edge_mnist.machine import passive_waiting
before = dict(os.environ)
with passive_waiting():
    import torch
assert dict(os.environ) == before
"""


@pytest.mark.parametrize("own", [None, "ACTIVE"])
def test_threads_wait_passively_unless_told_otherwise(own: str | None) -> None:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"OMP_DISPLAY_ENV": "TRUE"} | ({"OMP_WAIT_POLICY": own} if own else {})
    done = subprocess.run(
        [sys.executable, "-c", WAITING], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"OMP_WAIT_POLICY = '{own or 'PASSIVE'}'" in done.stderr


def test_the_command_trains_on_as_many_threads_as_asked(
    digits: Dataset, edge_mnist: Command, tmp_path: Path
) -> None:
    train(SHORT, digits, out=tmp_path / "run", threads=2)
    environment = tmp_path / "run" / "environment.json"
    assert json.loads(environment.read_text())["torch_threads"] == 2
    (tmp_path / "run" / "result.json").unlink()
    (tmp_path / "run" / CHECKPOINT_NAME).unlink()  # as if killed in its first epoch
    done = edge_mnist(
        "train", "--resume", "--out", "run", "--threads", 3, env={"OMP_DISPLAY_ENV": "TRUE"}
    )
    assert done.returncode == 0, done.stderr
    assert "note: run was started with 2 threads; with 3 its weights will not be" in done.stderr
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr
    assert "3 threads" in done.stdout
    assert json.loads(environment.read_text())["torch_threads"] == 3
    done = edge_mnist("train", env={"EDGE_MNIST_THREADS": "0"})
    assert done.returncode == 2
    assert "EDGE_MNIST_THREADS: expected an integer from 1 to 256, got 0" in done.stderr


def test_a_resumed_run_keeps_its_number_of_threads(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(SHORT, digits, out=tmp_path / "whole", threads=2).result.threads == 2
    assert torch.get_num_threads() == 1  # as before
    (tmp_path / "whole" / "result.json").unlink()
    (tmp_path / "whole" / CHECKPOINT_NAME).rename(tmp_path / "kept.safetensors")
    for asked in (None, "auto"):
        again = train(SHORT, digits, out=tmp_path / "whole", threads=asked, resume=True)
        assert again.result.threads == 2
        (tmp_path / "whole" / "result.json").unlink()
    expected = load_checkpoint(tmp_path / "kept.safetensors").weights_sha256
    assert again.checkpoint.weights_sha256 == expected
    monkeypatch.setenv("EDGE_MNIST_THREADS", "2")
    assert train(SHORT, digits).result.threads == 2
    monkeypatch.delenv("EDGE_MNIST_THREADS")
    assert train(SHORT, digits).result.threads == 1
    for wrong in (0, 100_000, "many"):
        with pytest.raises(UsageError, match="threads: expected a"):
            train(SHORT, digits, threads=wrong)


def test_the_measurement_leaves_the_training_as_it_is(digits: Dataset) -> None:
    recipe = dataclasses.replace(SHORT, dropout=0.2)
    weights = []
    for is_measured in (True, False):
        trainer = Trainer(recipe, digits, torch.device("cpu"))
        if is_measured:
            with limited_threads(2):
                assert choose_threads(trainer) in (1, 2)
        trainer.run_epoch(lambda step, loss, spent_s: None)
        weights.append(trainer.checkpoint().weights_sha256)
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("step_s", "best"),
    [
        ({1: 0.10, 2: 0.05, 4: 0.04}, 4),
        ({1: 0.10, 2: 0.05, 4: 0.06}, 2),
        ({1: 0.10, 2: 0.095, 4: 0.094}, 1),  # not worth a core
        ({1: 0.10, 2: 0.2, 4: 0.08}, 4),
    ],
)
def test_the_fastest_number_is_chosen_and_the_smaller_of_equals(
    step_s: dict[int, float], best: int, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def time_steps(trainer: Trainer, n: int) -> Iterator[float]:
        return itertools.repeat(step_s[n])

    monkeypatch.setattr(threads, "_time_steps", time_steps)
    trainer = Trainer(SHORT, digits, torch.device("cpu"))
    with limited_threads(4):
        assert choose_threads(trainer) == best
    with limited_threads(1):
        assert choose_threads(trainer) == 1
