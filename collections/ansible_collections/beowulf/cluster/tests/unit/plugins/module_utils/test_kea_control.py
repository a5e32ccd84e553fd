"""Kea's control socket: a server of the same kind in its place, which answers, says nonsense, says nothing, or has no end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from ansible_collections.beowulf.cluster.plugins.module_utils import kea_control

PAIR = {"local": {"role": "primary", "state": "partner-down"}, "remote": {"last-state": "unavailable"}}
STATUS = {"result": 0, "arguments": {"high-availability": [{"ha-servers": PAIR}]}}


@pytest.fixture
def kea(tmp_path):
    """Start a server that answers each request with `answers`, as Kea does: it closes the connection; return what it was asked."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()

    def serve(*pieces: bytes, pause: float = 0.0) -> list[bytes]:
        asked = []

        def run() -> None:
            while True:
                try:
                    connection, _address = listener.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(65536))
                    for piece in pieces:
                        time.sleep(pause)
                        try:
                            connection.sendall(piece)
                        except OSError:
                            break

        threading.Thread(target=run, daemon=True).start()
        return asked

    serve.path = str(tmp_path / "socket")
    yield serve
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_a_command_and_its_answer(kea):
    asked = kea(b'{"result": 0, "arguments": ', b'{"leases": [1]}}')
    assert kea_control.ask("lease4-get-all", path=kea.path) == {"result": 0, "arguments": {"leases": [1]}}
    assert kea_control.order("lease4-get", {"ip-address": "10.77.0.21", "subnet-id": 1}, kea.path) == {"leases": [1]}
    assert [json.loads(one) for one in asked] == [
        {"command": "lease4-get-all"},
        {"command": "lease4-get", "arguments": {"ip-address": "10.77.0.21", "subnet-id": 1}},
    ]


def test_nothing_found_is_an_answer_and_a_refusal_is_not(kea):
    kea(b'{"result": 3, "text": "0 IPv4 lease(s) found."}')
    assert kea_control.order("lease4-get-all", path=kea.path) == {}


@pytest.mark.parametrize("answer", [b'{"result": 1, "text": "no such command"}', b'{"result": 2}', b"{}", b"[]", b"null", b"", b"no JSON",
                                    b"\xff\xfe", b"[" * 100_000])  # fmt: skip
def test_what_is_no_answer_is_an_error_and_nothing_worse(kea, answer):
    kea(answer)
    with pytest.raises(ValueError):  # noqa: PT011  # of the library or ours
        kea_control.order("status-get", path=kea.path)


def test_a_server_that_is_silent_or_trickles_gets_no_more_than_its_time(kea):
    kea(*[b" "] * 50, pause=0.1)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        kea_control.ask("status-get", path=kea.path, limit=0.5)
    assert time.monotonic() - began < 2


def test_an_answer_without_end_is_not_kept(kea):
    kea(*[b"x" * 65536] * 1000)
    with pytest.raises(TimeoutError):
        kea_control.converse(socket.AF_UNIX, kea.path, b"{}", largest=1 << 20)


def test_a_server_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        kea_control.ask("status-get", path=str(tmp_path / "none"))


def test_the_states_of_a_pair():
    assert kea_control.pair(STATUS["arguments"]) == ("partner-down", "unavailable")
    waits = {"local": {"state": "waiting"}, "remote": {"last-state": ""}}
    assert kea_control.pair({"high-availability": [{"ha-servers": waits}]}) == ("waiting", None)


STRANGE = [[], {}, {"high-availability": 5}, {"high-availability": []}, None, {"high-availability": [{"ha-servers": {"local": {}}}]},
           {"high-availability": [{"ha-servers": {"local": {"state": ["x"]}, "remote": {"last-state": ""}}}]}]  # fmt: skip


@pytest.mark.parametrize("arguments", STRANGE, ids=repr)
def test_what_is_no_pair(arguments):
    with pytest.raises((LookupError, TypeError)):
        kea_control.pair(arguments)


def run(*words: str) -> tuple[int, str, str]:
    """Run the program as a node does, with nothing but its file."""
    done = subprocess.run([sys.executable, "-I", kea_control.__file__, *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_program_prints_the_answer(kea):
    asked = kea(json.dumps(STATUS).encode())
    assert run("--socket", kea.path, "lease4-get", '{"subnet-id": 1}') == (0, json.dumps(STATUS) + "\n", "")
    assert json.loads(asked[0]) == {"command": "lease4-get", "arguments": {"subnet-id": 1}}
    # A refusal is an answer, which is for whoever asked to read.
    assert run("--socket", kea.path, "--pair")[:2] == (0, "partner-down unavailable\n")


def test_the_program_says_that_nobody_answers(tmp_path):
    code, shown, said = run("--socket", str(tmp_path / "none"), "status-get")
    assert (code, shown, said.startswith("Kea does not answer: ")) == (1, "", True)
    assert run("--socket", str(tmp_path / "none"), "--pair") == (0, "silent\n", "")


@pytest.mark.parametrize("answer", ["null", '{"result": 0}', '{"result": 0, "arguments": {"high-availability": []}}'])
def test_a_server_without_a_pair_is_silent_about_it(kea, answer):
    kea(answer.encode())
    assert run("--socket", kea.path, "--pair") == (0, "silent\n", "")


def test_it_is_asked_where_kea_listens():
    role = os.path.join(os.path.dirname(kea_control.__file__), *[".."] * 6, "roles/dhcp/vars/main.yml")
    if os.path.exists(role):  # not in a collection that is installed
        with open(role, encoding="utf-8") as file:
            assert f"__dhcp_control_socket: {kea_control.SOCKET}\n" in file.read()
