# Asks for a port by PCP or NAT-PMP, and tells every datagram that comes afterwards: to the socket that asked, and to the port of clients.
import ipaddress, json, select, socket, struct, sys, time


def wide(address):
    return (b"" if address.version == 6 else b"\0" * 10 + b"\xff\xff") + address.packed


wish = json.loads(sys.argv[1])
own = ipaddress.ip_address(wish["source"])
family = socket.AF_INET6 if own.version == 6 else socket.AF_INET
asking = socket.socket(family, socket.SOCK_DGRAM)
asking.bind((wish["source"], 0))
clients = socket.socket(family, socket.SOCK_DGRAM)
clients.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
clients.bind((wish["source"], 5350))
port = wish["internal"]
if wish["mechanism"] == "nat-pmp":
    message = struct.pack("!BBHHHI", 0, 2, 0, port, port, 3600)
else:
    message = struct.pack("!BBHI", 2, 1, 0, 3600) + wide(own)
    message += bytes.fromhex(wish["nonce"]) + struct.pack("!B3xHH", wish["protocol"], port, port) + wide(type(own)(0))
    message += b"\x02\0\0\0" if wish.get("exact") else b""
asking.sendto(message, (wish["server"], 5351))
while True:
    for sock in select.select([asking, clients], [], [])[0]:
        datagram, source = sock.recvfrom(2000)
        told = {"by": source[0], "at": time.monotonic(), "to": "asking" if sock is asking else "clients"}
        if datagram[0] == 2:
            told["opcode"], told["result"] = datagram[1], datagram[3]
            told["lifetime"], told["epoch"] = struct.unpack("!II", datagram[4:12])
            if len(datagram) >= 60:
                told["nonce"] = datagram[24:36].hex()
                told["internal"], told["external"] = struct.unpack("!HH", datagram[40:44])
                told["protocol"] = datagram[36]
                address = ipaddress.IPv6Address(datagram[44:60])
                told["address"] = str(address.ipv4_mapped or address)
        elif len(datagram) == 12:
            told["address"] = str(ipaddress.IPv4Address(datagram[8:12]))
        print(json.dumps(told), flush=True)
