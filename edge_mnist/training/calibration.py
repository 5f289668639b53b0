"""Calibration of confidence: a temperature, and a threshold below which an answer is rejected."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy

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
    scores = torch.from_numpy(np.concatenate([one.logits for one in validation.values()]))
    targets = torch.from_numpy(np.concatenate([one.labels for one in validation.values()]))
    if temperature is None:

        def loss(log_temperature: float) -> float:
            return float(cross_entropy(scores / math.exp(log_temperature), targets))

        best = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)), method="bounded")
        temperature = math.exp(float(best.x))
    confidences = {
        source: measure_confidences(one.logits, temperature) for source, one in validation.items()
    }
    threshold = min(_choose_threshold(found) for found in confidences.values())
    shares = {source: float(np.mean(found < threshold)) for source, found in confidences.items()}
    return Calibration(temperature, threshold, shares)


def measure_confidences(
    logits: NDArray[np.float32], temperature: float = 1.0
) -> NDArray[np.float32]:
    """Return the largest probability of each row of logits, shape (N,)."""
    probabilities = (torch.from_numpy(logits) / temperature).softmax(dim=1)
    return np.asarray(probabilities.amax(dim=1).numpy(), np.float32)


def _choose_threshold(confidences: NDArray[np.float32]) -> float:
    """Return a threshold that rejects as many as are allowed, midway between two confidences."""
    ordered = np.sort(confidences)
    n_rejected = int(MAX_REJECTED_SHARE * len(ordered))
    return float(ordered[max(n_rejected - 1, 0) : n_rejected + 1].mean())
