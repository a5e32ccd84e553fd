"""testinfra on the live cluster, with a summary for machines. As a pytest plugin: `-p beowulf.verify --summary FILE`."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beowulf import inventory
from beowulf.errors import Failure, OperatorError, Refusal
from beowulf.process import INTERRUPTED, ROOT, environment, run, tool

if TYPE_CHECKING:
    import pytest

    from beowulf.cluster import Cluster

TESTS = "tests/testinfra"


class Recorder:
    """Collect the outcome of each test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.began = time.monotonic()
        self.tests: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what counts of the three phases of a test: that of the call, or one that went wrong."""
        if report.when != "call" and report.passed:
            return
        outcome = "error" if report.failed and report.when != "call" else report.outcome
        entry = {"outcome": outcome, "seconds": round(report.duration, 2)}
        if not report.passed:
            crash = getattr(report.longrepr, "reprcrash", None)
            entry["reason"] = str(crash.message if crash else report.longrepr)[:2000]
        self.tests[report.nodeid] = entry

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Write the summary."""
        outcomes = [test["outcome"] for test in self.tests.values()]
        totals = {name: outcomes.count(name) for name in ("passed", "failed", "error", "skipped")}
        summary = {"ok": int(exitstatus) == 0, "exit": int(exitstatus), **totals,
                   "seconds": round(time.monotonic() - self.began, 1), "tests": self.tests}  # fmt: skip
        self.path.write_text(json.dumps(summary, indent=1), encoding="utf-8")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the options that name the file and the nodes."""
    parser.addoption("--summary", metavar="FILE", default=None, help="write the outcome of each test to FILE, as JSON")
    parser.addoption("--nodes", metavar="NAMES", default="", help="run the tests on these nodes only, separated by commas")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that run on other nodes than the chosen ones."""
    chosen = {name for name in config.getoption("--nodes").split(",") if name}
    if not chosen:
        return
    left_out = [item for item in items if (node := node_of(item)) and node not in chosen]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def node_of(item: pytest.Item) -> str | None:
    """Return the node on which a test of testinfra's runs."""
    host = getattr(item, "callspec", None) and item.callspec.params.get("_testinfra_host")
    return host.backend.host if host else None


def pytest_configure(config: pytest.Config) -> None:
    """Record when a file is named; with xdist, in the process that hears of all tests."""
    if config.getoption("--summary") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(Path(config.getoption("--summary")).absolute()), "beowulf-recorder")


def files(functions: str) -> list[str]:
    """Return the test files of functions, separated by commas; all for none."""
    known = sorted(path.stem.removeprefix("test_") for path in (ROOT / TESTS).glob("test_*.py"))
    for name in (chosen := [name for name in functions.split(",") if name]):
        if name not in known:
            raise Refusal(f"--only {functions}: there are no tests of {name!r}. There are: {', '.join(known)}.")
    return [f"{TESTS}/test_{name}.py" for name in chosen or known]


def command(plain: Path, summary: Path, functions: str = "", extra: Sequence[str] = ()) -> list[str]:
    """Return the pytest command for a cluster with a plain inventory."""
    return [
        tool("python"), "-m", "pytest", *files(functions), "-p", "beowulf.verify", f"--summary={summary}",
        f"--ansible-inventory={plain}", *extra,
    ]  # fmt: skip


def verify(cluster: Cluster, limit: str = "", only: str = "", as_json: bool = False) -> None:
    """Test what the nodes of a cluster do: all of them, or those that `limit` matches; all functions, or those in `only`."""
    nodes = inventory.select(cluster.path, limit) if limit else []
    chosen = [f"--nodes={','.join(nodes)}"] if nodes else []
    plain = cluster.state / "testinfra.yml"
    inventory.write(cluster.path, plain)
    with tempfile.TemporaryDirectory(prefix="beowulf-") as folder:
        summary = Path(folder) / "summary.json"
        env = environment(ANSIBLE_INVENTORY_ENABLED="ansible.builtin.yaml", BEOWULF_CLUSTER=cluster.name)
        quiet = {"stdout": -3} if as_json else {}  # subprocess.DEVNULL
        code = run(command(plain, summary, only, ["-q", *chosen]), env, **quiet)
        result = json.loads(summary.read_text(encoding="utf-8")) if summary.exists() else None
    if code == INTERRUPTED:
        error = OperatorError("verify: interrupted")
        error.code = INTERRUPTED
        raise error
    if as_json:
        print(json.dumps(result or {"ok": False, "exit": code, "tests": {}}, indent=1))
    if result is None:
        raise Failure(f"verify {cluster.name}: pytest ended with {code} before the tests; see above.")
    ran = result["passed"] + result["failed"] + result["error"]
    if code or not ran:
        raise Failure("" if as_json else f"verify {cluster.name}: {result['failed'] + result['error']} of {ran} tests failed, "
                      f"{result['skipped']} skipped; ./bootstrap status shows who is there")  # fmt: skip
    if not as_json:
        print(f"verify {cluster.name}: all {ran} tests passed in {result['seconds']:.0f} s, {result['skipped']} skipped")
