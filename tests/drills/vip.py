"""The floating address: its holder fails in every way, and clients notice for as long as the configuration promises."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

from beowulf.drill import drill
from beowulf.drill_lab import VIP, Lab
from beowulf.figures import Figure

CONFIGURATION = "/etc/keepalived/keepalived.conf"
TARGET = 1.5
LATE = 0.35
"""Seconds for what the formula leaves out: the address is announced, two questions are 50 ms apart, and a node may be scheduled late."""


def master_down(lab: Lab, node: str) -> float:
    """Seconds after which a backup takes over from a holder that is silent (RFC 9568 section 6.1, Active_Down_Interval)."""
    advert = lab.setting(node, CONFIGURATION, "advert_int")
    priority = lab.setting(node, CONFIGURATION, "priority")
    return 3 * advert + (256 - priority) * advert / 256


@drill(quick=True)
def power_off_vip_holder(lab: Lab):
    """The holder of the floating address loses its power"""
    holder = lab.holder()
    other = lab.peer(holder)
    bound = min(TARGET, master_down(lab, other) + LATE)
    with lab.watching(lab.asks_vip(), lab.looks_up(), lab.asks_time(other)) as watch:
        lab.power_off(holder)
        lab.until(lambda: lab.holders() == [other], 30, f"{other} holds the floating address")
        time.sleep(3)
        lab.power_on(holder)
        lab.until(lambda: lab.run(holder, "systemctl is-system-running --wait"), 60, f"{holder} is up")
        time.sleep(5)
    yield Figure("longest gap in DNS", watch.gap(VIP), bound, loose=True)
    yield Figure("failed lookups", watch.failed("lookups"), 0, unit="")
    yield Figure("longest lookup", watch.longest("lookups"))
    yield Figure("the time not told by the other", watch.failed("time"), 0, unit="")
    yield Figure("moves back", float(lab.holders() != [other]), 0, unit="")


@drill(quick=True)
def kill_name_server(lab: Lab):
    """The name server on the holder of the floating address is killed; it is started again where it is"""
    holder = lab.holder()
    with lab.watching(lab.asks_vip(), lab.looks_up()) as watch:
        lab.run(holder, "systemctl kill --signal KILL named")
        time.sleep(8)
    yield Figure("longest gap in DNS", watch.gap(VIP), TARGET, loose=True)
    yield Figure("failed lookups", watch.failed("lookups"), 0, unit="")
    yield Figure("moves", float(lab.holders() != [holder]), 0, unit="")


@drill()
def hang_name_server(lab: Lab):
    """The name server on the holder hangs: it has its port, and answers nobody"""
    holder = lab.holder()
    other = lab.peer(holder)
    with lab.watching(lab.asks_vip(), lab.looks_up()) as watch:
        lab.run(holder, "kill -STOP $(systemctl show --property MainPID --value named)")
        try:
            lab.until(lambda: lab.holders() == [other], 20, f"{other} holds the floating address")
            time.sleep(3)
        finally:
            lab.run(holder, "kill -CONT $(systemctl show --property MainPID --value named)")
        time.sleep(6)
    yield Figure("longest gap in DNS", watch.gap(VIP), 4, loose=True)
    yield Figure("failed lookups", watch.failed("lookups"), 0, unit="")
    yield Figure("moves back", float(lab.holders() != [other]), 0, unit="")


@drill(quick=True)
def kill_keepalived(lab: Lab):
    """All of keepalived on the holder is killed, and leaves the floating address behind on its interface"""
    holder = lab.holder()
    with lab.watching(lab.asks_vip()) as watch:
        lab.run(holder, "systemctl kill --signal KILL keepalived")
        time.sleep(8)
        lab.until(lambda: len(lab.holders()) == 1, 10, "one holder")
    yield Figure("longest gap in DNS", watch.gap(VIP), 2, loose=True)


@drill()
def freeze_holder(lab: Lab):
    """The holder stands still for 30 s, as under a failing SD card, and goes on as if nothing had happened"""
    holder = lab.holder()
    other = lab.peer(holder)
    with lab.watching(lab.asks_vip(), lab.looks_up()) as watch:
        lab.freeze(holder)
        lab.off.add(holder)
        try:
            lab.until(lambda: lab.holders() == [other], 30, f"{other} holds the floating address")
            time.sleep(29)
        finally:
            lab.thaw(holder)
            lab.off.discard(holder)
        thawed = time.monotonic()
        lab.until(lambda: len(lab.holders()) == 1, 10, "one holder")
        both = time.monotonic() - thawed
        time.sleep(4)
    yield Figure("longest gap in DNS", watch.gap(VIP), min(TARGET, master_down(lab, other) + LATE), loose=True)
    yield Figure("failed lookups", watch.failed("lookups"), 0, unit="")
    yield Figure("two holders", both, 1, loose=True)


def believed(lab: Lab, node: str) -> str:
    """Return the MAC address at which a node would reach the floating address."""
    return lab.run(node, f"ip -oneline neighbour show {lab.vip} | grep -o 'lladdr [^ ]*' | cut -d' ' -f2", check=False)


@drill()
def split(lab: Lab):
    """The LAN falls into two halves, a LAN server in each; each half is served, and afterwards all agree who holds the address"""
    first, second = lab.pair
    members = [name for name, node in lab.cluster.rack.nodes.items() if node.type == "compute"]
    left, right = members[::2], members[1::2]
    # Of a question that was lost, and asked again, dig writes a line, too.
    question = f"dig +time=1 +tries=3 +short @{lab.vip} {lab.client}.{lab.domain} | tail -n 1"
    with contextlib.ExitStack() as broken, lab.watching(lab.looks_up()) as watch:
        broken.enter_context(lab.cut(first, second, *right))
        broken.enter_context(lab.cut(second, *left))
        lab.until(lambda: len(lab.holders()) == 2, 10, "each half has a holder")
        unserved = [node for node in members if lab.run(node, question, check=False) != lab.address[lab.client]]
        broken.close()
        healed = lab.until(lambda: len(lab.holders()) == 1, 30, "one holder")
        began = time.monotonic()
        # All at once, and each as soon as it is answered: one after the other, the waiting of one would be counted for the next.
        again = f"timeout 30 sh -c 'until timeout 0.25 {question} | grep -q .; do :; done'"
        with ThreadPoolExecutor(len(members)) as clients:
            list(clients.map(lambda node: lab.run(node, again), members))
        agreed = time.monotonic() - began
        mac = str(lab.cluster.rack.nodes[lab.holder()].mac).lower()
        wrong = [node for node in members if believed(lab, node) != mac]
        time.sleep(2)
    yield Figure("compute nodes that nobody served", len(unserved), 0, unit="")
    yield Figure("failed lookups", watch.failed("lookups"), 0, unit="")
    yield Figure("one holder again after", healed, 3, loose=True)
    yield Figure("everyone reaches it after", agreed, 3, loose=True)
    yield Figure("nodes that take another for it", len(wrong), 0, unit="")
