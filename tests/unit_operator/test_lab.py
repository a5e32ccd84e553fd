"""A lab is gone when the engine and the kernel say so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from beowulf.process import ROOT

# Another cluster's, with a name that begins as this one's does.
OTHERS = {
    "nodes": [
        {"Names": ["lab-lan-alpha"], "Networks": ["lab-lan-lan"]},
        {"Names": ["lab-builder"], "Networks": None},
        {"Names": ["web"], "Networks": ["podman"]},
    ],
    "networks": ["lab-lan-lan", "podman"],
    "links": [{"ifname": "lo"}, {}, {"ifname": "lab-lan-lan"}, {"ifname": "veth0"}],
}


@pytest.fixture
def gone(tmp_path):
    """Ask whether the cluster lab is gone from a host with some nodes, networks and links; return how that ended."""

    def run(nodes=(), networks=(), links=()):
        (tmp_path / "nodes").write_text(json.dumps([*OTHERS["nodes"], *nodes]))
        (tmp_path / "networks").write_text("\n".join([*OTHERS["networks"], *networks]))
        (tmp_path / "links").write_text(json.dumps([*OTHERS["links"], *links]))
        for name, script in {
            "podman": f"[ $1 = ps ] && cat {tmp_path}/nodes || cat {tmp_path}/networks",
            "ip": f"cat {tmp_path}/links",
        }.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
        play = {
            "hosts": "localhost",
            "gather_facts": False,
            "connection": "local",
            "vars": {"lab_cluster": "lab", "ansible_python_interpreter": sys.executable},
            "environment": {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
            "tasks": [{"ansible.builtin.import_tasks": str(ROOT / "roles/lab/tasks/gone.yml")}],
        }
        playbook = tmp_path / "gone.yml"
        playbook.write_text(yaml.safe_dump([play], sort_keys=False))
        command = [Path(sys.executable).with_name("ansible-playbook"), "--inventory", "localhost,", playbook]
        env = os.environ | {"ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg")}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)

    return run


def test_what_belongs_to_others_is_not_left(gone):
    done = gone()
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ({"nodes": [{"Names": ["lab-old"], "Networks": ["lab-lan", "lab-wan"]}]}, "container lab-old"),
        ({"networks": ["lab-wan"]}, "network lab-wan"),
        ({"links": [{"ifname": "lab-adm"}, {"ifname": "lab-far"}]}, "link lab-adm, link lab-far"),
        ({"networks": ["lab-lan"], "links": [{"ifname": "lab-lan"}]}, "network lab-lan, link lab-lan"),
    ],
)
def test_what_is_left_is_named(gone, left, said):
    done = gone(**left)
    assert done.returncode == 2
    assert f"This host still has of lab: {said}. Try again" in " ".join(done.stdout.split()), done.stdout


def test_the_removal_ends_with_the_question():
    *_before, last = yaml.safe_load((ROOT / "roles/lab/tasks/absent.yml").read_text(encoding="utf-8"))
    assert last["ansible.builtin.import_tasks"] == "gone.yml"
