"""QUIC by aioquic, on both sides.

quic.py serve NAME ADDRESS PORT CERTIFICATE KEY      answers each stream: who it is, whom it sees, how much it got
quic.py ask ADDRESS PORT SERVER-NAME AUTHORITY       one stream, prints the answer
    [--bytes N] [--protocols N] [--second]           sends N bytes; offers N protocols, so that the hello is long; version 2
    [--until FILE]                                   asks again and again over one connection until FILE is there
"""

import argparse
import asyncio
import os
import sys

from aioquic.asyncio import connect, serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion




async def answer(reader, writer):
    data = await reader.read()
    protocol = writer.transport.protocol
    address, port = protocol._quic._network_paths[0].addr[:2]
    address = address.removeprefix("::ffff:")
    writer.write(f"{arguments.name} {address} {port} {len(data)}\n".encode() + data)
    writer.write_eof()


async def run_server():
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["test"])
    configuration.supported_versions = [QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2]
    configuration.load_cert_chain(arguments.certificate, arguments.key)
    handler = lambda reader, writer: asyncio.ensure_future(answer(reader, writer))
    await serve(arguments.address, arguments.port, configuration=configuration, stream_handler=handler)
    print("listening", flush=True)
    await asyncio.Event().wait()


async def ask_once(client, data):
    reader, writer = await client.create_stream()
    writer.write(data)
    writer.write_eof()
    line, _, echo = (await reader.read()).partition(b"\n")
    assert echo == data, "other bytes came back"
    return line.decode()


async def run_client():
    protocols = ["test"] + [f"padding-{number:05}" for number in range(arguments.protocols)]
    configuration = QuicConfiguration(is_client=True, alpn_protocols=protocols, server_name=arguments.server_name)
    configuration.load_verify_locations(arguments.authority)
    if arguments.second:
        configuration.original_version = QuicProtocolVersion.VERSION_2
        configuration.supported_versions = [QuicProtocolVersion.VERSION_2]
    data = os.urandom(arguments.bytes)
    async with connect(arguments.address, arguments.port, configuration=configuration) as client:
        print(await ask_once(client, data), flush=True)
        while arguments.until and not os.path.exists(arguments.until):
            await asyncio.wait_for(ask_once(client, data), 10)
            await asyncio.sleep(0.02)
    print("done", flush=True)


parser = argparse.ArgumentParser()
roles = parser.add_subparsers(dest="role", required=True)
server = roles.add_parser("serve")
server.add_argument("name")
server.add_argument("address")
server.add_argument("port", type=int)
server.add_argument("certificate")
server.add_argument("key")
client = roles.add_parser("ask")
client.add_argument("address")
client.add_argument("port", type=int)
client.add_argument("server_name")
client.add_argument("authority")
client.add_argument("--bytes", type=int, default=10)
client.add_argument("--protocols", type=int, default=0)
client.add_argument("--second", action="store_true")
client.add_argument("--until")
arguments = parser.parse_args()
try:
    asyncio.run(asyncio.wait_for(run_server() if arguments.role == "serve" else run_client(), 120 if arguments.role == "ask" else None))
except (ConnectionError, TimeoutError, asyncio.TimeoutError) as error:
    sys.exit(f"failed: {error!r}")
