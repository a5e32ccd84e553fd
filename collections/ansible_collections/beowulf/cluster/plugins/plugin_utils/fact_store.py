# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where facts are kept: in Redis or in files, with the operations a cache plugin needs."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
import typing as t
from pathlib import Path
from urllib.parse import quote, unquote

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError:
    redis = None

COLON_FORM = re.compile(r"(?P<tls>tls://)?(?P<host>[^:/]+|\[[^]]+\]):(?P<port>\d+):(?P<db>\d+)(?::(?P<password>.*))?")
STORE_ERRORS: tuple[type[Exception], ...] = (OSError,) if redis is None else (OSError, redis.RedisError)


def connection_arguments(uri: str) -> dict[str, t.Any]:
    """Return what `redis.Redis` needs from `host:port:db[:password]`; nothing when `uri` is not of that form."""
    match = COLON_FORM.fullmatch(uri)
    if not match:
        return {}
    return {
        "host": match["host"].strip("[]"),
        "port": int(match["port"]),
        "db": int(match["db"]),
        "password": match["password"],
        "ssl": bool(match["tls"]),
    }


def connect(uri: str, limit: float, password: str | None = None) -> redis.Redis:
    """Return a client that gives up after `limit` seconds, the first time. Raise ValueError for a wrong `uri`.

    `password` goes before one in `uri`. Nothing is sent yet.
    """
    limits = {"socket_timeout": limit, "socket_connect_timeout": limit, "retry": Retry(NoBackoff(), 0)}
    arguments = connection_arguments(uri)
    given = {"password": password} if password else {}
    client = redis.Redis(**(arguments | given), **limits) if arguments else redis.Redis.from_url(uri, **limits)
    # What a URL says goes before the arguments of from_url.
    client.connection_pool.connection_kwargs.update(given)
    return client


class RedisStore:
    """One key with a lifetime for each record; raises a member of STORE_ERRORS when Redis does not answer."""

    def __init__(self, client: redis.Redis, prefix: str, lifetime: int) -> None:
        self._client = client
        self._prefix = prefix
        self._lifetime = lifetime

    def get(self, key: str) -> t.Any:
        record = self._client.get(self._prefix + key)
        if record is None:
            raise KeyError(key)
        return json.loads(record)

    def set(self, key: str, value: t.Any) -> None:
        self._client.set(self._prefix + key, json.dumps(value), ex=self._lifetime or None)

    def keys(self) -> list[str]:
        pattern = re.sub(r"([*?\[\]\\])", r"\\\1", self._prefix) + "*"
        found = self._client.scan_iter(match=pattern, count=1000)
        return [name.decode().removeprefix(self._prefix) for name in found]

    def contains(self, key: str) -> bool:
        return bool(self._client.exists(self._prefix + key))

    def delete(self, key: str) -> None:
        self._client.delete(self._prefix + key)

    def flush(self) -> None:
        for key in self.keys():
            self.delete(key)


class FileStore:
    """One JSON file for each record, as old as its last change; a file that cannot be read is no record."""

    def __init__(self, folder: str, lifetime: int) -> None:
        self._folder = Path(folder)
        self._lifetime = lifetime

    def _path(self, key: str) -> Path:
        return self._folder / f"{quote(key, safe='')}.json"

    def _is_fresh(self, path: Path) -> bool:
        try:
            return not self._lifetime or time.time() - path.stat().st_mtime <= self._lifetime
        except FileNotFoundError:
            return False

    def get(self, key: str) -> t.Any:
        path = self._path(key)
        if not self._is_fresh(path):
            raise KeyError(key)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise KeyError(key) from error

    def set(self, key: str, value: t.Any) -> None:
        # Facts name users, addresses and devices: for their owner only.
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self._folder)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(value, stream)
        os.replace(temporary, self._path(key))

    def keys(self) -> list[str]:
        return [unquote(path.stem) for path in self._folder.glob("*.json") if self._is_fresh(path)]

    def contains(self, key: str) -> bool:
        try:
            self.get(key)
        except KeyError:
            return False
        return True

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def flush(self) -> None:
        for key in self.keys():
            self.delete(key)
