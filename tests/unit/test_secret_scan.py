"""A secret is planted in every place that is searched, in every form: each has to be found."""

from __future__ import annotations

import base64
import gzip
import io
import json
import lzma
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import zlib
from pathlib import Path
from urllib.parse import quote

import pytest

from beowulf import secret_scan
from beowulf.errors import Failure
from beowulf.secret_scan import Finding, Needles

VALUE = 'kG3vT9/xQ b+7nW"2mZé5rJ8sL1pD4'
SAFE = "kG3vT9xQb7nW2mZ5rJ8sL1pD4hY6cF0aE9uIoP3t"
NEEDLES = Needles({"odd": VALUE, "redis": SAFE})
HERE = ["env"]


@pytest.fixture
def as_root(tmp_path, monkeypatch):
    """`sudo` for those who need none: what is asked of a node runs here, with the rights of the tests."""
    program = tmp_path / "bin" / "sudo"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def project(tmp_path):
    """A project with one commit."""
    root = tmp_path / "project"
    root.mkdir()
    git(root, "init", "--quiet")
    (root / ".gitignore").write_text("/.beowulf/\n")
    commit(root, "begin")
    return root


def git(root, *arguments):
    command = ["git", "-C", str(root), "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
    subprocess.run(command, check=True, capture_output=True)


def commit(root, message):
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--allow-empty", "--message", message)


def names(findings):
    return {finding.name for finding in findings}


@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
@pytest.mark.parametrize("after", ["", "z", "yz", "xyz"])
@pytest.mark.parametrize("value", [VALUE, SAFE, SAFE[:-1], SAFE[:-2]])
def test_base64_is_found_wherever_it_begins(value, before, after):
    needles = Needles({"x": value})
    for code in (base64.b64encode, base64.urlsafe_b64encode, base64.encodebytes):
        text = code((before + value + after).encode())
        assert names(needles.find("there", io.BytesIO(b"-" + text + b"-"))) == {"x"}, text


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (f"<{VALUE}>", "as it is"),
        (f"redis://:{quote(VALUE, safe='')}@psi", "in a URL"),
        (json.dumps({"password": VALUE}), "in JSON"),
        (json.dumps({"password": VALUE}, ensure_ascii=False), "in JSON"),
    ],
)
def test_other_forms_are_found(text, form):
    assert Finding("there", "odd", form) in set(NEEDLES.find("there", io.BytesIO(text.encode())))


def test_a_finding_says_where_but_not_the_value():
    [finding] = NEEDLES.find("journal", io.BytesIO(SAFE.encode()))
    assert str(finding) == "journal: redis (as it is)"


def test_what_is_not_there_is_not_found():
    text = json.dumps({"password": VALUE[:-1], "other": SAFE[1:], "third": base64.b64encode(SAFE[:-2].encode()).decode()})
    assert list(NEEDLES.find("there", io.BytesIO(text.encode()))) == []


@pytest.mark.parametrize("split", [1, 5, len(SAFE) - 1])
def test_the_border_of_two_parts_hides_nothing(monkeypatch, split):
    monkeypatch.setattr(secret_scan, "CHUNK", 256)
    for text in (SAFE.encode(), base64.encodebytes(b"a" * 40 + SAFE.encode())):
        assert names(NEEDLES.find("there", io.BytesIO(b"." * (256 - split) + text + b"." * 300))) == {"redis"}


def test_an_empty_secret_is_a_mistake():
    with pytest.raises(ValueError, match="x is empty"):
        Needles({"x": ""})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("facts/psi.json", json.dumps({"x": SAFE}).encode()),
        ("log.1.gz", gzip.compress(f"{SAFE}\n".encode() * 50, mtime=0)),
        ("log.2.xz", lzma.compress(f"{SAFE}\n".encode() * 50)),
        ("secrets.yml", f"redis: {SAFE}\n".encode()),
        (".secrets.yml.new", base64.b64encode(SAFE.encode())),
    ],
)
def test_the_state_of_a_cluster_is_searched(project, name, content):
    path = project / ".beowulf" / "lab" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert {(finding.place, finding.name) for finding in secret_scan.in_controller(NEEDLES, project)} == {(f".beowulf/lab/{name}", "redis")}


def test_the_password_of_the_vault_may_be_in_its_file_alone(project):
    folder = project / ".beowulf" / "lab"
    folder.mkdir(parents=True)
    (folder / "vault-password").write_text(SAFE)
    assert secret_scan.in_controller(NEEDLES, project) == []


def database(path, value):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute('CREATE TABLE "result" (id INTEGER, content BLOB, label TEXT)')
        connection.execute('INSERT INTO "result" VALUES (1, ?, ?)', (value, "x"))
    return connection


@pytest.mark.parametrize("value", [zlib.compress(json.dumps({"msg": SAFE}).encode()), SAFE.encode(), SAFE])
def test_recorded_runs_are_searched(project, value, as_root):
    path = project / ".beowulf" / "ara" / "ansible.sqlite"
    path.parent.mkdir(parents=True)
    # Still open, as that of a server.
    connection = database(path, value)
    assert "redis" in names(secret_scan.in_controller(NEEDLES, project))
    assert names(secret_scan.in_databases(NEEDLES, HERE, str(path.parent))) == {"redis"}
    connection.close()


def test_the_history_is_searched(project):
    (project / "notes.txt").write_text(f"{SAFE}\n")
    assert [str(finding) for finding in secret_scan.in_controller(NEEDLES, project)] == ["notes.txt: redis (as it is)"]
    commit(project, "oops")
    (project / "notes.txt").unlink()
    commit(project, "gone")
    [finding] = secret_scan.in_controller(NEEDLES, project)
    assert finding.place.startswith("git blob ")
    assert finding.place.endswith(" notes.txt")


def test_messages_of_commits_are_searched(project):
    commit(project, f"use {SAFE}")
    [finding] = secret_scan.in_controller(NEEDLES, project)
    assert finding.place.startswith("git commit ")


def test_what_is_no_project_proves_nothing(tmp_path):
    with pytest.raises(Failure, match="git ls-files in"):
        secret_scan.in_controller(NEEDLES, tmp_path)


def test_log_files_are_searched(as_root, tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "syslog").write_text(f"x {SAFE}\n")
    (tmp_path / "log" / "syslog.2.gz").write_bytes(gzip.compress(VALUE.encode()))
    (tmp_path / "log" / "clean").write_text("x\n")
    found = set(secret_scan.in_logs(NEEDLES, HERE, [str(tmp_path / "log"), str(tmp_path / "missing")]))
    assert {(Path(finding.place).name, finding.name) for finding in found} == {("syslog", "redis"), ("syslog.2.gz", "odd")}


def test_processes_are_searched(as_root):
    assert list(secret_scan.in_processes(NEEDLES, HERE)) == []
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", f"--password={SAFE}"])
    try:
        time.sleep(0.2)
        assert names(secret_scan.in_processes(NEEDLES, HERE)) == {"redis"}
    finally:
        child.kill()
        child.wait()


def test_the_search_itself_shows_nothing(as_root, tmp_path):
    """The command lines of what runs while a Redis with a password is searched."""
    seen = tmp_path / "seen"
    program = tmp_path / "bin" / "redis-cli"
    look = f"cat /proc/[0-9]*/cmdline >> {seen} 2>/dev/null"
    program.write_text(f'#!/bin/sh\n{look}\ncase $1 in ping) [ -z "$REDISCLI_AUTH" ] || echo PONG;; dbsize) echo 0;; esac\n')
    program.chmod(0o755)
    assert list(secret_scan.in_redis(NEEDLES, HERE, SAFE)) == []
    assert seen.stat().st_size
    assert list(NEEDLES.find("there", io.BytesIO(seen.read_bytes()))) == []


REDIS_PASSWORD = "pw0123456789"


@pytest.fixture(params=[REDIS_PASSWORD, ""], ids=["password", "open"])
def redis_server(request, tmp_path, as_root):
    """A Redis, with and without a password, which `redis-cli` reaches by itself: a command that talks to it, and its password."""
    server, client = shutil.which("redis-server"), shutil.which("redis-cli")
    if not (server and client):
        pytest.skip("Redis is not installed")
    child = subprocess.Popen([server, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    wanted = f"requirepass {request.param}\n" if request.param else ""
    child.stdin.write(f"port 0\nunixsocket {tmp_path}/s\nsave ''\n{wanted}".encode())
    child.stdin.close()
    program = tmp_path / "bin" / "redis-cli"
    program.write_text(f'#!/bin/sh\nexec {client} -s {tmp_path}/s "$@"\n')
    program.chmod(0o755)
    deadline = time.monotonic() + 10
    while not (tmp_path / "s").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    yield [str(program), *(["-a", request.param] if request.param else [])], request.param
    child.terminate()
    child.wait()


def test_redis_is_searched_and_has_to_let_us_in(redis_server):
    command, password = redis_server
    assert list(secret_scan.in_redis(NEEDLES, HERE, REDIS_PASSWORD)) == []
    subprocess.run([*command, "SET", 'facts:"lab":psi', json.dumps({"x": SAFE})], check=True, capture_output=True)
    assert names(secret_scan.in_redis(NEEDLES, HERE, REDIS_PASSWORD)) == {"redis"}
    for wrong in ("", "wrong") if password else ():
        with pytest.raises(Failure, match="proves nothing"):
            list(secret_scan.in_redis(NEEDLES, HERE, wrong))


def test_a_node_that_does_not_answer_proves_nothing(as_root):
    for search in (secret_scan.in_logs, secret_scan.in_journal, secret_scan.in_processes, secret_scan.in_redis, secret_scan.in_databases):
        with pytest.raises(Failure, match="proves nothing"):
            list(search(NEEDLES, ["false"]))
