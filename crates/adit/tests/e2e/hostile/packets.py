"""Sends packets that nobody should send, through a tunnel interface, as fast as it is told. Arguments: interface,
seconds, packets a second (0: all it can), own IPv4, own IPv6, then targets. Tells as JSON how many it sent of each kind."""

import ipaddress
import json
import os
import random
import socket
import struct
import sys
import time

interface, seconds, rate = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
own4, own6 = (ipaddress.ip_address(text) for text in sys.argv[4:6])
targets = [ipaddress.ip_address(text) for text in sys.argv[6:]]
chance = random.Random(1)

# Where nothing from a tunnel belongs.
STRANGE4 = ["127.0.0.1", "169.254.169.254", "224.0.0.1", "239.255.255.250", "255.255.255.255", "0.0.0.0", "240.0.0.1"]
STRANGE6 = ["::1", "::", "fe80::1", "ff02::1", "ff02::2", "ff02::16", "ff05::2", "ff0e::1", "::ffff:127.0.0.1"]


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def ip(source, target, protocol, payload, **fields):
    if target.version == 6:
        return ip6(source, target, protocol, payload, **fields)
    return ip4(source, target, protocol, payload, **fields)


def ip4(source, target, protocol, payload, options=b"", ttl=64, offset=0, length=None, words=None, bad=False, ident=7, tos=0, version=4):
    words = 5 + len(options) // 4 if words is None else words
    length = 20 + len(options) + len(payload) if length is None else length
    head = struct.pack("!BBHHHBBH", version << 4 | words, tos, length, ident, offset, ttl, protocol, 0) + source.packed + target.packed
    total = checksum(head + options) ^ (0x5555 if bad else 0)
    return head[:10] + struct.pack("!H", total) + head[12:] + options + payload


def ip6(source, target, following, payload, ttl=64, length=None, version=6, **_):
    length = len(payload) if length is None else length
    return struct.pack("!IHBB", version << 28, length, following, ttl) + source.packed + target.packed + payload


def pseudo(source, target, protocol, length):
    if target.version == 6:
        return source.packed + target.packed + struct.pack("!II", length, protocol)
    return source.packed + target.packed + struct.pack("!BBH", 0, protocol, length)


def tcp(source, target, flags, port=22, options=b"", bad=False, offset=None, urgent=0):
    offset = 5 + len(options) // 4 if offset is None else offset
    head = struct.pack("!HHIIBBHHH", chance.randrange(1, 65536), port, chance.getrandbits(32), chance.getrandbits(32), offset << 4, flags, 1024, 0, urgent)
    total = checksum(pseudo(source, target, 6, len(head) + len(options)) + head + options) ^ (0x5555 if bad else 0)
    return head[:16] + struct.pack("!H", total) + head[18:] + options


def udp(source, target, port, payload=b"hostile", bad=False, length=None):
    length = 8 + len(payload) if length is None else length
    head = struct.pack("!HHHH", chance.randrange(1, 65536), port, length, 0)
    total = checksum(pseudo(source, target, 17, 8 + len(payload)) + head + payload) ^ (0x5555 if bad else 0)
    return head[:6] + struct.pack("!H", total or 0xFFFF) + payload


def icmp4(kind, code, rest=b"\0\0\0\0", payload=b""):
    data = struct.pack("!BBH", kind, code, 0) + rest + payload
    return data[:2] + struct.pack("!H", checksum(data)) + data[4:]


def icmp6(source, target, kind, code, rest=b"\0\0\0\0", payload=b""):
    data = struct.pack("!BBH", kind, code, 0) + rest + payload
    return data[:2] + struct.pack("!H", checksum(pseudo(source, target, 58, len(data)) + data)) + data[4:]


def fragment6(following, offset, more, payload, ident=9):
    return struct.pack("!BBHI", following, 0, offset << 3 | more, ident) + payload


packets = {}


def add(kind, packet):
    packets.setdefault(kind, []).append(packet)


def both(target):
    return own6 if target.version == 6 else own4


strange = [ipaddress.ip_address(text) for text in STRANGE4 + STRANGE6]
for target in targets + strange + [own4, own6]:
    own = both(target)
    for flags in (0x00, 0x01, 0x02, 0x03, 0x04, 0x06, 0x10, 0x12, 0x14, 0x29, 0x3F, 0xFF):
        add("TCP flags", ip(own, target, 6, tcp(own, target, flags, chance.randrange(1, 65536))))
    add("bad transport checksum", ip(own, target, 6, tcp(own, target, 2, bad=True)))
    add("bad transport checksum", ip(own, target, 17, udp(own, target, 53, bad=True)))
    add("TCP options", ip(own, target, 6, tcp(own, target, 2, options=b"\x02\xff\x00\x00\x05\x00\x01\x01")))
    add("TCP options", ip(own, target, 6, tcp(own, target, 2, offset=15)))
    add("TCP options", ip(own, target, 6, tcp(own, target, 2, offset=1, urgent=65535)))
    for port in (53, 67, 68, 123, 161, 546, 547, 1900, 5351, 5353, 51820, 0, 65535, 7):
        add("UDP", ip(own, target, 17, udp(own, target, port)))
    add("lengths", ip(own, target, 17, udp(own, target, 53, length=0)))
    add("lengths", ip(own, target, 17, udp(own, target, 53, length=65535)))
    add("lengths", ip(own, target, 17, b""))
    add("lengths", ip(own, target, 6, b"\0\x16"))
    add("lengths", ip(own, target, 17, udp(own, target, 53), length=0))
    add("lengths", ip(own, target, 17, udp(own, target, 53), length=65535))
    add("another version", ip(own, target, 17, udp(own, target, 53), version=5))
    add("TTL", ip(own, target, 17, udp(own, target, 53), ttl=0))
    add("TTL", ip(own, target, 17, udp(own, target, 53), ttl=1))
    for protocol in (0, 1, 2, 4, 41, 43, 44, 47, 50, 51, 58, 59, 60, 89, 103, 112, 132, 135, 136, 253, 255):
        add("protocols", ip(own, target, protocol, os.urandom(40)))
    # As if the target, or the gateway, had sent it to itself.
    add("land", ip(target, target, 6, tcp(target, target, 2)))
    add("land", ip(target, target, 17, udp(target, target, 7)))
    for other in targets:
        if other.version == target.version and other != target:
            add("borrowed sources", ip(other, target, 17, udp(other, target, 53)))
            add("borrowed sources", ip(other, target, 6, tcp(other, target, 0x14)))
    if target.version == 4:
        for options in (
            b"\x83\x07\x04\x7f\x00\x00\x01\x00",
            b"\x89\x07\x04\x0a\x3b\x00\x01\x00",
            b"\x07\x27\x04" + b"\0" * 37,
            b"\x44\x28\x05\x01" + b"\0" * 36,
            b"\x94\x04\x00\x00",
            b"\x86\xff\x00\x00",
            b"\x83\x00\x00\x00",
            b"\xff" * 40,
        ):
            add("IP options", ip4(own, target, 17, udp(own, target, 53), options=options))
        add("bad IP header", ip4(own, target, 17, udp(own, target, 53), bad=True))
        add("bad IP header", ip4(own, target, 17, udp(own, target, 53), words=15))
        add("bad IP header", ip4(own, target, 17, udp(own, target, 53), words=4))
        for kind in range(0, 42):
            add("ICMP", ip4(own, target, 1, icmp4(kind, chance.randrange(0, 16), payload=os.urandom(28))))
        lie = ip4(target, own, 6, tcp(target, own, 0x10))[:28]
        for mtu in (0, 68, 552, 1280, 65535):
            add("PMTU lies", ip4(own, target, 1, icmp4(3, 4, struct.pack("!HH", 0, mtu), lie)))
        add("redirects", ip4(own, target, 1, icmp4(5, 1, own.packed, lie)))
        for offset, more in ((0, 1), (1, 1), (1, 0), (0, 0), (8191, 0), (8189, 1), (2, 1)):
            for ident in (1, 2, chance.randrange(65536)):
                payload = udp(own, target, 53, b"fragment" * 3)[: chance.choice((8, 16, 24, 32))]
                add("fragments", ip4(own, target, 17, payload, offset=offset | more << 13, ident=ident))
        add("fragments", ip4(own, target, 6, tcp(own, target, 2)[:8], offset=1 << 13, ident=5))
        add("fragments", ip4(own, target, 17, b"", offset=1 << 13, ident=6))
        add("fragments", ip4(own, target, 1, icmp4(8, 0, payload=b"x" * 1000), offset=8000, ident=3))
    else:
        for chain in (
            struct.pack("!BB", 17, 0) + b"\x01\x04\0\0\0\0",
            struct.pack("!BB", 17, 255) + b"\x01\xff" + b"\0" * 2044,
            struct.pack("!BB", 17, 100) + b"\x00" * 806,
            struct.pack("!BB", 17, 0) + b"\xc2\x04\x00\x01\x00\x00",
            struct.pack("!BB", 17, 0) + b"\x05\x02\x00\x00\x01\x00",
            struct.pack("!BB", 17, 0) + b"\xff\xff\xff\xff\xff\xff",
            struct.pack("!BB", 0, 0) + b"\x01\x04\0\0\0\0" + struct.pack("!BB", 17, 0) + b"\x01\x04\0\0\0\0",
        ):
            add("hop-by-hop", ip6(own, target, 0, chain[: 1300] + udp(own, target, 53)))
        destinations = b"".join(struct.pack("!BB", 60, 0) + b"\x01\x04\0\0\0\0" for _ in range(40))
        add("header chains", ip6(own, target, 60, destinations + struct.pack("!BB", 17, 0) + b"\x01\x04\0\0\0\0" + udp(own, target, 53)))
        for kind in (0, 2, 4, 253):
            add("routing headers", ip6(own, target, 43, struct.pack("!BBBBI", 17, 2, kind, 1, 0) + target.packed + udp(own, target, 53)))
        for offset, more in ((0, 1), (0, 0), (1, 1), (1, 0), (2, 1), (8190, 0), (8191, 1)):
            for ident in (1, 2, chance.getrandbits(32)):
                payload = udp(own, target, 53, b"fragment" * 3)[: chance.choice((8, 16, 24, 32))]
                add("fragments", ip6(own, target, 44, fragment6(17, offset, more, payload, ident)))
        add("fragments", ip6(own, target, 44, fragment6(60, 0, 1, b"\x2b\x00\x01\x04\0\0\0\0")))
        for kind in list(range(0, 6)) + [100, 127] + list(range(128, 160)) + [200, 255]:
            add("ICMP", ip6(own, target, 58, icmp6(own, target, kind, chance.randrange(0, 8), payload=os.urandom(32))))
        lie = ip6(target, own, 6, tcp(target, own, 0x10))
        for mtu in (0, 68, 1279, 1280, 65535):
            add("PMTU lies", ip6(own, target, 58, icmp6(own, target, 2, 0, struct.pack("!I", mtu), lie)))
        near = ipaddress.ip_address("fe80::bad")
        for source in (own, near, ipaddress.ip_address("::")):
            link = b"\x02\x01\x02\xba\xad\xba\xad\x01"
            for about in targets:
                if about.version == 6:
                    add("Neighbor Discovery", ip6(source, target, 58, icmp6(source, target, 135, 0, b"\0\0\0\0", about.packed + b"\x01" + link[1:]), ttl=255))
                    add("Neighbor Discovery", ip6(source, target, 58, icmp6(source, target, 136, 0, b"\xe0\0\0\0", about.packed + link), ttl=255))
            prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 9000, 9000, 0) + ipaddress.ip_address("2001:db8:bad::").packed
            add("Router Advertisements", ip6(source, target, 58, icmp6(source, target, 134, 0, struct.pack("!BBH", 64, 0, 9000), b"\0" * 8 + prefix), ttl=255))
            add("Router Advertisements", ip6(source, target, 58, icmp6(source, target, 133, 0), ttl=255))
            add("redirects", ip6(source, target, 58, icmp6(source, target, 137, 0, b"\0\0\0\0", near.packed + target.packed), ttl=255))
            for kind in (130, 131, 132, 143):
                add("MLD", ip6(source, target, 0, b"\x3a\x00\x05\x02\0\0\x01\x00" + icmp6(source, target, kind, 0, b"\0\0\0\x01", b"\x04" + b"\0" * 3 + target.packed), ttl=1))

everything = [(kind, packet[:1420]) for kind, list_ in packets.items() for packet in list_]
for _ in range(200):
    everything.append(("noise", bytes([chance.choice((0x45, 0x60))]) + os.urandom(chance.randrange(0, 200))))
chance.shuffle(everything)

# ETH_P_IP and ETH_P_IPV6; what is neither of them is sent as IPv4.
sockets = {}
for version, protocol in ((4, 0x0800), (6, 0x86DD)):
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    raw.bind((interface, protocol))
    sockets[version] = raw

counts = dict.fromkeys([kind for kind, _ in everything], 0)
refused = 0
began = time.monotonic()
sent = 0
while time.monotonic() - began < seconds:
    for kind, packet in everything:
        try:
            sockets[6 if packet[0] >> 4 == 6 else 4].send(packet)
            counts[kind] += 1
        except OSError:
            refused += 1
        sent += 1
        if rate and sent % 20 == 0:
            ahead = sent / rate - (time.monotonic() - began)
            if ahead > 0.001:
                time.sleep(ahead)
    if time.monotonic() - began >= seconds:
        break
print(json.dumps({"sent": sum(counts.values()), "refused": refused, "seconds": time.monotonic() - began, "different": len(everything), "kinds": counts}))
