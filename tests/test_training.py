import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command
from safetensors.torch import save_file

from edge_mnist.errors import (
    MissingPackageError,
    ModelError,
    ProviderError,
    TrainingError,
    UsageError,
)
from edge_mnist.model_file import CHECKPOINT_NAME
from edge_mnist.training import trainer
from edge_mnist.training.augmentation import (
    PHOTOMETRIC_TRANSFORMS,
    augment_geometric,
    augment_photometric,
)
from edge_mnist.training.checkpoint import load_checkpoint, load_network, save_checkpoint
from edge_mnist.training.datasets import Dataset, split_stratified
from edge_mnist.training.networks import compute_logits
from edge_mnist.training.outliers import draw_outliers
from edge_mnist.training.recipes import RECIPES, find_recipe, parse_changes, parse_recipe
from edge_mnist.training.run import plan_run, remove_unused_run, train
from edge_mnist.training.trainer import pick_device, scale_rate

SHORT = find_recipe(dataset="digits", epochs=4)


def weights_of(folder: Path) -> str:
    return load_checkpoint(folder / CHECKPOINT_NAME).weights_sha256


def test_a_short_training_learns(run_folder: Path, digits: Dataset) -> None:
    result = json.loads((run_folder / "result.json").read_text())
    assert result["test_accuracy"] > 0.9
    network = load_network(load_checkpoint(run_folder / CHECKPOINT_NAME))
    predicted = compute_logits(network, digits.test_images).argmax(axis=1)
    assert (predicted == digits.test_labels).mean() == result["test_accuracy"]


def test_a_run_folder_holds_everything(run_folder: Path) -> None:
    names = {path.name for path in run_folder.iterdir()}
    assert names == {
        CHECKPOINT_NAME,
        ".lock",
        "environment.json",
        "history.jsonl",
        "recipe.json",
        "result.json",
    }
    lines = (run_folder / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, 9))
    recipe = parse_recipe((run_folder / "recipe.json").read_text())
    assert recipe == find_recipe(dataset="digits", epochs=8)


def test_mnist_in_one_epoch(mnist: Dataset, tmp_path: Path) -> None:
    result = train(find_recipe("fast", epochs=1), mnist, out=tmp_path)
    assert result.test_accuracy > 0.97


def test_equal_recipes_give_equal_weights(digits: Dataset, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        recipe = dataclasses.replace(SHORT, epochs=1, seed=seed)
        train(recipe, digits, out=tmp_path / name)
    assert weights_of(tmp_path / "a") == weights_of(tmp_path / "b") != weights_of(tmp_path / "c")


def test_resume_after_kill_ends_with_the_same_weights(
    digits: Dataset, tmp_path: Path, edge_mnist: Command
) -> None:
    train(SHORT, digits, out=tmp_path / "whole")
    threads = str(torch.get_num_threads())
    args = ("--dataset", "digits", "--epochs", "4", "--out", "killed", "--threads", threads)
    command = [sys.executable, "-m", "edge_mnist", "train", *args]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "killed" / CHECKPOINT_NAME
    while not (checkpoint.exists() and load_checkpoint(checkpoint).epoch >= 2):
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert load_checkpoint(checkpoint).epoch < 4
    done = edge_mnist("train", "--resume", "--out", "killed")
    assert done.returncode == 0, done.stderr
    assert weights_of(tmp_path / "killed") == weights_of(tmp_path / "whole")
    history = (tmp_path / "killed" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in history] == [1, 2, 3, 4]


def test_resume_of_a_run_killed_in_its_first_epoch(digits: Dataset, tmp_path: Path) -> None:
    train(SHORT, digits, out=tmp_path / "whole")
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "recipe.json").write_text(SHORT.to_json())
    recipe, folder = plan_run(None, {}, folder=tmp_path / "early", resume=True)
    train(recipe, digits, out=folder, resume=True)
    assert weights_of(tmp_path / "early") == weights_of(tmp_path / "whole")


def test_resume_refuses_what_it_cannot_continue_with(run_folder: Path, digits: Dataset) -> None:
    with pytest.raises(UsageError, match="seed 0; it cannot continue with 5"):
        plan_run(None, {"seed": 5}, folder=run_folder, resume=True)
    recipe, folder = plan_run(None, {}, folder=run_folder, resume=True)
    with pytest.raises(UsageError, match="seed 0; it cannot continue with 1"):
        plan_run(None, {"seed": 1}, folder=run_folder, resume=True)
    with pytest.raises(UsageError, match="finished"):
        train(recipe, digits, out=folder, resume=True)
    with pytest.raises(UsageError, match="--resume"):
        plan_run(None, {}, folder=run_folder, resume=False)


def test_resume_without_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="no unfinished run"):
        plan_run(None, {}, folder=None, resume=True)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        trainer, "scale_rate", lambda recipe, *, epoch, done: done if done < 0.6 else 1e38
    )
    with pytest.raises(TrainingError, match="not finite in epoch 3"):
        train(SHORT, digits, out=tmp_path)
    checkpoint = load_checkpoint(tmp_path / CHECKPOINT_NAME)
    assert checkpoint.epoch == 2
    assert all(torch.isfinite(weight).all() for weight in checkpoint.weights.values())


def test_temperature_improves_the_loss(run_folder: Path, digits: Dataset) -> None:
    checkpoint = load_checkpoint(run_folder / CHECKPOINT_NAME)
    _, rows = split_stratified(digits.train_labels, share=checkpoint.recipe.validation_share)
    labels = torch.from_numpy(digits.train_labels[rows])
    network, temperature = load_network(checkpoint), checkpoint.calibration.temperature
    logits = [
        torch.from_numpy(compute_logits(network, digits.train_images[rows], temperature=one))
        for one in (1.0, temperature)
    ]
    losses = [float(torch.nn.functional.cross_entropy(one, labels)) for one in logits]
    assert losses[1] < losses[0]
    torch.testing.assert_close(logits[0], logits[1] * temperature)


def test_learning_rate_rises_and_falls() -> None:
    recipe = RECIPES["default"]
    rates = [
        recipe.learning_rate * scale_rate(recipe, epoch=0, done=done)
        for done in np.linspace(0, 1, 101)
    ]
    assert max(rates) == pytest.approx(recipe.learning_rate)
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0, abs=1e-9)
    assert rates.index(max(rates)) == round(100 * recipe.warmup_share)


def test_geometric_augmentation_keeps_the_range_and_differs_by_image(
    digits: Dataset,
) -> None:
    pixels = torch.from_numpy(digits.train_images[:1]).repeat(8, 1, 1)[:, None].float() / 255
    warped = augment_geometric(pixels, RECIPES["default"], torch.Generator().manual_seed(0))
    assert warped.shape == pixels.shape
    assert warped.min() >= 0
    assert warped.max() <= 1
    assert len({one.numpy().tobytes() for one in warped}) == 8
    still = dataclasses.replace(
        RECIPES["default"],
        rotation_deg=0,
        shear_deg=0,
        scale_share=0,
        shift_px=0,
        elastic_px=0,
        stroke_share=0,
        wide_share=0,
    )
    same = augment_geometric(pixels, still, torch.Generator().manual_seed(0))
    torch.testing.assert_close(same, pixels, atol=1e-4, rtol=0)


def test_recipes_refuse_unknown_keys() -> None:
    assert parse_recipe(SHORT.to_json()) == SHORT
    assert parse_recipe(SHORT.to_short_json()) == SHORT
    assert len(SHORT.to_short_json()) < len(SHORT.to_json()) / 3
    text = json.dumps(json.loads(SHORT.to_json()) | {"surprise": 1})
    with pytest.raises(ModelError, match="surprise"):
        parse_recipe(text)
    with pytest.raises(UsageError, match="no recipe named 'nonsense'"):
        find_recipe("nonsense")


def test_checkpoints_that_cannot_be_used(
    run_folder: Path, tmp_path: Path, edge_mnist: Command
) -> None:
    text = tmp_path / "text.safetensors"
    text.write_text("not a checkpoint")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, foreign)
    checkpoint = load_checkpoint(run_folder / CHECKPOINT_NAME)
    other = tmp_path / "other.safetensors"
    weights = {name: value for name, value in checkpoint.weights.items() if "0.weight" not in name}
    save_checkpoint(other, dataclasses.replace(checkpoint, weights=weights))
    for path, words in (
        (text, "cannot read"),
        (foreign, "not a checkpoint of edge-mnist"),
        (other, "do not fit"),
        (tmp_path / "missing", "no checkpoint"),
    ):
        done = edge_mnist("export", path, "-o", "out", env={"EDGE_MNIST_DATA": ""})
        assert done.returncode == 3
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not list(tmp_path.glob("out/*"))


def test_cuda_where_there_is_none() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ProviderError, match="--device cuda"):
        pick_device("cuda")
    assert pick_device("auto").type == "cpu"


@pytest.mark.gpu
def test_training_on_the_gpu(digits: Dataset, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    result = train(SHORT, digits, out=tmp_path, device="cuda").result
    assert math.isfinite(result.validation_accuracy)
    assert result.test_accuracy > 0.8


def test_two_trainings_at_once_get_folders_of_their_own(
    tmp_path: Path, edge_mnist: Command
) -> None:
    command = [sys.executable, "-m", "edge_mnist", "train", "--dataset", "digits", "--epochs", "1"]
    both = [
        subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, env=dict(os.environ))
        for _ in range(2)
    ]
    assert [process.wait() for process in both] == [0, 0]
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"digits", "digits-2"}


def test_outliers_are_framed_like_digits_and_the_same_every_time(digits: Dataset) -> None:
    drawn = draw_outliers(digits.train_images, 60, seed=3)
    assert drawn.shape == (60, 28, 28)
    assert drawn.dtype == np.uint8
    assert (drawn == draw_outliers(digits.train_images, 60, seed=3)).all()
    assert (drawn != draw_outliers(digits.train_images, 60, seed=4)).any()
    assert (
        drawn.max(axis=(1, 2)) > 100
    ).mean() > 0.8  # some letters have no glyph, some noise no dot


def test_outliers_without_matplotlib_are_an_error_that_says_so(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match="edge-mnist\\[train\\]"):
        draw_outliers(digits.train_images, 1, seed=0)


def test_a_training_with_outliers_is_unsure_of_them(digits: Dataset, tmp_path: Path) -> None:
    confidences = {}
    for share in (0.0, 0.3):
        recipe = dataclasses.replace(SHORT, outlier_share=share)
        train(recipe, digits, out=tmp_path / str(share))
        network = load_network(load_checkpoint(tmp_path / str(share) / CHECKPOINT_NAME))
        outliers = draw_outliers(digits.train_images, 200, seed=99)
        logits = torch.from_numpy(compute_logits(network, outliers))
        confidences[share] = float(logits.softmax(dim=1).amax(dim=1).mean())
    assert confidences[0.3] < confidences[0.0] - 0.1


def test_photometric_augmentation_changes_its_share_and_keeps_the_range(digits: Dataset) -> None:
    pixels = torch.tensor(digits.train_images[:200]).unsqueeze(1).float() / 255
    changed = augment_photometric(pixels, 0.4, torch.Generator().manual_seed(0))
    assert changed.min() >= 0
    assert changed.max() <= 1
    differs = (changed != pixels).flatten(1).any(dim=1).float().mean()
    assert 0.3 < differs <= 0.4  # a line may miss an image
    again = augment_photometric(pixels, 0.4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(changed, again, rtol=0, atol=0)


@pytest.mark.parametrize(
    "transform", PHOTOMETRIC_TRANSFORMS, ids=lambda transform: transform.__name__
)
def test_every_photometric_transform_changes_most_images(
    transform: object, digits: Dataset
) -> None:
    pixels = torch.tensor(digits.train_images[:60]).unsqueeze(1).float() / 255
    changed = transform(pixels, torch.Generator().manual_seed(0))  # type: ignore[operator]
    assert changed.shape == pixels.shape
    assert (changed != pixels).flatten(1).any(dim=1).float().mean() > 0.8


def test_wide_warps_move_images_further(digits: Dataset) -> None:
    pixels = torch.tensor(digits.train_images[:100]).unsqueeze(1).float() / 255
    narrow = dataclasses.replace(SHORT, stroke_share=0, shift_px=0.1)
    generator = torch.Generator()
    moved = [
        (augment_geometric(pixels, recipe, generator.manual_seed(0)) - pixels).abs().mean()
        for recipe in (narrow, dataclasses.replace(narrow, wide_share=1.0))
    ]
    assert moved[1] > 1.3 * moved[0]


def test_a_student_learns_what_its_teacher_says(
    digits: Dataset, exports: Path, tmp_path: Path
) -> None:
    # The teacher's word alone, and wrong labels: whatever is learned comes from the teacher.
    rng = np.random.default_rng(0)
    nonsense = dataclasses.replace(digits, train_labels=rng.permutation(digits.train_labels))
    recipe = dataclasses.replace(
        SHORT, epochs=8, teacher=str(exports / "model.onnx"), teacher_share=1.0
    )
    result = train(recipe, nonsense, out=tmp_path)
    assert result.test_accuracy > 0.85


def test_a_missing_teacher_is_named(digits: Dataset, tmp_path: Path) -> None:
    recipe = dataclasses.replace(SHORT, teacher="nobody.onnx")
    with pytest.raises(ModelError, match=r"nobody\.onnx.*--teacher none"):
        train(recipe, digits, out=tmp_path)


def test_any_number_of_a_recipe_can_be_set() -> None:
    texts = ["learning_rate=0.01", "epochs=3", "network=nano", "bfloat16=true"]
    changes = parse_changes(texts)
    assert changes == {"learning_rate": 0.01, "epochs": 3, "network": "nano", "bfloat16": True}
    assert find_recipe("fast", **changes).learning_rate == 0.01
    for wrong in ("speed=3", "epochs=many", "bfloat16=1", "name=other", "epochs"):
        with pytest.raises(UsageError, match=f"--set {wrong}"):
            parse_changes([wrong])


def test_numbers_out_of_range_are_refused() -> None:
    for changes in ({"epochs": 0}, {"seed": -1}, {"batch_size": 0}, {"tone_share": 1.5}):
        with pytest.raises(UsageError, match=": expected "):
            find_recipe("fast", **changes)  # type: ignore[arg-type]


def test_values_of_another_type_are_refused(digits: Dataset, tmp_path: Path) -> None:
    """A recipe stands in JSON beside the weights, so it holds Python's own numbers."""
    wrong: tuple[dict[str, Any], ...] = (
        {"epochs": "3"},
        {"epochs": 2.0},
        {"epochs": True},
        {"learning_rate": "fast"},
        {"shift_px": float("nan")},
        {"augment": 1},
        {"network": 3},
    )
    for changes in wrong:
        (key,) = changes
        with pytest.raises(UsageError, match=f"^{key}: expected "):
            find_recipe("fast", **changes)
        with pytest.raises(UsageError, match=f"^{key}: expected "):
            train(dataclasses.replace(SHORT, **changes), digits)
    with pytest.raises(UsageError, match="no 'speed'"):
        find_recipe("fast", speed=3)
    for name in (3, ["fast"], ""):
        with pytest.raises(UsageError, match="no recipe named"):
            find_recipe(name)  # type: ignore[arg-type]
    recipe = find_recipe("fast", epochs=np.int64(3), learning_rate=np.float32(0.5))  # type: ignore[arg-type]
    assert json.loads(recipe.to_json())["learning_rate"] == 0.5
    assert type(recipe.epochs) is int


def test_a_run_folder_in_which_nothing_began_goes_away(tmp_path: Path) -> None:
    for name in ("empty", "locked", "begun"):
        (tmp_path / name).mkdir()
    (tmp_path / "locked" / ".lock").write_bytes(b"")
    (tmp_path / "begun" / "recipe.json").write_bytes(b"")
    for folder in tmp_path.iterdir():
        remove_unused_run(folder)
    assert [folder.name for folder in tmp_path.iterdir()] == ["begun"]


def test_set_on_the_command_line(edge_mnist: Command, tmp_path: Path) -> None:
    command = ("train", "--dataset", "digits", "--epochs", 1, "--out", "run", "-q")
    assert edge_mnist(*command, "--set", "learning_rat=1").returncode == 2
    done = edge_mnist(*command, "--set", "network=nano", "--set", "tone_share=0")
    assert done.returncode == 0, done.stderr
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert (recipe["network"], recipe["tone_share"], recipe["epochs"]) == ("nano", 0.0, 1)


def test_recipe_names_are_theirs() -> None:
    assert all(name == recipe.name for name, recipe in RECIPES.items())
    assert {"default", "nano", "max", "fast"} <= set(RECIPES)


def test_a_run_killed_before_its_result_was_written_gets_it(
    digits: Dataset, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(SHORT, epochs=1)
    train(recipe, digits, out=tmp_path)
    result = (tmp_path / "result.json").read_text()
    (tmp_path / "result.json").unlink()
    plan, folder = plan_run(None, {}, folder=tmp_path, resume=True)
    train(plan, digits, out=folder, resume=True)
    assert (tmp_path / "result.json").read_text() == result
