"""The input convention of a network: which numbers it expects for an image, and what it returns.

Nothing in a network's file says it, and a wrong one gives wrong answers without any error. Here it
is measured: labelled training images are brought to every usual form, and the form at which the
network answers best is kept. NumPy alone; the network may be PyTorch's or an ONNX file.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import ConventionError, ModelError, UsageError
from edge_mnist.training.calibration import cross_entropies, fit_temperature

N_IMAGES = 2000  # the most that a convention is measured on
N_FIRST_IMAGES = 200  # the first round, which every convention takes part in
N_FINALISTS = 6
FINALIST_ACCURACY_LOST = 0.08  # a convention this far below the best of the first round is out
# Of the way from guessing to no error. The best of fifty conventions of an untrained network comes
# to a tenth of it, a network trained for seconds to nine tenths.
MIN_SHARE_ABOVE_CHANCE = 0.4
SIGNIFICANT_Z = 2.0  # standard deviations of a difference on the same images
# Distances by batch normalisation or quantisation; see ``Network.compare_statistics``. Networks
# trained for seconds came to 0.02 to 0.1 under their own convention, to 0.4 and more under another
# scale, and to 0.1 to 0.25 under another size of the image, which augmentation may do as well.
MAX_DISTANCE = 0.5  # further away, the statistics are of other images, those of a pretraining say
OTHER_INPUT_DISTANCE = 0.25  # this much further than the nearest is not the input of the training
SAME_DISTANCE_RATIO = 1.2  # distances no further apart than this do not tell two inputs apart
OWN_SCALE_RATIO = 1.4  # a fitted temperature this near to 1 is that of a network at its own scale
SCALE_RATIO = 20.0  # fitted temperatures further apart than this tell two scales apart
MIN_PROBABILITY = 1e-30  # a smaller one counts as this, so that its logarithm is finite
BATCH_SIZES = (2, 1, 64, 32, 128, 100, 16, 256, 8)  # tried in turn on a network of unknown batch
ROW_ATOL = 1e-3  # of the spread of outputs: what rounding may change, and another batch may not
FLOAT32 = np.dtype(np.float32)
Scaling = tuple[float, tuple[float, ...], tuple[float, ...]]  # (image * scale - means) / stds
OUTPUTS = ("logits", "log-probabilities", "probabilities", "independent probabilities")

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class NetworkOutputError(ModelError):
    """A network ran, and returned something else than one row of numbers for each image.

    Attributes:
        is_near: Whether it returned such rows, for another number of classes.
    """

    def __init__(self, message: str, *, is_near: bool = False) -> None:
        """Take the message."""
        super().__init__(message)
        self.is_near = is_near


class Network(Protocol):
    """A network as its author wrote it; see ``sources`` for PyTorch's and ``foreign`` for ONNX.

    Attributes:
        name: For people.
        input_shape: Of one image, as the file declares it, None for a free dimension; None where
            nothing declares it.
        input_dtype: What the network takes.
        batch_size: The only batch size that it takes; None for any.
    """

    name: str
    input_shape: tuple[int | None, ...] | None
    input_dtype: np.dtype[Any]
    batch_size: int | None

    def run(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return what the network returns for a batch.

        Args:
            inputs: Shape (N, ...), of ``input_dtype``.

        Raises:
            ModelError: It fails, or returns anything but one array.
        """
        ...

    def compare_statistics(self, inputs: NDArray[Any]) -> float | None:
        """Return how far inputs are from those of the training, by what the network kept of them.

        The first batch normalisation keeps mean and variance of what it was given in the training,
        and a quantised input its range.

        Args:
            inputs: Shape (N, ...), of ``input_dtype``.

        Returns:
            By batch normalisation: mean over its channels of the distance of the means, in standard
            deviations, and of the logarithm of the standard deviations. By a range: the clipped
            part of it, and the logarithm of the largest values. None if nothing was kept.
        """
        ...


@dataclass(frozen=True)
class Layout:
    """The form of one image in the network's input.

    Attributes:
        shape: Without the batch.
        fit: How 28 x 28 becomes 32 x 32: ``padded`` with background, ``zero-padded`` after scaling,
            or ``resized`` bilinearly as Pillow and torchvision do; empty for 28 x 28.
    """

    shape: tuple[int, ...]
    fit: str = ""

    def __str__(self) -> str:
        """Return its name, as ``--layout`` takes it."""
        return "x".join(map(str, self.shape)) + (f"-{self.fit}" if self.fit else "")

    @property
    def channels(self) -> int:
        """Planes of one image: 1, or 3 equal ones."""
        return 3 if math.prod(self.shape) % 3 == 0 else 1

    @property
    def is_channels_last(self) -> bool:
        """Whether three channels come last."""
        return self.channels == 3 and self.shape[-1] == 3


def _list_layouts() -> list[Layout]:
    """List the layouts, the plainest first."""
    layouts = []
    for side, fits in ((28, ("",)), (32, ("padded", "resized", "zero-padded"))):
        n = side * side
        shapes: list[tuple[int, ...]] = [(1, side, side), (side, side, 1), (side, side), (n,)]
        shapes += [(3, side, side), (side, side, 3), (1, n), (n, 1)]
        layouts += [Layout(shape, fit) for fit in fits for shape in shapes]
    return layouts


LAYOUTS = {str(layout): layout for layout in _list_layouts()}


@dataclass(frozen=True)
class PixelConvention:
    """The numbers that a network expects for an image: ``(image * scale - mean) / std``.

    Attributes:
        scale: Factor from an image's values, 0..255, to 0..1 or whatever ``mean`` is given in.
        mean: Subtracted after scaling; one number, or one for each of three channels.
        std: Divides what is left; likewise.
        layout: One of ``LAYOUTS``.
        inverted: Whether it takes dark ink on a bright background: 255 - image.
    """

    scale: float = 1 / 255
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    layout: str = "1x28x28"
    inverted: bool = False

    def __post_init__(self) -> None:
        """Refuse what no network can have been trained with."""
        means, stds = self.means, self.stds
        is_finite = bool(np.isfinite([self.scale, *means, *stds]).all())
        if not (is_finite and self.scale > 0 and min(stds) > 0):
            raise UsageError(
                f"expected a positive scale and standard deviation and a finite mean, got "
                f"scale {self.scale}, mean {self.mean}, standard deviation {self.std}"
            )
        if self.layout not in LAYOUTS:
            raise UsageError(f"no layout {self.layout!r}; there are: {', '.join(LAYOUTS)}")
        if {len(means), len(stds)} - {1, self.channels}:
            raise UsageError(
                f"{len(means)} means and {len(stds)} standard deviations do not fit the "
                f"{self.channels} channels of layout {self.layout}"
            )

    @property
    def channels(self) -> int:
        """Channels of the layout."""
        return LAYOUTS[self.layout].channels

    @property
    def means(self) -> tuple[float, ...]:
        """The means, as a tuple of one or of three."""
        return self.mean if isinstance(self.mean, tuple) else (self.mean,)

    @property
    def stds(self) -> tuple[float, ...]:
        """The standard deviations, likewise."""
        return self.std if isinstance(self.std, tuple) else (self.std,)

    @property
    def scaling(self) -> Scaling:
        """Scale, means and standard deviations."""
        return self.scale, self.means, self.stds

    @property
    def pixels(self) -> str:
        """The scale in words."""
        for scale in SCALES:
            if scale.scaling == self.scaling:
                return scale.text
        return f"(image * {self.scale:.6g} - {self.mean}) / {self.std}"

    def __str__(self) -> str:
        """Return the convention in words."""
        polarity = "black on white" if self.inverted else "white on black"
        return f"{self.layout}, {self.pixels}, {polarity}"

    def to_inputs(self, images: NDArray[np.uint8], dtype: np.dtype[Any] = FLOAT32) -> NDArray[Any]:
        """Bring images to the form that the network expects, as the exported graph does.

        Args:
            images: Shape (N, 28, 28), uint8, 0 = background, 255 = full ink.
            dtype: Of the network's input.

        Returns:
            Shape (N, *layout), of that dtype.
        """
        layout = LAYOUTS[self.layout]
        values = images.astype(np.float32)
        if layout.fit == "padded":
            values = np.pad(values, ((0, 0), (2, 2), (2, 2)))
        if layout.fit == "resized":
            values = resize(values)
        if self.inverted:
            values = 255 - values
        values = values[:, np.newaxis] * np.float32(self.scale)  # (N, 1, side, side)
        means, stds = (
            np.asarray(one, np.float32).reshape(-1, 1, 1) for one in (self.means, self.stds)
        )
        values = (values - means) / stds
        if layout.fit == "zero-padded":
            values = np.pad(values, ((0, 0), (0, 0), (2, 2), (2, 2)))
        if layout.channels == 3:
            values = np.broadcast_to(values, (len(values), 3, *values.shape[2:]))
        if layout.is_channels_last:
            values = values.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(values.reshape(len(values), *layout.shape)).astype(dtype)


@dataclass(frozen=True)
class Scale:
    """A usual scale of pixels: its name as ``--input-scale`` takes it, and in words.

    Of one plane, -1..1 is much more usual than ImageNet's scale or -0.5..0.5, and few networks tell
    them apart; those are rare, see ``choose``.
    """

    name: str
    text: str
    scale: float
    means: tuple[float, ...] = (0.0,)
    stds: tuple[float, ...] = (1.0,)
    is_rare: bool = False

    @property
    def scaling(self) -> Scaling:
        """Scale, means and standard deviations."""
        return self.scale, self.means, self.stds


# The plainest first.
SCALES = (
    Scale("0..1", "pixels 0..1", 1 / 255),
    Scale("0..255", "pixels 0..255", 1.0),
    Scale("-1..1", "pixels -1..1", 1 / 255, (0.5,), (0.5,)),
    Scale("mnist", "MNIST's mean 0.1307 and std 0.3081", 1 / 255, (MNIST_MEAN,), (MNIST_STD,)),
    Scale("-0.5..0.5", "pixels -0.5..0.5", 1 / 255, (0.5,), is_rare=True),
    Scale("imagenet", "ImageNet's means and stds", 1 / 255, IMAGENET_MEAN, IMAGENET_STD),
    Scale(
        "imagenet-gray", "ImageNet's mean 0.449 and std 0.226", 1 / 255, (0.449,), (0.226,), True
    ),
    Scale("imagenet-red", "ImageNet's mean 0.485 and std 0.229", 1 / 255, (0.485,), (0.229,), True),
)


def resize(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Resize 28 x 28 to 32 x 32 bilinearly, bit for bit as Pillow does, and so torchvision.

    Pillow resizes rows, rounds, resizes columns and rounds again; halves are rounded up.

    Args:
        images: Shape (N, 28, 28), values 0..255.

    Returns:
        Shape (N, 32, 32).
    """
    weights = resize_weights()
    wide = np.floor(images @ weights.T + np.float32(0.5))
    return np.asarray(np.floor(weights @ wide + np.float32(0.5)), np.float32)


def resize_weights() -> NDArray[np.float32]:
    """Return the bilinear weights from 28 to 32 pixels, shape (32, 28)."""
    weights = np.zeros((32, 28), np.float32)
    for row in range(32):
        place = min(max((row + 0.5) * 28 / 32 - 0.5, 0), 27)
        left = min(int(place), 26)
        weights[row, left : left + 2] = 1 - (place - left), place - left
    return weights


@dataclass(frozen=True)
class Statement:
    """What a user states of the convention; None is measured.

    Attributes:
        layout: One of ``LAYOUTS``.
        input_scale: The name of one of ``SCALES``.
        mean: Of pixels in 0..1.
        std: Of pixels in 0..1.
        inverted: Whether the network takes dark ink on a bright background.
        convention: All of it, which excludes the others.
    """

    layout: str | None = None
    input_scale: str | None = None
    mean: float | None = None
    std: float | None = None
    inverted: bool | None = None
    convention: PixelConvention | None = None

    def __post_init__(self) -> None:
        """Refuse names that do not exist and statements that contradict each other."""
        if self.layout is not None and self.layout not in LAYOUTS:
            raise UsageError(f"no layout {self.layout!r}; there are: {', '.join(LAYOUTS)}")
        names = [scale.name for scale in SCALES]
        if self.input_scale is not None and self.input_scale not in names:
            raise UsageError(f"no input scale {self.input_scale!r}; there are: {', '.join(names)}")
        if self.input_scale is not None and (self.mean, self.std) != (None, None):
            raise UsageError("state the input scale or mean and std, not both")
        if (self.mean is None) != (self.std is None):
            raise UsageError("state mean and std together")
        parts = (self.layout, self.input_scale, self.mean, self.std, self.inverted)
        if self.convention is not None and any(one is not None for one in parts):
            raise UsageError("state the whole convention or parts of it, not both")

    @property
    def is_empty(self) -> bool:
        """Whether nothing is stated."""
        return self == Statement()

    def allows(self, candidate: PixelConvention) -> bool:
        """Return whether a convention agrees with what is stated."""
        if self.convention is not None:
            return candidate == self.convention
        return (
            self.layout in (None, candidate.layout)
            and self.inverted in (None, candidate.inverted)
            and self.scaling in (None, candidate.scaling)
        )

    @cached_property
    def scaling(self) -> Scaling | None:
        """Scale, means and standard deviations that are stated."""
        if self.mean is not None and self.std is not None:
            return PixelConvention().scale, (self.mean,), (self.std,)
        for scale in SCALES:
            if scale.name == self.input_scale:
                return scale.scaling
        return None


@dataclass(frozen=True, eq=False)
class Trial:
    """What a network answered under one convention.

    Attributes:
        convention: The form of its input.
        output: What it returned, one of ``OUTPUTS``.
        logits: Its answers, shape (N, classes).
        labels: True classes, shape (N,).
        distance: From the input of the training; see ``Network.compare_statistics``.
    """

    convention: PixelConvention
    output: str
    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    distance: float | None = None

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """Predicted classes, shape (N,)."""
        return np.asarray(self.logits.argmax(axis=1))

    @property
    def accuracy(self) -> float:
        """Share of correct answers."""
        return float((self.predicted == self.labels).mean())

    @cached_property
    def temperature(self) -> float:
        """The temperature at which confidence is accuracy; 1 at the scale of the training."""
        return fit_temperature(self.logits, self.labels)

    @cached_property
    def losses(self) -> NDArray[np.float64]:
        """Cross-entropy of each answer at that temperature, shape (N,)."""
        return cross_entropies(self.logits, self.labels, self.temperature)

    @property
    def loss(self) -> float:
        """Mean cross-entropy: like accuracy a measure of the answers, and a finer one."""
        return float(self.losses.mean())


@dataclass(frozen=True)
class TriedConvention:
    """One row of what was tried: a convention in words, on how many images, with what result."""

    convention: str
    n_images: int
    accuracy: float
    loss: float


@dataclass(frozen=True)
class MeasuredConvention:
    """The convention that a network was found, or stated, to expect.

    Attributes:
        convention: The form of its input.
        output: What it returns, one of ``OUTPUTS``.
        n_images: Training images that it was measured on.
        accuracy: On those.
        stated: Whether the user stated any of it.
        runner_up: The best convention that is not equivalent, in words; None if there is none.
        runner_up_accuracy: Its accuracy on the same images.
        stands_out: Whether the runner-up's accuracy is lower by more than chance.
        by_statistics: Whether what it kept of the training's input told the convention.
        equivalent: Conventions that give the same answers, in words; the plainest was taken.
        tried: All that was tried, the best first.
    """

    convention: PixelConvention
    output: str
    n_images: int
    accuracy: float
    stated: bool
    runner_up: str | None
    runner_up_accuracy: float | None
    stands_out: bool
    by_statistics: bool
    equivalent: tuple[str, ...]
    tried: tuple[TriedConvention, ...] = ()

    @property
    def margin(self) -> float | None:
        """Accuracy above that of the runner-up."""
        if self.runner_up_accuracy is None:
            return None
        return self.accuracy - self.runner_up_accuracy

    def to_text(self) -> str:
        """Return what was measured, a line or three."""
        verb = "stated and measured" if self.stated else "measured"
        lines = [
            f"input: {self.convention}; output: {self.output}",
            f"  {verb} on {self.n_images:,} training images: {self.accuracy:.2%}",
        ]
        if self.margin is not None:
            lines[1] += (
                f"; runner-up {self.runner_up_accuracy:.2%} ({self.runner_up}), "
                f"margin {100 * self.margin:.2f} points"
            )
        if self.by_statistics:
            lines.append("  its batch normalisation or quantisation fits this input")
        elif not self.stands_out and not self.stated:
            lines.append("  accuracy alone does not tell these two apart; state it to be sure")
        if self.equivalent:
            shown = "; ".join(self.equivalent[:3]) + ("; ..." if len(self.equivalent) > 3 else "")
            lines.append(f"  equivalent for this network, the plainest was taken: {shown}")
        return "\n".join(lines)


def measure_convention(
    network: Network,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    n_classes: int,
    *,
    stated: Statement = Statement(),
    force: bool = False,
) -> MeasuredConvention:
    """Find the input convention of a network by its answers to labelled images.

    Every convention that the network takes answers the first images; the best answer all of them.
    Among those whose accuracy the images cannot tell apart ``choose`` decides.

    Args:
        network: Any; nothing of it is changed.
        images: Training images, shape (N, 28, 28), uint8; at most ``N_IMAGES`` are used.
        labels: Their classes, shape (N,).
        n_classes: Classes of the data set.
        stated: What is known of the convention; it is compared with the measurement.
        force: Take what is stated whatever the measurement says.

    Raises:
        ModelError: The network does not run, or not the same way twice or in any batch.
        ConventionError: No convention stands out, or the stated one is contradicted.
        UsageError: What is stated cannot be fed to the network.
    """
    rows = np.random.default_rng(0).permutation(len(images))[:N_IMAGES]
    images, labels = images[rows], labels[rows]
    layouts, merged = find_layouts(network, images, n_classes)
    candidates = list(list_candidates(layouts, network.input_dtype, stated))
    if not any(map(stated.allows, candidates)):
        taken = ", ".join([str(one) for one in layouts] + [name for _, name in merged])
        what = stated.layout or (stated.convention and stated.convention.layout) or "what is stated"
        raise UsageError(f"the network {network.name} does not take {what}; it takes {taken}")
    first = [_try(network, one, images[:N_FIRST_IMAGES], labels) for one in candidates]
    if not any(first):
        raise ModelError(f"the network {network.name} returns numbers that are not finite")
    finalists = _choose_finalists([one for one in first if one], stated)
    trials = [one for each in finalists if (one := _try(network, each.convention, images, labels))]
    allowed = [one for one in trials if stated.allows(one.convention)]
    if not allowed:
        raise ModelError(f"the network {network.name} returns numbers that are not finite")
    best = choose(trials)
    chosen = best if stated.is_empty else choose(allowed)
    tried = _tabulate(trials, [one for one in first if one])
    if not force:
        _refuse_unclear(network, chosen, best, n_classes, tried)
    others = [one for one in trials if one is not chosen]
    equivalent = [one for one in others if is_equivalent(chosen, one)]
    rivals = [one for one in others if one not in equivalent]
    runner_up = max(rivals, key=lambda one: (one.accuracy, -one.loss), default=None)
    words = [str(one.convention) for one in equivalent]
    words += [name for layout, name in merged if str(layout) == chosen.convention.layout]
    return MeasuredConvention(
        chosen.convention,
        chosen.output,
        len(images),
        chosen.accuracy,
        not stated.is_empty,
        str(runner_up.convention) if runner_up else None,
        runner_up.accuracy if runner_up else None,
        runner_up is None or _is_more_accurate(chosen, runner_up),
        chosen in _keep_near(trials),
        tuple(words),
        tried,
    )


def list_candidates(
    layouts: Sequence[Layout], dtype: np.dtype[Any], stated: Statement
) -> Iterator[PixelConvention]:
    """Yield the conventions to try, the plainest first."""
    scales = [one.scaling for one in SCALES]
    if dtype == np.uint8:
        scales = [PixelConvention(1.0).scaling]
    if stated.scaling and stated.scaling not in scales:
        scales.append(stated.scaling)
    seen = set()
    for layout, inverted, (scale, means, stds) in itertools.product(layouts, (False, True), scales):
        if len(means) > layout.channels:
            continue
        if layout.fit == "zero-padded" and not (any(means) or inverted):
            continue  # the same as padded
        mean, std = (one[0] if len(one) == 1 else one for one in (means, stds))
        candidate = PixelConvention(scale, mean, std, str(layout), inverted)
        seen.add(candidate)
        yield candidate
    full = stated.convention
    if full and full not in seen and full.layout in map(str, layouts):
        yield full


def find_layouts(
    network: Network, images: NDArray[np.uint8], n_classes: int
) -> tuple[list[Layout], list[tuple[Layout, str]]]:
    """Find the layouts that a network takes, and check that it answers each image on its own.

    A network that flattens its input takes several in the same way; those are merged.

    Returns:
        The layouts, the plainest first, and the merged ones, each with the layout that stands for
        it.

    Raises:
        ModelError: It takes none, or changes its answers from one pass or batch to another.
    """
    possible = [one for one in LAYOUTS.values() if _fits(network.input_shape, one)]
    if not possible:
        declared = "x".join(str(size or "?") for size in network.input_shape or ())
        raise ModelError(
            f"the network {network.name} takes {declared or 'single numbers'}: only images of "
            "28 x 28 and 32 x 32 pixels, grey or with three equal channels, are supported"
        )
    taken = _probe(network, possible, images, n_classes)
    check_behaviour(network, taken[0][0], images)
    kept: list[tuple[Layout, NDArray[np.float32]]] = []
    merged = []
    for layout, outputs in taken:
        same = [one for one, other in kept if _is_same(outputs, other) and one.fit == layout.fit]
        if same:
            merged.append((same[0], str(layout)))
        else:
            kept.append((layout, outputs))
    return [layout for layout, _ in kept], merged


def _probe(
    network: Network, layouts: Sequence[Layout], images: NDArray[np.uint8], n_classes: int
) -> list[tuple[Layout, NDArray[np.float32]]]:
    """Return the layouts that a network takes with its outputs, at the first batch size it takes.

    Raises:
        ModelError: It takes none; the message is of the attempt that came furthest.
    """
    failures: list[tuple[int, str]] = []
    taken = []
    for batch_size in [network.batch_size] if network.batch_size else BATCH_SIZES:
        for layout in layouts:
            some = _repeat(images, batch_size)
            inputs = PixelConvention(layout=str(layout)).to_inputs(some, network.input_dtype)
            try:
                outputs = network.run(inputs)
                check_outputs(network.name, outputs, batch_size, n_classes)
            except ModelError as error:
                failures.append((_rank(error), str(error)))
            else:
                taken.append((layout, outputs))
        if taken:
            if batch_size != BATCH_SIZES[0]:
                network.batch_size = batch_size
            return taken
        if max(failures)[0] > 0:
            break  # it ran: another batch size would not help
    raise ModelError(max(failures, key=lambda one: one[0])[1])


def check_outputs(name: str, outputs: NDArray[np.float32], n: int, n_classes: int) -> None:
    """Check that a network returned one row for each image, one number for each class.

    Raises:
        NetworkOutputError: It did not.
    """
    if outputs.shape == (n, n_classes):
        return
    if outputs.ndim == 2 and len(outputs) == n:
        raise NetworkOutputError(
            f"the network {name} has {outputs.shape[1]} classes: it returns {outputs.shape} for "
            f"{n} images, expected {(n, n_classes)}: one logit for each class of the data set",
            is_near=True,
        )
    raise NetworkOutputError(
        f"the network {name} returns {outputs.shape} for {n} images, expected {(n, n_classes)}: "
        "one row for each image, one number for each class"
    )


def check_behaviour(network: Network, layout: Layout, images: NDArray[np.uint8]) -> None:
    """Check that an image gets the same answer in every pass and in any batch.

    Raises:
        ModelError: It does not; what was left in training mode does that.
    """
    convention = PixelConvention(layout=str(layout))
    half = 8
    some = convention.to_inputs(_repeat(images, 3 * half), network.input_dtype)
    first = run_batches(network, some[: 2 * half])
    if not _is_same(first, run_batches(network, some[: 2 * half])):
        raise ModelError(
            f"the network {network.name} answers at random: two passes over the same images "
            "differ; Dropout was left in training mode, call .eval() before saving"
        )
    others = run_batches(network, np.concatenate([some[:half], some[2 * half :]]))
    alone = np.concatenate([run_batches(network, some[row : row + 1]) for row in range(half)])
    if not (_is_same(first[:half], others[:half]) and _is_same(first[:half], alone)):
        raise ModelError(
            f"the network {network.name} changes an image's answer with the rest of its batch; "
            "BatchNorm was left in training mode, call .eval() before saving"
        )


def run_batches(
    network: Network, inputs: NDArray[Any], *, batch_size: int = 250
) -> NDArray[np.float32]:
    """Run a network on any number of inputs; a fixed batch is filled by repeating images.

    Args:
        network: Any.
        inputs: Shape (N, ...), N at least 1.
        batch_size: Images in one pass, where the network does not fix it.

    Returns:
        Shape (N, classes).

    Raises:
        ModelError: The network fails.
    """
    size = network.batch_size or batch_size
    rows = []
    for start in range(0, len(inputs), size):
        batch = inputs[start : start + size]
        full = _repeat(batch, size) if network.batch_size else batch
        outputs = network.run(full)
        if outputs.ndim != 2 or len(outputs) != len(full):
            raise NetworkOutputError(
                f"the network {network.name} returns {outputs.shape} for {len(full)} images, "
                "expected one row for each; squeeze() drops a batch of one, flatten(1) keeps it"
            )
        rows.append(outputs[: len(batch)])
    return np.concatenate(rows)


def to_logits(outputs: NDArray[np.float32], output: str) -> NDArray[np.float32]:
    """Return logits for what a network returns: of probabilities their logarithm.

    Independent probabilities are scores like any other. Their logarithm would tell more, but
    onnxruntime's Sigmoid returns 0 for what is 1e-7 or less.
    """
    if output != "probabilities":
        return outputs
    return np.asarray(np.log(np.maximum(outputs, np.float32(MIN_PROBABILITY))), np.float32)


def name_outputs(outputs: NDArray[np.float32]) -> str:
    """Return what a network's outputs are, one of ``OUTPUTS``, by their values."""
    if outputs.min() >= 0 and outputs.max() <= 1.001:
        sums_to_one = bool(np.abs(outputs.sum(axis=1) - 1).max() < 0.01)
        return "probabilities" if sums_to_one else "independent probabilities"  # of sigmoids
    totals = np.exp(outputs.astype(np.float64).clip(max=1)).sum(axis=1)
    is_log = outputs.max() <= 0.001 and np.abs(totals - 1).max() < 0.01
    return "log-probabilities" if is_log else "logits"


def choose(trials: Sequence[Trial]) -> Trial:
    """Choose the convention to keep; ``trials`` come with the plainest first.

    What the network kept of the training's input comes first, if anything: one that was trained for
    seconds may answer better under another convention than its own, and so may one in 8 bits, where
    clipping raises the contrast. Of one layout and polarity only the scales nearest to the
    training's are compared: augmentation may change an image's size, but not its scale.

    Where accuracy does not tell conventions apart, the statistics do, or a rare one is out; then
    cross-entropy decides: at the network's own scale if that fits one of them, as after most
    trainings, else at a fitted temperature. Networks almost without a bias answer alike to pixels
    0..1 and 0..255; there the temperature is near 1 at the scale of the training, and far from it
    at the other.
    """
    trials = _keep_near(trials) or trials
    best = max(trials, key=lambda one: one.accuracy)
    tied = [one for one in trials if not _is_more_accurate(best, one)]
    if near := _keep_near(tied):
        limit = min(map(_get_distance, near)) * SAME_DISTANCE_RATIO
        tied = [one for one in near if _get_distance(one) <= limit]
    else:
        tied = [one for one in tied if not is_rare(one.convention)] or tied
    distances = [abs(math.log(one.temperature)) for one in tied]
    limit = min(distances) + math.log(SCALE_RATIO)
    tied = [one for one, distance in zip(tied, distances, strict=True) if distance <= limit]
    own = [cross_entropies(one.logits, one.labels, 1.0) for one in tied]
    lowest = min(range(len(tied)), key=lambda row: float(own[row].mean()))
    if abs(math.log(tied[lowest].temperature)) > math.log(OWN_SCALE_RATIO):
        own = [one.losses for one in tied]
        lowest = min(range(len(tied)), key=lambda row: float(own[row].mean()))
    return next(
        one for one, losses in zip(tied, own, strict=True) if not _is_lower(own[lowest], losses)
    )


def _keep_near(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that batch normalisation or quantisation allows, the nearest first.

    Of one layout and polarity these are the scales that the distance does not tell apart.
    Empty if the network kept nothing of its input, or that of other images.
    """
    near = sorted(trials, key=_get_distance)
    if not near or _get_distance(near[0]) > MAX_DISTANCE:
        return []
    limit = _get_distance(near[0]) + OTHER_INPUT_DISTANCE
    limits: dict[tuple[str, bool], float] = {}
    for one in near:
        of_scales = min(limit, _get_distance(one) * SAME_DISTANCE_RATIO)
        limits.setdefault((one.convention.layout, one.convention.inverted), of_scales)
    return [
        one
        for one in near
        if _get_distance(one) <= limits[one.convention.layout, one.convention.inverted]
    ]


def _get_distance(trial: Trial) -> float:
    return math.inf if trial.distance is None else trial.distance


def is_rare(convention: PixelConvention) -> bool:
    """Return whether a convention is kept only if its accuracy stands out, or if it is stated."""
    rare = [one.scaling for one in SCALES if one.is_rare]
    return convention.scaling in rare or LAYOUTS[convention.layout].fit == "zero-padded"


def is_equivalent(one: Trial, other: Trial) -> bool:
    """Return whether two conventions give the same labels with practically the same confidence."""
    return bool((one.predicted == other.predicted).all()) and abs(one.loss - other.loss) < 1e-3


def _is_more_accurate(one: Trial, other: Trial) -> bool:
    """Compare on the same images, by those that only one of the two answers right (McNemar)."""
    first, second = one.predicted == one.labels, other.predicted == other.labels
    gained, lost = int((first & ~second).sum()), int((second & ~first).sum())
    return gained - lost > SIGNIFICANT_Z * math.sqrt(max(gained + lost, 1))


def _is_lower(losses: NDArray[np.float64], others: NDArray[np.float64]) -> bool:
    """Compare cross-entropies of the same images."""
    difference = others - losses
    error = difference.std() / math.sqrt(len(difference))
    return bool(difference.mean() > SIGNIFICANT_Z * error + 1e-6)


def tabulate(tried: Sequence[TriedConvention], *, n_rows: int = 12) -> str:
    """Return a table of what was tried, the best first."""
    lines = ["accuracy  images  loss   convention"]
    lines += [
        f"{one.accuracy:8.2%}  {one.n_images:6,}  {one.loss:5.3f}  {one.convention}"
        for one in tried[:n_rows]
    ]
    if len(tried) > n_rows:
        lines.append(f"... {len(tried) - n_rows} more")
    return "\n".join(lines)


def _try(
    network: Network,
    convention: PixelConvention,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
) -> Trial | None:
    """Run a network under a convention; None if it returns numbers that are not finite."""
    inputs = convention.to_inputs(images, network.input_dtype)
    outputs = run_batches(network, inputs)
    if not np.isfinite(outputs).all():
        return None
    output = name_outputs(outputs)
    distance = network.compare_statistics(inputs[:N_FIRST_IMAGES])
    return Trial(convention, output, to_logits(outputs, output), labels[: len(images)], distance)


def _choose_finalists(trials: Sequence[Trial], stated: Statement) -> list[Trial]:
    best = max(one.accuracy for one in trials)
    near = [one for one in trials if one.accuracy >= best - FINALIST_ACCURACY_LOST]
    near.sort(key=lambda one: (-one.accuracy, one.loss))
    kept = [one for one in near if not is_rare(one.convention)][:N_FINALISTS]
    kept += _keep_near(near)[:N_FINALISTS]
    kept += [one for one in near if is_rare(one.convention)][: N_FINALISTS // 2]
    if not stated.is_empty:
        allowed = [one for one in trials if stated.allows(one.convention)]
        kept += sorted(allowed, key=lambda one: (-one.accuracy, one.loss))[:N_FINALISTS]
    return [one for one in trials if one in kept]  # the plainest first


def _tabulate(trials: Sequence[Trial], first: Sequence[Trial]) -> tuple[TriedConvention, ...]:
    """List what was tried, the finalists first."""
    finalists = {one.convention for one in trials}
    groups = [trials, [one for one in first if one.convention not in finalists]]
    return tuple(
        TriedConvention(str(one.convention), len(one.labels), one.accuracy, one.loss)
        for group in groups
        for one in sorted(group, key=lambda one: -one.accuracy)
    )


def _refuse_unclear(
    network: Network,
    chosen: Trial,
    best: Trial,
    n_classes: int,
    tried: tuple[TriedConvention, ...],
) -> None:
    n_images = len(best.labels)
    least = 1 / n_classes + MIN_SHARE_ABOVE_CHANCE * (1 - 1 / n_classes)
    if best.accuracy < least:
        raise ConventionError(
            f"no input convention stands out for the network {network.name}: the best of "
            f"{len(tried)} reaches {best.accuracy:.1%} of {n_images:,} training images, expected "
            f"{least:.0%} or more: {_guess_reason(best, n_classes, least)}",
            tabulate(tried),
        )
    if _is_more_accurate(best, chosen):
        raise ConventionError(
            f"the measurement contradicts what is stated for the network {network.name}: "
            f"{chosen.convention} reaches {chosen.accuracy:.2%} of {n_images:,} training images, "
            f"{best.convention} {best.accuracy:.2%}; leave the statement out, or add --force",
            tabulate(tried),
        )


def _guess_reason(best: Trial, n_classes: int, least: float) -> str:
    """Return why a network answers wrongly: its classes may be in another order."""
    counts = np.zeros((n_classes, n_classes))
    np.add.at(counts, (best.predicted, best.labels), 1)
    names = counts.argmax(axis=1)
    if len(set(names.tolist())) == n_classes and counts.max(axis=1).sum() >= least * counts.sum():
        order = ", ".join(map(str, names))
        return f"its outputs stand for the classes {order}, in this order; reorder its last layer"
    return "it is untrained, broken or made for another task"


def _fits(declared: tuple[int | None, ...] | None, layout: Layout) -> bool:
    if declared is None:
        return True
    return len(declared) == len(layout.shape) and all(
        one in (None, size) for one, size in zip(declared, layout.shape, strict=True)
    )


def _is_same(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Compare outputs up to rounding; what is not finite compares equal to itself."""
    spread = float(np.nan_to_num(np.ptp(other), posinf=1, neginf=1)) or 1.0
    return bool(np.allclose(one, other, rtol=0, atol=ROW_ATOL * spread, equal_nan=True))


def _rank(error: ModelError) -> int:
    """Return how far a network came: it failed, returned something odd, or other classes."""
    if not isinstance(error, NetworkOutputError):
        return 0
    return 2 if error.is_near else 1


def _repeat(rows: NDArray[Any], n: int) -> NDArray[Any]:
    """Return n rows, repeating them from the first where there are fewer."""
    return rows[np.arange(n) % len(rows)]
