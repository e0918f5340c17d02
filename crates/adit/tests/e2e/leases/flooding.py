# Sends requests for ports at a rate for some seconds, as a broken program would: new ones, renewals, ANNOUNCE and garbage.
import os, socket, struct, sys, time

source, rate, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
mapped = lambda address: b"\0" * 10 + b"\xff\xff" + socket.inet_aton(address)
sockets = []
for _ in range(8):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((source, 0))
    sock.connect(("10.59.0.1", 5351))
    sock.setblocking(False)
    sockets.append(sock)


def request(port, protocol):
    header = struct.pack("!BBHI", 2, 1, 0, 3600) + mapped(source)
    return header + b"\5" * 12 + struct.pack("!B3xHH", protocol, port, port) + mapped("0.0.0.0")


announce = struct.pack("!BBHI", 2, 0, 0, 0) + mapped(source)
messages = []
for number in range(4000):
    messages.append(request(2000 + number, 6))
    messages.append(request(2000, 17))
    messages.append(announce)
    messages.append(os.urandom(1 + number % 1200))
begin = time.monotonic()
sent = lost = 0
while (now := time.monotonic() - begin) < seconds:
    due = int(now * rate)
    while sent < due:
        try:
            sockets[sent % 8].send(messages[sent % len(messages)])
        except OSError:
            lost += 1
        sent += 1
    for sock in sockets:
        try:
            while True:
                sock.recv(2000)
        except OSError:
            pass
    time.sleep(0.001)
print(sent, lost, time.monotonic() - begin)
