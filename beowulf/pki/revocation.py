"""Revoke certificates and keys, and take a mistake back."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from beowulf import lock, playbook
from beowulf.errors import Failure, Refusal
from beowulf.pki import certificates, database, identity
from beowulf.process import output

if TYPE_CHECKING:
    from beowulf.cluster import Cluster


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
    if database.PUBLIC_KEY.fullmatch(key := " ".join(what.split()[:2])):
        if which:
            raise Refusal(f"This is one key, and --{which} is about the keys of a node.")
        if others := database.holders(cluster, database.kept(cluster), "").get(key):
            raise Refusal(
                f"ca.revoke: refused, nothing was touched. {database.fingerprint(key)} is the key of "
                f"{' and '.join(others)} today, and whoever has it would be shut out. "
                "Of a node, ./bootstrap ca.revoke NODE takes back all keys, after which it needs new ones."
            )
        return [f"key: {key}"]
    node = identity.node_named(cluster, what)
    if what == identity.own_name() or node == cluster.variables["rack_deployer"]["name"]:
        raise Refusal(
            f"{what} is a controller: revoked by its name, it would be shut out with every certificate that it is ever given. "
            "Revoke one certificate by its serial number (./bootstrap ca.list), or give the authority new keys: ./bootstrap ca.rotate"
        )
    if not identity.NAME.fullmatch(what):
        raise Refusal(
            f"{what!r} is neither a node, nor a serial number, nor a key of Ed25519, nor a name of a certificate: "
            "./bootstrap ca.list shows them."
        )
    # By its keys, so that it is welcome under its name when it has new ones; also when it is in the rack file no more.
    files = database.kept(cluster)
    keys = database.keys_of(files, node)
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
        if one.is_of(node) and not database.PUBLIC_KEY.fullmatch(one.text)
    ]
    chosen, others = chosen_keys(what, keys, which), database.holders(cluster, files, node)
    shared = [
        f"not revoked: {database.fingerprint(key.text)} of {what} is the key of {' and '.join(others[key.text])} today, too, "
        "who would be shut out. Give that one new keys, and repeat this"
        for key in chosen if key.text in others
    ]  # fmt: skip
    if len(shared) == len(chosen):
        raise Refusal("\n  ".join([f"ca.revoke {what}: refused, nothing was touched.", *shared]))
    notes += shared
    return [f"key: {key.text}" for key in chosen if key.text not in others]


def chosen_keys(node: str, keys: Sequence[database.Key], which: str) -> list[database.Key]:
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
    shown = database.summary(output(["ssh-keygen", "-L", "-f", str(identity.own_certificate(cluster))], timeout=10).stdout)
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
    certificates.refresh(cluster)
    notes: list[str] = []
    lines = revocation(cluster, what, which, notes)
    key, _, value = lines[0].partition(": ")
    # The certificate of a host, and what a node was given, go by their keys.
    names = {"id": "name", "serial": "serial"}
    there = database.issued(cluster)
    known = [one for one in there if key in names and one[names[key]] == value and database.ends(one) > time.time()]
    if key == "serial":
        insist_on_no_host(cluster, what, known)
        if what == own_serial(cluster):
            # What follows has to come in, and so does everyone's next command.
            certificates.sign_own(cluster, identity.own_key(cluster).with_name(identity.own_key(cluster).name + ".pub"))
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
        print(f"  {one['name']}, serial {one['serial']}, would have been good for {(database.ends(one) - time.time()) / 3600:.1f} h more")
        if key == "serial" and one["name"] != identity.own_name():
            if (node := identity.node_named(cluster, one["name"])) in cluster.rack.nodes and node != cluster.variables["rack_deployer"][
                "name"
            ]:
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
        code, found = playbook.run(playbook.command(cluster, "ca_revoke", options=options), task, variables=variables)
    playbook.conclude(task, cluster, code, found)


def unrevoke(cluster: Cluster, what: str) -> None:
    """Take off the list, on the authority and everywhere, what was revoked by mistake.

    That is a serial number, a public key, a name of a certificate, or a node, for the keys that it has today.
    """
    certificates.refresh(cluster)
    result = identity.on_authority(cluster, f"cat {identity.FOLDER}/revoked", timeout=30)
    if result.returncode:
        raise Failure(f"The authority does not answer: {(result.stderr or result.stdout).strip()}")
    listed = in_force(result.stdout.splitlines())
    words = " ".join(what.split()[:2])
    asked = {f"serial: {what}", f"id: {what}", f"key: {words}"}
    today = (
        {f"key: {key.text}" for key in database.keys_of(database.kept(cluster), what) if key.today} if what in cluster.rack.nodes else set()
    )
    # The comment that may follow a key is no part of it.
    lines = [line for line in listed if line in asked or " ".join(line.split()[:3]) in today | {f"key: {words}"}]
    if not lines:
        of_node = f" Of {what}, the keys that it has today were looked for; one of before goes by the key itself." if today else ""
        raise Refusal(
            f"{what!r} is not on the list of what is revoked.{of_node} "
            f"There is, on the authority: sudo cat {identity.FOLDER}/public/revoked"
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
        code, found = playbook.run(playbook.command(cluster, "tsig_renew", options=options), "ca.revoke")
    if code:
        print("The keys are revoked; the LAN servers' own for names are not all new, and the same command does that again.")
    playbook.conclude("ca.revoke", cluster, code, found)
