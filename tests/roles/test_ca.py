"""The certificate authority itself, on this machine in a folder of its own: rotation, revocation, and what it leaves alone."""

from __future__ import annotations

import grp
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from beowulf.process import ROOT, environment, output

# Nothing is installed here: the packages are said to be there.
KNOW = """#!/bin/sh
printf 'installed %s\\n' openssh-client openssl python3-bcrypt python3-cryptography
"""
# Keys of OpenSSH's (user_ca.1, host_ca.1) are not encrypted here: for that, Python needs bcrypt, which only the deployer has.
PASSPHRASE = "{{ '' if item is defined and item is string and '_ca.' in item else 'secret words' }}"
# ssh-add reads no passphrase then, and where it is done before it has been given one, Ansible finds a broken pipe.
READS = f"""#!/bin/sh
read -r passphrase
exec {shutil.which("ssh-add")} "$@"
"""
PLAYBOOK = """
- hosts: psi
  gather_facts: false
  environment: {PATH: "{{ path }}"}
  tasks:
    - import_role: {name: ca}
- hosts: all
  gather_facts: false
  environment: {PATH: "{{ path }}"}
  tasks:
    - import_role: {name: ca, tasks_from: bring}
    - import_role: {name: ca, tasks_from: sign}
      when: ca_reachable
"""
TURN = """
- hosts: all
  gather_facts: false
  environment: {PATH: "{{ path }}"}
  any_errors_fatal: true
  tasks:
    - import_role: {name: ca, tasks_from: turn}
"""


def make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


class Authority:
    """Two nodes, psi and gamma, of which psi is the authority; a port that is open as long as it answers."""

    def __init__(self, folder: Path, ansible: Callable[..., subprocess.CompletedProcess[str]]) -> None:
        self.folder, self.ansible = folder, ansible
        self.ca, self.controller = folder / "ca", folder / "controller"
        (folder / "bin").mkdir()
        for name, text in (("dpkg-query", KNOW), ("ssh-add", READS)):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        for node in ("psi", "gamma"):
            make_key(folder / f"key.{node}")
        self.listen()

    def listen(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def run(self, plays: str = PLAYBOOK, limit: str = "all", **variables: object) -> subprocess.CompletedProcess[str]:
        known = {
            "ansible_host": "127.0.0.1", "ansible_port": self.port, "path": f"{self.folder / 'bin'}:{environment()['PATH']}",
            "ca_host": "psi", "ca_nodes": ["psi", "gamma"], "ca_domain": "lab.internal",
            "ca_subnet": "10.77.0.0/24", "ca_folder": str(self.ca), "ca_passphrase": PASSPHRASE, "ca_public_dir": str(self.controller),
            "ca_requests": [{"name": "host-{{ inventory_hostname }}", "type": "host", "hours": 1000,
                             "key": f"{self.folder}/key.{{{{ inventory_hostname }}}}", "principals": ["{{ inventory_hostname }}"]}],
        }  # fmt: skip
        return self.ansible(self.folder, plays, f"--limit={limit}", hosts={"psi": known, "gamma": known}, variables=variables)

    def works(self, *arguments: str, **variables: object) -> str:
        result = self.run(*arguments, **variables)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def changes(self, *arguments: str, **variables: object) -> int:
        """How much a run changes, on both nodes."""
        return sum(int(count) for count in re.findall(r" changed=([0-9]+) ", self.works(*arguments, **variables)))

    def state(self) -> dict[str, int]:
        return json.loads((self.ca / "ssh" / "generations.json").read_text())

    def trusted(self, place: Path) -> list[str]:
        """Which keys a list of trusted ones has, by their numbers."""
        return [line.split()[2].rpartition(".")[2] for line in place.read_text().splitlines()]

    def signer(self, node: str) -> str:
        """The number of the key that signed the certificate of a node."""
        shown = subprocess.run(["ssh-keygen", "-L", "-f", str(self.ca / "certificates" / f"host-{node}-cert.pub")],
                               capture_output=True, text=True, check=True).stdout  # fmt: skip
        for key in (self.ca / "ssh").glob("host_ca.*.pub"):
            if subprocess.run(["ssh-keygen", "-l", "-f", str(key)], capture_output=True, text=True, check=True).stdout.split()[1] in shown:
                return key.name.split(".")[1]
        return "none of them"


@pytest.fixture(scope="module")
def made(tmp_path_factory, ansible):
    """An authority that has signed for both nodes, of which gamma has a certificate of TLS, too."""
    authority = Authority(tmp_path_factory.mktemp("made"), ansible)
    authority.works(PLAYBOOK + CERTIFY, **of_gamma(authority))
    return authority


@pytest.fixture
def authority(made, tmp_path, ansible):
    """The same in a place of its own, to be changed."""
    (tmp_path / "copy").mkdir()
    copy = Authority(tmp_path / "copy", ansible)
    for name in ("ca", "controller", "tls"):
        shutil.copytree(made.folder / name, copy.folder / name, symlinks=True)
    for path in made.folder.glob("key.*"):
        shutil.copy2(path, copy.folder / path.name)
    return copy


def test_what_is_made_once_stays(authority):
    assert authority.state() == {"newest": 1, "oldest": 1, "signs": 1}
    assert [authority.signer(node) for node in ("psi", "gamma")] == ["1", "1"]
    assert not authority.changes()


def test_what_is_left_over_from_a_newer_authority_is_given_to_nobody(authority):
    """As after a restore of an older state, which says which of the keys are good."""
    before = [(authority.ca / place).read_text() for place in ("public/user_ca.pub", "public/host_ca.pub", "tls/root.crt")]
    for name in ("ssh/user_ca.{}.pub", "ssh/host_ca.{}.pub", "tls/root.{}.crt"):
        shutil.copy2(authority.ca / name.format(1), authority.ca / name.format(2))
    authority.works()
    assert [(authority.ca / place).read_text() for place in ("public/user_ca.pub", "public/host_ca.pub", "tls/root.crt")] == before


def test_a_key_that_was_signed_once_stays_known_when_the_node_is_made_anew(authority):
    folder = authority.ca / "certificates"
    keys = {(folder / "host-gamma.pub").read_text()}
    for _ in range(2):
        for place in authority.folder.glob("key.gamma*"):
            place.unlink()
        make_key(authority.folder / "key.gamma")
        authority.works()
        keys.add((folder / "host-gamma.pub").read_text())
        assert {place.read_text() for place in folder.glob("host-gamma.pub*")} == keys
    assert not authority.changes()
    assert len(keys) == len(list(folder.glob("host-gamma.pub*"))) == 3


def fifo(authority: Authority) -> None:
    (authority.folder / "key.gamma").unlink()
    os.mkfifo(authority.folder / "key.gamma")


def zero(authority: Authority) -> None:
    (authority.folder / "key.gamma").unlink()
    (authority.folder / "key.gamma").symlink_to("/dev/zero")


def theirs(authority: Authority) -> None:
    shutil.copy2(authority.folder / "key.psi", authority.folder / "key.gamma")


@pytest.mark.parametrize(
    ("plant", "why"),
    [(fifo, "is no regular file"), (zero, "is no regular file"), (theirs, "the key is that of host-psi already")],
    ids=["fifo", "endless", "another node's"],
)
def test_a_node_with_a_bad_key_is_left_out_and_named_and_the_others_are_signed(authority, plant, why):
    before = {path.name: path.read_bytes() for path in (authority.ca / "certificates").glob("host-gamma*")}
    psi = (authority.ca / "certificates" / "host-psi-cert.pub").read_bytes()
    shown = [output(["ssh-keygen", "-L", "-f", str(path)]).stdout for path in (authority.ca / "certificates").glob("*-cert.pub")]
    numbers = [text.partition("Serial: ")[2] for text in shown]
    plant(authority)
    # There is something to be signed for both.
    result = authority.run(ca_revoked=[f"serial: {number.split()[0]}" for number in numbers])
    said = " ".join(result.stdout.split())
    assert result.returncode, said
    assert f"host-gamma: {why}" in said or f"host-gamma: the file of the key {why}" in said
    assert re.search(r"\bpsi *: .*failed=0 ", result.stdout), said
    assert re.search(r"\bgamma *: .*failed=1 ", result.stdout), said
    assert (authority.ca / "certificates" / "host-psi-cert.pub").read_bytes() != psi
    assert {path.name: path.read_bytes() for path in (authority.ca / "certificates").glob("host-gamma*")} == before


def test_what_lies_beside_a_key_and_what_was_kept_once_stops_nobody(authority):
    """An empty public key, as a power cut leaves it; what an older version kept of a node, that is gone or not."""
    (authority.folder / "key.gamma.pub").write_text("")
    for name in ("mpi@gone.pub", "host-gone.pub"):
        (authority.ca / "certificates" / name).write_text("{{ planted }}\x1b[2J\n")
    authority.works()
    assert not authority.changes()
    assert authority.signer("gamma") == "1"


def test_a_mistake_is_taken_off_the_list_for_everyone_and_stays_off(authority):
    """Also when a controller comes that has it on its list still; and it can be revoked again."""
    shown = ["ssh-keygen", "-Q", "-l", "-f", str(authority.controller / "revoked.krl")]

    def revoked() -> bool:
        return "id: ada" in subprocess.run(shown, capture_output=True, text=True, check=True).stdout.splitlines()

    authority.works(ca_revoked=["id: ada", "serial: 17"])
    old = {name: (authority.controller / name).read_bytes() for name in ("revoked", "revoked.krl")}
    assert revoked()
    authority.works(ca_taken_off=["id: ada"])
    assert not revoked()
    assert set(old["revoked"].splitlines()) < set((authority.controller / "revoked").read_bytes().splitlines()), (
        "nodes take a list that grows"
    )
    for name, content in old.items():
        (authority.controller / name).write_bytes(content)
    authority.works()
    assert not revoked()
    assert not authority.changes()
    authority.works(ca_revoked=["id: ada"])
    assert revoked()


def test_a_revocation_is_whole_or_is_none(authority):
    before = {path: path.read_bytes() for path in (authority.ca / "revoked", authority.ca / "public" / "revoked.krl")}
    # Lines that ssh-keygen does not take, and those that are none.
    for line in ("key: ssh-ed25519 AAAA", "id: {x}"):
        assert authority.run(REVOKE, ca_revoked=["id: ada", line, "serial: 17"]).returncode
    assert {path: path.read_bytes() for path in before} == before


def test_a_rotation_goes_on_where_it_was_interrupted_and_waits_for_everyone(authority):
    # Until the step was taken the old key signs, and both are trusted: a node that does not come along keeps it from being taken.
    refused = authority.run(PLAYBOOK + TURN + PLAYBOOK, limit="psi", ca_rotation="begin")
    assert refused.returncode
    assert "gamma did not come along" in " ".join(refused.stdout.split())
    assert authority.state() == {"newest": 2, "oldest": 1, "signs": 1}
    assert authority.trusted(authority.controller / "user_ca.pub") == ["1", "2"]
    assert (authority.controller / "known_hosts").read_text().count("@cert-authority") == 2
    assert authority.signer("psi") == "1"
    assert (authority.controller / "user_ca").read_bytes() == (authority.ca / "ssh" / "user_ca.1").read_bytes()
    authority.works()
    assert authority.signer("gamma") == "1", "a deploy in between changes nothing"
    # Nor may it be finished before that.
    assert authority.run(TURN, ca_rotation="finish").returncode
    assert authority.state()["oldest"] == 1
    # Repeated, it makes no third key.
    authority.works(PLAYBOOK + TURN + PLAYBOOK, ca_rotation="begin")
    assert authority.state() == {"newest": 2, "oldest": 1, "signs": 2}
    assert [authority.signer(node) for node in ("psi", "gamma")] == ["2", "2"]
    assert authority.trusted(authority.controller / "user_ca.pub") == ["1", "2"]
    assert (authority.controller / "user_ca").read_bytes() == (authority.ca / "ssh" / "user_ca.2").read_bytes()
    # The old ones go, also when half of it was done before.
    authority.works(TURN, ca_rotation="finish")
    (authority.ca / "ssh" / "user_ca.1").unlink()
    (authority.ca / "ssh" / "user_ca.1.pub").unlink()
    authority.works()
    assert authority.state() == {"newest": 2, "oldest": 2, "signs": 2}
    assert sorted(path.name for path in (authority.ca / "ssh").glob("*_ca.*")) == [
        "host_ca.2",
        "host_ca.2.pub",
        "user_ca.2",
        "user_ca.2.pub",
    ]
    assert authority.trusted(authority.controller / "host_ca.pub") == ["2"]
    assert not authority.changes()


def test_a_limited_run_of_a_controller_with_old_state_takes_nothing_back(authority):
    old = {path.name: path.read_bytes() for path in authority.controller.iterdir()}
    authority.works(ca_revoked=["id: ada"])
    new = {name: (authority.controller / name).read_bytes() for name in ("revoked", "revoked.krl")}
    assert new["revoked.krl"] != old["revoked.krl"]
    for name, content in old.items():
        (authority.controller / name).write_bytes(content)
    authority.works(limit="gamma")
    assert {name: (authority.controller / name).read_bytes() for name in new} == new


def test_what_is_revoked_by_its_number_is_signed_anew_and_nothing_else(authority):
    def shown(node: str) -> str:
        place = authority.ca / "certificates" / f"host-{node}-cert.pub"
        return subprocess.run(["ssh-keygen", "-L", "-f", str(place)], capture_output=True, text=True, check=True).stdout

    def serial(node: str) -> str:
        return shown(node).partition("Serial: ")[2].split()[0]

    before = {node: serial(node) for node in ("psi", "gamma")}
    authority.works(ca_revoked=[f"serial: {before['gamma']}"])
    assert serial("gamma") != before["gamma"]
    assert serial("psi") == before["psi"]
    assert not authority.changes()
    # Another certificate would be refused for its key, or for its name, like the one that there is.
    key = (authority.ca / "certificates" / "host-gamma.pub").read_text().strip()
    kept = {node: shown(node) for node in before}
    authority.works(ca_revoked=[f"key: {key}", "id: host-psi"])
    assert {node: shown(node) for node in before} == kept
    assert not authority.changes()


def test_the_certificate_of_a_controller_is_written_where_it_wants_it(authority):
    make_key(authority.folder / "key.ada")
    public_key = (authority.folder / "key.ada.pub").read_text().rsplit(maxsplit=1)[0]
    wanted = authority.folder / "ada-cert.pub"
    certificates = [
        {"name": name, "type": "user", "public_key": public_key, "principals": ["ada"], "hours": 16, "file": str(place)}
        for name, place in (("ada", wanted), ("host-gamma", authority.folder / "stolen-cert.pub"))
    ]
    authority.works(ca_certificates=certificates[:1])
    shown = subprocess.run(["ssh-keygen", "-L", "-f", str(wanted)], capture_output=True, text=True, check=True).stdout
    assert 'Key ID: "ada"' in shown
    before = wanted.read_bytes()
    assert authority.changes(ca_certificates=certificates[:1]) == 0
    # The name of a node is not signed for a controller.
    authority.run(ca_certificates=certificates)
    assert not (authority.folder / "stolen-cert.pub").exists()
    assert wanted.read_bytes() == before


def test_an_authority_out_of_an_old_backup_learns_what_was_revoked_since(authority):
    for limit, line in (("all", "id: ada"), ("gamma", "serial: 17")):
        before = (authority.ca / "revoked").read_text()
        with (authority.controller / "revoked").open("a") as known:
            known.write(f"{line}\n")
        authority.works(limit=limit)
        assert (authority.ca / "revoked").read_text() == f"{before}{line}\n"
        krl = subprocess.run(
            ["ssh-keygen", "-Q", "-l", "-f", str(authority.controller / "revoked.krl")], capture_output=True, text=True, check=True
        )
        assert line in krl.stdout


def test_keys_out_of_an_old_backup_are_told_to_nobody(authority):
    (authority.controller / "generations.json").write_text('{"newest": 2, "oldest": 2, "signs": 2}')
    before = (authority.controller / "user_ca.pub").read_bytes()
    refused = authority.run(limit="gamma")
    assert refused.returncode
    assert "brought back from a backup that is older" in " ".join(refused.stdout.split())
    (authority.ca / "public" / "user_ca.pub").write_text("changed\n")
    authority.run(limit="gamma")
    assert (authority.controller / "user_ca.pub").read_bytes() == before


def test_while_the_authority_is_away_all_is_left_as_it_is(authority):
    (authority.ca / "public" / "user_ca.pub").write_text("changed\n")
    before = {path.name: path.read_bytes() for path in authority.controller.iterdir()}
    authority.listener.close()
    said = " ".join(authority.works(limit="gamma").split())
    assert "psi does not answer: whom the nodes trust, and what is revoked, is left as it is" in said
    assert {path.name: path.read_bytes() for path in authority.controller.iterdir()} == before


def certificate(path: Path, *questions: str) -> str:
    return subprocess.run(["openssl", "x509", "-noout", *questions, "-in", str(path)], capture_output=True, text=True, check=True).stdout


def test_the_intermediate_is_signed_again_at_half_of_its_life_with_the_same_key(authority):
    place, root = authority.ca / "tls" / "intermediate.crt", authority.ca / "tls" / "root.crt"
    before = {question: certificate(place, question) for question in ("-pubkey", "-subject", "-serial")}
    kept = root.read_bytes()
    # It lasts 730 days: the half of 1400 is not over, that of 1500 is.
    assert not authority.changes(ca_intermediate_days=1400)
    authority.works(ca_intermediate_days=1500)
    after = {question: certificate(place, question) for question in before}
    assert (after["-pubkey"], after["-subject"]) == (before["-pubkey"], before["-subject"])
    assert after["-serial"] != before["-serial"]
    assert root.read_bytes() == kept
    subprocess.run(["openssl", "verify", "-CAfile", str(root), str(place)], check=True, capture_output=True)


REVOKE = """
- hosts: psi
  gather_facts: false
  environment: {PATH: "{{ path }}"}
  tasks:
    - import_role: {name: ca, tasks_from: revoke}
"""
CERTIFY = """
- hosts: gamma
  gather_facts: false
  environment: {PATH: "{{ path }}"}
  tasks:
    - import_role: {name: tls}
"""


def taken_back(authority: Authority) -> list[str]:
    """The serial numbers on the list that the intermediate has signed, as they are on certificates."""
    asked = ["openssl", "crl", "-inform", "DER", "-in", str(authority.ca / "tls" / "intermediate.crl"), "-noout", "-text"]
    shown = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    return [line.partition(": ")[2] for line in shown.splitlines() if "Serial Number:" in line]


def of_gamma(authority: Authority) -> dict[str, object]:
    """The variables with which gamma gets a certificate of TLS, in a folder that stands for the node."""
    return {"tls_folder": str(authority.folder / "tls"), "tls_group": grp.getgrgid(os.getgid()).gr_name, "tls_name": "gamma.lab.internal",
            "tls_names": ["DNS:gamma.lab.internal"], "tls_host": "psi", "tls_authority_folder": str(authority.ca / "tls"),
            "tls_passphrase": "secret words"}  # fmt: skip


def believed(roots: Path, chain: Path) -> bool:
    """Whether who has this file of roots believes this chain."""
    asked = ["openssl", "verify", "-CAfile", str(roots), "-untrusted", str(chain), str(chain)]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


def listed(authority: Authority) -> bool:
    """Whether the list of what is revoked is signed by the intermediate that signs."""
    tls = authority.ca / "tls"
    asked = ["openssl", "crl", "-noout", "-inform", "DER", "-in", str(tls / "intermediate.crl"), "-CAfile", str(tls / "intermediate.crt")]
    return "verify OK" in subprocess.run(asked, capture_output=True, text=True, check=False).stderr


def numbered(authority: Authority) -> set[str]:
    """The numbers of the roots and intermediates that the authority has, and of nothing else in their folder."""
    names = [path.name for path in (authority.ca / "tls").iterdir()]
    assert {"root.key", "root.crt", "intermediate.key", "intermediate.crt", "intermediate.crl"} <= set(names)
    return {name.split(".")[1] for name in names if name.count(".") == 2}


def roots(place: Path) -> int:
    return place.read_text().count("BEGIN CERTIFICATE")


def test_the_authority_of_tls_takes_the_same_steps_and_everyone_believes_everyone_on_the_way(authority):
    own, node = of_gamma(authority), authority.folder / "tls" / "node.crt"
    mine = authority.controller / "root.crt"
    for name, path in (("old.crt", node), ("old-root.crt", mine)):
        shutil.copy(path, authority.folder / name)
    old, old_root = authority.folder / "old.crt", authority.folder / "old-root.crt"
    # The new root is told to everyone, and nothing is signed by it.
    authority.works(PLAYBOOK + CERTIFY, ca_rotation="begin", **own)
    assert node.read_bytes() == old.read_bytes()
    for place in (mine, authority.folder / "tls" / "root.crt"):
        assert (roots(place), believed(place, old)) == (2, True)
    assert not authority.changes(PLAYBOOK + CERTIFY, **own)
    # It signs, and certificates of before are good. Killed after the step was taken, any deploy goes on.
    authority.works(TURN, ca_rotation="begin")
    authority.works(PLAYBOOK + CERTIFY, **own)
    assert listed(authority)
    assert believed(mine, old)
    assert (believed(mine, node), believed(old_root, node), roots(mine)) == (True, False, 2)
    assert numbered(authority) == {"1", "2"}
    assert not authority.changes(CERTIFY, **own)
    # The old one goes, with its keys, also when half of it was gone before.
    authority.works(TURN, ca_rotation="finish")
    (authority.ca / "tls" / "root.1.key").unlink()
    authority.works(PLAYBOOK + CERTIFY, **own)
    assert numbered(authority) == {"2"}
    for place in (mine, authority.folder / "tls" / "root.crt"):
        assert (roots(place), believed(place, node), believed(place, old)) == (1, True, False)
    assert listed(authority)
    assert not authority.changes(PLAYBOOK + CERTIFY, **own)


@pytest.mark.parametrize(
    ("state", "number"), [({"newest": 1, "oldest": 1, "signs": 1}, "1"), ({"newest": 2, "oldest": 1, "signs": 2}, "2")]
)
def test_keys_of_tls_of_an_older_version_get_the_number_of_those_that_sign(authority, state, number):
    """As they are in the backups of then, too; and the keys of SSH may have been rotated by then."""
    tls = authority.ca / "tls"
    for name in ("root.key", "intermediate.key", "intermediate.crt"):
        (tls / name).unlink()
    for path in tls.glob("*.1.*"):
        path.replace(tls / path.name.replace(".1.", "."))
    (authority.ca / "ssh" / "generations.json").write_text(f"{json.dumps(state)}\n")
    before = {name: (tls / name).read_bytes() for name in ("root.key", "root.crt", "intermediate.key", "intermediate.crt")}
    authority.works()
    assert {name: (tls / name).read_bytes() for name in before} == before
    assert numbered(authority) == {number}
    assert not authority.changes(PLAYBOOK + CERTIFY, **of_gamma(authority))


def test_what_a_node_was_given_is_taken_back_with_it_and_stays_so(authority):
    own = of_gamma(authority)
    serials = []
    for _ in range(2):
        serials.append(certificate(authority.folder / "tls" / "node.crt", "-serial").strip().partition("=")[2])
        (authority.ca / "tls" / "issued" / "gamma.crt").unlink()
        if len(serials) == 1:
            authority.works(CERTIFY, **own)
    assert len(set(serials)) == 2
    assert taken_back(authority) == []
    # psi has no certificate, which is no reason to stop.
    authority.works(REVOKE, ca_tls_revoked_nodes=["psi", "gamma"])
    assert sorted(taken_back(authority)) == sorted(serials)
    # The next deploy leaves it so, and what it finds to change are the copies of this controller.
    authority.works()
    assert not authority.changes()
    assert sorted(taken_back(authority)) == sorted(serials)
    # What is made for it from now on is good.
    authority.works(CERTIFY, **own)
    assert not authority.changes(CERTIFY, **own)
    assert sorted(taken_back(authority)) == sorted(serials)
    # An authority out of an older backup learns it from this controller.
    (authority.ca / "public" / "tls_revoked").unlink()
    authority.works()
    assert sorted(taken_back(authority)) == sorted(serials)
    # When the keys are lost, new ones are made: what follows is signed by them, and by nothing of before.
    old = (authority.ca / "tls" / "root.crt").read_bytes()
    shutil.rmtree(authority.ca / "tls")
    authority.works(PLAYBOOK + CERTIFY, **own)
    (authority.folder / "old.crt").write_bytes(old)
    node = authority.folder / "tls" / "node.crt"
    for root, good in ((authority.folder / "tls" / "root.crt", True), (authority.folder / "old.crt", False)):
        assert believed(root, node) is good


TAKE = """
- hosts: localhost
  gather_facts: false
  vars_files: [{role}/vars/main.yml]
  tasks:
    - ansible.builtin.copy:
        src: {new}
        dest: {old}
        mode: "0644"
        validate: sh -c {{{{ __sshd_grows | replace('/etc/ssh/cluster/revoked', '{old}') | quote }}}} %s
"""


def test_a_node_takes_no_list_that_lacks_something_of_its_own(tmp_path, ansible):
    play = TAKE.format(role=ROOT / "roles/sshd", new=tmp_path / "new", old=tmp_path / "old")

    def offered(*lines: str) -> str:
        (tmp_path / "new").write_text("".join(f"{line}\n" for line in ("# What is revoked", *lines)))
        result = ansible(tmp_path, play)
        return result.stdout if result.returncode else ""

    assert not offered("id: ada")
    assert not offered("id: ada", "serial: 17")
    kept = (tmp_path / "old").read_text()
    said = offered("id: adalbert", "serial: 17", "serial: 18")
    # What stands in a file of the node is for nobody's command line, and not shown.
    assert "1 of the lines in" in " ".join(said.split())
    assert "the authority does not know" in " ".join(said.split())
    assert "ada" not in said.replace("adalbert", "")
    assert "--extra-vars" not in said
    assert (tmp_path / "old").read_text() == kept
    assert not offered("serial: 17", "id: ada", "serial: 18")


def test_a_list_that_cannot_be_read_gives_way_to_the_last_good_one(tmp_path):
    """As after a power cut: with the one that there is the server would refuse everyone."""
    template = (ROOT / "roles/sshd/templates/usr/local/lib/beowulf/revocation-list.j2").read_text()
    program = tmp_path / "revocation-list"
    program.write_text("".join(line for line in template.splitlines(keepends=True) if "{{" not in line))
    krl, good = tmp_path / "revoked.krl", tmp_path / "revoked.krl.good"

    def revoke(line: str) -> bytes:
        (tmp_path / "lines").write_text(f"{line}\n")
        subprocess.run(["ssh-keygen", "-q", "-k", "-s", "none", "-f", str(krl), str(tmp_path / "lines")], check=True)
        return krl.read_bytes()

    def start() -> int:
        return subprocess.run(["sh", str(program), str(krl)], capture_output=True, check=False, timeout=20).returncode

    before = revoke("id: ada")
    assert start() == 0
    assert good.read_bytes() == before
    for torn in (b"", before[:20], bytes(len(before))):
        krl.write_bytes(torn)
        assert start() == 0
        assert krl.read_bytes() == before
    newer = revoke("id: bob")
    assert start() == 0
    assert good.read_bytes() == krl.read_bytes() == newer
    krl.unlink()
    assert start() == 0
    assert krl.read_bytes() == newer
    # What was revoked is not let in for want of a list.
    good.write_bytes(b"")
    krl.write_bytes(b"")
    assert start() != 0
    assert krl.read_bytes() == b""
