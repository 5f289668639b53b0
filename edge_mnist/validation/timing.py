"""Timing side by side: every variant takes its turn, so that a noisy machine disturbs all alike."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnxruntime


ROUNDS, RUNS_PER_ROUND = 50, 20
SAME_SPEED = 1.05  # a smaller ratio of median latencies is noise


@dataclass(frozen=True)
class Latency:
    """How long one image takes, in microseconds, over ``n`` runs."""

    p50_us: float
    p90_us: float
    p99_us: float
    n: int


def time_in_turns(
    variants: Mapping[str, Callable[[], object]],
    *,
    rounds: int = ROUNDS,
    runs_per_round: int = RUNS_PER_ROUND,
) -> dict[str, list[float]]:
    """Time functions in turns.

    Args:
        variants: What to time, by name.
        rounds: Turns; one more comes first and warms up.
        runs_per_round: Runs of each variant in its turn.

    Returns:
        Seconds of every run, by name.
    """
    spent_s: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, run in variants.items():
            runs = [_time(run) for _ in range(runs_per_round)]
            if turn:
                spent_s[name] += runs
    return spent_s


def measure_latencies(
    variants: Mapping[str, Callable[[], object]], *, rounds: int = ROUNDS
) -> dict[str, Latency]:
    """Time functions that classify one image; see ``time_in_turns``."""
    spent_s = time_in_turns(variants, rounds=rounds)
    return {name: _summarize(runs) for name, runs in spent_s.items()}


def is_slower(latency: Latency, other: Latency) -> bool:
    """Return whether a model is slower than another, beyond the noise of most machines."""
    return latency.p50_us > SAME_SPEED * other.p50_us


def one_image(session: "onnxruntime.InferenceSession") -> Callable[[], object]:
    """Return a function that classifies one image on a session that keeps the contract."""
    feed = {"images": np.random.default_rng(0).integers(0, 256, (1, 28, 28), dtype=np.uint8)}
    return lambda: session.run(None, feed)


def _time(run: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) / 1e9


def _summarize(spent_s: list[float]) -> Latency:
    p50, p90, p99 = np.percentile(spent_s, [50, 90, 99]) * 1e6
    return Latency(round(float(p50), 1), round(float(p90), 1), round(float(p99), 1), len(spent_s))
