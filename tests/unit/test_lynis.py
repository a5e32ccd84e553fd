from __future__ import annotations

import io
import shlex
import subprocess
import tarfile

import pytest

from beowulf import lynis
from beowulf.cluster import Cluster
from beowulf.errors import Failure, Refusal
from beowulf.process import ROOT

LOG = """\
2026-01-01 00:00:00 Program version:           3.1.4
2026-01-01 00:00:00 Performing test ID USB-3000 (Check for presence of USBGuard)
2026-01-01 00:00:00 Hardening: assigned partial number of hardening points (0 of 8). Currently having 0 points (out of 8)
2026-01-01 00:00:01 Performing test ID FILE-6374 (Linux mount options)
2026-01-01 00:00:01 Hardening: assigned maximum number of hardening points for this item (5). Currently having 5 points (out of 13)
2026-01-01 00:00:01 Hardening: assigned partial number of hardening points (4 of 5). Currently having 9 points (out of 18)
2026-01-01 00:00:02 Performing test ID SSH-7408 (Check SSH specific defined options)
2026-01-01 00:00:02 Test: Checking Port in /tmp/lynis.xyz
2026-01-01 00:00:02 Hardening: assigned partial number of hardening points (0 of 3). Currently having 9 points (out of 21)
2026-01-01 00:00:03 Performing test ID KRNL-6000 (Check sysctl key pairs in scan profile)
2026-01-01 00:00:03 Result: sysctl key fs.protected_fifos has a different value than expected in scan profile. Expected=2, Real=0
2026-01-01 00:00:03 Hardening: assigned partial number of hardening points (0 of 1). Currently having 9 points (out of 22)
2026-01-01 00:00:03 Result: sysctl key net.ipv4.tcp_syncookies contains equal expected and current value (1)
2026-01-01 00:00:03 Hardening: assigned maximum number of hardening points for this item (1). Currently having 10 points (out of 23)
"""


def test_points_are_counted_for_each_check():
    rating = lynis.read(LOG, container=True, deployed=True)
    assert (rating.version, rating.index()) == ("3.1.4", 100 * 10 // 23)
    assert rating.checks["FILE-6374"] == (9, 10)
    assert rating.missing == {"USB-3000": 8, "FILE-6374": 1, "SSH-7408:Port": 3, "KRNL-6000:fs.protected_fifos": 1}


@pytest.mark.parametrize(("container", "index"), [(True, 100 * 10 // 13), (False, 100 * 10 // 23)])
def test_only_a_container_is_forgiven_what_it_cannot_have(container, index):
    assert lynis.read(LOG, container, True).index(without_limits=True) == index


@pytest.mark.parametrize(("check", "found"), [("KRNL-6000:fs.x", True), ("KRNL-6000:fsx", False), ("KRNL-6000", False), ("USB-3000", True)])
def test_a_reason_is_for_a_check_and_what_belongs_to_it(check, found):
    assert bool(lynis.reason(lynis.CONTAINER, check)) is found


def test_every_missing_point_has_a_reason_or_is_open():
    shown = lynis.items({"psi": lynis.read(LOG, True, True), "omega": lynis.read(LOG.replace("SSH-7408", "NEW-0001"), True, True)})
    assert shown[2] == "| USB-3000 | 8 | all | container: a container has no USB |"
    assert "| SSH-7408:Port | 3 | psi | another port hides nothing |" in shown
    assert "| NEW-0001 | 3 | omega | open |" in shown


def test_on_metal_the_reason_is_ours():
    assert f"| USB-3000 | 8 | all | {lynis.DECIDED['USB-3000']} |" in lynis.items({"psi": lynis.read(LOG, False, True)})


def test_the_program_belongs_to_root_alone(tmp_path):
    tree = tmp_path / "tree"
    for path in ("DEBIAN", "usr/sbin", "etc/lynis", "usr/share/lynis/include", "usr/share/lynis/db"):
        (tree / path).mkdir(parents=True)
    (tree / "DEBIAN/control").write_text("Package: lynis\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n")
    for path in ("usr/sbin/lynis", "etc/lynis/default.prf", "usr/share/lynis/include/functions", "usr/share/lynis/db/x"):
        (tree / path).write_text("x")
    package = tmp_path / "lynis_1_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", str(tree), str(package)], check=True, capture_output=True)
    with tarfile.open(fileobj=io.BytesIO(lynis.program(package))) as archive:
        members = {member.name: member for member in archive.getmembers()}
    assert {"lynis", "default.prf", "include/functions", "db/x"} <= set(members)
    assert all((member.uid, member.gid, member.mode & 0o027) == (0, 0, 0) for member in members.values())


def test_a_node_is_audited(tmp_path):
    (tmp_path / "log").write_text(LOG)
    rating = lynis.audit(["sh", "-c", f"cat >/dev/null; echo podman; echo deployed; cat {tmp_path}/log"], b"archive")
    assert (rating.container, rating.deployed, rating.checks["USB-3000"]) == (True, True, (0, 8))
    vanilla = lynis.audit(["sh", "-c", f"cat >/dev/null; echo none; echo vanilla; cat {tmp_path}/log"], b"archive")
    assert (vanilla.container, vanilla.deployed) == (False, False)


@pytest.mark.parametrize(
    ("command", "said"),
    [("echo lost >&2; exit 255", "lost"), ("exit 3", "no audit; exit code 3"), ("echo none; echo x", "no audit; exit code 0")],
)
def test_a_node_that_cannot_be_audited_says_why(command, said):
    with pytest.raises(Failure, match=said):
        lynis.audit(["sh", "-c", command], b"")


def rated(index, deployed):
    return lynis.Rating("3.1.4", container=False, deployed=deployed, checks={"USB-3000": (index, 100)})


@pytest.fixture
def rate(monkeypatch, tmp_path):
    """Rate nodes of the lab that have certain ratings."""

    def run(ratings, **options):
        monkeypatch.setattr(lynis, "fetch", lambda folder: tmp_path)
        monkeypatch.setattr(lynis, "program", lambda package: b"")
        monkeypatch.setattr(lynis, "ways", lambda cluster, nodes, console: {node: [node] for node in nodes})
        monkeypatch.setattr(lynis, "audit", lambda way, archive: ratings[way[0]])
        lynis.rate(Cluster("lab"), limit=",".join(ratings), **options)

    return run


@pytest.mark.parametrize("as_json", [False, True])
def test_a_deployed_node_below_the_target_is_named(rate, as_json):
    with pytest.raises(Failure) as raised:
        rate({"omega": rated(80, True), "psi": rated(79, True), "alpha": rated(12, True)}, as_json=as_json)
    assert raised.value.code == 1
    assert str(raised.value).splitlines() == [
        "lynis lab: psi has an index of 79 without what a container cannot have; it has to be 80 or more",
        "lynis lab: alpha has an index of 12 without what a container cannot have; it has to be 80 or more",
    ]


def test_a_node_before_its_first_deploy_is_not_judged(rate, capsys):
    rate({"omega": rated(80, True), "psi": rated(63, False)})
    assert capsys.readouterr().out.endswith("\nNot judged, because no deploy has come to its end there: psi\n")


def test_what_a_deployed_node_is_known_by_is_what_its_last_role_makes():
    assert (ROOT / f"roles/hardening/templates{lynis.MARK}.j2").is_file()
    assert f"test -e {lynis.MARK}" in lynis.AUDIT


def test_the_program_of_a_shell_comes_through_ssh_as_it_is():
    way = lynis.ways(Cluster("lab"), ["psi"], console=False)["psi"]
    assert shlex.split(way[-1]) == ["sudo", "-n", "sh", "-c", lynis.AUDIT]


def test_the_console_is_that_of_the_container():
    assert lynis.ways(Cluster("lab"), ["psi"], console=True)["psi"][:4] == ["podman", "exec", "--interactive", "lab-psi"]


def test_only_a_lab_has_such_a_console(home):
    with pytest.raises(Refusal, match="--console: the nodes of home are no containers of this machine"):
        lynis.rate(home, console=True)
