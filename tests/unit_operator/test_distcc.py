"""The compilers of those who compile for each other are compared, whichever play they are in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from beowulf.process import ROOT

HOSTS = [{"name": name, "address": "192.0.2.1", "jobs": 1} for name in ("gamma", "delta")]


@pytest.fixture
def compare(tmp_path):
    """Run the comparison of the role on servers and, in a play of its own, on a client, with versions of the compiler; return what came."""

    def run(**versions):
        names = [*versions]
        for name, version in versions.items():
            program = tmp_path / name / "gcc"
            program.parent.mkdir()
            program.write_text(f"#!/bin/sh\necho 'Target: x86_64-linux-gnu\ngcc version {version} (Debian)' >&2\n")
            program.chmod(0o755)
        tasks = [{"ansible.builtin.import_tasks": str(ROOT / "roles/distcc/tasks/compiler.yml")}]
        environment = {"PATH": f"{tmp_path}/{{{{ inventory_hostname }}}}:{os.environ['PATH']}"}
        plays = [
            {"hosts": hosts, "gather_facts": False, "connection": "local", "environment": environment, "tasks": tasks,
             "vars": {"distcc_hosts": HOSTS, "ansible_python_interpreter": sys.executable}}
            for hosts in (["gamma", "delta"], ["psi"])
        ]  # fmt: skip
        playbook = tmp_path / "site.yml"
        playbook.write_text(yaml.safe_dump(plays, sort_keys=False))
        command = [Path(sys.executable).with_name("ansible-playbook"), "--inventory", ",".join([*names, ""]), playbook]
        settings = {"ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"), "ANSIBLE_BECOME": "false"}
        return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=120, check=False)

    return run


def test_a_client_with_the_compiler_of_its_servers_is_fine(compare):
    done = compare(gamma="14.2.0", delta="14.2.0", psi="14.2.0")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("odd", ["psi", "delta"])
def test_an_odd_compiler_is_named(compare, odd):
    done = compare(**dict.fromkeys(("gamma", "delta", "psi"), "14.2.0") | {odd: "12.2.0"})
    assert done.returncode == 2
    assert "distcc would mix objects of different compilers" in done.stdout
    assert f"'{odd}': 'x86_64-linux-gnu 12.2.0'" in done.stdout, done.stdout
    assert "'gamma': 'x86_64-linux-gnu 14.2.0'" in done.stdout


def test_a_server_that_takes_no_part_in_the_run_is_not_asked(compare):
    done = compare(gamma="14.2.0", psi="14.2.0")
    assert done.returncode == 0, done.stdout
