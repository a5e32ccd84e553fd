"""The policies that tests/testinfra/test_sshd.py has ssh-audit apply are its own, but for what the files say."""

from __future__ import annotations

from pathlib import Path

import pytest
from ssh_audit.builtin_policies import BUILTIN_POLICIES

POLICIES = Path(__file__).resolve().parents[1] / "ssh_audit"
LISTS = {"host keys": "host_keys", "key exchanges": "kex", "ciphers": "ciphers", "macs": "macs"}
OURS = {"ssh-ed25519-cert-v01@openssh.com"}
LEFT_OUT = {
    "12": {"rsa-sha2-256", "rsa-sha2-512", "sntrup761x25519-sha512", "diffie-hellman-group-exchange-sha256"},
    "13": {"rsa-sha2-256", "rsa-sha2-512"},
}


def algorithms(release):
    """What a policy of ours demands: {list: [algorithm, ...]}."""
    lines = (POLICIES / f"debian-{release}.txt").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(" = ", 1) for line in lines if line and not line.startswith("#"))
    return {name: fields[name].split(", ") for name in LISTS}


def newest(release):
    """The last version of ssh-audit's own policy for a release of Debian."""
    versions = [policy for name, policy in BUILTIN_POLICIES.items() if name.startswith(f"Hardened Debian {release} ")]
    return max(versions, key=lambda policy: int(policy["version"]))


def test_there_is_one_for_each_release():
    assert {path.stem for path in POLICIES.iterdir()} == {f"debian-{release}" for release in LEFT_OUT}


@pytest.mark.parametrize("release", LEFT_OUT)
def test_it_is_the_newest_of_ssh_audit_with_the_certificate_of_the_host(release):
    known = newest(release)
    for name, demanded in algorithms(release).items():
        theirs = [one for one in known[LISTS[name]] if one not in LEFT_OUT[release]]
        mine = [one for one in demanded if one not in OURS]
        # Which MAC comes first is no matter of strength; the order of all else is.
        assert (sorted(mine) == sorted(theirs)) if name == "macs" else (mine == theirs), name
    assert set(algorithms(release)["host keys"]) & set(known["optional_host_keys"]) == OURS
