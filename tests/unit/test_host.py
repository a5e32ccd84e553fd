from __future__ import annotations

from pathlib import Path

import pytest

from beowulf import deploy, host, playbook
from beowulf.cluster import Cluster
from beowulf.errors import Failure


def test_the_runtime_fits_the_control_groups(tmp_path):
    assert host.runtime(host.cgroup_version(tmp_path)) == "runc"
    (tmp_path / "cgroup.controllers").touch()
    assert host.runtime(host.cgroup_version(tmp_path)) == "crun"


def test_memory_is_what_can_be_had():
    assert host.memory("MemTotal: 9000000 kB\nMemAvailable:    2097152 kB\n") == 2 * host.GIB
    assert host.check_memory("MemAvailable: 2097152 kB\n")[0][0] == "2.5 GiB of memory (2.0 are free)"
    assert host.check_memory("MemAvailable: 2700000 kB\n") == []


def test_a_lab_that_runs_has_its_room(monkeypatch):
    """Or else a second deploy would need twice as much, and nobody could take a lab down whose machine is full."""
    monkeypatch.setattr(host.os, "geteuid", lambda: 0)
    monkeypatch.setattr(host, "memory", lambda text: 0)
    monkeypatch.setattr(host, "check_space", lambda folder, needed=0: [(f"space at {folder}", "")])
    short = {"2.5 GiB of memory (0.0 are free)", "space at /var/lib/containers", f"space at {host.ROOT}"}
    assert short <= dict(host.missing_for_lab()).keys()
    assert not short & dict(host.missing_for_lab(running=True)).keys()


@pytest.mark.parametrize(("task", "up", "running"), [("lab.up", False, False), ("lab.up", True, True), ("lab.down", False, True)])
def test_who_asks_for_memory(monkeypatch, task, up, running):
    asked = []
    monkeypatch.setattr(Cluster, "is_lab", True)
    monkeypatch.setattr(Cluster, "lab_is_up", lambda self: up)
    monkeypatch.setattr(playbook, "run", lambda *arguments: (1, None))
    monkeypatch.setattr(deploy.host, "require_lab", lambda running=False: asked.append(running))
    with pytest.raises(Failure):
        deploy.lab(Cluster("lab"), task)
    assert asked == [running]


def test_space_is_looked_at_where_the_folder_will_be(tmp_path):
    assert host.check_space(tmp_path / "not" / "yet", 0) == []
    assert "100000 GiB of space" in host.check_space(tmp_path / "not" / "yet", 100000)[0][0]


def test_missing_programs_are_named_with_their_package(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(host.shutil, "which", lambda program, path: None)
    missing = dict(host.check_programs(2))
    assert missing["the program podman"] == "apt-get install --no-install-recommends podman"
    assert "the program crun" in missing
    assert missing["the program aardvark-dns"].endswith(" aardvark-dns")
    assert missing["the program ip"].endswith(" iproute2")


def test_control_groups_must_be_writable():
    assert "control groups" in host.check_cgroups(Path("/proc/no/such"))[0][0]
