"""A deploy has the release of k3s before it touches a node: a lab goes on without it, a rack does not. A restore stops nothing in vain."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import shutil
import sqlite3
import subprocess
import tarfile

import pytest
import yaml

from beowulf import playbook
from beowulf.cluster import Cluster
from beowulf.process import ROOT, environment, tool
from beowulf.secret_scan import Needles, in_file

NOWHERE = "http://127.0.0.1:9/releases"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the first part of a deploy of the lab, which asks no node; return its exit code and its summary."""
    monkeypatch.setenv("ANSIBLE_CALLBACKS_ENABLED", "ansible.builtin.minimal")  # nothing is recorded

    def one(**variables):
        known = {"k3s_cache_dir": str(tmp_path / "cache"), "k3s_release_url": NOWHERE} | variables
        options = [f"--extra-vars={name}={value}" for name, value in known.items()]
        return playbook.run(playbook.command(Cluster("lab"), "k3s_release", options=options), "deploy", quiet=True)

    return one


def test_a_lab_goes_on_without_k3s_and_says_so_once(run, capsys):
    code, summary = run()
    assert code == 0
    playbook.conclude("deploy", Cluster("lab"), code, summary)
    shown = capsys.readouterr().out
    assert "deploy lab: done" in shown
    notes = [line for line in shown.splitlines() if "note:" in line]
    assert len(notes) == 1, shown
    assert "k3s is left as it is" in notes[0]
    assert "k3s_release_dir" in notes[0]
    assert len(notes[0].partition("note: ")[2]) <= 160
    _code, summary = run()
    assert not any(host["changed"] for host in summary["hosts"].values())


def test_a_rack_that_needs_it_ends_before_a_node_is_touched(run):
    code, summary = run(k3s_required="true")
    assert code != 0
    texts = ["\n".join(one["lines"]) for one in summary["failures"]]
    assert len(texts) == 1, texts
    assert "cannot be had" in texts[0]
    assert "k3s was touched on no node" in texts[0]
    assert NOWHERE in texts[0]
    assert "k3s_required" in texts[0]
    assert "k3s_release_dir" in texts[0]


def test_a_lab_without_a_release_for_its_processor_is_told_so_in_one_line(run):
    code, summary = run(k3s_architecture="s390x")
    assert code == 0
    (note,) = summary["notes"]
    assert "k3s: false" in note
    assert len(note) <= 160


def test_a_folder_without_the_release_is_a_mistake_in_a_lab_too(run, tmp_path):
    (tmp_path / "key").mkdir()
    code, summary = run(k3s_release_dir=str(tmp_path / "key"))
    assert code != 0
    assert "has no file k3s" in "\n".join(summary["failures"][0]["lines"])


@pytest.mark.parametrize(
    ("program", "family", "board", "code"),
    [
        ("k3s", "amd64", "generic", 0),
        ("k3s-arm64", "arm64", "generic", 0),
        ("k3s-arm64", "arm64", "3B", 0),
        ("k3s-armhf", "arm", "2B", 0),
        ("k3s", "amd64", "3B", 2),
    ],
)
def test_a_folder_has_to_have_the_release_for_the_boards_of_a_rack_that_never_ran(tmp_path, ansible, program, family, board, code):
    """Nobody knows the processor of a machine that is no board: then the folder says it, which an air-gap cannot do without."""
    (tmp_path / "inventory").mkdir()
    (tmp_path / "inventory/group_vars").symlink_to(ROOT / "inventory/group_vars")
    head, nodes = (ROOT / "tests/racks/good/lab.rack.yml").read_text().split("lab:\n")
    rack = tmp_path / "inventory/new.rack.yml"
    rack.write_text(head.replace("cluster: lab", "cluster: new") + nodes.partition("\n")[2].partition("\n")[2].replace("3B", board))
    folder = tmp_path / "key"
    folder.mkdir()
    (folder / program).write_text(program)
    (folder / f"sha256sum-{family}.txt").write_text(f"{hashlib.sha256(program.encode()).hexdigest()}  {program}\n")
    play = f"- import_playbook: {ROOT}/playbooks/k3s_release.yml\n"
    result = ansible(tmp_path, play, inventory=rack, variables={"k3s_release_dir": str(folder), "k3s_version": "v0.0.1+k3s1"})
    assert result.returncode == code, result.stdout + result.stderr
    assert ("has no file k3s-arm64" in " ".join(result.stdout.split())) == bool(code)


PLAY = """
- hosts: localhost
  gather_facts: false
  vars: {ansible_facts: {architecture: x86_64}}
  tasks:
"""


@pytest.fixture
def play(tmp_path, ansible):
    """Run tasks of the role on this machine; return the exit code and all that was said."""

    def run(tasks, *options, **variables):
        known = {"k3s_cache_dir": str(tmp_path / "cache"), "k3s_release_url": NOWHERE} | variables
        result = ansible(tmp_path, PLAY + tasks, *options, variables=known)
        return result.returncode, result.stdout + result.stderr

    return run


@pytest.fixture
def releases(tmp_path):
    """A place with a release whose own lists are right; return its address and the checksums of its programs."""
    place = tmp_path / "releases" / "v0.0.1%2Bk3s1"
    place.mkdir(parents=True)
    sums = {}
    for name, arch in (("k3s", "amd64"), ("k3s-arm64", "arm64")):
        (place / name).write_text(name)
        sums[arch] = hashlib.sha256(name.encode()).hexdigest()
        (place / f"sha256sum-{arch}.txt").write_text(f"{sums[arch]}  {name}\n")
    # A path is read as it stands, a URL with %2B for the plus.
    (tmp_path / "releases" / "v0.0.1+k3s1").symlink_to(place)
    return f"file://{tmp_path}/releases", sums


RELEASE = (
    "    - ansible.builtin.import_role: {{name: k3s, tasks_from: release}}\n      vars: {{k3s_architectures: [{}], k3s_checksums: {}}}\n"
)


def test_a_processor_that_is_known_only_later_gets_its_release_too(tmp_path, play, releases):
    """Before the first deploy of a board nobody knows its processor for sure."""
    tasks = "".join(RELEASE.format(one, {"v0.0.1+k3s1": releases[1]}) for one in ("amd64", "amd64", "arm64"))
    code, said = play(tasks, k3s_version="v0.0.1+k3s1", k3s_release_url=releases[0])
    assert code == 0, said
    assert {path.name for path in (tmp_path / "cache" / "v0.0.1+k3s1").iterdir()} == {"k3s", "k3s-arm64"}


@pytest.mark.parametrize("known", [{}, {"arm64": "0" * 64}, {"amd64": "0" * 64}], ids=["none", "of another processor", "another"])
def test_a_program_that_only_its_own_place_vouches_for_is_not_fetched(tmp_path, play, releases, known):
    """A list of checksums beside a program is written by whoever wrote the program."""
    tasks = RELEASE.format("amd64", {"v0.0.1+k3s1": known} if known else {})
    code, said = play(tasks, k3s_version="v0.0.1+k3s1", k3s_release_url=releases[0])
    assert code == 2, said
    assert "k3s was touched on no node" in " ".join(said.split())
    assert "amd64" in known or "k3s_checksums has no SHA-256 of it for amd64" in " ".join(said.split())
    assert not (tmp_path / "cache" / "v0.0.1+k3s1" / "k3s").exists()


CHAIN = "".join(f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n" for text in ("YWRtaW4=", "YWI="))
VALUES = {
    "certificate-authority-data": "-----BEGIN CERTIFICATE-----\nYXV0aG9yaXR5\n-----END CERTIFICATE-----\n",
    "client-certificate-data": CHAIN,
    "client-key-data": "-----BEGIN EC PRIVATE KEY-----\na2V5\n-----END EC PRIVATE KEY-----\n",
}
# As k3s writes it.
WRITTEN = """apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: {certificate-authority-data}
    server: https://127.0.0.1:6443
  name: default
contexts:
- context:
    cluster: default
    user: default
  name: default
current-context: default
kind: Config
users:
- name: default
  user:
    client-certificate-data: {client-certificate-data}
    client-key-data: {client-key-data}
"""
EXEC = """    exec: {apiVersion: client.authentication.k8s.io/v1, command: sh, args: [-c, "id >/tmp/owned"], interactiveMode: Never}
"""


@pytest.fixture
def joined(tmp_path, play):
    """Let the first of two servers join whose kubeconfig is planted; return the exit code, what was said and what the admin has."""
    shutil.copytree(ROOT / "roles/k3s", tmp_path / "roles/k3s")
    tasks = tmp_path / "roles/k3s/tasks/joined.yml"
    tasks.write_text(tasks.read_text().replace("/etc/rancher/k3s", str(tmp_path / "node")))
    (tmp_path / "node").mkdir()

    def one(text):
        (tmp_path / "node" / "k3s.yaml").write_text(text)
        servers = "[{name: gamma, address: 192.0.2.1}, {name: delta, address: 192.0.2.2}]"
        role = "    - ansible.builtin.import_role: {name: k3s, tasks_from: joined}\n"
        role += f"      vars: {{k3s_servers: {servers}, k3s_name: gamma, k3s_api_name: k3s.lab.internal, k3s_address: 192.0.2.1}}\n"
        code, said = play(role, k3s_kubeconfig=str(tmp_path / "kubeconfig"))
        return code, said, tmp_path / "kubeconfig"

    return one


def written(**values):
    """Return a kubeconfig as k3s writes it, with other values."""
    encoded = {name: base64.b64encode(text.encode()).decode() for name, text in {**VALUES, **values}.items()}
    return re.sub(r"\{([a-z-]+)\}", lambda found: encoded[found[1]], WRITTEN)


def test_of_the_kubeconfig_of_a_node_three_values_travel_and_nothing_else(joined):
    """Root on the server may write there what kubectl would run on the admin's machine."""
    evil = written().replace("- name: default\n  user:\n", f"- name: default\n  user:\n{EXEC}").replace("127.0.0.1", "evil.example.org")
    code, said, place = joined(evil + "extensions: [{name: x, extension: {command: sh}}]\n")
    assert code == 0, said
    assert place.stat().st_mode & 0o777 == 0o600
    found = yaml.safe_load(place.read_text())
    encoded = {name: base64.b64encode(text.encode()).decode() for name, text in VALUES.items()}
    authority = encoded.pop("certificate-authority-data")
    clusters = {"gamma": "https://192.0.2.1:6443", "delta": "https://192.0.2.2:6443"}
    assert found == {
        "apiVersion": "v1", "kind": "Config", "current-context": "gamma", "users": [{"name": "admin", "user": encoded}],
        "clusters": [{"name": name, "cluster": {"server": url, "certificate-authority-data": authority}} for name, url in clusters.items()],
        "contexts": [{"name": name, "context": {"cluster": name, "user": "admin"}} for name in clusters],
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        written(**{"client-key-data": "id >/tmp/owned"}),
        written(**{"client-certificate-data": VALUES["client-certificate-data"] + "exec: {command: sh}\n"}),
        written().replace("client-key-data: ", "client-key-data: {{ lookup('pipe', 'id') }}"),
        written().replace("client-key-data: ", "client-key: /root/.ssh/id_ed25519 #"),
        written() + "    client-key-data: YQ==\n",
        "",
    ],
    ids=["no key", "more than certificates", "a template", "a path", "two keys", "nothing"],
)
def test_a_kubeconfig_without_these_three_is_refused_and_the_admins_is_as_before(joined, text):
    assert joined(written())[0] == 0
    code, said, place = joined(text)
    assert code == 2, said
    assert "root on that node alone can change it" in " ".join(said.split())
    assert "YQ==" not in place.read_text()
    assert (
        yaml.safe_load(place.read_text())["users"][0]["user"]["client-key-data"]
        == base64.b64encode(VALUES["client-key-data"].encode()).decode()
    )


def test_the_certificate_of_the_api_is_good_for_each_address_in_the_kubeconfig(play):
    names = "[{name: gamma, address: 192.0.2.1}, {name: delta, address: 192.0.2.2}]"
    tasks = f"""
    - ansible.builtin.debug:
        msg: "good for {{{{ __k3s_server_config['tls-san'] | join(' ') }}}}."
      vars: {{k3s_servers: {names}, k3s_api_name: k3s.lab.internal, k3s_address: 192.0.2.1}}
  vars_files: ["{ROOT}/roles/k3s/defaults/main.yml", "{ROOT}/roles/k3s/vars/main.yml"]
"""
    code, said = play(tasks)
    assert code == 0, said
    assert "good for k3s.lab.internal 192.0.2.1 192.0.2.2." in said


@pytest.mark.parametrize(
    ("servers", "name", "asked"),
    [(1, "k3s.lab.internal", "192.0.2.1"), (3, "k3s.lab.internal", "k3s.lab.internal"), (3, "", "192.0.2.1")],
)
def test_a_new_agent_asks_for_any_of_several_servers(play, servers, name, asked):
    names = ", ".join(f"{{name: n{number}, address: 192.0.2.{number}}}" for number in range(1, servers + 1))
    tasks = f"""
    - ansible.builtin.debug:
        msg: "asks {{{{ __k3s_agent_config.server }}}}"
      vars: {{k3s_servers: [{names}], k3s_api_name: "{name}"}}
  vars_files: ["{ROOT}/roles/k3s/vars/main.yml"]
"""
    code, said = play(tasks)
    assert code == 0, said
    assert f"asks https://{asked}:6443" in said


WORD = "hunter2hunter2hunter2"


def vault(action, path):
    """Encrypt or decrypt a file with the word."""
    command = [tool("ansible-vault"), action, "--vault-password-file=/dev/stdin", str(path)]
    subprocess.run(command, input=WORD, text=True, env=environment(), cwd=ROOT, check=True, capture_output=True)


@pytest.fixture
def shot(tmp_path, play):
    """A snapshot of a server whose data is in the folder `data`."""
    server = tmp_path / "data" / "server"
    for folder in ("db", "tls", "cred"):
        (server / folder).mkdir(parents=True)
        (server / folder / "file").write_text(folder)
    with contextlib.closing(sqlite3.connect(server / "db" / "state.db")) as database:
        database.execute("CREATE TABLE kine (value)")
    (server / "token").write_text("K10abc::server:secretofthecluster\n")
    tasks = "    - ansible.builtin.import_role: {name: k3s, tasks_from: snapshot}\n"
    known = {"__k3s_data": str(tmp_path / "data"), "k3s_snapshot_dir": str(tmp_path / "shots"), "k3s_snapshot_passphrase": WORD}
    code, said = play(tasks, **known)
    assert code == 0, said
    assert WORD not in said
    (path,) = (tmp_path / "shots").iterdir()
    return path


def test_a_snapshot_is_encrypted_on_the_controller_and_holds_what_a_restore_needs(tmp_path, shot):
    """Beside the database the snapshot has the token, which a search for secrets would find in any archive that is not encrypted."""
    assert shot.stat().st_mode & 0o777 == 0o600
    assert [str(found) for found in in_file(Needles({"token": "secretofthecluster"}), shot, "shot")] == []
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"server"}, "something is left on the node"
    vault("decrypt", shot)
    assert list(in_file(Needles({"token": "secretofthecluster"}), shot, "shot")), "the search finds nothing anyway"
    with tarfile.open(shot) as archive:
        assert {"token", "state.db", "tls/file", "cred/file"} <= {name.removeprefix("./") for name in archive.getnames()}


# What is restored belongs to root.
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="not root")


@needs_root
def test_a_snapshot_of_sqlite_is_put_back_and_nothing_in_plain_is_left(tmp_path, play, shot):
    (tmp_path / "blank").mkdir()
    (tmp_path / "tmp").mkdir()
    role = "    - ansible.builtin.import_role: {name: k3s, tasks_from: restore}\n"
    role += f"      environment: {{TMPDIR: '{tmp_path}/tmp'}}\n"
    code, said = play(role, __k3s_data=str(tmp_path / "blank"), k3s_snapshot=str(shot), k3s_snapshot_passphrase=WORD)
    assert code == 0, said
    assert [path.name for path in (tmp_path / "blank").iterdir()] == ["server"]
    assert list((tmp_path / "tmp").iterdir()) == []
    for name in ("token", "tls/file", "cred/file"):
        assert (tmp_path / "blank/server" / name).read_text() == (tmp_path / "data/server" / name).read_text()
    with contextlib.closing(sqlite3.connect(tmp_path / "blank/server/db/state.db")) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("kine",)]


@needs_root
@pytest.mark.parametrize("code", [0, 1])
def test_a_server_is_given_the_snapshot_of_etcd_and_its_token(tmp_path, play, code):
    """By a program that only says what it was told; that k3s does it was not tried (docs/k3s.md)."""
    shutil.copytree(ROOT / "roles/k3s", tmp_path / "roles/k3s")
    tasks = tmp_path / "roles/k3s/tasks/restore.yml"
    tasks.write_text(tasks.read_text().replace("/usr/local/bin/k3s", f"{tmp_path}/k3s").replace("/etc/rancher/k3s", str(tmp_path)))
    (tmp_path / "k3s").write_text(f'#!/bin/sh\necho "$*" > {tmp_path}/told\ncat "${{3#*=}}"\nexit {code}\n')
    (tmp_path / "k3s").chmod(0o755)
    (tmp_path / "blank").mkdir()
    shot = tmp_path / "shot"
    with tarfile.open(shot, "w:gz") as archive:
        for name in ("token", "etcd/cluster-gamma-1"):
            (tmp_path / "file").write_text(f"this is {name}")
            archive.add(tmp_path / "file", name)
    vault("encrypt", shot)
    role = "    - ansible.builtin.import_role: {name: k3s, tasks_from: restore}\n"
    found, said = play(role, __k3s_data=str(tmp_path / "blank"), k3s_snapshot=str(shot), k3s_snapshot_passphrase=WORD)
    told = (tmp_path / "told").read_text()
    options = rf"--cluster-reset --cluster-reset-restore-path={tmp_path}/blank/restore\.[^/]+/etcd/cluster-gamma-1"
    assert re.fullmatch(rf"server {options}\n", told)
    assert (tmp_path / "join-token").read_text() == "this is token"
    assert list((tmp_path / "blank").iterdir()) == [], "something is left on the node"
    assert bool(found) == bool(code), said
    assert ("does not begin from" in said) == ("this is etcd/cluster-gamma-1" in said) == bool(code), said


@pytest.mark.parametrize("kind", ["in plain", "of another cluster"])
def test_what_was_not_encrypted_here_is_no_snapshot(tmp_path, play, kind):
    with tarfile.open(tmp_path / "shot", "w:gz") as archive:
        (tmp_path / "token").write_text("token")
        archive.add(tmp_path / "token", "token")
    if kind != "in plain":
        vault("encrypt", tmp_path / "shot")
    servers = "{k3s_servers: [{name: gamma, address: 10.77.0.21}]}"
    tasks = f"    - ansible.builtin.import_role: {{name: k3s, tasks_from: hold}}\n      vars: {servers}\n"
    code, said = play(tasks, "--check", k3s_snapshot=str(tmp_path / "shot"), k3s_snapshot_passphrase="another")
    assert code == 2, said
    text = " ".join(said.split())
    assert "is no snapshot of k3s, or that of another cluster" in text
    assert ("is not vault encrypted data" if kind == "in plain" else "Decryption failed") in text
    assert "No server was stopped" in text


@pytest.mark.parametrize(
    ("files", "servers", "words"),
    [
        (["readme"], 1, "is no snapshot of k3s"),
        (["token", "etcd/cluster-gamma"], 1, "holds etcd, and the rack file has 1 of the servers"),
        (["token", "state.db"], 3, "holds SQLite, and the rack file has 3 of the servers"),
        (["token", "state.db"], 1, "is not on this machine"),
        (["token", "etcd/cluster-gamma"], 3, "is not on this machine"),
    ],
    ids=["other", "etcd-for-one", "sqlite-for-three", "sqlite-without-release", "etcd-without-release"],
)
def test_what_cannot_be_restored_is_refused_before_a_server_is_stopped(tmp_path, play, files, servers, words):
    with tarfile.open(tmp_path / "shot.tar.gz", "w:gz") as archive:
        for name in files:
            (tmp_path / "file").write_text(name)
            archive.add(tmp_path / "file", name)
    vault("encrypt", tmp_path / "shot.tar.gz")
    names = ", ".join(f"{{name: n{number}, address: 192.0.2.{number}}}" for number in range(1, servers + 1))
    tasks = f"    - ansible.builtin.import_role: {{name: k3s, tasks_from: hold}}\n      vars: {{k3s_servers: [{names}]}}\n"
    code, said = play(tasks, "--check", k3s_snapshot=str(tmp_path / "shot.tar.gz"), k3s_snapshot_passphrase=WORD)
    assert code == 2, said
    text = " ".join(said.split())
    assert words in text
    assert "No server was stopped" in text
