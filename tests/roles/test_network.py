"""Who lets go of the port in the LAN, and in which order; a board with NetworkManager is what no container is."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TAKE = ROOT / "roles/network/files/take-interface.sh"

# Stands for systemctl, nmcli and networkctl: it writes down who was called, and the port goes over when NetworkManager is told.
PROGRAM = """#!/bin/sh
cd "${0%/*}" || exit 1
echo "${0##*/} $*" >>said
case "${0##*/} $*" in
  *is-active*) test -e devices || exit 3 ;;
  "systemctl reload NetworkManager.service") test -e deaf || echo lan0:unmanaged >devices ;;
  nmcli*) cat devices ;;
esac
"""
THEN = ["systemctl start systemd-networkd.service", "networkctl reload", "networkctl reconfigure lan0"]


@pytest.fixture
def take(tmp_path):
    """Let systemd-networkd take lan0 over on such a node; return what was called, each in a row once."""
    for name in ("systemctl", "nmcli", "networkctl", "sleep"):
        (tmp_path / name).write_text(PROGRAM)
        (tmp_path / name).chmod(0o755)

    def run():
        env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        subprocess.run(["/bin/sh", "-c", TAKE.read_text(), "take-interface", "lan0"], env=env, check=True, timeout=60)
        said = [line for line in (tmp_path / "said").read_text().splitlines() if not line.startswith("sleep ")]
        return [line for number, line in enumerate(said) if line not in said[:number]]

    return run


def test_networkmanager_lets_go_before_networkd_takes_the_port(take, tmp_path):
    (tmp_path / "devices").write_text("lan0:connected\nwlan0:connected\n")
    called = take()
    assert called[1] == "systemctl reload NetworkManager.service"
    assert called[2].startswith("nmcli ")
    assert called[3:] == THEN


def test_without_networkmanager_nobody_is_asked(take):
    assert take()[1:] == THEN


def test_a_networkmanager_that_does_not_let_go_is_not_waited_for_for_ever(take, tmp_path):
    (tmp_path / "devices").write_text("lan0:connected\n")
    (tmp_path / "deaf").touch()
    assert take()[3:] == THEN


def test_systemd_finds_nothing_to_fill_in():
    """systemd.service(5), Command lines: ${name} within a word, and two dollar signs."""
    assert not re.search(r"\$[${]", TAKE.read_text())


@pytest.mark.parametrize(
    ("node", "mac", "only"),
    [("omega", "b8:27:eb:00:00:01", False), ("psi", "b8:27:eb:00:00:10", True), ("gamma", "b8:27:eb:00:00:21", True)],
)
def test_networkmanager_leaves_the_lan_and_names_only_to_who_has_them_from_there(tmp_path, ansible, node, mac, only):
    # The role's defaults and templates, without its tasks.
    role = tmp_path / "roles/probe"
    (role / "tasks").mkdir(parents=True)
    for folder in ("defaults", "templates"):
        (role / folder).symlink_to(ROOT / "roles/network" / folder)
    (role / "tasks/main.yml").write_text(
        f"- ansible.builtin.template: {{src: etc/NetworkManager/conf.d/90-lan.conf.j2, dest: '{tmp_path}/lan.conf'}}\n"
    )
    play = (
        "- hosts: all\n  gather_facts: false\n  become: false\n  connection: local\n"
        "  vars: {ansible_python_interpreter: '{{ ansible_playbook_python }}'}\n  roles: [role: probe]\n"
    )
    result = ansible(tmp_path, play, f"--limit={node}", inventory=ROOT / "inventory/lab.rack.yml")
    assert result.returncode == 0, result.stdout + result.stderr
    written = (tmp_path / "lan.conf").read_text().splitlines()
    assert f"unmanaged-devices+=mac:{mac}" in written
    assert ("dns=none" in written) is only


def test_a_check_says_that_the_interface_would_be_taken(tmp_path, ansible):
    play = (
        "- hosts: all\n  gather_facts: false\n"
        "  vars:\n    network_mac: 02:00:00:00:00:01\n"
        '    __network_links: {stdout: \'[{"ifname": "lan0", "address": "02:00:00:00:00:01"}]\'}\n'
        "  tasks:\n    - ansible.builtin.import_role: {name: network, tasks_from: move}\n"
    )
    result = ansible(tmp_path, play, "--check", hosts=["psi"])
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"psi .* changed=1 ", result.stdout), result.stdout
