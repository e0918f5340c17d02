# Asks one thing at a time, as programs do: a new port, the same again, the address. Tells how long each answer took, in milliseconds.
import json, socket, struct, sys, time

source, seconds, first = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
mapped = lambda address: b"\0" * 10 + b"\xff\xff" + socket.inet_aton(address)
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((source, 0))
sock.connect(("10.59.0.1", 5351))
sock.settimeout(2)


def request(port):
    header = struct.pack("!BBHI", 2, 1, 0, 3600) + mapped(source)
    return header + b"\6" * 12 + struct.pack("!B3xHH", 6, port, port) + mapped("0.0.0.0")


took = {"new": [], "renewal": [], "address": []}
lost = refused = 0
port = first
end = time.monotonic() + seconds
while time.monotonic() < end:
    port += 1
    for kind, message in (("new", request(port)), ("renewal", request(port)), ("address", b"\0\0")):
        begin = time.monotonic()
        sock.send(message)
        try:
            answer = sock.recv(2000)
            took[kind].append(1000 * (time.monotonic() - begin))
            refused += answer[3] != 0
        except OSError:
            lost += 1
        time.sleep(0.02)
print(json.dumps({"took": took, "lost": lost, "refused": refused}))
