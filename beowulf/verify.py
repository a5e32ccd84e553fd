"""testinfra on the live cluster, with a summary for machines. As a pytest plugin: `-p beowulf.verify --summary FILE`.

Most tests only ask, and wait for an answer: several of them run at a time. Those that disturb what others ask carry the marker
`disturbs` and run afterwards: see DISTURBS.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from testinfra.utils.ansible_runner import AnsibleRunner

from beowulf import inventory, ssh
from beowulf.errors import Failure, OperatorError, Refusal
from beowulf.process import INTERRUPTED, ROOT, SOCKET, environment, run, tool

if TYPE_CHECKING:
    from beowulf.cluster import Cluster

TESTS = "tests/testinfra"
ROOMS = {
    "lan": "what the LAN servers serve, the floating address, and the rules of any node's firewall",
    "deploys": "what takes the lock of the cluster, the recording of runs, and SSH",
    "distcc": "the distccd of the compute nodes",
    "backup": "the processors of the deployer, for a minute: beside all that ask it takes five",
}
DISTURBS = (
    "disturbs(room): others could notice this test. It stops, restarts or kills what they ask, moves an address, fills a pool, changes "
    "rules, zones, certificates or lists, deploys, drops packets, or counts what others change, too. When in doubt, a test disturbs. It "
    f"runs after all tests that only ask; those of a room one after the other, rooms beside each other: {', '.join(ROOMS)}"
)
PASSES = {"not disturbs": ("that only ask", 6), "disturbs": ("that disturb others", len(ROOMS))}
"""Which tests run together, what they are called, and how many of them at a time: what they wait for is mostly not this machine."""
NOTHING = int(pytest.ExitCode.NO_TESTS_COLLECTED)
SOCKET_NAME = len("/gw99-255.255.255.255.0123456789abcdef")
"""Bytes of the name of a shared connection's socket, while SSH makes it."""
GROUPS, INVENTORY = "groups.json", "inventory.json"
"""What is in the folder that is shared, besides the sockets."""


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
        self.path.write_text(json.dumps(summarize(self.tests, int(exitstatus), time.monotonic() - self.began), indent=1), encoding="utf-8")


def summarize(tests: dict[str, Any], code: int, seconds: float) -> dict[str, Any]:
    """Return the summary of tests: {name: {"outcome": …, "seconds": …}}."""
    outcomes = [test["outcome"] for test in tests.values()]
    totals = {name: outcomes.count(name) for name in ("passed", "failed", "error", "skipped")}
    return {"ok": code == 0, "exit": code, **totals, "seconds": round(seconds, 1), "tests": tests}


def merge(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the summary of all parts. That one of them had no tests is no fault, unless none had any."""
    codes = {part["exit"] for part in parts}
    bad = sorted(codes - {0, NOTHING})
    tests = {name: test for part in parts for name, test in part["tests"].items()}
    return summarize(tests, bad[0] if bad else min(codes, default=NOTHING), sum(part["seconds"] for part in parts))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the options that name the files and the nodes."""
    parser.addoption("--summary", metavar="FILE", default=None, help="write the outcome of each test to FILE, as JSON")
    parser.addoption("--nodes", metavar="NAMES", default="", help="run the tests on these nodes only, separated by commas")
    parser.addoption("--shared", metavar="FOLDER", default=None, help="folder of what the processes share that run tests beside each other")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that run on other nodes than the chosen ones, and say which of the others run one after the other."""
    if folder := config.getoption("--shared"):
        share_groups(Path(folder), {item.nodeid: group_of(item) for item in items})
        # First those that take long: what has a name is shared by many.
        items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)
    chosen = {name for name in config.getoption("--nodes").split(",") if name}
    if not chosen:
        return
    left_out = [item for item in items if (node := node_of(item)) and node not in chosen]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def group_of(item: pytest.Item) -> str:
    """Return the name of the tests with which a test takes turns: those of its room, or of the group that it names, or else those of its
    file on its node, as they may use the same paths there."""
    group = item.get_closest_marker("xdist_group")
    if room := item.get_closest_marker("disturbs"):
        if group or room.args not in [(name,) for name in ROOMS]:
            raise pytest.UsageError(f"{item.nodeid}: disturbs names one of the rooms {', '.join(ROOMS)}, and nothing else says a group")
        return room.args[0]
    return group.args[0] if group else " ".join(filter(None, [item.path.stem, node_of(item)]))


def node_of(item: pytest.Item) -> str | None:
    """Return the node on which a test of testinfra's runs."""
    host = getattr(item, "callspec", None) and item.callspec.params.get("_testinfra_host")
    # Where nobody is in the group of a file, pytest puts a word of its own there.
    return host.backend.host if hasattr(host, "backend") else None


def pytest_configure(config: pytest.Config) -> None:
    """Record when a file is named; with xdist, in the process that hears of all tests."""
    config.addinivalue_line("markers", DISTURBS)
    worker = getattr(config, "workerinput", {}).get("workerid", "gw")
    if folder := config.getoption("--shared"):
        share_inventory(config.getoption("--ansible-inventory"), Path(folder))
        share_connections(config.getoption("--ansible-inventory"), Path(folder), worker)
    if hasattr(config, "workerinput"):
        signal.signal(signal.SIGINT, interrupt_once)
    elif config.getoption("--summary"):
        config.pluginmanager.register(Recorder(Path(config.getoption("--summary")).absolute()), "beowulf-recorder")


def share_inventory(source: str, folder: Path) -> None:
    """Have Ansible read the inventory once for all workers, which takes a second each time: the first one to come here does."""
    runner, place = AnsibleRunner.get_runner(source), folder / INVENTORY
    if place.exists():
        runner.inventory = json.loads(place.read_text(encoding="utf-8"))
    else:
        place.write_text(json.dumps(runner.inventory), encoding="utf-8")


def share_connections(source: str, folder: Path, worker: str) -> None:
    """Have testinfra come in once to a node, instead of once for each command; each worker by itself, as sshd limits the sessions of one
    connection. Ansible, and tests that open connections of their own, do not use these. Nobody does where the path is too long for SSH."""
    if len(os.fsencode(folder)) + SOCKET_NAME <= SOCKET:
        settings = AnsibleRunner.get_runner(source).ansible_config["ssh_connection"]
        settings["ssh_args"] += f" -o ControlPath={folder}/{worker}-%%h"


def share_groups(folder: Path, groups: dict[str, str]) -> None:
    """Tell the process that has the workers which tests take turns: it does not see the tests themselves."""
    place = folder / GROUPS
    with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
        json.dump(groups, file)
    os.replace(file.name, place)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each group of tests to one worker, in the order of the files. (xdist's own `loadgroup` puts the group into the name of a
    test, which pytest since 9.2 does not let it: https://github.com/pytest-dev/pytest-xdist/issues/1386.)"""
    from xdist.scheduler import LoadScopeScheduling

    class Grouped(LoadScopeScheduling):
        @cached_property
        def groups(self) -> dict[str, str]:
            return json.loads((Path(config.getoption("--shared")) / GROUPS).read_text(encoding="utf-8"))

        def _split_scope(self, nodeid: str) -> str:
            return self.groups[nodeid]

    return Grouped(config, log) if config.getoption("--shared") else None


def interrupt_once(_number: int, _frame: object) -> None:
    """End a worker's test, which repairs what it has broken then, and let nobody disturb it in that: a terminal, pytest and execnet
    all tell the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def pytest_keyboard_interrupt() -> None:
    """Tell the workers, at once: xdist gives them some seconds until they are killed."""
    for path in Path("/proc/self/task").glob("*/children"):
        for child in path.read_text(encoding="ascii").split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGINT)


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
        tool("python"), "-m", "pytest", "-q", *files(functions), "-p", "beowulf.verify", f"--summary={summary}",
        f"--ansible-inventory={plain}", *extra,
    ]  # fmt: skip


def spread(tests: str, workers: int, folder: Path) -> list[str]:
    """Return the options that run some tests, so many at a time, with a folder for what they share."""
    return ["-m", tests, f"--numprocesses={workers}", "--dist=loadscope", "--no-loadscope-reorder", f"--shared={folder}"]


def hang_up(folder: Path) -> None:
    """End the connections that the workers shared."""
    for path in folder.glob("gw*"):
        ssh.close(path)


def verify(cluster: Cluster, limit: str = "", only: str = "", as_json: bool = False) -> None:
    """Test what the nodes of a cluster do: all of them, or those that `limit` matches; all functions, or those in `only`."""
    nodes = inventory.select(cluster.path, limit) if limit else []
    chosen = [f"--nodes={','.join(nodes)}"] if nodes else []
    plain = cluster.state / "testinfra.yml"
    inventory.write(cluster.path, plain)
    with tempfile.TemporaryDirectory(prefix="beowulf-") as folder:
        try:
            result = merge(list(test(cluster, plain, Path(folder), only, chosen, as_json)))
        finally:
            hang_up(Path(folder))
    if as_json:
        print(json.dumps(result, indent=1))
    ran = result["passed"] + result["failed"] + result["error"]
    if result["exit"] or not ran:
        raise Failure("" if as_json else f"verify {cluster.name}: {result['failed'] + result['error']} of {ran} tests failed, "
                      f"{result['skipped']} skipped; ./bootstrap status shows who is there")  # fmt: skip
    if not as_json:
        print(f"verify {cluster.name}: all {ran} tests passed in {result['seconds']:.0f} s, {result['skipped']} skipped")


def test(cluster: Cluster, plain: Path, folder: Path, only: str, extra: Sequence[str], as_json: bool) -> Iterable[dict[str, Any]]:
    """Run the tests that only ask, and then, however that ended, those that disturb others; yield the summary of each."""
    env = environment(ANSIBLE_INVENTORY_ENABLED="ansible.builtin.yaml", BEOWULF_CLUSTER=cluster.name)
    quiet = {"stdout": -3} if as_json else {}  # subprocess.DEVNULL
    for number, (tests, (name, workers)) in enumerate(PASSES.items()):
        if not as_json:
            print(f"--- verify {cluster.name}: tests {name}, {workers} at a time", flush=True)
        summary = folder / f"summary-{number}.json"
        code = run(command(plain, summary, only, [*spread(tests, workers, folder), *extra]), env, **quiet)
        if code == INTERRUPTED:
            error = OperatorError("verify: interrupted")
            error.code = INTERRUPTED
            raise error
        if not summary.exists():
            if as_json:
                print(json.dumps({"ok": False, "exit": code, "tests": {}}, indent=1))
            raise Failure(f"verify {cluster.name}: pytest ended with {code} before the tests; see above.")
        yield json.loads(summary.read_text(encoding="utf-8"))
