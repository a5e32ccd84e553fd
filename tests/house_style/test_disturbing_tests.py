"""A test of the live cluster that others could notice says so: those run beside each other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = {path.stem: path for path in sorted((ROOT / "tests/testinfra").glob("test_*.py"))}
DISTURBING = re.compile(
    r"systemctl (--\S+ )*(start|stop|restart|reload|kill)\b"
    r"|\bp?kill(all)? -"
    r"|\bnft (-f|--file|add|insert|delete|flush)|\bip6?tables\b"
    r"|\bip (-\S+ )*(link set|(address|addr|route) (add|del))|\btc qdisc\b"
    r"|\brndc\b|\bnsupdate\b"
    r"|\breboot\b|\bpoweroff\b|\b(iperf3?|stress(-ng)?)\b"
    r'|"(deploy|ca\.\w+|lab\.\w+|backup\.create)"'
)
"""What starts, stops, restarts and kills; rules, links, addresses and routes; zones; load; and commands that change the cluster."""
HARMLESS = {
    "test_packages_that_no_list_names_are_removed_by_a_timer_and_others_stay": "removes what nobody but this test wants",
    "test_old_runs_are_forgotten_by_a_timer_and_others_stay": "removes what is years old",
    "test_a_client_outside_the_lan_is_refused": "an address on the node's own loopback, which nobody asks",
    "test_does_not_help_to_flood_anyone": "an address that nobody else has, and no other test uses",
    "test_changes_by_strangers_are_refused": "the change that it asks for is refused",
    "test_a_lock_of_one_node_holds_on_the_others": "the unit that it stops is its own",
}


def parts(tree: ast.Module) -> dict[str, ast.stmt]:
    """Return what a module defines, by name: functions and constants."""
    found: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
    return found


def text_of(name: str, known: dict[str, ast.stmt]) -> str:
    """Return all texts in a function, and in what it uses of its module: helpers, fixtures, constants."""
    seen, waiting, texts = set(), [name], []
    while waiting:
        if (one := waiting.pop()) in seen or one not in known:
            continue
        seen.add(one)
        for node in ast.walk(known[one]):
            if isinstance(node, ast.Name):
                waiting.append(node.id)
            elif isinstance(node, ast.arg):
                waiting.append(node.arg)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts += [node.value, f'"{node.value}"']
    return "\n".join(texts)


def undeclared(source: str) -> dict[str, str]:
    """Return the tests that disturb others without saying so: {name: what of it does}."""
    tree = ast.parse(source)
    known = parts(tree)
    everywhere = "disturbs(" in ast.unparse(known["pytestmark"]) if "pytestmark" in known else False
    found = {}
    for name, node in known.items():
        if not isinstance(node, ast.FunctionDef) or not name.startswith("test_"):
            continue
        said = everywhere or any("mark.disturbs(" in ast.unparse(one) for one in node.decorator_list)
        if not said and (match := DISTURBING.search(text_of(name, known))):
            found[name] = match[0]
    return found


@pytest.mark.parametrize("name", TESTS)
def test_a_test_that_disturbs_others_says_so(name):
    found = undeclared(TESTS[name].read_text(encoding="utf-8"))
    assert {test: what for test, what in found.items() if test not in HARMLESS} == {}


def test_what_is_called_harmless_is_there_and_would_be_found():
    found = {test for path in TESTS.values() for test in undeclared(path.read_text(encoding="utf-8"))}
    assert set(HARMLESS) - found == set()


@pytest.mark.parametrize(
    "source",
    [
        "def test_x(host): host.check_output('sudo systemctl stop named')",
        "def test_x(host): host.check_output(f'systemctl kill --signal KILL {host}')",
        "def test_x(host): host.run('sudo systemctl --no-block restart sshd')",
        "def test_x(host): host.check_output('sudo nft --file -')",
        "HARM = 'ip link set eth0 down'\ndef harm(host): host.run(HARM)\ndef test_x(host): harm(host)",
        "@pytest.fixture\ndef broken(host): host.run('pkill -STOP -x named')\ndef test_x(broken): pass",
        "def test_x(cluster): invoke(cluster, 'deploy', '--limit', 'zeta')",
        "pytestmark = pytest.mark.xdist_group('x')\ndef test_x(host): host.run('ip -4 address add 192.0.2.1/32 dev lo')",
    ],
)
def test_a_test_that_does_not_say_so_is_found(source):
    assert set(undeclared(source)) == {"test_x"}
    assert undeclared(source.replace("def test_x", "@pytest.mark.disturbs('lan')\ndef test_x")) == {}
    assert undeclared("pytestmark = pytest.mark.disturbs('lan')\n" + source.replace("pytestmark", "other")) == {}


@pytest.mark.parametrize(
    "command", ["systemctl status x", "systemctl show x", "nft list ruleset", "ip link show", "kill_switch", "ip address"]
)
def test_a_test_that_only_asks_is_not(command):
    assert undeclared(f"def test_x(host): host.run({command!r})") == {}
