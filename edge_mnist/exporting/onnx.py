"""Export to ONNX: build the files, validate them against the untouched network, then write.

Every file says what it is: a model file in its metadata, the folder in a manifest and a card.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import subprocess
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from edge_mnist.errors import (
    GateError,
    ModelError,
    OutputError,
    UsageError,
    check_number,
    one_line,
)
from edge_mnist.exporting.convention import MeasuredConvention, PixelConvention, Statement
from edge_mnist.exporting.golden import draw_golden_images, hash_images
from edge_mnist.exporting.graph import (
    Quantization,
    attach_contract,
    choose_calibration,
    fold_temperature,
    is_quantized,
    quantize_body,
)
from edge_mnist.exporting.sources import Loading, Source, open_source
from edge_mnist.files import make_folder, output_errors, write_atomically
from edge_mnist.machine import processor_name
from edge_mnist.model_file import (
    CARD_NAME,
    CHECKPOINT_NAME,
    CONTRACT_VERSION,
    FLOAT32_NAME,
    INT8_NAME,
    MANIFEST_NAME,
    REFERENCE_NAME,
    ModelFile,
    hash_graph,
    shell_path,
)
from edge_mnist.predictor import Predictor
from edge_mnist.training.calibration import Calibration, Validation, calibrate, count_least_images
from edge_mnist.training.datasets import DIGIT_LABELS, Dataset, check_dataset
from edge_mnist.training.provenance import compare_with_training
from edge_mnist.training.unipen import CITATION, DOI, LICENCE, NOTICE
from edge_mnist.validation.timing import Latency
from edge_mnist.validation.validate import (
    Limits,
    ModelReport,
    Reference,
    ValidationReport,
    measure_accuracy,
    validate_files,
)

if TYPE_CHECKING:  # PyTorch is imported only for what needs it: an ONNX file does not
    from torch import nn

    from edge_mnist.training.run import TrainingRun

N_EXAMPLES = 40  # training images that a graph is compared on before the whole test set is
MANIFEST_VERSION = 1
LICENSE = "MIT"
TOOLS = ("edge-mnist", "torch", "onnx", "onnxscript")


@dataclass(frozen=True)
class ExportedModel:
    """One model file that passed the gate. ``accuracy`` is that on the test set, a fraction."""

    name: str
    sha256: str
    size_bytes: int
    accuracy: float
    n_test_images: int
    latency: Latency


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
    if temperature is not None:
        check_number("temperature", temperature, 1e-6, 1e6)
    if dataset is not None:
        check_dataset(dataset)
    opened = open_source(
        source,
        dataset,
        convention,
        force=force,
        loading=loading,
        data_dir=data_dir,
        offline=offline,
    )
    network, data, checkpoint = opened.network, opened.dataset, opened.checkpoint
    compare_with_training(opened.trained_on, data, network.name)  # before work of minutes
    target = Path(folder)
    if not overwrite:
        _refuse_foreign_files(target)
    make_folder(target)

    # The reference comes first, of the network as it is: shape (N, classes), float32.
    logits = opened.compute_logits(data.test_images)
    calibration = checkpoint.calibration if checkpoint else None
    if calibration is None or temperature not in (None, calibration.temperature):
        rows = opened.held_out_rows
        answers = opened.compute_logits(data.train_images[rows])
        held_out = Validation(answers, data.train_labels[rows])
        calibration = calibrate({data.name: held_out}, temperature=temperature)
    logits = logits / np.float32(calibration.temperature)
    hashes = opened.trained_on.image_hashes
    reference = Reference(network.name, data.test_images, logits, image_hashes=hashes)

    models = build_models(opened, calibration, quantize=quantize)
    report = validate_files(
        models,
        data,
        against=reference,
        limits=limits or Limits(),
        robustness=True,
        as_pictures=False,
    )
    exported = [_require_passed(one) for one in report.models]

    files = {file.path.name: file.content for file in models}
    files[REFERENCE_NAME] = make_reference(opened, reference, calibration, models)
    if checkpoint:
        from edge_mnist.training.checkpoint import pack_checkpoint

        finished = dataclasses.replace(checkpoint, state={}, calibration=calibration)
        files[CHECKPOINT_NAME] = pack_checkpoint(finished)
    files[CARD_NAME] = write_card(opened, calibration, exported, report.models).encode()
    files[MANIFEST_NAME] = make_manifest(opened, exported, files, command)

    write_files(target, files)
    path = str(network.path) if network.path else None
    return ExportResult(
        folder=str(target),
        source=path or network.name,
        checkpoint=path if checkpoint else None,
        epoch=checkpoint.epoch if checkpoint else None,
        epochs=checkpoint.recipe.epochs if checkpoint else None,
        models=tuple(exported),
        temperature=calibration.temperature,
        rejection_threshold=calibration.rejection_threshold,
        validation=report,
        convention=opened.measured,
    )


def _refuse_foreign_files(folder: Path) -> None:
    """Refuse to replace files that no export wrote.

    Raises:
        OutputError: The folder holds such a file.
    """
    for name in (FLOAT32_NAME, INT8_NAME, CHECKPOINT_NAME):
        path = folder / name
        if not path.exists():
            continue
        try:
            if name == CHECKPOINT_NAME:
                from edge_mnist.training.checkpoint import load_checkpoint

                load_checkpoint(path)
            else:
                Predictor(path, provider="cpu")
        except ModelError as error:
            raise OutputError(
                f"{path} exists and is not from edge-mnist; "
                "choose another folder with -o, or add --overwrite"
            ) from error


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write an export's files in their order, the manifest last: readers hold to it.

    Raises:
        OutputError: A file cannot be written.
    """
    for name in {INT8_NAME, CHECKPOINT_NAME} - set(files):  # an earlier export's: other weights
        with output_errors(folder / name):
            (folder / name).unlink(missing_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)


def build_models(source: Source, calibration: Calibration, *, quantize: bool) -> list[ModelFile]:
    """Build the model files in memory: float32 and, if asked for, int8.

    Raises:
        ModelError: The network cannot be exported or quantised.
        UsageError: It is quantised already, and should be once more.
    """
    images = source.dataset.train_images[source.training_rows]
    network, convention = source.network, source.convention
    body = network.to_body(convention.to_inputs(images[:N_EXAMPLES], network.input_dtype))
    rest = calibration.temperature
    if source.output != "probabilities":
        rest = fold_temperature(body, rest)
    bodies = [(FLOAT32_NAME, body, "none")]
    if quantize:
        if is_quantized(body):
            raise UsageError(f"{network.name} is quantised already; leave --quantize out")
        settings = Quantization()
        inputs = convention.to_inputs(choose_calibration(images, settings), network.input_dtype)
        try:
            int8_body = quantize_body(body, inputs, settings)
        except Exception as error:  # onnxruntime's quantizer raises anything
            raise ModelError(
                f"the network {network.name} cannot be quantised: {one_line(error)}; "
                "leave --quantize out"
            ) from error
        bodies.append((INT8_NAME, int8_body, json.dumps(settings.to_dict())))

    models = []
    metadata = describe_model(source, calibration)
    for name, body, quantization in bodies:
        about = metadata | {"quantization": quantization}
        model = attach_contract(
            body,
            about,
            convention=convention,
            n_classes=len(source.dataset.class_names),
            output=source.output,
            temperature=rest,
        )
        onnx.checker.check_model(model, full_check=True)
        path, content = Path(name), model.SerializeToString(deterministic=True)
        # Measured on this draft and written into the file: metadata takes no part in arithmetic.
        draft = Predictor(ModelFile(path, content), provider="cpu")
        _, accuracy = measure_accuracy(draft, source.dataset)
        about |= {
            "graph_sha256": hash_graph(content),
            "accuracy": repr(accuracy.accuracy),
            "n_test_images": str(accuracy.n_images),
        }
        helper.set_model_props(model, about)
        models.append(ModelFile(path, model.SerializeToString(deterministic=True)))
    return models


def _require_passed(report: ModelReport) -> ExportedModel:
    """Return what is recorded of a model file that passed the gate.

    Raises:
        GateError: With every missed limit, and the smallest one that would have passed.
    """
    missed = [
        f"{check.name}: {check.measured:.3g}, limit {check.limit:.3g}"
        for check in report.checks
        if not check.passed
    ]
    if missed:
        raise GateError(
            f"nothing was written: {report.path} misses its limits: {'; '.join(missed)}"
        )
    assert report.accuracy is not None  # there is a data set
    return ExportedModel(
        name=report.path,
        sha256=report.sha256,
        size_bytes=report.size_bytes,
        accuracy=report.accuracy.accuracy,
        n_test_images=report.accuracy.n_images,
        latency=report.latency,
    )


def make_reference(
    source: Source, tested: Reference, calibration: Calibration, models: Sequence[ModelFile]
) -> bytes:
    """Return the content of reference.npz: golden images and the logits they should give.

    Where no checkpoint of this package is kept beside the files, it also holds the network's own
    logits on the whole test set: ``validate`` then needs neither the network nor its code.

    Args:
        source: The network.
        tested: Its logits on the test set.
        calibration: Its temperature.
        models: Of which the int8 one has logits of its own.
    """
    images, labels = draw_golden_images()
    arrays = {
        "images": images,
        "labels": labels,
        "logits": source.compute_logits(images) / np.float32(calibration.temperature),
        "weights_sha256": np.array(source.network.weights_sha256),
    }
    if not source.checkpoint:
        arrays["test_logits"] = tested.logits
        arrays["test_images_sha256"] = np.array(hash_images(tested.images))
    if tested.image_hashes is not None:
        arrays["image_hashes"] = tested.image_hashes
    for file in models:
        if file.path.name == INT8_NAME:
            arrays["int8_logits"] = Predictor(file, provider="cpu").compute_logits(images)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def describe_model(source: Source, calibration: Calibration) -> dict[str, str]:
    """Return the metadata of the float32 file, all but its hash and accuracy."""
    images, _ = draw_golden_images()
    dataset, checkpoint = source.dataset, source.checkpoint
    about = {} if dataset.framing == "digit" else {"framing": dataset.framing}
    about |= {
        "contract": CONTRACT_VERSION,
        "class_names": json.dumps(dataset.class_names),
        "network": source.network.name,
    }
    if checkpoint:
        about |= {"recipe": checkpoint.recipe.to_short_json(), "epoch": str(checkpoint.epoch)}
    else:
        about |= {key: json.dumps(value) for key, value in describe_origin(source).items()}
    about |= {
        "weights_sha256": source.network.weights_sha256,
        "dataset": source.trained_on.name,
        "dataset_sha256": source.trained_on.sha256,
        "quantization": "none",
        "temperature": repr(calibration.temperature),
        "rejection_threshold": repr(calibration.rejection_threshold),
        "rejected_shares": json.dumps(dict(calibration.rejected_shares)),
        "golden_sha256": hash_images(images),
        "tools": json.dumps(tool_versions()),
        "date": datetime.now(UTC).date().isoformat(),
    }
    if source.trained_on.sha256 != dataset.sha256:
        about |= {"test_dataset": dataset.name, "test_dataset_sha256": dataset.sha256}
    # The licence of somebody else's network is not known here.
    return about | ({"license": LICENSE} if checkpoint else {})


def describe_origin(source: Source) -> dict[str, dict[str, object]]:
    """Return where somebody else's network came from, and what was measured of it."""
    network, measured = source.network, source.measured
    origin: dict[str, object] = {"kind": network.kind}
    if network.path:
        origin |= {"file": network.path.name}
        origin |= {"sha256": hashlib.sha256(network.path.read_bytes()).hexdigest()}
    about = {"source": origin}
    if measured:
        found = {
            "output": measured.output,
            "accuracy": measured.accuracy,
            "n_images": measured.n_images,
            "runner_up": measured.runner_up,
            "runner_up_accuracy": measured.runner_up_accuracy,
            "stated": measured.stated,
        }
        about["convention"] = dataclasses.asdict(source.convention) | found
    return about


def tool_versions() -> dict[str, str]:
    """Return the versions of everything that shapes an exported file."""
    import onnxruntime  # its distribution has several names, so its metadata cannot be asked

    found = {}
    for name in TOOLS:
        with contextlib.suppress(PackageNotFoundError):  # an ONNX file is exported without torch
            found[name] = version(name)
    return found | {"onnxruntime": onnxruntime.__version__}


def make_manifest(
    source: Source,
    models: Sequence[ExportedModel],
    files: Mapping[str, bytes],
    command: str,
) -> bytes:
    """Return the content of manifest.json: every file's hash and size, and their origin.

    Args:
        source: What was exported.
        models: The model files among ``files``.
        files: Content of every other file of the export, by name.
        command: The command that made them.
    """
    checkpoint = source.checkpoint
    manifest = {
        "schema_version": MANIFEST_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "commit": source_commit(),
        "network": source.network.name,
        "recipe": dataclasses.asdict(checkpoint.recipe) if checkpoint else None,
        "epoch": checkpoint.epoch if checkpoint else None,
        "weights_sha256": source.network.weights_sha256,
        "dataset": {"name": source.trained_on.name, "sha256": source.trained_on.sha256},
        "test_dataset": {"name": source.dataset.name, "sha256": source.dataset.sha256},
        "tools": tool_versions(),
        "machine": {"processor": processor_name(), "cores": os.cpu_count()},
        "license": LICENSE if checkpoint else None,
        **({} if checkpoint else describe_origin(source)),
        "files": {name: describe_file(content) for name, content in files.items()},
        "models": {
            model.name: {
                "accuracy": model.accuracy,
                "n_test_images": model.n_test_images,
                "latency_us": dataclasses.asdict(model.latency),
            }
            for model in models
        },
    }
    return (json.dumps(manifest, indent=2) + "\n").encode()


def describe_file(content: bytes) -> dict[str, str | int]:
    """Return hash and size of a file's content."""
    return {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}


def source_commit() -> str:
    """Return the commit of the checkout this package runs from; its version outside of one."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return f"edge-mnist {version('edge-mnist')}"
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def write_card(
    source: Source,
    calibration: Calibration,
    models: Sequence[ExportedModel],
    reports: Sequence[ModelReport],
) -> str:
    """Return the model card, Markdown."""
    rows = "\n".join(
        f"| `{model.name}` | {model.size_bytes:,} | {model.accuracy:.2%} "
        f"| {model.latency.p50_us:.0f} | `{model.sha256[:16]}` |"
        for model in models
    )
    name, dataset, checkpoint = source.network.name, source.dataset, source.checkpoint
    if checkpoint:
        recipe = checkpoint.recipe
        training = f", recipe `{recipe.name}`, seed {recipe.seed}, {checkpoint.epoch} epochs"
        origin = f"Network `{name}`{training}, trained on `{source.trained_on.name}`."
        if source.trained_on.sha256 != dataset.sha256:
            origin += f" Tested on `{dataset.name}`, another data set or one changed since."
    else:
        origin = f"Network `{name}`, exported with the data set `{dataset.name}`."
        if source.measured:
            origin += "\n\n" + "\n".join(map(str.strip, source.measured.to_text().splitlines()))
    return CARD.format(
        origin=origin,
        dataset=dataset.name,
        n_test=len(dataset.test_labels),
        rows=rows,
        n_classes=len(dataset.class_names),
        class_names=", ".join(dataset.class_names),
        temperature=calibration.temperature,
        processor=processor_name(),
        int8_note=CARD_INT8 if any(model.name == INT8_NAME for model in models) else "",
        robustness=describe_robustness(reports),
        limits=describe_limits(source, calibration),
        attribution=UNIPEN if checkpoint and checkpoint.recipe.handwriting_share else "",
        licence=f"Licence: {LICENSE}." if checkpoint else "Licence: its author's.",
    )


def describe_limits(source: Source, calibration: Calibration) -> str:
    """Return the card's sentences on what the model is for, and on what it rejects."""
    framing = source.dataset.framing
    is_sign = framing == "digit" and source.dataset.class_names != DIGIT_LABELS
    shown, rejected = SUBJECTS["sign" if is_sign else framing]
    sentences = [f"Made for {shown}. The network gives an answer for any input;"]
    if not calibration.rejection_threshold:
        sentences.append(
            f"`edge-mnist predict` rejects {rejected or 'no picture'}, and no answer for a small "
            f"confidence: a limit for that needs {count_least_images()} images that the training "
            "held out. A picture of anything else gets one of the classes for an answer."
        )
    else:
        sentences.append(
            f"`edge-mnist predict` rejects {rejected + ', and ' if rejected else ''}answers with "
            f"less confidence than {calibration.rejection_threshold:.3f}."
        )
        shares = [f"{share:.2%} of {name}'s" for name, share in calibration.rejected_shares.items()]
        if shares:
            sentences.append(
                f"Of the validation images, each of one of the classes, that is "
                f"{' and '.join(shares)}."
            )
        sentences.append("Some pictures of other things pass all the same.")
    sentences.append("Not for decisions about people.")
    return textwrap.fill(" ".join(sentences), 100, break_long_words=False, break_on_hyphens=False)


def describe_robustness(reports: Sequence[ModelReport]) -> str:
    """Return the card's table of corruptions."""
    found = [one.robustness for one in reports if one.robustness]
    lines = [f"| | {' | '.join(f'`{one.path}`' for one in reports)} |"]
    lines.append("|---|" + "---|" * len(reports))
    for name in found[0].images:
        cells = [f"{one.images[name]:.1%}" for one in found]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    means = [f"**{one.images_mean:.1%}**" for one in found]
    lines.append(f"| **mean** | {' | '.join(means)} |")
    return "\n".join(lines)


# By framing, "sign" for that of digits with other classes: what the model is made for, and which
# pictures `predict` rejects by what they show.
SUBJECTS = {
    "digit": (
        "one handwritten digit per image, framed as in MNIST (`edge_mnist.picture` does that for a "
        "picture)",
        "pictures that are blank or show more than one digit",
    ),
    "sign": (
        "one sign of the classes above per image, framed as MNIST frames a digit "
        "(`edge_mnist.picture` does that for a picture)",
        "pictures that are blank or show more than one sign",
    ),
    "ink": (
        "one sign of the classes above per picture, of one part or several (`edge_mnist.picture` "
        "brings a picture to the input's form)",
        "blank pictures",
    ),
    "whole": (
        "pictures of the classes above that fill their frame (`edge_mnist.picture` scales them as "
        "they are)",
        "",
    ),
}

CARD_INT8 = """
`model.int8.onnx` is statically quantised (QDQ, per channel, 7-bit weights so that processors
without VNNI do not saturate), calibrated on training images. Whether it is faster depends on the
processor: `edge-mnist bench` measures both side by side and recommends one.
"""

CARD = """# Model card

{origin}

| file | bytes | accuracy on {n_test:,} test images | p50, one image (us) | SHA-256 |
|---|---|---|---|---|
{rows}

Latency: one thread of an {processor}, measured side by side in one run; compare, do not quote.
{int8_note}
## Input and output

| | name | type | shape | meaning |
|---|---|---|---|---|
| input | `images` | uint8 | [batch, 28, 28] | 0 = background, 255 = full ink |
| output | `logits` | float32 | [batch, {n_classes}] | scores over temperature {temperature:.3f} |
| output | `probabilities` | float32 | [batch, {n_classes}] | softmax of `logits` |

Classes, in order: {class_names}. The batch is free from 1 up.

## Corruptions

Accuracy on the first 1,000 test images under fifteen corruptions in the manner of MNIST-C
(`edge_mnist.validation.robustness`). `edge-mnist validate --robustness` measures it again, also
with each corrupted image taken for a picture and brought to MNIST's form first.

{robustness}

## Proof

    edge-mnist validate model.onnx --self-test     # no torch, no data: golden images
    edge-mnist validate model.onnx                 # the whole test set, against the network

## Limits

{limits}
{attribution}
{licence}
"""
UNIPEN = f"""
## Handwriting from UNIPEN

Besides the data set the network was trained on the isolated characters of UNIPEN, release
train_r01_v07, of the International Unipen Foundation: Zenodo record, https://doi.org/{DOI},
published under {LICENCE} (https://creativecommons.org/licenses/by/4.0). An older notice inside the
release reads: {NOTICE}. No part of it is in these files: its pen strokes were drawn as images,
with changes of shape and pen, for the training. Cite: {CITATION}.

To train without it: `edge-mnist train --set handwriting_share=0`.
"""
