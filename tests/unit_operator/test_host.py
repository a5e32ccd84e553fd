from __future__ import annotations

from pathlib import Path

from beowulf import host


def test_the_runtime_fits_the_control_groups(tmp_path):
    assert host.runtime(host.cgroup_version(tmp_path)) == "runc"
    (tmp_path / "cgroup.controllers").touch()
    assert host.runtime(host.cgroup_version(tmp_path)) == "crun"


def test_memory_is_what_can_be_had():
    assert host.memory("MemTotal: 9000000 kB\nMemAvailable:    2097152 kB\n") == 2 * host.GIB
    assert host.check_memory("MemAvailable: 2097152 kB\n")[0][0] == "4 GiB of memory (2.0 are free)"
    assert host.check_memory("MemAvailable: 5000000 kB\n") == []


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
