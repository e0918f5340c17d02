"""miniupnpc for Python: UPnP. Arguments: the gateway's address, the device's own, and the port of both sides."""

import sys

import miniupnpc

_, OWN, PORT = sys.argv[1], sys.argv[2], int(sys.argv[3])

router = miniupnpc.UPnP(multicastif=OWN, discoverdelay=1000)
assert router.discover() > 0, "nobody answers"
assert "ConnectionType" in router.selectigd() or router.statusinfo()[0] == "Connected"
assert router.lanaddr == OWN, router.lanaddr
for line in sys.stdin:
    if line.strip() == "close":
        assert router.deleteportmapping(PORT, "TCP")
        assert router.getspecificportmapping(PORT, "TCP") is None
        print("closed", flush=True)
    else:
        assert router.addportmapping(PORT, "TCP", OWN, PORT, "python", "", 600)
        assert router.getspecificportmapping(PORT, "TCP")[:2] == (OWN, PORT)
        print(PORT, "upnp", router.externalipaddress(), flush=True)
