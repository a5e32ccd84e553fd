"""SSH user certificates, signed on a controller with the authority's own key, and what is revoked."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import os
import pwd
import re
import secrets
import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from beowulf import lock, playbook
from beowulf import secrets as vault
from beowulf.cluster import is_own
from beowulf.errors import Failure, Refusal
from beowulf.process import environment, output

if TYPE_CHECKING:
    from beowulf.cluster import Cluster

KEEP = 0.25
"""Share of its life that a controller's own certificate has left when it signs itself another."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
VALID = re.compile(r"Valid: from (\S+) to (\S+)")
LONGEST = 168
"""Hours that a user's certificate lasts at most."""
FOLDER = "/var/lib/cluster-ca"
"""Folder of the authority on the deployer: ca_folder of roles/ca."""
CONNECT = 2
"""Seconds for a deployer that does not answer: what was signed here is told to it later."""
# From standard input: lines of a name and a certificate. What has ended long ago is of no use to anyone.
KEEP_RECORDS = f"""cd {FOLDER} && umask 077 && mkdir -p issued || exit 1
while read -r name certificate; do
  printf '%s\\n' "$certificate" >"issued/$name.new" && mv "issued/$name.new" "issued/$name" || exit 1
done
find issued -name '*-cert.pub' -mtime +{LONGEST // 24 + 1} -delete"""
# Each certificate as ssh-keygen shows it, and whether it is revoked; the keys, and which of them sign.
LIST_RECORDS = f"""cd {FOLDER} || exit 1
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
LIST_KEYS = f"""cd {FOLDER}/certificates || exit 1
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


def own_key(cluster: Cluster) -> Path:
    """Return the private key with which this controller comes in."""
    return Path(cluster.variables["rack_ssh_private_key"])


def own_certificate(cluster: Cluster) -> Path:
    """Return where this controller keeps its certificate."""
    return cluster.state / "ssh" / "id_ed25519-cert.pub"


def own_name() -> str:
    """Return the name in this controller's certificate, as certificate_of_controller of inventory/group_vars/all/ca.yml says it, too."""
    return f"{pwd.getpwuid(os.geteuid()).pw_name}@{socket.gethostname()}"


def insist_on_own_name(cluster: Cluster) -> None:
    """Refuse a controller with the host name of a node: it would be given certificates in that node's name, and be revoked with it."""
    name = socket.gethostname()
    if name in cluster.rack.nodes and not is_own(str(cluster.rack.nodes[name].address)):
        raise Refusal(
            f"This machine is called {name}, as a node of {cluster.name} is, so that its certificate would have the name of one of that "
            "node's. Give this machine another name (hostnamectl hostname), or the node in the rack file."
        )


def validity(path: Path) -> tuple[float, float]:
    """Return from when to when a certificate is good, in seconds since 1970. Raises Failure when it is none."""
    shown = output(["ssh-keygen", "-L", "-f", str(path)], timeout=10, env=environment(TZ="UTC")).stdout
    if "Valid: forever" in shown:
        return 0.0, float("inf")
    if not (found := VALID.search(shown)):
        raise Failure(f"{path} is no certificate.")
    first, last = (datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp() for text in found.groups())
    return first, last


def sign(cluster: Cluster, public_key: Path, name: str, hours: float, principals: Sequence[str], place: Path, since: str = "-5m") -> int:
    """Sign a public key for a user, until `hours` from now; write the certificate to `place` and return its serial number.

    The key of the authority is encrypted: its passphrase comes out of the vault and goes to ssh-keygen through a pipe.
    """
    authority = cluster.state / "ca" / "user_ca"
    if not authority.is_file():
        raise Refusal(f"There is no {authority}: the authority is made by ./bootstrap deploy, and each deploy brings its key here.")
    passphrases = vault.passphrases(cluster, "ca")
    serial = secrets.randbits(63)
    with tempfile.TemporaryDirectory(prefix="beowulf-") as folder:
        copy = Path(folder) / "key.pub"
        try:
            copy.write_text(public_key.read_text(encoding="utf-8"), encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Refusal(f"The public key {public_key} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}.") from error
        if output(["ssh-keygen", "-l", "-f", str(copy)], timeout=10).returncode:
            raise Refusal(f"{public_key} is no public key of OpenSSH's; it is the file that ends in .pub.")
        ask = Path(folder) / "askpass"
        # It answers with the first line that ssh-keygen was given.
        ask.write_text("#!/bin/sh\nread -r line && printf '%s\\n' \"$line\"\n", encoding="ascii")
        ask.chmod(0o700)
        command = ["ssh-keygen", "-q", "-s", str(authority), "-I", name, "-n", ",".join(principals), "-z", str(serial)]
        command += ["-V", f"{since}:{round(hours * 60):+d}m", str(copy)]
        env = environment(SSH_ASKPASS=str(ask), SSH_ASKPASS_REQUIRE="force")
        for passphrase in passphrases:
            result = subprocess.run(command, env=env, input=f"{passphrase}\n", capture_output=True, text=True, timeout=60, check=False)
            if not result.returncode:
                break
        made = Path(folder) / "key-cert.pub"
        if result.returncode or not made.is_file():
            raise Failure(f"ssh-keygen does not sign {public_key}: {result.stderr.strip()}")
        text = made.read_text(encoding="ascii")
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(place.name + ".new")
    fresh.write_text(text, encoding="ascii")
    fresh.replace(place)
    return serial


def on_authority(cluster: Cluster, script: str) -> list[str]:
    """Return the command that runs a shell script as root on the authority."""
    return [*cluster.ssh(cluster.variables["rack_deployer"]["name"]), f"sudo -n sh -c {shlex.quote(script)}"]


def waiting(cluster: Cluster) -> list[Path]:
    """Return the copies of what was signed here and the authority does not know of yet."""
    return sorted((cluster.state / "issued").glob("*-cert.pub"))


def record(cluster: Cluster, certificate: Path, serial: int) -> bool:
    """Tell the authority of a certificate that was signed here; say whether it knows. Otherwise it is told the next time."""
    place = cluster.state / "issued" / f"{serial}-cert.pub"
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = place.with_name(f"{place.name}.new")
    fresh.write_bytes(certificate.read_bytes())
    fresh.replace(place)
    return deliver(cluster)


def deliver(cluster: Cluster) -> bool:
    """Tell the authority of what was signed here while it was away; say whether it knows all of it. Costs nothing when there is none."""
    if not (found := waiting(cluster)):
        return True
    text = "".join(f"{path.name} {path.read_text(encoding='ascii').strip()}\n" for path in found)
    command = on_authority(cluster, KEEP_RECORDS)
    command[1:1] = ["-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", f"ConnectTimeout={CONNECT}"]
    try:
        result = subprocess.run(command, env=environment(), input=text, capture_output=True, text=True, timeout=15, check=False)
        told = result.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        told = False
    for path in found if told else []:
        path.unlink(missing_ok=True)
    return told


def is_revoked(cluster: Cluster, what: Path | str) -> bool:
    """Say whether this controller knows a name, or the certificate or key in a file, to be revoked."""
    krl = str(cluster.state / "ca" / "revoked.krl")
    if isinstance(what, str):
        return f"id: {what}" in output(["ssh-keygen", "-Q", "-l", "-f", krl], timeout=10).stdout.splitlines()
    # 1: it is revoked; 255: there is no such list, or no such file.
    return output(["ssh-keygen", "-Q", "-f", krl, str(what)], timeout=10).returncode == 1


def refresh(cluster: Cluster) -> bool:
    """Sign this controller another certificate when the one it has ends soon, has ended, or is revoked; say whether it did.

    Before the first deploy there is no authority, and the nodes take the key itself.
    """
    insist_on_own_name(cluster)
    place = own_certificate(cluster)
    if not (cluster.state / "ca" / "user_ca").is_file():
        return False
    public = own_key(cluster).with_name(own_key(cluster).name + ".pub")
    if place.is_file():
        first, last = validity(place)
        # Where the key or the name is revoked, another one would be no better.
        better = is_revoked(cluster, place) and not is_revoked(cluster, public) and not is_revoked(cluster, own_name())
        if last - time.time() > KEEP * (last - first) and not better:
            return False
    sign_own(cluster, public)
    return True


def sign_own(cluster: Cluster, public_key: Path) -> None:
    """Sign this controller the certificate with which it comes in."""
    place, user = own_certificate(cluster), str(cluster.variables["rack_ssh_user"])
    record(cluster, place, sign(cluster, public_key, own_name(), cluster.rack.ca.user_hours, [user], place))


def user(cluster: Cluster, name: str, hours: float, principals: str, key: str, to: str) -> None:
    """Sign a user's public key, and say what the certificate opens."""
    known = [cluster.variables["rack_ssh_user"], "router", "deployer", "lanservices", "compute"]
    chosen = [part for part in principals.split(",") if part] or known[:1]
    if not NAME.fullmatch(name):
        raise Refusal(f"{name!r} is no name for a certificate: letters, digits and . _ @ + - only, 64 at most.")
    if unknown := [part for part in chosen if part not in known]:
        raise Refusal(f"--principals {principals}: no node admits {', '.join(unknown)}. There are: {', '.join(known)}.")
    hours = hours or cluster.rack.ca.user_hours
    if not 0 < hours <= LONGEST:
        raise Refusal(f"--hours {hours:g}: more than 0 and at most {LONGEST}.")
    public = Path(key) if key else own_key(cluster).with_name(own_key(cluster).name + ".pub")
    place = Path(to) if to else public.with_name(public.name.removesuffix(".pub") + "-cert.pub")
    if is_revoked(cluster, name):
        raise Refusal(f"{name} is revoked, and whatever is signed for that name: take another one.")
    if is_revoked(cluster, public):
        raise Refusal(f"The key {public} is revoked, and whatever is signed for it: make another one with ssh-keygen.")
    if not key and not to:
        if chosen != known[:1]:
            raise Refusal(
                f"--principals {principals}: that would take the place of this controller's own certificate, and shut it out of the "
                "other nodes. Say with --key whose key it is for, or with --to where to put it."
            )
        place = own_certificate(cluster)
    serial = sign(cluster, public, name, hours, chosen, place)
    known_there = record(cluster, place, serial)
    everywhere = chosen[0] == known[0]
    where = "every node" if everywhere else f"the nodes of type {', '.join(chosen)}"
    print(f"{place}: {name}, for {hours:g} h, opens {where} as {known[0]}; serial {serial}")
    lasting = name == own_name() or node_named(cluster, name) in (*cluster.rack.nodes, cluster.variables["rack_deployer"]["name"])
    print(f"  revoke: ./bootstrap ca.revoke {serial if lasting else name}")
    if not known_there:
        print("  the authority does not answer; it learns of this certificate from the next deploy or ca.list here")


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
    deliver(cluster)
    result = output(on_authority(cluster, LIST_RECORDS), timeout=30)
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


def node_named(cluster: Cluster, name: str) -> str:
    """Return the node in a name, if it is one: that of gamma, host-gamma and mpi@gamma is gamma."""
    if name in cluster.rack.nodes:
        return name
    return name.rpartition("@")[2] if "@" in name else name.removeprefix("host-")


def revocation(cluster: Cluster, what: str, which: str = "", notes: list[str] | None = None) -> list[str]:
    """Return the lines of a revocation list (ssh-keygen(1)) for a serial number, a public key, the keys of a node, or a certificate's name.

    Of a node that was made anew `which` says whether `old` keys are meant, which it had before, or `all`. Raises Refusal without it. Keys
    that are not revoked with the others of the node are told in `notes`.
    """
    notes = [] if notes is None else notes
    if what.isdecimal():
        if which:
            raise Refusal(f"{what} is a serial number, and --{which} is about the keys of a node.")
        if not 0 < int(what) < 2**64:
            raise Refusal(f"{what} is no serial number of a certificate: ./bootstrap ca.list shows them.")
        return [f"serial: {what}"]
    if PUBLIC_KEY.fullmatch(key := " ".join(what.split()[:2])):
        if which:
            raise Refusal(f"This is one key, and --{which} is about the keys of a node.")
        if others := holders(cluster, kept(cluster), "").get(key):
            raise Refusal(
                f"ca.revoke: refused, nothing was touched. {fingerprint(key)} is the key of {' and '.join(others)} today, and whoever has "
                "it would be shut out. Of a node, ./bootstrap ca.revoke NODE takes back all keys, after which it needs new ones."
            )
        return [f"key: {key}"]
    node = node_named(cluster, what)
    if what == own_name() or node == cluster.variables["rack_deployer"]["name"]:
        raise Refusal(
            f"{what} is a controller: revoked by its name, it would be shut out with every certificate that it is ever given. "
            "Revoke one certificate by its serial number (./bootstrap ca.list), or give the authority new keys: ./bootstrap ca.rotate"
        )
    if not NAME.fullmatch(what):
        raise Refusal(
            f"{what!r} is neither a node, nor a serial number, nor a key of Ed25519, nor a name of a certificate: "
            "./bootstrap ca.list shows them."
        )
    # By its keys, so that it is welcome under its name when it has new ones; also when it is in the rack file no more.
    files = kept(cluster)
    keys = keys_of(files, node)
    if not (keys or node in cluster.rack.nodes):
        if which:
            raise Refusal(f"{what} is no node, and --{which} is about the keys of one.")
        return [f"id: {what}"]
    if what != node:
        raise Refusal(
            f"{what}: refused, nothing was touched. {node} is given a certificate of that name again whenever it is made anew, so that "
            f"it would be shut out for ever. Take back what it was given until now: ./bootstrap ca.revoke {node}; or one certificate, "
            "by its serial number (./bootstrap ca.list)."
        )
    if not keys:
        raise Refusal(f"The authority has signed no key of {what}: there is nothing to revoke.")
    notes += [
        f"not revoked, as it is no key: what was kept for {one.name}"
        for one in files
        if one.is_of(node) and not PUBLIC_KEY.fullmatch(one.text)
    ]
    chosen, others = chosen_keys(what, keys, which), holders(cluster, files, node)
    shared = [
        f"not revoked: {fingerprint(key.text)} of {what} is the key of {' and '.join(others[key.text])} today, too, who would be shut out. "
        "Give that one new keys, and repeat this"
        for key in chosen if key.text in others
    ]  # fmt: skip
    if len(shared) == len(chosen):
        raise Refusal("\n  ".join([f"ca.revoke {what}: refused, nothing was touched.", *shared]))
    notes += shared
    return [f"key: {key.text}" for key in chosen if key.text not in others]


def fingerprint(key: str) -> str:
    """Return the fingerprint of a public key, as ssh-keygen shows it."""
    digest = hashlib.sha256(base64.b64decode(key.split()[1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode('ascii').rstrip('=')}"


def kept(cluster: Cluster) -> list[Kept]:
    """Return all files of the authority with keys that were ever signed. Raises Failure when it does not answer."""
    result = output(on_authority(cluster, LIST_KEYS.replace("MINUTES", str(cluster.rack.ca.host_days * 1440))), timeout=60)
    if result.returncode:
        raise Failure(f"The authority does not answer: {(result.stderr or result.stdout).strip()}")
    found = []
    for line in result.stdout.splitlines():
        place, state, text = [*line.split(maxsplit=2), "", ""][:3]
        name, _, rest = place.partition(".pub")
        if NAME.fullmatch(name):
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
        if name != f"host-{node}" and not name.endswith(f"@{node}") and node_named(cluster, name) not in gone:
            found.setdefault(key, {})[name] = None

    for one in files:
        if one.today and one.state != "revoked":
            note(one.text, one.name)
    public = own_key(cluster).with_name(own_key(cluster).name + ".pub")
    note(" ".join(public.read_text(encoding="utf-8").split()[:2]), own_name())
    prints = {fingerprint(one.text): one.text for one in files if PUBLIC_KEY.fullmatch(one.text)}
    for one in issued(cluster):
        if one["place"].startswith("issued/") and "revoked" not in one and ends(one) > time.time() and one.get("key") in prints:
            note(prints[one["key"]], one["name"])
    return {key: list(names) for key, names in found.items()}


def chosen_keys(node: str, keys: Sequence[Key], which: str) -> list[Key]:
    """Return the keys of a node that are meant: only a person knows whether the ones of today were stolen, or those of before."""
    before = [key for key in keys if not key.today]
    if which == "old" and not before:
        raise Refusal(f"{node} never had other keys than today's, which ./bootstrap ca.revoke {node} takes back.")
    if not which and {True, False} == {key.today for key in keys if key.good}:
        raise Refusal(
            f"ca.revoke {node}: refused, nothing was touched. {node} was made anew, and keys that it had before may be good still. Say "
            "--old to revoke those: it goes on with the ones that it has today. Say --all when those were stolen, too: it is shut out "
            "until it is made anew once more."
        )
    return before if which == "old" else list(keys)


def own_serial(cluster: Cluster) -> str:
    """Return the serial number of this controller's certificate; nothing when it has none."""
    shown = summary(output(["ssh-keygen", "-L", "-f", str(own_certificate(cluster))], timeout=10).stdout)
    return shown[0]["serial"] if shown else ""


def insist_on_no_host(cluster: Cluster, what: str, known: Sequence[Mapping[str, str]]) -> None:
    """Refuse to revoke the certificate of a host by its number: no controller would reach the host any more, to give it another one."""
    for one in known:
        if one["type"] != "host":
            continue
        node = one["name"].removeprefix("host-")
        way = (
            "Give the authority new keys, with which everything is signed again: ./bootstrap ca.rotate"
            if node == cluster.variables["rack_deployer"]["name"]
            else f"Say ./bootstrap ca.revoke {node} and give it new keys: flash a card, as for the first time, and deploy."
        )
        raise Refusal(
            f"ca.revoke {what}: refused, nothing was touched. {one['name']} is how {node} shows who it is: no controller would reach it "
            f"any more, to bring it another certificate. {way}"
        )


def revoke(cluster: Cluster, what: str, which: str = "") -> None:
    """Revoke, on the authority and on every node, and say which certificates that are known were good until then.

    `which` keys of a node that was made anew: `old` ones or `all`.
    """
    refresh(cluster)
    notes: list[str] = []
    lines = revocation(cluster, what, which, notes)
    key, _, value = lines[0].partition(": ")
    # The certificate of a host, and what a node was given, go by their keys.
    names = {"id": "name", "serial": "serial"}
    there = issued(cluster)
    known = [one for one in there if key in names and one[names[key]] == value and ends(one) > time.time()]
    if key == "serial":
        insist_on_no_host(cluster, what, known)
        if what == own_serial(cluster):
            # What follows has to come in, and so does everyone's next command.
            sign_own(cluster, own_key(cluster).with_name(own_key(cluster).name + ".pub"))
    of_node = key == "key" and " " not in what
    shut_out = of_node and which != "old" and what in cluster.rack.nodes
    # From the first step on nobody believes it any more, this controller neither.
    options = [f"--limit=all:!{what}"] if shut_out else []
    change_list(cluster, "ca.revoke", options, ca_revoked=lines, ca_tls_revoked_nodes=[what] if of_node else [])
    for note in notes:
        print(f"  {note}")
    # Each LAN server has the keys with which names change and zones travel; of a node that is in no rack file nobody knows what it was.
    if of_node and (what in cluster.group("dhcp") or what not in cluster.rack.nodes):
        roll_names(cluster, options)
    for one in known:
        print(f"  {one['name']}, serial {one['serial']}, would have been good for {(ends(one) - time.time()) / 3600:.1f} h more")
        if key == "serial" and one["name"] != own_name():
            if (node := node_named(cluster, one["name"])) in cluster.rack.nodes and node != cluster.variables["rack_deployer"]["name"]:
                print(f"  next: ./bootstrap ca.renew gives {node} another one")
            elif any(other["name"] == one["name"] and other["place"].startswith("certificates/") for other in there):
                print(f"  that controller comes in again when it is given another one: ./bootstrap ca.user {one['name']} there")
    if of_node:
        print(f"  {len(lines)} key{'' if len(lines) == 1 else 's'} that {what} {'had before' if which == 'old' else 'was given until now'}")
    if shut_out:
        print(f"  {what} itself was not told: it is believed again when it has new keys")
    if of_node and what in cluster.group("dhcp"):
        print("  Kea reads no list of revoked certificates: the other DHCP server believes the one of this node until it ends")
        if which == "old":
            print(f"  next: the list has what {what} shows today, too: deploy, and it is given another one")
        else:
            print(f"  next: take {what} out of the rack file and deploy, which closes the other one's door to it")
    elif key != "key" and not known:
        print(f"  the authority knows no certificate {what} that is good; whatever has it is refused from now on")
    if key == "id":
        print(f"  whatever is signed for the name {what} from now on is refused, too: sign for another name")


def change_list(cluster: Cluster, task: str, options: Sequence[str], **variables: Sequence[str]) -> None:
    """Change the list of what is revoked and tell everyone. Raises Failure that names who was not told; repeated, it does what is missing.

    The variables are lists of texts, in which Ansible sees no template.
    """
    with lock.changing(cluster, task):
        code, found = playbook.run(playbook.command(cluster, "revoke", options=options), task, variables=variables)
    playbook.conclude(task, cluster, code, found)


def unrevoke(cluster: Cluster, what: str) -> None:
    """Take off the list, on the authority and everywhere, what was revoked by mistake.

    That is a serial number, a public key, a name of a certificate, or a node, for the keys that it has today.
    """
    refresh(cluster)
    result = output(on_authority(cluster, f"cat {FOLDER}/revoked"), timeout=30)
    if result.returncode:
        raise Failure(f"The authority does not answer: {(result.stderr or result.stdout).strip()}")
    listed = in_force(result.stdout.splitlines())
    words = " ".join(what.split()[:2])
    asked = {f"serial: {what}", f"id: {what}", f"key: {words}"}
    today = {f"key: {key.text}" for key in keys_of(kept(cluster), what) if key.today} if what in cluster.rack.nodes else set()
    # The comment that may follow a key is no part of it.
    lines = [line for line in listed if line in asked or " ".join(line.split()[:3]) in today | {f"key: {words}"}]
    if not lines:
        of_node = f" Of {what}, the keys that it has today were looked for; one of before goes by the key itself." if today else ""
        raise Refusal(
            f"{what!r} is not on the list of what is revoked.{of_node} There is, on the authority: sudo cat {FOLDER}/public/revoked"
        )
    change_list(cluster, "ca.unrevoke", [], ca_taken_off=lines)
    for line in lines:
        print(f"  not revoked any more: {line}")
    if today:
        print(f"  what {what} was given for TLS stays revoked: remove the certificate there (node.crt), and deploy")


def in_force(lines: Sequence[str]) -> list[str]:
    """Return the lines of the authority's list that count."""
    from ansible_collections.beowulf.cluster.plugins.filter import revocations

    return revocations.in_force(lines)


def roll_names(cluster: Cluster, options: Sequence[str]) -> None:
    """Give the LAN servers new keys for the changes and the transfers of names; raise Failure when one of them does not get them."""
    with lock.changing(cluster, "ca.revoke"):
        code, found = playbook.run(playbook.command(cluster, "tsig", options=options), "ca.revoke")
    if code:
        print("The keys are revoked; the LAN servers' own for names are not all new, and the same command does that again.")
    playbook.conclude("ca.revoke", cluster, code, found)


def renew(cluster: Cluster) -> None:
    """Sign again what is half of its life old, or was lost."""
    refresh(cluster)
    with lock.changing(cluster, "ca.renew"):
        deliver(cluster)
        code, found = playbook.run(playbook.command(cluster, "certificates"), "ca.renew")
    playbook.conclude("ca.renew", cluster, code, found)


def absence(cluster: Cluster, node: str) -> str:
    """Return why a node does not let this controller in as root; nothing when it does."""
    command = cluster.ssh(node)
    command[1:1] = ["-o", "BatchMode=yes", "-o", "LogLevel=ERROR"]
    result = output([*command, "sudo -n true"], timeout=15)
    if not result.returncode:
        return ""
    return (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]


def insist_on_everyone(cluster: Cluster, task: str) -> None:
    """Refuse unless every node of the rack answers: one that was away would not know the new keys, or show what the old ones signed."""
    with ThreadPoolExecutor(max_workers=32) as pool:
        reasons = dict(zip(cluster.rack.nodes, pool.map(lambda node: absence(cluster, node), cluster.rack.nodes), strict=True))
    if away := [f"  {node}: {reason}" for node, reason in reasons.items() if reason]:
        raise Refusal("\n".join([
            f"{task} {cluster.name}: refused, nothing was touched. Every node has to come along, and these do not answer:", *away,
            "Switch them on, or take out of the rack file what is gone for good.",
        ]))  # fmt: skip


def insist_on_controllers(cluster: Cluster, records: Records, force: bool) -> list[str]:
    """Refuse while a controller would be shut out that still uses the old keys; return the names of users who will be."""
    no = "ca.rotate --finish: refused, nothing was touched."
    signs = records.generations.get("signs")
    if signs != records.generations.get("newest"):
        raise Refusal(f"{no} The new keys do not sign yet: ./bootstrap ca.rotate goes on with that.")
    names = {one["name"] for one in records.by_old_keys()}
    # The authority signs for this controller and for the nodes in a moment. For other controllers it has signed when they deployed.
    names -= {own_name(), *(name for name in names if name.rpartition("@")[2] in cluster.rack.nodes)}
    controllers = {one["name"] for one in records.certificates if one["place"].startswith("certificates/")}
    controllers -= {one["name"] for one in records.certificates if records.keys.get(one["authority"]) == signs}
    if (left := sorted(names & controllers)) and not force:
        raise Refusal(
            f"{no} The old keys signed for {', '.join(left)}, and that controller would be shut out. Say ./bootstrap ca.renew there first; "
            "or --force here, and give it a certificate with ca.user afterwards."
        )
    return sorted(names)


def rotate(cluster: Cluster, finish: bool, force: bool = False) -> None:
    """Give the authority new keys that sign from now on while the old ones are trusted still; with `finish`, drop the old ones.

    Those of SSH and of TLS go together.

    Raises Refusal, before anything is touched, unless every node answers; with `finish`, also while a controller would be shut out,
    unless `force`.
    """
    if force and not finish:
        raise Refusal("ca.rotate --force: only with --finish is anyone refused.")
    if not (cluster.state / "ca" / "user_ca").is_file():
        raise Refusal("There are no keys to take the place of: the authority is made by ./bootstrap deploy.")
    refresh(cluster)
    step = "finish" if finish else "begin"
    with lock.changing(cluster, "ca.rotate"):
        insist_on_everyone(cluster, "ca.rotate")
        users = insist_on_controllers(cluster, ask_authority(cluster), force) if finish else []
        code, found = playbook.run(playbook.command(cluster, "rotate"), "ca.rotate", variables={"ca_rotation": step})
    playbook.conclude("ca.rotate", cluster, code, found)
    if not finish:
        print("  new keys sign, the old ones are trusted. What users were given is good for now.")
        print("  next, say ./bootstrap ca.renew on each other controller, the deployer excepted;")
        print(f"  browsers: until then they need what is in {cluster.state / 'ca' / 'root.crt'}, the old root of TLS and the new one;")
        print(f"  then, when users have new certificates or after {cluster.rack.ca.user_hours} h: ./bootstrap ca.rotate --finish")
    elif users:
        print(f"  refused from now on, as the old keys signed it: {', '.join(users)}")
