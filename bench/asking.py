"""A device that asks for ports, as fast as it is answered: runs in the device's namespace, tells what it measured as JSON.

usage: asking.py WAY SERVER OWN COUNT FLIGHTS [FIRST]
  map        new PCP mappings of the internal ports from FIRST on, each for two hours
  renew      the COUNT mappings of the ports from FIRST on that are there, again and again for 10 s
  announce   PCP ANNOUNCE, for 2 s
  address    the external address, by NAT-PMP, for 2 s
Nonces follow from the internal port, so that another run can renew. An answer that does not come within 2 s is asked for again.
"""

import json
import socket
import struct
import sys
import time

SECONDS = 10
BRIEFLY = 2
LIFETIME = 7200
UDP = 17


def wrapped(address):
    return b"\0" * 10 + b"\xff\xff" + socket.inet_aton(address)


def mapping(own, port):
    nonce = struct.pack("!III", port, 0x41444954, port)
    return (struct.pack("!BBHI", 2, 1, 0, LIFETIME) + wrapped(own) + nonce + struct.pack("!BxxxHH", UDP, port, port) + wrapped("0.0.0.0"))


def mapped(answer, _):
    """The internal port of a mapping that was granted."""
    if len(answer) < 60 or answer[1] != 0x81:
        return None
    if answer[3] != 0:
        sys.exit(f"refused with result {answer[3]}: {answer.hex()}")
    return struct.unpack_from("!H", answer, 40)[0]


def ask(server, flights, questions, match):
    """Asks all questions, so many at a time; the seconds that each answer took, and those that all of it took."""
    way = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    way.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    way.connect((server, 5351))
    way.settimeout(0.5)
    open_, times, repeated = {}, [], 0
    began = time.perf_counter()
    questions = iter(questions)
    more = True
    while True:
        while more and len(open_) < flights:
            question = next(questions, None)
            if question is None:
                more = False
                break
            name, data = question
            open_[name] = (time.perf_counter(), data)
            way.send(data)
        if not open_:
            break
        try:
            answer = way.recv(2048)
        except TimeoutError:
            answer = b""
        now = time.perf_counter()
        name = match(answer, open_) if answer else None
        if name in open_:
            times.append(now - open_.pop(name)[0])
        elif not answer:
            for asked, data in open_.values():
                if now - asked > 2:
                    repeated += 1
                    way.send(data)
            if now - began > 300:
                sys.exit(f"{len(open_)} questions have no answer")
    return times, time.perf_counter() - began, repeated


def until(seconds, make):
    """Questions without an end, for so long."""
    limit = time.perf_counter() + seconds
    number = 0
    while time.perf_counter() < limit:
        yield make(number)
        number += 1


def main():
    way, server, own, count, flights = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    first = int(sys.argv[6]) if len(sys.argv) > 6 else 10000
    if way == "map":
        questions = ((port, mapping(own, port)) for port in range(first, first + count))
        match = mapped
    elif way == "renew":
        texts = [(port, mapping(own, port)) for port in range(first, first + count)]
        questions = until(SECONDS, lambda number: texts[number % count])
        match = mapped
    elif way == "announce":
        text = struct.pack("!BBHI", 2, 0, 0, 0) + wrapped(own)
        questions = until(BRIEFLY, lambda number: (number, text))
        match = lambda answer, waiting: next(iter(waiting)) if answer[1] == 0x80 and answer[3] == 0 else None
    elif way == "address":
        questions = until(BRIEFLY, lambda number: (number, b"\0\0"))
        match = lambda answer, waiting: next(iter(waiting)) if answer[:4] == b"\0\x80\0\0" else None
    else:
        sys.exit(__doc__)
    times, took, repeated = ask(server, flights, questions, match)
    times.sort()
    at = lambda share: times[min(len(times) - 1, int(len(times) * share))] * 1000
    print(json.dumps({"answers": len(times), "rate": len(times) / took, "median": at(0.5), "p99": at(0.99), "worst": times[-1] * 1000,
                      "repeated": repeated}))


main()
