"""Calibration: what few held-out images can tell, and what they cannot."""

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_mnist.training.calibration import (
    MAX_THRESHOLD,
    MAX_TRUE_REJECTED_SHARE,
    Calibration,
    Validation,
    calibrate,
    count_least_images,
    fit_temperature,
    measure_confidences,
)


def draw_logits(
    n: int, rng: np.random.Generator, *, n_classes: int = 5, lead: float = 8.0
) -> Validation:
    """Draw answers of a network that is right, and surer of some images than of others."""
    labels = rng.integers(0, n_classes, n)
    logits = rng.normal(0, 1, (n, n_classes)).astype(np.float32)
    logits[np.arange(n), labels] += lead * rng.random(n).astype(np.float32)
    return Validation(logits, labels)


def one_hot(n: int, lead: float) -> Validation:
    labels = np.arange(n) % 5
    logits: NDArray[np.float32] = np.eye(5, dtype=np.float32)[labels] * np.float32(lead)
    return Validation(logits, labels)


def test_a_threshold_needs_images_enough() -> None:
    rng = np.random.default_rng(0)
    for n, is_set in ((1, False), (5, False), (120, False), (298, False), (299, True), (600, True)):
        found = calibrate({"own": draw_logits(n, rng)})
        assert (found.rejection_threshold > 0) == is_set, n
        assert found.rejected_shares["own"] <= 0.004
    assert count_least_images() == 299
    # One source with too few is enough: nothing is known of what it would lose.
    both = {"own": draw_logits(20, rng), "unipen": draw_logits(5000, rng)}
    assert calibrate(both).rejection_threshold == 0


@pytest.mark.parametrize("n", [299, 480, 700, 2000])
def test_a_threshold_rejects_few_of_all_images(n: int) -> None:
    """Of a hundred calibrations at most five or so reject more than one image in a hundred."""
    rng = np.random.default_rng(n)
    everything = draw_logits(20_000, rng)
    bad = 0
    for _ in range(300):
        rows = rng.integers(0, 20_000, n)
        part = Validation(everything.logits[rows], everything.labels[rows])
        found = calibrate({"own": part}, temperature=1.0)
        bad += found.measure_rejected(everything.logits) > MAX_TRUE_REJECTED_SHARE
    assert bad / 300 < 0.09


def test_equally_sure_answers_are_not_rejected_by_a_hair() -> None:
    found = calibrate({"own": one_hot(1000, 12.0)}, temperature=1.0)
    assert found.rejection_threshold == MAX_THRESHOLD
    assert found.measure_rejected(one_hot(100, 11.9).logits) == 0


@pytest.mark.parametrize("n", [5, 20, 300, 5000])
@pytest.mark.parametrize("lead", [0.1, 10.0, 1000.0])
def test_right_answers_make_no_network_sure_of_everything(n: int, lead: float) -> None:
    answers = one_hot(n, lead)
    temperature = fit_temperature(answers.logits, answers.labels)
    confidences = measure_confidences(answers.logits, temperature)
    assert confidences.mean() == pytest.approx((n + 1) / (n + 2), abs=1e-4)


def test_the_share_of_a_calibration() -> None:
    logits = np.array([[2.0, 0.0], [0.1, 0.0]], np.float32)
    assert Calibration(1.0, 0.6).measure_rejected(logits) == 0.5
    assert Calibration(0.01, 0.6).measure_rejected(logits) == 0
    assert Calibration().measure_rejected(logits) == 0
