import json
import math
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Command
from PIL import Image

import edge_mnist
from edge_mnist.errors import ModelError, ProviderError, UsageError
from edge_mnist.exporting.golden import draw_digit
from edge_mnist.model_file import FLOAT32_NAME, INT8_NAME, find_model, hash_graph, shipped_folder
from edge_mnist.predictor import READ_AHEAD, Predictor
from edge_mnist.session import run_bound
from edge_mnist.training.datasets import Dataset
from edge_mnist.validation.benchmark import bench
from edge_mnist.validation.validate import validate

SHIPPED = shipped_folder() / "default"


def change(source: Path, target: Path, **what: object) -> Path:
    """Copy a model and break its contract."""
    model = onnx.load(source)
    for entry in model.metadata_props:
        if entry.key in what:
            entry.value = str(what[entry.key])
    if "output" in what:
        model.graph.output.pop()
    if "outside" in what:
        tensor = model.graph.initializer[0]
        onnx.external_data_helper.set_external_data(tensor, "weights.data")
    if "batch" in what:
        dim = model.graph.input[0].type.tensor_type.shape.dim[0]
        dim.Clear()
        dim.dim_value = 1
    target.write_bytes(model.SerializeToString())
    return target


def test_public_names() -> None:
    assert edge_mnist.Predictor is Predictor
    assert edge_mnist.__version__
    assert set(edge_mnist.__all__) <= {*dir(edge_mnist), "Predictor", "Prediction", "__version__"}


def test_the_shipped_model_reads_drawings(
    drawings: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    predictor = Predictor()
    assert predictor.model.path == SHIPPED / FLOAT32_NAME
    predictions = [predictor.predict(path) for path in drawings]
    assert [prediction.digit for prediction in predictions] == list(range(10))
    first = predictions[0]
    assert first.provider in ("cpu", "cuda")
    assert first.confidence == max(first.probabilities)
    assert sum(first.probabilities) == pytest.approx(1, abs=1e-5)


def test_single_and_batch_agree(exports: Path, digits: Dataset) -> None:
    predictor = Predictor(exports)
    images = digits.test_images[:50]
    labels, probabilities = predictor.predict_images(images)
    assert labels.shape == (50,)
    assert labels.dtype == np.int64
    assert probabilities.shape == (50, 10)
    assert probabilities.dtype == np.float32
    for image, label, row in zip(images, labels, probabilities, strict=True):
        prediction = predictor.predict(image)
        assert prediction.digit == label
        np.testing.assert_allclose(prediction.probabilities, row, atol=1e-5)
    nothing = predictor.predict_images(images[:0])
    assert nothing[0].shape == (0,)
    assert nothing[1].shape == (0, 10)


def test_many_pictures_in_order_with_bad_ones(drawings: list[Path]) -> None:
    sources = [*drawings, b"no picture", *reversed(drawings), Path("missing.png")] * 8
    with Predictor(SHIPPED) as predictor:
        answers = list(predictor.predict_many(iter(sources)))
    expected = [*range(10), None, *reversed(range(10)), None] * 8
    assert [answer.digit for answer in answers] == expected
    assert [answer.status for answer in answers][10] == "error"
    assert answers[10].error
    assert list(Predictor(SHIPPED).predict_many([])) == []


def test_many_pictures_are_read_lazily(drawings: list[Path]) -> None:
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield drawings[0]

    answers = Predictor(SHIPPED).predict_many(endless())
    for _ in range(3):
        assert next(answers).digit == 0
    assert taken <= 2 * READ_AHEAD
    answers.close()  # type: ignore[attr-defined]


def test_a_slow_source_gets_each_answer_before_its_next_picture(drawings: list[Path]) -> None:
    """As a camera does; its pictures are large enough for threads."""
    sheet = np.asarray(Image.open(drawings[3]).resize((500, 500)))
    answered: list[int] = []

    def camera() -> Iterator[np.ndarray]:
        for number in range(12):
            assert len(answered) == number
            time.sleep(0.3)
            yield sheet

    for number, answer in enumerate(Predictor(SHIPPED).predict_many(camera())):
        assert answer.digit == 3
        answered.append(number)
    assert len(answered) == 12


def test_the_first_answer_does_not_wait_for_a_second_picture(drawings: list[Path]) -> None:
    asked = 0

    def source() -> Iterator[Path]:
        nonlocal asked
        for path in drawings:
            asked += 1
            yield path

    answers = Predictor(SHIPPED).predict_many(source())
    assert next(answers).digit == 0
    assert asked == 1
    assert [answer.digit for answer in answers] == list(range(1, 10))


def test_predictions_are_compared_by_value(drawings: list[Path]) -> None:
    predictor = Predictor(SHIPPED)
    first, second = (predictor.predict(drawings[4]) for _ in range(2))
    assert first == second
    assert len({first, second, predictor.predict(drawings[5])}) == 2


def test_items_of_a_wrong_type_end_no_stream(drawings: list[Path]) -> None:
    items = [None, drawings[2], 5, {}, ["a.png"], drawings[3]]
    answers = list(Predictor(SHIPPED).predict_many(items))  # type: ignore[arg-type]
    assert [answer.digit for answer in answers] == [None, 2, None, None, None, 3]
    assert answers[0].error == "expected a picture, got NoneType"


def test_a_masked_array_is_read_as_an_array(drawings: list[Path]) -> None:
    pixels = np.asarray(Image.open(drawings[2]).convert("L"))
    masked = np.ma.masked_array(pixels, mask=np.zeros(pixels.shape, bool))
    answers = list(Predictor(SHIPPED).predict_many([masked, drawings[3]]))
    assert [answer.digit for answer in answers] == [2, 3]


def test_one_picture_is_not_several(drawings: list[Path]) -> None:
    """A path has characters, and the bytes of a file are numbers: neither are pictures."""
    predictor = Predictor(SHIPPED)
    content = drawings[2].read_bytes()
    singles = (str(drawings[2]), drawings[2], content, memoryview(content), BytesIO(content), 5)
    for single in (*singles, None, Image.new("L", (28, 28))):
        with pytest.raises(UsageError, match="expected several pictures, got one"):
            predictor.predict_batch(single)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="expected several pictures, got one"):
            list(predictor.predict_many(single))  # type: ignore[arg-type]


def test_several_pictures_may_come_one_by_one(drawings: list[Path]) -> None:
    answers = Predictor(SHIPPED).predict_batch(path for path in drawings)
    assert [answer.digit for answer in answers] == list(range(10))
    names = [str(digit) for digit in range(10)]
    assert len(answers[0].to_dict(names, top_k=3)["top"]) == 3
    for wrong in (0, "3", True):
        with pytest.raises(UsageError, match="top_k: expected an integer from 1"):
            answers[0].to_dict(names, top_k=wrong)  # type: ignore[arg-type]


def test_probabilities_that_are_no_numbers_are_no_answer(
    edge_mnist: Command, drawings: list[Path], digits: Dataset, tmp_path: Path
) -> None:
    """As of a network whose numbers overflow; neither does JSON have such numbers."""
    model = onnx.load(SHIPPED / FLOAT32_NAME)
    bias = next(one for one in model.graph.initializer if len(one.dims) == 1 and one.dims[0] > 9)
    values = onnx.numpy_helper.to_array(bias) + np.float32("nan")
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    about = {entry.key: entry.value for entry in model.metadata_props}
    about["graph_sha256"] = hash_graph(model.SerializeToString())
    onnx.helper.set_model_props(model, about)
    path = tmp_path / "nan.onnx"
    onnx.save(model, path)
    done = edge_mnist("predict", drawings[3], "-m", path, "--json")
    (item,) = json.loads(done.stdout, parse_constant=pytest.fail)["items"]
    assert (item["status"], item["confidence"]) == ("rejected", None)
    shutil.copy(SHIPPED / "reference.npz", tmp_path)
    (report,) = validate(path, digits, against="reference").models
    assert not report.passed
    assert report.accuracy is not None
    assert report.accuracy.rejected == 1
    assert math.isnan(report.accuracy.calibration_error)


def test_no_picture_at_all() -> None:
    predictor, none = Predictor(SHIPPED), np.empty((0, 28, 28), np.uint8)
    assert predictor.predict_inputs([]) == predictor.predict_batch([]) == []
    assert [len(part) for part in predictor.predict_images(none)] == [0, 0]
    with pytest.raises(UsageError, match="expected one image or more"):
        predictor.compute_outputs(none)


def test_a_name_that_no_file_can_have() -> None:
    for name in ("a" * 5000, "a\0b"):
        with pytest.raises(ModelError, match="no model file"):
            Predictor(name)


def test_a_model_may_come_as_bytes(drawings: list[Path]) -> None:
    content = (SHIPPED / INT8_NAME).read_bytes()
    for model in (content, memoryview(content)):
        assert Predictor(model).predict(drawings[6]).digit == 6  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="truncated"):
        Predictor(content[:1000])
    with pytest.raises(UsageError, match="expected a model's name, path or bytes"):
        Predictor(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [0, -1, 10_000_000, "3", True, 2.0, float("nan"), [1]])
def test_numbers_are_bounded_and_integers(number: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"^threads: expected an integer from 1 to 256"):
        Predictor(SHIPPED, threads=number)
    with pytest.raises(UsageError, match=r"^batch_sizes: expected an integer from 1 to 10,000"):
        bench(SHIPPED, batch_sizes=(1, number))
    with pytest.raises(UsageError, match=r"^batch_size: expected an integer from 1 to 1,000,000"):
        Predictor(SHIPPED).compute_logits(np.zeros((1, 28, 28), np.uint8), batch_size=number)
    monkeypatch.setenv("EDGE_MNIST_THREADS", "3.0" if number == "3" else str(number))
    with pytest.raises(UsageError, match=r"^EDGE_MNIST_THREADS: expected an integer from 1 to"):
        Predictor(SHIPPED)


def test_integers_of_numpy_are_integers(digits: Dataset) -> None:
    predictor = Predictor(SHIPPED, threads=np.int64(1))  # type: ignore[arg-type]
    logits = predictor.compute_logits(digits.test_images[:3], batch_size=np.uint8(2))  # type: ignore[arg-type]
    assert logits.shape == (3, 10)


def test_what_is_no_digit_is_rejected(tmp_path: Path) -> None:
    blank = np.full((100, 100), 255, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    two = Image.new("L", (330, 160), 255)
    for digit, left in ((3, 0), (8, 170)):
        two.paste(draw_digit(digit, np.random.default_rng(digit)), (left, 0))
    predictor = Predictor(SHIPPED)
    for picture in (blank, noise, two):
        answer = predictor.predict(picture)
        assert answer.status == "rejected"
        assert answer.reason
        assert answer.digit is None
    assert all(
        answer.status == "ok"
        for answer in Predictor(SHIPPED, accept_all=True).predict_many([blank, noise, two])
    )


def test_few_digits_are_rejected(mnist: Dataset) -> None:
    predictor = Predictor(SHIPPED)
    _, probabilities = predictor.predict_images(mnist.test_images)
    assert (probabilities.max(axis=1) < predictor.info.rejection_threshold).mean() <= 0.005


def test_threads_pickle_and_fork_give_the_same_answers(digits: Dataset) -> None:
    predictor = Predictor(SHIPPED)
    images = list(digits.test_images)
    expected = [predictor.predict(image).digit for image in images]

    def read_all(_: int) -> list[int | None]:
        return [predictor.predict(image).digit for image in images]

    with ThreadPoolExecutor(8) as threads:
        assert all(answers == expected for answers in threads.map(read_all, range(16)))
    again = pickle.loads(pickle.dumps(predictor))
    assert [again.predict(image).digit for image in images] == expected
    code = (
        "import os, sys, numpy as np; from edge_mnist import Predictor; p = Predictor();"
        "images = np.load(sys.argv[1]); want = p.predict_images(images)[0]; session = p.session\n"
        "for _ in range(4):\n"
        "    if os.fork() == 0:\n"
        "        is_right = (p.predict_images(images)[0] == want).all()\n"
        "        os._exit(0 if is_right and p.session is not session else 1)\n"
        "sys.exit(any(os.wait()[1] for _ in range(4)))"
    )
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file.name, digits.test_images)
        subprocess.run([sys.executable, "-c", code, file.name], check=True)


def test_an_io_binding_gives_the_same_answers(digits: Dataset) -> None:
    # The binding itself runs on a CPU too, so the code for a GPU is tested where there is none.
    predictor, images = Predictor(SHIPPED, provider="cpu"), digits.test_images[:50]
    for output, direct in (
        ("probabilities", predictor.predict_images(images)[1]),
        ("logits", predictor.compute_logits(images)),
    ):
        np.testing.assert_array_equal(run_bound(predictor.session, output, images), direct)


def test_images_of_another_form(exports: Path) -> None:
    predictor = Predictor(exports)
    for array in (np.zeros((28, 28), np.uint8), np.zeros((1, 28, 28), np.float32)):
        with pytest.raises(UsageError, match="expected images"):
            predictor.predict_images(array)  # type: ignore[arg-type]


def test_where_the_model_comes_from(
    exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_model() == SHIPPED / FLOAT32_NAME
    (tmp_path / "exports").mkdir()
    assert find_model() == SHIPPED / FLOAT32_NAME
    shutil.copy(exports / FLOAT32_NAME, tmp_path / "exports")
    assert find_model() == SHIPPED / FLOAT32_NAME  # an application runs in any folder
    assert find_model(prefer_exports=True) == Path("exports") / FLOAT32_NAME
    monkeypatch.setenv("EDGE_MNIST_MODEL", str(exports / INT8_NAME))
    assert find_model() == exports / INT8_NAME
    assert find_model(exports) == exports / FLOAT32_NAME


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"contract": "99"}, "got 99"),
        ({"output": None}, "outputs"),
        ({"outside": None}, "another file"),
        ({"batch": 1}, "inputs"),
        ({"class_names": '["a", "b"]'}, "outputs"),
        ({"accuracy": "unknown"}, "could not convert"),
        ({"rejection_threshold": "nan"}, "in 0..1"),
    ],
)
def test_a_model_that_breaks_the_contract(
    exports: Path, tmp_path: Path, broken: dict[str, object], words: str
) -> None:
    path = change(exports / FLOAT32_NAME, tmp_path / "model.onnx", **broken)
    with pytest.raises(ModelError, match=words):
        Predictor(path)


def test_files_that_are_no_models(
    exports: Path, tmp_path: Path, edge_mnist: Command, drawings: list[Path]
) -> None:
    whole = (exports / FLOAT32_NAME).read_bytes()
    (tmp_path / "truncated.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "text.onnx").write_text("not a model")
    change(exports / FLOAT32_NAME, tmp_path / "broken.onnx", contract="0")
    for name in ("truncated", "empty", "text", "broken", "missing"):
        done = edge_mnist("predict", drawings[3], "-m", f"{name}.onnx")
        assert done.returncode == 3, name
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("edge-mnist: ")


def test_cuda_is_never_a_silent_cpu(
    exports: Path, drawings: list[Path], edge_mnist: Command
) -> None:
    try:
        Predictor(exports, provider="cuda")
    except ProviderError:
        pass
    else:
        pytest.skip("CUDA runs on this machine")
    for args in (["--provider", "cuda"], []):
        env = {"EDGE_MNIST_PROVIDER": "cuda"}
        done = edge_mnist("predict", drawings[3], *args, env=env)
        assert done.returncode == 3
        (line,) = done.stderr.splitlines()
        assert "CUDA does not run here" in line
    done = edge_mnist("predict", drawings[3], "--provider", "auto", "--json")
    assert json.loads(done.stdout)["provider"] == "cpu"
    assert done.stderr == ""


@pytest.mark.gpu
def test_cuda_gives_the_same_answers(exports: Path, digits: Dataset) -> None:
    try:
        cuda = Predictor(exports, provider="cuda")
    except ProviderError as error:
        pytest.skip(str(error))
    cpu = Predictor(exports, provider="cpu")
    images = digits.test_images
    np.testing.assert_allclose(cuda.compute_logits(images), cpu.compute_logits(images), atol=1e-3)
