"""The temperature: what makes a network's confidence mean its accuracy."""

import math

from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import cross_entropy


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the number that divides logits so that confidence means accuracy.

    Args:
        logits: Shape (N, classes), of images the network was not trained on.
        labels: True classes, shape (N,).

    Source: C. Guo et al., On Calibration of Modern Neural Networks, 2017.
    """

    def loss(log_temperature: float) -> float:
        return float(cross_entropy(logits / math.exp(log_temperature), labels))

    best = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)), method="bounded")
    return math.exp(float(best.x))
