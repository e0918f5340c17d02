# Asks for many ports one after the other, by every protocol there is, and tells what was given: a list in, a list out, as JSON.
import http.client, json, re, socket, struct, sys

source = sys.argv[1]
gateway = "10.59.0.1"
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((source, 0))
sock.settimeout(3)
NUMBERS = {"tcp": 6, "udp": 17}
SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:2"


def mapped(address):
    return b"\0" * 10 + b"\xff\xff" + socket.inet_aton(address)


def told(message):
    sock.sendto(message, (gateway, 5351))
    return sock.recv(2000)


def pcp(wish, lifetime):
    message = struct.pack("!BBHI", 2, 1, 0, lifetime) + mapped(source) + b"\7" * 12
    external = wish["external"] if lifetime else 0
    message += struct.pack("!B3xHH", NUMBERS[wish["protocol"]], wish["internal"], external) + mapped("0.0.0.0")
    if wish["by"] == "pcp-exact" and lifetime:
        message += struct.pack("!BBH", 2, 0, 0)
    if wish["by"] == "pcp-set":
        message += struct.pack("!BBHHHB3x", 130, 0, 5, wish["count"], wish["internal"], 0)
    answer = told(message)
    external, = struct.unpack("!H", answer[42:44])
    # Without the option in the answer it is one port.
    count = struct.unpack("!H", answer[64:66])[0] if len(answer) > 60 and answer[60] == 130 else 1
    return {"result": answer[3], "external": external, "count": count}


def nat_pmp(wish, lifetime):
    code = {"udp": 1, "tcp": 2}[wish["protocol"]]
    external = wish["external"] if lifetime else 0
    answer = told(struct.pack("!BBHHHI", 0, code, 0, wish["internal"], external, lifetime))
    result, = struct.unpack("!H", answer[2:4])
    return {"result": result, "external": struct.unpack("!H", answer[10:12])[0], "count": 1}


def soap(action, arguments):
    inside = "".join(f"<{name}>{value}</{name}>" for name, value in arguments)
    body = (
        '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"'
        ' s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/">'
        f'<s:Body><u:{action} xmlns:u="{SERVICE}">{inside}</u:{action}></s:Body></s:Envelope>'
    )
    connection = http.client.HTTPConnection(gateway, 5351, timeout=3, source_address=(source, 0))
    headers = {"SOAPAction": f'"{SERVICE}#{action}"', "Content-Type": 'text/xml; charset="utf-8"'}
    connection.request("POST", control, body, headers)
    answer = connection.getresponse().read().decode()
    connection.close()
    return answer


def upnp(wish, lifetime):
    protocol = ("NewProtocol", wish["protocol"].upper())
    if not lifetime:
        soap("DeletePortMapping", [("NewRemoteHost", ""), ("NewExternalPort", wish["external"]), protocol])
        return None
    action = {"upnp-add": "AddPortMapping", "upnp-any": "AddAnyPortMapping"}[wish["by"]]
    answer = soap(action, [
        ("NewRemoteHost", ""), ("NewExternalPort", wish["external"]), protocol,
        ("NewInternalPort", wish["internal"]), ("NewInternalClient", source), ("NewEnabled", 1),
        ("NewPortMappingDescription", "asking"), ("NewLeaseDuration", lifetime),
    ])
    error = re.search(r"<errorCode>(\d+)<", answer)
    reserved = re.search(r"<NewReservedPort>(\d+)<", answer)
    external = int(reserved.group(1)) if reserved else wish["external"]
    return {"result": int(error.group(1)) if error else 0, "external": external, "count": 1}


WAYS = {"pcp": pcp, "pcp-exact": pcp, "pcp-set": pcp, "nat-pmp": nat_pmp, "upnp-add": upnp, "upnp-any": upnp}
wishes = json.load(sys.stdin)
if any(wish["by"].startswith("upnp") for wish in wishes):
    connection = http.client.HTTPConnection(gateway, 5351, timeout=3, source_address=(source, 0))
    connection.request("GET", "/igd2/description.xml")
    description = connection.getresponse().read().decode()
    place = description.index(f"<serviceType>{SERVICE}<")
    control = re.compile(r"<controlURL>(.*?)<").search(description, place).group(1)
outcomes = []
for wish in wishes:
    way = WAYS[wish["by"]]
    outcome = way(wish, wish.get("lifetime", 600))
    if outcome["result"] == 0 and not wish.get("keep"):
        way({**wish, "external": outcome["external"]}, 0)
    outcomes.append(outcome)
print(json.dumps(outcomes))
