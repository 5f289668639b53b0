"""Comparing a benchmark with an earlier one: what got worse by more than is allowed."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_mnist.bench.benchmark import SCHEMA_VERSION, BenchReport, Measured
from edge_mnist.errors import UsageError


@dataclass(frozen=True)
class Regression:
    """A number that got worse than a base report allows; ``ratio`` above 1 is worse."""

    name: str
    measure: str
    base: float
    now: float
    ratio: float


def compare_reports(
    base: dict[str, Any], now: BenchReport, *, max_regression: float
) -> list[Regression]:
    """List what got worse than a base report by more than a share.

    Times are put in proportion to a model outside the contract that both reports measured, if
    there is one: it tells the machine's mood.

    Args:
        base: A report as ``bench --json`` printed it.
        now: The new one.
        max_regression: 0.1 lets a number get worse by 10 %.

    Raises:
        UsageError: The base is no report of this schema, or shares no model with the new one.
    """
    if base.get("schema_version") != SCHEMA_VERSION:
        raise UsageError(f"the base is no benchmark report of schema {SCHEMA_VERSION}")
    old = {one["name"]: one for one in base["models"]}
    shared = [one for one in now.models if one.name in old]
    ours = [one for one in shared if one.quantization is not None]
    if not ours:
        raise UsageError("the base report has none of these models")
    others = [one for one in shared if one.quantization is None]
    yardsticks = [one for one in others if one.runtime != "torch"]
    mood = 1.0
    if yardsticks:
        mood = yardsticks[0].latency.p50_us / old[yardsticks[0].name]["latency"]["p50_us"]
    return [
        found
        for one in ours
        for found in _list_changes(old[one.name], one, mood)
        if found.ratio > 1 + max_regression
    ]


def _list_changes(old: dict[str, Any], new: Measured, mood: float) -> list[Regression]:
    pairs = [
        ("p50_us", old["latency"]["p50_us"] * mood, new.latency.p50_us),
        ("size_bytes", old["size_bytes"], new.size_bytes),
    ]
    changes = [Regression(new.name, name, was, is_, is_ / was) for name, was, is_ in pairs]
    for size, rate in new.images_per_s.items():
        was = old["images_per_s"].get(str(size))
        if was:
            expected = was / mood
            changes.append(
                Regression(new.name, f"images_per_s at {size}", expected, rate, expected / rate)
            )
    return changes


def read_report(path: Path) -> dict[str, Any]:
    """Read a report that ``bench --json`` printed.

    Raises:
        UsageError: It cannot be read, or is none.
    """
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no benchmark report: {error}") from error
    if not isinstance(report, dict) or "models" not in report:
        raise UsageError(f"{path} is no benchmark report")
    return report


def to_json(report: BenchReport, regressions: Sequence[Regression] | None = None) -> dict[str, Any]:
    """Return a report, and what a comparison found, for JSON."""
    found = asdict(report)
    if regressions is not None:
        found["regressions"] = [asdict(one) for one in regressions]
    return found


def parse_share(text: str) -> float:
    """Read ``10%`` or ``0.1``.

    Raises:
        UsageError: It is neither, or negative.
    """
    try:
        share = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    except ValueError as error:
        raise UsageError(f"{text!r} is no share; write 10% or 0.1") from error
    if not share >= 0:
        raise UsageError(f"{text!r} is no share; write 10% or 0.1")
    return share
