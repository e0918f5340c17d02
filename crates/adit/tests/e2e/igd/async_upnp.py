"""What async-upnp-client makes of the gateway: it finds both devices, reads every document strictly, and calls what it can.

Arguments: the device's IPv4 and IPv6 address, and the address that the Internet sees.
"""

import asyncio
import sys
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address

from async_upnp_client.aiohttp import AiohttpRequester
from async_upnp_client.client_factory import UpnpFactory
from async_upnp_client.exceptions import UpnpActionError
from async_upnp_client.profiles.igd import IgdDevice
from async_upnp_client.search import async_search

OWN, OWN6, PUBLIC = sys.argv[1:]
ANYONE = IPv4Address("0.0.0.0")
LEASE = timedelta(seconds=600)


async def find(version: int) -> list[str]:
    found = []

    async def heard(headers):
        found.append(headers["location"])

    target = f"urn:schemas-upnp-org:device:InternetGatewayDevice:{version}"
    await async_search(heard, timeout=1, search_target=target, source=(OWN, 0))
    return found


async def refused(call, code: int) -> None:
    try:
        await call
    except UpnpActionError as error:
        assert error.error_code == code, error
    else:
        raise AssertionError(f"not refused with {code}")


async def check(version: int, location: str) -> None:
    device = await UpnpFactory(AiohttpRequester()).async_create_device(location)
    assert device.device_type.endswith(f":{version}"), device.device_type
    igd = IgdDevice(device, None)
    status = await igd.async_get_status_info()
    assert status.connection_status == "Connected", status
    assert await igd.async_get_external_ip_address() == PUBLIC
    assert (await igd.async_get_connection_type_info()).connection_type == "IP_Routed"
    assert (await igd.async_get_nat_rsip_status()).nat_enabled
    assert (await igd.async_get_default_connection_service()).endswith("WANIPConn1")
    assert (await igd.async_get_common_link_properties()).physical_link_status == "Up"
    # They are looked at every few seconds only.
    async with asyncio.timeout(20):
        while not (await igd.async_get_total_bytes_sent() and await igd.async_get_total_bytes_received()):
            await asyncio.sleep(0.5)
    port = 30000 + version
    text = f"version {version} <&>"
    await igd.async_add_port_mapping(ANYONE, port, "TCP", 8000, IPv4Address(OWN), True, text, LEASE)
    entry = await igd.async_get_specific_port_mapping_entry(ANYONE, port, "TCP")
    assert (entry.internal_port, entry.description) == (8000, text), entry
    assert timedelta(0) < entry.lease_duration <= LEASE, entry
    entry = await igd.async_get_generic_port_mapping_entry(0)
    assert (entry.external_port, entry.internal_client) == (port, IPv4Address(OWN)), entry
    if version == 2:
        assert (await igd.async_get_firewall_status()).inbound_pinhole_allowed
        pinhole = await igd.async_add_pinhole(IPv6Address("::"), 0, IPv6Address(OWN6), 8000, 6, LEASE)
        await igd.async_update_pinhole(pinhole, timedelta(seconds=900).seconds)
        await igd.async_delete_pinhole(pinhole)
        await refused(igd.async_delete_pinhole(pinhole), 704)
    await refused(igd.async_force_termination(), 606)
    await igd.async_delete_port_mapping(ANYONE, port, "TCP")
    await refused(igd.async_get_generic_port_mapping_entry(0), 713)


async def main() -> None:
    for version, count in ((1, 2), (2, 1)):
        found = await find(version)
        assert len(found) == count, found
        await check(version, found[0])
    print("both versions")


asyncio.run(main())
