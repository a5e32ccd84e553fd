"""Servers of a pair are restarted one after the other: where the first does not come back, the others are left alone."""

from __future__ import annotations

import re
import shutil

import pytest
import yaml

from ansible_collections.beowulf.cluster.plugins.action.file_tree import tree
from beowulf.process import ROOT

# systemctl, which notes whom it restarts; the service of a node that is broken does not start.
SYSTEMCTL = """#!/bin/sh
case $* in
  *restart*) echo "$NODE" >>{folder}/restarted; test "$NODE" != "$BROKEN" ;;
  *show*) echo ActiveState=active; echo LoadState=loaded ;;
esac
"""
PLAY = """
- hosts: all
  gather_facts: false
  roles: ["{folder}/{role}"]
  environment:
    NODE: "{{{{ inventory_hostname }}}}"
    BROKEN: "{broken}"
    PATH: "{folder}:{{{{ lookup('ansible.builtin.env', 'PATH') }}}}"
"""
NODES = ["alpha", "beta", "gamma"]


@pytest.fixture
def restart(tmp_path, ansible):
    """Notify a handler of a role on three nodes; return the exit code, what was said, and who was restarted, in this order."""
    (tmp_path / "systemctl").write_text(SYSTEMCTL.format(folder=tmp_path))
    (tmp_path / "systemctl").chmod(0o755)

    def one(role: str, handler: str, broken: str, **variables: object) -> tuple[int, str, list[str]]:
        # Its handlers and what they include, without the rest of the role, and without the seconds that daemons take.
        shutil.copytree(ROOT / "roles" / role / "handlers", tmp_path / role / "handlers")
        (tmp_path / role / "tasks").mkdir()
        (tmp_path / role / "tasks" / "main.yml").write_text(f"- command: 'true'\n  notify: {handler}\n")
        tasks = (ROOT / "roles" / role / "tasks" / "restart.yml").read_text()
        (tmp_path / role / "tasks" / "restart.yml").write_text(
            tasks.replace("seconds: 9", "seconds: 0").replace("retries: 20", "retries: 1")
        )
        result = ansible(tmp_path, PLAY.format(role=role, broken=broken, folder=tmp_path), hosts=NODES, variables=variables)
        noted = tmp_path / "restarted"
        return result.returncode, " ".join((result.stdout + result.stderr).split()), noted.read_text().split() if noted.exists() else []

    return one


KEA = {"__dhcp_ask": ["python3", "-c", "print('hot-standby')"], "__dhcp_serving": "^hot-standby$"}
VIP = {"vip_address": "10.77.0.5"}
# Kea starts, and does not serve.
MUTE = KEA | {"__dhcp_ask": ["python3", "-c", "import os; print('silent' if os.environ['NODE'] == 'alpha' else 'hot-standby')"]}


@pytest.mark.parametrize(
    ("role", "handler", "broken", "variables"),
    [("dhcp", "Restart Kea", "alpha", KEA), ("dhcp", "Restart Kea", "", MUTE), ("vip", "Restart keepalived", "alpha", VIP)],
)
def test_where_one_does_not_come_back_the_others_are_left_as_they_are(restart, role, handler, broken, variables):
    code, said, restarted = restart(role, handler, broken, **variables)
    assert code, said
    assert restarted == ["alpha"], said
    for node in ("beta", "gamma"):
        assert f"{node} is left as it was" in said
    assert "alpha did not come back" in said


@pytest.mark.parametrize(("role", "handler", "variables"), [("dhcp", "Restart Kea", KEA), ("vip", "Restart keepalived", VIP)])
def test_otherwise_each_has_its_turn(restart, role, handler, variables):
    code, said, restarted = restart(role, handler, "", **variables)
    assert code == 0, said
    assert restarted == NODES


def read_by(task: dict) -> list[str]:
    """Return the paths that the service of a task reads, as far as they are known before it runs; none for a task without a service."""
    said = str([task["beowulf.cluster.service_state"].get("reads"), task.get("vars")]) if "beowulf.cluster.service_state" in task else ""
    return re.findall(r"/[a-z]+/[\w./-]+", said)


def covered(path: str, paths: list[str]) -> bool:
    """Say whether a file is one of these, or in one of these folders."""
    return any(path == one or path.startswith(f"{one}/") for one in paths)


AT_EACH_USE = (
    "/etc/beowulf/status-page.toml", "/etc/ccache.conf", "/etc/distcc", "/etc/kea/staged", "/etc/profile.d",
    "/etc/systemd/system/dns-zones.service", "/etc/tmpfiles.d/httpd.conf",
    "/etc/bind/tsig.key", # a template for keys of other names
)  # fmt: skip
"""What no process keeps: it is read by whoever needs it, whenever he does."""
ROLES = sorted(path.parent.parent.name for path in (ROOT / "roles").glob("*/tasks/main.yml") if "service_state" in path.read_text())


@pytest.mark.parametrize("role", ROLES)
def test_what_a_service_has_not_read_is_found_by_the_next_deploy(role):
    """Whoever was left alone, or whose run ended before its handlers: its files are in place by then, and no task changes them."""
    tasks = [task for path in (ROOT / "roles" / role / "tasks").glob("*.yml") for task in yaml.safe_load(path.read_text())]
    reads = [path for task in tasks for path in read_by(task)]
    assert reads
    files = list(tree(ROOT / "roles" / role, ["etc/*"]))
    # A service that a timer starts begins anew each time.
    unread = [path for path in files if not covered(path, reads) and f"{path.removesuffix('.service')}.timer" not in files]
    assert [path for path in unread if not covered(path, AT_EACH_USE)] == []
