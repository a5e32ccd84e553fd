"""User certificates: really signed, by an encrypted key whose passphrase comes out of a real vault."""

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from beowulf import lock, playbook
from beowulf import secrets as vault
from beowulf.errors import Failure, Refusal
from beowulf.pki import certificates, database, identity, revocation, rotation
from beowulf.process import ROOT


def make_key(path: Path, passphrase: str = "") -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "test", "-f", str(path)], check=True)
    return path


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """What this module asks of a cluster, in a folder of its own."""
    monkeypatch.setenv("PASSWORD_STORE_DIR", str(tmp_path / "none"))
    state = tmp_path / "state"
    (state / "ca").mkdir(parents=True)
    (state / "ssh").mkdir()
    rack = SimpleNamespace(cluster="lab", ca=SimpleNamespace(user_hours=16, host_days=60), nodes={"gamma": None, "beta": None})
    key = make_key(state / "ssh" / "id_ed25519")
    variables = {"rack_ssh_private_key": str(key), "rack_ssh_user": "admin", "rack_deployer": {"name": "psi"}}
    found = SimpleNamespace(name="lab", state=state, rack=rack, variables=variables, ssh=lambda _node: [str(tmp_path / "ssh"), "node"],
                            group={"dhcp": ["beta"]}.__getitem__)  # fmt: skip
    make_key(state / "ca" / "user_ca", vault.store_of(found).get("ca"))
    return found


@pytest.fixture
def authority(cluster, tmp_path):
    """The folder of an authority that answers: what would be done there is done here, in a folder of its own."""
    folder = tmp_path / "cluster-ca"
    for name in ("ssh", "certificates", "public"):
        (folder / name).mkdir(parents=True)
    (folder / "ssh" / "user_ca.1.pub").write_bytes((cluster.state / "ca" / "user_ca.pub").read_bytes())
    (folder / "ssh" / "generations.json").write_text('{"newest": 1, "oldest": 1, "signs": 1}')
    (tmp_path / "sudo").write_text('#!/bin/sh\nshift\nexec "$@"\n')
    (tmp_path / "ssh").write_text(
        f'#!/bin/sh\nfor last; do :; done\nPATH="{tmp_path}:$PATH"\n'
        f'exec sh -c "$(printf %s "$last" | sed "s|{identity.FOLDER}|{folder}|g")"\n'
    )
    for name in ("sudo", "ssh"):
        (tmp_path / name).chmod(0o755)
    return folder


def shown(path: Path) -> dict[str, str]:
    [one] = database.summary(
        subprocess.run(["ssh-keygen", "-L", "-f", str(path)], check=True, capture_output=True, text=True, env={"TZ": "UTC"}).stdout
    )
    return one


def test_a_certificate_says_who_for_how_long_and_what_for(cluster, tmp_path):
    place = tmp_path / "ada-cert.pub"
    serial = certificates.sign(cluster, make_key(tmp_path / "ada").with_suffix(".pub"), "ada", 2, ["compute"], place)
    one = shown(place)
    assert (one["name"], one["type"], one["principals"], one["serial"]) == ("ada", "user", "compute", str(serial))
    assert 2 * 3600 - 60 < database.ends(one) - time.time() <= 2 * 3600 + 60
    first, last = certificates.validity(place)
    assert last - first == pytest.approx(2 * 3600 + 300, abs=60)


def test_a_wrong_passphrase_makes_no_certificate(cluster, tmp_path):
    (cluster.state / "ca" / "user_ca").unlink()
    make_key(cluster.state / "ca" / "user_ca", "another one")
    place = tmp_path / "none-cert.pub"
    with pytest.raises(Failure, match="ssh-keygen does not sign"):
        certificates.sign(cluster, Path(f"{cluster.variables['rack_ssh_private_key']}.pub"), "ada", 2, ["admin"], place)
    assert not place.exists()


def test_a_controller_renews_its_own_certificate_when_a_quarter_of_its_life_is_left(cluster):
    assert certificates.refresh(cluster)
    place = identity.own_certificate(cluster)
    assert shown(place)["principals"] == "admin"
    assert not certificates.refresh(cluster)
    public = Path(f"{cluster.variables['rack_ssh_private_key']}.pub")
    certificates.sign(cluster, public, "me", 3, ["admin"], place, since="-7h")
    assert not certificates.refresh(cluster), "three of ten hours are left"
    certificates.sign(cluster, public, "me", 2, ["admin"], place, since="-8h")
    assert certificates.refresh(cluster), "two of ten hours are left"
    assert certificates.validity(place)[1] - time.time() > 15 * 3600


def tell(cluster, *lines):
    """Give this controller a list of what is revoked."""
    folder = cluster.state / "ca"
    (folder / "revoked").write_text("".join(f"{line}\n" for line in lines))
    subprocess.run(["ssh-keygen", "-q", "-k", "-s", "none", "-f", str(folder / "revoked.krl"), str(folder / "revoked")], check=True)


def test_a_controller_whose_certificate_is_revoked_by_its_number_signs_itself_another(cluster):
    certificates.refresh(cluster)
    tell(cluster, "serial: 17", "id: ada")
    assert not certificates.refresh(cluster)
    tell(cluster, f"serial: {revocation.own_serial(cluster)}")
    assert certificates.refresh(cluster)
    assert not certificates.refresh(cluster), "this one is good"


@pytest.mark.parametrize("by", ["id", "key"])
def test_what_another_certificate_does_not_change_is_left_as_it_is(cluster, by):
    certificates.refresh(cluster)
    key = Path(f"{cluster.variables['rack_ssh_private_key']}.pub").read_text().strip()
    tell(cluster, f"id: {identity.own_name()}" if by == "id" else f"key: {key}")
    assert not certificates.refresh(cluster)


def test_nothing_is_signed_that_would_be_refused(cluster, tmp_path):
    key = make_key(tmp_path / "ada").with_suffix(".pub")
    for line, why in ((f"key: {key.read_text().strip()}", "make another one with ssh-keygen"), ("id: ada", "take another one")):
        tell(cluster, line)
        with pytest.raises(Refusal, match=why):
            certificates.user(cluster, "ada", 1, "", str(key), "")
        assert not (tmp_path / "ada-cert.pub").exists()


def test_before_there_is_an_authority_nothing_is_signed(cluster):
    (cluster.state / "ca" / "user_ca").unlink()
    assert not certificates.refresh(cluster)
    assert not identity.own_certificate(cluster).exists()
    with pytest.raises(Refusal, match=r"made by \./bootstrap deploy"):
        certificates.user(cluster, "ada", 1, "", "", "")


@pytest.mark.parametrize(
    ("name", "hours", "principals", "key", "why"),
    [
        ("a b", 1, "", "", "is no name for a certificate"),
        ("", 1, "", "", "is no name for a certificate"),
        ("ada", 200, "", "", "--hours 200: more than 0 and at most 168"),
        ("ada", -1, "", "", "--hours -1: more than 0"),
        ("ada", 1, "compute,roots", "", "no node admits roots"),
        ("ada", 1, "", "missing.pub", "cannot be read"),
        ("ada", 1, "", "private", "is no public key"),
    ],
)
def test_what_makes_no_sense_is_refused(cluster, tmp_path, monkeypatch, name, hours, principals, key, why):
    monkeypatch.chdir(tmp_path)
    Path("private").write_text("no key\n")
    with pytest.raises(Refusal, match=why):
        certificates.user(cluster, name, hours, principals, key, str(tmp_path / "made"))
    assert not (tmp_path / "made").exists()


def test_a_user_gets_a_certificate_beside_the_key(cluster, tmp_path, capsys):
    public = make_key(tmp_path / "ada").with_suffix(".pub")
    certificates.user(cluster, "ada", 0, "compute,router", str(public), "")
    one = shown(tmp_path / "ada-cert.pub")
    assert (one["name"], one["principals"]) == ("ada", "compute router")
    assert "opens the nodes of type compute, router as admin" in capsys.readouterr().out


def test_what_is_revoked_is_said_in_the_words_of_ssh_keygen(cluster, authority):
    assert revocation.revocation(cluster, "17") == ["serial: 17"]
    assert revocation.revocation(cluster, "ada@desk") == ["id: ada@desk"]
    with pytest.raises(Refusal, match="neither a node"):
        revocation.revocation(cluster, "a\nserial: 0")


@pytest.mark.parametrize("serial", ["0", str(2**64)])
def test_a_number_that_would_spoil_the_list_is_refused(cluster, serial):
    with pytest.raises(Refusal, match="is no serial number"):
        revocation.revocation(cluster, serial)


@pytest.mark.parametrize("name", ["psi", "host-psi", "admin@psi", "root@psi", identity.own_name()])
def test_no_controller_is_shut_out_for_good(cluster, name):
    with pytest.raises(Refusal, match="is a controller"):
        revocation.revocation(cluster, name)


@pytest.mark.parametrize("name", ["host-gamma", "mpi@gamma", "ada@gamma"])
def test_no_node_is_shut_out_for_good(cluster, playbooks, authority, tmp_path, capsys, name):
    """The list shows such names, and they are those of the certificates that the node is given next, too."""
    with pytest.raises(Refusal, match=rf"^{name}: refused, nothing was touched.*\./bootstrap ca\.revoke gamma") as refused:
        revocation.revoke(cluster, name)
    assert (refused.value.code, playbooks) == (2, [])
    certificates.user(cluster, name, 1, "", f"{make_key(tmp_path / 'key')}.pub", "")
    assert f"revoke: ./bootstrap ca.revoke {shown(tmp_path / 'key-cert.pub')['serial']}\n" in capsys.readouterr().out


def test_a_certificate_for_some_nodes_does_not_take_the_place_of_the_controllers_own(cluster):
    certificates.refresh(cluster)
    before = identity.own_certificate(cluster).read_bytes()
    with pytest.raises(Refusal, match="shut it out"):
        certificates.user(cluster, "ada", 1, "compute", "", "")
    assert identity.own_certificate(cluster).read_bytes() == before


def test_the_authority_knows_what_a_controller_signed(cluster, authority, tmp_path, capsys):
    certificates.user(cluster, "ada", 2, "compute", str(make_key(tmp_path / "ada")) + ".pub", "")
    certificates.refresh(cluster)
    assert "does not answer" not in capsys.readouterr().out
    assert {one["name"] for one in database.issued(cluster)} == {"ada", identity.own_name()}
    [ada] = [one for one in database.issued(cluster) if one["name"] == "ada"]
    assert ada["serial"] == shown(tmp_path / "ada-cert.pub")["serial"]
    assert not certificates.waiting(cluster)
    assert {path.stat().st_mode & 0o77 for path in (authority / "issued").iterdir()} == {0}


def test_what_was_signed_while_the_authority_was_away_it_is_told_later(cluster, authority, tmp_path, capsys):
    away = authority.rename(tmp_path / "away")
    certificates.user(cluster, "ada", 2, "", str(make_key(tmp_path / "ada")) + ".pub", "")
    assert "the authority does not answer" in capsys.readouterr().out
    assert len(certificates.waiting(cluster)) == 1
    away.rename(authority)
    assert [one["name"] for one in database.issued(cluster)] == ["ada"]
    assert not certificates.waiting(cluster)


def keep(authority, cluster, tmp_path, name, place, key="user_ca", hours=2, since="-5m"):
    """Put a certificate where the authority keeps it; return its serial number."""
    own = make_key(tmp_path / f"key-{len(list(tmp_path.glob('key-*')))}").with_suffix(".pub")
    if key == "user_ca":
        return certificates.sign(cluster, own, name, hours, ["admin"], authority / place, since=since)
    subprocess.run(
        ["ssh-keygen", "-q", "-s", str(tmp_path / key), "-I", name, "-n", "admin", "-z", "7", "-V", "-5m:+2h", str(own)], check=True
    )
    made = own.with_name(own.name.removesuffix(".pub") + "-cert.pub")
    (authority / place).write_bytes(made.read_bytes())
    return 7


def test_the_list_has_each_certificate_once_and_says_what_is_revoked(cluster, authority, tmp_path, capsys):
    (authority / "issued").mkdir()
    serial = keep(authority, cluster, tmp_path, "me@desk", "certificates/me@desk-cert.pub")
    (authority / f"issued/{serial}-cert.pub").write_bytes((authority / "certificates/me@desk-cert.pub").read_bytes())
    keep(authority, cluster, tmp_path, "ada", "issued/1-cert.pub")
    keep(authority, cluster, tmp_path, "old", "issued/2-cert.pub", hours=-1, since="-2h")
    (tmp_path / "spec").write_text("id: ada\n")
    subprocess.run(
        ["ssh-keygen", "-q", "-k", "-s", "none", "-f", str(authority / "public/revoked.krl"), str(tmp_path / "spec")], check=True
    )
    database.show(cluster, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[1]: "REVOKED" in line for line in lines} == {"me@desk": False, "ada": True}
    assert len(lines) == 2


@pytest.fixture
def rotated(cluster, authority, tmp_path):
    """After ca.rotate: the first key signed, the second one signs."""
    make_key(tmp_path / "second")
    (authority / "ssh" / "user_ca.2.pub").write_bytes((tmp_path / "second.pub").read_bytes())
    (authority / "ssh" / "generations.json").write_text('{"newest": 2, "oldest": 1, "signs": 2}')
    (authority / "issued").mkdir()
    return authority


def test_no_controller_is_shut_out_by_the_end_of_a_rotation(cluster, rotated, tmp_path):
    """But users may be, which is told, and this controller and the nodes get new certificates on the way."""
    for name in (identity.own_name(), "mpi@gamma", "eve@laptop"):
        keep(rotated, cluster, tmp_path, name, f"certificates/{name}-cert.pub")
    keep(rotated, cluster, tmp_path, "ada", "issued/1-cert.pub")
    with pytest.raises(Refusal, match="signed for eve@laptop, and that controller") as refused:
        rotation.insist_on_controllers(cluster, database.ask_authority(cluster), force=False)
    assert refused.value.code == 2
    assert rotation.insist_on_controllers(cluster, database.ask_authority(cluster), force=True) == ["ada", "eve@laptop"]
    keep(rotated, cluster, tmp_path, "eve@laptop", "certificates/eve@laptop-cert.pub", key="second")
    assert rotation.insist_on_controllers(cluster, database.ask_authority(cluster), force=False) == ["ada"]


def test_keys_are_not_dropped_while_they_sign(cluster, rotated):
    (rotated / "ssh" / "generations.json").write_text('{"newest": 2, "oldest": 1, "signs": 1}')
    with pytest.raises(Refusal, match="do not sign yet"):
        rotation.insist_on_controllers(cluster, database.ask_authority(cluster), force=True)


@pytest.fixture
def playbooks(cluster, monkeypatch):
    """The playbooks that would run, each with the variables that it is given, as JSON, and its options."""
    ran = []

    def run(command, _task, variables=None):
        ran.append([command[0], *([json.dumps(variables)] if variables else []), *command[1:]])
        return 0, {}

    monkeypatch.setattr(lock, "changing", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(playbook, "command", lambda _cluster, *names, options=(): [*names, *options])
    monkeypatch.setattr(playbook, "run", run)
    monkeypatch.setattr(playbook, "conclude", lambda *_: None)
    return ran


@pytest.mark.parametrize("finish", [False, True])
def test_a_rotation_is_refused_before_anything_is_touched_while_a_node_is_away(cluster, authority, playbooks, tmp_path, capsys, finish):
    (tmp_path / "away").write_text("#!/bin/sh\necho 'No route to host' >&2; exit 255\n")
    (tmp_path / "away").chmod(0o755)
    cluster.rack.nodes["delta"] = None
    ssh = cluster.ssh
    cluster.ssh = lambda node: [str(tmp_path / "away"), node] if node == "delta" else ssh(node)
    with pytest.raises(Refusal, match=r"nothing was touched.*\n  delta: No route to host\n") as refused:
        rotation.rotate(cluster, finish=finish)
    assert (refused.value.code, playbooks) == (2, [])
    assert "gamma" not in str(refused.value)
    del cluster.rack.nodes["delta"]
    rotation.rotate(cluster, finish=finish)
    assert [command[0] for command in playbooks] == ["ca_rotate"]
    # Browsers are nobody's to tell but the admin's.
    assert (f"what is in {cluster.state}/ca/root.crt" in capsys.readouterr().out) is not finish


def test_a_rotation_tells_everyone_of_ssh_and_of_tls_before_the_step_and_after_it():
    """And of TLS last: whoever asks a server knows the new root by then, on the controllers, too."""
    plays = yaml.safe_load((ROOT / "playbooks/ca_rotate.yml").read_text())
    told = ["ca.yml", "ssh_certificates.yml", "tls_certificates.yml"]
    assert [play.get("ansible.builtin.import_playbook", "step") for play in plays] == ["vault_check.yml", *told, "step", *told]


def test_revoking_a_name_finds_what_was_signed_for_it_on_any_controller(cluster, authority, playbooks, tmp_path, capsys):
    (authority / "issued").mkdir()
    serial = keep(authority, cluster, tmp_path, "ada", "issued/1-cert.pub")
    revocation.revoke(cluster, "ada")
    assert f"ada, serial {serial}, would have been good for 2.0 h more" in capsys.readouterr().out
    revocation.revoke(cluster, "adda")
    assert "knows no certificate adda" in capsys.readouterr().out
    assert not [option for command in playbooks for option in command if option.startswith("--limit")]


@pytest.mark.parametrize(("node", "serves"), [("beta", True), ("gamma", False)])
def test_kea_goes_on_to_believe_a_node_that_is_revoked_which_is_said(cluster, authority, playbooks, tmp_path, capsys, node, serves):
    (authority / "certificates" / f"host-{node}.pub").write_bytes(make_key(tmp_path / node).with_suffix(".pub").read_bytes())
    revocation.revoke(cluster, node)
    assert json.loads(playbooks[0][1])["ca_tls_revoked_nodes"] == [node]
    assert (f"take {node} out of the rack file and deploy" in capsys.readouterr().out) is serves


@pytest.fixture
def anew(authority, tmp_path):
    """A node that was made anew: the public keys of before and of today, as the authority keeps them."""
    found = {name: make_key(tmp_path / name).with_suffix(".pub").read_text() for name in ("old-host", "old-mpi", "host", "mpi", "other")}
    for name, place in (
        ("old-host", "host-gamma.pub.7.2026-01-02@03:04:05~"),
        ("old-mpi", "mpi@gamma.pub.7.2026-01-02@03:04:05~"),
        ("host", "host-gamma.pub"),
        ("mpi", "mpi@gamma.pub"),
        ("mpi", "mpi@gamma.pub.6.2025-01-02@03:04:05~"),  # put back once
        ("other", "host-gamma2.pub.7.2026-01-02@03:04:05~"),
        ("other", "mpi@beta.pub"),
    ):
        (authority / "certificates" / place).write_text(found[name])
    return {name: f"key: {' '.join(text.split()[:2])}" for name, text in found.items()}


def test_of_a_node_that_was_made_anew_a_person_says_which_keys_are_meant(cluster, authority, anew, playbooks, tmp_path, capsys):
    """Today's may have been stolen, or those of before: neither is left valid without a word, and no good node is shut out."""
    with pytest.raises(Refusal, match=r"gamma was made anew.*--old.*--all") as refused:
        revocation.revoke(cluster, "gamma")
    assert (refused.value.code, playbooks) == (2, [])
    assert set(revocation.revocation(cluster, "gamma", "all")) == {anew[name] for name in ("old-host", "old-mpi", "host", "mpi")}
    assert set(revocation.revocation(cluster, "gamma", "old")) == {anew["old-host"], anew["old-mpi"]}
    revocation.revoke(cluster, "gamma", "old")
    assert not [option for option in playbooks[0] if option.startswith("--limit")], "it goes on, and is told like the others"
    assert "2 keys that gamma had before" in capsys.readouterr().out
    # Once those are on the list there is no question any more.
    (tmp_path / "spec").write_text(f"{anew['old-host']}\n{anew['old-mpi']}\n")
    subprocess.run(
        ["ssh-keygen", "-q", "-k", "-s", "none", "-f", str(authority / "public/revoked.krl"), str(tmp_path / "spec")], check=True
    )
    revocation.revoke(cluster, "gamma")
    assert "--limit=all:!gamma" in playbooks[1]
    assert all(anew[name] in playbooks[1][1] for name in ("host", "mpi"))


def test_keys_whose_certificates_have_ended_are_no_question(cluster, authority, anew):
    """They are revoked, too: nobody knows how long one lasted when it was signed."""
    cluster.rack.ca.host_days = 0
    assert set(revocation.revocation(cluster, "gamma")) == {anew[name] for name in ("old-host", "old-mpi", "host", "mpi")}


def test_a_node_that_is_in_the_rack_file_no_more_is_revoked_like_any_other(cluster, authority, anew, playbooks):
    del cluster.rack.nodes["gamma"]
    with pytest.raises(Refusal, match=r"ca\.revoke gamma"):
        revocation.revoke(cluster, "mpi@gamma")
    revocation.revoke(cluster, "gamma", "all")
    assert anew["old-host"] in playbooks[0][1]
    assert not [option for option in playbooks[0] if option.startswith("--limit")], "nobody is told of it who does not exist"


def test_who_was_never_made_anew_has_no_old_keys(cluster, authority, playbooks, tmp_path):
    (authority / "certificates" / "host-gamma.pub").write_bytes(make_key(tmp_path / "gamma").with_suffix(".pub").read_bytes())
    with pytest.raises(Refusal, match="gamma never had other keys than today's"):
        revocation.revoke(cluster, "gamma", "old")
    assert not playbooks


@pytest.mark.parametrize("what", ["17", "ada"])
def test_only_a_node_has_old_keys(cluster, authority, playbooks, what):
    with pytest.raises(Refusal, match="--old is about the keys of"):
        revocation.revoke(cluster, what, "old")
    assert not playbooks


@pytest.mark.parametrize(("node", "way"), [("gamma", r"\./bootstrap ca\.revoke gamma and give it new keys"), ("psi", r"ca\.rotate")])
def test_the_certificate_of_a_host_is_not_revoked_by_its_number(cluster, authority, playbooks, tmp_path, node, way):
    """No controller would reach it any more, and nothing could bring it another one."""
    public = make_key(tmp_path / node).with_suffix(".pub")
    make = ["ssh-keygen", "-q", "-h", "-s", str(tmp_path / "second"), "-I", f"host-{node}", "-z", "42", "-V", "-5m:+2h", str(public)]
    make_key(tmp_path / "second")
    subprocess.run(make, check=True)
    (tmp_path / f"{node}-cert.pub").rename(authority / "certificates" / f"host-{node}-cert.pub")
    with pytest.raises(Refusal, match=rf"^ca\.revoke 42: refused, nothing was touched\. host-{node} is how .*{way}") as refused:
        revocation.revoke(cluster, "42")
    assert (refused.value.code, playbooks) == (2, [])


def test_a_controller_that_revokes_its_own_certificate_has_another_one_before_anyone_is_told(cluster, authority, playbooks, monkeypatch):
    certificates.refresh(cluster)
    before = revocation.own_serial(cluster)
    run, on_the_way = playbook.run, []
    monkeypatch.setattr(playbook, "run", lambda *words, **more: on_the_way.append(revocation.own_serial(cluster)) or run(*words, **more))
    revocation.revoke(cluster, before)
    assert json.loads(playbooks[0][1])["ca_revoked"] == [f"serial: {before}"]
    assert before not in on_the_way
    revocation.revoke(cluster, "17")
    assert on_the_way[0] == on_the_way[1] == revocation.own_serial(cluster)


def test_who_revokes_a_certificate_by_its_number_is_told_how_its_holder_gets_another(cluster, authority, playbooks, tmp_path, capsys):
    for name, next_step in (
        ("mpi@gamma", "next: ./bootstrap ca.renew gives gamma another"),
        ("eve@laptop", "./bootstrap ca.user eve@laptop"),
    ):
        serial = keep(authority, cluster, tmp_path, name, f"certificates/{name}-cert.pub")
        revocation.revoke(cluster, str(serial))
        assert next_step in capsys.readouterr().out


def test_a_node_that_is_revoked_is_not_told(cluster, authority, playbooks, tmp_path):
    """Nobody believes it any more; the run would end with a node that does not answer."""
    (authority / "certificates" / "host-gamma.pub").write_bytes(make_key(tmp_path / "gamma").with_suffix(".pub").read_bytes())
    revocation.revoke(cluster, "gamma")
    assert "--limit=all:!gamma" in playbooks[0]


def texts(playbook):
    """Every text in the variables of a playbook, which Ansible takes for no template (playbook.run)."""
    return [text for values in json.loads(playbook[1]).values() for text in values]


PLANTED = {
    "template": b"ssh-ed25519 {{lookup('pipe','touch${IFS}/tmp/owned')}}\n",
    "template after a key": b"GOOD{{1}}\n",
    "newline": b"\nid: admin\n",
    "more lines": b"ssh-ed25519 AAAA\nserial: 0\nkey: x\n",
    "escape sequences": b"ssh-ed25519 AAAA\x1b]52;c;aWQ=\x07\x1b[2J\n",
    "empty": b"",
    "no text": bytes(range(256)) * 8,
    "path": b"../../../etc/shadow x\n",
    "another type": b"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQ== x\n",
}


@pytest.mark.parametrize("planted", [*PLANTED.values(), "large"], ids=[*PLANTED, "gigabyte"])
def test_what_a_node_once_had_kept_is_no_command_and_stops_no_revocation(cluster, authority, playbooks, tmp_path, capsys, planted):
    """The keys of the node go on the list, and what was no key is told; in words of this program alone."""
    good = make_key(tmp_path / "gamma").with_suffix(".pub").read_bytes()
    (authority / "certificates/host-gamma.pub").write_bytes(good)
    for place in ("mpi@gamma.pub", "mpi@gamma.pub.7.2026-01-02@03:04:05~", "host-gamma.pub.8.2026-01-02@03:04:05~"):
        with (authority / "certificates" / place).open("wb") as file:
            if planted == "large":
                file.truncate(2**30)
            else:
                file.write(planted.replace(b"GOOD", b" ".join(good.split()[:2])))
    revocation.revoke(cluster, "gamma")
    [command] = playbooks
    assert texts(command) == [f"key: {' '.join(good.decode().split()[:2])}", "gamma"]
    said = capsys.readouterr().out
    assert said.count("not revoked, as it is no key: what was kept for mpi@gamma\n") == 2
    assert said.isprintable() or set(said) - {"\n"} <= set(map(chr, range(32, 127)))
    assert "lookup" not in said


def test_a_fifo_among_the_keys_is_not_waited_for(cluster, authority, playbooks, tmp_path):
    (authority / "certificates/host-gamma.pub").write_bytes(make_key(tmp_path / "gamma").with_suffix(".pub").read_bytes())
    os.mkfifo(authority / "certificates/mpi@gamma.pub")
    revocation.revoke(cluster, "gamma")
    assert len(texts(playbooks[0])) == 2


def test_a_key_that_another_name_has_today_is_not_revoked_with_a_node(cluster, authority, playbooks, tmp_path, capsys):
    """Another node's host key under the name of mpi on this one, a controller's, a user's: each would be shut out."""
    places = authority / "certificates"
    keys = {name: make_key(tmp_path / name).with_suffix(".pub").read_text() for name in ("host-gamma", "host-beta", "root@desk", "ada")}
    for name in ("host-gamma", "host-beta", "root@desk"):
        (places / f"{name}.pub").write_text(keys[name])
    (authority / "issued").mkdir()
    certificates.sign(cluster, tmp_path / "ada.pub", "ada", 2, ["admin"], authority / "issued/1-cert.pub")
    own = Path(f"{cluster.variables['rack_ssh_private_key']}.pub").read_text()
    for number, text in enumerate((keys["host-beta"], keys["root@desk"], keys["ada"], own)):
        (places / f"mpi@gamma.pub.{number}.2026-01-02@03:04:05~").write_text(text)
    revocation.revoke(cluster, "gamma", "all")
    assert texts(playbooks[0]) == [f"key: {' '.join(keys['host-gamma'].split()[:2])}", "gamma"]
    said = capsys.readouterr().out
    for name in ("host-beta", "root@desk", "ada", identity.own_name()):
        assert f"of gamma is the key of {name} today, too" in said
    # When there is nothing else, nothing is done.
    with pytest.raises(Refusal, match=r"^ca\.revoke gamma: refused, nothing was touched(.|\n)*of gamma is the key of host-beta today"):
        revocation.revoke(cluster, "gamma", "old")
    assert len(playbooks) == 1


def test_a_node_that_was_given_another_name_has_its_keys_taken_back_under_that(cluster, authority, playbooks, tmp_path):
    """What was kept under the name of before, of a node that is in the rack no more, keeps nobody from that."""
    text = make_key(tmp_path / "key").with_suffix(".pub").read_text()
    for name in ("host-gamma", "host-gone"):
        (authority / "certificates" / f"{name}.pub").write_text(text)
    revocation.revoke(cluster, "gamma")
    assert len(playbooks) == 1


def test_one_key_is_revoked_by_itself_unless_someone_has_it_today(cluster, authority, playbooks, tmp_path):
    for name in ("host-gamma", "other"):
        make_key(tmp_path / name)
    (authority / "certificates/host-gamma.pub").write_bytes((tmp_path / "host-gamma.pub").read_bytes())
    with pytest.raises(Refusal, match="is the key of host-gamma today"):
        revocation.revoke(cluster, (tmp_path / "host-gamma.pub").read_text().strip())
    with pytest.raises(Refusal, match=f"is the key of {identity.own_name()} today"):
        revocation.revoke(cluster, Path(f"{cluster.variables['rack_ssh_private_key']}.pub").read_text())
    assert not playbooks
    revocation.revoke(cluster, (tmp_path / "other.pub").read_text())
    assert texts(playbooks[0]) == [f"key: {' '.join((tmp_path / 'other.pub').read_text().split()[:2])}"]


def test_what_was_revoked_by_mistake_is_taken_off_the_list(cluster, authority, playbooks, tmp_path, capsys):
    host, old = (" ".join(make_key(tmp_path / name).with_suffix(".pub").read_text().split()[:2]) for name in ("host", "old"))
    (authority / "certificates/host-gamma.pub").write_text(f"{host}\n")
    (authority / "certificates/host-gamma.pub.7.2026-01-02@03:04:05~").write_text(f"{old}\n")
    lines = [f"key: {old}", f"key: {host}", "serial: 17", "id: ada", "id: bob", "# taken off 1: id: bob"]
    (authority / "revoked").write_text("# What is revoked\n" + "".join(f"{line}\n" for line in lines))
    for what, off in (("17", "serial: 17"), ("ada", "id: ada"), (f"{old} comment", f"key: {old}"), ("gamma", f"key: {host}")):
        revocation.unrevoke(cluster, what)
        assert texts(playbooks[-1]) == [off]
        assert f"not revoked any more: {off}" in capsys.readouterr().out
    for what in ("18", "bob", "eve", "beta", "{{ 1 }}"):
        with pytest.raises(Refusal, match="is not on the list of what is revoked") as refused:
            revocation.unrevoke(cluster, what)
        assert refused.value.code == 2
    assert len(playbooks) == 4


def test_this_controllers_name_is_its_users_and_its_hosts_whatever_the_environment_says(monkeypatch):
    """As the playbooks say it, which sign this controller's certificate, too."""
    [template] = [line for line in (ROOT / "inventory/group_vars/all/ca.yml").read_text().splitlines() if "uname -n" in line]
    command = template.partition("'echo ")[2].partition("'")[0]
    for name in ("USER", "LOGNAME"):
        monkeypatch.setenv(name, "somebody")
    said = subprocess.run(["sh", "-c", f"echo {command}"], capture_output=True, text=True, check=True).stdout.strip()
    assert identity.own_name() == said
    monkeypatch.delenv("USER")
    assert identity.own_name() == said


def test_a_controller_with_the_name_of_a_node_is_refused(cluster, monkeypatch):
    """Its certificate would be kept as that of a user of the node, and take its place."""
    cluster.rack.nodes["gamma"] = SimpleNamespace(address="192.0.2.21")
    monkeypatch.setattr(identity.socket, "gethostname", lambda: "gamma")
    with pytest.raises(Refusal, match="This machine is called gamma, as a node of lab is") as refused:
        certificates.refresh(cluster)
    assert refused.value.code == 2
    assert not identity.own_certificate(cluster).exists()
    cluster.rack.nodes["gamma"].address = "127.0.0.1"
    assert certificates.refresh(cluster), "it is that node"
