"""What CI runs: lint, unit and cluster tests; all of them, even when an earlier one fails."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from beowulf import host, playbook
from beowulf.environment import ensure_development
from beowulf.errors import Failure, OperatorError, Refusal
from beowulf.process import INTERRUPTED, ROOT, environment, run, tool

COLLECTION = "collections/ansible_collections/beowulf/cluster"
UNIT = (f"{COLLECTION}/tests/unit", "tests/roles", "tests/unit", "tests/examples", "tests/house_style")
"""Folders with tests that need no node; those that take longest come first."""
Step = tuple[str, Sequence[str]]
AFTER = ("verify", "side-effect")
"""What Molecule does with nodes that are set up, besides setting them up again."""
PLAIN = "--limit=router[0]:deployer[0]:lanservices[0]:compute[0]"
"""The nodes of the full cluster that plain ansible-playbook sets up again: one of each type."""


def lint_steps() -> list[Step]:
    """Return the linters; each reads its settings from its own file."""
    return [
        ("yamllint", [tool("yamllint"), "--strict", "."]),
        ("ansible-lint", [tool("ansible-lint"), "--offline", "--nocolor", "-q"]),
        ("ruff check", [tool("ruff"), "check", "--quiet", "."]),
        ("ruff format", [tool("ruff"), "format", "--quiet", "--check", "."]),
        ("shellcheck", [tool("shellcheck"), "bootstrap", "roles/network/files/take-interface.sh"]),
    ]


def unit_steps(folder: str) -> list[Step]:
    """Return the tests that need no node."""
    # In their order, so that what the tests of a file share is made once; who is done early takes from the others' end.
    spread = ["--numprocesses=auto", "--dist=worksteal"]
    return [
        ("pytest", [tool("python"), "-m", "pytest", "-q", *spread, *UNIT]),
        ("collection build", [tool("ansible-galaxy"), "collection", "build", COLLECTION, "--output-path", folder]),
    ]


def scenarios() -> list[str]:
    """Return the names of Molecule's scenarios."""
    return sorted(path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml"))


def molecule(scenario: str, action: str, *options: str, **settings: str) -> bool:
    """Let Molecule do one thing with a scenario, with options for ansible-playbook; say whether it went well."""
    command = [tool("molecule"), action, f"--scenario-name={scenario}", *(["--", *options] if options else [])]
    return run_step(f"molecule {scenario}: {' '.join([action, *options])}", command, **settings)


def run_scenario(scenario: str) -> bool:
    """Test a scenario from bare nodes on, up to the first thing that goes wrong; say whether all went well.

    The nodes are set up and checked as `deploy` does it, and set up again as `ansible-playbook` alone does it: both are tested. Of the full
    cluster, one node of each type is set up again in the second way, and all of them in the first. `molecule test` does all in the second.
    """
    fast = playbook.strategy()
    again = [("idempotence", (), fast), ("idempotence", (PLAIN,), {})] if scenario == "default" else [("idempotence", (), {})]
    steps = [
        ("destroy", (), {}), ("converge", (), fast), *again, ("check", (), fast), *((action, (), {}) for action in AFTER),
    ]  # fmt: skip
    good = all(molecule(scenario, action, *options, **settings) for action, options, settings in steps)
    return molecule(scenario, "destroy") and good


def run_step(name: str, command: Sequence[str], **settings: str) -> bool:
    """Run a step with settings in its environment; say whether it went well."""
    began = time.monotonic()
    print(f"--- {name}", flush=True)
    # The recording of a check's own runs would only bury those of the clusters.
    code = run(command, environment(ANSIBLE_CALLBACKS_ENABLED="ansible.builtin.minimal", BEOWULF_ARA_SCRIPT="", **settings))
    if code == INTERRUPTED:
        interrupted()
    print(f"--- {name}: {'ok' if code == 0 else f'FAILED ({code})'}, {time.monotonic() - began:.0f} s", flush=True)
    return code == 0


def run_steps(steps: Iterable[Step]) -> bool:
    """Run all steps, however they end; say whether all went well."""
    outcomes = [run_step(name, command) for name, command in steps]
    return all(outcomes)


def interrupted() -> None:
    """End like a program that was ended by Ctrl-C."""
    error = OperatorError("interrupted")
    error.code = INTERRUPTED
    raise error


def lint() -> None:
    """Run the linters."""
    ensure_development()
    if not run_steps(lint_steps()):
        raise Failure("test.lint: FAILED, see above")


def unit() -> None:
    """Run the tests that need no node."""
    ensure_development()
    with tempfile.TemporaryDirectory(prefix="beowulf-") as folder:
        if not run_steps(unit_steps(folder)):
            raise Failure("test.unit: FAILED, see above")


def cluster(scenario: str = "default") -> None:
    """Run the tests on the full cluster, or on that of a smaller scenario."""
    if scenario not in scenarios():
        raise Refusal(f"There is no scenario {scenario!r} in molecule/. There are: {', '.join(scenarios())}.")
    host.require_lab()
    ensure_development()
    if not run_scenario(scenario):
        raise Failure("test.cluster: FAILED, see above")


def every() -> None:
    """Run all of them and end with a table."""
    outcomes: dict[str, tuple[str, float]] = {}
    kinds: Mapping[str, Callable[[], None]] = {"test.lint": lint, "test.unit": unit, "test.cluster": cluster}
    for name, check in kinds.items():
        began = time.monotonic()
        try:
            check()
            outcome = "ok"
        except OperatorError as error:
            if error.code == INTERRUPTED:
                raise
            print(error, file=sys.stderr)
            outcome = "FAILED"
        outcomes[name] = (outcome, time.monotonic() - began)
    print("\n" + "\n".join(f"{name:<14}{outcome:<8}{seconds:>6.0f} s" for name, (outcome, seconds) in outcomes.items()))
    if failed := [name for name, (outcome, _seconds) in outcomes.items() if outcome != "ok"]:
        raise Failure(f"test: FAILED: {', '.join(failed)}")
