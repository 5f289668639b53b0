"""Data sets by name, folders of one's own pictures, and how a part of one is split off.

MNIST is read with numpy alone, its relatives by torchvision's own classes; the digits and the
stratified splits need scikit-learn. Each is imported where it is used.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import DataError, MissingPackageError, PictureError, UsageError, one_line
from edge_mnist.files import make_folder, output_errors
from edge_mnist.machine import is_offline
from edge_mnist.picture import read_picture
from edge_mnist.picture.decode import SUFFIXES
from edge_mnist.picture.frame import frame_ink
from edge_mnist.training import mnist
from edge_mnist.training.recipes import Recipe

DIGIT_LABELS = tuple("0123456789")

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class Dataset:
    """Images and labels: training part and test part.

    Attributes:
        name: One of ``DATASETS``, or a folder's path.
        class_names: What each label means, for people.
        train_images: Shape (N, 28, 28), uint8, 0 = background, 255 = full ink.
        train_labels: Shape (N,), int64.
        test_images: Like ``train_images``.
        test_labels: Like ``train_labels``.
        skipped: Each picture that was left out, and why.
        framing: How a picture becomes such an image; see ``edge_mnist.picture.read_picture``.
        notes: How a folder was understood, one sentence each.
        validation_rows: Rows of ``train_images`` that a folder's validation part consists of;
            None if it has none, so that a training splits ``train_images`` by its recipe.
        held_out: Rows of ``train_images`` that one training did not learn from, in the data set
            that this training returns. The next training makes a split of its own.
        split_by_content: Whether ``split_training`` goes by a hash of each image, as folders of
            pictures are split, which may grow. The published data sets never change.
    """

    name: str
    class_names: tuple[str, ...]
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    skipped: tuple[str, ...] = ()
    framing: str = "digit"
    notes: tuple[str, ...] = ()
    validation_rows: NDArray[np.int64] | None = None
    held_out: NDArray[np.int64] | None = None
    split_by_content: bool = False

    def __post_init__(self) -> None:
        """Refuse arrays that a training or a test would take for other images or labels.

        Raises:
            UsageError: An array is of another shape or type, there is no image, or a label is not
                that of a class.
        """
        for part in ("train", "test"):
            images, labels = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
            _check_array(f"{part}_images", images, np.uint8, (28, 28))
            _check_array(f"{part}_labels", labels, np.int64, ())
            if len(images) != len(labels) or not len(images):
                raise UsageError(
                    f"{part}_labels: expected one for each of one image or more, got {len(labels)} "
                    f"for {len(images)}"
                )
            if labels.min() < 0 or labels.max() >= len(self.class_names):
                raise UsageError(
                    f"{part}_labels: expected 0 to {len(self.class_names) - 1}, got "
                    f"{labels.min()} to {labels.max()}"
                )

    @functools.cached_property
    def sha256(self) -> str:
        """Hash over all images and labels, hexadecimal."""
        digest = hashlib.sha256()
        for part in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()


def _check_array(name: str, array: Any, dtype: type, shape: tuple[int, ...]) -> None:
    expected = f"{np.dtype(dtype)} of shape {('N', *shape)}".replace("'", "")
    if not isinstance(array, np.ndarray):
        raise UsageError(f"{name}: expected an array, {expected}, got {type(array).__name__}")
    if array.dtype != dtype or array.ndim < 1 or array.shape[1:] != shape:
        raise UsageError(f"{name}: expected {expected}, got {array.dtype} of shape {array.shape}")


def check_dataset(dataset: object) -> None:
    """Check an argument that takes a data set, not the name of one.

    Raises:
        UsageError: It is something else.
    """
    if not isinstance(dataset, Dataset):
        raise UsageError(
            f"expected a Dataset, as load_dataset returns it, got {type(dataset).__name__}"
        )


def load_dataset(
    name: str | os.PathLike[str],
    *,
    data_dir: Path | None = None,
    offline: bool = False,
    timeout_s: float | None = None,
) -> Dataset:
    """Load a data set by name, or a folder of one's own pictures.

    Args:
        name: One of ``DATASETS``, or a folder with one folder of pictures for each class, or with
            ``train``, ``test`` and ``val`` folders of such; ``./kmnist`` and a ``Path`` are
            folders, ``kmnist`` never.
        data_dir: For MNIST a folder with its four files, gzipped or not, flat or in ``MNIST/raw``,
            or with torchvision's old ``training.pt`` and ``test.pt``; for the other published
            ones torchvision's root, the data set's folder in it, or that one's ``raw``. Without
            it EDGE_MNIST_DATA, then the cache, then the download.
        offline: Never use the network. EDGE_MNIST_OFFLINE=1 does the same.
        timeout_s: Longest time for a download; None for one that suits its size.

    Raises:
        UsageError: There is no such data set, or EDGE_MNIST_OFFLINE is neither 1 nor 0.
        DataError: It cannot be had, or a file is truncated or altered.
        MissingPackageError: A package that reads it is not installed.
    """
    if isinstance(name, os.PathLike):
        name = os.path.join(os.curdir, name)
    if not isinstance(name, str):
        raise UsageError(f"expected the name of a data set or a folder, got {name!r}")
    if name == "digits":
        return _load_digits()
    if name in PUBLISHED:
        offline = offline or is_offline()
        load = _load_mnist if name == "mnist" else _load_published
        return load(name, data_dir, offline=offline, timeout_s=timeout_s)
    if os.path.isdir(name):
        # By the name as given: a Path drops the "./" that tells a folder from a published set.
        return dataclasses.replace(_load_folder(Path(name)), name=name)
    raise UsageError(
        f"no data set named {name!r}; there are: {', '.join(DATASETS)}, and any folder with "
        "a folder of pictures for each class"
    )


def _load_digits() -> Dataset:
    """Load scikit-learn's 1,797 handwritten digits, brought to MNIST's form, one in five for test.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """
    from sklearn import datasets

    bunch = datasets.load_digits()
    small = np.round(bunch.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8), ink is bright
    images = np.stack([frame_ink(image) for image in small])
    labels = bunch.target.astype(np.int64)
    train, test = split_stratified(labels, share=TEST_SHARE)
    return Dataset("digits", DIGIT_LABELS, images[train], labels[train], images[test], labels[test])


# Published data sets: where their files are, reading them, downloading them


@dataclass(frozen=True)
class _Published:
    """A data set of MNIST's form that torchvision downloads: ten classes of 28 x 28 pixels.

    Attributes:
        loader: The class in ``torchvision.datasets``; also the folder that it makes.
        files: Its files once unpacked, in ``LOADER/raw``.
        options: What the class is called with, besides root and part.
        class_names: What each label means; empty for the class's own names.
        framing: See ``Dataset``.
        is_transposed: Whether images are stored column by column.
        timeout_s: Longest time for the download, unless the caller says otherwise: at least its
            size over a slow line, 0.25 MB/s.
    """

    loader: str
    files: tuple[str, ...] = tuple(mnist.FILES)
    options: Mapping[str, str] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    framing: str = "digit"
    is_transposed: bool = False
    timeout_s: float = 300.0

    def unavailable(self, reason: str) -> DataError:
        """Return the error that names the reason and the ways out."""
        held = "its four files" if self.loader == "MNIST" else f"{self.loader}/raw"
        return DataError(
            f"{self.loader} is not available: {reason}. Three ways out: connect to a network and "
            f"run again; name a folder with {held} (--data-dir or EDGE_MNIST_DATA); "
            "or use the built-in digits (--dataset digits)"
        )


PUBLISHED = {
    "mnist": _Published("MNIST", class_names=DIGIT_LABELS),
    # Clothes fill their frame, and so do the signs of Kuzushiji.
    "fashion-mnist": _Published("FashionMNIST", framing="whole"),
    "kmnist": _Published("KMNIST", framing="whole"),
    "qmnist": _Published(
        "QMNIST",
        tuple(
            f"qmnist-{part}-{content}"
            for part in ("train", "test")
            for content in ("images-idx3-ubyte", "labels-idx2-int")
        ),
        class_names=DIGIT_LABELS,
    ),
    "emnist-digits": _Published(
        "EMNIST",
        tuple(
            f"emnist-digits-{part}-{content}-ubyte"
            for part in ("train", "test")
            for content in ("images-idx3", "labels-idx1")
        ),
        options={"split": "digits"},
        class_names=DIGIT_LABELS,
        is_transposed=True,
        timeout_s=3600,  # all of EMNIST, half a gigabyte, of which a tenth is the digits
    ),
}
DATASETS = ("mnist", "digits", *(name for name in PUBLISHED if name != "mnist"))


def named_folder(data_dir: Path | None) -> Path | None:
    """Return the data folder that the user named, by option or by EDGE_MNIST_DATA."""
    named = (os.environ.get("EDGE_MNIST_DATA") or None) if data_dir is None else data_dir
    return None if named is None else Path(named)


def cache_folder() -> Path:
    """Return where downloads are kept: XDG_CACHE_HOME/edge-mnist.

    Raises:
        DataError: The user has no home folder, and XDG_CACHE_HOME is not set.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "edge-mnist"
    except RuntimeError as error:  # in a container whose user has no entry in /etc/passwd
        raise DataError(
            "this user has no home folder to keep data sets in: set HOME or XDG_CACHE_HOME, or "
            "name a folder that holds the data set (--data-dir or EDGE_MNIST_DATA)"
        ) from error


def _load_mnist(
    name: str, data_dir: Path | None, *, offline: bool, timeout_s: float | None
) -> Dataset:
    """Load MNIST from a named folder, else from the cache, else by download."""
    published, named = PUBLISHED[name], named_folder(data_dir)
    try:
        folder = mnist.find_mnist(named or cache_folder())
    except DataError:
        if named:
            raise
        if offline:
            raise published.unavailable("downloads are off (offline)") from None
        _download(published, timeout_s=timeout_s)
        folder = mnist.find_mnist(cache_folder())
    return Dataset(name, published.class_names, *mnist.read_mnist(folder))


def _load_published(
    name: str, data_dir: Path | None, *, offline: bool, timeout_s: float | None
) -> Dataset:
    """Load a data set by torchvision's class, from a named folder, the cache, or by download.

    EDGE_MNIST_DATA may name a folder for MNIST alone: where this data set's folder is not in it,
    the cache is next. A folder named by ``data_dir`` has to hold it.
    """
    published, named, cache = PUBLISHED[name], named_folder(data_dir), cache_folder()
    root = _find_root(named, published.loader) if named else cache
    if named and not root:
        if data_dir or not os.path.isdir(named):
            raise DataError(
                f"{named} does not hold {published.loader}: expected {published.loader}/raw in it, "
                f"with {', '.join(published.files)}"
            )
        root = cache
    assert root
    if not _is_unpacked(published, root):
        bad = _find_bad_archives(published, root)
        if bad and root != cache:
            raise DataError(
                f"{root} does not hold {published.loader}: expected {', '.join(published.files)} "
                f"in {published.loader}/raw, or the archives they come in, of which are missing "
                f"or altered: {', '.join(bad)}"
            )
        if bad and offline:
            raise published.unavailable("downloads are off (offline)")
        if root == cache or not _is_unpacked(published, cache):
            _download(published, archives=root, timeout_s=timeout_s)
        root = cache
    return _read_published(name, root)


def _find_root(folder: Path, loader: str) -> Path | None:
    """Return torchvision's root, given it, the data set's folder in it, or the raw folder in that.

    Never by files alone: those of most of these data sets are named like MNIST's.
    """
    path = Path(os.path.abspath(folder))
    if os.path.isdir(path / loader):  # unlike Path.is_dir, no error where it is forbidden
        return path
    if path.name == loader:
        return path.parent
    return path.parent.parent if path.parts[-2:] == (loader, "raw") else None


def _is_unpacked(published: _Published, root: Path) -> bool:
    raw = root / published.loader / "raw"
    return all(os.path.isfile(raw / name) for name in published.files)


def _list_archives(published: _Published) -> dict[str, str]:
    """Return the archives that torchvision downloads: their names, and each one's MD5."""
    loader = _import_loader(published)
    if hasattr(loader, "url"):  # EMNIST: one archive for everything
        return {os.path.basename(loader.url): loader.md5}
    listed = loader.resources
    if isinstance(listed, dict):  # QMNIST: by part
        listed = [*listed["train"], *listed["test"]]
    return {os.path.basename(url): md5 for url, md5 in listed}


def _find_bad_archives(published: _Published, root: Path) -> list[str]:
    """Return the names of the archives that are not there, or whose checksum is not the known."""
    archives = _list_archives(published)  # first, as it finds out whether torchvision is there
    from torchvision.datasets.utils import check_integrity

    raw = root / published.loader / "raw"
    try:
        return [name for name, md5 in archives.items() if not check_integrity(raw / name, md5)]
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from error


def _import_loader(published: _Published) -> Any:
    """Return the class in torchvision.

    Raises:
        MissingPackageError: torchvision is not installed.
    """
    try:
        from torchvision import datasets
    except ImportError as error:
        raise MissingPackageError(
            f"{published.loader} needs torchvision, which is not installed; install "
            "'edge-mnist[train]', or for MNIST name a folder with its files (--data-dir)"
        ) from error
    return getattr(datasets, published.loader)


def _read_published(name: str, root: Path) -> Dataset:
    """Read both parts by torchvision's class.

    Raises:
        DataError: A file is truncated or altered; it is left as it is.
    """
    published = PUBLISHED[name]
    loader, raw = _import_loader(published), root / published.loader / "raw"
    try:
        train, test = (
            _read_part(loader(root, train=is_train, **published.options), published)
            for is_train in (True, False)
        )
    except Exception as error:  # a damaged file makes torchvision raise anything
        raise DataError(
            f"{raw}: {published.loader} is truncated or altered ({one_line(error)}); replace its "
            "files, or delete the folder to have them downloaded into the cache"
        ) from error
    class_names = published.class_names or tuple(loader.classes)
    return Dataset(name, class_names, *train, *test, framing=published.framing)


def _read_part(part: Any, published: _Published) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images and labels of torchvision's object, checked against each other.

    Raises:
        ValueError: They do not belong together, which torchvision does not look at.
    """
    images, labels = part.data.numpy(), part.targets.numpy()
    if labels.ndim == 2:  # QMNIST: the class, and then who wrote it and where
        labels = np.ascontiguousarray(labels[:, 0])
    expected, found = (len(labels), 28, 28), np.unique(labels).tolist()
    if images.shape != expected or images.dtype != np.uint8:
        raise ValueError(f"expected images uint8 {expected}, got {images.dtype} {images.shape}")
    if found != list(range(10)):
        raise ValueError(f"expected labels 0 .. 9, got {found[:12]}")
    if published.is_transposed:
        images = np.ascontiguousarray(images.transpose(0, 2, 1))
    return images, labels


# Runs in a process of its own, which can be stopped at any moment and has its own standard streams
# and time limit for sockets. It needs no edge_mnist: how that was imported does not matter.
DOWNLOAD_CODE = """
import json, socket, sys
name, root, options, settings = json.loads(sys.argv[1])
report, sys.stdout = sys.stdout, sys.stderr  # torchvision prints what failed on one mirror
socket.setdefaulttimeout(10)  # seconds without a byte
try:
    from torchvision import datasets
    loader = getattr(datasets, name)
    for key, value in settings.items():
        setattr(loader, key, value)
    for train in (True, False):
        loader(root, train=train, download=True, **options)
except BaseException as error:
    print(" ".join(str(error).split()) or type(error).__name__, file=report)
    sys.exit(1)
"""
# What an application may have set on torchvision's classes, other mirrors say, holds for us too.
LOADER_SETTINGS = ("mirrors", "resources", "url", "md5")


def _download(
    published: _Published, *, timeout_s: float | None, archives: Path | None = None
) -> None:
    """Let torchvision download and unpack a data set into the cache, whole or not at all.

    Args:
        published: Which one.
        timeout_s: Longest time, in seconds; None for the data set's own.
        archives: A root whose archives are unpacked instead of downloaded, where they are good.

    Raises:
        DataError: The download failed or took longer than ``timeout_s``.
        MissingPackageError: torchvision is not installed.
        OutputError: The cache cannot be written.
    """
    loader, cache = _import_loader(published), make_folder(cache_folder())
    timeout_s = published.timeout_s if timeout_s is None else timeout_s
    settings = {key: getattr(loader, key) for key in LOADER_SETTINGS if hasattr(loader, key)}
    with tempfile.TemporaryDirectory(
        prefix=".download-", dir=cache, ignore_cleanup_errors=True
    ) as temporary:
        raw = Path(temporary) / published.loader / "raw"
        with output_errors(raw):
            raw.mkdir(parents=True)
            if archives:
                for name in _list_archives(published):
                    source = archives / published.loader / "raw" / name
                    if os.path.isfile(source):
                        shutil.copyfile(source, raw / name)
        task = json.dumps([published.loader, temporary, dict(published.options), settings])
        # -P: the working folder may hold a torchvision.py of its own. UTF-8: what Python prints.
        command = [sys.executable, "-P", "-X", "utf8", "-c", DOWNLOAD_CODE, task]
        is_terminal = bool(sys.stderr and sys.stderr.isatty())  # then torchvision shows its bar
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=None if is_terminal else subprocess.DEVNULL,
                timeout=timeout_s,
                check=False,
                encoding="utf-8",
                errors="replace",
            )
        except subprocess.TimeoutExpired:
            reason = f"the download took longer than {timeout_s:.0f} s"
            raise published.unavailable(reason) from None
        except OSError as error:
            raise published.unavailable(f"the download cannot be started ({error})") from error
        if done.returncode:
            reason = done.stdout.strip() or f"exit status {done.returncode}"
            raise published.unavailable(f"the download failed ({reason})")
        target = make_folder(cache / published.loader / "raw")
        with output_errors(target):
            for name in published.files:
                os.replace(raw / name, target / name)


# Folders of one's own pictures

MAX_CLASSES = 1000
LEAST_PICTURES = 5  # of each class: one for the test, one for validation, some to learn from
TEST_SHARE = 0.2
# Unicode's categories of what a class's name may not hold: names stand in ONNX metadata, which is
# UTF-8, and in files with a name a line. Control characters, surrogates (of a file name that is not
# UTF-8), separators of lines and paragraphs.
NOT_IN_NAMES = ("Cc", "Cs", "Zl", "Zp")
# Names of folders for parts, in lower case, and what each is used for.
PART_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
}
PARTS = ("test", "validation", "train")  # a picture in two of them stays in the first


@dataclass(frozen=True)
class _Picture:
    """A picture that was read: its file, part and class, and the image that the model sees."""

    path: str
    part: str
    class_name: str
    image: NDArray[np.uint8]

    @property
    def content(self) -> bytes:
        """The image as something that sets and dictionaries can hold."""
        return self.image.tobytes()


def _load_folder(folder: Path) -> Dataset:
    """Load pictures of any size and kind, brought to MNIST's form.

    Which picture goes to the test part is decided by a hash of what the model sees of it: files may
    come and go, and a picture that a model was trained on does not become a test picture later.

    Args:
        folder: Holds one folder for each class, named like it, pictures anywhere below; or a
            folder ``train`` of such, with ``test`` or ``val`` beside it.

    Raises:
        DataError: There are not 2 to 1,000 classes, or one has fewer than five readable pictures.
    """
    skipped: list[str] = []
    parts = _find_parts(folder, skipped)
    class_names = _find_class_names(folder, parts)
    pictures = [
        picture
        for part, part_folder in parts
        for class_folder in _list_folder(part_folder, [])[0]
        for picture in _read_pictures(class_folder, part, skipped)
    ]
    pictures = _drop_repeated(pictures, skipped)
    _check_enough(parts, class_names, pictures)
    images = np.stack([one.image for one in pictures])
    labels = np.array([class_names.index(one.class_name) for one in pictures], np.int64)
    part_names = np.array([one.part for one in pictures])
    is_test = part_names == "test"
    if not is_test.any():
        rows = np.flatnonzero(part_names == "train")
        hashes = hash_each_image(images[rows], purpose="test")
        is_test[rows[_split_by_hash(hashes, labels[rows], share=TEST_SHARE)[1]]] = True
    is_held_out = part_names[~is_test] == "validation"
    notes = (
        f"{len(class_names)} classes: {_shorten(class_names)}",
        _describe_parts(folder, parts, is_test, is_held_out),
        *_describe_contradictions(pictures),
    )
    return Dataset(
        str(folder),
        class_names,
        images[~is_test],
        labels[~is_test],
        images[is_test],
        labels[is_test],
        skipped=tuple(skipped),
        framing="ink",
        notes=notes,
        validation_rows=np.flatnonzero(is_held_out) if is_held_out.any() else None,
        split_by_content=True,
    )


def _find_parts(folder: Path, skipped: list[str]) -> list[tuple[str, Path]]:
    """Return the folders of class folders, each with the part of the data set that it is."""
    folders, _ = _list_folder(folder, skipped, with_pictures=False)
    found = [(PART_NAMES.get(path.name.lower(), ""), path) for path in folders]
    trains = [path for part, path in found if part == "train"]
    others = [path for part, path in found if part in ("test", "validation")]
    # A class may be called "train", so its folder has to look like a part as well.
    if not (trains and all(map(_holds_classes, trains)) and (others or len(folders) == 1)):
        return [("train", folder)]
    parts = []
    for part, path in found:
        if not part:
            skipped.append(f"{path}: not a part of the data set, as train, test and val are")
        elif not _holds_classes(path):
            skipped.append(f"{path}: no folder for each class, so its pictures have no label")
        else:
            _list_folder(path, skipped, with_pictures=False)
            parts.append((part, path))
    return parts


def _holds_classes(folder: Path) -> bool:
    return bool(_list_folder(folder, [])[0])


def _find_class_names(folder: Path, parts: Sequence[tuple[str, Path]]) -> tuple[str, ...]:
    """Return the names of the training part's class folders, sorted.

    Raises:
        DataError: There are too few or too many, another part has a class more, or a name cannot
            stand in a model file.
    """
    names: dict[str, set[str]] = collections.defaultdict(set)
    for part, path in parts:
        names[part] |= {one.name for one in _list_folder(path, [])[0]}
    if not 2 <= len(names["train"]) <= MAX_CLASSES:
        raise DataError(
            f"{folder} holds {len(names['train'])} folders; expected one of pictures for each of "
            "2 to 1,000 classes"
        )
    for name in names["train"]:
        if any(unicodedata.category(character) in NOT_IN_NAMES for character in name):
            raise DataError(
                f"{folder / name}: expected a class's name in UTF-8, without control characters; "
                "rename the folder"
            )
    for part, path in parts:
        extra = sorted(names[part] - names["train"])
        if extra:
            raise DataError(f"{path}: the training part has no class {_shorten(extra)}")
    return tuple(sorted(names["train"]))


def _list_folder(
    folder: Path, skipped: list[str], *, with_pictures: bool = True
) -> tuple[list[Path], list[Path]]:
    """Return the folders and the files in a folder, sorted; hidden ones are left out.

    Links to files are followed, as DVC makes them from a folder to its cache. Links to folders are
    not: they may lead in circles.

    Args:
        folder: Where to look, not below it.
        skipped: Gets a line for each thing that is left out.
        with_pictures: Whether pictures belong here; where they do not, they are left out.
    """
    folders, files = [], []
    try:
        paths = sorted(Path(entry) for entry in os.scandir(folder))
    except OSError as error:
        skipped.append(f"{folder}: {error.strerror}")
        return [], []
    for path in paths:
        if path.name.startswith("."):
            continue
        if os.path.isdir(path):
            if os.path.islink(path):
                skipped.append(f"{path}: links to folders are not followed")
            else:
                folders.append(path)
        elif os.path.isfile(path):
            files.append(path)
            if not with_pictures and path.suffix.lower() in SUFFIXES:
                skipped.append(f"{path}: in no folder of a class")
        else:
            reason = "a broken link" if os.path.islink(path) else "not a regular file"
            skipped.append(f"{path}: {reason}")
    return folders, files


def _find_pictures(folder: Path, skipped: list[str]) -> list[Path]:
    """Return the pictures anywhere below a folder, by their suffix, sorted."""
    pictures, pending = [], [folder]
    others: collections.Counter[str] = collections.Counter()
    while pending:  # no recursion: folders may be nested deeper than Python calls
        folders, files = _list_folder(pending.pop(), skipped)
        pending += folders
        for path in files:
            if path.suffix.lower() in SUFFIXES:
                pictures.append(path)
            else:
                others[path.suffix or "none"] += 1
    for suffix, n_files in sorted(others.items()):
        skipped.append(f"{folder}: {n_files} files with the suffix {suffix}, not a picture's")
    return sorted(pictures)


def _read_pictures(class_folder: Path, part: str, skipped: list[str]) -> Iterator[_Picture]:
    """Yield the pictures of a class as ``predict`` will read them with the trained model."""
    for path in _find_pictures(class_folder, skipped):
        try:
            model_input = read_picture(path, framing="ink")
        except PictureError as error:
            skipped.append(f"{path}: {error}")
            continue
        if model_input.reason:
            skipped.append(f"{path}: {model_input.reason}")
        else:
            yield _Picture(str(path), part, class_folder.name, model_input.image)


def _drop_repeated(pictures: Sequence[_Picture], skipped: list[str]) -> list[_Picture]:
    """Leave out pictures that give an image which another part has already."""
    first: dict[bytes, _Picture] = {}
    kept = []
    for picture in sorted(pictures, key=lambda one: (PARTS.index(one.part), one.path)):
        other = first.setdefault(picture.content, picture)
        if other.part == picture.part:
            kept.append(picture)
        else:
            skipped.append(f"{picture.path}: gives the same image as {other.path}")
    return kept


def _check_enough(
    parts: Sequence[tuple[str, Path]], class_names: Sequence[str], pictures: Sequence[_Picture]
) -> None:
    """Check that every class can be learned, and that no part is empty.

    Raises:
        DataError: There are too few different pictures.
    """
    n_pictures = collections.Counter(one.part for one in pictures)
    distinct = {(one.class_name, one.content) for one in pictures if one.part == "train"}
    n_distinct = collections.Counter(name for name, _ in distinct)
    for part, path in parts:
        if part != "train" and not n_pictures[part]:
            raise DataError(f"{path}: 0 readable pictures that are in no other part")
        for name in class_names if part == "train" else ():
            if n_distinct[name] < LEAST_PICTURES:
                raise DataError(
                    f"{path / name}: {n_distinct[name]} different readable pictures to learn from; "
                    f"expected at least {LEAST_PICTURES}"
                )


def _describe_parts(
    folder: Path,
    parts: Sequence[tuple[str, Path]],
    is_test: NDArray[np.bool_],
    is_held_out: NDArray[np.bool_],
) -> str:
    """Return in words where the parts come from.

    Args:
        folder: The data set's.
        parts: See ``_find_parts``.
        is_test: For each picture.
        is_held_out: For each of those that are not.
    """
    sources = {part: f"{path.name}/" for part, path in parts if path != folder}
    hashed = "chosen by a hash of each picture"
    n_held_out = int(is_held_out.sum())
    n_train = len(is_held_out) - n_held_out
    validation = f"{n_held_out} to validate on ({sources.get('validation')})"
    return (
        f"{len(is_test)} pictures: {n_train} to train on ({sources.get('train', 'the rest')}), "
        f"{is_test.sum()} to test on ({sources.get('test', hashed)}), "
        + (validation if n_held_out else f"of the former some to validate on ({hashed})")
    )


def _describe_contradictions(pictures: Sequence[_Picture]) -> Iterator[str]:
    """Yield a sentence if pictures of several classes give the same image."""
    first: dict[bytes, _Picture] = {}
    pairs = [
        (other.path, one.path)
        for one in pictures
        if (other := first.setdefault(one.content, one)).class_name != one.class_name
    ]
    if pairs:
        yield (
            f"{len(pairs)} pictures give the same image as one of another class; "
            f"for example {' and '.join(pairs[0])}"
        )


def _shorten(names: Sequence[str], n_shown: int = 10) -> str:
    more = f" and {len(names) - n_shown} more" if len(names) > n_shown else ""
    return ", ".join(names[:n_shown]) + more


# Splits

SPLIT_SEED = 20_041_998  # one split for all seeds, so that runs are comparable


def split_training(dataset: Dataset, recipe: Recipe) -> tuple[Rows, Rows]:
    """Split the training images by a recipe; the same split every time.

    Args:
        dataset: Where its ``validation_rows`` are set, they are the second part, unless the recipe
            has folds. Images of a folder are split by their hashes, so that identical ones are
            never on both sides. The published data sets are split at random, every class
            in proportion, as ever: the published accuracies were measured so.
        recipe: One of its folds, or its ``validation_share``.

    Returns:
        Sorted row numbers to train on and to validate on; no row is in both.

    Raises:
        UsageError: The recipe has folds and does not say which.
        DataError: A class has too few images.
    """
    if recipe.folds:
        return _split_folds(dataset, recipe)
    if dataset.validation_rows is not None:
        every_row = np.arange(len(dataset.train_labels))
        return np.setdiff1d(every_row, dataset.validation_rows), np.sort(dataset.validation_rows)
    share = recipe.validation_share
    if dataset.split_by_content:
        hashes = hash_each_image(dataset.train_images, purpose="validation")
        return _split_by_hash(hashes, dataset.train_labels, share=share)
    return split_stratified(dataset.train_labels, share=share)


def split_stratified(labels: NDArray[np.int64], *, share: float) -> tuple[Rows, Rows]:
    """Split row numbers in two, every class in proportion; the same split every time.

    Args:
        labels: True classes, shape (N,).
        share: Share of the second part, 0..1.

    Returns:
        Row numbers of the two parts, each sorted.

    Raises:
        DataError: There are too few to have every class in both parts.
    """
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(labels))
    try:
        first, second = train_test_split(
            rows, test_size=share, stratify=labels, random_state=SPLIT_SEED
        )
    except ValueError as error:  # a class of one image, or fewer images in a part than classes
        raise DataError(
            f"{len(labels)} images of {len(np.unique(labels))} classes are too few to hold out "
            f"{share:.1%} of them; add images, or hold out more (--set validation_share=0.3)"
        ) from error
    return np.sort(first), np.sort(second)


def hash_each_image(images: NDArray[np.uint8], *, purpose: str) -> NDArray[np.uint64]:
    """Return a hash of each image, shape (N,), which has nothing to do with other purposes'."""
    key = purpose.encode()
    digests = (hashlib.blake2b(one.tobytes(), digest_size=8, person=key).digest() for one in images)
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


def _split_by_hash(
    hashes: NDArray[np.uint64], labels: NDArray[np.int64], *, share: float
) -> tuple[Rows, Rows]:
    """Split row numbers in two: what has a hash in the lowest ``share`` of all is in the second.

    So a picture's side does not depend on the others. Only where a class would be all on one side,
    or have twice its share in the second part, the boundary moves.
    """
    is_second = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        distinct = np.unique(hashes[rows])
        if len(distinct) < 2:
            raise DataError(f"class {label}: one picture alone cannot be split; add pictures")
        most = min(len(distinct) - 1, math.ceil(2 * share * len(distinct)))
        n_second = int(np.clip(np.count_nonzero(distinct < share * 2.0**64), 1, most))
        is_second[rows] = np.isin(hashes[rows], distinct[:n_second])
    return np.flatnonzero(~is_second), np.flatnonzero(is_second)


def _split_folds(dataset: Dataset, recipe: Recipe) -> tuple[Rows, Rows]:
    """Return the rows outside and inside of the recipe's fold."""
    if not recipe.fold:
        raise UsageError(f"which of the {recipe.folds} folds? --set fold=1, or train all of them")
    labels = dataset.train_labels
    if dataset.split_by_content:
        hashes = hash_each_image(dataset.train_images, purpose="validation")
    else:
        hashes = np.arange(len(labels), dtype=np.uint64)
    fewest = min(len(np.unique(hashes[labels == label])) for label in np.unique(labels))
    if fewest < recipe.folds:
        raise DataError(f"{recipe.folds} folds need as many images of each class; one has {fewest}")
    if not dataset.split_by_content:
        from sklearn.model_selection import StratifiedKFold

        folds = StratifiedKFold(recipe.folds, shuffle=True, random_state=SPLIT_SEED)
        train, validation = list(folds.split(labels, labels))[recipe.fold - 1]
        return np.sort(train), np.sort(validation)
    fold_of_row = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):  # in turn by their hashes: folds of equal size
        rows = np.flatnonzero(labels == label)
        fold_of_row[rows] = np.unique(hashes[rows], return_inverse=True)[1] % recipe.folds
    is_validation = fold_of_row == recipe.fold - 1
    return np.flatnonzero(~is_validation), np.flatnonzero(is_validation)
