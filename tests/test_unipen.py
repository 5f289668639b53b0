import pickle
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from edge_mnist.errors import DataError, UsageError
from edge_mnist.picture import read_picture
from edge_mnist.picture.frame import frame_ink
from edge_mnist.training import unipen
from edge_mnist.training.strokes import (
    coarsen,
    frame_thin,
    is_outlier,
    render_characters,
    thin_digits,
    thin_to_line,
)
from edge_mnist.training.unipen import Characters, load_unipen, split_writers

# A seven: bar from the left, then down; y points up, as in the format.
SEVEN = "10 90\n40 90\n70 90\n60 60\n50 30\n40 0"
BAR = "30 45\n50 46\n70 45"
RING = "\n".join(f"{round(50 + 40 * np.cos(t))} {round(50 + 45 * np.sin(t))}" for t in range(8))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_donor(root: Path, donor: str, pen: str, segments: str, *, benchmark: str = "1a") -> None:
    """Write a donor's one list and the one file of pen positions that it includes."""
    write(root / "include" / donor / "data" / "a.dat", pen)
    write(
        root / "data" / benchmark / donor / "a.dat",
        f".VERSION 1.0\n.INCLUDE {donor}/data/a.dat\n{segments}",
    )


def pen_of(writer: str, *strokes: str, head: str = ".COORD X Y\n") -> str:
    blocks = "".join(f".PEN_DOWN\n{stroke}\n.PEN_UP\n" for stroke in strokes)
    return f"{head}.WRITER_ID {writer}\n.WRITER_INFO\n\tLast name: Secret\n{blocks}"


def load(root: Path) -> Characters:
    return load_unipen(root, offline=True)


def error_of(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(root)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Write a release with the forms that the published one holds."""
    root = tmp_path / "release"
    # Strokes with positions of the lifted pen between them, which count as components.
    lifted = (
        f".PEN_UP\n.DT 930\n.PEN_UP\n1 1\n2 2\n.PEN_DOWN\n{SEVEN}\n.PEN_UP\n90 90\n"
        f".PEN_DOWN\n{BAR}\n.PEN_UP\n"
    )
    write_donor(
        root, "tos", f".COORD X Y\n.WRITER_ID Secret1\n{lifted}", '.SEGMENT CHARACTER 1-3 OK "7"\n'
    )
    # Further columns, in another order; names of columns in a file of their own.
    write(root / "include" / "sie" / "sie.doc", ".COORD T Y P X\n.COMMENT\n   .PEN_DOWN in text\n")
    write_donor(
        root,
        "sie",
        ".WRITER_ID Secret2\n.PEN_DOWN\n7 0 1 10\n8 50 1 20\n9 100 1 30\n.PEN_UP\n",
        '.INCLUDE sie.doc\n.SEGMENT CHARACTER 0 ? "1"\n.SEGMENT WORD 0 ? "one"\n',
    )
    # Units twice as fine in y.
    fine = ".X_POINTS_PER_INCH 100\n.Y_POINTS_PER_INCH 200\n"
    write_donor(root, "aga", pen_of("Secret3", RING, head=fine), '.SEGMENT CHARACTER 0 GOOD "0"\n')
    # Positions within components, and several ranges.
    write_donor(
        root,
        "mot",
        pen_of("Secret4", SEVEN, BAR, RING),
        '.SEGMENT CHARACTER 0:1-1:1 OK  "t"\n.SEGMENT CHARACTER 0-0:2,2 ? "\\""\n',
        benchmark="1c",
    )
    return root


def test_format(release: Path) -> None:
    characters = load(release)
    assert characters.labels.tolist() == ["0", "1", "7", "t", '"']
    assert characters.benchmarks.tolist() == ["1a", "1a", "1a", "1c", "1c"]
    assert characters.donors.tolist() == ["aga", "sie", "tos", "mot", "mot"]
    assert [stroke.shape for stroke in characters.strokes(2)] == [(6, 2), (3, 2)]
    assert characters.strokes(1)[0].tolist() == [[10, 0], [20, -50], [30, -100]]
    assert characters.strokes(0)[0][0].tolist() == [90, -25]
    assert [stroke.tolist() for stroke in characters.strokes(3)] == [
        [[40, -90], [70, -90], [60, -60], [50, -30], [40, 0]],
        [[30, -45], [50, -46]],
    ]
    assert [len(stroke) for stroke in characters.strokes(4)] == [3, 8]
    assert all(stroke.dtype == np.float32 for stroke in characters.strokes(4))


def test_select(release: Path) -> None:
    characters = load(release)
    rows = np.array([4, 0, 4])
    chosen = characters.select(rows)
    assert len(chosen) == 3
    assert chosen.labels.tolist() == ['"', "0", '"']
    for place, row in enumerate(rows.tolist()):
        for one, other in zip(chosen.strokes(place), characters.strokes(row), strict=True):
            np.testing.assert_array_equal(one, other)


def test_no_name_is_kept(release: Path) -> None:
    characters = load(release)
    assert sorted(characters.writer_codes) == ["aga-01", "mot-01", "sie-01", "tos-01"]
    assert b"Secret" not in pickle.dumps(characters)


@pytest.mark.parametrize("folder", [".", "unipen", "unipen/train_r01_v07"])
def test_unpacked_folders_are_found(release: Path, tmp_path: Path, folder: str) -> None:
    shutil.copytree(release, tmp_path / "data" / folder, dirs_exist_ok=True)
    assert len(load(tmp_path / "data")) == 5


def pack(release: Path, archive: Path, *, top: str, mode: str) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
        tar.add(release, top)
    return archive


@pytest.mark.parametrize(
    ("name", "top", "mode"),
    [
        ("train_r01_v07-isolated.tar.xz", ".", "w:xz"),
        ("unipen-CDROM-train_r01_v07.tgz", "CDROM/train_r01_v07", "w:gz"),
        ("unipen/unipen-CDROM-train_r01_v07.tgz", "train_r01_v07", "w:gz"),
    ],
)
def test_archives_hold_the_same(
    release: Path, tmp_path: Path, name: str, top: str, mode: str
) -> None:
    archive = pack(release, tmp_path / "data" / name, top=top, mode=mode)
    expected = pickle.dumps(load(release))
    assert pickle.dumps(load(tmp_path / "data")) == expected
    assert pickle.dumps(load(archive)) == expected


def test_release_in_the_cache_is_used(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGE_MNIST_DATA", raising=False)
    pack(release, unipen.cache_folder() / unipen.PUBLISHED_ARCHIVE, top=".", mode="w:gz")
    assert len(load_unipen(offline=True)) == 5
    (tmp_path / "empty").mkdir()
    assert len(load(tmp_path / "empty")) == 5


@pytest.mark.parametrize("mode", ["w:xz", "w:gz"])
def test_truncated_archive(release: Path, tmp_path: Path, mode: str) -> None:
    archive = pack(release, tmp_path / unipen.ARCHIVES[0], top=".", mode=mode)
    whole = archive.read_bytes()
    for size in (0, 20, len(whole) // 2, len(whole) - 30):
        archive.write_bytes(whole[:size])
        message = error_of(archive)
        assert str(archive) in message
        assert "truncated" in message
    assert {path.name for path in tmp_path.iterdir()} == {archive.name, "release"}


def test_archive_of_something_else(tmp_path: Path) -> None:
    write(tmp_path / "other" / "readme.txt", "nothing")
    archive = pack(tmp_path / "other", tmp_path / unipen.ARCHIVES[0], top=".", mode="w:xz")
    assert "holds no UNIPEN" in error_of(archive)


def test_no_unipen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for offline in (True, False):
        monkeypatch.setitem(sys.modules, "pooch", None)
        with pytest.raises(DataError, match="Three ways out") as caught:
            load_unipen(tmp_path, offline=offline)
        assert str(tmp_path) in str(caught.value)
        assert unipen.DOI in str(caught.value)
        assert ("pooch" in str(caught.value)) != offline
    assert not list(tmp_path.iterdir())


PEN = "include/tos/data/a.dat"
LIST = "data/1a/tos/a.dat"


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        (PEN, None, "file 1 of data/1a/tos includes a file that is missing (its include 1)"),
        (LIST, lambda text: text.replace("1-3", "1-4"), "beyond the 4 components"),
        (LIST, lambda text: text.replace("1-3", "1:9-3"), "beyond the pen positions"),
        (LIST, lambda text: text.replace("1-3", "1-3:3"), "beyond the pen positions"),
        (LIST, lambda text: text.replace("1-3", "3-1"), "cannot read the components '3-1'"),
        (LIST, lambda text: text.replace("1-3", "a"), "cannot read the components 'a'"),
        (LIST, lambda text: text.replace('"7"', '"7'), "cannot read the segment"),
        (LIST, lambda text: text.replace("tos/data", "../../etc"), "a file that is missing"),
        (
            PEN,
            lambda text: text.replace("40 0", "40 x"),
            "file 1 of include/tos is altered: a pen position is no number",
        ),
        (PEN, lambda text: text.replace("40 0", "40"), "without X or Y"),
        (PEN, lambda text: text.replace("X Y", "X Z"), "coordinates are X Z"),
        (PEN, lambda text: f".INCLUDE tos/data/a.dat\n{text}", "includes itself"),
        (
            PEN,
            lambda text: f".X_POINTS_PER_MM 0\n.Y_POINTS_PER_MM 0\n{text}",
            "its POINTS_PER_MM are",
        ),
    ],
)
def test_files_that_are_wrong(
    release: Path, file: str, change: Callable[[str], str] | None, reason: str
) -> None:
    path = release / file
    if change:
        path.write_text(change(path.read_text()))
    else:
        path.unlink()
    message = error_of(release)
    assert reason in message
    assert str(release) in message
    assert "a.dat" not in message  # some donors' files have the names of their writers


def test_includes_that_some_copies_are_without(release: Path) -> None:
    pen = f".INCLUDE pri/pri.doc\n{pen_of('Secret', SEVEN)}"
    write_donor(release, "pri", pen, '.SEGMENT CHARACTER 0 ? "7"\n')
    assert load(release).donors.tolist().count("pri") == 1


def test_broken_characters_are_dropped(tmp_path: Path) -> None:
    segment = '.SEGMENT CHARACTER {} ? "{}"\n'.format
    strokes = [SEVEN, "0 0", "10 0\n50 90", RING, BAR]
    pen = pen_of("Secret", *strokes)
    write_donor(
        tmp_path, "val", pen, segment(0, "7") + segment(3, "00") + segment(1, "1") + segment(4, "-")
    )
    write_donor(tmp_path, "kai", pen, segment(0, r"\@"), benchmark="1d")
    # Of donor ibm: the same drawing twice, halves of a 4, a ring for an 8, a dash for a 1.
    pen = pen_of("Secret", SEVEN, BAR, "10 0\n50 90", "20 90\n20 40\n60 40", RING, BAR, SEVEN)
    labels = enumerate(["7", "1", "4", "4", "8", "-", "7"])
    write_donor(tmp_path, "ibm", pen, "".join(segment(row, label) for row, label in labels))
    write_donor(tmp_path, "ibm", pen, segment(0, "T"), benchmark="1b")
    kept = load(tmp_path)
    assert list(zip(kept.donors.tolist(), kept.labels.tolist(), strict=True)) == [
        ("ibm", "7"),
        ("val", "7"),
        ("val", "-"),
    ]


def test_files_with_the_same_drawings_are_of_one_writer(tmp_path: Path) -> None:
    for number in range(3):
        shared = RING if number < 2 else RING.replace("50", "51")
        own = SEVEN.replace("70", str(70 + number))
        write(tmp_path / f"include/gmd/data/{number}.dat", pen_of(f"Secret{number}", shared, own))
        write(
            tmp_path / f"data/1a/gmd/{number}.dat",
            f".INCLUDE gmd/data/{number}.dat\n"
            '.SEGMENT CHARACTER 0 ? "0"\n.SEGMENT CHARACTER 1 ? "7"\n',
        )
    characters = load(tmp_path)
    assert characters.labels.tolist() == ["0", "7", "7", "0", "7"]
    assert len(characters.writer_codes) == 2
    assert characters.writers[[0, 1, 2]].tolist() == [characters.writers[0]] * 3
    assert characters.writers[0] != characters.writers[3]


def many_writers(n: int = 40) -> Characters:
    """Make characters of many writers: a seven and a ring each, of slightly different form."""
    shapes = [
        np.array([[0, 0], [60, -2], [30, 90]], np.float32),
        np.array([[40 * np.cos(t), 45 * np.sin(t)] for t in np.linspace(0, 6.3, 20)], np.float32),
    ]
    strokes = [shape + writer for writer in range(n) for shape in shapes]
    sizes = np.array([len(stroke) for stroke in strokes])
    donors = np.array(["aga", "tos"])[np.arange(n) % 2]
    return Characters(
        np.concatenate(strokes),
        np.concatenate([[0], np.cumsum(sizes)]),
        np.arange(2 * n + 1),
        np.array(["7", "0"] * n),
        np.array(["1a"] * 2 * n),
        np.repeat(np.arange(n), 2),
        np.repeat(donors, 2),
        tuple(f"{donor}-{row // 2:02d}" for row, donor in enumerate(donors)),
    )


def test_writers_are_split_by_donor() -> None:
    characters = many_writers()
    split = split_writers(characters, validation_share=0.1, test_share=0.2)
    parts = (split.train, split.validation, split.test)
    assert sorted(np.concatenate(parts).tolist()) == list(range(80))
    writers = [set(characters.writers[part].tolist()) for part in parts]
    assert [len(one) for one in writers] == [28, 4, 8]
    assert not writers[0] & writers[1] | writers[0] & writers[2] | writers[1] & writers[2]
    for part, n in zip(parts, (28, 4, 8), strict=True):
        assert (characters.donors[part] == "aga").sum() == n
    more = split_writers(characters, validation_share=0.1, test_share=0.3)
    assert set(split.test.tolist()) < set(more.test.tolist())
    chosen = np.arange(1, 80, 2)
    again = split_writers(characters.select(chosen), validation_share=0.1, test_share=0.2)
    assert set(chosen[again.test].tolist()) <= set(split.test.tolist())
    none = split_writers(characters, validation_share=0, test_share=0)
    assert len(none.train) == 80


@pytest.mark.parametrize("shares", [(-0.1, 0.1), (0.6, 0.6)])
def test_shares_that_cannot_be(shares: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match="shares of writers"):
        split_writers(many_writers(), validation_share=shares[0], test_share=shares[1])


@pytest.mark.parametrize(("paint_share", "coarse_share"), [(0, 0), (1, 0), (0, 1)])
def test_renderings_are_in_the_form_of_mnist(paint_share: float, coarse_share: float) -> None:
    characters = many_writers()
    rows = np.tile(np.arange(80), 3)
    generator = np.random.default_rng(1)
    images = render_characters(
        characters, rows, generator, paint_share=paint_share, coarse_share=coarse_share
    )
    assert images.shape == (240, 28, 28)
    assert images.dtype == np.uint8
    sides = [[np.flatnonzero(image.any(axis=axis)) for axis in (0, 1)] for image in images]
    longer = np.array([max(int(one[-1] - one[0]) + 1 for one in pair) for pair in sides])
    assert ((longer >= 18) & (longer <= 20)).all()
    weight = images.astype(float)
    centre = (weight.sum(axis=2) @ np.arange(28)) / weight.sum(axis=(1, 2))
    assert (abs(centre - 14) <= 0.6).mean() > 0.95
    # Upright: a seven has its bar at the top. And whole: a ring has a hole in its middle.
    sevens, rings = images[characters.labels[rows] == "7"], images[characters.labels[rows] == "0"]
    widths = (sevens > 0).sum(axis=2)
    assert (widths[:, 4:11].max(axis=1) > widths[:, 19:].max(axis=1)).mean() > 0.95
    assert (rings[:, 13:15, 13:15].mean(axis=(1, 2)) < 60).mean() > 0.9


def test_renderings_repeat_with_the_generator() -> None:
    characters = many_writers()
    rows = np.array([3, 3, 0, 77])
    first, second, other = (
        render_characters(characters, rows, np.random.default_rng(seed), paint_share=0.5)
        for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
    assert (first[0] != first[1]).any()
    assert render_characters(characters, rows[:0], np.random.default_rng(0)).shape == (0, 28, 28)


def test_dots_are_rendered() -> None:
    dot = Characters(
        np.zeros((2, 2), np.float32),
        np.array([0, 1, 2]),
        np.array([0, 1, 2]),
        np.array([".", "."]),
        np.array(["1d"] * 2),
        np.zeros(2, np.int64),
        np.array(["aga"] * 2),
        ("aga-01",),
    )
    for paint_share in (0, 1):
        rows = np.zeros(50, np.int64)
        images = render_characters(dot, rows, np.random.default_rng(0), paint_share=paint_share)
        assert images.any(axis=(1, 2)).all()


@pytest.mark.parametrize(
    "options", [{"paint_share": 1.1}, {"paint_share": -1}, {"coarse_share": 2}, {"bending": -1}]
)
def test_renderings_that_cannot_be(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="paint_share"):
        render_characters(many_writers(), np.arange(2), np.random.default_rng(0), **options)


@pytest.mark.parametrize("side_px", [28, 45, 100])
def test_small_canvas_is_framed_as_the_picture_path_does(side_px: int) -> None:
    sheet = Image.new("L", (side_px, side_px))
    line = [(0.2, 0.2), (0.6, 0.2), (0.4, 0.5), (0.35, 0.8), (0.3, 0.6)]
    ImageDraw.Draw(sheet).line([(x * side_px, y * side_px) for x, y in line], 255, 1)
    ink = np.asarray(sheet)
    for picture in (ink, 255 - ink):
        np.testing.assert_array_equal(read_picture(picture).image, frame_thin(ink))


def test_coarse_ink_has_few_pixels() -> None:
    generator = np.random.default_rng(4)
    sheet = Image.new("L", (80, 120))
    ImageDraw.Draw(sheet).line([(20, 15), (60, 15), (30, 105)], 255, 3)
    small = [coarsen(np.asarray(sheet), generator) for _ in range(200)]
    assert {max(one.shape) for one in small} == set(range(9, 19))
    n_levels = np.array([len(np.unique(one)) for one in small])
    assert 0.3 < (n_levels == 2).mean() < 0.7
    assert all(one.max() > 0 for one in small)
    n_square = sum(one.shape[0] == one.shape[1] for one in small)
    assert 20 <= n_square <= 80


def test_thin_digits() -> None:
    generator = np.random.default_rng(2)
    sheets = []
    for width in range(12, 20):
        sheet = Image.new("L", (90, 90))
        ImageDraw.Draw(sheet).line([(15, 15), (75, 15), (40, 75)], 255, width)
        ImageDraw.Draw(sheet).ellipse((25, 45, 60, 80), outline=255, width=width)
        sheets.append(np.asarray(sheet))
    thick = np.stack([frame_ink(sheet) for sheet in sheets])
    thin = thin_digits(thick, np.random.default_rng(3))
    assert thin.shape == thick.shape
    assert thin.dtype == np.uint8
    np.testing.assert_array_equal(thin, thin_digits(thick, np.random.default_rng(3)))
    assert (thin > 127).mean() < 0.8 * (thick > 127).mean()
    # The same digit in the same place.
    coarse = [images.reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4)) for images in (thick, thin)]
    likeness = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(*coarse, strict=True)]
    assert np.median(likeness) > 0.7
    assert thin_digits(thick[:0], generator).shape == (0, 28, 28)
    blank = np.zeros((1, 28, 28), np.uint8)
    np.testing.assert_array_equal(thin_digits(blank, generator), blank)


def test_thinned_strokes_stay_connected() -> None:
    sheet = Image.new("L", (60, 60))
    ImageDraw.Draw(sheet).ellipse((10, 5, 45, 50), outline=255, width=8)
    ImageDraw.Draw(sheet).line((30, 48, 55, 58), 255, 7)
    line = thin_to_line(np.asarray(sheet) > 0)
    assert (line <= (np.asarray(sheet) > 0)).all()
    assert not (line[1:, 1:] & line[:-1, :-1] & line[1:, :-1] & line[:-1, 1:]).any()
    # From the middle of the ring, steps to the side do not lead outside.
    inside = np.zeros(line.shape, bool)
    inside[27, 27] = True
    for _ in range(120):
        grown = inside.copy()
        grown[1:] |= inside[:-1]
        grown[:-1] |= inside[1:]
        grown[:, 1:] |= inside[:, :-1]
        grown[:, :-1] |= inside[:, 1:]
        inside = grown & ~line
    assert not inside[0].any()
    assert 600 < inside.sum() < 1000


def test_outliers() -> None:
    assert [label for label in "0123456789OoIl|SsZzBGgqDQTJ/\\'(" if is_outlier(label)] == []
    assert all(is_outlier(label) for label in "AEFHKMNRWXaehkmnrwx+#%*=?@$<>-")
