"""The embedded ARA server: gunicorn on loopback with a SQLite database under .beowulf/ara.

Also a script of the standard library alone, so that the callback plugin can call it: `python -P beowulf/ara.py start`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIRST_PORT = 8137
PORTS = 20
START_LIMIT = 30.0
STOP_LIMIT = 5.0


class AraError(Exception):
    """The server could not be started."""


def base_folder() -> Path:
    """Return the folder of the embedded server's database, log and pid; BEOWULF_ARA_FOLDER overrides it."""
    return Path(os.environ.get("BEOWULF_ARA_FOLDER") or ROOT / ".beowulf" / "ara")


def environment(folder: Path) -> dict[str, str]:
    """Return the environment in which ARA's own commands use this database."""
    # Client settings of a remote server (ARA_API_*) must not reach the server and its commands.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ARA_")}
    return kept | {
        "ARA_BASE_DIR": str(folder),
        "ARA_DATABASE_CONN_MAX_AGE": "600",
        # One write to the disk now and then, not two for each result: SD cards are slow.
        "ARA_DATABASE_OPTIONS": '@json {"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"}',
        "ARA_LOG_LEVEL": "WARNING",
        "DJANGO_SETTINGS_MODULE": "ara.server.settings",
    }


def tool(name: str) -> str:
    """Return the path of a command that was installed beside this Python."""
    return str(Path(sys.executable).parent / name)


def url_of(port: int) -> str:
    """Return the address of the server on `port` of this machine."""
    return f"http://127.0.0.1:{port}"


def answers(url: str, limit: float = 1.0) -> bool:
    """Say whether an ARA server answers at `url` within `limit` seconds."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/api/", timeout=limit) as response:
            return response.status == 200 and b"api/v1" in response.read()
    except (OSError, urllib.error.URLError, ValueError):
        return False


def running(folder: Path | None = None) -> tuple[int, str] | None:
    """Return pid and address of this folder's server, or None when its process is not there."""
    folder = folder or base_folder()
    try:
        pid = int((folder / "server.pid").read_text(encoding="ascii"))
        port = int((folder / "server.port").read_text(encoding="ascii"))
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    # The number may belong to another process by now.
    return (pid, url_of(port)) if str(folder / "server.pid").encode() in command else None


def free_port() -> int:
    """Return the first port at or after FIRST_PORT that nobody listens on: mostly the same one."""
    for port in range(FIRST_PORT, FIRST_PORT + PORTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise AraError(f"the ports {FIRST_PORT} to {FIRST_PORT + PORTS - 1} are all taken")


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Let one process at a time start or stop the server."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def migrate(folder: Path) -> None:
    """Create or update the database when ARA's version is not the one that did it last."""
    from importlib.metadata import version

    stamp = folder / "server.migrated"
    current = version("ara")
    if stamp.exists() and stamp.read_text(encoding="ascii") == current:
        return
    result = subprocess.run([tool("ara-manage"), "migrate"], env=environment(folder), capture_output=True, text=True, check=False)
    if result.returncode:
        raise AraError(f"its database cannot be prepared: {last_line(result.stderr or result.stdout)}")
    stamp.write_text(current, encoding="ascii")


def last_line(text: str) -> str:
    """Return the last line of some output that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")


def start(folder: Path | None = None) -> str:
    """Start the server unless it runs; return its address."""
    folder = folder or base_folder()
    if (server := running(folder)) and answers(server[1]):
        return server[1]
    with only_one(folder):
        if server := running(folder):
            if answers(server[1], limit=3.0):
                return server[1]
            _end(server[0])
        migrate(folder)
        port = free_port()
        pid_file = folder / "server.pid"
        pid_file.unlink(missing_ok=True)
        (folder / "server.port").write_text(str(port), encoding="ascii")
        command = [tool("gunicorn"), "--daemon", "--pid", str(pid_file), "--bind", f"127.0.0.1:{port}"]
        command += ["--workers", "1", "--threads", "4", "--keep-alive", "120", "--log-level", "warning"]
        command += ["--no-control-socket", "--error-logfile", str(folder / "server.log"), "ara.server.wsgi"]
        result = subprocess.run(command, env=environment(folder), capture_output=True, text=True, check=False, cwd=folder)
        if result.returncode:
            raise AraError(last_line(result.stderr or result.stdout))
        deadline = time.monotonic() + START_LIMIT
        while time.monotonic() < deadline:
            if answers(url_of(port)):
                return url_of(port)
            time.sleep(0.1)
        raise AraError(f"it does not answer after {START_LIMIT:.0f} s: see {folder / 'server.log'}")


def stop(folder: Path | None = None) -> bool:
    """Stop the server; say whether there was one."""
    folder = folder or base_folder()
    if not running(folder):
        return False
    with only_one(folder):
        if server := running(folder):
            _end(server[0])
    return True


def _end(pid: int) -> None:
    """End a server and its workers, and wait for it."""
    with contextlib.suppress(ProcessLookupError):
        group = os.getpgid(pid)
        own = group != os.getpgrp()  # a daemon of gunicorn leads its group; never signal the group of the caller
        os.kill(pid, signal.SIGTERM)
        os.killpg(group, signal.SIGCONT) if own else os.kill(pid, signal.SIGCONT)
        deadline = time.monotonic() + STOP_LIMIT
        while time.monotonic() < deadline:
            if _is_gone(pid):
                return
            time.sleep(0.05)
        os.killpg(group, signal.SIGKILL) if own else os.kill(pid, signal.SIGKILL)


def _is_gone(pid: int) -> bool:
    """Say whether a process has ended; one that nobody has collected yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return True


def report(destination: Path, folder: Path | None = None) -> None:
    """Write the recorded runs as static pages."""
    folder = folder or base_folder()
    with only_one(folder):
        migrate(folder)
    result = subprocess.run(
        [tool("ara-manage"), "generate", str(destination)],
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise AraError(last_line(result.stderr or result.stdout))


def main(arguments: list[str]) -> int:
    """Run `start` or `stop` as a command; print the server's address or the reason why there is none."""
    if arguments not in (["start"], ["stop"]):
        print("usage: ara.py start|stop", file=sys.stderr)
        return 2
    try:
        print(start() if arguments == ["start"] else stop())
    except AraError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
