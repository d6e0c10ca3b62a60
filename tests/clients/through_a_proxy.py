"""A browser's page and a stranger's page, through a proxy that ends TLS.

Usage: through_a_proxy.py URL CERTIFICATE CONNECTIONS-URL
"""

import json
import ssl
import sys
import urllib.request

import websockets
from websockets.sync.client import connect

url, certificate, connections = sys.argv[1:]
context = ssl.create_default_context(cafile=certificate)
# The library's threads use one connection of OpenSSL at once, which loses a request now and then
# where TLS 1.3 sends a ticket at the same time.
context.maximum_version = ssl.TLSVersion.TLSv1_2


def page(origin):
    return connect(
        url,
        ssl=context,
        origin=origin,
        # The proxy replaces what a client claims about itself.
        additional_headers={"X-Forwarded-For": "203.0.113.9"},
        source_address=("127.0.0.2", 0),
    )


with page("https://app.example") as socket:
    socket.send(json.dumps({"type": "subscribe", "id": "1", "channel": "news"}))
    answer = json.loads(socket.recv())
    while answer["type"] == "welcome":
        answer = json.loads(socket.recv())
    assert answer["type"] == "subscribed", answer
    with urllib.request.urlopen(connections) as listed:
        text = listed.read().decode()
    assert '"127.0.0.2' in text and "203.0.113.9" not in text, text

try:
    page("https://stranger.example")
except websockets.exceptions.InvalidStatus as refused:
    assert refused.response.status_code == 403, refused
else:
    raise AssertionError("a page of another origin was accepted")

print("all passed")
