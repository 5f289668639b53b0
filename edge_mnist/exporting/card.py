"""The descriptions of an export: the model file's metadata, the manifest and the model card."""

import contextlib
import dataclasses
import hashlib
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

from edge_mnist.exporting.golden import draw_golden_images, hash_images
from edge_mnist.machine import processor_name
from edge_mnist.model_file import CONTRACT_VERSION, INT8_NAME
from edge_mnist.training.calibration import Calibration, count_least_images
from edge_mnist.training.datasets import DIGIT_LABELS
from edge_mnist.training.unipen import CITATION, DOI, LICENCE, NOTICE
from edge_mnist.validation.robustness import Robustness
from edge_mnist.validation.timing import Latency

if TYPE_CHECKING:
    from edge_mnist.exporting.onnx import Source

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


def describe_model(source: "Source", calibration: Calibration, quantization: str) -> dict[str, str]:
    """Return a model file's metadata, all but its accuracy."""
    images, _ = draw_golden_images()
    dataset, checkpoint = source.dataset, source.checkpoint
    about = {} if dataset.framing == "digit" else {"framing": dataset.framing}
    about |= {
        "contract": CONTRACT_VERSION,
        "class_names": json.dumps(dataset.class_names),
        "network": source.name,
    }
    if checkpoint:
        about |= {"recipe": checkpoint.recipe.to_short_json(), "epoch": str(checkpoint.epoch)}
    else:
        about |= {key: json.dumps(value) for key, value in describe_origin(source).items()}
    about |= {
        "weights_sha256": source.network.weights_sha256,
        "dataset": source.trained_on.name,
        "dataset_sha256": source.trained_on.sha256,
        "quantization": quantization,
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


def describe_origin(source: "Source") -> dict[str, dict[str, object]]:
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
    source: "Source",
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
        "network": source.name,
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
    source: "Source",
    calibration: Calibration,
    models: Sequence[ExportedModel],
    robustness: Sequence[Robustness],
) -> str:
    """Return the model card, Markdown."""
    rows = "\n".join(
        f"| `{model.name}` | {model.size_bytes:,} | {model.accuracy:.2%} "
        f"| {model.latency.p50_us:.0f} | `{model.sha256[:16]}` |"
        for model in models
    )
    dataset, checkpoint = source.dataset, source.checkpoint
    if checkpoint:
        recipe = checkpoint.recipe
        training = f", recipe `{recipe.name}`, seed {recipe.seed}, {checkpoint.epoch} epochs"
        origin = f"Network `{source.name}`{training}, trained on `{source.trained_on.name}`."
        if source.trained_on.sha256 != dataset.sha256:
            origin += f" Tested on `{dataset.name}`, another data set or one changed since."
    else:
        origin = f"Network `{source.name}`, exported with the data set `{dataset.name}`."
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
        robustness=describe_robustness(models, robustness),
        limits=describe_limits(source, calibration),
        attribution=UNIPEN if checkpoint and checkpoint.recipe.handwriting_share else "",
        licence=f"Licence: {LICENSE}." if checkpoint else "Licence: its author's.",
    )


def describe_limits(source: "Source", calibration: Calibration) -> str:
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


def describe_robustness(models: Sequence[ExportedModel], robustness: Sequence[Robustness]) -> str:
    """Return the card's table of corruptions."""
    head = f"| | {' | '.join(f'`{model.name}`' for model in models)} |"
    lines = [head, "|---|" + "---|" * len(models)]
    for name in robustness[0].images:
        cells = [f"{one.images[name]:.1%}" for one in robustness]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    means = [f"**{one.images_mean:.1%}**" for one in robustness]
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
