"""The application side of Seawall's links: sessions of clients, over the WebSockets that Seawall
nodes open to this process. README.md has examples, src/link/LINK.md the wire format.

    from seawall_link import Backend

    class Echo:
        def message(self, session, data, meta):
            session.send(data)

    backend = Backend(Echo())
    await backend.listen(8000)

What it promises: messages of a session are handled one after the other, in order; sessions in
parallel. A message is acknowledged when its handler returns: if the process ends before, it is
delivered again. `close` is called once for each session that `open` has accepted. All that is
written in one turn of the event loop leaves in one WebSocket message. Handlers may be coroutines;
all methods are to be called in the thread of the event loop.

How it is built: link.py has links and sessions, body.py the bodies of their records, websocket.py
the WebSocket below a link.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import random
import socket
from typing import Any, Callable, Iterable, Optional, Union

from .body import Data, Reject, encode_data
from .link import DRAIN, HANDLER_FAILED, NO_SESSION, CommandError, End, Link, Meta, Session
from .link import call, make_future, settle
from .websocket import WebSocket, accept_key, dial

__all__ = ["Backend", "CommandError", "End", "HANDLER_FAILED", "Meta", "Reject", "Session"]

SUBPROTOCOL = "seawall.link.v1"
_log = logging.getLogger("seawall_link")


class Backend:
    """What an application has of Seawall: the sessions of its clients, on all links.

    `handlers` is an object with any of these methods, each a function or a coroutine:
    `open(session, request)` returns None or a dict of `subprotocol`, `user`, `info`, `state` and
    `expires_in_s`, or raises `Reject` (`request["moved"]`: the session was on another link before);
    `message(session, data, meta)`, `close(session, end)`, `slow(session, size)`,
    `ready(session, size)`, `ask(question, session)`, which returns the answer, and `drain()`.

    `token` is what nodes present (of several, each is valid); `capacity` the share of sessions,
    relative to other instances.
    """

    def __init__(
        self,
        handlers: Any,
        token: Union[str, Iterable[str]] = (),
        instance: Optional[str] = None,
        capacity: int = 100,
    ):
        tokens = [token] if isinstance(token, str) else token
        self._tokens = [f"Bearer {one}".encode() for one in tokens]
        self._handlers = handlers
        instance = (instance or f"{socket.gethostname()}-{os.getpid()}")[:128]
        self._hello = {"instance": instance, "capacity": capacity}
        self._links: set[Link] = set()
        #: Sessions that are open, or whose handlers still run.
        self._active: set[Session] = set()
        self._tasks: set[asyncio.Future[Any]] = set()
        self._servers: list[asyncio.AbstractServer] = []
        self._when_idle: list[asyncio.Future[None]] = []
        self._is_stopping = False

    @property
    def sessions(self) -> list[Session]:
        """All open sessions."""
        return [session for link in self._links for session in link.sessions.values()]

    async def listen(
        self, port: int, host: str = "127.0.0.1", path: str = "/seawall"
    ) -> tuple[str, int]:
        """Takes links at a port; returns the address."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
                status, fields = self._judge(path, head)
                lines = [f"HTTP/1.1 {status}", *fields, "", ""]
                writer.write("\r\n".join(lines).encode())
                if status.startswith("101"):
                    await self._run_link(WebSocket(reader, writer, is_client=False))
            except (OSError, ValueError, EOFError, asyncio.LimitOverrunError, asyncio.TimeoutError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, host, port)
        self._servers.append(server)
        address, bound = server.sockets[0].getsockname()[:2]
        return address, bound

    async def connect_to(self, url: str, api_key: str) -> None:
        """Opens a link to a node (`ws://HOST:PORT/v1/link`), where nodes cannot reach this process,
        and opens it again when it is lost. Returns with the first.
        """
        linked = make_future()
        self._spawn(self._keep_linked(url, api_key, linked))
        await linked

    async def _keep_linked(self, url: str, key: str, linked: asyncio.Future[None]) -> None:
        delay = 0.1
        while not self._is_stopping:
            try:
                wire = await asyncio.wait_for(dial(url, SUBPROTOCOL, key), 10)
                settle(linked)
                delay = 0.1
                await self._run_link(wire)
            except (OSError, ValueError, EOFError, asyncio.TimeoutError) as error:
                _log.error("no link to %s: %s", url, error)
            await asyncio.sleep(delay * (0.5 + random.random()))
            delay = min(delay * 2, 5)

    def send_many(self, sessions: Iterable[Session], data: Data) -> None:
        """Sends a message to many sessions, once on each link."""
        body, is_binary = encode_data(data)
        of_links: dict[Link, list[bytes]] = {}
        for session in sessions:
            if session.is_open and session._is_accepted:
                session._link.check_length(len(body))
                of_links.setdefault(session._link, []).append(session._key)
            else:
                session.send(data)
        for link, keys in of_links.items():
            link.send_many(keys, body, is_binary)

    async def command(self, command: dict[str, Any]) -> Any:
        """Has a node carry out a command of `POST /v1/batch`; raises `CommandError`."""
        link = next((one for one in self._links if one.is_ready), None)
        if not link:
            raise ConnectionError("there is no link")
        return await link.command(command)

    async def drain(self) -> None:
        """Moves all sessions to other instances; returns once none is here. Exit then."""
        self._is_stopping = True
        for link in self._links:
            link.write(DRAIN, 0, NO_SESSION, 0, b"")
        while self._active:
            self._when_idle.append(make_future())
            await self._when_idle[-1]
        for link in list(self._links):
            link.flush()
            await link.wire.await_written()

    def close(self) -> None:
        """Ends all links, and takes no more: sessions continue on other instances."""
        self._is_stopping = True
        for server in self._servers:
            server.close()
        for link in self._links:
            link.flush()
            link.wire.end(1001, "the backend stops")

    def _judge(self, path: str, head: bytes) -> tuple[str, list[str]]:
        """The status and fields that answer a request."""
        request, *lines = head.decode("latin-1").split("\r\n")
        named = (line.split(":", 1) for line in lines if ":" in line)
        fields = {name.lower(): value.strip() for name, value in named}
        given = fields.get("authorization", "").encode()
        known = [hmac.compare_digest(one, given) for one in self._tokens]
        no_body = ["Content-Length: 0", "Connection: close"]
        key = fields.get("sec-websocket-key")
        if request.split(" ")[1].split("?")[0] != path:
            return "404 Not Found", no_body
        if self._tokens and not any(known):
            return "401 Unauthorized", ["WWW-Authenticate: Bearer", *no_body]
        if self._is_stopping:
            return "503 Service Unavailable", no_body
        if not key or fields.get("sec-websocket-version") != "13":
            return "426 Upgrade Required", ["Sec-WebSocket-Version: 13", *no_body]
        offered = fields.get("sec-websocket-protocol", "").split(",")
        if SUBPROTOCOL not in (one.strip() for one in offered):
            return "400 Bad Request", no_body
        accept, protocol = accept_key(key), SUBPROTOCOL
        return "101 Switching Protocols", [
            "Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Accept: {accept}",
            f"Sec-WebSocket-Protocol: {protocol}",
        ]

    async def _run_link(self, wire: WebSocket) -> None:
        link = Link(self, wire)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)

    def _handler(self, name: str) -> Optional[Callable[..., Any]]:
        return getattr(self._handlers, name, None)

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _finished(self, session: Session) -> None:
        self._active.discard(session)
        if not self._active:
            for future in self._when_idle:
                settle(future)
            self._when_idle.clear()

    async def _drained(self) -> None:
        try:
            await call(self._handler("drain"))
        except Exception as error:
            self._report("drain", None, error)

    def _report(self, handler: str, session: Optional[Session], error: Exception) -> None:
        connection = session.connection if session else "no session"
        _log.error("the handler %s failed (%s)", handler, connection, exc_info=error)
