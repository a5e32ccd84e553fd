"""The main job: bring a cluster to what its rack file says, and tell how it went."""

from __future__ import annotations

from pathlib import Path

from beowulf import first_contact, host, inventory, lock, playbook, secrets
from beowulf.cluster import Cluster
from beowulf.errors import Failure, Refusal
from beowulf.pki import certificates
from beowulf.process import ROOT, environment, output


def require_commit(root: Path = ROOT) -> None:
    """Refuse a project of which git has no commit to give: the deployer gets it by git, when others are set up already."""
    # Not of a repository that the project only lies in.
    env = environment(LC_ALL="C.UTF-8", GIT_CEILING_DIRECTORIES=str(root.parent))
    found = output(["git", "-C", str(root), "rev-parse", "--verify", "--quiet", "HEAD"], env=env)
    if not found.returncode:
        return
    said = found.stderr.strip()
    if "dubious ownership" in said:
        why, how = "it belongs to another user", f"git config --global --add safe.directory {root}"
    elif (root / ".git").exists():
        why, how = said.splitlines()[0] if said else "nothing is committed", f"cd {root} && git add --all && git commit --message=mine"
    else:
        why, how = "it is no clone", f"clone it, or: cd {root} && git init && git add --all && git commit --message=mine"
    raise Refusal(f"git has no commit of {root} for the deployer: {why}. Nothing was sent to any node. To mend it: {how}")


def deploy(cluster: Cluster, limit: str = "", tags: str = "", check: bool = False) -> None:
    """Bring the cluster to what its rack file says."""
    options = playbook.options_for(limit, tags, check)
    # Before anything is made for it; Ansible itself only warns of a part that matches nothing.
    nodes = inventory.select(cluster.path, limit) if limit else ()
    require_commit()
    # The deployer is asked when the lab is up, where it is one of its nodes.
    with lock.here(cluster, "deploy"):
        if not cluster.is_lab:
            first_contact.preflight(cluster, nodes, check)
        secrets.preflight(cluster)
        if cluster.is_lab:
            running = cluster.lab_is_up()
            host.require_lab(running)
            if not running:
                if check:
                    raise Failure("The lab is not up, so that there is nothing to check: ./bootstrap lab.up")
                # A run of its own, so that it is recorded and told as one.
                lab(cluster, "lab.up")
        with lock.changing(cluster, "deploy"):
            if not check:
                certificates.deliver(cluster)
            code, summary = playbook.run(playbook.command(cluster, "site", options=options), "deploy")
    playbook.conclude("deploy", cluster, code, summary, check=check)


def lab(cluster: Cluster, task: str) -> None:
    """Run or remove the containers of the lab."""
    if not cluster.is_lab:
        raise Refusal(f"The nodes of {cluster.name} are no containers: {cluster.path.name} has no key `lab`.")
    name = "lab" if task == "lab.up" else "lab_down"
    with lock.changing(cluster, task):
        host.require_lab(running=name == "lab_down" or cluster.lab_is_up())
        code, summary = playbook.run(playbook.command(cluster, name), task)
        if name == "lab_down" and not code:
            for path in cluster.facts.glob("*.json"):
                path.unlink(missing_ok=True)
    playbook.conclude(task, cluster, code, summary)
