"""Sign certificates for users and for this controller, by the CA's key in the vault."""

from __future__ import annotations

import datetime
import re
import secrets
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from beowulf import secrets as vault
from beowulf import ssh
from beowulf.errors import Failure, Refusal
from beowulf.pki import identity
from beowulf.process import environment, output

if TYPE_CHECKING:
    from beowulf.cluster import Cluster

KEEP = 0.25
"""Share of its life that a controller's own certificate has left when it signs itself another."""
VALID = re.compile(r"Valid: from (\S+) to (\S+)")
LONGEST = 168
"""Hours that a user's certificate lasts at most."""
# From standard input: lines of a name and a certificate. What has ended long ago is of no use to anyone.
KEEP_RECORDS = f"""cd {identity.FOLDER} && umask 077 && mkdir -p issued || exit 1
while read -r name certificate; do
  printf '%s\\n' "$certificate" >"issued/$name.new" && mv "issued/$name.new" "issued/$name" || exit 1
done
find issued -name '*-cert.pub' -mtime +{LONGEST // 24 + 1} -delete"""


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
    deployer, options = cluster.variables["rack_deployer"]["name"], ssh.connect_within(identity.CONNECT)
    told = ssh.run(cluster, deployer, KEEP_RECORDS, root=True, options=options, text=text, timeout=15).returncode == 0
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
    identity.insist_on_own_name(cluster)
    place = identity.own_certificate(cluster)
    if not (cluster.state / "ca" / "user_ca").is_file():
        return False
    public = identity.own_key(cluster).with_name(identity.own_key(cluster).name + ".pub")
    if place.is_file():
        first, last = validity(place)
        # Where the key or the name is revoked, another one would be no better.
        better = is_revoked(cluster, place) and not is_revoked(cluster, public) and not is_revoked(cluster, identity.own_name())
        if last - time.time() > KEEP * (last - first) and not better:
            return False
    sign_own(cluster, public)
    return True


def sign_own(cluster: Cluster, public_key: Path) -> None:
    """Sign this controller the certificate with which it comes in."""
    place, user = identity.own_certificate(cluster), str(cluster.variables["rack_ssh_user"])
    record(cluster, place, sign(cluster, public_key, identity.own_name(), cluster.rack.ca.user_hours, [user], place))


def user(cluster: Cluster, name: str, hours: float, principals: str, key: str, to: str) -> None:
    """Sign a user's public key, and say what the certificate opens."""
    known = [cluster.variables["rack_ssh_user"], "router", "deployer", "lanservices", "compute"]
    chosen = [part for part in principals.split(",") if part] or known[:1]
    if not identity.NAME.fullmatch(name):
        raise Refusal(f"{name!r} is no name for a certificate: letters, digits and . _ @ + - only, 64 at most.")
    if unknown := [part for part in chosen if part not in known]:
        raise Refusal(f"--principals {principals}: no node admits {', '.join(unknown)}. There are: {', '.join(known)}.")
    hours = hours or cluster.rack.ca.user_hours
    if not 0 < hours <= LONGEST:
        raise Refusal(f"--hours {hours:g}: more than 0 and at most {LONGEST}.")
    public = Path(key) if key else identity.own_key(cluster).with_name(identity.own_key(cluster).name + ".pub")
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
        place = identity.own_certificate(cluster)
    serial = sign(cluster, public, name, hours, chosen, place)
    known_there = record(cluster, place, serial)
    everywhere = chosen[0] == known[0]
    where = "every node" if everywhere else f"the nodes of type {', '.join(chosen)}"
    print(f"{place}: {name}, for {hours:g} h, opens {where} as {known[0]}; serial {serial}")
    lasting = name == identity.own_name() or identity.node_named(cluster, name) in (
        *cluster.rack.nodes,
        cluster.variables["rack_deployer"]["name"],
    )
    print(f"  revoke: ./bootstrap ca.revoke {serial if lasting else name}")
    if not known_there:
        print("  the authority does not answer; it learns of this certificate from the next deploy or ca.list here")
