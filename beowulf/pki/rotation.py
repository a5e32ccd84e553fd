"""Renew what expires, and replace the keys of the CA."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from beowulf import lock, playbook, ssh
from beowulf.errors import Refusal
from beowulf.pki import certificates, database, identity

if TYPE_CHECKING:
    from beowulf.cluster import Cluster


def renew(cluster: Cluster) -> None:
    """Sign again what is half of its life old, or was lost."""
    certificates.refresh(cluster)
    with lock.changing(cluster, "ca.renew"):
        certificates.deliver(cluster)
        code, found = playbook.run(playbook.command(cluster, "ca_renew"), "ca.renew")
    playbook.conclude("ca.renew", cluster, code, found)


def absence(cluster: Cluster, node: str) -> str:
    """Return why a node does not let this controller in as root; nothing when it does."""
    result = ssh.run(cluster, node, ["true"], root=True, timeout=15)
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


def insist_on_controllers(cluster: Cluster, records: database.Records, force: bool) -> list[str]:
    """Refuse while a controller would be shut out that still uses the old keys; return the names of users who will be."""
    no = "ca.rotate --finish: refused, nothing was touched."
    signs = records.generations.get("signs")
    if signs != records.generations.get("newest"):
        raise Refusal(f"{no} The new keys do not sign yet: ./bootstrap ca.rotate goes on with that.")
    names = {one["name"] for one in records.by_old_keys()}
    # The authority signs for this controller and for the nodes in a moment. For other controllers it has signed when they deployed.
    names -= {identity.own_name(), *(name for name in names if name.rpartition("@")[2] in cluster.rack.nodes)}
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
    certificates.refresh(cluster)
    step = "finish" if finish else "begin"
    with lock.changing(cluster, "ca.rotate"):
        insist_on_everyone(cluster, "ca.rotate")
        users = insist_on_controllers(cluster, database.ask_authority(cluster), force) if finish else []
        code, found = playbook.run(playbook.command(cluster, "ca_rotate"), "ca.rotate", variables={"ca_rotation": step})
    playbook.conclude("ca.rotate", cluster, code, found)
    if not finish:
        print("  new keys sign, the old ones are trusted. What users were given is good for now.")
        print("  next, say ./bootstrap ca.renew on each other controller, the deployer excepted;")
        print(f"  browsers: until then they need what is in {cluster.state / 'ca' / 'root.crt'}, the old root of TLS and the new one;")
        print(f"  then, when users have new certificates or after {cluster.rack.ca.user_hours} h: ./bootstrap ca.rotate --finish")
    elif users:
        print(f"  refused from now on, as the old keys signed it: {', '.join(users)}")
