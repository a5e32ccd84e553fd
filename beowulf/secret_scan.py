"""Search for secrets where none may be: in git, in the state of the clusters, and on the nodes.

What is found is told by the name of the secret, never by its value. The nodes are not told the secrets, either: their logs come
here and are searched here, because most nodes have no business with most secrets.
"""

from __future__ import annotations

import base64
import gzip
import inspect
import io
import json
import lzma
import shlex
import sqlite3
import subprocess
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, quote_plus

from beowulf.errors import Failure
from beowulf.process import ROOT

CHUNK = 1 << 20
PLAIN_FILES = ("vault-password", "vault-password.next")
"""The only files of a cluster's state that may hold a secret: the password of its vault."""
LOGS = ("/var/log", "/root/.ansible", "/home/*/.ansible", "/etc/ansible/facts.d")
DATABASES = "/var/lib/ara"


@dataclass(frozen=True, order=True)
class Finding:
    """A secret in the wrong place."""

    place: str
    name: str
    form: str

    def __str__(self) -> str:
        """Say it for a person."""
        return f"{self.place}: {self.name} ({self.form})"


def encoded(value: bytes) -> Iterator[bytes]:
    """Return what base64 makes of a value, wherever in a longer text it begins (RFC 4648, section 4: groups of three bytes)."""
    for before in range(3):
        text = base64.b64encode(bytes(before) + value).rstrip(b"=")
        # The first and the last sign are made of the neighbours, too.
        text = text[(0, 2, 3)[before] : -1 if (before + len(value)) % 3 else None]
        yield text
        yield text.replace(b"+", b"-").replace(b"/", b"_")


class Needles:
    """Secrets in all the forms in which they may turn up."""

    def __init__(self, values: Mapping[str, str]) -> None:
        forms: dict[bytes, tuple[str, str]] = {}
        wrapped: dict[bytes, tuple[str, str]] = {}
        for name, value in values.items():
            if not value:
                raise ValueError(f"{name} is empty, and would be everywhere.")
            wrapped |= dict.fromkeys(encoded(value.encode()), (name, "base64"))
            forms |= {form.encode(): (name, "in a URL") for form in (quote(value, safe=""), quote_plus(value))}
            forms |= {json.dumps(value, ensure_ascii=ascii_only)[1:-1].encode(): (name, "in JSON") for ascii_only in (True, False)}
            forms[value.encode()] = (name, "as it is")
        self._forms = forms
        self._wrapped = wrapped
        # Twice as long, for the ends of the lines within base64.
        self._overlap = 2 * max((len(form) for form in (*forms, *wrapped)), default=0)

    def find(self, place: str, stream: BinaryIO) -> Iterator[Finding]:
        """Read a stream to its end, and return each secret in it once."""
        found: set[Finding] = set()
        kept = b""
        while part := stream.read(CHUNK):
            text = kept + part
            joined = text.translate(None, b"\r\n")
            hits = [hit for form, hit in self._forms.items() if form in text]
            hits += [hit for form, hit in self._wrapped.items() if form in joined]
            found |= {Finding(place, *hit) for hit in hits}
            kept = text[-self._overlap :]
        yield from found

    def find_in(self, place: str, content: bytes) -> Iterator[Finding]:
        """Search bytes, and what they are the compressed form of."""
        yield from self.find(place, io.BytesIO(content))
        for magic, opened in ((b"\x1f\x8b", gzip.open), (b"\xfd7zXZ\x00", lzma.open)):
            if content.startswith(magic):
                try:
                    with opened(io.BytesIO(content)) as stream:
                        yield from self.find(place, stream)
                except (OSError, EOFError, lzma.LZMAError):
                    # A log that is still being compressed; its plain form is there as well.
                    continue


def database_texts(path: str) -> Iterator[bytes]:
    """Return all that is in the tables of an SQLite database; ARA keeps its texts compressed by zlib.

    Runs on nodes as well, from its source: it uses nothing of this module but the imports of sqlite3 and zlib.
    """
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
    connection.text_factory = bytes
    for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        for row in connection.execute('SELECT * FROM "' + table.decode() + '"'):  # noqa: S608  # a name of the database's own
            for value in row:
                if isinstance(value, bytes):
                    yield value + b"\n"
                    if value[:1] == b"\x78":
                        try:
                            yield zlib.decompress(value) + b"\n"
                        except zlib.error:
                            continue
    connection.close()


def in_file(needles: Needles, path: Path, place: str) -> Iterator[Finding]:
    """Search a file as it is, and what it holds if it is compressed or a database."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    yield from needles.find_in(place, content)
    if content.startswith(b"SQLite format 3\x00"):
        yield from needles.find_in(place, b"".join(database_texts(str(path))))


def in_state(needles: Needles, folder: Path) -> Iterator[Finding]:
    """Search the state of the clusters: facts, logs, recorded runs; all but the passwords of the vaults."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.name not in PLAIN_FILES:
            yield from in_file(needles, path, str(path.relative_to(folder.parent)))


def in_git(needles: Needles, root: Path) -> Iterator[Finding]:
    """Search the files that git sees, and every commit and file in the history of HEAD."""
    listed = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in sorted({name for name in listed.decode().split("\0") if name}):
        if (root / name).is_file():
            yield from in_file(needles, root / name, name)
    objects = git(root, "rev-list", "--objects", "HEAD")
    stream = io.BytesIO(git(root, "cat-file", "--batch=%(objectname) %(objecttype) %(objectsize) %(rest)", stdin=objects))
    while header := stream.readline().decode(errors="replace"):
        name, kind, size, *rest = header.split(maxsplit=3)
        content = stream.read(int(size))
        stream.read(1)
        path = rest[0].strip() if rest else ""
        yield from needles.find_in(f"git {kind} {name[:12]} {path}".strip(), content)


def git(root: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    """Return what git says."""
    result = subprocess.run(["git", "-C", str(root), *arguments], input=stdin, capture_output=True, check=False)
    if result.returncode:
        raise Failure(f"git {arguments[0]} in {root}: {result.stderr.decode(errors='replace').strip()}")
    return result.stdout


def in_controller(needles: Needles, root: Path = ROOT) -> list[Finding]:
    """Search this controller: the project in its folder, its history, and the state of its clusters."""
    return sorted({*in_git(needles, root), *in_state(needles, root / ".beowulf")})


@contextmanager
def shell(reach: Sequence[str], script: str, good: Iterable[int] = (0,)) -> Iterator[BinaryIO]:
    """Run a script on a node as root, and give what it prints; `reach` is the command that gets there. The script is never an argument."""
    with subprocess.Popen([*reach, "sudo", "-n", "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        # Whoever did not get there says so by the exit code.
        with suppress(BrokenPipeError):
            child.stdin.write(script.encode())
            child.stdin.close()
        yield child.stdout
        # What nobody read, such as the padding at the end of a tar archive.
        while child.stdout.read(CHUNK):
            pass
        if child.wait() not in good:
            raise Failure(f"A search for secrets ended with {child.returncode} on the node, so that it proves nothing: {' '.join(reach)}")


def in_logs(needles: Needles, reach: Sequence[str], folders: Iterable[str] = LOGS) -> Iterator[Finding]:
    """Search the log files of a node, and what Ansible leaves there. The journal has its own format: see in_journal."""
    script = f"""for path in {" ".join(folders)}; do [ ! -e "$path" ] || set -- "$@" "$path"; done
tar --create --file=- --sparse --ignore-failed-read --exclude=/var/log/journal "$@"
"""
    # 1: a file was written to meanwhile, as logs are.
    try:
        with shell(reach, script, good=(0, 1)) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                if member.isreg() and (content := archive.extractfile(member)):
                    yield from needles.find_in(f"/{member.name}", content.read())
    except tarfile.ReadError as error:
        raise Failure(f"A search for secrets found no logs on the node, so that it proves nothing: {' '.join(reach)}") from error


def in_journal(needles: Needles, reach: Sequence[str]) -> Iterator[Finding]:
    """Search all fields of all entries of a node's journal: the command line of a process is one of them."""
    with shell(reach, "exec journalctl --quiet --no-pager --all --output=export\n") as stream:
        yield from needles.find("journal", stream)


def in_processes(needles: Needles, reach: Sequence[str]) -> Iterator[Finding]:
    """Search the command lines of a node's processes, which every user may read."""
    with shell(reach, "ps axww -o args=; cat /proc/[0-9]*/cmdline /proc/[0-9]*/comm 2>/dev/null || :\n") as stream:
        yield from needles.find("processes", stream)


def in_redis(needles: Needles, reach: Sequence[str], password: str = "") -> Iterator[Finding]:
    """Search what the Redis of a node holds, if there is one: facts are texts. Fail when it does not let us look."""
    # The password is in the environment, which root alone may read. Where none is wanted, one makes --scan end without a word.
    script = f"""command -v redis-cli > /dev/null || exit 0
unset REDISCLI_AUTH
if [ "$(redis-cli ping)" != PONG ]; then
    REDISCLI_AUTH={shlex.quote(password)}
    export REDISCLI_AUTH
    [ "$(redis-cli ping)" = PONG ] || exit 3
fi
[ "$(redis-cli dbsize)" = 0 ] || [ -n "$(redis-cli --scan | head -n 1)" ] || exit 3
redis-cli --scan | sed 's/["\\\\]/\\\\&/g; s/.*/GET "&"/' | redis-cli
"""
    with shell(reach, script) as stream:
        yield from needles.find("Redis", stream)


def in_databases(needles: Needles, reach: Sequence[str], folder: str = DATABASES) -> Iterator[Finding]:
    """Search the recorded runs on a node, if there are any."""
    script = f"""exec python3 - << 'END'
from __future__ import annotations
import pathlib, sqlite3, sys, zlib
from collections.abc import Iterator
{inspect.getsource(database_texts)}
for path in pathlib.Path({folder!r}).rglob("*.sqlite*"):
    with path.open("rb") as stream:
        if stream.read(15) != b"SQLite format 3":
            continue
    for text in database_texts(str(path)):
        sys.stdout.buffer.write(text)
END
"""
    with shell(reach, script) as stream:
        yield from needles.find(folder, stream)


def in_node(needles: Needles, reach: Sequence[str], redis_password: str = "") -> list[Finding]:
    """Search a node: logs, journal, processes, Redis and the recorded runs."""
    found = {
        *in_logs(needles, reach),
        *in_journal(needles, reach),
        *in_processes(needles, reach),
        *in_redis(needles, reach, redis_password),
        *in_databases(needles, reach),
    }
    return sorted(found)
