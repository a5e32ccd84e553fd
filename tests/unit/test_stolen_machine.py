"""What is done about a stolen machine: who is given new keys, and what the page about security says stands behind each sentence."""

from __future__ import annotations

import contextlib
import re
from types import SimpleNamespace

import pytest
import yaml

from beowulf import drill, lock, playbook
from beowulf.cluster import Cluster
from beowulf.pki import certificates, database, revocation
from beowulf.process import ROOT

PAGE = ROOT / "docs/security.md"
TEST = re.compile(r"`((?:tests|collections)/[\w./]+\.py)::(\w+)`")
DRILL = re.compile(r"`drill ([a-z0-9-]+)`")


@pytest.mark.parametrize(
    ("node", "which", "rolled"),
    [
        ("beta", "", ["tsig_renew", "--limit=all:!beta"]),
        ("beta", "old", ["tsig_renew"]),
        # In no rack file any more: it may have been a LAN server.
        ("eta", "", ["tsig_renew"]),
        ("gamma", "", None),
    ],
)
def test_the_other_lan_servers_get_new_keys_for_names_when_one_is_revoked(monkeypatch, node, which, rolled):
    ran = []
    cluster = SimpleNamespace(rack=SimpleNamespace(nodes={"beta": 1, "gamma": 1}), group={"dhcp": ["alpha", "beta"]}.__getitem__)
    monkeypatch.setattr(certificates, "refresh", lambda *_: None)
    monkeypatch.setattr(revocation, "revocation", lambda *_: ["key: ssh-ed25519 AAAA"])
    monkeypatch.setattr(database, "issued", lambda *_: [])
    monkeypatch.setattr(lock, "changing", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(playbook, "command", lambda _cluster, *names, options=(): [*names, *options])
    monkeypatch.setattr(playbook, "run", lambda command, *_, **__: ran.append(command) or (0, {}))
    monkeypatch.setattr(playbook, "conclude", lambda *_: None)
    revocation.revoke(cluster, node, which)
    assert ran[0][0] == "ca_revoke"
    assert ran[1:] == ([rolled] if rolled else [])


def test_every_test_that_the_page_names_is_there():
    text = PAGE.read_text(encoding="utf-8")
    named = TEST.findall(text)
    assert len(named) > 30
    missing = [f"{path}::{name}" for path, name in named
               if not (ROOT / path).is_file() or f"\ndef {name}(" not in (ROOT / path).read_text(encoding="utf-8")]  # fmt: skip
    assert missing == []
    drills = set(drill.load())
    assert set(DRILL.findall(text)) <= drills


def test_every_sentence_of_what_a_party_cannot_do_has_its_test():
    """The tables of the page: who, what, and in the last column what stands behind it."""
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| cannot")]
    assert len(rows) > 15
    assert [row for row in rows if not TEST.search(row.rpartition("|")[0].rpartition("|")[2]) and not DRILL.search(row)] == []


def test_the_lives_on_the_page_are_those_of_the_tree():
    """How long without the deployer: each figure stands beside the variable that has it."""
    known = {name: value for role in ("ca", "tls")
             for name, value in yaml.safe_load((ROOT / f"roles/{role}/defaults/main.yml").read_text()).items()}  # fmt: skip
    rack = Cluster("lab").rack.ca
    known |= {"user_hours": rack.user_hours, "host_days": rack.host_days}
    found = re.findall(r"\| (\d+) [hd] \(`(\w+)`\) \|", PAGE.read_text(encoding="utf-8"))
    assert {name for _, name in found} == {"user_hours", "host_days", "tls_days", "ca_intermediate_days", "ca_root_days", "ca_crl_days"}
    assert {name: int(value) for value, name in found} == {name: known[name] for _, name in found}
