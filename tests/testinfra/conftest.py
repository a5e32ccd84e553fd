"""What the rack says, for tests that ask the nodes whether it is so."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import testinfra
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

ROOT = Path(__file__).resolve().parents[2]


def read_inventory(source: str) -> dict[str, Any]:
    """Return what ansible-inventory says of `source`, as testinfra has asked it."""
    return AnsibleRunner.get_runner(source).inventory


@pytest.fixture(scope="session")
def hostvars(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """Variables of every node: {name: {variable: value}}."""
    return read_inventory(request.config.getoption("--ansible-inventory"))["_meta"]["hostvars"]


@pytest.fixture(scope="session")
def rack(hostvars: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the rack file says of the cluster: the rack_… variables that all nodes have in common."""
    return next(iter(hostvars.values()))


@pytest.fixture(scope="session")
def nodes(request: pytest.FixtureRequest) -> Callable[[str], list[str]]:
    """Names of the nodes of a group, in the order of the rack."""
    known = read_inventory(request.config.getoption("--ansible-inventory"))

    def members(group: str) -> list[str]:
        entry = known.get(group, {})
        return entry.get("hosts", []) + [name for child in entry.get("children", []) for name in members(child)]

    return members


@pytest.fixture(scope="session")
def node(request: pytest.FixtureRequest) -> Callable[[str], Host]:
    """A connection to a node by its name."""
    source = request.config.getoption("--ansible-inventory")
    return cache(lambda name: testinfra.get_host(f"ansible://{name}", ansible_inventory=source))


@pytest.fixture(scope="session")
def chosen(request: pytest.FixtureRequest, hostvars: dict[str, dict[str, Any]]) -> set[str]:
    """Names of the nodes that take part: all, or those that `verify --limit` chose."""
    return {name for name in request.config.getoption("--nodes").split(",") if name} or set(hostvars)


@pytest.fixture(scope="session")
def client(nodes: Callable[[str], list[str]], chosen: set[str], node: Callable[[str], Host]) -> Host:
    """A connection to a node that only uses the LAN: the first compute node, if possible of those that take part."""
    compute = nodes("compute")
    return node(next((name for name in compute if name in chosen), compute[0]))


@pytest.fixture
def python() -> Callable[..., Any]:
    """Run a Python program on a node as root; return what it prints as JSON.

    The program starts with what the collection's module_utils/dhcp.py defines, so that a test may speak DHCP from there.
    """
    library = (ROOT / "collections/ansible_collections/beowulf/cluster/plugins/module_utils/dhcp.py").read_text()

    def run(host: Host, program: str) -> Any:
        source = library + "\nimport json\n" + program
        encoded = base64.b64encode(source.encode()).decode()
        result = host.run(f"echo {encoded} | base64 -d | sudo python3 -")
        assert result.rc == 0, result.stderr
        return json.loads(result.stdout)

    return run


KNOCK = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
s.settimeout(1)
try:
    s.connect(({address!r}, {port}))
    print(json.dumps("open"))
except TimeoutError:
    print(json.dumps("silent"))
except ConnectionRefusedError:
    print(json.dumps("refused"))
"""


@pytest.fixture
def knock(python: Callable[..., Any]) -> Callable[[Host, str, int], str]:
    """What a node finds at a port of another: open, refused, or silent, as behind a rule that drops."""

    def ask(host: Host, address: str, port: int) -> str:
        return python(host, KNOCK.format(address=address, port=port))

    return ask


def eventually(check: Callable[[], Any], seconds: float) -> Any:
    """Call `check` until it returns something true; fail with its last answer after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        assert time.monotonic() < deadline, f"still {answer!r} after {seconds} s"
        time.sleep(0.2)
    return answer


@pytest.fixture(name="eventually", scope="session")
def eventually_fixture() -> Callable[[Callable[[], Any], float], Any]:
    """See `eventually`."""
    return eventually


@pytest.fixture
def on_failure_show(request: pytest.FixtureRequest) -> Iterator[list[tuple[Host, str]]]:
    """Pairs of host and unit that a test adds; their journals are printed with the test's output."""
    wanted: list[tuple[Host, str]] = []
    yield wanted
    for host, unit in wanted:
        print(f"--- {unit}\n", host.run(f"sudo journalctl --no-pager --lines=20 --unit={unit}").stdout)
