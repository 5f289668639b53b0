"""Processes that are killed, or get in each other's way, leave nothing that is taken for whole."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import LIMITS

from edge_mnist.errors import ModelError, OutputError
from edge_mnist.exporting import onnx as exporting
from edge_mnist.exporting.triton import export_triton
from edge_mnist.exporting.web import choose_model
from edge_mnist.files import write_atomically
from edge_mnist.model_file import (
    CHECKPOINT_NAME,
    FLOAT32_NAME,
    INT8_NAME,
    MANIFEST_NAME,
    find_models,
    read_model,
    shipped_folder,
)
from edge_mnist.predictor import Predictor
from edge_mnist.training.checkpoint import load_checkpoint
from edge_mnist.training.datasets import Dataset
from edge_mnist.training.recipes import find_recipe
from edge_mnist.training.run import HISTORY_NAME, RECIPE_NAME, RESULT_NAME, read_recipe, train
from edge_mnist.validation.benchmark import bench
from edge_mnist.validation.validate import validate

KILLED_WITH_A_LOCK = """
import os, signal, sys, filelock
filelock.FileLock(sys.argv[1]).acquire()
os.kill(os.getpid(), signal.SIGKILL)
"""


class KilledError(BaseException):
    """Stands for the end of the process: nothing handles it."""


@pytest.fixture
def interrupt(
    exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], Path]:
    """Return a function that replaces an export by another one, and is killed on the way."""
    names = [*(path.name for path in exports.iterdir() if path.name != MANIFEST_NAME)]
    order = [FLOAT32_NAME, INT8_NAME, *sorted({*names} - {FLOAT32_NAME, INT8_NAME}), MANIFEST_NAME]
    new = {name: (shipped_folder() / "nano" / name).read_bytes() for name in order}

    def run(n_files: int) -> Path:
        folder = tmp_path / f"killed-{n_files}"
        shutil.copytree(exports, folder)
        n_written = 0

        def write(path: Path, content: bytes) -> None:
            nonlocal n_written
            if n_written == n_files:
                raise KilledError
            n_written += 1
            write_atomically(path, content)

        monkeypatch.setattr(exporting, "write_atomically", write)
        try:
            exporting.write_files(folder, new)
        except KilledError:
            assert n_files < len(new)
        return folder

    return run


def test_an_interrupted_export_is_never_read_as_a_pair(
    interrupt: Callable[[int], Path], tmp_path: Path
) -> None:
    n_files = 6
    for n_written in range(1, n_files):
        folder = interrupt(n_written)
        readers = {
            "predict, serve": lambda folder=folder: Predictor(folder),
            "validate": lambda folder=folder: validate(folder, self_test=True, limits=LIMITS),
            "bench": lambda folder=folder: bench([folder], with_torch=False, batch_sizes=(1,)),
            "triton": lambda folder=folder: export_triton(find_models([folder]), tmp_path / "t"),
        }
        for name, read in readers.items():
            with pytest.raises(ModelError, match="the export was interrupted"):
                pytest.fail(f"{name} read {n_written} of {n_files} files: {read()}")
        if n_written > 1:
            with pytest.raises(ModelError, match="the export was interrupted"):
                read_model(choose_model(str(folder)))
    whole = interrupt(n_files)
    assert validate(whole, self_test=True, limits=LIMITS).passed


def test_a_damaged_manifest_verifies_nothing(exports: Path, tmp_path: Path) -> None:
    folder = tmp_path / "exports"
    shutil.copytree(exports, folder)
    manifest = folder / MANIFEST_NAME
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:-10])
    with pytest.raises(ModelError, match=r"cannot read .*manifest\.json"):
        Predictor(folder)
    manifest.write_text('{"name": "a web app", "icons": []}')  # which uses the same name
    assert Predictor(folder).model.path == folder / FLOAT32_NAME


def test_a_run_with_a_damaged_file_is_not_continued(tmp_path: Path, digits: Dataset) -> None:
    folder, recipe = tmp_path / "run", find_recipe("fast", dataset="digits", epochs=1)
    train(recipe, digits, out=folder)
    (folder / RESULT_NAME).unlink()  # as if it had been killed before the result
    history = (folder / HISTORY_NAME).read_text()
    for text in ("", "no json\n", "[]\n"):
        (folder / HISTORY_NAME).write_text(text)
        with pytest.raises(ModelError, match=HISTORY_NAME):
            train(recipe, digits, out=folder, resume=True)
    (folder / HISTORY_NAME).write_text(history)
    train(recipe, digits, out=folder, resume=True)
    (folder / RECIPE_NAME).write_bytes(b"\xff{")
    with pytest.raises(ModelError, match=f"{RECIPE_NAME} is damaged"):
        read_recipe(folder)
    path = folder / CHECKPOINT_NAME
    content = path.read_bytes()
    unverified = content.replace(b'"content_sha256"', b'"content_sha257"')  # as of old
    for entry, broken in ((b'"epoch":"1"', b'"epoch":"x"'), (b'"temperature"', b'"temperatura"')):
        assert entry in content
        path.write_bytes(unverified.replace(entry, broken))
        with pytest.raises(ModelError, match="damaged: its metadata"):
            load_checkpoint(path)
        path.write_bytes(content.replace(entry, broken))
        with pytest.raises(ModelError, match="damaged: its content"):
            load_checkpoint(path)


def test_a_changed_bit_anywhere_in_a_checkpoint_is_found(run_folder: Path, tmp_path: Path) -> None:
    content = bytearray((run_folder / CHECKPOINT_NAME).read_bytes())
    path = tmp_path / CHECKPOINT_NAME
    generator = np.random.default_rng(0)
    header = content.index(b'"temperature":"') + len(b'"temperature":"')  # its first digit
    for place in (header, *generator.integers(0, len(content), 30).tolist()):
        content[place] ^= 1
        path.write_bytes(content)
        with pytest.raises(ModelError):
            load_checkpoint(path)
        content[place] ^= 1


def test_two_trainings_into_one_folder(tmp_path: Path, digits: Dataset) -> None:
    recipe = find_recipe(dataset="digits", epochs=1)
    folder = tmp_path / "run"
    folder.mkdir()
    command = [sys.executable, "-c", KILLED_WITH_A_LOCK, str(folder / ".lock")]
    assert subprocess.run(command).returncode == -9
    assert (folder / ".lock").exists()  # and yet it locks nothing any more
    refused = []

    def train_again(_: object) -> None:
        with pytest.raises(OutputError, match="another training is writing into"):
            train(recipe, digits, out=folder, overwrite=True)
        refused.append(True)

    train(recipe, digits, out=folder, report=train_again)
    assert refused
    assert (folder / RESULT_NAME).exists()
