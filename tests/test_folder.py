"""A data set of one's own: four invented signs."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from PIL import Image, ImageDraw

from edge_mnist.errors import DataError, ModelError
from edge_mnist.training.data import load_dataset
from edge_mnist.training.folder import load_folder
from edge_mnist.training.recipes import find_recipe
from edge_mnist.training.run import train

SIGNS = ("arrow", "cup", "gate", "wave")


def draw_sign(name: str, rng: np.random.Generator) -> Image.Image:
    """Draw a sign as a person might, each time a little differently, on a sheet of any size."""
    side = int(rng.integers(60, 200))
    lines = {
        "arrow": [[(1, 5), (9, 5)], [(6, 2), (9, 5), (6, 8)]],
        "cup": [[(2, 2), (2, 8), (8, 8), (8, 2)]],
        "gate": [[(2, 9), (2, 1), (8, 1), (8, 9)], [(2, 5), (8, 5)]],
        "wave": [[(1, 6), (3, 3), (5, 6), (7, 3), (9, 6)]],
    }[name]
    sheet = Image.new("L", (side, side), 255)
    for line in lines:
        points = [tuple((np.array(point) + rng.normal(0, 0.3, 2)) * side / 10) for point in line]
        ImageDraw.Draw(sheet).line(points, fill=int(rng.integers(0, 90)), width=side // 14)
    return sheet


@pytest.fixture(scope="module")
def signs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("data") / "signs", np.random.default_rng(0)
    for name in SIGNS:
        (folder / name).mkdir(parents=True)
        for number in range(60):
            draw_sign(name, rng).save(folder / name / f"{number}.png")
    (folder / "cup" / "broken.png").write_bytes(b"no picture")
    Image.new("L", (50, 50), 255).save(folder / "wave" / "empty.png")
    return folder


def test_pictures_and_what_is_skipped(signs: Path) -> None:
    dataset = load_folder(signs)
    assert dataset.class_names == SIGNS
    assert dataset.train_images.shape == (192, 28, 28)
    assert np.bincount(dataset.test_labels).tolist() == [12] * 4
    assert [Path(line.split(":")[0]).name for line in dataset.skipped] == [
        "broken.png",
        "empty.png",
    ]
    assert load_dataset(str(signs)).sha256 == dataset.sha256


def test_folders_that_are_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 folders"):
        load_folder(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="0 readable pictures"):
        load_folder(tmp_path)


def test_a_folder_may_be_named_like_a_data_set(
    signs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kmnist").symlink_to(signs)
    monkeypatch.chdir(tmp_path)
    dataset = load_dataset("./kmnist")
    assert dataset.name == "./kmnist"  # what a model keeps, and loads its data by again
    assert dataset.class_names == SIGNS


def test_a_teacher_of_other_classes_is_refused(signs: Path, tmp_path: Path) -> None:
    recipe = find_recipe("default", dataset=str(signs), teacher="max/model.int8.onnx")
    with pytest.raises(ModelError, match="has other classes"):
        train(recipe, load_folder(signs), out=tmp_path)


def test_own_signs_all_the_way(edge_mnist: Command, signs: Path, tmp_path: Path) -> None:
    done = edge_mnist("train", "--dataset", signs, "--epochs", 25, "--out", "run")
    assert done.returncode == 0, done.stderr
    assert "broken.png" in done.stderr
    assert "2 pictures skipped" in done.stderr
    done = edge_mnist("export", "run", "--quantize", "--max-accuracy-lost", "0.1")
    assert done.returncode == 0, done.stderr
    assert edge_mnist("validate", "exports", "--max-accuracy-lost", "0.1").returncode == 0
    rng, paths = np.random.default_rng(99), []
    for name in SIGNS * 5:
        paths.append(tmp_path / f"new-{len(paths)}.png")
        draw_sign(name, rng).save(paths[-1])
    done = edge_mnist("predict", *paths, "--json", "--accept-all")
    answers = [item["name"] for item in json.loads(done.stdout)["items"]]
    right = sum(answer == name for answer, name in zip(answers, SIGNS * 5, strict=True))
    assert right >= 18
