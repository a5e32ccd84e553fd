"""A machine boots from the network whichever LAN server is left."""

from beowulf.drill import drill
from beowulf.drill_lab import Lab
from beowulf.figures import Figure

BOOT = """
import json, time

def boot():
    # The offer of a server that is alone is kept until it knows that: ask as long as a boot ROM does.
    with Conversation({interface!r}) as client:
        offer = next(client.discover(20, options=[(60, b"PXEClient:Arch:00000:UNDI:002001"), (93, b"\\0\\0")]), None)
    if offer is None:
        return None, None
    server = offer["next_server"]
    # The answer comes from a port that nobody has asked (RFC 1350 section 4), so it is read off the wire, as a boot ROM would.
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as tap, socket.socket(type=socket.SOCK_DGRAM) as own:
        own.bind(("", 0))
        tap.settimeout(0.2)
        asked, end = 0, time.monotonic() + 10
        while time.monotonic() < end:
            if time.monotonic() > asked + 1:
                own.sendto(b"\\0\\1cluster.txt\\0octet\\0", (server, 69))
                asked = time.monotonic()
            try:
                packet = tap.recv(2048)
            except TimeoutError:
                continue
            udp = packet[(packet[0] & 15) * 4 :]
            if packet[9] != socket.IPPROTO_UDP or len(udp) < 12:
                continue
            port, to, length = struct.unpack("!HHH", udp[:6])
            if to == own.getsockname()[1] and udp[8:10] == b"\\0\\3":
                own.sendto(b"\\0\\4" + udp[10:12], (socket.inet_ntoa(packet[12:16]), port))
                return server, udp[12:length].decode()
    return server, None

began = time.monotonic()
server, text = boot()
print(json.dumps([server, text, time.monotonic() - began]))
"""


@drill()
def netboot_from_survivor(lab: Lab):
    """The server that leases and serves boot files loses its power; a machine boots from the other one"""
    active = lab.dhcp_server()
    other = lab.peer(active)
    program = BOOT.format(interface=lab.interface(lab.client))
    server, text, _took = lab.python(lab.client, program)
    yield Figure("booted before", float((server, text) == (lab.address[active], f"{lab.cluster.rack.cluster}\n")), 1, unit="", least=True)
    lab.power_off(active)
    server, text, took = lab.python(lab.client, program)
    lab.power_on(active)
    yield Figure(
        "booted from the other one", float((server, text) == (lab.address[other], f"{lab.cluster.rack.cluster}\n")), 1, unit="", least=True
    )
    yield Figure("first boot file after", took, 30, loose=True)
