"""Echo on Python websockets. Arguments: the ADDR:PORT to listen on [deflate|takeover]."""

import asyncio
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory


async def echo(socket):
    try:
        async for message in socket:
            await socket.send(message)
    except ConnectionClosed:
        pass


async def main():
    host, port = sys.argv[1].split(":")
    extensions = None
    if sys.argv[2:]:
        extensions = [
            ServerPerMessageDeflateFactory(
                server_no_context_takeover=sys.argv[2] == "deflate",
                client_no_context_takeover=True,
                compress_settings={"level": 1},
            )
        ]
    options = {"compression": None, "extensions": extensions, "backlog": 4096}
    async with serve(echo, host, int(port), **options) as server:
        await server.serve_forever()


asyncio.run(main())
