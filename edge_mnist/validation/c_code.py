"""Validation of exported C code: compiled here, and compared with its model file on every image."""

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import MissingPackageError, ModelError
from edge_mnist.model_file import INT8_NAME, read_model
from edge_mnist.predictor import Predictor
from edge_mnist.validation.validate import load_test_data

if TYPE_CHECKING:
    from edge_mnist.training.datasets import Dataset

SOURCES = ("main.c", "edge_mnist.c", "edge_mnist_selftest.c")
FLAGS = ("-std=c99", "-O2")
CONFIDENCE_ATOL = 0.001


@dataclass(frozen=True)
class CodeReport:
    """The comparison of a folder of C code with its model file.

    Attributes:
        folder: Where the code is.
        model: The model file that lies beside it.
        compiler: What compiled it.
        n_images: Images that were compared.
        different_images: Those with a logit that is not equal, bit for bit.
        different_labels: Those with another class.
        confidence_difference: Largest distance of the confidence to the model's, 0..1.
        self_test: What the self-test printed.
        passed: Nothing differs, the confidence by at most 0.001, and the self-test passed.
    """

    folder: str
    model: str
    compiler: str
    n_images: int
    different_images: int
    different_labels: int
    confidence_difference: float
    self_test: str
    passed: bool
    schema_version: int = 1

    def to_text(self) -> str:
        """Return the comparison in lines."""
        equal = self.n_images - self.different_images
        return "\n".join(
            [
                f"{self.folder} compiled by {self.compiler}, beside {self.model}",
                f"{equal:,} of {self.n_images:,} images have equal logits, bit for bit; "
                f"{self.different_labels} other classes",
                f"confidence within {self.confidence_difference:.6f}",
                self.self_test,
                "passed" if self.passed else "FAILED",
            ]
        )


def is_code_folder(name: str | os.PathLike[str]) -> bool:
    """Return whether a name stands for a folder that ``export --target c`` wrote."""
    return os.path.isfile(Path(name) / SOURCES[1])


def validate_code(
    folder: str | os.PathLike[str],
    dataset: "Dataset | None" = None,
    *,
    self_test: bool = False,
    data_dir: Path | None = None,
    offline: bool = False,
) -> CodeReport:
    """Compile exported C code and compare it with its model file on the whole test set.

    Args:
        folder: What ``export --target c`` wrote.
        dataset: Its test images are compared. None loads the data set of the model.
        self_test: Run the self-test only, without a data set.
        data_dir: See ``load_dataset``.
        offline: Never download.

    Raises:
        ModelError: The code does not compile, or the model file is missing.
        MissingPackageError: There is no C compiler.
        DataError: The data set cannot be had.
    """
    source = Path(folder)
    predictor = Predictor(read_model(source / INT8_NAME), provider="cpu")
    images = np.zeros((0, 28, 28), np.uint8)
    if not self_test:
        dataset = dataset or load_test_data([predictor.model], data_dir=data_dir, offline=offline)
        images = dataset.test_images
    compiler = find_compiler()
    with tempfile.TemporaryDirectory() as name:
        program = compile_code(source, Path(name), compiler)
        tested = subprocess.run([program, "selftest"], capture_output=True, text=True)
        labels, confidences, logits = run_program(program, images, predictor.info.class_names)
    different, other_labels, distance = 0, 0, 0.0
    if len(images):
        expected, probabilities = predictor.compute_outputs(images)
        expected_labels = probabilities.argmax(axis=1)
        different = int((logits.view(np.uint32) != expected.view(np.uint32)).any(axis=1).sum())
        other_labels = int((labels != expected_labels).sum())
        distance = float(np.abs(confidences - probabilities.max(axis=1)).max())
    passed = tested.returncode == 0 and not different and not other_labels
    return CodeReport(
        folder=str(source),
        model=str(predictor.model.path),
        compiler=Path(compiler).name,
        n_images=len(images),
        different_images=different,
        different_labels=other_labels,
        confidence_difference=distance,
        self_test=tested.stdout.strip(),
        passed=passed and distance <= CONFIDENCE_ATOL,
    )


def find_compiler() -> str:
    """Return the C compiler: CC, or the first of cc, gcc and clang.

    Raises:
        MissingPackageError: There is none.
    """
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        found = name and shutil.which(name)
        if found:
            return found
    raise MissingPackageError("this needs a C compiler; install gcc or clang, or set CC")


def compile_code(folder: Path, target: Path, compiler: str) -> Path:
    """Compile the program of a folder.

    Raises:
        ModelError: The compiler refuses it.
    """
    program = target / "classify"
    sources = [str(folder / name) for name in SOURCES]
    result = subprocess.run(
        [compiler, *FLAGS, *sources, "-o", str(program)], capture_output=True, text=True
    )
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if "error" in line]
        raise ModelError(f"{folder} does not compile: {(lines or ['no reason given'])[0][:300]}")
    return program


def run_program(
    program: Path, images: NDArray[np.uint8], class_names: tuple[str, ...]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float32]]:
    """Classify images with a compiled program.

    Returns:
        Labels, (N,), -1 for a name that is none of the classes; confidences, (N,), 0..1; logits,
        (N, classes), float32.

    Raises:
        ModelError: The program fails, or does not classify every image.
    """
    result = subprocess.run([program], input=images.tobytes(), capture_output=True)
    lines = result.stdout.decode(errors="replace").splitlines()
    if result.returncode != 0 or len(lines) != len(images):
        raise ModelError(
            f"the compiled program classified {len(lines)} of {len(images)} images, with exit code "
            f"{result.returncode}"
        )
    places = {name: label for label, name in enumerate(class_names)}
    labels, confidences, logits = [], [], []
    for line in lines:
        # a class's name may hold blanks: the other columns are counted from the end
        cells = line.rsplit(" ", len(class_names) + 2)
        labels.append(places.get(cells[0], -1))
        confidences.append(float(cells[2]))
        logits.append([float(cell) for cell in cells[3:]])
    return (
        np.array(labels, np.int64),
        np.array(confidences),
        np.array(logits, np.float32).reshape(-1, len(class_names)),
    )
