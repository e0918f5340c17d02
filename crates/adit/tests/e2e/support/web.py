"""A web server that says who it is and who it sees: web.py NAME PORT KIND CERTIFICATE KEY.

KIND is `tls`, `http`, or `proxy` (TLS behind a PROXY protocol header). A request for /hold is answered a line at a time: one
at once, one for each line that comes after.
"""

import socket
import ssl
import struct
import sys
import threading

name, port, kind, certificate, key = sys.argv[1:]


def exactly(connection, length):
    data = b""
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise ConnectionError("end")
        data += part
    return data


def told(connection):
    """The client as a PROXY protocol header of version 2 tells of it."""
    head = exactly(connection, 16)
    assert head[:12] == b"\r\n\r\n\0\r\nQUIT\n" and head[12] == 0x21, head
    body = exactly(connection, struct.unpack("!H", head[14:])[0])
    family, length = (socket.AF_INET, 4) if head[13] == 0x11 else (socket.AF_INET6, 16)
    (source_port,) = struct.unpack("!H", body[2 * length : 2 * length + 2])
    return f"{socket.inet_ntop(family, body[:length])} {source_port}"


def serve(connection, peer):
    seen = f"{peer[0].removeprefix('::ffff:')} {peer[1]}"
    try:
        if kind == "proxy":
            seen = f"{told(connection)} from {peer[0].removeprefix('::ffff:')}"
        if kind != "http":
            connection = context.wrap_socket(connection, server_side=True)
        stream = connection.makefile("rwb")
        request = stream.readline().decode()
        while stream.readline().strip():
            pass
        line = f"{name} {seen}\n".encode()
        if "/hold" in request:
            stream.write(b"HTTP/1.0 200 OK\r\n\r\n" + line)
            stream.flush()
            while stream.readline():
                stream.write(line)
                stream.flush()
        else:
            head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(line)}\r\n\r\n"
            stream.write(head.encode() + line)
            stream.flush()
        connection.close()
    except (OSError, AssertionError) as error:
        print(f"{seen}: {error!r}", flush=True)


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
if kind != "http":
    context.load_cert_chain(certificate, key)
listener = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)
print("listening", flush=True)
while True:
    accepted, peer = listener.accept()
    threading.Thread(target=serve, args=(accepted, peer), daemon=True).start()
