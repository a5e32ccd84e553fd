"""The authority of TLS signs what the inventory says, whatever a node asks for: real keys, and nodes whose Python lies."""

from __future__ import annotations

import grp
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from beowulf.process import environment

WORD = "hunter2hunter2hunter2"
# What root on a node can do: the module that writes the request runs there, with that node's own Python and its library.
LIES = {
    "another-name": "add(builder, x509.SubjectAlternativeName([*value, x509.DNSName('ara.lab.internal')]), critical)"
    " if isinstance(value, x509.SubjectAlternativeName) else add(builder, value, critical)",
    "an-authority": "add(add(builder, value, critical), x509.BasicConstraints(True, None), True)"
    " if isinstance(value, x509.KeyUsage) else add(builder, value, critical)",
    "another-usage": "add(builder, x509.ExtendedKeyUsage([*value, x509.ObjectIdentifier('1.3.6.1.5.5.7.3.3')]), critical)"
    " if isinstance(value, x509.ExtendedKeyUsage) else add(builder, value, critical)",
    "one-more-extension": "add(add(builder, value, critical), x509.UnrecognizedExtension(x509.ObjectIdentifier('1.2.3.4'), b'0'), False)"
    " if isinstance(value, x509.KeyUsage) else add(builder, value, critical)",
}
HONEST = ["honest"]
PLANTED = """
import cryptography.x509 as x509
add = x509.CertificateSigningRequestBuilder.add_extension
x509.CertificateSigningRequestBuilder.add_extension = lambda builder, value, critical: {lie}
"""
ANOTHER_SUBJECT = """
import cryptography.x509 as x509
name = x509.CertificateSigningRequestBuilder.subject_name
x509.CertificateSigningRequestBuilder.subject_name = lambda builder, value: name(builder, x509.Name([x509.NameAttribute(
    x509.NameOID.COMMON_NAME, 'psi.lab.internal')]))
"""
PLAY = """
- hosts: all:!authority
  gather_facts: false
  environment: {PATH: "{{ path }}"}
  roles: [tls]
"""


def openssl(*arguments: str) -> str:
    """Run openssl; return what it prints."""
    return subprocess.run(["openssl", *arguments], input=f"{WORD}\n", capture_output=True, text=True, check=True).stdout


@pytest.fixture
def authority(tmp_path):
    """Make an authority's folder: a root, an intermediate with an encrypted key, and an empty list of what is revoked."""
    place = tmp_path / "authority"
    (place / "issued").mkdir(parents=True)
    for name in ("root", "intermediate"):
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-passout", "stdin", "-keyout", str(place / f"{name}.key")]
        openssl("req", "-x509", *key, "-subj", f"/CN=lab.internal {name}", "-days", "30", "-out", str(place / f"{name}.crt"))
    (place / "revoked").write_text("# nobody\n")
    return place


def python(folder: Path, planted: str) -> Path:
    """Return an interpreter that first does what is planted."""
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(planted)
    wrapper = folder / "python3"
    wrapper.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    return wrapper


@pytest.fixture
def run(tmp_path, authority, ansible):
    """Run the role for nodes, each of them with its own Python; return the output and the exit code."""
    door = socket.create_server(("127.0.0.1", 0))

    def one(pythons: dict[str, Path], *options: str):
        hosts = {
            node: {
                "ansible_python_interpreter": str(interpreter), "tls_folder": str(tmp_path / node),
                "tls_name": f"{node}.lab.internal", "tls_names": [f"DNS:{node}.lab.internal", "IP:10.77.0.11"],
            }
            for node, interpreter in pythons.items()
        }  # fmt: skip
        hosts["authority"] = {
            "ansible_host": "127.0.0.1", "ansible_port": door.getsockname()[1], "ansible_python_interpreter": sys.executable,
        }  # fmt: skip
        known = {
            "path": f"{tmp_path / 'bin'}:{environment()['PATH']}",
            "tls_host": "authority", "tls_authority_folder": str(authority), "tls_revoked_file": str(authority / "revoked"),
            "tls_passphrase": WORD, "tls_crl_url": "http://ara.lab.internal/intermediate.crl",
            "tls_group": grp.getgrgid(os.getgid()).gr_name,
        }  # fmt: skip
        # Nothing is installed here: the package is said to be there.
        query = tmp_path / "bin" / "dpkg-query"
        query.parent.mkdir(exist_ok=True)
        query.write_text("#!/bin/sh\necho installed python3-cryptography\n")
        query.chmod(0o755)
        of_all = {node: variables | known for node, variables in hosts.items()}
        result = ansible(tmp_path, PLAY, *options, hosts=of_all, ANSIBLE_STDOUT_CALLBACK="ansible.builtin.json")
        return result.returncode, json.loads(result.stdout[result.stdout.index("{") :])

    with door:
        yield one


def why(report, node):
    """Return what the run says of a node that failed."""
    found = [task["hosts"][node] for play in report["plays"] for task in play["tasks"] if node in task["hosts"]]
    return " ".join(one["msg"] for one in found if one.get("failed"))


def names(path: Path) -> str:
    return openssl("x509", "-in", str(path), "-noout", "-subject", "-ext", "subjectAltName,basicConstraints,extendedKeyUsage")


def test_a_request_that_the_inventory_does_not_allow_is_refused_and_the_others_are_signed(run, tmp_path, authority):
    pythons = {node: python(tmp_path / "python" / node, PLANTED.format(lie=lie)) for node, lie in LIES.items()}
    pythons["another-subject"] = python(tmp_path / "python" / "another-subject", ANOTHER_SUBJECT)
    pythons |= dict.fromkeys(HONEST, Path(sys.executable))
    code, report = run(pythons)
    assert code == 2
    for node in pythons:
        given, shown = authority / "issued" / f"{node}.crt", tmp_path / node / "node.crt"
        if node in HONEST:
            assert not why(report, node)
            assert f"DNS:{node}.lab.internal, IP Address:10.77.0.11" in names(shown)
            continue
        assert why(report, node).startswith(f"{node} is given no certificate, and keeps the one that it has"), why(report, node)
        assert not shown.exists(), names(shown)
        assert not given.exists(), names(given)


def test_a_second_run_changes_nothing_and_a_revoked_certificate_is_replaced(run, tmp_path, authority):
    pythons = {HONEST[0]: Path(sys.executable)}
    node = tmp_path / HONEST[0] / "node.crt"
    assert run(pythons)[0] == 0
    before = node.read_text()
    number = (authority / "issued" / HONEST[0]).read_text().split()[0]
    (authority / "revoked").write_text(f"# those\n{number} 20260101000000Z\n")
    assert run(pythons)[0] == 0
    assert node.read_text() != before
    code, report = run(pythons)
    assert (code, report["stats"][HONEST[0]]["changed"]) == (0, 0)
