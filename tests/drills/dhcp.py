"""The pair of DHCP servers: leases survive either of them, and a new machine gets one from whoever is left."""

import contextlib
import json
import time

from beowulf import playbook
from beowulf.drill import drill
from beowulf.drill_lab import VIP, Lab, unnoticed
from beowulf.figures import Figure
from beowulf.probe import TWICE

CONFIGURATION = "/etc/kea/kea-dhcp4.conf"
HTTP_TIMEOUT = 10
"""Seconds after which Kea gives up a heartbeat that is neither answered nor refused (compiled in)."""
NEW_LEASE = 30
DARK = 2
"""Seconds that both are without power."""
ALONE = 20
"""Seconds that the other one serves alone: who asked before, and after 4 and 12 s again, asks once more after 28 (RFC 2131 section 4.1)."""


KEA = "kea-dhcp4-server"
CLOCKS_APART = 120
"""Seconds that a clock is wrong: Kea ends the work of a pair at 60 (compiled in)."""
LOOKS = 30
"""Seconds between two looks after the pair (dhcp-pair.timer)."""
START = 8
"""Seconds for Kea to end, to be started by systemd (RestartSec) and to read the other's leases."""


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


@drill(quick=True)
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


@drill()
def power_off_dhcp_server(lab: Lab):
    """The active DHCP server loses its power"""
    yield from without_power(lab, lab.dhcp_server())


@drill()
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


@drill()
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


@drill()
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


@drill()
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


@drill()
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


def pair_state(lab: Lab) -> list[str]:
    """Return the states of both servers in their pair."""
    return [state(lab, one) for one in lab.pair]


@contextlib.contextmanager
def clock_of_kea(lab: Lab, node: str):
    """Let the DHCP server of a node have a clock of its own while the body runs; yields what sets it, by seconds."""
    drop_in, told = f"/run/systemd/system/{KEA}.service.d/clock.conf", "/run/drill-clock"
    lab.run(node, "DEBIAN_FRONTEND=noninteractive apt-get --quiet --yes install libfaketime", limit=120)
    library = lab.run(node, "dpkg --listfiles libfaketime | grep '/libfaketime.so.1$'")

    def set_clock(seconds: int) -> None:
        lab.run(node, f"echo {seconds:+d}s >{told}")

    try:
        set_clock(0)
        unit = f"[Service]\\nEnvironment=LD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE={told} FAKETIME_CACHE_DURATION=1\\n"
        lab.run(node, f"mkdir -p $(dirname {drop_in}); printf '{unit}' >{drop_in}; systemctl daemon-reload; systemctl restart {KEA}")
        lab.until(lambda: pair_state(lab) == ["hot-standby"] * 2, 60, "the pair works")
        yield set_clock
    finally:
        lab.run(node, f"rm -f {drop_in} {told}; systemctl daemon-reload; systemctl restart {KEA}")
        lab.run(node, "apt-get --quiet --yes purge libfaketime", limit=120)


@drill()
def clocks_apart(lab: Lab):
    """The clock of the standby DHCP server is two minutes wrong for a while, which ends the work of the pair for good"""
    active = lab.dhcp_server()
    other = lab.peer(active)
    before = lab.leased(active) | lab.leased(other)
    restarts = {one: int(lab.run(one, f"systemctl show --value --property NRestarts {KEA}")) for one in lab.pair}
    with clock_of_kea(lab, other) as set_clock, lab.watching(lab.leases(), lab.looks_up()) as watch:
        set_clock(CLOCKS_APART)
        lab.until(lambda: pair_state(lab) == ["terminated"] * 2, 60, "the pair has ended its work")
        time.sleep(2 * LOOKS + 5)
        yield Figure("ended for good while the clocks disagree", float(pair_state(lab) == ["terminated"] * 2), 1, unit="", least=True)
        set_clock(0)
        took = lab.until(lambda: pair_state(lab) == ["hot-standby"] * 2, 180, "the pair works again")
        counted = [int(lab.run(one, f"systemctl show --value --property NRestarts {KEA}")) - restarts[one] for one in lab.pair]
        time.sleep(LOOKS + 5)
        yield Figure("servers that work together after", pair_state(lab).count("hot-standby"), 2, unit="", least=True)
    yield Figure("works together again after", took, 2 * (LOOKS + START))
    yield Figure("starts of a server for that", max(counted), 1, unit="")
    yield from figures(lab, watch, before, other)


@drill()
def deploy_to_an_ended_pair(lab: Lab):
    """A deploy has to restart both DHCP servers, whose work clocks have ended, and nobody else looks after them"""
    active = lab.dhcp_server()
    other = lab.peer(active)
    for one in lab.pair:
        lab.run(one, "systemctl stop dhcp-pair.timer")
    try:
        with clock_of_kea(lab, other) as set_clock:
            set_clock(CLOCKS_APART)
            lab.until(lambda: pair_state(lab) == ["terminated"] * 2, 60, "the pair has ended its work")
            set_clock(0)
            time.sleep(2)
            for one in lab.pair:
                lab.run(one, f"touch {CONFIGURATION}")
            code, _summary = lab.play(playbook.command(lab.cluster, "site", options=["--tags=dhcp"]))
            yield Figure("exit status of the deploy", code, 0, unit="")
            yield Figure("servers that work together", pair_state(lab).count("hot-standby"), 2, unit="", least=True)
    finally:
        for one in lab.pair:
            lab.run(one, "systemctl start dhcp-pair.timer")


@drill()
def bootstrap_server_called_back(lab: Lab):
    """The router is deployed alone while both DHCP servers are away, and its own serves: not beside them for good"""
    router = lab.variables["rack_router"]["name"]
    for one in lab.pair:
        lab.run(one, f"systemctl stop {KEA}")
    try:
        code, _summary = lab.play(playbook.command(lab.cluster, "site", options=[f"--limit={router}", "--tags=bootstrap"]))
        yield Figure("exit status of the deploy", code, 0, unit="")
        yield Figure("served meanwhile", float(lab.run(router, "systemctl is-active dnsmasq || :") == "active"), 1, unit="", least=True)
        yield Figure("would serve after a boot", float(lab.run(router, "systemctl is-enabled dnsmasq || :") == "enabled"), 0, unit="")
    finally:
        lab.run(router, "systemctl disable --now dnsmasq")
        for one in lab.pair:
            lab.run(one, f"systemctl start {KEA}")


DECLINES = """
taken = []
for _ in range({most}):
    with Conversation({interface!r}) as client:
        offer = next(client.discover(3, again=1), None)
        if not offer:
            break
        ack = client.request(offer, 3)
        if ack and ack["options"][MESSAGE_TYPE][0] == ACK:
            client.send(DECLINE, [(REQUESTED_ADDRESS, socket.inet_aton(ack["address"])), (SERVER_ID, ack["options"][SERVER_ID])])
            taken.append(ack["address"])
print(__import__("json").dumps(taken))
"""
"""A client that finds every address that it is given in use (RFC 2131 section 3.1, number 5)."""


def pool(lab: Lab, node: str) -> dict[str, int]:
    """Return how full the pool is, as the server of a node has written it down."""
    return json.loads(lab.run(node, "cat /run/dhcp-pair/state.json"))["pool"]


@drill()
def pool_declined(lab: Lab):
    """A machine with ever new addresses declines whatever it is given, until the pool is empty"""
    active = lab.dhcp_server()
    answer = lab.kea(active, "config-get")["arguments"]["Dhcp4"]
    period, timer = answer["decline-probation-period"], answer["expired-leases-processing"]["reclaim-timer-wait-time"]
    yield Figure("an address stays away for", period, 600)
    total = pool(lab, active)["total"]
    offered = "print(__import__('json').dumps([next(Conversation({0!r}).__enter__().discover(3), None) is not None]))"
    offered = offered.format(lab.interface(lab.client))
    taken = lab.python(lab.client, DECLINES.format(most=total + 5, interface=lab.interface(lab.client)), limit=300)
    began = time.monotonic()
    yield Figure("addresses declined", len(taken), total - 5, unit="", least=True)
    yield Figure("offers to a stranger", sum(lab.python(lab.client, offered)), 0, unit="")
    for one in lab.pair:
        lab.until(lambda one=one: pool(lab, one)["declined"] >= len(taken), 2 * LOOKS, f"{one} tells how full the pool is")
        yield Figure(f"declined, as {one} tells", pool(lab, one)["declined"], len(taken), unit="", least=True)
    with lab.watching(lab.looks_up()) as watch:
        lab.until(lambda: lab.python(lab.client, offered) == [True], period + 60, "a stranger is offered an address")
        took = time.monotonic() - began
    yield Figure("a stranger is offered an address after", took, period + timer + 10)
    # A stranger may have had one of those that were leased when the others were declined, and have ended since.
    left = max(0, period - (time.monotonic() - began))
    lab.until(lambda: pool(lab, active)["declined"] == 0, left + 2 * timer + 3 * LOOKS, "all are back")
    yield Figure("failed lookups", watch.failed("lookups"), 0, unit="")
