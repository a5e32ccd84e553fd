"""The name servers change places: the secondary becomes the primary by one edit of the rack file and one deploy."""

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from beowulf import playbook
from beowulf.drill import drill
from beowulf.drill_lab import Lab, unnoticed
from beowulf.errors import Failure
from beowulf.figures import Figure
from beowulf.process import tool

GIVES_UP = 100.0
"""Seconds after which BIND no longer sends a NOTIFY (15 s by UDP and 15 s by TCP), and the secondary has asked in vain by itself."""


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


@drill()
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


@drill()
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


@drill()
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


def dynamic(lab: Lab, names: Sequence[str]) -> dict[str, tuple[int, list[str]]]:
    """Return what both servers have of the zone that the DHCP servers write: its serial (0 for none), and which of some names."""
    zone, found = f"dyn.{lab.domain}", {}
    for node in lab.pair:
        words = lab.run(node, f"dig +short +norecurse +time=1 +tries=1 @127.0.0.1 {zone} SOA", check=False).split()
        known = [name for name in names if lab.run(node, f"dig +short +norecurse @127.0.0.1 {name}.{zone}", check=False)]
        found[node] = (int(words[2]) if len(words) > 2 else 0, known)
    return found


@drill()
def rebuild_primary(lab: Lab):
    """The primary name server loses the zones that the DHCP servers write, and then serves them with older serials; a deploy mends both"""
    first = lab.variables["rack_dns_primary"]["name"]
    zone, names = f"dyn.{lab.domain}", ["before", "meanwhile"]
    command = [tool("ansible-playbook"), "-i", str(lab.cluster.path), "playbooks/site.yml", "--limit=lanservices", "--tags=dns"]
    update = f"printf 'server 127.0.0.1\\nzone {zone}\\nupdate %s\\nsend\\n' | nsupdate -k /etc/bind/update.key"
    broken = [
        "rm -f *.dynamic*",
        f"rm -f {zone}.dynamic.jnl && install -o bind -g bind dynamic.begin {zone}.dynamic && echo meanwhile A 192.0.2.2 >>{zone}.dynamic",
    ]
    # What repairs zones at the start of BIND would have done so before the deploy.
    unrepaired = "systemctl disable dns-zones && systemctl stop named && cd /var/lib/bind && {} && systemctl start named"
    seen, differed, failed = [], 0, 0
    lab.run(first, update % f"add before.{zone} 60 A 192.0.2.1")
    try:
        lab.until(lambda: all(known == names[:1] for _serial, known in dynamic(lab, names).values()), 20, "both servers have the name")
        with lab.watching(lab.looks_up()) as watch:
            for wanted, harm in zip((names[:1], names), broken, strict=True):
                seen.append(max(serial for serial, _known in dynamic(lab, names).values()))
                lab.run(first, unrepaired.format(harm))
                differed += len({serial for serial, _known in dynamic(lab, names).values()}) > 1
                code, _summary = lab.play(command)
                found = dynamic(lab, names)
                alike = len({serial for serial, _known in found.values()}) == 1
                failed += code != 0 or not alike or any(known != wanted for _serial, known in found.values())
        seen.append(found[first][0])
        _code, summary = lab.play(command)
    finally:
        for name in names:
            lab.run(first, update % f"delete {name}.{zone} A", check=False)
    yield Figure("times that the servers differed before the deploy", differed, 2, unit="", least=True)
    yield Figure("times that they differed after it, or a name was lost", failed, 0, unit="")
    yield Figure("serials that went backwards", sum(after <= before for before, after in itertools.pairwise(seen)), 0, unit="")
    yield Figure("changes by one more deploy", playbook.counts(summary)["changed"], 0, unit="")
    yield Figure("failed lookups", watch.failed("lookups"), 0, unit="")


@drill()
def lose_notify(lab: Lab):
    """A name is added while the name servers do not see each other, for longer than a NOTIFY is sent; the secondary learns it afterwards"""
    first = lab.variables["rack_dns_primary"]["name"]
    second = lab.peer(first)
    zone, name = f"dyn.{lab.domain}", "untold"
    update = f"printf 'server 127.0.0.1\\nzone {zone}\\nupdate %s\\nsend\\n' | nsupdate -k /etc/bind/update.key"
    try:
        with lab.watching(lab.looks_up()) as watch:
            with lab.cut(first, second):
                lab.run(first, update % f"add {name}.{zone} 60 A 192.0.2.1")
                time.sleep(GIVES_UP)
                told = dynamic(lab, [name])[second][1]
            took = lab.until(lambda: dynamic(lab, [name])[second][1] == [name], 300, f"{second} has the name")
    finally:
        lab.run(first, update % f"delete {name}.{zone} A", check=False)
    yield Figure("told while they did not see each other", len(told), 0, unit="")
    yield Figure("the secondary has the name after", took, 45)
    yield Figure("failed lookups", watch.failed("lookups"), 0, unit="")
