"""Break something on purpose, watch it from a client, heal it, and compare what the client saw with what the configuration promises.

The drills are functions in tests/drills/, one file for each function of the cluster. This module runs them: it watches
(beowulf/probe.py on a compute node), injects and heals through `Lab` (beowulf/drill_lab.py), judges, repeats, and writes the report.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from beowulf import drill_report, playbook
from beowulf.cluster import Cluster
from beowulf.drill_lab import Lab
from beowulf.errors import Failure, Refusal
from beowulf.figures import Figure, summarise, verdict
from beowulf.process import ROOT

FOLDER = ROOT / "tests" / "drills"


@dataclass(frozen=True)
class Drill:
    """A fault: what it does, and whether it is in the quick set."""

    name: str
    quick: bool
    body: Callable[[Lab], Iterable[Figure]]

    @property
    def title(self) -> str:
        """Return the first line of what its function says."""
        return (inspect.getdoc(self.body) or "").splitlines()[0]


DRILLS: dict[str, Drill] = {}


def drill(quick: bool = False) -> Callable[[Callable[[Lab], Iterable[Figure]]], Callable[[Lab], Iterable[Figure]]]:
    """Register a function as a drill, under its name with a dash for each underscore."""

    def register(body: Callable[[Lab], Iterable[Figure]]) -> Callable[[Lab], Iterable[Figure]]:
        name = body.__name__.replace("_", "-")
        DRILLS[name] = Drill(name, quick, body)
        return body

    return register


def load() -> dict[str, Drill]:
    """Return all drills, in the order of their files."""
    for path in sorted(FOLDER.glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"drills_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return DRILLS


def choose(names: Sequence[str], quick: bool) -> list[Drill]:
    """Return the drills of these names; all, or the quick ones, for none."""
    known = load()
    if unknown := [name for name in names if name not in known]:
        raise Refusal(f"There is no drill {', '.join(unknown)}. There are: {', '.join(known)}.")
    return [known[name] for name in names] or [one for one in known.values() if one.quick or not quick]


def run_one(lab: Lab, one: Drill) -> tuple[list[Figure], str]:
    """Run a drill once; return its figures and, when it went wrong, the reason. Whatever was broken is whole again afterwards."""
    try:
        lab.until_healthy()
        figures = list(one.body(lab))
        return [*figures, Figure("healthy again", lab.until_healthy())], ""
    except (Failure, Refusal) as error:
        return [], str(error)
    except (OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
        # A drill that trips over what it finds has failed, and the others are still to come.
        return [], f"{type(error).__name__}: {error}"
    finally:
        if lab.off:
            with contextlib.suppress(Failure):
                lab.power_on(*lab.off)


def drills(cluster: Cluster, names: Sequence[str], repeat: int, quick: bool, as_json: bool) -> None:
    """Run drills, write the report, and fail when one of them did."""
    chosen = choose(names, quick)
    if not cluster.is_lab:
        raise Refusal(f"The nodes of {cluster.name} are no containers: drills take power away, and here nothing could give it back.")
    if repeat < 1:
        raise Refusal(f"--repeat {repeat}: at least 1.")
    if cluster.running_containers() != set(cluster.rack.nodes):
        raise Failure("Not all nodes of the lab run: ./bootstrap deploy")
    lab = Lab(cluster, say=lambda line: print(line, file=sys.stderr, flush=True))
    began, results = time.time(), []
    for one in chosen:
        runs: list[list[Figure]] = []
        reasons: list[str] = []
        for number in range(1, repeat + 1):
            lab.say(f"{one.name} {number}/{repeat}: {one.title}")
            figures, reason = run_one(lab, one)
            runs.append(figures)
            reasons += [reason] if reason else []
            told = reason or ", ".join(f"{figure.name} {figure.value:.2f} {figure.unit}".rstrip() for figure in figures)
            print(f"{one.name} {number}/{repeat}: {told}", file=sys.stderr if as_json else sys.stdout, flush=True)
        summary = summarise([run for run in runs if run])
        kept = all(verdict(figure, quick) != "FAILED" for figure in summary.values())
        results.append({"name": one.name, "title": one.title, "repeat": repeat, "figures": summary,
                        "failures": reasons, "ok": kept and not reasons})  # fmt: skip
    changed, trouble = redeploy(lab)
    conclude(cluster, {"cluster": cluster.name, "started": began, "seconds": time.time() - began, "quick": quick, "changed": changed,
                       "trouble": trouble, "drills": results,
                       "ok": all(one["ok"] for one in results) and changed == 0}, as_json)  # fmt: skip


def redeploy(lab: Lab) -> tuple[int | None, str]:
    """Deploy once more; return how much it changed (nothing, when the drills left all as it was), or None and why it could not."""
    try:
        code, summary = lab.play(playbook.command(lab.cluster, "site"))
    except (Failure, Refusal) as error:
        return None, str(error)
    if code or summary is None:
        return None, f"the deploy after the drills failed ({code}): ./bootstrap deploy"
    changed = playbook.counts(summary)["changed"]
    told = "; ".join(f"{one['node']}: {one['task']}" for one in summary["changes"])
    return changed, f"the deploy after the drills changed {changed}: {told}" if changed else ""


def conclude(cluster: Cluster, result: dict[str, Any], as_json: bool) -> None:
    """Write the report, tell the figures, and raise unless all bounds were kept."""
    path = drill_report.write(cluster.state / "drills", result)
    if as_json:
        print(drill_report.as_json(result))
    else:
        print("\n" + "\n".join(drill_report.table(result)))
        print(f"\n{result['trouble'] or 'after the drills a deploy changed ' + str(result['changed'])}\nreport: {path}")
    if not result["ok"]:
        bad = [one["name"] for one in result["drills"] if not one["ok"]]
        raise Failure(
            ""
            if as_json
            else f"drill {cluster.name}: FAILED: {', '.join(bad) or result['trouble'] or 'the deploy afterwards changed something'}"
        )
