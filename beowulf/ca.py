"""SSH user certificates, signed on a controller with the authority's own key, and what is revoked."""

from __future__ import annotations

import datetime
import getpass
import json
import re
import secrets
import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from beowulf.errors import Failure, Refusal
from beowulf.process import environment, output

if TYPE_CHECKING:
    from beowulf.cluster import Cluster

KEEP = 0.25
"""Share of its life that a controller's own certificate has left when it signs itself another."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
VALID = re.compile(r"Valid: from (\S+) to (\S+)")


def own_key(cluster: Cluster) -> Path:
    """Return the private key with which this controller comes in."""
    return Path(cluster.variables["rack_ssh_private_key"])


def own_certificate(cluster: Cluster) -> Path:
    """Return where this controller keeps its certificate."""
    return cluster.state / "ssh" / "id_ed25519-cert.pub"


def own_name() -> str:
    """Return the name in this controller's certificate."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


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
    from beowulf import secrets as vault

    with vault.refused():
        passphrase = vault.store_of(cluster).get("ca")
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
        result = subprocess.run(command, env=env, input=f"{passphrase}\n", capture_output=True, text=True, timeout=60, check=False)
        made = Path(folder) / "key-cert.pub"
        if result.returncode or not made.is_file():
            raise Failure(f"ssh-keygen does not sign {public_key}: {result.stderr.strip()}")
        text = made.read_text(encoding="ascii")
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(place.name + ".new")
    fresh.write_text(text, encoding="ascii")
    fresh.replace(place)
    return serial


def refresh(cluster: Cluster) -> bool:
    """Sign this controller another certificate when the one it has ends soon, or has ended; say whether it did.

    Before the first deploy there is no authority, and the nodes take the key itself.
    """
    place = own_certificate(cluster)
    if not (cluster.state / "ca" / "user_ca").is_file():
        return False
    if place.is_file():
        first, last = validity(place)
        if last - time.time() > KEEP * (last - first):
            return False
    public = own_key(cluster).with_name(own_key(cluster).name + ".pub")
    user = str(cluster.variables["rack_ssh_user"])
    sign(cluster, public, own_name(), cluster.rack.ca.user_hours, [user], place)
    return True


def user(cluster: Cluster, name: str, hours: float, principals: str, key: str, to: str) -> None:
    """Sign a user's public key, and say what the certificate opens."""
    known = [cluster.variables["rack_ssh_user"], "router", "deployer", "lanservices", "compute"]
    chosen = [part for part in principals.split(",") if part] or known[:1]
    limit = 168
    if not NAME.fullmatch(name):
        raise Refusal(f"{name!r} is no name for a certificate: letters, digits and . _ @ + - only, 64 at most.")
    if unknown := [part for part in chosen if part not in known]:
        raise Refusal(f"--principals {principals}: no node admits {', '.join(unknown)}. There are: {', '.join(known)}.")
    hours = hours or cluster.rack.ca.user_hours
    if not 0 < hours <= limit:
        raise Refusal(f"--hours {hours:g}: more than 0 and at most {limit}.")
    public = Path(key) if key else own_key(cluster).with_name(own_key(cluster).name + ".pub")
    place = Path(to) if to else public.with_name(public.name.removesuffix(".pub") + "-cert.pub")
    if not key and not to:
        if chosen != known[:1]:
            raise Refusal(
                f"--principals {principals}: that would take the place of this controller's own certificate, and shut it out of the "
                "other nodes. Say with --key whose key it is for, or with --to where to put it."
            )
        place = own_certificate(cluster)
    serial = sign(cluster, public, name, hours, chosen, place)
    everywhere = chosen[0] == known[0]
    where = "every node" if everywhere else f"the nodes of type {', '.join(chosen)}"
    print(f"{place}: {name}, for {hours:g} h, opens {where} as {known[0]}; serial {serial}")
    print(f"  revoke: ./bootstrap ca.revoke {name}")


def summary(text: str) -> list[dict[str, str]]:
    """Take apart what `ssh-keygen -L` says of certificates: [{"name", "type", "serial", "valid", "principals"}, …]."""
    found: list[dict[str, str]] = []
    field = ""
    for line in text.splitlines():
        word, _, value = line.strip().partition(": ")
        if line.strip().startswith("Type:"):
            found.append({"type": "host" if " host " in line else "user", "principals": ""})
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


def issued(cluster: Cluster) -> list[dict[str, str]]:
    """Return the certificates that the authority keeps, and those that this controller signed for users."""
    folder = "/var/lib/cluster-ca"
    question = f"cd {folder}/certificates && for one in *-cert.pub; do TZ=UTC ssh-keygen -L -f $one; done; echo; cat {folder}/revoked"
    result = output([*cluster.ssh(cluster.variables["rack_deployer"]["name"]), f"sudo sh -c {shlex.quote(question)}"], timeout=30)
    if result.returncode:
        raise Failure(f"The authority does not answer: {(result.stderr or result.stdout).strip()}")
    return summary(result.stdout)


def show(cluster: Cluster, as_json: bool) -> None:
    """Print the certificates, those that end first on top."""
    found = sorted(issued(cluster), key=ends)
    for one in found:
        one["ends_in_hours"] = round((ends(one) - time.time()) / 3600, 1)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for one in found:
        print(f"{one['type']:<5}{one['name']:<28}{one['ends_in_hours']:>8} h  serial {one['serial']:<22}{one['principals']}")


def revocation(cluster: Cluster, what: str) -> list[str]:
    """Return the lines of a revocation list (ssh-keygen(1)) for a serial number, the keys of a node, or the name in a certificate."""
    if what.isdecimal():
        if not 0 < int(what) < 2**64:
            raise Refusal(f"{what} is no serial number of a certificate: ./bootstrap ca.list shows them.")
        return [f"serial: {what}"]
    deployer = cluster.variables["rack_deployer"]["name"]
    own = own_name()
    if what in (deployer, own, f"{cluster.variables['rack_ssh_user']}@{deployer}"):
        raise Refusal(
            f"{what} is a controller: revoked by its name, it would be shut out with every certificate that it is ever given. "
            "Revoke one certificate by its serial number (./bootstrap ca.list), or give the authority new keys: ./bootstrap ca.rotate"
        )
    if not NAME.fullmatch(what):
        raise Refusal(f"{what!r} is neither a node, nor a serial number, nor a name of a certificate: ./bootstrap ca.list shows them.")
    if what not in cluster.rack.nodes:
        return [f"id: {what}"]
    # By its keys: a node that is rebuilt under its name has new ones, and is welcome.
    question = f"cd /var/lib/cluster-ca/certificates && cat host-{what}.pub; cat ./*@{what}.pub 2>/dev/null || :"
    result = output([*cluster.ssh(cluster.variables["rack_deployer"]["name"]), f"sudo sh -c {shlex.quote(question)}"], timeout=30)
    keys = [line for line in result.stdout.splitlines() if line.startswith("ssh-")]
    if result.returncode or not keys:
        raise Failure(f"The authority has signed no key of {what}: {result.stderr.strip()}")
    return [f"key: {key}" for key in keys]


def revoke(cluster: Cluster, what: str) -> None:
    """Revoke, on the authority and on every node."""
    from beowulf import deploy, lock

    refresh(cluster)
    lines = revocation(cluster, what)
    options = [f"--extra-vars={json.dumps({'ca_revoked': lines})}"]
    with lock.changing(cluster, "ca.revoke"):
        code, found = deploy.run_playbooks(deploy.playbook(cluster, "revoke", options=options), "ca.revoke")
    deploy.conclude("ca.revoke", cluster, code, found)
    if lines[0].startswith("id:"):
        print(f"  whatever is signed for the name {what} from now on is refused, too: sign for another name")


def renew(cluster: Cluster) -> None:
    """Sign again what is half of its life old, or was lost."""
    from beowulf import deploy, lock

    refresh(cluster)
    with lock.changing(cluster, "ca.renew"):
        code, found = deploy.run_playbooks(deploy.playbook(cluster, "certificates"), "ca.renew")
    deploy.conclude("ca.renew", cluster, code, found)


def rotate(cluster: Cluster, finish: bool) -> None:
    """Give the authority new keys that sign from now on while the old ones are trusted still; with `finish`, drop the old ones."""
    from beowulf import deploy, lock

    refresh(cluster)
    step = "finish" if finish else "begin"
    command = deploy.playbook(cluster, "certificates", options=[f"--extra-vars={json.dumps({'ca_rotation': step})}"])
    with lock.changing(cluster, "ca.rotate"):
        code, found = deploy.run_playbooks(command, "ca.rotate")
    deploy.conclude("ca.rotate", cluster, code, found)
    if not finish:
        print("  new keys sign, the old ones are trusted. What users were given is good for now.")
        print(f"  next, when they have new certificates or after {cluster.rack.ca.user_hours} h: ./bootstrap ca.rotate --finish")
