"""The pair of DHCP servers: leases survive either of them, and a new machine gets one from whoever is left."""

import time

from beowulf.drill import VIP, Figure, Lab, drill, unnoticed
from beowulf.probe import TWICE

CONFIGURATION = "/etc/kea/kea-dhcp4.conf"
HTTP_TIMEOUT = 10
"""Seconds after which Kea gives up a heartbeat that is neither answered nor refused (compiled in)."""
NEW_LEASE = 30
DARK = 2
"""Seconds that both are without power."""
ALONE = 20
"""Seconds that the other one serves alone: who asked before, and after 4 and 12 s again, asks once more after 28 (RFC 2131 section 4.1)."""


def partner_down(lab: Lab, node: str, silent: bool) -> float:
    """Seconds after which a server knows that it is alone: max-response-delay and one heartbeat, and the last request's end."""
    milliseconds = lab.setting(node, CONFIGURATION, "heartbeat-delay") + lab.setting(node, CONFIGURATION, "max-response-delay")
    return milliseconds / 1000 + (HTTP_TIMEOUT if silent else 0)


def state(lab: Lab, node: str) -> str:
    """Return the state of a server in its pair."""
    answer = lab.kea(node, "status-get")
    return answer["arguments"]["high-availability"][0]["ha-servers"]["local"]["state"]


def figures(lab: Lab, watch, before: set[str], survivor: str, patience: float = NEW_LEASE):
    """Yield what every loss of a server is judged by."""
    yield Figure("leases before", len(before), 1, unit="", least=True)
    yield Figure("leases lost", len(before - lab.leased(survivor)), 0, unit="")
    given = [sample[2] for sample in watch.answered("leases")]
    yield Figure("addresses given twice", len([one for one in given if one.endswith(TWICE)]), 0, unit="")
    yield Figure("strangers given an address of the rack", len([one for one in given if one in lab.address.values()]), 0, unit="")
    yield Figure("longest wait for a new lease", watch.longest("leases"), patience, loose=True)
    yield Figure("failed lookups", watch.failed("lookups"), 0, unit="")


@drill("6", quick=True)
def kill_dhcp_server(lab: Lab):
    """The active DHCP server is killed and stays away"""
    active = lab.dhcp_server()
    other = lab.peer(active)
    before = lab.leased(active) | lab.leased(other)
    with lab.watching(lab.leases(), lab.looks_up()) as watch:
        lab.run(active, "systemctl mask --runtime --quiet kea-dhcp4-server; systemctl kill --signal KILL kea-dhcp4-server")
        try:
            took = lab.until(lambda: state(lab, other) == "partner-down", 60, f"{other} serves alone")
            time.sleep(ALONE)
        finally:
            lab.run(active, "systemctl unmask --runtime --quiet kea-dhcp4-server; systemctl restart kea-dhcp4-server")
    yield Figure("serves alone after", took, partner_down(lab, other, silent=False) + 1, loose=True)
    yield from figures(lab, watch, before, other, patience=NEW_LEASE / 2)


def without_power(lab: Lab, dead: str):
    """Take the power of one server and give it back; yield what the other one and a client made of it."""
    other = lab.peer(dead)
    before = lab.leased(dead) | lab.leased(other)
    with lab.watching(lab.leases(), lab.looks_up()) as watch:
        lab.power_off(dead)
        took = lab.until(lambda: state(lab, other) == "partner-down", 60, f"{other} serves alone")
        time.sleep(ALONE)
        lab.power_on(dead)
        lab.until(lambda: lab.run(dead, "systemctl is-active kea-dhcp4-server"), 60, f"{dead} is up")
    yield Figure("serves alone after", took, partner_down(lab, other, silent=True), loose=True)
    yield from figures(lab, watch, before, other)


@drill("7")
def power_off_dhcp_server(lab: Lab):
    """The active DHCP server loses its power"""
    yield from without_power(lab, lab.dhcp_server())


@drill("8")
def power_off_standby(lab: Lab):
    """The standby DHCP server loses its power"""
    yield from without_power(lab, lab.peer(lab.dhcp_server()))


OFFERS = """
import json
wrong, dora = [], 0
for _ in range({rounds}):
    for name, mac, address in {nodes!r}:
        with Conversation({interface!r}, parse_mac(mac)) as client:
            leased = False
            for offer in list(client.discover(0.4)):
                answer = client.request(offer, 1)
                acknowledged = answer and answer["options"][MESSAGE_TYPE][0] == ACK
                leased = leased or bool(acknowledged and answer["address"] == address)
                if offer["address"] != address or (acknowledged and answer["address"] != address):
                    wrong.append([name, offer["address"]])
            dora += leased
print(json.dumps({{"dora": dora, "wrong": wrong}}))
"""


@drill("9")
def cut_peer_link(lab: Lab):
    """The two LAN servers lose sight of each other, while everyone else sees both"""
    first, second = lab.pair
    nodes = [(each["name"], each["mac"], each["address"]) for each in lab.variables["rack_nodes"] if each["addressing"] == "dhcp"]
    rounds = -(-100 // len(nodes))
    with lab.watching(lab.asks_vip(), lab.looks_up()) as watch, lab.cut(first, second):
        lab.until(lambda: {state(lab, one) for one in lab.pair} == {"partner-down"}, 60, "both serve alone")
        lab.until(lambda: len(lab.holders()) == 2, 10, "both hold the floating address")
        program = OFFERS.format(rounds=rounds, nodes=nodes, interface=lab.interface(lab.client))
        seen = lab.python(lab.client, program, limit=300)
    yield Figure("leases acknowledged", seen["dora"], 100, unit="", least=True)
    yield Figure("addresses given to the wrong node", len(seen["wrong"]), 0, unit="")
    yield Figure("failed lookups", watch.failed("lookups"), 0, unit="")
    yield Figure("one holder again after", lab.until(lambda: len(lab.holders()) == 1, 60, "one holder"), 30)

    def agree() -> bool:
        return lab.leased(first) == lab.leased(second) and {state(lab, one) for one in lab.pair} == {"hot-standby"}

    yield Figure("one set of leases again after", lab.until(agree, 60, "both know the same leases"), 30)


@drill("11")
def lossy_peer_link(lab: Lab):
    """One packet in twenty is lost between the LAN servers for ten minutes, then one in five for two; nothing flaps"""
    first, second = lab.pair
    holder = lab.holder()
    changes = "journalctl --no-pager --quiet --since=@{since} --unit=kea-dhcp4-server --grep=HA_STATE_TRANSITION | wc -l"
    for loss, seconds, bound in ((5, 600, 0), (20, 120, 2)):
        since = lab.run(first, "date +%s")
        with lab.watching(lab.asks_vip(), lab.looks_up()) as watch, lab.cut(first, second, loss=loss):
            time.sleep(seconds)
        counted = sum(int(lab.run(one, changes.format(since=since))) for one in lab.pair)
        yield Figure(f"changes of state at {loss} %", counted, bound, unit="")
        yield Figure(f"failed lookups at {loss} %", watch.failed("lookups"), 0, unit="")
    yield Figure("moves of the address", float(lab.holders() != [holder]), 0, unit="")


@drill("12")
def reboot_both(lab: Lab):
    """Both LAN servers lose their power together and come back together"""
    before = {server: lab.leased(server) for server in lab.pair}
    with lab.watching(lab.asks_vip(), lab.looks_up(), lab.leases()) as outage:
        lab.power_off(*lab.pair)
        time.sleep(DARK)
        lab.power_on(*lab.pair)
        back = lab.until_healthy(120)
    yield Figure("everything is back after", back, 60)
    # What a client was without, the time without power included
    yield Figure("longest gap in DNS", outage.gap(VIP), 60 + DARK)
    yield Figure("time without lookups", outage.gap("lookups"), 60 + DARK)
    yield Figure("longest wait for a new lease, meanwhile", outage.longest("leases"), 60 + DARK)
    yield Figure("leases lost", sum(len(before[server] - lab.leased(server)) for server in lab.pair), 0, unit="")
    with lab.watching(lab.leases(), lab.looks_up()) as watch:
        time.sleep(3)
    yield Figure("longest wait for a new lease", watch.longest("leases"), 5)
    yield Figure("failed lookups", watch.failed("lookups"), 0, unit="")


@drill("28")
def foreign_dhcp_server(lab: Lab):
    """Somebody starts another DHCP server on the LAN: the router's, which was to be retired"""
    from beowulf.status import gather

    router = lab.variables["rack_router"]["name"]
    before = {node: lab.leased(node) for node in lab.pair}
    lab.run(router, "systemctl start dnsmasq")
    try:

        def named() -> bool:
            return any(f"foreign DHCP server {lab.address[router]} (" in problem for problem in gather(lab.cluster)["problems"])

        with lab.watching(lab.asks_vip(), lab.looks_up()) as watch:
            took = lab.until(named, 90, "status names the foreign server")
        macs = [problem for problem in gather(lab.cluster)["problems"] if str(lab.cluster.rack.nodes[router].mac).lower() in problem]
    finally:
        lab.run(router, "systemctl stop dnsmasq")
    yield Figure("named after", took, 60)
    yield Figure("named with its MAC", len(macs), 1, unit="", least=True)
    lost = [name for name, address in lab.address.items() if not lab.run(name, f"ip -oneline -4 address show to {address}")]
    yield Figure("nodes that lost their address", len(lost), 0, unit="")
    yield from unnoticed(watch)
    yield Figure("leases lost", sum(len(before[node] - lab.leased(node)) for node in lab.pair), 0, unit="")
