"""PyPI `aiohttp` against a running server: URL as argument, behind it authority and version of TLS.

Ends with 0 and `all passed` when everything was as it must be. Before the last check it says
`waiting`: then the caller drains the server.
"""

import asyncio
import functools

import aiohttp
from aiohttp import WSMsgType

from checks import BIG, CLOSE_CODES, FRAGMENTS, LENGTHS, TEXTS, WRONG, arguments, expect

url, context = arguments()


async def received(socket):
    """The next message; pings of the server's are answered here, where pongs are to be seen."""
    while True:
        message = await socket.receive(timeout=60)
        if message.type != WSMsgType.PING:
            return message
        await socket.pong(message.data)


async def closed_by_server(socket):
    """The code and reason of the server's Close."""
    message = await received(socket)
    expect(message.type, WSMsgType.CLOSE, "the server sends a Close")
    return message.data, message.extra


async def refused(session):
    """Fails unless a certificate of an unknown authority is refused."""
    try:
        await session.ws_connect(url)
    except aiohttp.ClientConnectorCertificateError:
        return
    expect("connected", "refused", "a certificate of an unknown authority")


async def messages(open_socket):
    async with open_socket(max_msg_size=0, autoping=False) as socket:
        async def expect_next(kind, payload, what):
            message = await received(socket)
            expect(message.type, kind, what)
            # Compared separately: a mismatch must not print megabytes.
            expect(message.data == payload, True, what)

        for text in TEXTS:
            await socket.send_str(text)
            await expect_next(WSMsgType.TEXT, text, "a text comes back")
        for length in LENGTHS:
            await socket.send_bytes(bytes(length))
            await expect_next(WSMsgType.BINARY, bytes(length), f"{length} bytes come back")
        await socket.ping(b"ping")
        await expect_next(WSMsgType.PONG, b"ping", "a ping is answered")
        # The library sends whole messages only.
        socket._response.connection.transport.write(FRAGMENTS)
        await expect_next(WSMsgType.PONG, b"between", "a ping between fragments comes first")
        await expect_next(WSMsgType.TEXT, "grüße", "fragments come back")


async def main():
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        if context:
            await refused(session)
        # `True` is the library's default.
        open_socket = functools.partial(session.ws_connect, url, ssl=context or True)
        await messages(open_socket)
        for code in CLOSE_CODES:
            socket = await open_socket()
            await socket.close(code=code, message=b"bye")
            expect(socket.close_code, code, "the server answers with the same code")
        socket = await open_socket(autoclose=False)
        socket._response.connection.transport.write(WRONG)
        code, reason = await closed_by_server(socket)
        expect(code, 1002, "a reserved bit is a protocol error")
        expect("reserved bit" in reason, True, f"the reason tells it: {reason}")
        socket = await open_socket(autoclose=False, max_msg_size=0)
        try:
            await socket.send_bytes(bytes(BIG + 1))
        except ConnectionError:
            pass
        expect((await closed_by_server(socket))[0], 1009, "a message above the limit is too big")
        socket = await open_socket(autoclose=False)
        print("waiting", flush=True)
        expect((await closed_by_server(socket))[0], 1001, "a server that goes says so")
        await socket.close()
    print("all passed")


asyncio.run(main())
