"""Calibration of confidence: a temperature, and a threshold below which an answer is rejected."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Of the images of each source, each of which shows a single digit. At most 0.5 % are to be rejected
# by the int8 file too, which rejects a few more.
MAX_REJECTED_SHARE = 0.004


@dataclass(frozen=True)
class Calibration:
    """What makes a network's confidence mean its accuracy.

    Attributes:
        temperature: Divides the logits.
        rejection_threshold: Smallest confidence of an accepted answer, 0..1.
        rejected_shares: Share of the validation images below the threshold, by their source:
            the data set's name, or ``unipen``.
    """

    temperature: float = 1.0
    rejection_threshold: float = 0.0
    rejected_shares: Mapping[str, float] = field(default_factory=dict)


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

    Few are ``MAX_REJECTED_SHARE``, whether the answers to them were right or wrong.

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

    It is searched for around the size of the logits, which may be any: without an error among the
    answers the least cross-entropy is at 0, which no file can divide by.

    Args:
        logits: Shape (N, classes).
        labels: True classes, shape (N,).
    """
    size = max(float((logits.max(axis=1) - logits.mean(axis=1)).mean()), 1e-6)
    low, high = math.log(size / 250), math.log(size * 20)
    golden = (math.sqrt(5) - 1) / 2

    def loss(log_temperature: float) -> float:
        return float(cross_entropies(logits, labels, math.exp(log_temperature)).mean())

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


def _choose_threshold(confidences: NDArray[np.float32]) -> float:
    """Return a threshold that rejects as many as are allowed, midway between two confidences."""
    ordered = np.sort(confidences)
    n_rejected = int(MAX_REJECTED_SHARE * len(ordered))
    return float(ordered[max(n_rejected - 1, 0) : n_rejected + 1].mean())
