"""Whoever has no business here is refused, and nothing changes."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

from beowulf import playbook, ssh
from beowulf.drill import drill
from beowulf.drill_lab import VIP, Lab, unnoticed
from beowulf.figures import Figure
from beowulf.process import output

PATIENCE = 30
"""Seconds that a node waits for the controller before it takes its old rules back (firewall_patience)."""

OUTSIDE = "192.0.2.1"
"""An address of the documentation's network (RFC 5737)."""

ADVERT = """
import json, socket, struct, time
source, target, vip = (socket.inet_aton(a) for a in {addresses!r})  # the source as it is claimed
body = struct.pack("!BBBBH", 0x31, {router_id}, 255, 1, 30) + b"\\0\\0" + vip
pseudo = source + target + struct.pack("!BBH", 0, 112, len(body))
total = sum(struct.unpack("!%dH" % ((len(pseudo) + len(body)) // 2), pseudo + body))
while total >> 16:
    total = (total & 0xFFFF) + (total >> 16)
body = body[:6] + struct.pack("!H", ~total & 0xFFFF) + body[8:]
header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, 255, 112, 0, source, target)
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for _ in range({seconds} * 10):
    s.sendto(header + body, ({addresses!r}[1], 0))
    time.sleep(0.1)
print(json.dumps(True))
"""
"""VRRPv3 adverts of the highest priority (RFC 9568 section 5.1)."""


NOTIFY = """
import json, random, socket, struct
source, target = (socket.inet_aton(a) for a in {addresses!r})
name = b"".join(bytes([len(label)]) + label.encode() for label in {zone!r}.split(".")) + b"\\0"
message = struct.pack("!6H", random.getrandbits(16), 4 << 11 | 1 << 10, 1, 0, 0, 0) + name + struct.pack("!HH", 6, 1)
udp = struct.pack("!HHHH", 5353, 53, 8 + len(message), 0) + message
header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0, source, target)
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as s:
    s.sendto(header + udp, ({addresses!r}[1], 0))
print(json.dumps(True))
"""
"""A NOTIFY (RFC 1996 section 3.7) that claims to come from the primary; without a checksum, which UDP over IPv4 allows (RFC 768)."""


LIES = 30
"""Seconds that the liar stays: each watch listens for 4."""
LIAR = """
import json, time
answers = 0
end = time.monotonic() + {seconds}
with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as tap, Conversation({interface!r}) as own:
    tap.bind(({interface!r}, 0x0800))
    tap.settimeout(0.5)
    while time.monotonic() < end:
        try:
            packet = tap.recv(2048)
        except TimeoutError:
            continue
        header = (packet[0] & 15) * 4
        asked = packet[header + 8 :]
        # Only those who ask as a random stranger: the watch, and no node.
        if len(asked) < 240 or packet[9] != 17 or packet[header + 2 : header + 4] != b"\\0\\x43" or asked[28] != 2:
            continue
        head = b"\\2" + asked[1:16] + socket.inet_aton("192.0.2.66") + asked[20:236] + MAGIC
        said = bytes((54, 4)) + socket.inet_aton({server!r}) + bytes((15, 4)) + b"\\x1b[2J"
        broken = bytes((53, 0)), bytes((53,)), bytes((53, 1)), bytes((52, 1, 255, 53, 255)), b"\\xff" * 900
        for options in (*broken, bytes((53, 1, 2)) + said):
            own.socket.sendto((head + options + b"\\xff").ljust(300, b"\\0"), ("255.255.255.255", CLIENT_PORT))
            answers += 1
print(json.dumps(answers))
"""
"""A DHCP server that calls itself as one of the cluster's, after it has sent what no message is."""


@drill()
def lying_dhcp_server(lab: Lab):
    """Somebody answers who asks for an address with broken messages, and with offers in the name of one of the cluster's servers"""
    mac, watch_file = str(lab.cluster.rack.nodes[lab.client].mac).lower(), "/run/dhcp-watch/strangers.json"
    server = lab.address[lab.dhcp_server()]
    program = LIAR.format(seconds=LIES, interface=lab.interface(lab.client), server=server)
    since = {one: float(lab.run(one, "date +%s")) for one in lab.pair}
    look = f"systemctl start dhcp-watch.service || echo failed; cat {watch_file}"
    with ThreadPoolExecutor() as pool:
        liar = pool.submit(lab.python, lab.client, program, limit=LIES + 60)
        time.sleep(2)
        shown = {one: pool.submit(lab.run, one, look) for one in lab.pair}
        failed = [one for one in lab.pair if shown[one].result().startswith("failed")]
        seen = {one: json.loads(shown[one].result().removeprefix("failed")) for one in lab.pair}
        yield Figure("answers of the liar", liar.result(), 12, unit="", least=True)
    yield Figure("watches that failed", len(failed), 0, unit="")
    yield Figure("watches that could not look", len([one for one in lab.pair if seen[one]["problem"]]), 0, unit="")
    yield Figure("watches that did not look", len([one for one in lab.pair if seen[one]["looked"] < since[one]]), 0, unit="")
    stranger = {"server": server, "mac": mac, "offers": "192.0.2.66"}
    yield Figure(
        "watches that know the liar by its MAC",
        len([one for one in lab.pair if stranger in seen[one]["strangers"]]),
        2,
        unit="",
        least=True,
    )
    for one in lab.pair:
        lab.run(one, "systemctl start dhcp-watch.service")
    left = [one for one in lab.pair if json.loads(lab.run(one, f"cat {watch_file}"))["strangers"]]
    yield Figure("watches that still name somebody", len(left), 0, unit="")


@drill()
def foreign_vrrp(lab: Lab):
    """A third machine claims the floating address with the highest priority, in its own name and in that of the holder's peer"""
    holder = lab.holder()
    router_id = lab.variables["rack_vrrp"]["router_id"]
    own = lab.address[lab.client]
    with lab.watching(lab.asks_vip()) as watch:
        for target in lab.pair:
            for claimed in (own, lab.address[lab.peer(target)]):
                lab.python(lab.client, ADVERT.format(addresses=(claimed, lab.address[target], lab.vip), router_id=router_id, seconds=5))
    yield Figure("moves of the address", float(lab.holders() != [holder]), 0, unit="")
    yield Figure("unanswered questions", watch.failed(VIP), 0, unit="")


@drill()
def foreign_dns(lab: Lab):
    """Recursion from outside, transfers and changes without the key or with a wrong one, a NOTIFY in the primary's name: all refused"""
    domain, dynamic = lab.domain, lab.variables["rack_dyn_domain"]
    first = lab.variables["rack_dns_primary"]["name"]
    serials = {node: lab.run(node, f"dig +short @127.0.0.1 {domain} SOA") for node in lab.pair}
    accepted = []
    wrong = "hmac-sha256:update:d3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmcgd3I="

    def refused(what: str, node: str, command: str, sign: str) -> None:
        shown = lab.run(node, f"{command} 2>&1 || :", limit=30)
        if not any(word in shown for word in sign.split("|")):
            accepted.append(f"{what}: {shown[-80:]}")

    with lab.watching(lab.asks_vip(), lab.looks_up()) as watch:
        for server in lab.pair:
            address = lab.address[server]
            lab.run(server, f"ip address add {OUTSIDE}/32 dev lo")
            try:
                refused(
                    "recursion from outside",
                    server,
                    f"dig +time=2 +tries=1 -b {OUTSIDE} @{address} deb.debian.org",
                    "REFUSED|timed out|no servers",
                )
            finally:
                lab.run(server, f"ip address del {OUTSIDE}/32 dev lo")
            refused("transfer without key", lab.client, f"dig +time=2 +tries=1 @{address} {domain} AXFR", "Transfer failed|REFUSED")
            refused("transfer of dynamic names", lab.client, f"dig +time=2 +tries=1 @{address} {dynamic} AXFR", "Transfer failed|REFUSED")
            refused(
                "transfer with a wrong key",
                lab.client,
                f"dig +time=2 +tries=1 -y {wrong} @{address} {domain} AXFR",
                "Transfer failed|BADKEY|NOTAUTH|BADSIG",
            )
        address = lab.address[first]
        with_wrong = (dynamic, f"-y {wrong}", "NOTAUTH|BADSIG|BADKEY|REFUSED")
        for zone, key, sign in ((domain, "", "REFUSED"), (dynamic, "", "REFUSED"), with_wrong):
            update = f"server {address}\\nzone {zone}\\nupdate add stray.{zone} 60 A 192.0.2.9\\nsend\\n"
            refused(f"change of {zone} {key}", lab.client, f"printf '{update}' | nsupdate -t 3 {key}", sign)
        other = lab.peer(first)
        since = lab.run(other, "date +%s")
        lab.python(lab.client, NOTIFY.format(addresses=(address, lab.address[other]), zone=domain))
        time.sleep(1)
        heeded = int(lab.run(other, f"journalctl --unit named --since=@{since} --output cat --no-pager"
                                    f" | grep --count 'zone {domain}/IN: \\(notify from\\|Transfer\\)' || :"))  # fmt: skip
    after = {node: lab.run(node, f"dig +short @127.0.0.1 {domain} SOA") for node in lab.pair}
    for reason in accepted:
        lab.say(f"  accepted: {reason}")
    yield Figure("accepted", len(accepted), 0, unit="")
    # BIND takes a NOTIFY from the address of a primary as good, signed or not, and has no setting against that: allow-notify only adds to
    # it (bind-users, November 2022, "How to require TSIG for NOTIFY"). Then it asks the primary once more, with the key.
    yield Figure("forged NOTIFY that was heeded", heeded, 0, unit="")
    yield Figure("zones that changed", float(serials != after), 0, unit="")
    yield from unnoticed(watch)


@drill()
def locked_out(lab: Lab):
    """A change of the firewall would lock the controller out of a node; the node takes its old rules back by itself"""
    node = lab.client
    rules = "nft list table inet beowulf; cat /etc/nftables.d/*.nft"
    before = lab.run(node, rules)
    command = playbook.command(lab.cluster, "site", options=[f"--limit={node}", "--tags=firewall", "--extra-vars=firewall_ssh_port=2222"])
    way = ssh.command(lab.cluster, node, ["true"], options=ssh.FRESH)
    began = time.monotonic()
    code, _summary = lab.play(command)
    shut = output(way, timeout=20).returncode != 0
    lab.until(lambda: output(way, timeout=20).returncode == 0, PATIENCE + 30, "the controller is let in")
    yield Figure("the deploy says that it failed", float(code != 0), 1, unit="", least=True)
    yield Figure("the controller was locked out", float(shut), 1, unit="", least=True)
    yield Figure("let in again after", time.monotonic() - began, PATIENCE + 30, loose=True)
    yield Figure("rules and files as before", float(lab.run(node, rules) == before), 1, unit="", least=True)
