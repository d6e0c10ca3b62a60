"""The application side of Seawall's links: sessions of clients, over the WebSockets between Seawall
nodes and this process. This file is the whole library, for Python 3.9 and newer; Seawall's
src/link/LINK.md has the wire format, src/web/link/README.md examples.

Messages of a session are handled one after the other, in order; sessions in parallel. A message is
acknowledged when its handler returns: if the process ends before, it is delivered again. `close` is
called once for each session that `open` has accepted. All that is written in one turn of the event
loop leaves in one WebSocket message. Handlers may be coroutines; all methods are to be called in
the thread of the event loop.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import inspect
import json
import logging
import os
import random
import re
import socket
import ssl
import struct
from collections import deque
from typing import Any, Callable, Iterable, NamedTuple, Optional, Union
from urllib.parse import urlsplit

__all__ = ["Backend", "CommandError", "End", "HANDLER_FAILED", "Meta", "Reject", "Session"]

#: The close code of a client whose handler has failed.
HANDLER_FAILED = 4500
FAILED = "the application failed"
SUBPROTOCOL = "seawall.link.v1"
HEADER = struct.Struct(">IBB10sI")
#: Records are joined into messages of up to this length.
MESSAGE_BYTES = 256 * 1024
REASON_BYTES_MAX = 123
#: Sessions in one `many` record.
MANY_MAX = 4096
#: Seawall pings every second: a link without any bytes for so long is lost.
SILENCE_SECONDS_MAX = 10
(HELLO, OPEN, ACCEPT, REJECT, TEXT, BINARY, ACK, SENT, SLOW, READY, CLOSE, STATE, MANY, ASK, ANSWER,
 COMMAND, RESULT, DRAIN, PING, PONG) = range(1, 21)
MOVED, REDELIVERED, RECEIPT, FLAG_BINARY = 1, 2, 4, 8
NO_SESSION = bytes(10)
Data = Union[str, bytes]
_log = logging.getLogger("seawall_link")


class Reject(Exception):
    """Raised or returned by `open`: the client gets this HTTP status (401, 403, 429 or 503)."""

    def __init__(self, status: int, message: str = ""):
        # One line, well-formed.
        message = re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", message.encode(errors="replace").decode())
        message = message[:200]
        super().__init__(message)
        if status not in (401, 403, 429, 503):
            raise ValueError(f"a client is rejected with 401, 403, 429 or 503, not {status}")
        self.status, self.message = status, message


class CommandError(Exception):
    """A command has failed; `code` is one of the HTTP API."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


class Meta(NamedTuple):
    """What a message handler learns of a message besides its data."""

    binary: bool
    redelivered: bool
    #: Counts the messages of a connection from 1: with `session.connection` it identifies repeats.
    number: int


class End(NamedTuple):
    """Why a session is over; `moved`: it continues on another link."""

    code: int
    reason: str
    moved: bool


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
                wire = await asyncio.wait_for(dial(url, key), 10)
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
        body = encode_json(command)
        write = lambda number: link.write(COMMAND, 0, NO_SESSION, number, body)  # noqa: E731
        return await link.commands.add(write)

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
        return "101 Switching Protocols", [
            "Connection: Upgrade", "Upgrade: websocket",
            f"Sec-WebSocket-Accept: {accept_key(key)}", f"Sec-WebSocket-Protocol: {SUBPROTOCOL}",
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


class Session:
    """One client."""

    def __init__(self, link: Link, key: bytes, number: int, request: dict[str, Any]):
        #: The identity of the client's connection, the same wherever the session moves.
        self.connection: str = request["connection"]
        self.address: Optional[str] = request.get("address")
        self.path: Optional[str] = request.get("path")
        self.subprotocol: Optional[str] = request.get("subprotocol")
        self.user: Optional[str] = request.get("user")
        self.info: Any = request.get("info")
        self.state: Any = request.get("state")
        #: Whether messages can be sent.
        self.is_open = True
        #: Whether much is queued for this client: send less until `ready` is called.
        self.is_slow = False
        self._link, self._key, self._number = link, key, number
        #: Steps that run one after the other, and whether each is a message.
        self._queue: deque[tuple[bool, Callable[[], Any]]] = deque()
        self._is_running = False
        #: Records that are written before the client is accepted: they follow then.
        self._early: list[tuple[int, int, int, bytes]] = []
        self._is_accepted = False
        #: Whether Seawall knows that it is over.
        self._is_gone = False
        #: Whether the client has left, so that only acknowledgements are awaited.
        self._has_left = False
        self._is_finished = False
        self._receipts = _Awaited()
        self._push(lambda: self._open(request))

    def send(self, data: Data, receipt: bool = False) -> Optional[asyncio.Future[None]]:
        """Sends a message: text if it is a string, else binary. Does nothing once the session is
        over. With `receipt`, returns a future: it resolves when the client's TCP connection has the
        bytes, and fails if the session ends, moves or loses its link before.
        """
        body, is_binary = encode_data(data)
        self._link.check_length(len(body))
        kind = BINARY if is_binary else TEXT
        if not receipt:
            self._write(kind, 0, 0, body)
            return None
        if not self.is_open:
            return make_future(ConnectionError("the session is over"))
        return self._receipts.add(lambda number: self._write(kind, RECEIPT, number, body))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Closes the client's connection, with 1000 or a code from 3000 to 4999."""
        if code != 1000 and not 3000 <= code <= 4999:
            raise ValueError(f"a backend closes with 1000 or 3000 to 4999, not {code}")
        body = reason.encode()
        if len(body) > REASON_BYTES_MAX:
            raise ValueError("a reason has at most 123 bytes")
        self._write(CLOSE, 0, code, body)
        self._end(End(code, reason, False), is_dropping=True)

    def set_state(self, value: Any) -> None:
        """Keeps a JSON value of at most 4096 bytes with the session: `state` wherever it moves."""
        body = encode_kept("state", value, 4096)
        self.state = value
        self._write(STATE, 0, 0, body)

    def _deliver(self, data: Data, meta: Meta) -> None:
        if meta.number != (self._number + 1) & 0xFFFFFFFF:
            raise WireError("a message is out of sequence")
        self._number = meta.number
        self._push(lambda: self._message(data, meta), is_message=True)

    def _set_slow(self, is_slow: bool, size: int) -> None:
        self.is_slow = is_slow
        self._link.backend._spawn(self._handle("slow" if is_slow else "ready", size))

    def _move(self) -> None:
        """Messages that no handler has seen are delivered elsewhere."""
        self._drop_messages()
        self._push(self._leave)

    async def _leave(self) -> None:
        await self._finish(End(0, "moved", True))
        self._link.flush_ack(self)
        self._write(CLOSE, MOVED, 0, b"")
        self._end(None)

    def _gone(self, end: End) -> None:
        """The client has left, or the link is lost."""
        if not self.is_open:
            return
        self._is_gone = True
        self._has_left = not end.moved
        # Messages of a client that has left are still handled.
        self._end(end, is_dropping=end.moved)

    def _end(self, end: Optional[End], is_dropping: bool = False) -> None:
        if not self.is_open:
            return
        self.is_open = False
        self._link.sessions.pop(self._key, None)
        self._receipts.reject_all("the session has ended before the message was sent")
        if is_dropping:
            self._drop_messages()
        if end:
            self._push(lambda: self._finish(end))

    def _ack(self, number: int) -> None:
        if self.is_open or self._has_left:
            self._link.write(ACK, 0, self._key, number, b"")

    def _write(self, kind: int, flags: int, number: int, body: bytes) -> None:
        if self.is_open and self._is_accepted:
            self._link.write(kind, flags, self._key, number, body)
        elif self.is_open:
            self._early.append((kind, flags, number, body))

    def _drop_messages(self) -> None:
        self._queue = deque(step for step in self._queue if not step[0])

    def _push(self, run: Callable[[], Any], is_message: bool = False) -> None:
        self._queue.append((is_message, run))
        if not self._is_running:
            self._is_running = True
            self._link.backend._spawn(self._run())

    async def _run(self) -> None:
        while self._queue:
            await self._queue.popleft()[1]()
        self._is_running = False
        if not self.is_open:
            self._link.backend._finished(self)

    async def _open(self, request: dict[str, Any]) -> None:
        backend = self._link.backend
        try:
            answer = await call(backend._handler("open"), self, request)
            if isinstance(answer, Reject):
                raise answer
            body = encode_accept(answer or {}, request)
            for name in ("subprotocol", "user", "info", "state"):
                if answer and name in answer:
                    setattr(self, name, answer[name])
            self._is_accepted = True
            if self._is_gone:
                return
            if answer or not request["moved"]:
                self._link.write(ACCEPT, 0, self._key, 0, body)
            for kind, flags, number, early in self._early:
                self._link.write(kind, flags, self._key, number, early)
        except Exception as error:
            self._is_finished = True
            if not isinstance(error, Reject):
                backend._report("open", self, error)
            if not self._is_gone:
                self._refuse(request, error if isinstance(error, Reject) else Reject(503, FAILED))
            if self._has_left:
                self._link.ack(self, self._number)
            self._end(None, is_dropping=True)

    def _refuse(self, request: dict[str, Any], reject: Reject) -> None:
        """A client that was moved here has been accepted before: it can only be closed."""
        if request["moved"]:
            code = HANDLER_FAILED if reject.status == 503 else 4403
            self._link.write(CLOSE, 0, self._key, code, b"")
        else:
            message = {"message": reject.message} if reject.message else {}
            body = encode_json({"status": reject.status, **message})
            self._link.write(REJECT, 0, self._key, 0, body)

    async def _message(self, data: Data, meta: Meta) -> None:
        is_handled = await self._handle("message", data, meta)
        # What a client that has left sent is not to be delivered again.
        if self._has_left or (is_handled and self.is_open):
            self._link.ack(self, meta.number)

    async def _handle(self, name: str, *values: Any) -> bool:
        """Calls a handler; if it fails, closes the client. Returns whether it has not."""
        try:
            await call(self._link.backend._handler(name), self, *values)
            return True
        except Exception as error:
            self._link.backend._report(name, self, error)
            self.close(HANDLER_FAILED, FAILED)
            return False

    async def _finish(self, end: End) -> None:
        """Calls the close handler, once."""
        if self._is_finished:
            return
        self._is_finished = True
        try:
            await call(self._link.backend._handler("close"), self, end)
        except Exception as error:
            self._link.backend._report("close", self, error)


class Link:
    """The records of one WebSocket, and its sessions."""

    def __init__(self, backend: Backend, wire: WebSocket):
        self.backend, self.wire = backend, wire
        self.sessions: dict[bytes, Session] = {}
        self.is_ready = False
        self._records: list[bytes] = []
        self._is_scheduled = False
        self._acks: dict[Session, int] = {}
        self.commands = _Awaited()
        self._record_bytes_max = MESSAGE_BYTES
        self.write(HELLO, 0, NO_SESSION, 1, encode_json(backend._hello))

    async def run(self) -> None:
        """Handles records until the link ends."""
        code, reason = 1000, "the link has ended"
        watch = asyncio.ensure_future(self._watch())
        try:
            while (message := await self.wire.receive()) is not None:
                self._receive(message)
        except WireError as error:
            code, reason = error.code, str(error)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            watch.cancel()
            self.wire.end(code, reason)
            self.commands.reject_all(reason)
            for session in list(self.sessions.values()):
                session._gone(End(0, reason, True))

    async def _watch(self) -> None:
        """Counts seconds in which this process read nothing although it could."""
        silent = 0
        while silent < SILENCE_SECONDS_MAX:
            self.wire.is_silent = True
            await asyncio.sleep(1)
            silent = silent + 1 if self.wire.is_silent else 0
        self.wire.end(1001, "no bytes for 10 s")

    def check_length(self, length: int) -> None:
        if length > self._record_bytes_max:
            raise ValueError(f"a message has at most {self._record_bytes_max} bytes")

    def write(self, kind: int, flags: int, key: bytes, number: int, body: bytes) -> None:
        self._records.append(HEADER.pack(len(body), kind, flags, key, number) + body)
        self._schedule()

    def ack(self, session: Session, number: int) -> None:
        """Acknowledges at the end of the turn."""
        self._acks[session] = number
        self._schedule()

    def flush_ack(self, session: Session) -> None:
        number = self._acks.pop(session, None)
        if number is not None:
            session._ack(number)

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Sends what has been written."""
        for session in list(self._acks):
            self.flush_ack(session)
        records, self._records = self._records, []
        self._is_scheduled = False
        joined: list[bytes] = []
        size = 0
        for record in records:
            if joined and size + len(record) > MESSAGE_BYTES:
                self.wire.send(b"".join(joined))
                joined, size = [], 0
            joined.append(record)
            size += len(record)
        if joined:
            self.wire.send(b"".join(joined))

    def send_many(self, keys: list[bytes], body: bytes, is_binary: bool) -> None:
        for at in range(0, len(keys), MANY_MAX):
            some = keys[at : at + MANY_MAX]
            if len(some) * 10 + len(body) <= self._record_bytes_max:
                flags = FLAG_BINARY if is_binary else 0
                self.write(MANY, flags, NO_SESSION, len(some), b"".join(some) + body)
            else:
                for key in some:
                    self.write(BINARY if is_binary else TEXT, 0, key, 0, body)

    def _receive(self, message: bytes) -> None:
        at = 0
        while at < len(message):
            if len(message) - at < HEADER.size:
                raise WireError("a record is truncated")
            length, kind, flags, key, number = HEADER.unpack_from(message, at)
            at += HEADER.size
            if len(message) - at < length:
                raise WireError("a record is truncated")
            self._record(kind, flags, key, number, message[at : at + length])
            at += length

    def _record(self, kind: int, flags: int, key: bytes, number: int, body: bytes) -> None:
        session = self.sessions.get(key)
        if not self.is_ready:
            self._take_hello(kind, number, body)
        elif kind == OPEN:
            self._open(session, flags, key, number, body)
        elif kind in (TEXT, BINARY):
            data: Data = body if kind == BINARY else decode_text(body)
            if session:
                meta = Meta(kind == BINARY, flags & REDELIVERED != 0, number)
                session._deliver(data, meta)
        elif kind == SENT:
            if session:
                settle(session._receipts.take(number))
        elif kind in (SLOW, READY):
            if session:
                session._set_slow(kind == SLOW, number)
        elif kind == CLOSE:
            self._close(session, flags, number, body)
        elif kind == ASK:
            self.backend._spawn(self._ask(session, key, number, decode_question(body)))
        elif kind == RESULT:
            self._take_result(number, decode_json(body))
        elif kind == DRAIN:
            self.backend._spawn(self.backend._drained())
        elif kind == PING:
            self.write(PONG, 0, NO_SESSION, 0, body)
        elif kind != PONG and HELLO <= kind <= PONG:
            raise WireError(f"kind {kind} is of backends")

    def _take_hello(self, kind: int, number: int, body: bytes) -> None:
        if kind != HELLO:
            raise WireError("the first record is not hello")
        if number != 1:
            raise WireError(f"version {number} is not known")
        try:
            self._record_bytes_max = int(decode_json(body)["limits"]["record_bytes_max"])
        except (KeyError, TypeError, ValueError):
            raise WireError("hello has no limits") from None
        self.wire.bytes_max = max(MESSAGE_BYTES, self._record_bytes_max + HEADER.size)
        self.is_ready = True

    def _open(
        self, session: Optional[Session], flags: int, key: bytes, number: int, body: bytes
    ) -> None:
        if session:
            raise WireError("open of a session that is open")
        request = decode_json(body)
        if not isinstance(request, dict) or not isinstance(request.get("connection"), str):
            raise WireError("open has no connection")
        request["moved"] = flags & MOVED != 0
        opened = Session(self, key, number, request)
        self.sessions[key] = opened
        self.backend._active.add(opened)

    def _close(self, session: Optional[Session], flags: int, code: int, body: bytes) -> None:
        if flags & MOVED:
            if session:
                session._move()
            return
        if not 1000 <= code <= 4999 or len(body) > REASON_BYTES_MAX:
            raise WireError("a wrong close code or reason")
        reason = decode_text(body)
        if session:
            session._gone(End(code, reason, False))

    async def _ask(self, session: Optional[Session], key: bytes, number: int, ask: Any) -> None:
        handler = self.backend._handler("ask")
        try:
            message = "the application answers no questions: it has no handler `ask`"
            error = {"code": "unknown_method", "message": message}
            if isinstance(ask, Exception):
                raise ask
            answer = await call(handler, ask, session) if handler else {"error": error}
            body = encode_json({} if answer is None else answer)
        except Exception as failure:
            self.backend._report("ask", session, failure)
            body = encode_json({"error": {"code": "internal", "message": FAILED}})
        self.write(ANSWER, 0, key, number, body)

    def _take_result(self, number: int, result: Any) -> None:
        error = result.get("error") if isinstance(result, dict) else None
        failure = None
        if isinstance(error, dict) and "code" in error:
            failure = CommandError(error["code"], error.get("message", ""))
        settle(self.commands.take(number), result, failure)


class _Awaited:
    """Futures by number."""

    def __init__(self) -> None:
        self._all: dict[int, asyncio.Future[Any]] = {}
        self._last = 0

    def add(self, write: Callable[[int], None]) -> asyncio.Future[Any]:
        self._last = self._last % 0xFFFFFFFF + 1
        write(self._last)
        future = make_future()
        self._all[self._last] = future
        return future

    def take(self, number: int) -> asyncio.Future[Any]:
        if number not in self._all:
            raise WireError(f"nothing awaits number {number}")
        return self._all.pop(number)

    def reject_all(self, reason: str) -> None:
        for future in self._all.values():
            settle(future, error=ConnectionError(reason))
        self._all.clear()


class WireError(Exception):
    """Ends a link with a close code."""

    def __init__(self, message: str, code: int = 1002):
        super().__init__(message)
        self.code = code


def mask_payload(payload: bytes, key: bytes) -> bytes:
    keys = (key * (len(payload) // 4 + 1))[: len(payload)]
    both = int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")
    return both.to_bytes(len(payload), "big")


class WebSocket:
    """One end of a WebSocket for binary messages; a client masks what it sends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_client: bool):
        self._reader, self._writer, self._is_client = reader, writer, is_client
        self._is_over = False
        #: The longest message that is received.
        self.bytes_max = MESSAGE_BYTES
        self.is_silent = False

    async def receive(self) -> Optional[bytes]:
        """Returns the next message, or None at the end."""
        parts: list[bytes] = []
        size, is_begun = 0, False
        while not self._is_over:
            opcode, is_last, payload = await self._frame(size)
            if opcode == 8:
                return None
            if opcode == 9:
                self._write(10, payload)
            if opcode >= 8:
                continue
            if (opcode == 0) != is_begun:
                raise WireError("fragments are out of order")
            is_begun = True
            parts.append(payload)
            size += len(payload)
            if is_last:
                return payload if len(parts) == 1 else b"".join(parts)
        return None

    async def _frame(self, size: int) -> tuple[int, bool, bytes]:
        first, second = await self._read(2)
        opcode, is_last, length = first & 15, first >= 128, second & 127
        if length >= 126:
            length = int.from_bytes(await self._read(2 if length == 126 else 8), "big")
        if opcode == 1:
            raise WireError("a text message: a link has binary ones only")
        is_wrong = opcode >= 8 and (length > 125 or not is_last)
        if is_wrong or first & 0x70 or opcode not in (0, 2, 8, 9, 10):
            raise WireError("a frame is reserved or wrong")
        if (second >= 128) == self._is_client:
            raise WireError("a frame is masked wrongly")
        if opcode < 8 and size + length > self.bytes_max:
            raise WireError(f"a message is longer than {self.bytes_max} bytes", 1009)
        if self._is_client:
            return opcode, is_last, await self._read(length)
        key = await self._read(4)
        return opcode, is_last, mask_payload(await self._read(length), key)

    async def _read(self, count: int) -> bytes:
        data = await self._reader.readexactly(count)
        self.is_silent = False
        return data

    def send(self, payload: bytes) -> None:
        if not self._is_over:
            self._write(2, payload)

    def _write(self, opcode: int, payload: bytes) -> None:
        length, client = len(payload), 128 if self._is_client else 0
        size = length if length < 126 else 126 if length < 65536 else 127
        head = struct.pack(">BB", 128 | opcode, client | size)
        head += struct.pack({126: ">H", 127: ">Q"}[size], length) if size > 125 else b""
        if self._is_client:
            key = os.urandom(4)
            head, payload = head + key, mask_payload(payload, key)
        self._writer.write(head + payload)

    def end(self, code: int, reason: str) -> None:
        """Sends a close frame and ends the connection."""
        if self._is_over:
            return
        self._is_over = True
        self._write(8, struct.pack(">H", code) + reason.encode()[:REASON_BYTES_MAX])
        self._writer.close()
        transport = self._writer.transport
        asyncio.get_running_loop().call_later(2, transport.abort)

    async def await_written(self) -> None:
        while not self._is_over and self._writer.transport.get_write_buffer_size() > 0:
            await asyncio.sleep(0.005)


def accept_key(key: str) -> str:
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
    return base64.b64encode(digest).decode()


async def dial(url: str, api_key: str) -> WebSocket:
    target = urlsplit(url)
    is_tls = target.scheme == "wss"
    host, port = target.hostname or "", target.port or (443 if is_tls else 80)
    path = f"{target.path or '/'}?{target.query}" if target.query else target.path or "/"
    tls = ssl.create_default_context() if is_tls else None
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"GET {path} HTTP/1.1", f"Host: {target.netloc}", "Connection: Upgrade",
        "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}",
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL}", f"Authorization: Bearer {api_key}", "", "",
    ]
    writer.write("\r\n".join(lines).encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    if " 101 " not in head.split("\r\n")[0] or accept_key(key) not in head:
        writer.close()
        raise ConnectionError(f"the node answers {head.splitlines()[0]}")
    return WebSocket(reader, writer, is_client=True)


async def call(handler: Optional[Callable[..., Any]], *values: Any) -> Any:
    result = handler(*values) if handler else None
    return await result if inspect.isawaitable(result) else result


def make_future(error: Optional[Exception] = None) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    # An error that the caller does not await is not logged.
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    if error:
        future.set_exception(error)
    return future


def settle(future: asyncio.Future[Any], result: Any = None, error: Any = None) -> None:
    if future.done():
        return
    if error:
        future.set_exception(error)
    else:
        future.set_result(result)


def encode_data(data: Data) -> tuple[bytes, bool]:
    if isinstance(data, str):
        return data.encode(), False
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data), True
    raise TypeError("data is str or bytes: use json.dumps for other values")


def encode_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def encode_kept(name: str, value: Any, bytes_max: int, levels_max: int = 64) -> bytes:
    """Encodes JSON that every reader can represent: Seawall ends a link for other JSON."""
    body = encode_json(value)
    if len(body) > bytes_max:
        raise ValueError(f"{name} has at most {bytes_max} bytes")
    level = 0
    for token in re.findall(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]|[0-9]+', body):
        level += (token in (b"[", b"{")) - (token in (b"]", b"}"))
        if level > levels_max:
            raise ValueError(f"{name} has at most {levels_max} levels")
        if len(token) >= 300 and token.isdigit():
            raise ValueError(f"{name} has a number beyond a 64-bit float")
    return body


def encode_accept(answer: dict[str, Any], request: dict[str, Any]) -> bytes:
    """Encodes what a handler accepts."""
    user, seconds, subprotocol = map(answer.get, ("user", "expires_in_s", "subprotocol"))
    if user is not None and not (isinstance(user, str) and 1 <= len(user.encode()) <= 256):
        raise ValueError("user is text of 1 to 256 bytes")
    encode_kept("info", answer.get("info"), 1024)
    encode_kept("state", answer.get("state"), 4096)
    if subprotocol and not request["moved"] and subprotocol not in request.get("subprotocols", ()):
        raise ValueError("subprotocol is one that the client offers")
    if seconds is not None and not (isinstance(seconds, int) and 1 <= seconds <= 31_536_000):
        raise ValueError("expires_in_s is an integer from 1 to 31536000")
    return encode_kept("accept", answer, 64 * 1024, 65)


def decode_text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise WireError("a body is not UTF-8") from None


def decode_json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        raise WireError("a body is not JSON") from None


def decode_question(body: bytes) -> Any:
    """A client may have nested its call deeper than Python can read: that is not the link's fault.
    """
    try:
        return decode_json(body)
    except RecursionError as error:
        return error
