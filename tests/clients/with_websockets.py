"""PyPI `websockets` against a running server: URL as argument, behind it authority and version of
TLS. It compresses by itself; the path says whether contexts are taken over.

On asyncio: the library's threads use one connection of OpenSSL at once, which loses a request now
and then where TLS 1.3 sends a ticket at the same time.

Ends with 0 and `all passed` when everything was as it must be. Before the last check it says
`waiting`: then the caller drains the server.
"""

import asyncio
import ssl

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from checks import BIG, CLOSE_CODES, FRAGMENTS, LENGTHS, TEXTS, WRONG, arguments, expect

url, context = arguments()


def opened():
    return connect(url, ssl=context, max_size=None, open_timeout=20, close_timeout=20)


async def received(socket):
    return await asyncio.wait_for(socket.recv(), 60)


async def closed_by_server(socket):
    """The code and reason of the server's Close."""
    try:
        while True:
            await received(socket)
    except ConnectionClosed as closed:
        expect(closed.rcvd is not None, True, "the server sends a Close")
        return closed.rcvd.code, closed.rcvd.reason


async def refused():
    """Fails unless a certificate of an unknown authority is refused."""
    try:
        async with connect(url, open_timeout=20):
            expect("connected", "refused", "a certificate of an unknown authority")
    except ssl.SSLCertVerificationError:
        pass


async def messages(socket):
    (deflate,) = socket.protocol.extensions
    taken_over = [not deflate.remote_no_context_takeover, not deflate.local_no_context_takeover]
    expect(taken_over, [url.endswith("/takeover")] * 2, "compression is as the route has it")
    for text in TEXTS:
        await socket.send(text)
        expect(await received(socket), text, "a text comes back")
    for length in LENGTHS:
        payload = bytes(length)
        await socket.send(payload)
        expect(await received(socket) == payload, True, f"{length} bytes come back")
    await socket.send(["a", "", "b" * 100_000, "c"])
    expect(await received(socket), "a" + "b" * 100_000 + "c", "a fragmented text comes back")
    await socket.send([b"\x00" * 70_000, b"\xff"])
    expect(await received(socket), b"\x00" * 70_000 + b"\xff", "fragmented bytes come back")
    # Fails if it is not answered.
    await asyncio.wait_for(await socket.ping(b"ping"), 20)
    socket.transport.write(FRAGMENTS)
    expect(await received(socket), "grüße", "fragments around a ping come back")


async def main():
    if context:
        await refused()
    async with opened() as socket:
        await messages(socket)
    for code in CLOSE_CODES:
        async with opened() as socket:
            await socket.close(code, "bye")
            expect(socket.protocol.close_rcvd.code, code, "the server answers with the same code")
            expect(socket.protocol.close_rcvd_then_sent, False, "our Close came first")
    async with opened() as socket:
        socket.transport.write(WRONG)
        code, reason = await closed_by_server(socket)
        expect(code, 1002, "a reserved bit is a protocol error")
        expect("reserved bit" in reason, True, f"the reason tells it: {reason}")
    async with opened() as socket:
        try:
            await socket.send(bytes(BIG + 1))
        except ConnectionClosed:
            pass
        expect((await closed_by_server(socket))[0], 1009, "a message above the limit is too big")
    async with opened() as socket:
        print("waiting", flush=True)
        expect((await closed_by_server(socket))[0], 1001, "a server that goes says so")
    print("all passed")


asyncio.run(main())
