"""Both LAN servers serve the same boot files to whoever boots, and take none: asked from a node that only uses the LAN."""

import pytest

testinfra_hosts = ["ansible://router"]

READ, WRITE = 1, 2  # RFC 1350 section 5
DATA, ERROR = 3, 5

# The first answer to each of {questions}: who gave it, its kind, its text. It comes from a port that nobody has asked, which a
# node's firewall would not let in; so it is read off the wire, as a boot ROM would.
ASK = """
import time

def ask(server, kind, name):
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as tap, socket.socket(type=socket.SOCK_DGRAM) as own:
        own.bind(("", 0))
        tap.settimeout(0.2)
        start = asked = time.monotonic() - 1
        while (now := time.monotonic()) < start + 6:
            if now >= asked + 1:
                own.sendto(struct.pack("!H", kind) + name.encode() + b"\\0octet\\0", (server, 69))
                asked = now
            try:
                packet = tap.recv(2048)
            except TimeoutError:
                continue
            udp = packet[(packet[0] & 15) * 4 :]
            port, to, length = struct.unpack("!HHH", udp[:6])
            if packet[9] != socket.IPPROTO_UDP or to != own.getsockname()[1]:
                continue
            source, answer = socket.inet_ntoa(packet[12:16]), udp[8:length]
            own.sendto(b"\\0\\4" + answer[2:4], (source, port))  # else the server says it again and again
            return [source, answer[1], answer[4:].decode("ascii", "replace")]
    return None

print(json.dumps([ask(*question) for question in {questions!r}]))
"""

# Offers to a machine that boots. Options: 55 what it asks for, 60 and 93 what it is; 43, 60, 66 and 67 are read.
BOOT = """
mac = bytes.fromhex({oui!r}) + os.urandom(3)
options = [(55, bytes((1, 3, 43, 60, 66, 67))), (60, {vendor!r}.encode()), (93, struct.pack("!H", {arch}))]
with Conversation({interface!r}, mac) as client:
    offer = next(client.discover(10, options=options))
texts = {{str(code): offer["options"].get(code, b"").decode("latin-1") for code in (43, 60, 66, 67)}}
print(json.dumps({{**describe(offer), **{{key: offer[key] for key in ("next_server", "boot_file")}}, **texts}}))
"""
PC = "02be0f"  # an address that no vendor owns
PI_MENU = b"\6\1\3\12\4\0PXE\11\27\0\0\24Raspberry Pi Boot   \xff".decode("latin-1")


@pytest.fixture
def servers(rack):
    return [server["address"] for server in rack["rack_lanservices"]]


@pytest.fixture
def ask(client, python):
    return lambda *questions: python(client, ASK.format(questions=questions))


@pytest.fixture
def boot(client, python, hostvars):
    mac = hostvars[client.backend.host]["rack_mac"]
    interface = client.check_output(f"ip -oneline link | grep -i {mac} | cut -d: -f2 | cut -d@ -f1").strip()
    return lambda oui, arch, vendor: python(client, BOOT.format(interface=interface, oui=oui, arch=arch, vendor=vendor))


def test_both_servers_serve_the_same(rack, servers, ask):
    own = rack["rack_cluster"] + "\n"
    assert ask(*((server, READ, "cluster.txt") for server in servers)) == [[server, DATA, own] for server in servers]


def test_the_holder_of_the_floating_address_serves_there_too(rack, servers, ask):
    (answer,) = ask((rack["rack_network"]["vip"], READ, "cluster.txt"))
    assert answer[1:] == [DATA, rack["rack_cluster"] + "\n"]
    assert answer[0] in [*servers, rack["rack_network"]["vip"]]


def test_nothing_outside_of_the_folder_is_read(servers, ask):
    names = ("/etc/passwd", "../../etc/passwd", "/../../etc/shadow", "/srv/tftp/../../etc/passwd")
    answers = ask(*((server, READ, name) for server in servers for name in names))
    assert [answer[1] for answer in answers] == [ERROR] * len(answers)


def test_nothing_is_written(rack, servers, ask, node):
    answers = ask(*((server, WRITE, name) for server in servers for name in ("cluster.txt", "new.txt", "../../tmp/new.txt")))
    assert [answer[1] for answer in answers] == [ERROR] * len(answers)
    for server in rack["rack_lanservices"]:
        host = node(server["name"])
        assert not host.file("/srv/tftp/new.txt").exists
        assert host.check_output("find /srv/tftp ! -user root -o -perm /022") == ""


@pytest.mark.parametrize(
    ("arch", "boot_file"),
    [(0, "pxelinux.0"), (7, "grubx64.efi"), (9, "grubx64.efi"), (11, "grubaa64.efi")],
    ids=["BIOS", "UEFI x86", "UEFI x86, as type 9", "UEFI ARM"],
)
def test_a_machine_is_told_its_boot_file_by_the_server_that_has_it(rack, servers, boot, arch, boot_file):
    offer = boot(PC, arch, f"PXEClient:Arch:{arch:05}:UNDI:003016")
    assert offer["server"] in servers
    assert offer["next_server"] == offer["66"] == offer["server"]
    assert offer["boot_file"] == offer["67"] == boot_file
    assert offer["43"] == offer["60"] == ""
    assert offer["lease_time"] == rack["rack_dhcp"]["pool_lifetime"]


@pytest.mark.parametrize("oui", ["28cdc1", "2ccf67", "b827eb", "d83add", "dca632", "e45f01"])
def test_a_raspberry_pi_is_told_what_its_boot_rom_waits_for(servers, boot, oui):
    offer = boot(oui, 0, "PXEClient:Arch:00000:UNDI:002001")
    assert offer["server"] in servers
    assert offer["next_server"] == offer["66"] == offer["server"]
    assert (offer["43"], offer["60"]) == (PI_MENU, "PXEClient")
    assert offer["boot_file"] == offer["67"] == ""


def test_a_machine_that_does_not_boot_from_the_lan_is_told_nothing_of_it(boot):
    offer = boot(PC, 0, "dhcpcd")
    assert (offer["next_server"], offer["boot_file"]) == ("0.0.0.0", "")
    assert {offer[option] for option in ("43", "60", "66", "67")} == {""}
