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
    confusion_matrix,
    find_most_confused,
    plot_confusion,
    plot_curves,
    plot_folds,
    plot_reliability,
    summarize_folds,
    wilson_interval,
)
from edge_mnist.plots.images import (
    CHARACTER_WIDTH,
    MAX_GRID_WIDTH,
    Caption,
    arrange,
    find_mistakes,
    plot_filters,
    plot_mistakes,
    plot_predictions,
    plot_samples,
    split_filters,
    tile_filters,
)
from edge_mnist.plots.plot import (
    choose_folders,
    draw_test_pictures,
    find_source,
    pick_samples,
    plot_cross_validation,
    plot_run,
    plot_tests,
)
from edge_mnist.plots.style import ELLIPSIS, VERMILION, shorten
from edge_mnist.training.checkpoint import load_checkpoint, load_network, save_checkpoint
from edge_mnist.training.datasets import Dataset
from edge_mnist.training.networks import first_weights
from edge_mnist.training.run import read_history
from edge_mnist.validation.validate import measure_calibration

TEST_PICTURES = {"samples.png", "predictions.png", "confusion.png", "mistakes.png"}
TEST_PICTURES |= {"reliability.png"}
# A formula, a line break, a character that the font does not have, a long name, a wide one.
ODD_NAMES = ["$x$ and $", "two\nlines", "\u732b", "pedestrian_crossing_sign_right", "W" * 30]


def open_png(content: bytes) -> NDArray[np.uint8]:
    """Return the pixels of a PNG file, after checking that something is drawn on it."""
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    height, width, _ = pixels.shape
    assert 200 <= height <= 6000
    assert 500 <= width <= 3000
    assert (pixels < 128).any()  # something dark on a light background
    assert (pixels > 200).all(axis=2).mean() > 0.3
    return pixels


def count_pixels(pixels: NDArray[np.uint8], color: str) -> int:
    rgb = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    return int((pixels == rgb).all(axis=2).sum())


def make_predictions(
    n_images: int, n_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return labels and probabilities, most of them correct."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, n_classes, n_images)
    labels[:n_classes] = np.arange(n_classes)
    scores = generator.normal(0, 1, (n_images, n_classes))
    scores[np.arange(n_images), labels] += 3
    powers = np.exp(scores)
    return labels, (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def test_names_are_shortened_in_the_middle() -> None:
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


def test_folds(tmp_path: Path) -> None:
    mean, deviation = summarize_folds([0.98, 0.99, 1.0])
    assert mean == pytest.approx(0.99)
    assert deviation == pytest.approx(0.01)
    assert summarize_folds([0.9]) == (0.9, 0.0)
    for accuracies in ([0.9], [0.98, 0.99, 1.0], [1.0] * 10):
        assert count_pixels(open_png(plot_folds(accuracies)), VERMILION) > 50
    plots = plot_cross_validation(tmp_path, [0.98, 0.99])
    assert plots.paths == (str(tmp_path / "folds.png"),)
    open_png((tmp_path / "folds.png").read_bytes())


def test_confusions_are_counted() -> None:
    labels, predicted = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 0, 0, 2])
    counts = confusion_matrix(labels, predicted, 4)
    assert counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [2, 0, 1, 0], [0, 0, 0, 0]]
    assert find_most_confused(counts).tolist() == [0, 1, 2, 3]


def test_of_many_classes_the_most_confused_pairs_are_drawn() -> None:
    counts = np.diag(np.full(40, 100))
    counts[30, 7] = 5
    counts[12, 39] = 2
    shown = find_most_confused(counts).tolist()
    assert {7, 12, 30, 39} <= {*shown}
    assert len(shown) == 20
    assert shown == sorted(shown)
    assert len(find_most_confused(np.diag(np.full(40, 3)))) == 20


def test_confusion_matrix_colours_mistakes_only() -> None:
    labels = np.arange(1000) % 10
    right = open_png(plot_confusion(labels, labels, list("0123456789")))
    wrong = open_png(plot_confusion(labels, labels[::-1].copy(), list("0123456789")))
    for pixels, coloured in ((right, False), (wrong, True)):
        saturation = pixels.max(axis=2).astype(int) - pixels.min(axis=2)
        assert (saturation > 60).any() == coloured


@pytest.mark.parametrize("n_classes", [2, 10, 30, 40, 1000])
def test_any_number_of_classes_can_be_drawn(digits: Dataset, n_classes: int) -> None:
    labels, probabilities = make_predictions(1200, n_classes)
    images = np.resize(digits.test_images, (1200, 28, 28))
    names = [f"{ODD_NAMES[label % 5]} {label}" for label in range(n_classes)]
    pictures = draw_test_pictures(images, labels, probabilities, names)
    assert set(pictures) == TEST_PICTURES
    for content in pictures.values():
        open_png(content)


def test_samples_show_every_class_in_turn() -> None:
    labels = np.repeat([0, 1, 2], [50, 3, 2])
    assert labels[pick_samples(labels, 9)].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 0]
    assert sorted(pick_samples(labels, 99).tolist()) == list(range(55))
    many = np.repeat(np.arange(1000), 2)
    picked = many[pick_samples(many, 60)]
    assert len({*picked.tolist()}) == 60
    assert picked.max() > 900


def test_only_wrong_predictions_are_framed(digits: Dataset) -> None:
    images, predicted_labels = digits.test_images[:7], np.arange(7)
    probabilities = np.eye(7, dtype=np.float32) * 0.9
    one_wrong = np.where(predicted_labels == 6, 0, predicted_labels)
    n_framed = []
    for labels in (predicted_labels, one_wrong, np.roll(predicted_labels, 1)):
        pixels = open_png(plot_predictions(images, labels, probabilities, "abcdefg"))
        n_framed.append(count_pixels(pixels, VERMILION))
    assert 0 == n_framed[0] < n_framed[1] < n_framed[2]
    names = [*ODD_NAMES, "a", "b"]
    open_png(plot_predictions(images, one_wrong, probabilities, names))
    assert plot_samples(images[:0], []).startswith(b"\x89PNG")
    open_png(plot_samples(np.resize(digits.test_images, (1000, 28, 28)), ["a"] * 1000))


def test_captions_do_not_overlap() -> None:
    for length in (1, 9, 17, 24):
        layout = arrange(60, [Caption(("x" * length, ""))])
        assert length * CHARACTER_WIDTH < layout.cell_width
        assert layout.columns * layout.cell_width <= MAX_GRID_WIDTH
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


def test_confidence_interval_of_a_proportion() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    low, high = wilson_interval(5, 5)
    assert 0.5 < low < 0.6
    assert high == 1.0


def test_filters() -> None:
    weights = np.arange(2 * 3 * 2 * 2, dtype=np.float32).reshape(2, 3, 2, 2)
    filters = split_filters(weights)
    assert filters.shape == (6, 2, 2)
    mosaic = tile_filters(filters)
    assert mosaic.shape == (5, 11)
    assert mosaic[:2, 3:5].tolist() == filters[1].tolist()
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


def test_plot_of_a_finished_training(run_folder: Path, digits: Dataset, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(run_folder / CHECKPOINT_NAME)
    shutil.copy(run_folder / CHECKPOINT_NAME, tmp_path)
    shutil.copy(run_folder / "history.jsonl", tmp_path)

    def draw() -> dict[str, bytes]:
        plots = plot_run(tmp_path, digits, folder=tmp_path / "out")
        return {Path(path).name: Path(path).read_bytes() for path in plots.paths}

    drawn = draw()
    assert set(drawn) == TEST_PICTURES | {"curves.png", "filters.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(drawn)
    (tmp_path / "history.jsonl").unlink()
    recipe = dataclasses.replace(checkpoint.recipe, augment=False)
    save_checkpoint(tmp_path / CHECKPOINT_NAME, dataclasses.replace(checkpoint, recipe=recipe))
    plain = draw()
    assert set(plain) == set(drawn) - {"curves.png"}
    different = {name for name in plain if plain[name] != drawn[name]}
    assert different == {"samples.png"}  # which shows images as augmented


def test_the_train_command_draws_into_the_run_folder(edge_mnist: Command, tmp_path: Path) -> None:
    done = edge_mnist("train", "--dataset", "digits", "--epochs", 1, "-q")
    assert done.returncode == 0, done.stderr
    of_run = TEST_PICTURES | {"curves.png", "filters.png"}
    assert {path.name for path in (tmp_path / "runs" / "digits").glob("*.png")} == of_run
    done = edge_mnist("train", "--dataset", "digits", "--epochs", 1, "-q", "--folds", 2)
    assert done.returncode == 0, done.stderr
    folds = tmp_path / "runs" / "digits-2"
    assert [path.name for path in folds.glob("*.png")] == ["folds.png"]
    for number in (1, 2):
        assert {path.name for path in (folds / f"fold-{number}").glob("*.png")} == of_run


def test_plots_of_several_paths_get_folders_of_their_own(tmp_path: Path) -> None:
    def folders(*names: str) -> list[str]:
        chosen = choose_folders([tmp_path / name for name in names], Path("out"))
        return [str(folder.relative_to("out")) for folder in chosen]

    assert folders("a/model.onnx") == ["."]
    assert folders("a/model.onnx", "a/model.int8.onnx") == ["model", "model.int8"]
    assert folders("a/model.onnx", "b/model.onnx", "b/v1.2") == ["a-model", "b-model", "b-v1.2"]
    assert len({*folders("a-b/c", "a/b-c", "c")}) == 3


def test_a_damaged_history_is_an_error(run_folder: Path, tmp_path: Path) -> None:
    assert read_history(tmp_path) == []
    for text in ("not json\n", '{"epoch": 1}\n', "[1]\n"):
        (tmp_path / "history.jsonl").write_text(text)
        with pytest.raises(ModelError, match="history"):
            read_history(tmp_path)


def test_find_source(run_folder: Path, exports: Path, tmp_path: Path) -> None:
    assert find_source(run_folder) == run_folder
    assert find_source(run_folder / CHECKPOINT_NAME) == run_folder
    assert find_source(exports) == exports / FLOAT32_NAME
    assert find_source(exports / INT8_NAME) == exports / INT8_NAME
    for missing in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ModelError):
            find_source(missing)


def test_plot_of_an_exports_folder(edge_mnist: Command, exports: Path, tmp_path: Path) -> None:
    done = edge_mnist("plot", exports)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert {path.name for path in paths} == TEST_PICTURES | {"filters.png"}
    assert {path.parent for path in paths} == {Path("plots")}
    for path in paths:
        content = (tmp_path / path).read_bytes()
        if path.name != "mistakes.png":  # a model may make none
            open_png(content)


def test_plot_of_a_run_and_a_model_without_a_checkpoint(
    edge_mnist: Command, run_folder: Path, exports: Path, tmp_path: Path
) -> None:
    shutil.copy(exports / INT8_NAME, tmp_path)
    done = edge_mnist("plot", run_folder, INT8_NAME, "-o", "out", "--json", "--offline")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["schema_version"] == 1
    written = {str(path.relative_to(tmp_path)) for path in (tmp_path / "out").rglob("*.png")}
    assert written == {*report["paths"]}
    run_names = {path.name for path in (tmp_path / "out" / run_folder.name).iterdir()}
    assert run_names == TEST_PICTURES | {"curves.png", "filters.png"}
    model_names = {path.name for path in (tmp_path / "out" / "model.int8").iterdir()}
    assert model_names == TEST_PICTURES


def test_plot_of_a_missing_file_is_an_error(
    edge_mnist: Command, exports: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "text.onnx").write_text("no model")
    calls = [["nothing.onnx"], ["empty"], ["text.onnx"], [exports, "-o", "file"]]
    for args in calls:
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


def test_validate_plots(edge_mnist: Command, exports: Path, tmp_path: Path) -> None:
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
