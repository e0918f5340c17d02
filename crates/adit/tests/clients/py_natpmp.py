"""py-natpmp: NAT-PMP. Arguments: the gateway's address, the device's own, and the port of both sides."""

import sys

import natpmp

GATEWAY, _, PORT = sys.argv[1], sys.argv[2], int(sys.argv[3])


def map_port(lifetime):
    return natpmp.map_tcp_port(PORT, PORT, lifetime, gateway_ip=GATEWAY)


for line in sys.stdin:
    if line.strip() == "close":
        map_port(0)
        print("closed", flush=True)
    else:
        print(map_port(600).public_port, "nat-pmp", natpmp.get_public_address(GATEWAY), flush=True)
