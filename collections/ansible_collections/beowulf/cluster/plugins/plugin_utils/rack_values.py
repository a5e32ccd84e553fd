# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of single values: each takes what the file says and returns the value meant, or raises `Refused`."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
import zoneinfo
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_problem import Refused, did_you_mean, show
from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_source import Trap, want_text
from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_timezones import RENAMED

PREFIXES = range(16, 30)
PRIVATE = tuple(IPv4Network(net) for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))  # RFC 1918
CLASSES = {  # RFC 6890 and its registry
    "loopback": "127.0.0.0/8",
    "link-local": "169.254.0.0/16",
    "multicast": "224.0.0.0/4",
    "reserved (240.0.0.0/4)": "240.0.0.0/4",
    "'this network'": "0.0.0.0/8",
    "carrier-grade NAT": "100.64.0.0/10",
    "documentation": "192.0.2.0/24",
    "benchmarking": "198.18.0.0/15",
}
COMMON_NAME = 64
"""Characters of the common name of a certificate (RFC 5280, ub-common-name)."""
AUTHORITY = "intermediate"
"""The longer one of the words that follow the domain in the names of the authority's certificates: roles/ca."""
LONGEST_DOMAIN = COMMON_NAME - 1 - len(AUTHORITY)
_CLASSES = {name: IPv4Network(net) for name, net in CLASSES.items()}

_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)\Z")
_MAC = re.compile(r"[0-9a-f]{12}\Z")
_MAC_FORM = re.compile(r"(?i)([0-9a-f]{2}([:-])([0-9a-f]{2}\2){4}[0-9a-f]{2}|([0-9a-f]{4}\.){2}[0-9a-f]{4}|[0-9a-f]{12})\Z")
_SERIAL = re.compile(r"[0-9a-f]{8}\Z")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}\Z")
_TIMEZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}\Z")
_NO_TIMEZONE = re.compile(r"(posix|right)/|(Factory|localtime|posixrules)\Z")
_PATH = re.compile(r"[A-Za-z0-9_.~/@+=:,-]+\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_HOSTILE = re.compile(r"\{\{|\{%|\{#|[\x00-\x1f\x7f\u0085\u2028\u2029]|[`$;&|<>(){}\[\]*?!\"'\\#]")


class Pool(NamedTuple):
    """The first and the last address of the DHCP pool."""

    start: IPv4Address
    end: IPv4Address

    def __str__(self) -> str:
        return f"{self.start}-{self.end}"


def text(value: Any) -> str:
    """One line of text without anything a template or a shell would act on."""
    if not isinstance(value, str):
        hint = f'quote it: "{value}"' if isinstance(value, Trap | bool | int | float) else ""
        raise Refused(f"must be text, but {want_text(value)}", hint)
    if value == "":
        raise Refused("is empty")
    hostile = _HOSTILE.search(value)
    if hostile:
        what = {"\n": "a line break", "\t": "a tab"}.get(hostile[0]) or show(hostile[0])
        rule = f"holds {what} (character {hostile.start() + 1}), which a template or a shell would act on"
        raise Refused(rule, "a rack file holds plain names, numbers and addresses only")
    return value


def matching(pattern: re.Pattern[str], rule: str, hint: str = "", limit: int = 255) -> Callable[[Any], str]:
    """A check for text that matches ``pattern`` and has at most ``limit`` characters."""

    def check(value: Any) -> str:
        value = text(value)
        if len(value) > limit:
            raise Refused(f"has {len(value)} characters, at most {limit} are allowed")
        if not pattern.match(value):
            raise Refused(rule, hint)
        return value

    return check


def one_of(*choices: Any) -> Callable[[Any], Any]:
    """A check for one of ``choices``: texts, and perhaps false."""
    words = ["false" if choice is False else choice for choice in choices]

    def check(value: Any) -> Any:
        for choice in choices:
            if value is choice or (isinstance(value, str) and value == choice):
                return choice
        if isinstance(value, str) and value.lower() == "false" and False in choices:
            raise Refused("must be the boolean false, not text", "write false without quotes")
        if isinstance(value, Trap) and value.kind == "a boolean" and False in choices:
            raise Refused(f"must be one of {', '.join(words)}", "write false")
        quoted = next((choice for choice in choices if not isinstance(value, str) and str(value) == choice), None)
        if quoted:
            raise Refused(f"must be text, but {want_text(value)}", f'quote it: "{quoted}"')
        but = "" if isinstance(value, str) else f", but {want_text(value)}"
        hint = "" if isinstance(value, dict | list | None) else did_you_mean(value, words)
        raise Refused(f"must be one of {', '.join(words)}{but}", hint)

    return check


def boolean(value: Any) -> bool:
    """``true`` or ``false``, bare."""
    if isinstance(value, bool):
        return value
    word = str(value).lower()
    meant = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}.get(word, word)
    hint = f"write {meant} without quotes" if meant in ("true", "false") else "write true or false"
    raise Refused(f"must be true or false, but {want_text(value)}", hint)


def number(low: float, high: float, unit: str = "", whole: bool = True) -> Callable[[Any], Any]:
    """A check for a number from ``low`` to ``high`` (both included), in ``unit``."""
    kind = "a whole number" if whole else "a number"
    of = f" of {unit}" if unit else ""

    def check(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            bare = isinstance(value, str) and re.fullmatch(r"[0-9]+(\.[0-9]+)?", value)
            hint = f"write {value} without quotes" if bare else ""
            if isinstance(value, Trap) and value.kind == "an octal number":
                hint = f"write {value.raw.lstrip('0') or '0'} without the leading zero"
            elif isinstance(value, Trap) and value.raw.replace("_", "").isdigit():
                hint = f"write {value.raw.replace('_', '')}"
            raise Refused(f"must be {kind}{of}, but {want_text(value)}", hint)
        if not low <= value <= high:
            raise Refused(f"must be {kind}{of} from {low} to {high}")
        return value

    return check


def mac(value: Any) -> str:
    """An Ethernet address of one machine, as ``b8:27:eb:00:00:01`` (any case, ``:`` or ``-`` between)."""
    if isinstance(value, Trap | int):
        raise Refused(f"must be text, but {want_text(value)}", f'quote it: "{value}"')
    value = text(value)
    if not _MAC_FORM.match(value):
        raise Refused("is not a MAC address: six pairs of hexadecimal digits", 'like "b8:27:eb:00:00:01"')
    digits = re.sub(r"[^0-9a-f]", "", value.lower())
    if digits == "0" * 12:
        raise Refused("is all zeros, which no machine has", "see `ip link` on the node")
    if digits == "f" * 12:
        raise Refused("is the broadcast address, which no machine has", "see `ip link` on the node")
    if int(digits[:2], 16) & 1:
        raise Refused("has the multicast bit set (the first pair is odd), which no machine's address has", "is a digit wrong?")
    return ":".join(digits[i : i + 2] for i in range(0, 12, 2))


def serial(value: Any) -> str:
    """The serial number of a Raspberry Pi, as its boot ROM names its folder: 8 digits, though Linux shows 16 of them."""
    value = text(value)
    if not _SERIAL.match(value):
        better = value.lower()[-8:] if len(value) in (8, 16) else ""
        hint = f"write {better}" if _SERIAL.match(better) else "like 1a2b3c4d, see `grep Serial /proc/cpuinfo` on the node"
        raise Refused("is not a serial number: 8 hexadecimal digits in lower case", hint)
    return value


def address(value: Any) -> IPv4Address:
    """An IPv4 address, without a prefix length."""
    try:
        return IPv4Address(value if isinstance(value, str) else "")
    except ValueError as exc:
        value = text(value)
        if "/" in value:
            hint = f"write {value.partition('/')[0]}"
            raise Refused("must be an address alone: the prefix length is the subnet's", hint) from exc
        zeros = re.fullmatch(r"[0-9]+(\.[0-9]+){3}", value) and re.search(r"(^|\.)0[0-9]", value)
        hint = "no leading zeros" if zeros else "like 10.77.0.21"
        raise Refused("is not an IPv4 address", hint) from exc


def subnet(value: Any) -> IPv4Network:
    """A private IPv4 network (RFC 1918) from /16 to /29, without host bits."""
    value = text(value)
    base, slash, prefix = value.partition("/")
    allowed = f"from /{PREFIXES[0]} to /{PREFIXES[-1]}"
    try:
        interface = ipaddress.IPv4Interface((base, 32))
    except ValueError as exc:
        raise Refused("is not an IPv4 network", "like 10.77.0.0/24") from exc
    if not slash:
        raise Refused(f"has no prefix length (allowed: {allowed})", f"like {base}/24")
    if not prefix.isascii() or not prefix.isdigit() or int(prefix[:4]) not in PREFIXES:
        raise Refused(f"has the prefix length /{prefix}, allowed is {allowed}", f"like {base}/24")
    network = IPv4Network((base, int(prefix)), strict=False)
    kind = next((name for name, net in _CLASSES.items() if interface.ip in net), "public")
    if not any(network.subnet_of(private) for private in PRIVATE):
        raise Refused(f"is {kind} address space", "use a private range: 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16")
    if network.network_address != interface.ip:
        raise Refused("has host bits set", f"write {network}")
    return network


def pool(value: Any) -> Pool:
    """A range of IPv4 addresses, ``FIRST-LAST``."""
    parts = text(value).split("-")
    try:
        start, end = (IPv4Address(part.strip()) for part in parts)
    except ValueError as exc:
        raise Refused("is not a range of addresses", "like 10.77.0.200-10.77.0.239") from exc
    if start > end:
        raise Refused("is empty: it starts after its end", f"write {end}-{start}")
    return Pool(start, end)


def label(value: Any) -> str:
    """A host name of one label (RFC 1123, section 2.1), in lower case."""
    value = text(value)
    if len(value) > 63:
        raise Refused(f"has {len(value)} characters, a host name has at most 63 (RFC 1123)")
    if not _LABEL.match(value):
        raise Refused(*_label_rule(value))
    if value.isdigit():
        raise Refused("is all digits, which reads as part of an address", f"like node{value}")
    return value


def domain(value: Any) -> str:
    """A domain of two labels or more, in lower case, without a dot at its end."""
    value = text(value)
    if value.endswith("."):
        raise Refused("ends in a dot", f"write {value.rstrip('.')}")
    if len(value) > 253:
        raise Refused(f"has {len(value)} characters, a domain has at most 253 (RFC 1035)")
    labels = value.split(".")
    for position, part in enumerate(labels, 1):
        if not _LABEL.match(part):
            better = ".".join(clean for each in labels if (clean := _better_label(each)))
            rule = f"has a label {position} ({show(part, 20)}) that {_label_rule(part)[0]}" if part else f"has an empty label {position}"
            raise Refused(rule, f"write {better}" if "." in better else "like lab.internal")
    if labels[-1] == "local":
        raise Refused("ends in .local, which belongs to multicast DNS (RFC 6762)", f"write {value[:-6] or 'lab'}.internal")
    if len(labels) < 2:
        raise Refused("has one label only", f"write {value}.internal")
    if labels[-1].isdigit():
        raise Refused("ends in a number, which reads as an address", f"write {value}.internal")
    return value


def forwarder(value: Any) -> str:
    """The IPv4 or IPv6 address of a DNS server."""
    value = text(value)
    try:
        parsed = ipaddress.ip_address(value)
    except ValueError as exc:
        raise Refused("is not an IP address; DNS servers are named by address", "like 9.9.9.9") from exc
    if parsed.is_multicast or parsed.is_unspecified or parsed.is_loopback or parsed.is_link_local or value == "255.255.255.255":
        raise Refused("is no server's address: loopback, link-local, multicast or unspecified", "like 9.9.9.9")
    return str(parsed)


def ntp_server(value: Any) -> str:
    """The name or the address of an NTP server."""
    value = text(value)
    if re.fullmatch(r"[0-9.]+|.*:.*", value):
        return forwarder(value)
    if "." not in value.rstrip("."):
        raise Refused("is not a full name", "like 0.debian.pool.ntp.org")
    return domain(value.lower())


def key_type(value: Any) -> str:
    """``ed25519``, the only key type the CA issues."""
    if value == "ed25519":
        return "ed25519"
    raise Refused("must be ed25519: the CA issues no other type (RSA below 3072 bits and DSA are refused everywhere)", "write ed25519")


def timezone(value: Any) -> str:
    """A time zone that every node has; unless its name is an old one, this machine is asked, if it has the IANA database."""
    value = matching(_TIMEZONE, "is not a time zone", "like Etc/UTC or Europe/Berlin")(value)
    if value in RENAMED:
        raise Refused("is the old name of a time zone, which Debian 13 no longer has", f"write {RENAMED[value]}")
    if _NO_TIMEZONE.match(value):
        raise Refused("is not a time zone", "like Etc/UTC or Europe/Berlin")
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as exc:
        known = zoneinfo.available_timezones() - RENAMED.keys()
        if known:
            raise Refused("is not a time zone", did_you_mean(value, known) or "like Etc/UTC or Europe/Berlin") from exc
    return value


def user(value: Any) -> str:
    """The name of an account that may enter by SSH."""
    value = matching(_USER, "is not a user name: lower-case letters, digits, `-` and `_`, starting with a letter", "like admin", 32)(value)
    if value == "root":
        raise Refused("may not enter: sshd of the nodes refuses it (PermitRootLogin no)", "name a user with sudo, like admin")
    return value


def registry(value: Any) -> str:
    """``redis://HOST[:PORT][/DB]`` (or ``rediss://`` for TLS), without a password."""
    value = text(value)
    hint = "like redis://127.0.0.1:6379/0"
    parts = urlsplit(value)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise Refused("is not a Redis URL", hint)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise Refused("has a port that is not a number from 1 to 65535", hint)
    if not re.fullmatch(r"/?[0-9]{0,3}", parts.path) or parts.query or parts.fragment:
        raise Refused("has a database that is not a number", hint)
    return value


def variable(value: Any) -> str:
    """The name of an Ansible variable or group."""
    if not isinstance(value, str) or not _VARIABLE.match(value):
        raise Refused("is not a variable's name: letters, digits and `_`, not starting with a digit")
    return value


def expression(value: Any) -> str:
    """A Jinja2 expression, as text."""
    if not isinstance(value, str) or not value.strip():
        hint = "" if value is None or isinstance(value, str | list | dict) else f'quote it: "{value}"'
        rule = "is an empty expression" if isinstance(value, str) else f"must be a Jinja2 expression, as text, but {want_text(value)}"
        raise Refused(rule, hint)
    return value


def word(value: Any) -> str:
    """Any text on one line, even empty."""
    return "" if value == "" else text(value)


path = matching(_PATH, "is not a plain path: letters, digits and _.~/@+=:,- only", "like ~/.ssh/id_ed25519", 4096)


def place(value: str) -> str | None:
    """What in the path of the project SSH, a template or a list of paths would act on, or None. ./bootstrap refuses the same."""
    found = _HOSTILE.search(value) or re.search(r"[\s%:,]", value)
    return found[0] if found else None


def _better_label(value: str) -> str:
    """The nearest label that keeps the rules; may be empty."""
    plain = unicodedata.normalize("NFKD", value.lower()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9-]", "-", plain)[:63].strip("-")


def _label_rule(value: str) -> tuple[str, str]:
    """Which rule of RFC 1123 a label breaks, and the nearest name that keeps them."""
    better = _better_label(value)
    hint = f"write {better}" if better else "like node1"
    if value.startswith("-"):
        return "begins with `-`", hint
    if value.endswith("-"):
        return "ends with `-`", hint
    if len(value) > 63:
        return f"has {len(value)} characters where 63 are the most (RFC 1123)", ""
    wrong = next((i for i, letter in enumerate(value) if not (letter.isascii() and (letter.isalnum() or letter == "-"))), None)
    if wrong is None:
        return "has upper-case letters, but names are in lower case", hint
    return f"holds {show(value[wrong])} (character {wrong + 1}), a host name has letters, digits and `-` only (RFC 1123)", hint
