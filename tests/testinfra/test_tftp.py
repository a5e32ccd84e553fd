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
            if packet[9] != socket.IPPROTO_UDP or len(udp) < 12:
                continue
            port, to, length = struct.unpack("!HHH", udp[:6])
            if to != own.getsockname()[1]:
                continue
            source, answer = socket.inet_ntoa(packet[12:16]), udp[8:length]
            own.sendto(b"\\0\\4" + answer[2:4], (source, port))  # else the server says it again and again
            return [source, answer[1], answer[4:].decode("ascii", "replace")]
    return None

print(json.dumps([ask(*question) for question in {questions!r}]))
"""

# Offers to a machine that boots. Options: 55 what it asks for, 60, 93 and 97 what it is; 43, 60, 66 and 67 are read.
BOOT = """
mac = bytes.fromhex({mac!r})
mac += os.urandom(6 - len(mac))
options = [(55, bytes((1, 3, 43, 60, 66, 67))), (60, {vendor!r}.encode()), (93, struct.pack("!H", {arch}))]
options += [(97, b"\\0" + {identifier!r})] if {identifier!r} else []
with Conversation({interface!r}, mac) as client:
    offer = next(client.discover(10, options=options))
texts = {{str(code): offer["options"].get(code, b"").decode("latin-1") for code in (43, 60, 66, 67)}}
print(json.dumps({{**describe(offer), **{{key: offer[key] for key in ("next_server", "boot_file")}}, **texts}}))
"""
PC = "02be0f"  # an address that no vendor owns
PI_VENDOR = "PXEClient:Arch:00000:UNDI:002001"
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

    def ask(mac, arch, vendor, identifier=b""):
        return python(client, BOOT.format(interface=interface, mac=mac, arch=arch, vendor=vendor, identifier=identifier))

    return ask


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


# What is in option 97: the bootloader's DHCP_OPTION97 with the board's revision, the end of its MAC address and its serial number, or, in
# older ones, the serial number or "DDDD" four times. A MAC address tells nothing: 88:a2:9e is newer than every list, 02:be:0f nobody's.
@pytest.mark.parametrize(
    ("mac", "identifier"),
    [
        ("dca632", b"RPi4\x11\x31\xc0\0" + bytes(4) + b"\x1a\x2b\x3c\x4d"),
        ("88a29e", b"RPi5\x70\x41\xd0\0" + bytes(4) + b"\x1a\x2b\x3c\x4d"),
        ("02be0f", b"RPi5\x70\x41\xd0\0" + bytes(4) + b"\x1a\x2b\x3c\x4d"),
        ("b827eb", b"DDDD" * 4),
        ("02be0f", b"\x1a\x2b\x3c\x4d" * 4),
    ],
    ids=["Pi 4", "Pi 5", "Pi 5, another MAC", "Pi 3", "serial number"],
)
def test_a_raspberry_pi_is_told_what_its_boot_rom_waits_for(servers, boot, mac, identifier):
    offer = boot(mac, 0, PI_VENDOR, identifier)
    assert offer["server"] in servers
    assert offer["next_server"] == offer["66"] == offer["server"]
    assert (offer["43"], offer["60"]) == (PI_MENU, "PXEClient")
    assert offer["boot_file"] == offer["67"] == ""


def test_a_raspberry_pi_of_the_rack_is_known_whatever_its_boot_rom_says(rack, boot):
    boards = [node["mac"] for node in rack["rack_nodes"] if node["board"] != "generic"]
    if not boards:
        pytest.skip("the rack says of no node that it is a Raspberry Pi")
    assert boot(boards[-1].replace(":", ""), 0, PI_VENDOR, b"made up\0 by hand")["43"] == PI_MENU


@pytest.mark.parametrize("identifier", [b"", bytes(16), b"\xff" * 16, b"\x4c\x4c\x45\x44" + bytes(range(12)), b"DDDD"])
@pytest.mark.parametrize("mac", [PC, "b827eb"])
def test_a_pc_that_says_the_same_of_its_firmware_is_none(boot, mac, identifier):
    offer = boot(mac, 0, PI_VENDOR, identifier)
    assert (offer["boot_file"], offer["43"]) == ("pxelinux.0", "")


def test_a_machine_that_does_not_boot_from_the_lan_is_told_nothing_of_it(boot):
    offer = boot(PC, 0, "dhcpcd")
    assert (offer["next_server"], offer["boot_file"]) == ("0.0.0.0", "")
    assert {offer[option] for option in ("43", "60", "66", "67")} == {""}
