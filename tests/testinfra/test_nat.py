"""The router forwards the LAN and hides it behind its own address."""

from concurrent.futures import ThreadPoolExecutor

testinfra_hosts = ["ansible://router"]

# The sources of what leaves for port 53 of an address outside, as seen on the wire for some seconds.
WIRETAP = """
import socket, struct, time

tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
tap.bind(({interface!r}, 3))
tap.settimeout(0.2)
seen, end = set(), time.monotonic() + {seconds}
while time.monotonic() < end:
    try:
        packet, (_, _, kind, *_) = tap.recvfrom(2048)
    except TimeoutError:
        continue
    if kind == 4 and packet[9] == 17 and socket.inet_ntoa(packet[16:20]) == {outside!r}:
        seen.add(socket.inet_ntoa(packet[12:16]))
print(json.dumps(sorted(seen)))
"""


def test_forwards_and_hides_the_lan(host, rack, client, python):
    """A node of the LAN, whose only way out is the router, is answered from outside, where nobody sees its address."""
    assert client.check_output("ip route show default").split()[2] == rack["rack_network"]["gateway"]
    outside = rack["rack_network"]["forwarders"][0]
    default = host.check_output("ip route show default").split()
    uplink = default[default.index("dev") + 1]
    own = host.check_output(f"ip -oneline -4 address show dev {uplink} | head -n 1").split()[3].split("/")[0]
    with ThreadPoolExecutor() as pool:
        tap = pool.submit(python, host, WIRETAP.format(interface=uplink, outside=outside, seconds=6))
        answers = []
        # As long as somebody looks: on a busy machine that begins late.
        while not tap.done():
            answers.append(client.run(f"dig +time=1 +tries=1 @{outside} . NS").rc)
    assert 0 in answers
    assert tap.result() == [own]
