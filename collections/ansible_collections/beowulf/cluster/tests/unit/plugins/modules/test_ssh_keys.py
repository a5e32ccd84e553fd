"""Keys that nodes want signed: proven with real ones, and whatever else a node may put in their place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.beowulf.cluster.plugins.module_utils import ssh_keys
from ansible_collections.beowulf.cluster.plugins.modules import ssh_key_accept, ssh_key_proof

COLLECTIONS = Path(__file__).resolve().parents[7]
CHALLENGE = "a" * 43


def make_key(path: Path, *options: str) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", *options, "-f", str(path)], check=True)
    return path


def public(path: Path) -> str:
    return " ".join(path.with_name(f"{path.name}.pub").read_text().split()[:2])


def run(module, **arguments):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(COLLECTIONS), *sys.path])}
    done = subprocess.run(
        [sys.executable, module.__file__], input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}), env=env, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    assert done.returncode == 0, answer
    return answer


def proofs(path: Path, name: str = "host-gamma", challenge: str = CHALLENGE):
    return run(ssh_key_proof, challenge=challenge, keys=[{"name": name, "key": str(path)}])["proofs"]


@pytest.fixture
def authority(tmp_path):
    """Asks the authority about one answer of gamma, which may have two names: authority(answer, …)."""
    folder = tmp_path / "certificates"
    folder.mkdir()
    (tmp_path / "spec").write_text("")
    subprocess.run(["ssh-keygen", "-q", "-k", "-s", "none", "-f", str(tmp_path / "krl"), str(tmp_path / "spec")], check=True)

    def accept(answer, controllers=(), check=False, text=""):
        return run(
            ssh_key_accept, folder=str(folder), revoked=str(tmp_path / "krl"),
            requests={"gamma": [{"name": "host-gamma"}, {"name": "mpi@gamma"}], "beta": [{"name": "host-beta"}]},
            challenges={"gamma": CHALLENGE, "beta": "b" * 43}, answers={"gamma": text or json.dumps(answer)}, controllers=list(controllers),
            _ansible_check_mode=check,
        )  # fmt: skip

    accept.folder = folder
    return accept


def test_a_key_is_kept_when_its_owner_has_proven_to_have_it(authority, tmp_path):
    key = make_key(tmp_path / "key")
    answer = proofs(key)
    told = authority(answer, check=True)
    assert (told["changed"], told["accepted"], os.listdir(authority.folder)) == (True, [], [])
    told = authority(answer)
    assert (told["changed"], told["accepted"], told["refused"]) == (True, ["host-gamma"], {})
    assert (authority.folder / "host-gamma.pub").read_text() == f"{public(key)}\n"
    assert (authority.folder / "host-gamma.pub").stat().st_mode & 0o777 == 0o600
    told = authority(answer)
    assert (told["changed"], told["accepted"]) == (False, ["host-gamma"])


def test_what_is_beside_the_private_key_is_of_no_meaning(tmp_path):
    """An empty file after a power cut, one that never ends, one of somebody else."""
    key = make_key(tmp_path / "key")
    true, beside = public(key), tmp_path / "key.pub"
    for put in (lambda: beside.write_text(""), lambda: os.mkfifo(beside), lambda: beside.symlink_to("/dev/zero"),
                lambda: beside.write_text(f"{public(make_key(tmp_path / 'other'))}\n")):  # fmt: skip
        beside.unlink(missing_ok=True)
        put()
        [proof] = proofs(key)
        assert proof["key"] == true


def zeros(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**30)


UNFIT = {
    "empty": (lambda path: path.write_text(""), "unreadable"),
    "no key": (lambda path: path.write_bytes(bytes(range(256)) * 8), "unreadable"),
    "fifo": (os.mkfifo, "irregular"),
    "folder": (lambda path: path.mkdir(), "irregular"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "irregular"),
    "link": (lambda path: path.symlink_to(make_key(path.with_name("good"))), "irregular"),
    "gigabyte": (zeros, "large"),
    "rsa": (lambda path: make_key(path, "-t", "rsa", "-b", "2048"), "unreadable"),
    "passphrase": (lambda path: make_key(path, "-N", "some words"), "unreadable"),
}


@pytest.mark.parametrize(("put", "problem"), UNFIT.values(), ids=UNFIT)
def test_a_file_that_is_no_key_is_said_and_not_waited_for(authority, tmp_path, put, problem):
    put(tmp_path / "key")
    good = make_key(tmp_path / "mine")
    began = time.monotonic()
    answer = run(
        ssh_key_proof,
        challenge=CHALLENGE,
        keys=[{"name": "host-gamma", "key": str(tmp_path / "key")}, {"name": "mpi@gamma", "key": str(good)}],
    )["proofs"]
    assert time.monotonic() - began < 8
    assert answer[0] == {"name": "host-gamma", "problem": problem}
    told = authority(answer)
    # The other one of this node is good.
    assert told["accepted"] == ["mpi@gamma"]
    assert told["refused"] == {"gamma": [f"host-gamma: the file of the key {ssh_keys.PROBLEMS[problem]}. Remove it there, and deploy."]}


def test_a_key_that_is_not_there_yet_is_no_news(authority, tmp_path):
    assert proofs(tmp_path / "missing") == []
    told = authority([])
    assert (told["accepted"], told["refused"]) == ([], {})


def tampered(proof):
    """Answers that only look like a proof, by what is wrong with them."""
    key, signature = proof["key"], proof["signature"]
    name = {"name": "host-gamma"}
    yield "newline", [{**name, "key": f"{key}\n", "signature": signature}]
    yield "another line", [{**name, "key": f"{key}\nid: admin", "signature": signature}]
    yield "comment", [{**name, "key": f"{key} comment", "signature": signature}]
    yield "template", [{**name, "key": "ssh-ed25519 {{lookup('pipe','touch${IFS}/tmp/owned')}}", "signature": signature}]
    yield "path", [{**name, "key": "../../../etc/shadow", "signature": signature}]
    yield "escape", [{**name, "key": f"{key[:-4]}\x1b[2J", "signature": signature}]
    yield "options of an allowed signer", [{**name, "key": f"cert-authority {key}", "signature": signature}]
    yield "another key", [{**name, "key": f"{key[:-4]}AAAA", "signature": signature}]
    yield "no signature", [{**name, "key": key}]
    yield "empty signature", [{**name, "key": key, "signature": ""}]
    yield "text after the signature", [{**name, "key": key, "signature": f"{signature}-----BEGIN SSH SIGNATURE-----\n"}]
    yield "number", [{**name, "key": 1, "signature": 2}]
    yield "list", [{**name, "key": [key], "signature": {"a": signature}}]
    yield "unknown problem", [{**name, "problem": "\x1b]52;c;aWQ=\x07{{ 1 }}"}]
    yield "problem of another type", [{**name, "problem": {"a": 1}}]
    yield "no list", {"name": "host-gamma"}
    yield "text", "host-gamma"
    yield "nothing", None


CASES = [name for name, _ in tampered({"key": "", "signature": ""})]


@pytest.mark.parametrize("case", CASES)
def test_an_answer_that_is_no_proof_leaves_this_node_out_in_words_of_the_authority(authority, tmp_path, case):
    [proof] = proofs(make_key(tmp_path / "key"))
    told = authority(dict(tampered(proof))[case])
    assert told["accepted"] == []
    assert os.listdir(authority.folder) == []
    said = " ".join(told["refused"]["gamma"])
    assert said.startswith("host-gamma: ")
    assert said.isprintable()
    assert "lookup" not in said
    assert "{{" not in said


@pytest.mark.parametrize("text", ["", "[" * 20000, '[{"name": "host-gamma", "key": "ssh-ed2', '"' + "x" * 19999])
def test_an_answer_that_was_cut_off_is_none(authority, text):
    told = authority(None, text=text or " ")
    assert set(told["refused"]) == {"gamma"}


def test_a_signature_counts_for_this_run_and_this_name_alone(authority, tmp_path):
    key = make_key(tmp_path / "key")
    [before] = proofs(key, challenge="c" * 43)
    [other_name] = proofs(key, name="host-beta")
    for proof in (before, {**other_name, "name": "host-gamma"}):
        told = authority([proof])
        assert told["accepted"] == []
        assert "is no key of Ed25519 with a signature of the challenge by it" in told["refused"]["gamma"][0]


def test_who_does_not_have_the_private_key_is_not_signed_for(authority, tmp_path):
    """The public key of another host is known to everybody (ssh-keyscan)."""
    mine, theirs = make_key(tmp_path / "mine"), make_key(tmp_path / "theirs")
    (authority.folder / "host-beta.pub").write_text(f"{public(theirs)}\n")
    [proof] = proofs(mine, name="mpi@gamma")
    told = authority([{**proof, "key": public(theirs)}])
    assert told["accepted"] == []
    assert not (authority.folder / "mpi@gamma.pub").exists()


@pytest.mark.parametrize("holder", ["host-beta", "root@desk"])
def test_a_key_that_is_kept_for_somebody_else_is_not_accepted(authority, tmp_path, holder):
    key = make_key(tmp_path / "key")
    (authority.folder / f"{holder}.pub").write_text(f"{public(key)}\n")
    told = authority(proofs(key))
    assert told["accepted"] == []
    assert told["refused"] == {
        "gamma": [f"host-gamma: the key is that of {holder} already. Make another one on one of the two, and deploy."]
    }


def test_a_node_that_was_given_another_name_keeps_its_key(authority, tmp_path):
    """That of before is in the rack no more."""
    key = make_key(tmp_path / "key")
    (authority.folder / "host-gone.pub").write_text(f"{public(key)}\n")
    assert authority(proofs(key))["accepted"] == ["host-gamma"]


def test_what_is_kept_and_is_no_key_is_in_nobodys_way(authority, tmp_path):
    """As older versions kept whatever a node had said; also of a node that is in the rack no more."""
    os.mkfifo(authority.folder / "mpi@beta.pub")
    zeros(authority.folder / "mpi@gone.pub")
    (authority.folder / "host-gone.pub").write_bytes(bytes(range(256)))
    (authority.folder / "host-gamma.pub").write_text("{{ planted }}\n")
    told = authority(proofs(make_key(tmp_path / "key")))
    assert (told["accepted"], told["changed"]) == (["host-gamma"], True)
    assert "{{ planted }}\n" in [path.read_text() for path in authority.folder.glob("host-gamma.pub.*~")]


def test_a_controller_does_not_take_the_name_of_a_nodes_account(authority, tmp_path):
    mine, theirs = public(make_key(tmp_path / "mine")), make_key(tmp_path / "theirs")
    told = authority(proofs(theirs, name="mpi@gamma"), controllers=[{"name": "mpi@gamma", "public_key": mine}])
    assert told["accepted"] == ["mpi@gamma"]
    assert (authority.folder / "mpi@gamma.pub").read_text() == f"{public(theirs)}\n"
    assert "gamma has the certificate of that name" in told["refused"]["mpi@gamma"][0]
    # The deployer is a controller and a node, with one key.
    told = authority(proofs(theirs, name="mpi@gamma"), controllers=[{"name": "mpi@gamma", "public_key": public(theirs)}])
    assert (told["accepted"], told["refused"]) == (["mpi@gamma"], {})


@pytest.mark.parametrize("name", ["../../etc/cron.d/x", "a b", "", "{{ 1 }}", "-f"])
def test_a_name_that_is_no_name_of_a_file_is_not_kept(authority, tmp_path, name):
    key = public(make_key(tmp_path / "key"))
    told = authority([], controllers=[{"name": name, "public_key": key}])
    assert (told["accepted"], os.listdir(authority.folder)) == ([], [])


def test_only_a_certificate_that_is_revoked_by_its_number_is_worth_another(authority, tmp_path):
    key, signer = make_key(tmp_path / "key"), make_key(tmp_path / "signer")
    answer = proofs(key)
    authority(answer)
    make = ["ssh-keygen", "-q", "-h", "-s", str(signer), "-I", "host-gamma", "-z", "42", "-V", "-5m:+2h"]
    subprocess.run([*make, str(authority.folder / "host-gamma.pub")], check=True)
    for lines, renewed in (("serial: 41\n", []), ("serial: 42\n", ["host-gamma"]), ("serial: 42\nid: host-gamma\n", []),
                           (f"serial: 42\nkey: {public(key)}\n", [])):  # fmt: skip
        (tmp_path / "spec").write_text(lines)
        subprocess.run(["ssh-keygen", "-q", "-k", "-s", "none", "-f", str(tmp_path / "krl"), str(tmp_path / "spec")], check=True)
        assert authority(answer)["renew"] == renewed, lines
