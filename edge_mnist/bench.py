"""Latency of model files, measured side by side. Needs neither torch nor data."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnxruntime

ROUNDS, RUNS_PER_ROUND = 50, 20


@dataclass(frozen=True)
class Latency:
    """How long one image takes, in microseconds, over ``n`` runs."""

    p50_us: float
    p90_us: float
    p99_us: float
    n: int


def measure_latencies(
    sessions: Mapping[str, "onnxruntime.InferenceSession"], *, rounds: int = ROUNDS
) -> dict[str, Latency]:
    """Time one image on each session, in turns, so that a noisy machine disturbs all alike.

    Args:
        sessions: Open sessions that keep the contract, by name.
        rounds: Turns; in each one every session runs a few images.
    """
    image = np.random.default_rng(0).integers(0, 256, (1, 28, 28), dtype=np.uint8)
    spent_us: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(rounds + 1):
        for name, session in sessions.items():
            runs = [_time_run(session, {"images": image}) for _ in range(RUNS_PER_ROUND)]
            if turn:  # the first turn warms up
                spent_us[name] += runs
    return {name: _summarize(runs) for name, runs in spent_us.items()}


def _time_run(session: "onnxruntime.InferenceSession", feed: Mapping[str, np.ndarray]) -> float:
    start = time.perf_counter_ns()
    session.run(None, feed)
    return (time.perf_counter_ns() - start) / 1000


def _summarize(spent_us: list[float]) -> Latency:
    p50, p90, p99 = np.percentile(spent_us, [50, 90, 99])
    return Latency(round(float(p50), 1), round(float(p90), 1), round(float(p99), 1), len(spent_us))
