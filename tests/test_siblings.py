"""The data sets beside MNIST: small ones, drawn here and written in torchvision's layout."""

import dataclasses
import gzip
import hashlib
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torchvision
from conftest import Command, SlowHandler, serve
from numpy.typing import NDArray
from PIL import Image

from edge_mnist import Predictor
from edge_mnist.errors import DataError
from edge_mnist.exporting.golden import draw_golden_images
from edge_mnist.training import siblings
from edge_mnist.training.data import DATASETS, load_dataset
from edge_mnist.training.download import cache_folder
from edge_mnist.training.siblings import SIBLINGS

Part = tuple[NDArray[np.uint8], NDArray[np.int64]]
NAMES = tuple(SIBLINGS)


def draw_part(n_images: int, seed: int) -> Part:
    """Draw ten shapes, none of them a digit: bars of five heights, lying and standing."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n_images, dtype=np.int64) % 10
    images = rng.integers(0, 30, (n_images, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        bar = image if label < 5 else image.T  # a view: what is drawn on it is in the image
        top = 2 + 5 * (label % 5)
        bar[top : top + 4, 1 : 20 + label] = rng.integers(180, 256)
    return images, labels


def to_idx(array: NDArray[np.generic]) -> bytes:
    """Return an IDX file, of bytes or of 32-bit numbers."""
    kind, dtype = (8, ">u1") if array.dtype == np.uint8 else (12, ">i4")
    shape = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, kind, array.ndim]) + shape + array.astype(dtype).tobytes()


def write_sibling(name: str, root: Path, parts: tuple[Part, Part]) -> Path:
    """Write a data set's four files, unpacked, as torchvision lays them out."""
    sibling = SIBLINGS[name]
    raw = root / sibling.source.loader / "raw"
    raw.mkdir(parents=True)
    arrays: list[NDArray[np.generic]] = []
    for images, labels in parts:
        arrays.append(images.transpose(0, 2, 1) if name == "emnist-digits" else images)
        if name == "qmnist":  # seven further columns: series, writer, place ...
            rest = np.random.default_rng(0).integers(0, 2**30, (len(labels), 7))
            arrays.append(np.column_stack([labels, rest]))
        else:
            arrays.append(labels.astype(np.uint8))
    for file, array in zip(sibling.files, arrays, strict=True):
        (raw / file).write_bytes(to_idx(array))
    return raw


@pytest.fixture(scope="module")
def parts() -> tuple[Part, Part]:
    return draw_part(300, seed=0), draw_part(60, seed=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, parts: tuple[Part, Part]) -> Path:
    """All four siblings in one folder."""
    folder = tmp_path_factory.mktemp("siblings")
    for name in NAMES:
        write_sibling(name, folder, parts)
    return folder


def torchvisions(name: str, root: Path, *, train: bool) -> torchvision.datasets.MNIST:
    loader = getattr(torchvision.datasets, SIBLINGS[name].source.loader)
    if name == "emnist-digits":
        return loader(root, split="digits", train=train)
    return loader(root, train=train)


@pytest.mark.parametrize("name", NAMES)
def test_a_sibling_is_what_torchvision_reads(
    name: str, root: Path, parts: tuple[Part, Part]
) -> None:
    dataset = load_dataset(name, data_dir=root)
    assert dataset.name == name
    (train_images, train_labels), (test_images, test_labels) = parts
    assert (dataset.train_images == train_images).all()
    assert (dataset.test_images == test_images).all()
    assert (dataset.train_labels == train_labels).all()
    assert (dataset.test_labels == test_labels).all()
    assert (dataset.train_images.dtype, dataset.train_labels.dtype) == (np.uint8, np.int64)
    theirs = torchvisions(name, root, train=False)
    assert [int(theirs[row][1]) for row in range(60)] == test_labels.tolist()
    stored = np.stack([np.asarray(theirs[row][0]) for row in range(60)])
    turned = stored.transpose(0, 2, 1) if name == "emnist-digits" else stored
    assert (dataset.test_images == turned).all()


@pytest.mark.parametrize("name", NAMES)
def test_names_and_checksums_are_torchvisions(name: str, root: Path) -> None:
    sibling, theirs = SIBLINGS[name], torchvisions(name, root, train=True)
    expected = theirs.classes if name != "qmnist" else list("0123456789")
    assert list(sibling.class_names) == expected
    if name == "emnist-digits":
        assert sibling.archive == theirs.md5
        return
    known = theirs.resources
    listed = [*known["train"], *known["test"]] if name == "qmnist" else known
    assert {f"{file}.gz": md5 for file, md5 in sibling.files.items()} == {
        place.split("/")[-1]: md5 for place, md5 in listed
    }


def test_emnist_digits_stand_upright(tmp_path: Path) -> None:
    """The shipped model, which knows MNIST's digits, reads them as they are loaded."""
    golden = draw_golden_images()
    raw = write_sibling("emnist-digits", tmp_path, (golden, golden))
    dataset = load_dataset("emnist-digits", data_dir=raw)
    found, _ = Predictor(provider="cpu").predict_images(dataset.test_images)
    assert (found == dataset.test_labels).mean() > 0.9
    lying, _ = Predictor(provider="cpu").predict_images(dataset.test_images.transpose(0, 2, 1))
    assert (lying == dataset.test_labels).mean() < 0.7


def test_fashion_all_the_way(edge_mnist: Command, root: Path, tmp_path: Path) -> None:
    given = ("--data-dir", root)
    done = edge_mnist(
        *("train", "--recipe", "digits", "--dataset", "fashion-mnist", "--epochs", 2),
        *("--out", "RUN", *given),
    )
    assert done.returncode == 0, done.stderr
    lost = ("--max-accuracy-lost", "0.5")
    done = edge_mnist("export", "RUN", "--quantize", *lost, "-o", "EXP", *given)
    assert done.returncode == 0, done.stderr
    assert "fashion-mnist" in (tmp_path / "EXP" / "MODEL_CARD.md").read_text()
    done = edge_mnist("validate", "EXP", *lost, *given)
    assert done.returncode == 0, done.stdout + done.stderr
    dataset = load_dataset("fashion-mnist", data_dir=root)
    predictor = Predictor(tmp_path / "EXP", accept_all=True)
    labels, _ = predictor.predict_images(dataset.test_images)
    for row, image in enumerate(dataset.test_images):
        Image.fromarray(image).save(tmp_path / f"{row:03d}.png")
    paths = sorted(path.name for path in tmp_path.glob("*.png"))
    done = edge_mnist("predict", *paths, "--accept-all", "--model", "EXP")
    assert done.returncode == 0, done.stderr
    # Clothes fill their frame: a picture of one is taken as it is, and so answered like the array.
    names = [SIBLINGS["fashion-mnist"].class_names[label] for label in labels]
    assert [line.split("  ")[0].strip() for line in done.stdout.splitlines()] == names


@pytest.mark.parametrize("named", [".", "FashionMNIST", "FashionMNIST/raw"])
def test_the_root_and_what_is_in_it_may_be_named(root: Path, named: str) -> None:
    assert load_dataset("fashion-mnist", data_dir=root / named).name == "fashion-mnist"


def test_mnists_own_files_are_never_taken_for_a_siblings(root: Path, tmp_path: Path) -> None:
    for path in (root / "FashionMNIST" / "raw").iterdir():
        shutil.copy(path, tmp_path)  # flat, as MNIST's may lie
    with pytest.raises(DataError, match=r"does not hold KMNIST: missing in .*KMNIST.raw: train"):
        load_dataset("kmnist", data_dir=tmp_path)


def damage_file(content: bytes, damage: str) -> bytes:
    """Damage the labels' file of the test part, or replace it."""
    labels = np.arange(60, dtype=np.uint8) % 10
    return {
        "truncated": content[:-1],
        "too long": content + b"\0",
        "empty": b"",
        "header only": content[:8],
        "magic": b"\0\0\x0d\1" + content[4:],
        "dimensions": b"\0\0\x08\7" + content[4:],
        "no image": to_idx(labels[:0]),
        "class 10": to_idx(labels + np.uint8(1)),
        "one class": to_idx(labels * np.uint8(0)),
        "too few": to_idx(labels[:50]),
        "int32": to_idx(labels.astype(np.int32)),
    }[damage]


@pytest.mark.parametrize(
    "damage",
    [
        *("truncated", "too long", "empty", "header only", "magic", "dimensions"),
        *("no image", "class 10", "one class", "too few", "int32"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(
    parts: tuple[Part, Part], tmp_path: Path, edge_mnist: Command, damage: str
) -> None:
    path = write_sibling("kmnist", tmp_path, parts) / "t10k-labels-idx1-ubyte"
    damaged = damage_file(path.read_bytes(), damage)
    path.write_bytes(damaged)
    with pytest.raises(DataError) as caught:
        load_dataset("kmnist", data_dir=tmp_path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert path.read_bytes() == damaged
    if damage == "truncated":
        done = edge_mnist("train", "--dataset", "kmnist", "--data-dir", tmp_path)
        assert done.returncode == 3
        assert done.stderr == f"edge-mnist: {caught.value}\n"


def test_a_packed_file_that_is_not_the_published_one(
    parts: tuple[Part, Part], tmp_path: Path, edge_mnist: Command
) -> None:
    plain = write_sibling("fashion-mnist", tmp_path, parts) / "train-images-idx3-ubyte"
    packed = plain.with_name(f"{plain.name}.gz")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    done = edge_mnist("train", "--dataset", "fashion-mnist", "--data-dir", tmp_path)
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert str(packed) in line
    assert SIBLINGS["fashion-mnist"].files[plain.name] in line


def test_a_damaged_gzip_file_without_a_published_sum(
    parts: tuple[Part, Part], tmp_path: Path
) -> None:
    plain = (
        write_sibling("emnist-digits", tmp_path, parts) / "emnist-digits-train-images-idx3-ubyte"
    )
    packed = plain.with_name(f"{plain.name}.gz")
    whole = gzip.compress(plain.read_bytes())
    plain.unlink()
    packed.write_bytes(whole)
    assert len(load_dataset("emnist-digits", data_dir=tmp_path).train_images) == 300
    for damaged in (whole[:-20], whole[:500] + bytes([whole[500] ^ 8]) + whole[501:], b"no gzip"):
        packed.write_bytes(damaged)
        with pytest.raises(DataError, match=r"images-idx3-ubyte.gz is truncated or altered"):
            load_dataset("emnist-digits", data_dir=tmp_path)


def zip_emnist(root: Path, archive: Path) -> str:
    """Write EMNIST's one archive, with a file of another split in it; return its MD5."""
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted((root / "EMNIST" / "raw").iterdir()):
            for name in (path.name, path.name.replace("digits", "letters")):
                file.writestr(f"gzip/{name}.gz", gzip.compress(path.read_bytes()))
    return hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()


def test_emnist_from_its_archive_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    md5 = zip_emnist(root, raw / "gzip.zip")
    with pytest.raises(DataError, match=f"gzip.zip is truncated or altered: MD5 is {md5}"):
        load_dataset("emnist-digits", data_dir=tmp_path)
    ours = dataclasses.replace(SIBLINGS["emnist-digits"], archive=md5)
    monkeypatch.setitem(siblings.SIBLINGS, "emnist-digits", ours)
    found = load_dataset("emnist-digits", data_dir=tmp_path)
    assert found.sha256 == load_dataset("emnist-digits", data_dir=root).sha256


@pytest.mark.parametrize("folder", ["", "empty", "mnist"])
def test_offline_without_data_names_the_ways_out(
    edge_mnist: Command, tmp_path: Path, folder: str
) -> None:
    """EDGE_MNIST_DATA may name a folder that has other data sets only."""
    for name in ("empty", "mnist/MNIST/raw"):
        (tmp_path / name).mkdir(parents=True)
    for switch, offline in ((("--offline",), ""), ((), "1")):
        env = {"EDGE_MNIST_DATA": folder, "EDGE_MNIST_OFFLINE": offline}
        done = edge_mnist("train", "--dataset", "fashion-mnist", *switch, env=env)
        assert done.returncode == 3
        (line,) = done.stderr.splitlines()
        assert line.startswith("edge-mnist: FashionMNIST is not at hand and downloads are off")
        for way in ("network", "--data-dir", "FashionMNIST/raw", "--dataset digits"):
            assert way in line


def test_a_named_folder_without_the_sibling(edge_mnist: Command, tmp_path: Path) -> None:
    given = ("--dataset", "qmnist", "--offline")
    by_option = edge_mnist("train", *given, "--data-dir", tmp_path)
    by_variable = edge_mnist("train", *given, env={"EDGE_MNIST_DATA": "no-such-folder"})
    (tmp_path / "half" / "QMNIST" / "raw").mkdir(parents=True)
    half = edge_mnist("train", *given, env={"EDGE_MNIST_DATA": str(tmp_path / "half")})
    for done in (by_option, by_variable, half):
        assert done.returncode == 3
        (line,) = done.stderr.splitlines()
        assert "does not hold QMNIST" in line
        assert "qmnist-test-labels-idx2-int" in line


def test_the_cache_serves_where_the_variable_names_mnist(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(root / "KMNIST", cache_folder() / "KMNIST")
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("EDGE_MNIST_DATA", str(tmp_path / "other"))
    assert load_dataset("kmnist", offline=True).name == "kmnist"
    monkeypatch.setenv("EDGE_MNIST_DATA", str(root))
    (cache_folder() / "KMNIST" / "raw" / "t10k-labels-idx1-ubyte").write_bytes(b"damaged")
    assert load_dataset("kmnist", offline=True).name == "kmnist"


def test_emnists_download_keeps_the_digits(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    md5 = zip_emnist(root, tmp_path / "gzip.zip")
    monkeypatch.delenv("EDGE_MNIST_DATA", raising=False)
    with serve(tmp_path) as mirror:
        monkeypatch.setattr(torchvision.datasets.EMNIST, "url", f"{mirror}gzip.zip")
        monkeypatch.setattr(torchvision.datasets.EMNIST, "md5", md5)
        found = load_dataset("emnist-digits")
    assert found.sha256 == load_dataset("emnist-digits", data_dir=root).sha256
    kept = (cache_folder() / "EMNIST" / "raw").iterdir()
    assert {path.name for path in kept} == set(SIBLINGS["emnist-digits"].files)
    assert load_dataset("emnist-digits", offline=True).sha256 == found.sha256


@pytest.mark.parametrize("is_half", [False, True])
def test_qmnists_download_has_both_parts(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_half: bool
) -> None:
    """Also where the cache has lost some of the files."""
    sums, packed = {}, tmp_path / "packed"
    packed.mkdir()
    for path in (root / "QMNIST" / "raw").iterdir():
        content = gzip.compress(path.read_bytes())
        (packed / f"{path.name}.gz").write_bytes(content)
        sums[path.name] = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if is_half:
        shutil.copytree(packed, cache_folder() / "QMNIST" / "raw")
        (cache_folder() / "QMNIST" / "raw" / "qmnist-test-labels-idx2-int.gz").unlink()
    ours = dataclasses.replace(
        SIBLINGS["qmnist"], files={k: sums[k] for k in SIBLINGS["qmnist"].files}
    )
    monkeypatch.setitem(siblings.SIBLINGS, "qmnist", ours)
    monkeypatch.delenv("EDGE_MNIST_DATA", raising=False)
    with serve(packed) as mirror:
        resources = {
            part: [(f"{mirror}{name}.gz", sums[name]) for name in ours.files if f"-{part}-" in name]
            for part in ("train", "test")
        }
        monkeypatch.setattr(torchvision.datasets.QMNIST, "resources", resources)
        found = load_dataset("qmnist")
    assert found.sha256 == load_dataset("qmnist", data_dir=root).sha256
    assert [path.name for path in cache_folder().iterdir()] == ["QMNIST"]


def test_a_failed_download_leaves_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGE_MNIST_DATA", raising=False)
    with serve(root / "FashionMNIST" / "raw") as mirror:  # whose files are not gzipped
        monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [mirror])
        with pytest.raises(DataError, match="FashionMNIST is not at hand and the download failed"):
            load_dataset("fashion-mnist")
    assert list(cache_folder().iterdir()) == []


def test_a_slow_download_ends_in_time(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGE_MNIST_DATA", raising=False)
    plain = SIBLINGS["fashion-mnist"]
    hasty = dataclasses.replace(plain, source=dataclasses.replace(plain.source, timeout_s=2))
    with serve(root / "FashionMNIST" / "raw", SlowHandler) as mirror:
        mirrors = [f"{mirror}{name}?" for name in list(plain.files)[:1]]  # whatever is asked for
        monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", mirrors)
        with pytest.raises(DataError, match="took longer than 1 s"):
            load_dataset("fashion-mnist", timeout_s=1)
        monkeypatch.setitem(siblings.SIBLINGS, "fashion-mnist", hasty)
        with pytest.raises(DataError, match="took longer than 2 s"):
            load_dataset("fashion-mnist")
    # What there is to load, in MB, comes over a slow line too: 0.25 MB/s.
    assert SIBLINGS["emnist-digits"].source.timeout_s >= 500 / 0.25
    assert plain.source.timeout_s >= 50 / 0.25


def test_every_name_is_offered(edge_mnist: Command) -> None:
    done = edge_mnist("train", "--dataset", "fashion", env={"EDGE_MNIST_DATA": ""})
    text = re.sub(r"-\n +", "-", edge_mnist("train", "--help").stdout)  # lines break at a hyphen
    assert done.returncode == 2
    for name in DATASETS:
        assert name in done.stderr
        assert name in text
