"""Echo on Python websockets. One argument: the ADDR:PORT to listen on."""

import asyncio
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def echo(socket):
    try:
        async for message in socket:
            await socket.send(message)
    except ConnectionClosed:
        pass


async def main():
    host, port = sys.argv[1].split(":")
    async with serve(echo, host, int(port), compression=None, backlog=4096) as server:
        await server.serve_forever()


asyncio.run(main())
