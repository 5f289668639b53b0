"""Calibration of confidence: a temperature, and a threshold below which an answer is rejected."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy

REJECTED_SHARE = 0.002  # of the calibration images, each of which shows a single digit


@dataclass(frozen=True)
class Calibration:
    """What makes a network's confidence mean its accuracy.

    Attributes:
        temperature: Divides the logits.
        rejection_threshold: Smallest confidence of an accepted answer, 0..1.
    """

    temperature: float = 1.0
    rejection_threshold: float = 0.0


def calibrate(
    logits: NDArray[np.float32], labels: NDArray[np.int64], *, temperature: float | None = None
) -> Calibration:
    """Fit the temperature, and choose the threshold that rejects ``REJECTED_SHARE`` of the images.

    Args:
        logits: Shape (N, classes), float32, of images that the network was not trained on.
        labels: True classes, shape (N,), int64.
        temperature: Use this one instead of fitting it.

    Source: C. Guo et al., On Calibration of Modern Neural Networks, 2017.
    """
    scores, targets = torch.from_numpy(logits), torch.from_numpy(labels)
    if temperature is None:

        def loss(log_temperature: float) -> float:
            return float(cross_entropy(scores / math.exp(log_temperature), targets))

        best = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)), method="bounded")
        temperature = math.exp(float(best.x))
    confidences = (scores / temperature).softmax(dim=1).amax(dim=1)
    return Calibration(temperature, float(torch.quantile(confidences, REJECTED_SHARE)))
