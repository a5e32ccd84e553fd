"""The LAN servers serve time, and everyone keeps theirs."""

import re

testinfra_hosts = ["ansible://all"]


def test_is_in_time_with_the_lan_servers(host, rack, eventually):
    sources = [server["address"] for server in rack["rack_ntp_servers"]]
    own = {address for address in sources if host.run(f"ip -oneline address | grep -q 'inet {address}/'").rc == 0}

    def listed():
        rows = [line.split(",") for line in host.check_output("chronyc -n -c sources").splitlines()]
        # mode, state, address, …, reachability (octal)
        return {row[2] for row in rows if int(row[5], 8) > 0}

    eventually(lambda: set(sources) - own <= listed(), 30)
    tracking = host.check_output("chronyc -n -c tracking").split(",")
    assert tracking[13] == "Normal", "not synchronised"
    assert abs(float(tracking[4])) < 0.010, "more than 10 ms off"


def test_both_servers_answer_a_client_that_asks_once(host, rack):
    for server in rack["rack_ntp_servers"]:
        answer = host.run(f"sudo chronyd -Q -t 5 'server {server['address']} iburst maxsamples 1'")
        assert answer.rc == 0, answer.stderr
        offset = re.search(r"System clock wrong by (-?[0-9.]+) seconds", answer.stderr + answer.stdout)
        assert offset, answer.stderr
        assert abs(float(offset[1])) < 0.010
