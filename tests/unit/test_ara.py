from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from beowulf import ara


@pytest.fixture
def folder(tmp_path):
    yield tmp_path / "ara"
    ara.stop(tmp_path / "ara")


def test_the_server_starts_once_and_stops(folder):
    assert ara.running(folder) is None
    url = ara.start(folder)
    pid, where = ara.running(folder)
    assert (where, ara.answers(url)) == (url, True)
    assert ara.start(folder) == url
    assert ara.running(folder)[0] == pid
    assert ara.stop(folder)
    assert not ara.answers(url)
    assert not ara.stop(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_server_that_hangs_is_replaced(folder):
    ara.start(folder)
    pid, _url = ara.running(folder)
    os.killpg(os.getpgid(pid), signal.SIGSTOP)
    began = time.monotonic()
    assert ara.answers(ara.start(folder))
    assert ara.running(folder)[0] != pid
    assert time.monotonic() - began < 15


def test_a_port_that_is_taken_is_left_alone():
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port = ara.free_port()
        other.bind(("127.0.0.1", port))
        other.listen()
        assert ara.free_port() > port


def test_the_pid_of_another_process_is_not_the_server(tmp_path):
    (tmp_path / "server.pid").write_text(str(os.getpid()))
    (tmp_path / "server.port").write_text("8137")
    assert ara.running(tmp_path) is None


def test_the_clients_settings_do_not_reach_the_server(monkeypatch, tmp_path):
    monkeypatch.setenv("ARA_API_SERVER", "https://elsewhere")
    monkeypatch.setenv("ARA_DATABASE_NAME", "/elsewhere")
    assert {name for name in ara.environment(tmp_path) if name.startswith("ARA_")} == {
        "ARA_BASE_DIR",
        "ARA_DATABASE_CONN_MAX_AGE",
        "ARA_DATABASE_OPTIONS",
        "ARA_LOG_LEVEL",
    }
