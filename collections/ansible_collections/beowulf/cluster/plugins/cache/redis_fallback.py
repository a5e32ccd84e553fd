# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fact cache in Redis that never stops a run: without an answer in time it goes on with files."""

from __future__ import annotations

DOCUMENTATION = r"""
name: redis_fallback
short_description: Facts in Redis, or in files when Redis does not answer
version_added: 0.1.0
author: The beowulf.cluster authors
description:
  - Keeps one JSON record per host in Redis, so that all controllers share their facts.
  - Every exchange with Redis has a time limit and is not repeated. After the first failure there is one warning, and
    the rest of the run uses JSON files, as does a controller that has no connection configured.
options:
  _uri:
    description:
      - Where Redis is, as V(redis://[:password@]host:port/db), V(rediss://…) for TLS or V(unix:///socket).
      - Also accepted is the form of P(community.general.redis#cache), V(host:port:db[:password]) with an optional V(tls://).
      - Empty for files only. A password belongs into the file O(_password_file).
    type: str
    default: ''
    env:
      - name: ANSIBLE_CACHE_PLUGIN_CONNECTION
    ini:
      - key: fact_caching_connection
        section: defaults
  _password_file:
    description:
      - File with the password of Redis, which belongs to the user who runs Ansible and which nobody else may read.
      - It takes the place of a password in O(_uri). Empty for none.
    type: path
    default: ''
    env:
      - name: BEOWULF_REDIS_PASSWORD_FILE
    ini:
      - key: fact_caching_password_file
        section: defaults
  _files:
    description:
      - Folder for the JSON files. V({cluster}) stands for the name of the inventory source.
    type: path
    default: ~/.ansible/facts/{cluster}
    env:
      - name: BEOWULF_FACTS_FOLDER
    ini:
      - key: fact_caching_files
        section: defaults
  _prefix:
    description:
      - What the keys in Redis begin with. V({cluster}) stands for the name of the inventory source, so that nodes of
        two clusters may have the same name.
    type: str
    default: 'facts:{cluster}:'
    env:
      - name: ANSIBLE_CACHE_PLUGIN_PREFIX
    ini:
      - key: fact_caching_prefix
        section: defaults
  _limit:
    description: Seconds to wait for Redis, for the connection and for each answer.
    type: float
    default: 1
    env:
      - name: BEOWULF_REDIS_LIMIT
    ini:
      - key: fact_caching_limit
        section: defaults
  _timeout:
    description: Seconds until facts expire, 0 for never.
    type: int
    default: 86400
    env:
      - name: ANSIBLE_CACHE_PLUGIN_TIMEOUT
    ini:
      - key: fact_caching_timeout
        section: defaults
requirements:
  - redis (Python), unless O(_uri) is empty
"""

import os
import re
import typing as t
from collections.abc import Iterable
from pathlib import PurePath

from ansible import context
from ansible.errors import AnsibleError
from ansible.plugins.cache import BaseCacheModule
from ansible.utils.display import Display

from ansible_collections.beowulf.cluster.plugins.plugin_utils import fact_store, password_file

display = Display()


def cluster_name(sources: Iterable[str] | None) -> str:
    """Name the cluster after its inventory: `inventory/lab.rack.yml` is `lab`."""
    names = [PurePath(source.rstrip(",/")).name.split(".")[0] for source in sources or ()]
    return "-".join(re.sub(r"[^\w-]", "_", name) for name in names if name) or "default"


class CacheModule(BaseCacheModule):
    """Facts in Redis, or in files when Redis does not answer."""

    def __init__(self, *args: t.Any, **kwargs: t.Any) -> None:
        super().__init__(*args, **kwargs)
        cluster = cluster_name(context.CLIARGS.get("inventory"))
        lifetime = self.get_option("_timeout")
        self._seen: dict[str, t.Any] = {}
        self._files = fact_store.FileStore(self.get_option("_files").replace("{cluster}", cluster), lifetime)
        self._store: fact_store.RedisStore | fact_store.FileStore = self._files
        if uri := self.get_option("_uri"):
            prefix = self.get_option("_prefix").replace("{cluster}", cluster)
            try:
                self._store = fact_store.RedisStore(self._connect(uri), prefix, lifetime)
            except password_file.PasswordFileError as error:
                self._without_redis(error)

    def _without_redis(self, error: Exception) -> None:
        self._store = self._files
        display.warning(f"Redis does not serve the fact cache ({error}): this run keeps facts in files.")

    def _connect(self, uri: str) -> t.Any:
        if fact_store.redis is None:
            raise AnsibleError("The fact cache has a connection to Redis, but the Python package redis is missing.")
        # Of an empty path Ansible makes the current folder.
        path = self.get_option("_password_file")
        password = password_file.read(path) if path and not os.path.isdir(path) else None
        try:
            return fact_store.connect(uri, self.get_option("_limit"), password)
        except ValueError as error:
            # The connection may hold a password: do not repeat it.
            message = "The fact cache's connection is neither redis://host:port/db nor host:port:db[:password]."
            raise AnsibleError(message) from error

    def _call(self, operation: str, *args: t.Any) -> t.Any:
        if self._store is not self._files:
            try:
                return getattr(self._store, operation)(*args)
            except fact_store.STORE_ERRORS as error:
                self._without_redis(error)
        try:
            return getattr(self._files, operation)(*args)
        except OSError as error:
            raise AnsibleError(f"The fact cache cannot use its folder: {error}") from error

    def get(self, key: str) -> t.Any:
        if key not in self._seen:
            self._seen[key] = self._call("get", key)
        return self._seen[key]

    def set(self, key: str, value: t.Any) -> None:
        self._seen[key] = value
        self._call("set", key, value)

    def keys(self) -> list[str]:
        return self._call("keys")

    def contains(self, key: str) -> bool:
        # Facts that expire while a run uses them stay with that run.
        return key in self._seen or self._call("contains", key)

    def delete(self, key: str) -> None:
        self._seen.pop(key, None)
        self._call("delete", key)

    def flush(self) -> None:
        self._seen.clear()
        self._call("flush")
