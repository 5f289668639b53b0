"""Exporting a checkpoint: build every file, put it through the gate, only then write it."""

import dataclasses
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from edge_mnist.errors import GateError, ModelError, OutputError
from edge_mnist.export.card import (
    ExportedModel,
    describe_model,
    make_manifest,
    write_card,
)
from edge_mnist.export.golden import draw_golden_images
from edge_mnist.export.graph import (
    Quantization,
    attach_contract,
    choose_calibration,
    export_body,
    quantize_body,
)
from edge_mnist.files import make_folder, output_errors, write_atomically
from edge_mnist.model_file import (
    CARD_NAME,
    CHECKPOINT_NAME,
    FLOAT32_NAME,
    INT8_NAME,
    MANIFEST_NAME,
    REFERENCE_NAME,
    ModelFile,
)
from edge_mnist.predictor import Predictor
from edge_mnist.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_network,
    pack_checkpoint,
)
from edge_mnist.training.dataset import Dataset, split_training
from edge_mnist.training.networks import compute_logits
from edge_mnist.validation.gate import (
    Check,
    Limits,
    Reference,
    check_accuracy_lost,
    check_batchmates,
    check_parity,
)
from edge_mnist.validation.robustness import measure_robustness
from edge_mnist.validation.timing import measure_latencies, one_image
from edge_mnist.validation.validate import Accuracy, measure_accuracy


@dataclass(frozen=True)
class ExportResult:
    """What one export wrote."""

    folder: str
    checkpoint: str
    epoch: int
    epochs: int
    models: tuple[ExportedModel, ...]


@dataclass(frozen=True)
class _Built:
    """A model file in memory, open and measured."""

    name: str
    predictor: Predictor
    accuracy: Accuracy


def export(
    checkpoint_path: Path,
    dataset: Dataset,
    *,
    folder: Path,
    quantize: bool = False,
    limits: Limits | None = None,
    overwrite: bool = False,
    command: str = "edge-mnist export",
) -> ExportResult:
    """Export a checkpoint by the contract, with its reference, manifest and model card.

    Args:
        checkpoint_path: A checkpoint of this package.
        dataset: The data set it was trained on: calibration and accuracy.
        folder: Where to write; what an earlier export wrote there is replaced.
        quantize: Write an int8 file too.
        limits: What the gate lets pass.
        overwrite: Replace files that no export wrote, too.
        command: How the manifest says that the files were made.

    Raises:
        GateError: A file misses a limit; nothing was written.
        ModelError: The checkpoint cannot be used.
        OutputError: The folder cannot be written, or holds files that no export wrote.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    network = load_network(checkpoint)
    if not overwrite:
        refuse_foreign_files(folder)
    make_folder(folder)

    logits = compute_logits(network, dataset.test_images)
    reference = Reference("PyTorch", dataset.test_images, logits)
    body = export_body(network)
    built = [build_float32(body, checkpoint, dataset, reference, limits or Limits())]
    if quantize:
        built.append(build_int8(body, checkpoint, dataset, built[0], limits or Limits()))
    models = measure_models(built)
    files = {one.name: one.predictor.model.content for one in built}
    files[REFERENCE_NAME] = make_reference(checkpoint, built)
    files[CHECKPOINT_NAME] = pack_checkpoint(dataclasses.replace(checkpoint, state={}))
    robustness = measure_robustness(
        [one.predictor for one in built],
        dataset.test_images,
        dataset.test_labels,
        as_pictures=False,
    )
    files[CARD_NAME] = write_card(checkpoint, dataset, models, robustness).encode()
    files[MANIFEST_NAME] = make_manifest(checkpoint, dataset, models, files, command)
    write_files(folder, files)
    epoch, epochs = checkpoint.epoch, checkpoint.recipe.epochs
    return ExportResult(str(folder), str(checkpoint_path), epoch, epochs, models)


def build_float32(
    body: onnx.ModelProto,
    checkpoint: Checkpoint,
    dataset: Dataset,
    reference: Reference,
    limits: Limits,
) -> _Built:
    """Build the float32 file and hold it to PyTorch on the whole test set.

    Raises:
        GateError: It misses a limit.
    """
    built = _build(FLOAT32_NAME, body, checkpoint, dataset, quantization="none")
    checks = check_parity(built.predictor, reference, limits)
    checks.append(check_batchmates(built.predictor, dataset.test_images))
    raise_if_missed(FLOAT32_NAME, checks)
    return built


def build_int8(
    body: onnx.ModelProto,
    checkpoint: Checkpoint,
    dataset: Dataset,
    float32: _Built,
    limits: Limits,
) -> _Built:
    """Quantise a float32 body, build the int8 file, and hold it to the float32 file's accuracy.

    Raises:
        GateError: It misses a limit.
    """
    settings = Quantization()
    rows, _ = split_training(dataset.train_labels, checkpoint.recipe)
    calibration = choose_calibration(dataset.train_images[rows], settings)
    int8_body = quantize_body(body, calibration, settings)
    quantization = json.dumps(dataclasses.asdict(settings))
    built = _build(INT8_NAME, int8_body, checkpoint, dataset, quantization=quantization)
    lost = float32.accuracy.accuracy - built.accuracy.accuracy
    checks = [check_accuracy_lost(lost, built.accuracy.n_images, limits)]
    checks.append(check_batchmates(built.predictor, dataset.test_images))
    raise_if_missed(INT8_NAME, checks)
    return built


def _build(
    name: str,
    body: onnx.ModelProto,
    checkpoint: Checkpoint,
    dataset: Dataset,
    *,
    quantization: str,
) -> _Built:
    """Attach the contract, let onnx and onnxruntime check the file, and measure it.

    The accuracy is measured on a draft and then written into the file itself; metadata takes no
    part in the arithmetic.
    """
    about = describe_model(checkpoint, dataset, quantization)
    draft = _open(name, attach_contract(body, about))
    accuracy = measure_accuracy(draft, dataset)
    about |= {"accuracy": repr(accuracy.accuracy), "n_test_images": str(accuracy.n_images)}
    return _Built(name, _open(name, attach_contract(body, about)), accuracy)


def _open(name: str, model: onnx.ModelProto) -> Predictor:
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString(deterministic=True)
    return Predictor(ModelFile(Path(name), content), provider="cpu")


def raise_if_missed(name: str, checks: Sequence[Check]) -> None:
    """Refuse a file that misses a limit.

    Raises:
        GateError: With every missed limit, and the smallest one that would have passed.
    """
    missed = [
        f"{check.name}: {check.measured:.3g}, limit {check.limit:.3g}"
        for check in checks
        if not check.passed
    ]
    if missed:
        raise GateError(f"{name} was not written, it misses its limits: {'; '.join(missed)}")


def measure_models(built: Sequence[_Built]) -> tuple[ExportedModel, ...]:
    """Describe the finished files; their latencies are measured side by side."""
    latencies = measure_latencies({one.name: one_image(one.predictor.session) for one in built})
    return tuple(
        ExportedModel(
            name=one.name,
            sha256=one.predictor.model.sha256,
            size_bytes=one.predictor.model.size_bytes,
            accuracy=one.accuracy.accuracy,
            n_test_images=one.accuracy.n_images,
            latency=latencies[one.name],
        )
        for one in built
    )


def make_reference(checkpoint: Checkpoint, built: Sequence[_Built]) -> bytes:
    """Return the content of reference.npz: golden images and what they should give."""
    images, labels = draw_golden_images()
    arrays = {
        "images": images,
        "labels": labels,
        "logits": compute_logits(load_network(checkpoint), images),
        "weights_sha256": np.array(checkpoint.weights_sha256),
    }
    for one in built:
        if one.name == INT8_NAME:
            arrays["int8_logits"] = one.predictor.compute_logits(images)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write an export's files; an int8 file of other weights, left by an earlier one, goes.

    Raises:
        OutputError: A file cannot be written.
    """
    if INT8_NAME not in files:
        with output_errors(folder / INT8_NAME):
            (folder / INT8_NAME).unlink(missing_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)


def refuse_foreign_files(folder: Path) -> None:
    """Refuse to replace files that no export wrote.

    Raises:
        OutputError: The folder holds such a file.
    """
    checks: dict[str, Callable[[Path], object]] = {
        FLOAT32_NAME: lambda path: Predictor(path, provider="cpu"),
        INT8_NAME: lambda path: Predictor(path, provider="cpu"),
        CHECKPOINT_NAME: load_checkpoint,
    }
    for name, read in checks.items():
        if (folder / name).exists():
            try:
                read(folder / name)
            except ModelError as error:
                raise OutputError(
                    f"{folder / name} exists and is not from edge-mnist; "
                    "choose another folder with -o, or add --overwrite"
                ) from error
