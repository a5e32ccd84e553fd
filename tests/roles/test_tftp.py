"""What the role tftp takes from the folder of boot files, and what it refuses to give to everybody."""

from __future__ import annotations

import json
import subprocess

import pytest

from beowulf import playbook
from beowulf.process import ROOT, environment, tool

PLAY = """
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: tftp, tasks_from: content}
"""
GOOD = [
    "pxelinux.0",
    "cmdline.txt",
    "config.txt",
    "1a2b3c4d/kernel8.img",
    "overlays/user-data.dtbo",
    "1a2b3c4d/bootcode.bin",
    "meta-data",
    "keys.txt",
]
SECRET = [
    "user-data", "1a2b3c4d/user-data", "network-config", "custom.toml", "userconf.txt", "userconf", "wpa_supplicant.conf", "firstrun.sh",
    "deep/er/home.nmconnection", "id_ed25519", "ssh_host_rsa_key", "node.key", "USER-DATA", ".ssh/id_rsa",
]  # fmt: skip


@pytest.fixture
def fill(tmp_path):
    """Let the role fill a folder from one with these files: (exit status, what was said, the files that are served)."""

    def run(*names: str):
        for name in names:
            path = tmp_path / "from" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        (tmp_path / "play.yml").write_text(PLAY)
        variables = {
            "ansible_python_interpreter": tool("python"), "ansible_become": False, "__tftp_folder": str(tmp_path / "served"),
            "tftp_cluster": "lab", "tftp_content_dir": str(tmp_path / "from"), "tftp_serials": ["1a2b3c4d"],
        }  # fmt: skip
        env = environment(**playbook.strategy(), ANSIBLE_CALLBACKS_ENABLED="ansible.builtin.minimal", ANSIBLE_NOCOLOR="1",
                          ANSIBLE_CACHE_PLUGIN="ansible.builtin.memory", ANSIBLE_ROLES_PATH=str(ROOT / "roles"))  # fmt: skip
        command = [
            "unshare",
            "-r",
            "ansible-playbook",
            "-i",
            "localhost,",
            "-c",
            "local",
            "-e",
            json.dumps(variables),
            tmp_path / "play.yml",
        ]
        result = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        served = tmp_path / "served"
        return result.returncode, result.stdout, {str(path.relative_to(served)) for path in served.rglob("*") if path.is_file()}

    return run


def test_boot_files_are_served(fill):
    code, said, served = fill(*GOOD)
    assert (code, served) == (0, {*GOOD, "cluster.txt"}), said


def test_files_that_hold_secrets_are_refused_by_name_before_anything_is_copied(fill):
    code, said, served = fill(*GOOD, *SECRET)
    assert (code, served) == (2, set()), said
    named = " ".join(said.split()).partition(" holds ")[2].partition(": that is where passwords")[0]
    assert set(named.split(", ")) == set(SECRET)
