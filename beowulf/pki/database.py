"""What the CA has signed for whom, and what of that is revoked."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from beowulf.errors import Failure
from beowulf.pki import certificates, identity

if TYPE_CHECKING:
    from beowulf.cluster import Cluster

# Each certificate as ssh-keygen shows it, and whether it is revoked; the keys, and which of them sign.
LIST_RECORDS = f"""cd {identity.FOLDER} || exit 1
for one in certificates/*-cert.pub issued/*-cert.pub; do
  test -e "$one" || continue
  TZ=UTC ssh-keygen -L -f "$one"
  ssh-keygen -Q -f public/revoked.krl "$one" >/dev/null 2>&1
  test $? -ne 1 || echo "        Revoked: yes"
done
for one in ssh/user_ca.*.pub; do test ! -e "$one" || echo "key $one $(ssh-keygen -l -f "$one")"; done
echo "generations $(cat ssh/generations.json)"
"""
# Every key that was signed for anyone: that of today, and those that were put aside (NAME.pub.…~), since when nothing is signed for them:
# the last certificate has ended after as long as one lasts. What is in a file is not believed: of each, a line of printable signs is shown.
LIST_KEYS = f"""cd {identity.FOLDER}/certificates || exit 1
for one in *.pub*; do
  case $one in *-cert.pub*) continue ;; esac
  test -f "$one" || continue
  line=$(head -c 200 "$one" | head -n 1 | LC_ALL=C tr -c '\\40-\\176\\n' '?')
  state=good
  if test "$(stat -c %s "$one")" -le 16384; then
    ssh-keygen -Q -f ../public/revoked.krl "$one" >/dev/null 2>&1
    test $? -ne 1 || state=revoked
  fi
  test -z "$(find "$one" -name '*~' -cmin +MINUTES)" || state=ended
  echo "$one $state $line"
done
"""
PUBLIC_KEY = re.compile(r"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI[A-Za-z0-9+/]{43}")
"""A public key of Ed25519, without a comment: all that is signed for a node, and that comes from the authority's files to a command."""


@dataclass(frozen=True)
class Kept:
    """A file of the authority with a key: for which name it was signed, whether it is the one of today, how it stands, what is in it."""

    name: str
    today: bool
    state: str
    text: str

    def is_of(self, node: str) -> bool:
        """Say whether it was signed for a node."""
        return self.name == f"host-{node}" or self.name.endswith(f"@{node}")


@dataclass(frozen=True)
class Key:
    """A public key that was signed for a node: whether it is the one of today, and whether a certificate for it may be good."""

    text: str
    today: bool
    good: bool


def summary(text: str) -> list[dict[str, str]]:
    """Take apart what `ssh-keygen -L` says of certificates.

    Returns [{"place": file, "name", "type", "serial", "valid", "principals", "key": fingerprint, "authority": fingerprint of the key that
    signed it}, …], with "revoked" where LIST_RECORDS says so.
    """
    found: list[dict[str, str]] = []
    field = place = ""
    for line in text.splitlines():
        word, _, value = line.strip().partition(": ")
        if line.endswith("-cert.pub:"):
            place = line[:-1]
        elif line.strip().startswith("Type:"):
            found.append({"place": place, "type": "host" if " host " in line else "user", "principals": ""})
        elif word == "Public key":
            found[-1]["key"] = value.split()[-1]
        elif word == "Signing CA":
            found[-1]["authority"] = value.split()[1]
        elif word == "Revoked":
            found[-1]["revoked"] = value
        elif word == "Key ID":
            found[-1]["name"] = value.strip('"')
        elif word == "Serial":
            found[-1]["serial"] = value
        elif word == "Valid":
            found[-1]["valid"] = value
        elif line.strip().endswith(":"):
            field = line.strip()[:-1]
        elif field == "Principals" and line.startswith(" " * 16):
            found[-1]["principals"] = f"{found[-1]['principals']} {line.strip()}".strip()
    return found


def ends(one: Mapping[str, str]) -> float:
    """Return when a certificate of summary() ends, in seconds since 1970."""
    last = one["valid"].rpartition(" to ")[2]
    return datetime.datetime.fromisoformat(last).replace(tzinfo=datetime.UTC).timestamp() if "T" in last else float("inf")


@dataclass
class Records:
    """What the authority knows: certificates as in summary(), its keys for users as {fingerprint: number}, and which of them sign."""

    certificates: list[dict[str, str]]
    keys: dict[str, int] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)

    def by_old_keys(self) -> list[dict[str, str]]:
        """Return the certificates of users that are good, and signed by other keys than those that sign now."""
        signs = self.generations.get("signs")
        return [one for one in self.certificates if one["type"] == "user" and "revoked" not in one and ends(one) > time.time()
                and self.keys.get(one["authority"]) != signs]  # fmt: skip


def read_records(text: str) -> Records:
    """Take apart the answer to LIST_RECORDS; a certificate that is kept twice, or was given on its way and has ended, is left out."""
    found, seen = [], set()
    for one in summary(text):
        number = (one["type"], one["serial"])
        if number not in seen and not (one["place"].startswith("issued/") and ends(one) < time.time()):
            found.append(one)
        seen.add(number)
    records = Records(found)
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "key":
            place, _bits, fingerprint = rest.split()[:3]
            records.keys[fingerprint] = int(place.split(".")[1])
        elif word == "generations":
            records.generations = json.loads(rest or "{}")
    return records


def ask_authority(cluster: Cluster) -> Records:
    """Return what the authority knows, with what was signed on controllers. Raises Failure when it does not answer."""
    certificates.deliver(cluster)
    result = identity.on_authority(cluster, LIST_RECORDS, timeout=30)
    if result.returncode:
        raise Failure(f"The authority does not answer: {(result.stderr or result.stdout).strip()}")
    return read_records(result.stdout)


def issued(cluster: Cluster) -> list[dict[str, str]]:
    """Return the certificates that the authority keeps: those of nodes, and those that any controller signed for users."""
    return ask_authority(cluster).certificates


def show(cluster: Cluster, as_json: bool) -> None:
    """Print the certificates, those that end first on top."""
    found = sorted(issued(cluster), key=ends)
    for one in found:
        one["ends_in_hours"] = round((ends(one) - time.time()) / 3600, 1)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for one in found:
        refused = "REVOKED " if "revoked" in one else ""
        print(f"{one['type']:<5}{one['name']:<28}{one['ends_in_hours']:>8} h  serial {one['serial']:<22}{refused}{one['principals']}")


def fingerprint(key: str) -> str:
    """Return the fingerprint of a public key, as ssh-keygen shows it."""
    digest = hashlib.sha256(base64.b64decode(key.split()[1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode('ascii').rstrip('=')}"


def kept(cluster: Cluster) -> list[Kept]:
    """Return all files of the authority with keys that were ever signed. Raises Failure when it does not answer."""
    result = identity.on_authority(cluster, LIST_KEYS.replace("MINUTES", str(cluster.rack.ca.host_days * 1440)), timeout=60)
    if result.returncode:
        raise Failure(f"The authority does not answer: {(result.stderr or result.stdout).strip()}")
    found = []
    for line in result.stdout.splitlines():
        place, state, text = [*line.split(maxsplit=2), "", ""][:3]
        name, _, rest = place.partition(".pub")
        if identity.NAME.fullmatch(name):
            found.append(Kept(name, not rest, state, " ".join(text.split()[:2])))
    return found


def keys_of(files: Sequence[Kept], node: str) -> list[Key]:
    """Return the keys that were ever signed for a node; none for what is none. Files without a key of Ed25519 are left out."""
    rows = [one for one in files if one.is_of(node)]
    if not any(one.name == f"host-{node}" for one in rows):
        return []
    # One that was put back is the one of today, and that of before, too.
    today = {one.text for one in rows if one.today}
    good = {one.text for one in rows if one.state == "good"}
    return [Key(text, text in today, text in good) for text in dict.fromkeys(one.text for one in rows) if PUBLIC_KEY.fullmatch(text)]


def holders(cluster: Cluster, files: Sequence[Kept], node: str) -> dict[str, list[str]]:
    """Return {key: names} of the keys that others than a node have today: nodes of the rack, controllers, and users with a certificate."""
    nodes = {one.name.removeprefix("host-") for one in files if one.name.startswith("host-")}
    gone = nodes - set(cluster.rack.nodes)
    found: dict[str, dict[str, None]] = {}

    def note(key: str, name: str) -> None:
        if name != f"host-{node}" and not name.endswith(f"@{node}") and identity.node_named(cluster, name) not in gone:
            found.setdefault(key, {})[name] = None

    for one in files:
        if one.today and one.state != "revoked":
            note(one.text, one.name)
    public = identity.own_key(cluster).with_name(identity.own_key(cluster).name + ".pub")
    note(" ".join(public.read_text(encoding="utf-8").split()[:2]), identity.own_name())
    prints = {fingerprint(one.text): one.text for one in files if PUBLIC_KEY.fullmatch(one.text)}
    for one in issued(cluster):
        if one["place"].startswith("issued/") and "revoked" not in one and ends(one) > time.time() and one.get("key") in prints:
            note(prints[one["key"]], one["name"])
    return {key: list(names) for key, names in found.items()}
