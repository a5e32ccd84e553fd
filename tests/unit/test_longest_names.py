"""The longest names that a rack file may have fit into the certificates that are named after them, and one letter more does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from beowulf.cluster import load_rack
from beowulf.errors import Refusal
from beowulf.process import ROOT

PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - {file: {path: "{{ ca_folder }}/tls", state: directory}}
    - import_role: {name: ca, tasks_from: tls}
"""


def rack(folder: Path, domain: str, deployer: str = "psi"):
    """Return the lab's rack with this domain and this name of its deployer; raises Refusal."""
    text = (ROOT / "tests/racks/good/lab.rack.yml").read_text(encoding="utf-8")
    path = folder / "lab.rack.yml"
    path.write_text(text.replace("domain: lab.internal", f"domain: {domain}").replace("  psi: ", f"  {deployer}: "))
    return load_rack(path)


def domain_of(length: int) -> str:
    return ("a" * (length - len(".internal"))) + ".internal"


@pytest.fixture
def signed(tmp_path, ansible):
    """Let the authority make its certificates for a domain; return how the run ended."""

    def run(domain: str):
        variables = {
            "__ca_number": 1, "ca_domain": domain, "ca_subnet": "10.77.0.0/24", "ca_folder": str(tmp_path / "ca"),
            "ca_passphrase": "secret words",
        }  # fmt: skip
        return ansible(tmp_path, PLAY, hosts={"psi": variables})

    return run


def test_the_longest_domain_is_good_for_the_authority(tmp_path, signed):
    longest = domain_of(51)
    assert rack(tmp_path, longest).domain == longest
    done = signed(longest)
    assert done.returncode == 0, done.stdout
    for name in ("root", "intermediate"):
        certificate = x509.load_pem_x509_certificate((tmp_path / f"ca/tls/{name}.1.crt").read_bytes())
        assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == f"{longest} {name}"


def test_a_longer_domain_is_refused_because_the_authority_cannot_sign_for_it(tmp_path, signed):
    with pytest.raises(Refusal, match="has 52 characters, at most 51 are allowed"):
        rack(tmp_path, domain_of(52))
    done = signed(domain_of(52))
    assert done.returncode != 0
    assert "64" in done.stdout


def test_the_longest_name_of_a_node_with_a_certificate_is_that_of_one(tmp_path):
    domain = domain_of(51)
    longest = "d" * 12
    assert longest in rack(tmp_path, domain, longest).nodes
    assert x509.NameAttribute(NameOID.COMMON_NAME, f"{longest}.{domain}").value
    with pytest.raises(Refusal, match="has 13 characters, at most 12 are allowed"):
        rack(tmp_path, domain, f"{longest}d")
    with pytest.raises(ValueError, match="64"):
        x509.NameAttribute(NameOID.COMMON_NAME, f"{longest}d.{domain}")
