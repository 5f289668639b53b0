"""MNIST and the digits: every layout, damaged files, the download, the stratified split."""

import dataclasses
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from conftest import Command, serve

from edge_mnist.errors import DataError, UsageError
from edge_mnist.exporting.onnx import export
from edge_mnist.training.datasets import (
    Dataset,
    cache_folder,
    load_dataset,
    named_folder,
    split_stratified,
)
from edge_mnist.training.mnist import FILES, find_mnist
from edge_mnist.training.run import train
from edge_mnist.validation.validate import validate


def given_files() -> list[Path]:
    named = named_folder(None)
    assert named is not None
    folder = find_mnist(named)
    return [next(folder.glob(f"{name}*")) for name in FILES]


def test_mnist_is_whole(mnist: Dataset) -> None:
    assert mnist.train_images.shape == (60_000, 28, 28)
    assert mnist.test_images.shape == (10_000, 28, 28)
    assert mnist.train_images.dtype == np.uint8
    assert mnist.train_labels.dtype == np.int64
    assert np.bincount(mnist.test_labels)[:3].tolist() == [980, 1135, 1032]


@pytest.mark.parametrize("layout", [".", "MNIST/raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_every_layout_is_found(mnist: Dataset, tmp_path: Path, layout: str, packed: bool) -> None:
    folder = tmp_path / layout
    folder.mkdir(parents=True, exist_ok=True)
    for path in given_files():
        name, content = path.name.removesuffix(".gz"), path.read_bytes()
        unpacked = gzip.decompress(content) if path.suffix == ".gz" else content
        if packed and path.suffix == ".gz":
            (folder / path.name).write_bytes(content)
        else:
            (folder / name).write_bytes(unpacked)
    assert load_dataset("mnist", data_dir=tmp_path).sha256 == mnist.sha256


@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_damaged_file_is_named_and_left(
    mnist: Dataset, tmp_path: Path, edge_mnist: Command, damage: str
) -> None:
    for path in given_files():
        shutil.copy(path, tmp_path)
    victim = tmp_path / given_files()[2].name
    content = victim.read_bytes()
    changed = bytes([content[100] ^ 1])
    damaged = content[:-9] if damage == "truncated" else content[:100] + changed + content[101:]
    victim.chmod(0o644)
    victim.write_bytes(damaged)
    done = edge_mnist("train", "--data-dir", tmp_path)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert str(victim) in done.stderr
    assert "truncated or altered" in done.stderr
    assert victim.read_bytes() == damaged
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("damage", ["truncated", "too long", "altered"])
def test_an_unpacked_file_is_verified_too(mnist: Dataset, tmp_path: Path, damage: str) -> None:
    for path in given_files():
        content = path.read_bytes()
        unpacked = gzip.decompress(content) if path.suffix == ".gz" else content
        (tmp_path / path.name.removesuffix(".gz")).write_bytes(unpacked)
    victim = tmp_path / "t10k-labels-idx1-ubyte"
    content = victim.read_bytes()
    damaged = {
        "truncated": content[:-1],
        "too long": content + b"\0",
        "altered": content[:-1] + bytes([content[-1] ^ 1]),
    }[damage]
    victim.write_bytes(damaged)
    with pytest.raises(DataError, match="truncated or altered") as caught:
        load_dataset("mnist", data_dir=tmp_path)
    assert str(victim) in str(caught.value)
    assert hashlib.sha256(content).hexdigest() in str(caught.value)
    victim.write_bytes(content)
    assert load_dataset("mnist", data_dir=tmp_path).sha256 == mnist.sha256


def test_a_device_reads_mnist_with_numpy_alone(mnist: Dataset) -> None:
    code = (
        "import sys; sys.modules |= dict.fromkeys(('torch', 'torchvision', 'sklearn', 'scipy')); "
        "from edge_mnist.training.datasets import load_dataset; "
        "print(load_dataset('mnist').sha256)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == mnist.sha256, done.stderr


def test_a_named_folder_without_mnist(tmp_path: Path, edge_mnist: Command) -> None:
    done = edge_mnist("train", "--data-dir", tmp_path)
    assert done.returncode == 3
    assert "train-images-idx3-ubyte" in done.stderr


def test_no_data_and_no_network_names_three_ways_out(edge_mnist: Command) -> None:
    done = edge_mnist("train", "--offline", env={"EDGE_MNIST_DATA": ""})
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert "network" in line
    assert "--data-dir" in line
    assert "--dataset digits" in line


def test_torchvisions_own_download_fills_the_cache(
    mnist: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    if any(path.suffix != ".gz" for path in given_files()):
        pytest.skip("the given MNIST files are unpacked, so no mirror can be made of them")
    folder = given_files()[0].parent
    monkeypatch.delenv("EDGE_MNIST_DATA")
    with serve(folder) as mirror:
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [mirror])
        assert load_dataset("mnist").sha256 == mnist.sha256
    assert sorted(path.name for path in cache_folder().iterdir()) == ["MNIST"]
    assert load_dataset("mnist").sha256 == mnist.sha256  # from the cache: the mirror is gone


def test_a_failed_download_leaves_no_half(
    mnist: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in given_files()[:3]:
        shutil.copy(path, tmp_path)
    monkeypatch.delenv("EDGE_MNIST_DATA")
    with serve(tmp_path) as mirror:
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [mirror])
        with pytest.raises(DataError, match="download failed"):
            load_dataset("mnist")
    assert list(cache_folder().iterdir()) == []


def test_digits_look_like_mnist(digits: Dataset) -> None:
    assert len(digits.train_images) + len(digits.test_images) == 1797
    assert digits.train_images.shape[1:] == (28, 28)
    for image in digits.test_images:
        rows, columns = np.nonzero(image)
        assert max(np.ptp(rows), np.ptp(columns)) + 1 <= 20
        weight = image[rows, columns] / image.sum()
        assert abs(weight @ rows - 14) <= 0.51
        assert abs(weight @ columns - 14) <= 0.51


def test_split_is_stratified_apart_and_always_the_same(digits: Dataset) -> None:
    labels = digits.train_labels
    train, validation = split_stratified(labels, share=0.1)
    again = split_stratified(labels, share=0.1)
    assert (train == again[0]).all()
    assert (validation == again[1]).all()
    assert set(train) | set(validation) == set(range(len(labels)))
    assert not set(train) & set(validation)
    expected = np.bincount(labels) * 0.1
    assert np.abs(np.bincount(labels[validation]) - expected).max() <= 1


def test_too_few_images_to_split_are_an_error_with_a_way_out() -> None:
    labels = np.arange(30, dtype=np.int64).repeat(4)
    with pytest.raises(DataError, match=r"120 images of 30 classes .* validation_share"):
        split_stratified(labels, share=1 / 12)
    assert len(split_stratified(labels, share=0.3)[1]) == 36


def test_environment_names_the_folder(mnist: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = os.environ["EDGE_MNIST_DATA"]
    monkeypatch.delenv("EDGE_MNIST_DATA")
    assert load_dataset("mnist", data_dir=Path(folder)).sha256 == mnist.sha256


def write_processed(mnist: Dataset, folder: Path, *, modern: bool = True) -> None:
    """Write MNIST as torchvision kept it until 2021."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "training.pt": (mnist.train_images, mnist.train_labels),
        "test.pt": (mnist.test_images, mnist.test_labels),
    }
    for name, pair in parts.items():
        tensors = tuple(torch.tensor(part) for part in pair)
        torch.save(tensors, folder / name, _use_new_zipfile_serialization=modern)


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("layout", [".", "processed", "MNIST/processed"])
def test_torchvisions_old_form_is_read(
    mnist: Dataset, tmp_path: Path, layout: str, modern: bool
) -> None:
    write_processed(mnist, tmp_path / layout, modern=modern)
    assert load_dataset("mnist", data_dir=tmp_path).sha256 == mnist.sha256


def test_what_is_no_data_set_is_refused(digits: Dataset) -> None:
    """Pixels of 0..1, and labels of another type, would be taken for other images and labels."""
    wrong: tuple[dict[str, Any], ...] = (
        {"train_images": digits.train_images / 255},
        {"test_images": digits.test_images[:, :27]},
        {"test_images": digits.test_images[:-1]},
        {"test_images": digits.test_images[:0], "test_labels": digits.test_labels[:0]},
        {"train_images": digits.train_images.tolist()},
        {"train_labels": digits.train_labels.astype(np.uint8)},
        {"train_labels": digits.train_labels + 1},
        {"test_labels": digits.test_labels - 1},
    )
    for changes in wrong:
        with pytest.raises(UsageError, match=r"^(train|test)_(images|labels): expected "):
            dataclasses.replace(digits, **changes)
    name: Any = "digits"
    for call in (
        lambda: train("fast", name),
        lambda: validate("nano", name),
        lambda: export("run", name),
    ):
        with pytest.raises(UsageError, match="expected a Dataset, as load_dataset returns it"):
            call()
    for value in (5, None, b"digits"):
        with pytest.raises(UsageError, match="expected the name of a data set or a folder"):
            load_dataset(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", ["pixel", "label", "wide label", "shape", "truncated", "list"])
def test_a_damaged_old_form_is_refused(
    mnist: Dataset, tmp_path: Path, edge_mnist: Command, damage: str
) -> None:
    write_processed(mnist, tmp_path)
    path = tmp_path / "test.pt"
    images, labels = torch.load(path, weights_only=True)
    if damage == "pixel":
        images[9, 9, 9] ^= 1
    labels[9] += {"label": 1, "wide label": 256}.get(damage, 0)
    content = [images, labels, labels] if damage == "list" else (images, labels)
    torch.save(content if damage != "shape" else (images.flatten(1), labels), path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError) as caught:
        load_dataset("mnist", data_dir=tmp_path)
    assert str(path) in str(caught.value)
    assert "altered" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    if damage == "truncated":
        done = edge_mnist("train", "--data-dir", tmp_path)
        assert done.returncode == 3
        assert done.stderr == f"edge-mnist: {caught.value}\n"
