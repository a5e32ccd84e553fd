"""What the drills measured: for the terminal, as JSON, as a table for documents, and as one page with every value of every figure."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beowulf import figures

WIDTH = 420
"""Pixels of a plot."""


def amount(value: float | None, unit: str) -> str:
    """Write a value with its unit; a dash for none."""
    if value is None:
        return "-"
    number = f"{value:.2f}" if unit else f"{value:.0f}"
    return f"{number} {unit}".rstrip()


def limit(figure: Mapping[str, Any]) -> str:
    """Write the bound of a figure."""
    return ("≥ " if figure["least"] else "") + amount(figure["bound"], figure["unit"])


def table(result: Mapping[str, Any]) -> list[str]:
    """Return the lines of a table: one for each figure of each drill."""
    rows = [("drill", "figure", "n", "p50", "p95", "max", "bound", "")]
    for one in result["drills"]:
        for name, figure in one["figures"].items():
            amounts = [amount(figure[key], figure["unit"]) for key in ("p50", "p95", "max")] + [limit(figure)]
            verdict = figures.verdict(figure, result["quick"])
            rows.append((one["name"], name, str(len(figure["values"])), *amounts, verdict))
        rows += [(one["name"], reason, "", "", "", "", "", "FAILED") for reason in one["failures"]]
    widths = [max(len(row[column]) for row in rows if len(row[1]) < 60 or column != 1) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def markdown(result: Mapping[str, Any]) -> str:
    """Return the figures as a table for documents."""
    lines = ["| drill | figure | runs | p50 | p95 | max | bound |", "| --- | --- | ---: | ---: | ---: | ---: | ---: |"]
    for one in result["drills"]:
        for name, figure in one["figures"].items():
            amounts = [amount(figure[key], figure["unit"]) for key in ("p50", "p95", "max")] + [limit(figure)]
            lines.append(" | ".join(["| `" + one["name"] + "`", name, str(len(figure["values"])), *amounts]) + " |")
        lines += [f"| `{one['name']}` | **{reason}** | | | | | |" for reason in one["failures"]]
    return "\n".join(lines) + "\n"


def scale(figure: Mapping[str, Any]) -> float:
    """Return the value at the right end of a figure's plot: a round number at or above all values and the bound."""
    top = max([figure["bound"] or 0, *(value for value in figure["values"] if math.isfinite(value))]) or 1
    step = 10 ** math.floor(math.log10(top))
    return next(step * factor for factor in (1, 2, 5, 10) if step * factor >= top)


def plot(figure: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page draws of a figure: positions in pixels of its values and its bound, and the right end."""
    end = scale(figure)

    def place(value: float) -> float:
        return round(WIDTH * min(1.0, value / end), 1)

    return {
        "width": WIDTH,
        "end": amount(end, figure["unit"]),
        "dots": [place(value) for value in figure["values"]],
        "bound": None if figure["bound"] is None else place(figure["bound"]),
    }


def as_json(result: Mapping[str, Any]) -> str:
    """Return the result as JSON, which knows no infinity (RFC 8259 section 6): what never came is null."""

    def finite(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: finite(one) for key, one in value.items()}
        if isinstance(value, list):
            return [finite(one) for one in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(result), indent=1, allow_nan=False)


def page(result: Mapping[str, Any]) -> str:
    """Return the report as a page that needs nothing else."""
    from jinja2 import Environment, FileSystemLoader

    folder = Path(__file__).with_name("templates")
    templates = Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(result["started"]))
    return templates.get_template("drills.html.j2").render(result=result, when=when, plot=plot, amount=amount, limit=limit)


def write(folder: Path, result: Mapping[str, Any]) -> Path:
    """Write report and figures; return the path of the page."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = time.strftime("%Y-%m-%dT%H-%M-%S", time.localtime(result["started"]))
    (folder / f"{name}.json").write_text(as_json(result), encoding="utf-8")
    (folder / f"{name}.md").write_text(markdown(result), encoding="utf-8")
    path = folder / f"{name}.html"
    path.write_text(page(result), encoding="utf-8")
    return path
