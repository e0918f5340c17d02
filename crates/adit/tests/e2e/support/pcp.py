# A PCP client (RFC 6887): sends what it is told in JSON, and tells what comes back.
import ipaddress, json, os, socket, struct, sys


def packed(address):
    address = ipaddress.ip_address(address)
    return address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed


def shown(packed):
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)


wish = json.loads(sys.argv[1])
family = socket.AF_INET6 if ":" in wish["server"] else socket.AF_INET
sock = socket.socket(family, socket.SOCK_DGRAM)
sock.bind((wish["source"], 0))
sock.settimeout(wish.get("timeout", 3))
nonce = bytes.fromhex(wish.get("nonce", "01" * 12))
opcode = {"announce": 0, "map": 1, "peer": 2}[wish.get("opcode", "map")]
message = struct.pack("!BBHI", 2, opcode, 0, wish.get("lifetime", 3600))
message += packed(wish.get("client", wish["source"]))
if opcode:
    message += nonce + struct.pack("!B3xHH", wish["protocol"], wish["internal"], wish.get("external", 0))
    message += packed(wish.get("address", "::" if family == socket.AF_INET6 else "0.0.0.0"))
if opcode == 2:
    message += struct.pack("!HH", wish["remote"][1], 0) + packed(wish["remote"][0])
for code, data in wish.get("options", []):
    data = bytes.fromhex(data)
    message += struct.pack("!BBH", code, 0, len(data)) + data + b"\0" * (-len(data) % 4)
answers = []
for _ in range(wish.get("times", 1)):
    sock.sendto(message, (wish["server"], 5351))
try:
    for _ in range(wish.get("times", 1)):
        answer, sender = sock.recvfrom(2000)
        told = {"from": sender[0], "result": answer[3]}
        told["lifetime"], told["epoch"] = struct.unpack("!II", answer[4:12])
        if opcode and len(answer) >= 60:
            told["internal"], told["external"] = struct.unpack("!HH", answer[40:44])
            told["address"] = shown(answer[44:60])
        told["octets"] = len(answer)
        answers.append(told)
except OSError as error:
    answers.append({"silence": str(error)})
print(json.dumps(answers[0]))
