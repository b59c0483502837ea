"""A router's UPnP for the lab: answers the search for gateways, and forwards the ports that it is asked for.

Speaks as much of UPnP's Internet Gateway Device 1 as a client needs: SSDP on 1900/udp, a description, and SOAP.
Runs in a router's namespace: ``lab_gateway.py LAN_ADDRESS OUTSIDE_ADDRESS``.
"""

from __future__ import annotations

import re
import socket
import struct
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

PORT = 5000
SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"
LAN, OUTSIDE = sys.argv[1:3]

DESCRIPTION = f"""<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major><minor>0</minor></specVersion>
<URLBase>http://{LAN}:{PORT}/</URLBase>
<device><deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType>
<friendlyName>lab</friendlyName><UDN>uuid:lab-1</UDN><deviceList>
<device><deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType><UDN>uuid:lab-2</UDN>
<serviceList><service><serviceType>urn:schemas-upnp-org:service:WANCommonInterfaceConfig:1</serviceType>
<serviceId>urn:upnp-org:serviceId:WANCommonIFC1</serviceId><SCPDURL>/s1.xml</SCPDURL>
<controlURL>/common</controlURL><eventSubURL>/e1</eventSubURL></service></serviceList><deviceList>
<device><deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType><UDN>uuid:lab-3</UDN>
<serviceList><service><serviceType>{SERVICE}</serviceType>
<serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId><SCPDURL>/s2.xml</SCPDURL>
<controlURL>/control</controlURL><eventSubURL>/e2</eventSubURL></service></serviceList>
</device></deviceList></device></deviceList></device></root>"""


def search() -> None:
    """Answers everybody who looks for a gateway."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", 1900))
        group = struct.pack("4s4s", socket.inet_aton("239.255.255.250"), socket.inet_aton(LAN))
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        while True:
            data, sender = listener.recvfrom(2048)
            wanted = re.search(rb"(?im)^ST:\s*(\S+)", data)
            if not data.startswith(b"M-SEARCH") or wanted is None or b"InternetGatewayDevice" not in wanted[1]:
                continue
            listener.sendto(
                b"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nEXT:\r\nSERVER: lab\r\n"
                b"ST: %s\r\nUSN: uuid:lab-1::%s\r\n"
                b"LOCATION: http://%s:%d/description.xml\r\n\r\n" % (wanted[1], wanted[1], LAN.encode(), PORT),
                sender,
            )


class Control(BaseHTTPRequestHandler):
    """The description, and the actions."""

    def do_GET(self) -> None:
        self._answer(DESCRIPTION)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        action = self.headers["SOAPAction"].strip('"').rpartition("#")[2]
        told = dict(re.findall(r"<(New\w+)[^>]*>([^<]*)</", body))
        self._answer(
            '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
            f'<u:{action}Response xmlns:u="{SERVICE}">{_act(action, told)}</u:{action}Response></s:Body></s:Envelope>'
        )

    def _answer(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        print(format % args, file=sys.stderr)


def _act(action: str, told: dict[str, str]) -> str:
    if action == "GetStatusInfo":
        return (
            "<NewConnectionStatus>Connected</NewConnectionStatus><NewLastConnectionError>ERROR_NONE"
            "</NewLastConnectionError><NewUptime>9</NewUptime>"
        )
    if action == "GetExternalIPAddress":
        return f"<NewExternalIPAddress>{OUTSIDE}</NewExternalIPAddress>"
    if action == "AddPortMapping":
        inside = f"{told['NewInternalClient']}:{told['NewInternalPort']}"
        print(f"lease {told['NewLeaseDuration']}", file=sys.stderr, flush=True)
        _forward("-A", told["NewExternalPort"], inside)
        _forwarded[told["NewExternalPort"]] = inside
    if action == "DeletePortMapping":
        _forward("-D", told["NewExternalPort"], _forwarded.pop(told["NewExternalPort"]))
    return ""


_forwarded: dict[str, str] = {}


def _forward(how: str, port: str, inside: str) -> None:
    rule = f"iptables -t nat {how} PREROUTING -i wan -p tcp --dport {int(port)} -j DNAT --to-destination {inside}"
    subprocess.run(rule.split(), check=True)


if __name__ == "__main__":
    threading.Thread(target=search, daemon=True).start()
    server = HTTPServer((LAN, PORT), Control)
    print("ready", flush=True)
    server.serve_forever()
