# Asks for a TCP port by PCP or NAT-PMP, and tells every datagram that comes afterwards: to the socket that asked, and to the port of clients.
import json, select, socket, struct, sys, time

wish = json.loads(sys.argv[1])
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asking.bind((wish["source"], 0))
clients = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
clients.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
clients.bind((wish["source"], 5350))
port = wish["internal"]
if wish["mechanism"] == "nat-pmp":
    message = struct.pack("!BBHHHI", 0, 2, 0, port, port, 3600)
else:
    mapped = b"\0" * 10 + b"\xff\xff"
    message = struct.pack("!BBHI", 2, 1, 0, 3600) + mapped + socket.inet_aton(wish["source"])
    message += bytes.fromhex(wish["nonce"]) + struct.pack("!B3xHH", 6, port, port) + mapped + bytes(4)
    message += b"\x02\0\0\0" if wish.get("exact") else b""
asking.sendto(message, ("10.59.0.1", 5351))
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
                told["address"] = socket.inet_ntoa(datagram[56:60])
        print(json.dumps(told), flush=True)
