"""The data sets that torchvision reads: small ones, drawn here and written in its layout.

Their archives have other checksums than the published ones, so tests of archives and downloads set
their own on torchvision's classes, as an application sets other mirrors.
"""

import gzip
import hashlib
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torchvision
from conftest import Command, SilentHandler, serve
from numpy.typing import NDArray
from PIL import Image

from edge_mnist import Predictor
from edge_mnist.errors import DataError
from edge_mnist.exporting.golden import draw_golden_images
from edge_mnist.training.datasets import DATASETS, PUBLISHED, cache_folder, load_dataset

Part = tuple[NDArray[np.uint8], NDArray[np.int64]]
NAMES = tuple(name for name in PUBLISHED if name != "mnist")


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


def write_published(name: str, root: Path, parts: tuple[Part, Part]) -> Path:
    """Write a data set's four files, unpacked, as torchvision lays them out."""
    published = PUBLISHED[name]
    raw = root / published.loader / "raw"
    raw.mkdir(parents=True)
    arrays: list[NDArray[np.generic]] = []
    for images, labels in parts:
        arrays.append(images.transpose(0, 2, 1) if name == "emnist-digits" else images)
        if name == "qmnist":  # seven further columns: series, writer, place ...
            rest = np.random.default_rng(0).integers(0, 2**30, (len(labels), 7))
            arrays.append(np.column_stack([labels, rest]))
        else:
            arrays.append(labels.astype(np.uint8))
    for file, array in zip(published.files, arrays, strict=True):
        (raw / file).write_bytes(to_idx(array))
    return raw


def write_archives(name: str, root: Path, folder: Path) -> dict[str, str]:
    """Write a data set's archives as they are published; return each one's MD5."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = sorted((root / PUBLISHED[name].loader / "raw").iterdir())
    if name == "emnist-digits":  # one for all, with the files of another split in it
        with zipfile.ZipFile(folder / "gzip.zip", "w") as file:
            for path in paths:
                for member in (path.name, path.name.replace("digits", "letters")):
                    file.writestr(f"gzip/{member}.gz", gzip.compress(path.read_bytes()))
    else:
        for path in paths:
            (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    return {
        path.name: hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        for path in folder.iterdir()
    }


def publish(name: str, sums: dict[str, str], mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell torchvision's class where the archives are, and their checksums."""
    loader = getattr(torchvision.datasets, PUBLISHED[name].loader)
    files = [f"{file}.gz" for file in PUBLISHED[name].files]
    if name == "emnist-digits":
        monkeypatch.setattr(loader, "url", f"{mirror}gzip.zip")
        monkeypatch.setattr(loader, "md5", sums["gzip.zip"])
    elif name == "qmnist":
        found = [(f"{mirror}{file}", sums[file]) for file in files]
        monkeypatch.setattr(loader, "resources", {"train": found[:2], "test": found[2:]})
    else:
        monkeypatch.setattr(loader, "mirrors", [mirror])
        monkeypatch.setattr(loader, "resources", [(file, sums[file]) for file in files])


@pytest.fixture(scope="module")
def parts() -> tuple[Part, Part]:
    return draw_part(300, seed=0), draw_part(60, seed=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, parts: tuple[Part, Part]) -> Path:
    """All four data sets in one folder."""
    folder = tmp_path_factory.mktemp("published")
    for name in NAMES:
        write_published(name, folder, parts)
    return folder


@pytest.fixture
def no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_MNIST_DATA", raising=False)


@pytest.mark.parametrize("name", NAMES)
def test_images_and_labels_are_as_written(name: str, root: Path, parts: tuple[Part, Part]) -> None:
    dataset = load_dataset(name, data_dir=root)
    assert dataset.name == name
    (train_images, train_labels), (test_images, test_labels) = parts
    assert (dataset.train_images == train_images).all()
    assert (dataset.test_images == test_images).all()
    assert (dataset.train_labels == train_labels).all()
    assert (dataset.test_labels == test_labels).all()
    assert (dataset.train_images.dtype, dataset.train_labels.dtype) == (np.uint8, np.int64)
    assert len(dataset.class_names) == 10
    assert dataset.framing == ("whole" if name in ("fashion-mnist", "kmnist") else "digit")


def test_class_names(root: Path) -> None:
    names = {name: load_dataset(name, data_dir=root).class_names for name in NAMES}
    assert names["fashion-mnist"][::9] == ("T-shirt/top", "Ankle boot")
    assert names["kmnist"][::9] == ("o", "wo")
    assert names["qmnist"] == names["emnist-digits"] == tuple("0123456789")


def test_emnist_digits_stand_upright(tmp_path: Path) -> None:
    """The shipped model, which knows MNIST's digits, reads them as they are loaded."""
    golden = draw_golden_images()
    raw = write_published("emnist-digits", tmp_path, (golden, golden))
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
    names = [dataset.class_names[label] for label in labels]
    assert [line.split("  ")[0].strip() for line in done.stdout.splitlines()] == names


@pytest.mark.parametrize("named", [".", "FashionMNIST", "FashionMNIST/raw"])
def test_the_root_and_what_is_in_it_may_be_named(
    root: Path, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_dataset("fashion-mnist", data_dir=root).sha256
    assert load_dataset("fashion-mnist", data_dir=root / named).sha256 == expected
    monkeypatch.setenv("EDGE_MNIST_DATA", str(root / named))
    assert load_dataset("fashion-mnist", offline=True).sha256 == expected
    monkeypatch.chdir(root / named)
    assert load_dataset("fashion-mnist", data_dir=Path()).sha256 == expected


def damage_file(whole: bytes, damage: str) -> bytes:
    """Return a labels file that no longer is what it was."""
    labels = np.frombuffer(whole, np.uint8, offset=8)
    return {
        "truncated": whole[:-3],
        "too long": whole + b"\0",
        "empty": b"",
        "header only": whole[:6],
        "magic": b"\x7fELF" + whole[4:],
        "dimensions": to_idx(labels.reshape(-1, 2)),
        "class 10": to_idx(np.where(labels == 9, 10, labels).astype(np.uint8)),
        "one class": to_idx(np.zeros_like(labels)),
        "too few": to_idx(labels[:-10]),
        "int32": to_idx(labels.astype(np.int32)),
    }[damage]


@pytest.mark.parametrize(
    "damage",
    [
        *("truncated", "too long", "empty", "header only", "magic", "dimensions"),
        *("class 10", "one class", "too few", "int32"),
    ],
)
def test_a_damaged_file_is_one_line_and_is_left(
    parts: tuple[Part, Part], tmp_path: Path, edge_mnist: Command, damage: str
) -> None:
    path = write_published("kmnist", tmp_path, parts) / "t10k-labels-idx1-ubyte"
    damaged = damage_file(path.read_bytes(), damage)
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"KMNIST is truncated or altered .* replace") as caught:
        load_dataset("kmnist", data_dir=tmp_path)
    assert str(path.parent) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert path.read_bytes() == damaged
    if damage == "truncated":
        done = edge_mnist("train", "--dataset", "kmnist", "--data-dir", tmp_path)
        assert done.returncode == 3
        assert done.stderr == f"edge-mnist: {caught.value}\n"


@pytest.mark.usefixtures("no_data_folder")
@pytest.mark.parametrize("name", NAMES)
def test_offline_takes_archives_whose_checksums_are_known(
    name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "given" / PUBLISHED[name].loader / "raw"
    sums = write_archives(name, root, raw)
    expected = load_dataset(name, data_dir=root).sha256
    with pytest.raises(DataError, match=f"does not hold .* altered: .*{next(iter(sums))}"):
        load_dataset(name, data_dir=tmp_path / "given", offline=True)  # not the published ones
    assert not cache_folder().exists()
    publish(name, sums, "http://127.0.0.1:1/", monkeypatch)  # where nothing listens
    assert load_dataset(name, data_dir=tmp_path / "given", offline=True).sha256 == expected
    assert {path.name for path in raw.iterdir()} == set(sums)  # left as it is
    kept = cache_folder() / PUBLISHED[name].loader / "raw"
    assert {path.name for path in kept.iterdir()} == set(PUBLISHED[name].files)
    assert load_dataset(name, offline=True).sha256 == expected  # from the cache
    times = [path.stat().st_mtime_ns for path in kept.iterdir()]
    assert load_dataset(name, data_dir=raw, offline=True).sha256 == expected
    assert [path.stat().st_mtime_ns for path in kept.iterdir()] == times  # not unpacked again
    victim = max(raw.iterdir(), key=lambda path: path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"altered: {victim.name}$"):
        load_dataset(name, data_dir=tmp_path / "given")


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
        assert line.startswith("edge-mnist: FashionMNIST is not available: downloads are off")
        for way in ("network", "--data-dir", "FashionMNIST/raw", "--dataset digits"):
            assert way in line


def test_a_named_folder_without_the_data_set(edge_mnist: Command, tmp_path: Path) -> None:
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


@pytest.mark.usefixtures("no_data_folder")
@pytest.mark.parametrize("is_half", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_download_fills_the_cache(
    name: str, is_half: bool, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the cache has lost some of the files."""
    sums = write_archives(name, root, tmp_path / "mirror")
    kept = cache_folder() / PUBLISHED[name].loader / "raw"
    if is_half:
        shutil.copytree(root / PUBLISHED[name].loader / "raw", kept)
        (kept / PUBLISHED[name].files[2]).unlink()
    timeout_s = socket.getdefaulttimeout()
    with serve(tmp_path / "mirror") as mirror:
        publish(name, sums, mirror, monkeypatch)
        found = load_dataset(name)
    assert found.sha256 == load_dataset(name, data_dir=root).sha256
    assert [path.name for path in cache_folder().iterdir()] == [PUBLISHED[name].loader]
    assert {path.name for path in kept.iterdir()} == set(PUBLISHED[name].files)
    assert load_dataset(name, offline=True).sha256 == found.sha256
    assert socket.getdefaulttimeout() == timeout_s


@pytest.mark.usefixtures("no_data_folder")
@pytest.mark.parametrize("failure", ["missing", "altered"])
def test_a_failed_download_leaves_nothing(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    failure: str,
) -> None:
    sums = write_archives("fashion-mnist", root, tmp_path / "mirror")
    victim = tmp_path / "mirror" / "t10k-labels-idx1-ubyte.gz"  # the others are downloaded
    victim.write_bytes(b"altered") if failure == "altered" else victim.unlink()
    with serve(tmp_path / "mirror") as mirror:
        publish("fashion-mnist", sums, mirror, monkeypatch)
        with pytest.raises(DataError) as caught:
            load_dataset("fashion-mnist")
    (line,) = str(caught.value).splitlines()
    assert "FashionMNIST is not available: the download failed" in line
    assert {"missing": "404", "altered": "corrupted"}[failure] in line
    assert victim.name in line
    assert list(cache_folder().iterdir()) == []
    assert capfd.readouterr() == ("", "")


class EndlessHandler(SilentHandler):
    """Sends a byte now and then, so that no socket ever times out, until nobody reads."""

    started, stopped = threading.Event(), threading.Event()

    def copyfile(self, source: object, outputfile: object) -> None:
        self.started.set()
        try:
            while True:
                self.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            self.stopped.set()


@pytest.mark.usefixtures("no_data_folder")
def test_a_slow_download_ends_in_time(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = write_archives("fashion-mnist", root, tmp_path / "mirror")
    with serve(tmp_path / "mirror", EndlessHandler) as mirror:
        publish("fashion-mnist", sums, mirror, monkeypatch)
        for timeout_s in (4, 16, 64, 256):  # the first that lets the download begin
            with pytest.raises(DataError, match=f"took longer than {timeout_s} s"):
                load_dataset("fashion-mnist", timeout_s=timeout_s)
            if EndlessHandler.started.is_set():
                break
        assert EndlessHandler.started.is_set()
        assert EndlessHandler.stopped.wait(300)  # the process that downloads is gone
    assert list(cache_folder().iterdir()) == []
    # What there is to load, in MB, comes over a slow line too: 0.25 MB/s.
    assert PUBLISHED["emnist-digits"].timeout_s >= 500 / 0.25
    assert PUBLISHED["fashion-mnist"].timeout_s >= 50 / 0.25


@pytest.mark.usefixtures("no_data_folder")
@pytest.mark.parametrize("name", ["mnist", "kmnist"])
def test_without_torchvision_the_way_out_is_named(name: str) -> None:
    code = (
        "import sys; sys.modules['torchvision'] = None; "
        "from edge_mnist.training.datasets import load_dataset; "
        f"load_dataset({name!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        f"edge_mnist.errors.MissingPackageError: {name.upper()} needs torchvision"
    )
    assert "edge-mnist[train]" in last


def test_every_name_is_offered(edge_mnist: Command) -> None:
    done = edge_mnist("train", "--dataset", "fashion", env={"EDGE_MNIST_DATA": ""})
    text = re.sub(r"-\n +", "-", edge_mnist("train", "--help").stdout)  # lines break at a hyphen
    assert done.returncode == 2
    for name in DATASETS:
        assert name in done.stderr
        assert name in text
