"""What loads a WireGuard in bench/crowd; each runs as a process in a namespace and prints its result as JSON.

handshakes RESPONDER SECONDS   peers ask from 198.18.0.0/16; the base64 key of the responder, who is at 192.0.2.1
sink SECONDS                   takes TCP streams at port 5201 and counts their bytes, after a second, for so long
send INTERFACE …               a TCP stream to 10.9.0.1 through each interface, until it is ended
"""

import base64
import json
import select
import selectors
import socket
import sys
import time

import noise

RESPONDER = ("192.0.2.1", 51820)
SINK = ("10.9.0.1", 5201)
PEERS = 1000
# Messages of one peer, made beforehand.
EACH = 20
# On their way at any time.
FLIGHT = 64
PATIENCE = 0.2


def secret(number):
    return number.to_bytes(4, "big") * 8


def address(number):
    return f"198.18.{number // 250}.{number % 250 + 1}"


class Crowd:
    """Peers with a socket each."""

    def __init__(self, responder):
        self.peers = [noise.Peer(secret(number), responder) for number in range(PEERS)]
        self.sockets, self.numbers = [], {}
        self.waiting = select.epoll()
        for number in range(PEERS):
            place = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            place.bind((address(number), 0))
            place.connect(RESPONDER)
            place.setblocking(False)
            self.waiting.register(place, select.EPOLLIN)
            self.sockets.append(place)
            self.numbers[place.fileno()] = number

    def answers(self, patience):
        """Who has got what."""
        for handle, _ in self.waiting.poll(patience):
            number = self.numbers[handle]
            try:
                yield number, self.sockets[number].recv(2048)
            except OSError:
                pass

    def show_cookies(self):
        """Asks for all peers at once, so that a responder that wants cookies sends them."""
        for number, peer in enumerate(self.peers):
            self.sockets[number].send(peer.initiation(number, 0))
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            for number, answer in self.answers(0.1):
                if answer[0] == noise.COOKIE_REPLY:
                    self.peers[number].learn(answer)
        return sum(peer.cookie is not None for peer in self.peers)


def handshakes(responder, seconds):
    crowd = Crowd(base64.b64decode(responder))
    cookies = crowd.show_cookies()
    messages = [(number, crowd.peers[number].initiation(number, turn + 1)) for turn in range(EACH) for number in range(PEERS)]
    began = time.monotonic()
    end = began + seconds
    flights, accepted, place = {}, 0, 0
    print("ready", flush=True)
    while place < len(messages) and (now := time.monotonic()) < end:
        while len(flights) < FLIGHT and place < len(messages):
            number, message = messages[place]
            place += 1
            flights[number] = now
            crowd.sockets[number].send(message)
        for number, answer in crowd.answers(0.01):
            if flights.pop(number, None) is not None and answer[0] == noise.RESPONSE:
                accepted += 1
        if len(flights) == FLIGHT:
            flights = {number: sent for number, sent in flights.items() if sent > now - PATIENCE}
    return {"cookies": cookies, "accepted": accepted, "seconds": time.monotonic() - began, "sent": place}


def sink(seconds):
    listener = socket.create_server(SINK, backlog=1024)
    listener.setblocking(False)
    waiting = selectors.DefaultSelector()
    waiting.register(listener, selectors.EVENT_READ)
    room, count, streams, began = bytearray(1 << 20), 0, set(), None
    print("ready", flush=True)
    while began is None or time.monotonic() < began + 1 + seconds:
        for ready, _ in waiting.select(0.1):
            if ready.fileobj is listener:
                stream, _ = listener.accept()
                stream.setblocking(False)
                waiting.register(stream, selectors.EVENT_READ)
                began = began or time.monotonic()
                continue
            try:
                got = ready.fileobj.recv_into(room)
            except OSError:
                got = 0
            if got == 0:
                waiting.unregister(ready.fileobj)
            elif time.monotonic() > began + 1:
                count += got
                streams.add(ready.fd)
    return {"gigabits": count * 8 / seconds / 1e9, "streams": len(streams)}


def send(*interfaces):
    waiting = selectors.DefaultSelector()
    payload = bytes(1 << 18)
    for interface in interfaces:
        stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        stream.settimeout(20)
        stream.connect(SINK)
        stream.setblocking(False)
        waiting.register(stream, selectors.EVENT_WRITE)
    while waiting.get_map():
        for ready, _ in waiting.select():
            try:
                ready.fileobj.send(payload)
            except BlockingIOError:
                pass
            except OSError:
                waiting.unregister(ready.fileobj)
    return {}


if __name__ == "__main__":
    kind, *rest = sys.argv[1:]
    if kind == "handshakes":
        result = handshakes(rest[0], float(rest[1]))
    elif kind == "sink":
        result = sink(float(rest[0]))
    else:
        result = send(*rest)
    print(json.dumps(result), flush=True)
