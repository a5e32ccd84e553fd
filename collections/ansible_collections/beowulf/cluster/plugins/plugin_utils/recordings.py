# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ARA server of a cluster's deployer: whether it answers, proves who it is, and lets us in.

It is reached by its address, because the admin's machine may not know the names of the LAN; its certificate names the address, too.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import typing as t
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.beowulf.cluster.plugins.plugin_utils.secret_store import SecretError, SecretStore

PROBE_LIMIT = 1.0
"""Seconds for the connection, and once more for TLS: that is how long a deployer that is down may cost."""
ANSWER_LIMIT = 5.0
"""Seconds for an answer of a server that is there: the first one after its start takes a small board a while."""
LOGIN = "admin"
PORT = 443
SWITCH = "BEOWULF_ARA"
EMBEDDED = "embedded"
"""The value of the environment variable SWITCH with which the deployer is not even asked."""


class NoServerError(Exception):
    """Says why the runs are not recorded on the deployer. `expected` is true when that is no fault: it is not set up yet."""

    def __init__(self, reason: str, expected: bool = False) -> None:
        super().__init__(reason)
        self.expected = expected


@dataclass(frozen=True)
class Server:
    """A server that answers, and what it takes to talk to it."""

    url: str
    ca: str
    username: str
    password: str = field(repr=False)

    def get(self, path: str) -> t.Any:
        """Return what the server says at `path`, as JSON. Raise OSError or ValueError."""
        token = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        request = urllib.request.Request(f"{self.url}{path}", headers={"Authorization": f"Basic {token}", "Accept": "application/json"})
        # No proxy on the way to the LAN.
        handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=_context(self.ca)))
        with urllib.request.build_opener(*handlers).open(request, timeout=ANSWER_LIMIT) as response:
            return json.load(response)


def find(state: str | os.PathLike[str], cluster: str, address: str, port: int | None = None) -> Server:
    """Return the deployer's server, which has let us in; raise NoServerError.

    `state` is the folder of the cluster's state on this controller, with the root of the authority and the secrets, and
    `address` the deployer's, with the port PORT unless there is another.
    """
    port = port or PORT
    if os.environ.get(SWITCH) == EMBEDDED:
        raise NoServerError(f"{SWITCH}={EMBEDDED}", expected=True)
    root = Path(state) / "ca" / "root.crt"
    if not root.is_file():
        raise NoServerError("the cluster has none yet", expected=True)
    _greet(address, port, str(root))
    try:
        password = SecretStore(state, cluster).read().get("ara_admin")
    except SecretError as error:
        raise NoServerError(str(error)) from error
    if not password:
        raise NoServerError("its password is not known here")
    server = Server(f"https://{address}" + ("" if port == PORT else f":{port}"), str(root), LOGIN, password)
    try:
        server.get("/api/v1/playbooks?limit=1")
    except urllib.error.HTTPError as error:
        refused = "it does not accept the password; a deploy takes a new one there"
        raise NoServerError(refused if error.code == 401 else f"it answers {error.code} {error.reason}") from error
    except TimeoutError as error:
        raise NoServerError("it does not answer in time") from error
    except (OSError, ValueError) as error:
        raise NoServerError(f"{getattr(error, 'reason', error)}") from error
    return server


def _context(ca: str) -> ssl.SSLContext:
    """Trust this authority, and no other."""
    return ssl.create_default_context(cafile=ca)


def _greet(address: str, port: int, ca: str) -> None:
    """Connect, and let the server prove that it is the one at this address."""
    try:
        with (
            socket.create_connection((address, port), timeout=PROBE_LIMIT) as connection,
            _context(ca).wrap_socket(connection, server_hostname=address),
        ):
            return
    except ssl.SSLCertVerificationError as error:
        raise NoServerError(f"its certificate is not trusted: {error.verify_message}") from error
    except TimeoutError as error:
        raise NoServerError("it does not answer in time") from error
    except OSError as error:
        raise NoServerError(f"there is no connection to it: {error.strerror or error}") from error
