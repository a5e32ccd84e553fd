# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Give Kea's DHCP server a command on its control socket: as a module, and as a program on the servers.

  kea_control.py [--socket PATH] COMMAND [ARGUMENTS]  prints the answer; ARGUMENTS are a JSON object
  kea_control.py [--socket PATH] --pair               prints the states of this server and of its partner, or `silent`

Exit code 1 and a sentence when Kea does not answer. Only the standard library, because it runs on the nodes.
https://kea.readthedocs.io/en/stable/arm/ctrl-channel.html
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time

SOCKET = "/run/kea/kea4-ctrl-socket"
LIMIT = 5
"""Seconds for the whole answer."""
LARGEST = 16 << 20
"""Bytes of an answer."""
DONE, EMPTY = 0, 3
"""Kea's results: done, and done without finding any."""


def converse(family, address, request, limit=LIMIT, largest=LARGEST):
    """Send a request (bytes) over a stream; return all that comes until its end. Raises OSError, also when that takes too long."""
    deadline, answer = time.monotonic() + limit, bytearray()
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(limit)
        connection.connect(address)
        connection.sendall(request)
        while chunk := connection.recv(65536):
            answer += chunk
            # Each piece has its own time limit, which a trickle would never meet.
            if len(answer) > largest or time.monotonic() > deadline:
                raise TimeoutError("the answer has no end")
    return bytes(answer)


def ask(command, arguments=None, path=SOCKET, limit=LIMIT):
    """Give Kea a command with arguments (dict); return its answer (dict). Raises OSError or ValueError when it does not answer."""
    request = {"command": command, "arguments": arguments} if arguments else {"command": command}
    try:
        answer = json.loads(converse(socket.AF_UNIX, path, json.dumps(request).encode(), limit))
    except RecursionError:
        raise ValueError("the answer is too deep") from None
    if not isinstance(answer, dict):
        raise ValueError("the answer is no object")
    return answer


def order(command, arguments=None, path=SOCKET, limit=LIMIT):
    """Give Kea a command; return the arguments of its answer. Raises OSError or ValueError, also when Kea refuses it."""
    answer = ask(command, arguments, path, limit)
    if answer.get("result") not in (DONE, EMPTY):
        raise ValueError(f"Kea refuses {command}: {answer.get('text')}")
    return answer.get("arguments", {})


def pair(arguments):
    """The arguments of an answer to status-get -> the states of this server and of its partner, each None when it is not known.

    Raises LookupError or TypeError for a server without a partner, and for what is no such answer.
    """
    servers = arguments["high-availability"][0]["ha-servers"]
    states = servers["local"]["state"], servers["remote"]["last-state"]
    if not all(isinstance(state, str) for state in states):
        raise TypeError("a state is no text")
    return states[0] or None, states[1] or None


def main(*words):
    """Do what the arguments say; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", default=SOCKET)
    parser.add_argument("--pair", action="store_true")
    parser.add_argument("command", nargs="?", default="status-get")
    parser.add_argument("arguments", nargs="?", type=json.loads, default={})
    options = parser.parse_args(words)
    try:
        if options.pair:
            print(*pair(order("status-get", path=options.socket)))
        else:
            print(json.dumps(ask(options.command, options.arguments, options.socket)))
    except (OSError, ValueError, LookupError, TypeError) as error:
        if options.pair:
            print("silent")
            return 0
        print(f"Kea does not answer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
