"""What stops the first deploy to real machines: no key, and nodes that nobody has vouched for."""

from __future__ import annotations

import stat
import subprocess

import pytest

from beowulf import cluster as clusters
from beowulf import deploy, first_contact
from beowulf.errors import Refusal

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2Xv1mZ7cY0m2nq4rJxS3oT8b1yK5wLhQ6uVfEdPgRa"
NODES = ["gate", "desk", "left", "right", "node1", "node2", "node3", "node4", "node5"]


@pytest.fixture
def ssh(boards):
    """The folder with a key, and a host key of every node."""
    folder = boards / ".beowulf/home/ssh"
    folder.mkdir(parents=True)
    for name in ("id_ed25519", "id_ed25519.pub"):
        (folder / name).touch()
    (folder / "known_hosts").write_text("".join(f"{name}.home.internal {KEY}\n" for name in NODES))
    return folder


def refusal(*arguments, **options):
    with pytest.raises(Refusal) as raised:
        first_contact.preflight(*arguments, **options)
    assert raised.value.code == 2
    return str(raised.value).splitlines()


def test_with_a_key_and_all_host_keys_nothing_is_said(home, ssh, capsys):
    first_contact.preflight(home)
    assert capsys.readouterr().out == ""


def test_the_first_run_makes_the_key_and_says_whom_to_give_it(home, boards):
    said = refusal(home)
    key = boards / ".beowulf/home/ssh/id_ed25519"
    public = key.with_suffix(".pub").read_text().strip()
    assert f"  {public}" in said
    assert any("to the user admin of every board" in line for line in said)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (key.parent, *key.parent.parents[:2])} == {0o700}
    assert subprocess.run(["ssh-keygen", "-l", "-f", str(key)], check=True, capture_output=True, text=True).stdout.endswith("(ED25519)\n")
    assert not any(public in line for line in refusal(home)), "it is there by now"


def test_a_check_makes_nothing(home, boards):
    assert "There is no key .beowulf/home/ssh/id_ed25519; a deploy without --check makes it." in refusal(home, check=True)
    assert not (boards / ".beowulf").exists()


def test_every_node_without_a_host_key_has_a_line(home, ssh):
    (ssh / "known_hosts").write_text(f"# left.home.internal {KEY}\ngate.home.internal {KEY}\n@revoked desk.home.internal {KEY}\n")
    said = refusal(home)
    assert "8 of 9 nodes have no host key in .beowulf/home/ssh/known_hosts, and what the network says of them is not believed:" in said
    assert [line.split(":")[0].strip() for line in said if ": no line of " in line] == [name for name in NODES if name != "gate"]
    assert "  desk: no line of desk.home.internal" in said


def test_a_limited_run_needs_its_nodes_and_those_that_are_asked_for_them(home, ssh):
    lines = (ssh / "known_hosts").read_text().splitlines(keepends=True)
    (ssh / "known_hosts").write_text("".join(line for line in lines if line.startswith(("gate", "node1"))))
    said = refusal(home, ["node1", "node2"])
    assert [line.split(":")[0].strip() for line in said if ": no line of " in line] == ["desk", "node2"]


@pytest.mark.parametrize("form", ["@cert-authority *.home.internal", "*.home.internal,!gate.home.internal", "a,DESK.home.internal,b"])
def test_patterns_names_and_the_authority_vouch_for_a_node(form, tmp_path):
    (tmp_path / "known_hosts").write_text(f"{form} {KEY}\n")
    assert first_contact.has_line(tmp_path / "known_hosts", "desk.home.internal")
    assert not first_contact.has_line(tmp_path / "known_hosts", "desk.office.internal")
    assert first_contact.has_line(tmp_path / "known_hosts", "gate.home.internal") is form.startswith("@")


def test_a_hashed_name_is_recognised(tmp_path):
    (tmp_path / "known_hosts").write_text(f"desk.home.internal {KEY}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(tmp_path / "known_hosts")], check=True, capture_output=True)
    assert "|1|" in (tmp_path / "known_hosts").read_text()
    assert first_contact.has_line(tmp_path / "known_hosts", "desk.home.internal")
    assert not first_contact.has_line(tmp_path / "known_hosts", "left.home.internal")


@pytest.mark.parametrize(
    ("lines", "known"),
    [
        ("", False),
        ("desk.home.internal\n", False),
        ("desk.home.internal ssh-ed25519\n", False),
        (f"# Host desk.home.internal found: line 1\n#desk.home.internal {KEY}\n", False),
        (f"@revoked desk.home.internal {KEY}\n", False),
        (f"@revoked * {KEY}\ndesk.home.internal {KEY}\n", True),
        (f"desk.home.internal {KEY}", True),
    ],
)
def test_what_is_no_key_vouches_for_nobody(lines, known, tmp_path):
    (tmp_path / "known_hosts").write_text(lines)
    assert first_contact.has_line(tmp_path / "known_hosts", "desk.home.internal") is known
    assert not first_contact.has_line(tmp_path / "none", "desk.home.internal")


def test_the_authority_is_enough(home, ssh, boards):
    (ssh / "known_hosts").unlink()
    (boards / ".beowulf/home/ca").mkdir()
    (boards / ".beowulf/home/ca/known_hosts").write_text(f"@cert-authority *.home.internal {KEY}\n")
    first_contact.preflight(home)


def test_a_key_of_ones_own_is_never_made(boards, ssh):
    rack = boards / "inventory/home.rack.yml"
    rack.write_text(rack.read_text().replace("  user: admin\n", f"  user: admin\n  private_key: {boards}/mine\n"))
    home = clusters.Cluster("home")
    assert any(line.startswith("There is no key mine: correct ssh.private_key in home.rack.yml") for line in refusal(home))
    (boards / "mine").touch()
    assert "The public half of mine is missing: ssh-keygen -y -f mine >mine.pub" in refusal(home)
    (boards / "mine.pub").touch()
    first_contact.preflight(home)


def test_a_deploy_stops_there_before_anything_else(home, monkeypatch):
    monkeypatch.setattr(deploy.secrets, "preflight", lambda cluster: pytest.fail("it went on"))
    with pytest.raises(Refusal, match="nothing was sent to any node"):
        deploy.deploy(home)


def test_a_lab_makes_its_own(monkeypatch):
    def stop(cluster):
        raise Refusal("it went on")

    monkeypatch.setattr(first_contact, "preflight", lambda *arguments: pytest.fail("a lab was asked"))
    monkeypatch.setattr(deploy.secrets, "preflight", stop)
    with pytest.raises(Refusal, match="it went on"):
        deploy.deploy(clusters.Cluster("lab"))
