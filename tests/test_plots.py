import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import LIMITS, Command
from numpy.typing import NDArray
from PIL import Image

from edge_mnist.errors import ModelError
from edge_mnist.model_file import CHECKPOINT_NAME, FLOAT32_NAME, INT8_NAME
from edge_mnist.plots.charts import (
    bin_confidences,
    count_confusions,
    find_interval,
    find_most_confused,
    measure_spread,
    plot_confusion,
    plot_curves,
    plot_folds,
    plot_reliability,
)
from edge_mnist.plots.images import (
    CHARACTER,
    SHEET_WIDTH,
    Caption,
    arrange,
    build_mosaic,
    find_mistakes,
    plot_filters,
    plot_mistakes,
    plot_predictions,
    plot_samples,
    split_filters,
)
from edge_mnist.plots.plot import (
    draw_test_pictures,
    locate,
    pick_samples,
    place_pictures,
    plot_tests,
    read_history,
)
from edge_mnist.plots.style import ELLIPSIS, VERMILION, shorten
from edge_mnist.training.checkpoint import load_checkpoint, load_network
from edge_mnist.training.datasets import Dataset
from edge_mnist.training.networks import first_weights
from edge_mnist.validation.validate import measure_calibration

TEST_PICTURES = {"samples.png", "predictions.png", "confusion.png", "mistakes.png"}
TEST_PICTURES |= {"reliability.png"}
# A formula, a line break, letters that the font lacks, and no place to break.
ODD_NAMES = ["$x$ and $", "two\nlines", "\u732b", "pedestrian_crossing_sign_right", "W" * 30]


def open_png(content: bytes) -> NDArray[np.uint8]:
    """Return a picture's pixels, after checking that it is a PNG file that shows something."""
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    height, width, _ = pixels.shape
    assert 200 <= height <= 6000
    assert 500 <= width <= 3000
    assert (pixels < 128).any()  # some ink, and most of it paper
    assert (pixels > 200).all(axis=2).mean() > 0.3
    return pixels


def count_pixels(pixels: NDArray[np.uint8], color: str) -> int:
    wanted = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    return int((pixels == wanted).all(axis=2).sum())


def make_answers(n_images: int, n_classes: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return labels and probabilities, most of them right."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, n_classes, n_images)
    labels[:n_classes] = np.arange(n_classes)
    scores = generator.normal(0, 1, (n_images, n_classes))
    scores[np.arange(n_images), labels] += 3
    powers = np.exp(scores)
    return labels, (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def test_names_are_cut_in_the_middle() -> None:
    assert shorten("T-shirt/top", 11) == "T-shirt/top"
    assert shorten("abcdefghij", 5) == f"ab{ELLIPSIS}ij"
    assert shorten("abcdefghij", 1) == ELLIPSIS
    assert shorten("two\nlines", 20) == "two lines"
    assert all(len(shorten("m" * 30, length)) == length for length in range(1, 30))


def test_curves_of_a_training(run_folder: Path) -> None:
    history = read_history(run_folder)
    assert [epoch.epoch for epoch in history] == list(range(1, 9))
    pixels = open_png(plot_curves(history))
    assert pixels.shape[1] > 3 * pixels.shape[0]  # three panels
    assert count_pixels(pixels, "#009E73") > 100  # the learning rate's colour
    open_png(plot_curves(history[:1]))
    open_png(plot_curves(history * 40))
    overflowed = [dataclasses.replace(epoch, validation_loss=float("nan")) for epoch in history]
    open_png(plot_curves(overflowed))


def test_folds() -> None:
    mean, deviation = measure_spread([0.98, 0.99, 1.0])
    assert mean == pytest.approx(0.99)
    assert deviation == pytest.approx(0.01)
    assert measure_spread([0.9]) == (0.9, 0.0)
    for accuracies in ([0.9], [0.98, 0.99, 1.0], [1.0] * 10):
        assert count_pixels(open_png(plot_folds(accuracies)), VERMILION) > 50


def test_confusions_are_counted() -> None:
    labels, predicted = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 0, 0, 2])
    counts = count_confusions(labels, predicted, 4)
    assert counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [2, 0, 1, 0], [0, 0, 0, 0]]
    assert find_most_confused(counts).tolist() == [0, 1, 2, 3]


def test_of_many_classes_the_most_confused_are_shown_with_their_partners() -> None:
    counts = np.diag(np.full(40, 100))
    counts[30, 7] = 5
    counts[12, 39] = 2
    shown = find_most_confused(counts).tolist()
    assert {7, 12, 30, 39} <= {*shown}
    assert len(shown) == 20
    assert shown == sorted(shown)
    assert len(find_most_confused(np.diag(np.full(40, 3)))) == 20


def test_confusion_colours_mistakes_alone() -> None:
    labels = np.arange(1000) % 10
    right = open_png(plot_confusion(labels, labels, list("0123456789")))
    wrong = open_png(plot_confusion(labels, labels[::-1].copy(), list("0123456789")))
    for pixels, coloured in ((right, False), (wrong, True)):
        spread = pixels.max(axis=2).astype(int) - pixels.min(axis=2)
        assert (spread > 60).any() == coloured


@pytest.mark.parametrize("n_classes", [2, 10, 30, 40, 1000])
def test_pictures_of_any_number_of_classes(digits: Dataset, n_classes: int) -> None:
    labels, probabilities = make_answers(1200, n_classes)
    images = np.resize(digits.test_images, (1200, 28, 28))
    names = [f"{ODD_NAMES[label % 5]} {label}" for label in range(n_classes)]
    pictures = draw_test_pictures(images, labels, probabilities, names)
    assert set(pictures) == TEST_PICTURES
    for content in pictures.values():
        open_png(content)


def test_samples_show_every_class_in_turns() -> None:
    labels = np.repeat([0, 1, 2], [50, 3, 2])
    assert labels[pick_samples(labels, 9)].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 0]
    assert sorted(pick_samples(labels, 99).tolist()) == list(range(55))
    many = np.repeat(np.arange(1000), 2)
    picked = many[pick_samples(many, 60)]
    assert len({*picked.tolist()}) == 60
    assert picked.max() > 900


def test_grid_frames_only_wrong_ones(digits: Dataset) -> None:
    images, names = digits.test_images[:7], list("abcdefg")
    right = open_png(plot_predictions(images, names, names, [0.9] * 7))
    assert count_pixels(right, VERMILION) == 0
    others = ["a", "b", "c", "d", "e", "f", "a"]
    one_wrong = open_png(plot_predictions(images, others, names, [0.9] * 7))
    all_wrong = open_png(plot_predictions(images, names[::-1], [*names[1:], "x"], [0.9] * 7))
    assert 0 < count_pixels(one_wrong, VERMILION) < count_pixels(all_wrong, VERMILION)
    open_png(plot_predictions(images, [*ODD_NAMES, "a", "b"], names, [0.9] * 7))
    assert plot_samples(images[:0], []).startswith(b"\x89PNG")
    open_png(plot_samples(np.resize(digits.test_images, (1000, 28, 28)), ["a"] * 1000))


def test_captions_never_meet() -> None:
    for length in (1, 9, 17, 24):
        layout = arrange(60, [Caption(("x" * length, ""))])
        assert length * CHARACTER < layout.cell_width
        assert layout.columns * layout.cell_width <= SHEET_WIDTH
        assert layout.columns * layout.rows >= 60
    assert arrange(60, [Caption(("0 100%", ""))]).columns == 10


def test_worst_mistakes_come_first(digits: Dataset) -> None:
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.3, 0.7]], np.float32)
    labels = np.array([1, 1, 1, 0])
    assert find_mistakes(labels, probabilities).tolist() == [1, 3, 0]
    images = digits.test_images[:4]
    assert count_pixels(open_png(plot_mistakes(images, labels, probabilities, "ab")), VERMILION)
    none = plot_mistakes(images, probabilities.argmax(axis=1), probabilities, "ab")
    assert none.startswith(b"\x89PNG")
    with Image.open(io.BytesIO(none)) as image:
        assert image.height < 400  # a line of text, not an empty grid


def test_reliability_is_what_validate_measures() -> None:
    generator = np.random.default_rng(3)
    confidences = (1 - generator.exponential(0.05, 3000).clip(0, 0.9)).astype(np.float32)
    confidences[:3] = 1.0, 0.0, 1 / 15
    correct = generator.random(3000) < confidences**2
    bins = bin_confidences(confidences, correct)
    assert bins.calibration_error == pytest.approx(measure_calibration(confidences, correct))
    assert bins.calibration_error > 0.01
    assert bins.counts.sum() == 3000
    assert bins.n_correct.sum() == correct.sum()
    filled = bins.counts > 0
    middles = (np.arange(15) + 0.5) / 15
    assert (np.abs(bins.confidences - middles)[filled] <= 0.5 / 15 + 1e-6).all()
    open_png(plot_reliability(confidences, correct))
    open_png(plot_reliability(confidences[:1], correct[:1]))


def test_interval_of_a_share() -> None:
    assert find_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    low, high = find_interval(5, 5)
    assert 0.5 < low < 0.6
    assert high == 1.0


def test_filters() -> None:
    weights = np.arange(2 * 3 * 2 * 2, dtype=np.float32).reshape(2, 3, 2, 2)
    tiles = split_filters(weights)
    assert tiles.shape == (6, 2, 2)
    mosaic = build_mosaic(tiles)
    assert mosaic.shape == (5, 11)
    assert mosaic[:2, 3:5].tolist() == tiles[1].tolist()
    assert np.isnan(mosaic[2]).all()
    assert split_filters(np.zeros((5, 784))).shape == (5, 28, 28)
    assert split_filters(np.array([[[[np.nan, 1.0]]]])).tolist() == [[[0.0, 1.0]]]
    for shape in ((16, 1, 5, 5), (100, 784), (1, 1, 3, 3), (64, 1, 9, 9), (8, 3, 1, 1)):
        open_png(plot_filters(np.random.default_rng(0).normal(size=shape)))
    for constant in (0.0, -2.0, np.nan):
        assert plot_filters(np.full((8, 1, 3, 3), constant)).startswith(b"\x89PNG")


def test_first_weights_of_a_run(run_folder: Path) -> None:
    checkpoint = load_checkpoint(run_folder / CHECKPOINT_NAME)
    weights = first_weights(load_network(checkpoint))
    assert weights.shape == (16, 1, 5, 5)
    assert (weights == checkpoint.weights["0.weight"].numpy()).all()


def test_places_are_told_apart(tmp_path: Path) -> None:
    def places(*names: str) -> list[str]:
        found = place_pictures([tmp_path / name for name in names], Path("out"))
        return [str(place.relative_to("out")) for place in found]

    assert places("a/model.onnx") == ["."]
    assert places("a/model.onnx", "a/model.int8.onnx") == ["model", "model.int8"]
    assert places("a/model.onnx", "b/model.onnx", "b/v1.2") == ["a-model", "b-model", "b-v1.2"]
    assert len({*places("a-b/c", "a/b-c", "c")}) == 3


def test_a_damaged_history_is_an_error(run_folder: Path, tmp_path: Path) -> None:
    assert read_history(tmp_path) == []
    for text in ("not json\n", '{"epoch": 1}\n', "[1]\n"):
        (tmp_path / "history.jsonl").write_text(text)
        with pytest.raises(ModelError, match="history"):
            read_history(tmp_path)


def test_locate(run_folder: Path, exports: Path, tmp_path: Path) -> None:
    assert locate(run_folder) == run_folder
    assert locate(run_folder / CHECKPOINT_NAME) == run_folder
    assert locate(exports) == exports / FLOAT32_NAME
    assert locate(exports / INT8_NAME) == exports / INT8_NAME
    for missing in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ModelError):
            locate(missing)


def test_plot_of_an_exports_folder(edge_mnist: Command, exports: Path, tmp_path: Path) -> None:
    done = edge_mnist("plot", exports)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert {path.name for path in paths} == TEST_PICTURES | {"filters.png"}
    assert {path.parent for path in paths} == {Path("plots")}
    for path in paths:
        content = (tmp_path / path).read_bytes()
        if path.name != "mistakes.png":  # the run may have none
            open_png(content)


def test_plot_of_a_run_and_a_bare_model(
    edge_mnist: Command, run_folder: Path, exports: Path, tmp_path: Path
) -> None:
    shutil.copy(exports / INT8_NAME, tmp_path)  # without its checkpoint
    done = edge_mnist("plot", run_folder, INT8_NAME, "-o", "out", "--json", "--offline")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["schema_version"] == 1
    made = {str(path.relative_to(tmp_path)) for path in (tmp_path / "out").rglob("*.png")}
    assert made == {*report["paths"]}
    of_run = {path.name for path in (tmp_path / "out" / run_folder.name).iterdir()}
    assert of_run == TEST_PICTURES | {"curves.png", "filters.png"}
    of_model = {path.name for path in (tmp_path / "out" / "model.int8").iterdir()}
    assert of_model == TEST_PICTURES


def test_plot_says_what_is_missing(edge_mnist: Command, exports: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "text.onnx").write_text("no model")
    wrong = [["nothing.onnx"], ["empty"], ["text.onnx"], [exports, "-o", "file"]]
    for args in wrong:
        done = edge_mnist("plot", *args)
        assert done.returncode == 3, args
        assert len(done.stderr.splitlines()) == 1
        assert done.stdout == ""
    assert not (tmp_path / "plots").exists()
    done = edge_mnist("plot", env={"EDGE_MNIST_DATA": str(tmp_path / "empty")})
    assert done.returncode == 3  # the shipped model is of MNIST
    assert "MNIST" in done.stderr


def test_a_model_of_other_classes_is_an_error(
    exports: Path, digits: Dataset, tmp_path: Path
) -> None:
    other = dataclasses.replace(digits, class_names=tuple("abcdefghij"))
    with pytest.raises(ModelError, match="classes"):
        plot_tests([exports / FLOAT32_NAME], other, folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_validate_draws_what_it_validates(
    edge_mnist: Command, exports: Path, tmp_path: Path
) -> None:
    lenient = ("--max-accuracy-lost", str(LIMITS.accuracy_lost))
    done = edge_mnist("validate", exports, *lenient, "--plots", "out", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["passed"]
    for name in ("model", "model.int8"):
        assert {path.name for path in (tmp_path / "out" / name).iterdir()} == TEST_PICTURES
    done = edge_mnist("validate", exports / FLOAT32_NAME, *lenient, "--plots", "one")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "one").iterdir()} == TEST_PICTURES
    done = edge_mnist("validate", exports, "--self-test", "--plots", "none")
    assert done.returncode == 2
    assert not (tmp_path / "none").exists()
