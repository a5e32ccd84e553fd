"""What a drill measured, and whether it keeps its bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

INFINITE = float("inf")


@dataclass(frozen=True)
class Figure:
    """One measured value, and the bound that it must not exceed, or fall below with `least`; without a bound it is only reported."""

    name: str
    value: float
    bound: float | None = None
    unit: str = "s"
    loose: bool = False
    """A bound in time, which a noisy machine may miss: asserted by the full run, reported by the quick one."""
    least: bool = False

    @property
    def ok(self) -> bool:
        """Say whether it keeps the bound."""
        if self.bound is None:
            return True
        return self.value >= self.bound if self.least else self.value <= self.bound


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile: the smallest value that at least `share` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(len(ordered) * share * 1000) // 1000) - 1)]


def summarise(runs: Sequence[Sequence[Figure]]) -> dict[str, dict[str, Any]]:
    """Return p50, p95, the maximum and the bound of each figure, over all runs of a drill."""
    names = list(dict.fromkeys(figure.name for run in runs for figure in run))
    summary = {}
    for name in names:
        figures = [figure for run in runs for figure in run if figure.name == name]
        values = [figure.value for figure in figures]
        bounds = [figure.bound for figure in figures if figure.bound is not None]
        summary[name] = {
            "unit": figures[0].unit, "values": [round(value, 3) for value in values],
            "p50": round(percentile(values, 0.5), 3), "p95": round(percentile(values, 0.95), 3), "max": round(max(values), 3),
            "bound": round((max if figures[0].least else min)(bounds), 3) if bounds else None,
            "loose": figures[0].loose, "least": figures[0].least,
            "ok": all(figure.ok for figure in figures),
        }  # fmt: skip
    return summary


def verdict(figure: Mapping[str, Any], quick: bool) -> str:
    """Return what is said of a figure: nothing when it is good, else `late` or `FAILED`.

    Late is forgiven in a quick run, since machines are noisy; never is not.
    """
    if figure["ok"]:
        return ""
    return "late" if quick and figure["loose"] and figure["max"] < INFINITE else "FAILED"
