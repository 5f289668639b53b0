"""Export to ONNX: build the files, validate them against the untouched network, then write."""

import dataclasses
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_mnist.errors import GateError, ModelError, OutputError, UsageError, one_line
from edge_mnist.exporting.card import ExportedModel, describe_model, make_manifest, write_card
from edge_mnist.exporting.convention import (
    MeasuredConvention,
    PixelConvention,
    Statement,
    measure_convention,
    run_batches,
    to_logits,
)
from edge_mnist.exporting.golden import draw_golden_images, hash_images
from edge_mnist.exporting.graph import (
    Quantization,
    attach_contract,
    choose_calibration,
    fold_temperature,
    quantize_body,
)
from edge_mnist.exporting.sources import Loading, Network, is_foreign, open_network
from edge_mnist.files import make_folder, output_errors, write_atomically
from edge_mnist.machine import require_package
from edge_mnist.model_file import (
    CARD_NAME,
    CHECKPOINT_NAME,
    FLOAT32_NAME,
    INT8_NAME,
    MANIFEST_NAME,
    REFERENCE_NAME,
    ModelFile,
    hash_graph,
    shell_path,
)
from edge_mnist.predictor import Predictor
from edge_mnist.training.calibration import Calibration, Validation, calibrate
from edge_mnist.training.datasets import Dataset, load_dataset, split_training
from edge_mnist.training.provenance import (
    TrainingData,
    compare_with_training,
    record_training_data,
)
from edge_mnist.training.recipes import Recipe
from edge_mnist.validation.gate import Limits, Reference
from edge_mnist.validation.robustness import measure_robustness
from edge_mnist.validation.validate import (
    ModelReport,
    ValidationReport,
    measure_accuracy,
    validate_files,
)

if TYPE_CHECKING:  # PyTorch is imported only for what needs it: an ONNX file does not
    from torch import nn

    from edge_mnist.training.checkpoint import Checkpoint
    from edge_mnist.training.run import TrainingRun

N_EXAMPLES = 40  # training images that a graph is compared on before the whole test set is
HELD_OUT_SHARE = 1 / 12  # of the training images, where no training has held out any


@dataclass(frozen=True)
class ExportResult:
    """What one export wrote.

    Attributes:
        folder: Where the files are.
        source: What was exported: a file, or the name of a network.
        checkpoint: The checkpoint that was exported; None for a network.
        epoch: Epochs that the checkpoint has done; None for a network.
        epochs: Epochs of its recipe; None for a network.
        models: The model files.
        temperature: Divides the logits.
        rejection_threshold: Smallest confidence of an accepted answer, 0..1.
        validation: The checks that the files passed.
        convention: What the network was found to expect; None for a checkpoint of this package.
    """

    folder: str
    source: str
    checkpoint: str | None
    epoch: int | None
    epochs: int | None
    models: tuple[ExportedModel, ...]
    temperature: float
    rejection_threshold: float
    validation: ValidationReport
    convention: MeasuredConvention | None = None
    schema_version: int = 1

    @property
    def next_command(self) -> str:
        """A command that uses what was written."""
        return f"edge-mnist validate {shell_path(self.folder)}"

    def to_text(self) -> str:
        """Return a table of the files."""
        rows = [("file", "bytes", "accuracy", "p50, one image")]
        rows += [
            (
                f"{self.folder}/{model.name}",
                f"{model.size_bytes:,}",
                f"{model.accuracy:.2%}",
                f"{model.latency.p50_us:.0f} us",
            )
            for model in self.models
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        if self.convention:
            lines[:0] = self.convention.to_text().splitlines()
        lines.insert(0, f"{self.source} exported; every file passed the gate")
        notes = {report.data_note for report in self.validation.models if report.data_note}
        lines[:0] = [f"note: {note}" for note in sorted(notes)]
        if self.epoch is not None and self.epochs is not None and self.epoch < self.epochs:
            lines.insert(
                0, f"note: {self.source} is unfinished, epoch {self.epoch} of {self.epochs}"
            )
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Source:
    """A network to export, and what is known about it.

    Attributes:
        network: As its author wrote it; never changed.
        name: Of the network, for people.
        convention: The input that it expects.
        output: What it returns, one of ``convention.OUTPUTS``.
        dataset: Calibrates, quantises and validates.
        training_rows: Rows of the training images that the network learned from, for all we know.
        held_out_rows: The other rows.
        checkpoint: The checkpoint that it comes from, or None.
        path: The file that the network came from, or None.
        calibration: The checkpoint's, or None.
        measured: How the convention was found; None for a checkpoint.
    """

    network: Network
    name: str
    convention: PixelConvention
    output: str
    dataset: Dataset
    training_rows: NDArray[np.int64]
    held_out_rows: NDArray[np.int64]
    checkpoint: "Checkpoint | None" = None
    path: Path | None = None
    calibration: Calibration | None = None
    measured: MeasuredConvention | None = None

    @property
    def trained_on(self) -> TrainingData:
        """What is recorded of the data set of the training: ``dataset`` for all we know."""
        if self.checkpoint and self.checkpoint.trained_on.sha256 not in ("", self.dataset.sha256):
            return self.checkpoint.trained_on
        return record_training_data(self.dataset)


def export(
    source: "nn.Module | TrainingRun | str | os.PathLike[str] | None",
    dataset: Dataset | None = None,
    *,
    folder: str | os.PathLike[str] = "exports",
    quantize: bool = False,
    convention: PixelConvention | Statement | None = None,
    force: bool = False,
    loading: Loading | None = None,
    temperature: float | None = None,
    limits: Limits | None = None,
    overwrite: bool = False,
    data_dir: Path | None = None,
    offline: bool = False,
    command: str = "edge_mnist.export",
) -> ExportResult:
    """Export a network as model files that keep the contract, validated before they are written.

    What the network's convention, temperature and softmax need is added around the network, which
    stays as it is. The reference is the untouched network, with those steps computed by NumPy.

    Args:
        source: Any network of PyTorch that classifies images; a file of one, or ``net.py:Net``, see
            ``sources.open_network``; what ``train`` returned; or a checkpoint or run folder, None
            for the newest below ``./runs``.
        dataset: Measures the convention, calibrates, quantises and validates. None takes the one
            of the training, and MNIST for a file of somebody else's network.
        folder: Where to write; what an earlier export wrote there is replaced.
        quantize: Write an int8 file too.
        convention: What a network expects, or some of it. What is not stated is measured on
            training images, and what is stated is compared with the measurement. Checkpoints of
            this package take 1x28x28, 0..1.
        force: Take what is stated whatever the measurement says.
        loading: Weights, arguments and trust for a source that is a file or ``net.py:Net``.
        temperature: Divides the logits. None takes a checkpoint's, or fits it on the data set's
            held-out training images (if no training has split the data set, those that one by
            the usual recipe would hold out: a twelfth, or a folder's validation part).
        limits: The limits of the gate.
        overwrite: Replace files that no export wrote, too.
        data_dir: See ``load_dataset``.
        offline: Never download.
        command: The command that the manifest records.

    Raises:
        GateError: A file misses a limit; nothing was written.
        ConventionError: No convention stands out, or the measurement contradicts the stated one.
        ModelError: The network cannot be opened, run or exported; nothing was written.
        DataError: The data set cannot be had, or its test part has images that the checkpoint was
            trained on.
        OutputError: The folder cannot be written, or holds files that no export wrote.
    """
    opened = open_source(
        source,
        dataset,
        convention,
        force=force,
        loading=loading,
        data_dir=data_dir,
        offline=offline,
    )
    compare_with_training(opened.trained_on, opened.dataset, opened.name)  # before work of minutes
    target = Path(folder)
    if not overwrite:
        refuse_foreign_files(target)
    make_folder(target)
    logits = compute_source_logits(opened, opened.dataset.test_images)
    calibration = choose_temperature(opened, temperature)
    logits = logits / np.float32(calibration.temperature)
    reference = Reference(
        opened.network.name,
        opened.dataset.test_images,
        logits,
        image_hashes=opened.trained_on.image_hashes,
    )
    models = build_models(opened, calibration, quantize=quantize)
    report = validate_files(models, opened.dataset, against=reference, limits=limits or Limits())
    raise_if_missed(report)
    exported = tuple(_describe(file, one) for file, one in zip(models, report.models, strict=True))
    files = {file.path.name: file.content for file in models}
    files[REFERENCE_NAME] = make_reference(opened, calibration, models, logits)
    if opened.checkpoint:
        from edge_mnist.training.checkpoint import pack_checkpoint

        finished = dataclasses.replace(opened.checkpoint, state={}, calibration=calibration)
        files[CHECKPOINT_NAME] = pack_checkpoint(finished)
    robustness = measure_robustness(
        [Predictor(file, provider="cpu") for file in models],
        opened.dataset.test_images,
        opened.dataset.test_labels,
        as_pictures=False,
    )
    files[CARD_NAME] = write_card(opened, calibration, exported, robustness).encode()
    files[MANIFEST_NAME] = make_manifest(opened, exported, files, command)
    write_files(target, files)
    return ExportResult(
        folder=str(target),
        checkpoint=str(opened.path) if opened.checkpoint and opened.path else None,
        source=str(opened.path or opened.name),
        epoch=opened.checkpoint.epoch if opened.checkpoint else None,
        epochs=opened.checkpoint.recipe.epochs if opened.checkpoint else None,
        models=exported,
        temperature=calibration.temperature,
        rejection_threshold=calibration.rejection_threshold,
        validation=report,
        convention=opened.measured,
    )


def open_source(
    source: "nn.Module | TrainingRun | str | os.PathLike[str] | None",
    dataset: Dataset | None,
    convention: PixelConvention | Statement | None = None,
    *,
    force: bool = False,
    loading: Loading | None = None,
    data_dir: Path | None = None,
    offline: bool = False,
) -> Source:
    """Return the network to export with its data set; see ``export``.

    Raises:
        UsageError: A network comes without a data set, or a checkpoint with a convention.
        ModelError: The checkpoint cannot be used, or its classes are not the data set's.
    """
    network: Network
    if isinstance(source, str | os.PathLike) and is_foreign(source):
        network = open_network(source, loading or Loading())
        dataset = dataset or load_dataset("mnist", data_dir=data_dir, offline=offline)
        return measure_source(network, dataset, convention, force=force)
    if loading is not None and loading != Loading():
        raise UsageError("weights, arguments and trust are for a network that comes as a file")
    require_package("torch", "train")
    from torch import nn

    from edge_mnist.exporting.sources import TorchNetwork

    if isinstance(source, nn.Module):
        if dataset is None:
            raise UsageError("a network is exported with a data set: export(network, dataset)")
        network = TorchNetwork(source, type(source).__name__)
        return measure_source(network, dataset, convention, force=force)
    if force or convention not in (None, Statement()):
        raise UsageError(
            "a convention, and force, are for a network; a checkpoint of ours takes pixels in 0..1"
        )
    from edge_mnist.training.checkpoint import load_checkpoint, load_network
    from edge_mnist.training.run import TrainingRun, find_checkpoint

    path = None
    if isinstance(source, TrainingRun):
        checkpoint, dataset = source.checkpoint, dataset or source.dataset
        path = Path(source.result.folder) / CHECKPOINT_NAME if source.result.folder else None
    else:
        path = find_checkpoint(source)
        checkpoint = load_checkpoint(path)
    dataset = dataset or load_dataset(checkpoint.recipe.dataset, data_dir=data_dir, offline=offline)
    if dataset.class_names != checkpoint.class_names:
        raise ModelError(
            f"the {len(checkpoint.class_names)} classes of the checkpoint are not the "
            f"{len(dataset.class_names)} of the data set {dataset.name}"
        )
    training, held_out = split_training(dataset, checkpoint.recipe)
    return Source(
        TorchNetwork(load_network(checkpoint), checkpoint.recipe.network, kind="checkpoint"),
        checkpoint.recipe.network,
        PixelConvention(),
        "logits",
        dataset,
        training,
        held_out,
        checkpoint,
        path,
        checkpoint.calibration,
    )


def measure_source(
    network: Network,
    dataset: Dataset,
    convention: PixelConvention | Statement | None,
    *,
    force: bool,
) -> Source:
    """Return somebody else's network as a source, its convention measured; see ``export``."""
    stated = convention if isinstance(convention, Statement) else Statement(convention=convention)
    held_out = dataset.held_out
    if held_out is None:
        is_published = dataset.validation_rows is None and not dataset.split_by_content
        # Those are split by scikit-learn, which is not there where PyTorch is not.
        if network.kind == "onnx" and is_published:
            held_out = hold_out(dataset.train_labels, HELD_OUT_SHARE)
        else:
            _, held_out = split_training(dataset, Recipe(name=""))
    measured = measure_convention(
        network,
        dataset.train_images,
        dataset.train_labels,
        len(dataset.class_names),
        stated=stated,
        force=force,
    )
    return Source(
        network,
        network.name,
        measured.convention,
        measured.output,
        dataset,
        np.setdiff1d(np.arange(len(dataset.train_labels)), held_out),
        held_out,
        path=network.path,
        measured=measured,
    )


def hold_out(labels: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """Choose rows of every class in proportion, the same every time; at least one of each class.

    Args:
        labels: True classes, shape (N,).
        share: Of the rows, 0..1.

    Returns:
        Row numbers, sorted.
    """
    generator = np.random.default_rng(0)
    chosen = []
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        chosen.append(rows[: max(1, round(share * len(rows)))])
    return np.sort(np.concatenate(chosen))


def compute_source_logits(source: Source, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run the untouched network under its convention.

    Args:
        source: The network and its convention.
        images: Shape (N, 28, 28), uint8.

    Returns:
        Logits before the temperature, shape (N, classes), float32.

    Raises:
        ModelError: The network fails, or returns numbers that are not finite.
    """
    network = source.network
    rows = []
    for start in range(0, len(images), 1000):
        inputs = source.convention.to_inputs(images[start : start + 1000], network.input_dtype)
        rows.append(to_logits(run_batches(network, inputs, batch_size=1000), source.output))
    logits = np.concatenate(rows)
    if not np.isfinite(logits).all():
        raise ModelError(f"the network {network.name} returns numbers that are not finite")
    return logits


def choose_temperature(source: Source, temperature: float | None) -> Calibration:
    """Return the calibration: a checkpoint's own, or one of the held-out training images."""
    if temperature is not None and not 0 < temperature < float("inf"):
        raise UsageError(f"expected a positive temperature, got {temperature}")
    if source.calibration and temperature in (None, source.calibration.temperature):
        return source.calibration
    rows = source.held_out_rows
    logits = compute_source_logits(source, source.dataset.train_images[rows])
    validation = Validation(logits, source.dataset.train_labels[rows])
    return calibrate({source.dataset.name: validation}, temperature=temperature)


def build_models(source: Source, calibration: Calibration, *, quantize: bool) -> list[ModelFile]:
    """Build the model files in memory: float32 and, if asked for, int8.

    Raises:
        ModelError: The network cannot be exported or quantised.
    """
    images = source.dataset.train_images[source.training_rows]
    network, convention = source.network, source.convention
    body = network.to_body(convention.to_inputs(images[:N_EXAMPLES], network.input_dtype))
    rest = calibration.temperature
    if source.output != "probabilities":
        rest = fold_temperature(body, rest)
    models = [_build(FLOAT32_NAME, body, source, calibration, rest, quantization="none")]
    if quantize:
        settings = Quantization()
        inputs = convention.to_inputs(choose_calibration(images, settings), network.input_dtype)
        try:
            int8_body = quantize_body(body, inputs, settings)
        except Exception as error:  # onnxruntime's quantizer raises anything
            raise ModelError(
                f"the network {source.name} cannot be quantised: {one_line(error)}; "
                "leave --quantize out"
            ) from error
        quantization = json.dumps(settings.to_dict())
        models.append(
            _build(INT8_NAME, int8_body, source, calibration, rest, quantization=quantization)
        )
    return models


def _build(
    name: str,
    body: onnx.ModelProto,
    source: Source,
    calibration: Calibration,
    temperature: float,
    *,
    quantization: str,
) -> ModelFile:
    """Attach the contract, check the file with onnx and onnxruntime, and measure its accuracy.

    The accuracy is measured on a draft and then written into the file itself; metadata takes no
    part in the arithmetic.
    """

    def assemble(metadata: Mapping[str, str]) -> ModelFile:
        model = attach_contract(
            body,
            metadata,
            convention=source.convention,
            n_classes=len(source.dataset.class_names),
            output=source.output,
            temperature=temperature,
        )
        onnx.checker.check_model(model, full_check=True)
        return ModelFile(Path(name), model.SerializeToString(deterministic=True))

    about = describe_model(source, calibration, quantization)
    about["graph_sha256"] = hash_graph(assemble({}).content)
    accuracy = measure_accuracy(Predictor(assemble(about), provider="cpu"), source.dataset)
    about |= {"accuracy": repr(accuracy.accuracy), "n_test_images": str(accuracy.n_images)}
    return assemble(about)


def raise_if_missed(report: ValidationReport) -> None:
    """Refuse an export that misses a limit.

    Raises:
        GateError: With every missed limit, and the smallest one that would have passed.
    """
    for model in report.models:
        missed = [
            f"{check.name}: {check.measured:.3g}, limit {check.limit:.3g}"
            for check in model.checks
            if not check.passed
        ]
        if missed:
            raise GateError(
                f"nothing was written: {model.path} misses its limits: {'; '.join(missed)}"
            )


def make_reference(
    source: Source,
    calibration: Calibration,
    models: list[ModelFile],
    test_logits: NDArray[np.float32],
) -> bytes:
    """Return the content of reference.npz: golden images and the logits they should give.

    Where no checkpoint of this package is kept beside the files, it also holds the network's own
    logits on the whole test set: ``validate`` then needs neither the network nor its code.

    Args:
        source: The network.
        calibration: Its temperature.
        models: Of which the int8 one has logits of its own.
        test_logits: Of the network on the test images, divided by the temperature.
    """
    images, labels = draw_golden_images()
    logits = compute_source_logits(source, images) / np.float32(calibration.temperature)
    arrays = {
        "images": images,
        "labels": labels,
        "logits": logits,
        "weights_sha256": np.array(source.network.weights_sha256),
    }
    if not source.checkpoint:
        arrays["test_logits"] = test_logits
        arrays["test_images_sha256"] = np.array(hash_images(source.dataset.test_images))
    if source.trained_on.image_hashes is not None:
        arrays["image_hashes"] = source.trained_on.image_hashes
    for file in models:
        if file.path.name == INT8_NAME:
            arrays["int8_logits"] = Predictor(file, provider="cpu").compute_logits(images)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write an export's files, the manifest last; an earlier export's files of other weights go.

    Raises:
        OutputError: A file cannot be written.
    """
    for name in (INT8_NAME, CHECKPOINT_NAME):  # they would be of other weights
        if name not in files:
            with output_errors(folder / name):
                (folder / name).unlink(missing_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)


def refuse_foreign_files(folder: Path) -> None:
    """Refuse to replace files that no export wrote.

    Raises:
        OutputError: The folder holds such a file.
    """

    def read_checkpoint(path: Path) -> object:
        from edge_mnist.training.checkpoint import load_checkpoint

        return load_checkpoint(path)

    checks: dict[str, Callable[[Path], object]] = {
        FLOAT32_NAME: lambda path: Predictor(path, provider="cpu"),
        INT8_NAME: lambda path: Predictor(path, provider="cpu"),
        CHECKPOINT_NAME: read_checkpoint,
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


def _describe(file: ModelFile, report: ModelReport) -> ExportedModel:
    assert report.accuracy is not None
    return ExportedModel(
        name=file.path.name,
        sha256=file.sha256,
        size_bytes=file.size_bytes,
        accuracy=report.accuracy.accuracy,
        n_test_images=report.accuracy.n_images,
        latency=report.latency,
    )
