"""Calibration of confidence: a temperature, and a threshold below which an answer is rejected."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Of the held-out images of each source, each of which shows one of the classes. The int8 file
# rejects a few more, and is to reject at most 0.5 % of them.
MAX_REJECTED_SHARE = 0.004
# Of all images, by 95 % confidence: few held-out images say little about the rarest answers.
MAX_TRUE_REJECTED_SHARE = 0.01
SIGNIFICANCE = 0.05
# Where a network is as sure of every held-out image, the least sure of them is no sign of anything,
# and rounding in 8 bits would reject many.
MAX_THRESHOLD = 0.9


@dataclass(frozen=True)
class Calibration:
    """What makes a network's confidence mean its accuracy.

    Attributes:
        temperature: Divides the logits.
        rejection_threshold: Smallest confidence of an accepted answer, 0..1; 0 rejects none.
        rejected_shares: Share of the validation images below the threshold, by their source:
            the data set's name, or ``unipen``.
    """

    temperature: float = 1.0
    rejection_threshold: float = 0.0
    rejected_shares: Mapping[str, float] = field(default_factory=dict)

    def measure_rejected(self, logits: NDArray[np.float32]) -> float:
        """Return the share of answers below the threshold, given their logits, undivided."""
        confidences = measure_confidences(logits, self.temperature)
        return float(np.mean(confidences < self.rejection_threshold))


@dataclass(frozen=True)
class Validation:
    """What a network answered to images that it was not trained on.

    Attributes:
        logits: Shape (N, classes), float32.
        labels: True classes, shape (N,), int64.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]


def calibrate(
    validation: Mapping[str, Validation], *, temperature: float | None = None
) -> Calibration:
    """Fit the temperature, and choose the largest threshold that rejects few images of each source.

    Few are ``MAX_REJECTED_SHARE`` of the validation images and, with 95 % confidence,
    ``MAX_TRUE_REJECTED_SHARE`` of all, whether the answers to them were right or wrong. With fewer
    than ``count_least_images()`` validation images no threshold is known to do so, and none is set.

    Args:
        validation: What the network answered, by source.
        temperature: Use this one instead of fitting it.

    Source: C. Guo et al., On Calibration of Modern Neural Networks, 2017.
    """
    if temperature is None:
        logits = np.concatenate([one.logits for one in validation.values()])
        labels = np.concatenate([one.labels for one in validation.values()])
        temperature = fit_temperature(logits, labels)
    confidences = {
        source: measure_confidences(one.logits, temperature) for source, one in validation.items()
    }
    threshold = min(_choose_threshold(found) for found in confidences.values())
    shares = {source: float(np.mean(found < threshold)) for source, found in confidences.items()}
    return Calibration(temperature, threshold, shares)


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the temperature with the least cross-entropy, by golden-section search.

    The true class has the probability (N + 1) / (N + 2) and not 1, the others share the rest: that
    N answers were right does not show that all are. Otherwise a network without an error among few
    images would become sure of everything.

    Args:
        logits: Shape (N, classes); of any size, around which the temperature is searched for.
        labels: True classes, shape (N,).

    Source: J. Platt, Probabilistic Outputs for Support Vector Machines, 1999, section 2.2.
    """
    n_images, n_classes = logits.shape
    true = logits[np.arange(n_images), labels].astype(np.float64)
    others = (logits.sum(axis=1, dtype=np.float64) - true) / (n_classes - 1)
    lead = float((true - others).mean()) / (n_images + 2)
    size = max(float((logits.max(axis=1) - logits.mean(axis=1)).mean()), 1e-6)
    low, high = math.log(size / 250), math.log(size * 20)
    golden = (math.sqrt(5) - 1) / 2

    def loss(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        return float(cross_entropies(logits, labels, temperature).mean() + lead / temperature)

    places = [high - golden * (high - low), low + golden * (high - low)]
    losses = [loss(place) for place in places]
    while high - low > 1e-6:
        if losses[0] <= losses[1]:
            high, places, losses = places[1], [0.0, places[0]], [0.0, losses[0]]
            places[0] = high - golden * (high - low)
            losses[0] = loss(places[0])
        else:
            low, places, losses = places[0], [places[1], 0.0], [losses[1], 0.0]
            places[1] = low + golden * (high - low)
            losses[1] = loss(places[1])
    return math.exp((low + high) / 2)


def cross_entropies(
    logits: NDArray[np.float32], labels: NDArray[np.int64], temperature: float
) -> NDArray[np.float64]:
    """Return the cross-entropy of each answer, in nats, shape (N,)."""
    scores = logits.astype(np.float64) / temperature
    scores -= scores.max(axis=1, keepdims=True)
    return np.asarray(
        np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(scores)), labels], np.float64
    )


def measure_confidences(
    logits: NDArray[np.float32], temperature: float = 1.0
) -> NDArray[np.float32]:
    """Return the largest probability of each row of logits, shape (N,)."""
    scores = logits / np.float32(temperature)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(1 / weights.sum(axis=1), np.float32)


def count_least_images() -> int:
    """Return the least number of validation images by which a threshold can be set."""
    return math.ceil(math.log(SIGNIFICANCE) / math.log1p(-MAX_TRUE_REJECTED_SHARE))


def _choose_threshold(confidences: NDArray[np.float32]) -> float:
    """Return a threshold that rejects as many as are allowed, midway between two confidences."""
    ordered, n_rejected = np.sort(confidences), _count_rejected(len(confidences))
    if n_rejected is None:
        return 0.0
    return min(float(ordered[max(n_rejected - 1, 0) : n_rejected + 1].mean()), MAX_THRESHOLD)


def _count_rejected(n_images: int) -> int | None:
    """Return how many of the validation images may be rejected; None if no threshold can be set.

    Of all images, a threshold up to the confidence after the k lowest of N rejects a share that
    has the distribution Beta(k + 1, N - k): a tolerance limit, whatever the confidences are like.

    Source: S. Wilks, Determination of Sample Sizes for Setting Tolerance Limits, 1941.
    """
    for n_rejected in range(int(MAX_REJECTED_SHARE * n_images), -1, -1):
        if _binomial_cdf(n_rejected, n_images, MAX_TRUE_REJECTED_SHARE) <= SIGNIFICANCE:
            return n_rejected
    return None


def _binomial_cdf(k: int, n: int, share: float) -> float:
    """Return the probability of at most ``k`` in ``n`` draws of something with that share."""
    logs = (
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1)
        + i * math.log(share) + (n - i) * math.log1p(-share)
        for i in range(k + 1)
    )  # fmt: skip
    return math.fsum(map(math.exp, logs))
