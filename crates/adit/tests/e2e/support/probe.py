"""Probes ports with SYNs and datagrams, and tells as JSON what answers: by target and protocol, the kinds of answers
with their number, and the ports that are open. Arguments: source IPv4, source IPv6, ports as FIRST-LAST, packets a
second, targets."""

import ipaddress
import json
import socket
import struct
import sys
import threading
import time

source4, source6, ports, rate = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
targets = [ipaddress.ip_address(text) for text in sys.argv[5:]]
first, last = map(int, ports.split("-"))
SOURCE_PORT = 39999
IPV6_CHECKSUM = 7

answers = {
    str(target): {"tcp": {}, "udp": {}, "open": {"tcp": set(), "udp": set()}}
    for target in targets
}
sent = {str(target): 0 for target in targets}
lock = threading.Lock()
running = True


def note(target, protocol, kind, port):
    with lock:
        entry = answers.get(str(target))
        if entry is None:
            return
        entry[protocol][kind] = entry[protocol].get(kind, 0) + 1
        if kind in ("syn-ack", "datagram"):
            entry["open"][protocol].add(port)


def tcp_flags(flags):
    if flags & 0x12 == 0x12:
        return "syn-ack"
    return "rst" if flags & 0x04 else f"flags {flags:#x}"


def read_transport(protocol, source, data):
    here, there = struct.unpack("!HH", data[:4])
    if there != SOURCE_PORT:
        return
    kind = tcp_flags(data[13]) if protocol == "tcp" else "datagram"
    note(source, protocol, kind, here)


def read_error(packet, kind):
    """The packet is the one that the error is about."""
    if packet[0] >> 4 == 4:
        target, protocol, rest = ipaddress.ip_address(packet[16:20]), packet[9], packet[(packet[0] & 15) * 4 :]
    else:
        target, protocol, rest = ipaddress.ip_address(packet[24:40]), packet[6], packet[40:]
    if protocol in (6, 17) and len(rest) >= 4:
        note(target, {6: "tcp", 17: "udp"}[protocol], kind, struct.unpack("!H", rest[2:4])[0])


def listen(family, protocol):
    raw = socket.socket(family, socket.SOCK_RAW, protocol)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    raw.settimeout(0.2)
    while running:
        try:
            data, address = raw.recvfrom(65535)
        except TimeoutError:
            continue
        source = ipaddress.ip_address(address[0].split("%")[0])
        if family == socket.AF_INET:
            data = data[(data[0] & 15) * 4 :]
        if protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
            read_transport("tcp" if protocol == socket.IPPROTO_TCP else "udp", source, data)
        elif protocol == socket.IPPROTO_ICMP and data[0] in (3, 11, 12):
            read_error(data[8:], f"icmp {data[0]}/{data[1]}")
        elif protocol == socket.IPPROTO_ICMPV6 and data[0] < 128:
            read_error(data[8:], f"icmpv6 {data[0]}/{data[1]}")


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def syn(source, target, port):
    segment = struct.pack("!HHIIBBHHH", SOURCE_PORT, port, 1, 0, 5 << 4, 2, 65535, 0, 0)
    if target.version == 6:
        return segment
    pseudo = source.packed + target.packed + struct.pack("!BBH", 0, 6, len(segment))
    return segment[:16] + struct.pack("!H", checksum(pseudo + segment)) + segment[18:]


def datagram(port):
    # Over IPv4 a checksum may be left out.
    return struct.pack("!HHHH", SOURCE_PORT, port, 12, 0) + b"ping"


threads = [
    threading.Thread(target=listen, args=(family, protocol))
    for family, protocols in (
        (socket.AF_INET, (socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMP)),
        (socket.AF_INET6, (socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMPV6)),
    )
    for protocol in protocols
]
for thread in threads:
    thread.start()

began = time.monotonic()
count = 0
for target in targets:
    family = socket.AF_INET if target.version == 4 else socket.AF_INET6
    own = ipaddress.ip_address(source4 if target.version == 4 else source6)
    tcp = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP)
    udp = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_UDP)
    for raw, offset in ((tcp, 16), (udp, 6)):
        raw.bind((str(own), 0))
        if target.version == 6:
            raw.setsockopt(socket.IPPROTO_IPV6, IPV6_CHECKSUM, offset)
    for port in range(first, last + 1):
        for raw, segment in ((tcp, syn(own, target, port)), (udp, datagram(port))):
            try:
                raw.sendto(segment, (str(target), 0))
                sent[str(target)] += 1
            except OSError:
                pass
            count += 1
        ahead = count / rate - (time.monotonic() - began)
        if ahead > 0.005:
            time.sleep(ahead)
time.sleep(1)
running = False
for thread in threads:
    thread.join()
for target, entry in answers.items():
    entry["sent"] = sent[target]
    entry["open"] = {protocol: sorted(ports) for protocol, ports in entry["open"].items()}
print(json.dumps(answers))
