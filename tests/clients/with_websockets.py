"""PyPI `websockets` against a running server: URL as argument, behind it authority and version of
TLS. It compresses by itself; the path says whether contexts are taken over.

Ends with 0 and `all passed` when everything was as it must be. Before the last check it says
`waiting`: then the caller drains the server.
"""

import ssl

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from checks import BIG, CLOSE_CODES, FRAGMENTS, LENGTHS, TEXTS, WRONG, arguments, expect

url, context = arguments()


def opened():
    return connect(url, ssl=context, max_size=None, open_timeout=20, close_timeout=20)


def closed_by_server(socket):
    """The code and reason of the server's Close."""
    try:
        while True:
            socket.recv(timeout=20)
    except ConnectionClosed as closed:
        expect(closed.rcvd is not None, True, "the server sends a Close")
        return closed.rcvd.code, closed.rcvd.reason


if context:
    try:
        connect(url, open_timeout=20)
    except ssl.SSLCertVerificationError:
        pass
    else:
        expect("connected", "refused", "a certificate of an unknown authority")

with opened() as socket:
    (deflate,) = socket.protocol.extensions
    taken_over = [not deflate.remote_no_context_takeover, not deflate.local_no_context_takeover]
    expect(taken_over, [url.endswith("/takeover")] * 2, "compression is as the route has it")
    for text in TEXTS:
        socket.send(text)
        expect(socket.recv(timeout=20), text, "a text comes back")
    for length in LENGTHS:
        payload = bytes(length)
        socket.send(payload)
        expect(socket.recv(timeout=60) == payload, True, f"{length} bytes come back")
    socket.send(["a", "", "b" * 100_000, "c"])
    expect(socket.recv(timeout=20), "a" + "b" * 100_000 + "c", "a fragmented text comes back")
    socket.send([b"\x00" * 70_000, b"\xff"])
    expect(socket.recv(timeout=20), b"\x00" * 70_000 + b"\xff", "fragmented bytes come back")
    expect(socket.ping(b"ping").wait(20), True, "a ping is answered")
    socket.socket.sendall(FRAGMENTS)
    expect(socket.recv(timeout=20), "grüße", "fragments around a ping come back")

for code in CLOSE_CODES:
    with opened() as socket:
        socket.close(code, "bye")
        expect(socket.protocol.close_rcvd.code, code, "the server answers with the same code")
        expect(socket.protocol.close_rcvd_then_sent, False, "our Close came first")

with opened() as socket:
    socket.socket.sendall(WRONG)
    code, reason = closed_by_server(socket)
    expect(code, 1002, "a reserved bit is a protocol error")
    expect("reserved bit" in reason, True, f"the reason tells it: {reason}")

with opened() as socket:
    socket.send(bytes(BIG + 1))
    expect(closed_by_server(socket)[0], 1009, "a message above the limit is too big")

with opened() as socket:
    print("waiting", flush=True)
    expect(closed_by_server(socket)[0], 1001, "a server that goes says so")
print("all passed")
