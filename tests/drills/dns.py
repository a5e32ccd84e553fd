"""The name servers change places: the secondary becomes the primary by one edit of the rack file and one deploy."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from beowulf.drill import Figure, Lab, drill, unnoticed
from beowulf.errors import Failure
from beowulf.process import tool


@contextlib.contextmanager
def edited(lab: Lab, primary: str) -> Iterator[Path]:
    """Write a rack file beside the cluster's own, in which another LAN server is the primary."""
    rack = yaml.safe_load(lab.cluster.path.read_text(encoding="utf-8"))
    for node in lab.pair:
        rack["nodes"][node].pop("dns", None)
    rack["nodes"][primary]["dns"] = "primary"
    path = lab.cluster.path.with_name(f"{lab.cluster.name}-promoted.rack.yml")
    path.write_text(yaml.safe_dump(rack, sort_keys=False), encoding="utf-8")
    try:
        yield path
    finally:
        path.unlink()


def site(lab: Lab, path: Path, limit: str = "lanservices") -> None:
    """Deploy the LAN servers of a rack file, or those of them that are there."""
    code, _summary = lab.play([tool("ansible-playbook"), "-i", str(path), "playbooks/site.yml", f"--limit={limit}"])
    if code:
        raise Failure(f"the deploy failed ({code})")


def serials(lab: Lab) -> dict[str, int]:
    """Return the serial of the forward zone on both servers; 0 where there is none."""
    asked = {node: lab.run(node, f"dig +short +time=1 +tries=1 @127.0.0.1 {lab.domain} SOA", check=False).split() for node in lab.pair}
    return {node: int(words[2]) if len(words) > 2 else 0 for node, words in asked.items()}


@drill("DNS promotion")
def promote_secondary(lab: Lab):
    """The secondary name server is made the primary, and back"""
    first = lab.variables["rack_dns_primary"]["name"]
    second = lab.peer(first)
    before = serials(lab)
    try:
        with lab.watching(lab.asks_vip(), lab.looks_up()) as watch:
            with edited(lab, second) as path:
                site(lab, path)
            time.sleep(2)
        promoted = lab.run(second, f"dig +short @127.0.0.1 ns1.{lab.domain}")
        lab.until(lambda: len(set(serials(lab).values())) == 1, 20, "both servers have the same zone")
        after = serials(lab)
        role = lab.run(second, f"rndc zonestatus {lab.domain} | sed -n 's/^type: //p'")
    finally:
        site(lab, lab.cluster.path)
    lab.until(lambda: len(set(serials(lab).values())) == 1, 20, "both servers have the same zone")
    back = serials(lab)
    yield Figure("promoted", float(role == "primary" and promoted == lab.address[second]), 1, unit="", least=True)
    yield Figure("serials that went backwards", sum(not before[node] < after[node] < back[node] for node in lab.pair), 0, unit="")
    yield from unnoticed(watch)


@drill("DNS, a deploy without the primary")
def deploy_to_survivor(lab: Lab):
    """The primary name server is lost, and somebody deploys before it is back; the other one takes what changed"""
    first = lab.variables["rack_dns_primary"]["name"]
    second = lab.peer(first)
    with lab.watching(lab.asks_vip(), lab.looks_up()) as watch:
        lab.power_off(first)
        lab.until(lambda: lab.holders() == [second], 30, f"{second} holds the floating address")
        try:
            site(lab, lab.cluster.path, limit=second)
        finally:
            lab.power_on(first)
        lab.until(lambda: lab.run(first, "systemctl is-active named"), 60, f"{first} is up")
    yield from unnoticed(watch)


@drill("DNS promotion, without the primary")
def promote_survivor(lab: Lab):
    """The primary name server is lost; the secondary is made the primary without it, and is followed by it when it is back"""
    first = lab.variables["rack_dns_primary"]["name"]
    second = lab.peer(first)
    before = serials(lab)
    try:
        with lab.watching(lab.looks_up()) as watch:
            lab.power_off(first)
            lab.until(lambda: lab.holders() == [second], 30, f"{second} holds the floating address")
            with edited(lab, second) as path:
                site(lab, path, limit=second)
                role = lab.run(second, f"rndc zonestatus {lab.domain} | sed -n 's/^type: //p'")
                lab.power_on(first)
                lab.until(lambda: lab.run(first, "systemctl is-active named"), 60, f"{first} is up")
                site(lab, path)
            lab.until(lambda: len(set(serials(lab).values())) == 1, 20, "both servers have the same zone")
            after = serials(lab)
    finally:
        if first in lab.off:
            lab.power_on(first)
        lab.until(lambda: lab.run(first, "systemctl is-active named"), 60, f"{first} is up")
        site(lab, lab.cluster.path)
    yield Figure("promoted", float(role == "primary"), 1, unit="", least=True)
    yield Figure("serials that went backwards", sum(not before[node] < after[node] for node in lab.pair), 0, unit="")
    yield Figure("failed lookups", watch.failed("lookups"), 0, unit="")
