# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fact cache with a real Redis that is up, down, silent, or wants a password."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.beowulf.cluster.plugins.cache.redis_fallback import cluster_name
from ansible_collections.beowulf.cluster.plugins.plugin_utils import fact_store

COLLECTIONS = Path(__file__).resolve().parents[7]
WARNING = "this run keeps facts in files"
# What ansible-core does with a cache, in a process of its own: options are read once for each process.
SESSION = """
import sys
from ansible.plugins.loader import cache_loader, init_plugin_loader
init_plugin_loader([sys.argv[1]])
cache = cache_loader.get("beowulf.cluster.redis_fallback")
for line in sys.argv[2:]:
    print(repr(eval(line, {"cache": cache})))
"""
needs_redis = pytest.mark.skipif(not shutil.which("redis-server"), reason="needs redis-server")


class Redis:
    def __init__(self, folder: Path, *options: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.uri = f"redis://127.0.0.1:{self.port}/0"
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError("redis-server does not start")

    def end(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def redis(tmp_path):
    server = Redis(tmp_path)
    yield server
    server.end()


@pytest.fixture
def guarded(tmp_path):
    """A Redis as roles/redis configures it: it knows the password by its sum."""
    digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
    (tmp_path / "redis.conf").write_text(f"user default on #{digest} ~* &* +@all -@admin -@dangerous +info\n")
    server = Redis(tmp_path, "--include", str(tmp_path / "redis.conf"))
    yield server
    server.end()


@pytest.fixture
def password_file(tmp_path):
    def write(content: str, mode: int = 0o600) -> str:
        path = tmp_path / "password"
        path.write_text(content)
        path.chmod(mode)
        return str(path)

    return write


@pytest.fixture
def session(tmp_path):
    def run(uri: str, *lines: str, password_file: str = "") -> tuple[list[object], str, float]:
        env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        env |= {
            "ANSIBLE_CACHE_PLUGIN_CONNECTION": uri,
            "BEOWULF_FACTS_FOLDER": str(tmp_path / "{cluster}"),
            "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
            "BEOWULF_REDIS_PASSWORD_FILE": password_file,
        }
        (tmp_path / "ansible.cfg").write_text("[defaults]\n")
        began = time.monotonic()
        command = [sys.executable, "-c", SESSION, str(COLLECTIONS), *lines]
        result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stderr
        return [eval(line) for line in result.stdout.splitlines()], result.stderr, time.monotonic() - began

    return run


WRITE = "cache.set('alpha', {'kernel': '6'})"
READ = "cache.get('alpha')"
PASSWORD = "sesame0123456789"


@needs_redis
def test_controllers_share_facts_in_redis(redis, session, tmp_path):
    _values, warnings, _seconds = session(redis.uri, WRITE)
    assert WARNING not in warnings
    values, _warnings, _seconds = session(redis.uri, READ, "cache.keys()", "cache.contains('alpha')", "cache.contains('beta')")
    assert values == [{"kernel": "6"}, ["alpha"], True, False]
    assert not list(tmp_path.rglob("*.json"))
    values, _warnings, _seconds = session(redis.uri, "cache.flush()", "cache.contains('alpha')", "cache.keys()")
    assert values == [None, False, []]


@needs_redis
def test_records_expire_and_have_a_prefix_of_the_cluster(redis, session):
    session(redis.uri, WRITE)
    client = fact_store.connect(redis.uri, 1)
    assert client.keys("*") == [b"facts:default:s1_alpha"]
    assert 0 < client.ttl("facts:default:s1_alpha") <= 86400


@needs_redis
def test_a_dead_redis_costs_a_warning(redis, session, tmp_path):
    redis.end()
    values, warnings, seconds = session(redis.uri, WRITE, READ, "cache.keys()")
    assert values == [None, {"kernel": "6"}, ["alpha"]]
    assert warnings.count(WARNING) == 1
    assert seconds < 5
    assert (tmp_path / "default" / "s1_alpha.json").stat().st_mode & 0o777 == 0o600


@needs_redis
def test_a_silent_redis_costs_a_second_and_a_warning(redis, session):
    redis.process.send_signal(signal.SIGSTOP)
    values, warnings, seconds = session(redis.uri, WRITE, READ, "cache.contains('beta')", "cache.keys()", "cache.flush()")
    assert values == [None, {"kernel": "6"}, False, ["alpha"], None]
    assert warnings.count(WARNING) == 1
    assert seconds < 3.5


@needs_redis
def test_a_redis_that_falls_silent_midway_costs_no_facts_of_this_run(redis, session):
    stop = f"__import__('os').kill({redis.process.pid}, __import__('signal').SIGSTOP)"
    values, warnings, _seconds = session(redis.uri, WRITE, stop, READ, "cache.contains('beta')")
    assert values == [None, None, {"kernel": "6"}, False]
    assert warnings.count(WARNING) == 1


@needs_redis
@pytest.mark.parametrize("form", ["redis://127.0.0.1:{}/0", "redis://:other@127.0.0.1:{}/0", "127.0.0.1:{}:0", "127.0.0.1:{}:0:other"])
def test_the_password_comes_from_its_file(guarded, session, password_file, tmp_path, form):
    values, warnings, _seconds = session(
        form.format(guarded.port), WRITE, READ, "cache.keys()", "cache.flush()", password_file=password_file(f"{PASSWORD}\n")
    )
    assert values == [None, {"kernel": "6"}, ["alpha"], None]
    assert WARNING not in warnings
    assert not list(tmp_path.rglob("*.json"))


@needs_redis
@pytest.mark.parametrize("content", ["wrong\n", ""])
def test_a_wrong_password_costs_a_warning(guarded, session, password_file, tmp_path, content):
    where = password_file(content) if content else ""
    values, warnings, seconds = session(guarded.uri, WRITE, READ, "cache.keys()", password_file=where)
    assert values == [None, {"kernel": "6"}, ["alpha"]]
    assert warnings.count(WARNING) == 1
    assert "wrong\n" not in warnings
    assert seconds < 5
    assert (tmp_path / "default" / "s1_alpha.json").is_file()


@needs_redis
@pytest.mark.parametrize(
    ("mode", "content", "words"), [(0o644, PASSWORD, "others may read it"), (0o600, " \n", "is empty"), (None, "", "No such")]
)
def test_a_password_file_that_is_no_good_costs_a_warning(guarded, session, password_file, tmp_path, mode, content, words):
    where = str(tmp_path / "none") if mode is None else password_file(content, mode)
    values, warnings, _seconds = session(guarded.uri, WRITE, READ, password_file=where)
    assert values == [None, {"kernel": "6"}]
    assert warnings.count(WARNING) == 1
    assert words in " ".join(warnings.split())
    assert PASSWORD not in warnings


def test_without_a_connection_facts_are_files(session, tmp_path):
    _values, warnings, _seconds = session("", WRITE)
    assert "WARNING" not in warnings
    values, _warnings, _seconds = session("", READ, "cache.delete('alpha')", "cache.contains('alpha')")
    assert values == [{"kernel": "6"}, None, False]


def test_a_file_that_is_broken_or_old_is_no_record(tmp_path):
    store = fact_store.FileStore(str(tmp_path), 100)
    for key in ("good", "broken", "old"):
        store.set(key, 1)
    (tmp_path / "broken.json").write_text("{")
    os.utime(tmp_path / "old.json", (1, 1))
    assert [store.contains(key) for key in ("good", "broken", "old", "none")] == [True, False, False, False]
    assert fact_store.FileStore(str(tmp_path), 0).contains("old")


def test_a_key_cannot_leave_the_folder(tmp_path):
    store = fact_store.FileStore(str(tmp_path / "facts"), 0)
    store.set("../../x", 1)
    assert store.keys() == ["../../x"]
    assert [path.parent for path in tmp_path.rglob("*.json")] == [tmp_path / "facts"]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("127.0.0.1:6379:0", {"host": "127.0.0.1", "port": 6379, "db": 0, "password": None, "ssl": False}),
        ("tls://psi:6380:2:se:cret", {"host": "psi", "port": 6380, "db": 2, "password": "se:cret", "ssl": True}),
        ("[::1]:6379:0", {"host": "::1", "port": 6379, "db": 0, "password": None, "ssl": False}),
        ("redis://psi/0", {}),
    ],
)
def test_both_forms_of_a_connection_are_read(uri, expected):
    assert fact_store.connection_arguments(uri) == expected


@pytest.mark.parametrize(
    ("sources", "name"),
    [
        (["/x/inventory/lab.rack.yml"], "lab"),
        (["a.rack.yml", "b.rack.yml"], "a-b"),
        (["h1,h2,"], "h1_h2"),
        ([], "default"),
        (None, "default"),
    ],
)
def test_the_cluster_is_named_after_its_inventory(sources, name):
    assert cluster_name(sources) == name
