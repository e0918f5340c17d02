"""A web server of a device: it says who it is, and whom it sees.

server.py NAME ADDRESS PORT [--tls CERTIFICATE KEY] [--proxy] answers each request with
`NAME CLIENT-ADDRESS CLIENT-PORT`, and logs the same. With --proxy the client is the one that the PROXY protocol names.
"""

import argparse
import http.server
import ipaddress
import socket
import ssl
import struct
import sys

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def read_exactly(connection, count):
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise ConnectionError("cut off")
        data += piece
    return data


def read_proxy_header(connection):
    head = read_exactly(connection, 16)
    if head[:12] != SIGNATURE or head[12] != 0x21:
        raise ConnectionError(f"no PROXY header: {head!r}")
    body = read_exactly(connection, struct.unpack("!H", head[14:])[0])
    size = {0x11: 4, 0x21: 16}[head[13]]
    client = ipaddress.ip_address(body[:size])
    return str(client), struct.unpack("!H", body[2 * size : 2 * size + 2])[0]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def setup(self):
        if arguments.proxy:
            self.client_address = read_proxy_header(self.request)
        if context:
            self.request = context.wrap_socket(self.request, server_side=True)
        super().setup()

    def do_GET(self):
        text = f"{arguments.name} {self.client_address[0]} {self.client_address[1]} {self.path}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 256

    def handle_error(self, request, client_address):
        print("failed:", client_address, repr(sys.exc_info()[1]), file=sys.stderr, flush=True)


parser = argparse.ArgumentParser()
parser.add_argument("name")
parser.add_argument("address")
parser.add_argument("port", type=int)
parser.add_argument("--tls", nargs=2)
parser.add_argument("--proxy", action="store_true")
arguments = parser.parse_args()
context = None
if arguments.tls:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*arguments.tls)
if ":" not in arguments.address:
    Server.address_family = socket.AF_INET
server = Server((arguments.address, arguments.port), Handler)
print("listening", flush=True)
server.serve_forever()
