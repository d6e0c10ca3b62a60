"""The application side of Seawall's links: sessions of clients, over the WebSockets between Seawall
nodes and this process. This file is the whole library, for Python 3.9 and newer; Seawall's
src/link/LINK.md has the wire format, src/web/link/README.md examples.

Messages of a session are handled one after the other, in order; sessions in parallel. A message is
acknowledged when its handler returns: if the process ends before, it is delivered again. `close` is
called once for each session that `open` has accepted. All that is written in one turn of the event
loop leaves in one WebSocket message. Handlers may be coroutines; methods are to be called in the
thread of the event loop.
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
 COMMAND, RESULT, DRAIN, PING, PONG, JOIN, LEAVE, JOINED, LEFT) = range(1, 25)
MOVED, REDELIVERED, RECEIPT, FLAG_BINARY = 1, 2, 4, 8
NO_SESSION = bytes(10)
Data = Union[str, bytes]
_log = logging.getLogger("seawall_link")


class Reject(Exception):
    """Raised or returned by `open`: the client gets this HTTP status (401, 403, 429 or 503), and
    the message, one line of up to 200 characters.
    """

    def __init__(self, status: int, message: str = ""):
        message = re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", message.encode(errors="replace").decode())
        self.status, self.message = status, message[:200]
        super().__init__(self.message)
        check(status in (401, 403, 429, 503), "a client is rejected with 401, 403, 429 or 503")


class CommandError(Exception):
    """A command or `join` has failed; `code` is one of the HTTP API."""

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
    `ready(session, size)`, `left(session, channel, reason)`, `ask(question, session)`, which
    returns the answer, and `drain()`.

    `token` is what nodes present (of several, each is valid); `capacity` the share of sessions,
    relative to other instances.
    """

    def __init__(
        self, handlers: Any, token: Union[str, Iterable[str]] = (), instance: Optional[str] = None,
        capacity: int = 100,
    ):
        tokens = [token] if isinstance(token, str) else token
        self._tokens = [f"Bearer {one}".encode() for one in tokens]
        self._handlers = handlers
        instance = instance or f"{socket.gethostname()}-{os.getpid()}"
        self._hello = {"instance": instance[:128], "capacity": capacity}
        self._links: set[Link] = set()
        #: Sessions that are open, or whose handlers still run.
        self._active: set[Session] = set()
        self._when_idle: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Future[Any]] = set()
        self._servers: list[asyncio.AbstractServer] = []
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
                writer.write("\r\n".join([f"HTTP/1.1 {status}", *fields, "", ""]).encode())
                if status.startswith("101"):
                    await Link(self, reader, writer, False).run()
            except (OSError, ValueError, EOFError, asyncio.LimitOverrunError, asyncio.TimeoutError):
                pass
            except asyncio.CancelledError:
                # The loop ends. Python 3.11 and older would print that for each link.
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
                streams = await asyncio.wait_for(dial(url, key), 10)
                settle(linked)
                delay = 0.1
                await Link(self, *streams, True).run()
            except (OSError, ValueError, EOFError, asyncio.TimeoutError) as error:
                _log.error("no link to %s: %s", url, error)
            await asyncio.sleep(delay * (0.5 + random.random()))
            delay = min(delay * 2, 5)

    def send_many(self, sessions: Iterable[Session], data: Data) -> None:
        """Sends a message to many sessions, once on each link."""
        body, is_binary = encode_data(data)
        of_links: dict[Link, list[bytes]] = {}
        for session in sessions:
            session._link.check_length(body)
            if session.is_open and session._early is None:
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
        body, number = encode_json(command), link.commands.next_number()
        link.write(COMMAND, 0, NO_SESSION, number, body)
        return await link.commands.add(number)

    async def drain(self) -> None:
        """Moves all sessions to other instances; returns once none is here. Exit then."""
        self._is_stopping = True
        for link in self._links:
            link.write(DRAIN, 0, NO_SESSION, 0, b"")
        while self._active:
            self._when_idle.append(make_future())
            await self._when_idle[-1]
        for link in list(self._links):
            await link.written()

    def close(self) -> None:
        """Ends all links, and takes no more: sessions continue on other instances."""
        self._is_stopping = True
        for server in self._servers:
            server.close()
        for link in list(self._links):
            link.end(1001, "the backend stops")

    def _judge(self, path: str, head: bytes) -> tuple[str, list[str]]:
        """The status and fields that answer a request."""
        request, *lines = head.decode("latin-1").split("\r\n")
        named = (line.split(":", 1) for line in lines if ":" in line)
        fields = {name.lower(): value.strip() for name, value in named}
        given = fields.get("authorization", "").encode()
        known = [hmac.compare_digest(one, given) for one in self._tokens]
        key = fields.get("sec-websocket-key")
        offered = [one.strip() for one in fields.get("sec-websocket-protocol", "").split(",")]
        no_body = ["Content-Length: 0", "Connection: close"]
        if request.split(" ")[1].split("?")[0] != path:
            return "404 Not Found", no_body
        if self._tokens and not any(known):
            return "401 Unauthorized", ["WWW-Authenticate: Bearer", *no_body]
        if self._is_stopping:
            return "503 Service Unavailable", no_body
        if not key or fields.get("sec-websocket-version") != "13":
            return "426 Upgrade Required", ["Sec-WebSocket-Version: 13", *no_body]
        if SUBPROTOCOL not in offered:
            return "400 Bad Request", no_body
        return "101 Switching Protocols", [
            "Connection: Upgrade", "Upgrade: websocket",
            f"Sec-WebSocket-Accept: {accept_key(key)}", f"Sec-WebSocket-Protocol: {SUBPROTOCOL}",
        ]

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _finished(self, session: Session) -> None:
        self._active.discard(session)
        while self._when_idle and not self._active:
            settle(self._when_idle.pop())

    async def _call(
        self, name: str, session: Optional[Session], *values: Any
    ) -> tuple[Any, Optional[Exception]]:
        """Calls a handler; returns its result, or the error that it raises, and logs that."""
        try:
            handler = getattr(self._handlers, name, None)
            result = handler(*values) if handler else None
            return await result if inspect.isawaitable(result) else result, None
        except Exception as error:
            if not (name == "open" and isinstance(error, Reject)):
                self._report(name, session, error)
            return None, error

    def _report(self, name: str, session: Optional[Session], error: Exception) -> None:
        connection = session.connection if session else "no session"
        _log.error("the handler %s failed (%s)", name, connection, exc_info=error)


class Session:
    """One client. Its handlers (open, message, close) run one after the other."""

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
        #: Messages that no handler has seen.
        self._inbox: deque[tuple[Data, Meta]] = deque()
        self._is_running = True
        #: Records that are written before the client is accepted: they follow then.
        self._early: Optional[list[tuple[int, int, bytes, int, bytes]]] = []
        #: Why it is over.
        self._end: Optional[End] = None
        self._is_moving = False
        #: Whether the client has left, so that only acknowledgements are awaited.
        self._has_left = False
        self._receipts = Awaited()
        #: Their numbers differ from those of other instances, whose answers may come here.
        self._joins = Awaited(random.randrange(1 << 32))
        #: The channels that the client is a member of, as Seawall has reported it.
        self.channels: set[str] = set()
        link.backend._active.add(self)
        link.backend._spawn(self._run(request))

    def send(self, data: Data, receipt: bool = False) -> Optional[asyncio.Future[None]]:
        """Sends a message: text if it is a string, else binary. Does nothing once the session is
        over. With `receipt`, returns a future: it resolves when the client's TCP connection has the
        bytes, and fails if the session ends, moves or loses its link before.
        """
        body, is_binary = encode_data(data)
        self._link.check_length(body)
        number = self._receipts.next_number() if receipt else 0
        self._write(BINARY if is_binary else TEXT, RECEIPT if receipt else 0, number, body)
        if receipt and not self.is_open:
            return make_future(ConnectionError("the session is over"))
        return self._receipts.add(number) if receipt else None

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Closes the client's connection, with 1000 or a code from 3000 to 4999."""
        is_right = code == 1000 or 3000 <= code <= 4999
        check(is_right, f"a backend closes with 1000 or 3000 to 4999, not {code}")
        check(len(reason.encode()) <= REASON_BYTES_MAX, "a reason has at most 123 bytes")
        self._write(CLOSE, 0, code, reason.encode())
        self._finish(End(code, reason, False), True)

    def set_state(self, value: Any) -> None:
        """Keeps a JSON value of at most 4096 bytes with the session: `state` wherever it moves."""
        body = encode_kept("state", value, 4096)
        self.state = value
        self._write(STATE, 0, 0, body)

    def join(self, channel: str) -> asyncio.Future[None]:
        """Makes the client a member of a channel: it gets the content of each publication. The
        future resolves once it is one; it fails with `CommandError` if it cannot be, and with
        `ConnectionError` if the session ends or moves before. In `open`, do not await it: the
        client joins after it is accepted.
        """
        if not self.is_open:
            return make_future(ConnectionError("the session is over"))
        number, body = self._joins.next_number(), channel.encode()
        self._write(JOIN, 0, number, body)
        return self._joins.add(number)

    def leave(self, channel: str) -> None:
        """Ends the membership of a channel: no publication follows the call of `left`."""
        self._write(LEAVE, 0, 0, channel.encode())

    def _joined(self, channel: str, number: int) -> None:
        self.channels.add(channel)
        if number in self._joins:
            settle(self._joins.take(number))

    def _left(self, body: dict[str, Any], number: int) -> None:
        channel, reason, message = body["channel"], body["reason"], body["message"]
        if number == 0 and channel in self.channels:
            self.channels.discard(channel)
            self._link.backend._spawn(self._call("left", channel, reason))
        if number in self._joins:
            settle(self._joins.take(number), error=CommandError(reason, message))

    def _deliver(self, data: Data, meta: Meta) -> None:
        self._number = (self._number + 1) & 0xFFFFFFFF
        if meta.number != self._number:
            raise WireError("a message is out of sequence")
        # Those behind the beginning of a move are delivered elsewhere.
        if not self._is_moving:
            self._inbox.append((data, meta))
            self._wake()

    def _move(self) -> None:
        """Seawall moves it: the handler that runs is the last one here."""
        self._is_moving = True
        self._end = self._end or End(0, "moved", True)
        self._inbox.clear()
        self._wake()

    def _gone(self, end: End) -> None:
        """The client has left, and its messages are still handled; or the link is lost."""
        self._has_left = self._has_left or (self.is_open and not end.moved)
        self._finish(end, end.moved)

    def _finish(self, end: Optional[End], is_dropping: bool) -> None:
        if not self.is_open:
            return
        self.is_open = False
        self._end = self._end or end
        if is_dropping:
            self._inbox.clear()
        self._link.sessions.pop(self._key, None)
        self._receipts.reject_all("the session has ended before the message was sent")
        self._joins.reject_all("the session has ended before the client was a member")
        self._wake()

    def _ack(self, number: int) -> None:
        if self.is_open or self._has_left:
            self._link.write(ACK, 0, self._key, number, b"")

    def _write(self, kind: int, flags: int, number: int, body: bytes) -> None:
        record = (kind, flags, self._key, number, body)
        if self.is_open and self._early is not None:
            self._early.append(record)
        elif self.is_open:
            self._link.write(*record)

    def _wake(self) -> None:
        if not self._is_running:
            self._is_running = True
            self._link.backend._spawn(self._run())

    async def _run(self, request: Optional[dict[str, Any]] = None) -> None:
        """Calls handlers until nothing waits; the last one is `close`."""
        is_rejected = request is not None and not await self._open(request)
        while self._inbox:
            data, meta = self._inbox.popleft()
            is_handled = await self._call("message", data, meta)
            # What a client that has left sent is not to be delivered again.
            if self._has_left or (is_handled and self.is_open):
                self._link.ack(self, meta.number)
        if not self._end and not is_rejected:
            self._is_running = False
            return
        if not is_rejected:
            await self._call("close", self._end)
        if self._is_moving:
            self._link.flush()
            self._write(CLOSE, MOVED, 0, b"")
            self._finish(None, True)
        self._link.backend._finished(self)

    async def _open(self, request: dict[str, Any]) -> bool:
        """Returns whether the client is accepted."""
        backend = self._link.backend
        answer, error = await backend._call("open", self, self, request)
        if isinstance(answer, Reject):
            answer, error = None, answer
        try:
            body = encode_accept(answer or {}, request)
        except Exception as failure:
            backend._report("open", self, failure)
            error = failure
        if error:
            self._reject(error)
            return False
        for name in ("subprotocol", "user", "info", "state"):
            if answer and name in answer:
                setattr(self, name, answer[name])
        records = self._early or []
        if answer or not request["moved"]:
            records.insert(0, (ACCEPT, 0, self._key, 0, body))
        self._early = None
        if not self._has_left:
            for record in records:
                self._link.write(*record)
        return True

    def _reject(self, error: Exception) -> None:
        """Rejects the client; closes it if it is connected already."""
        reject = error if isinstance(error, Reject) else Reject(503, FAILED)
        message = {"message": reject.message} if reject.message else {}
        if self._has_left:
            self._link.ack(self, self._number)
        else:
            body = encode_json({"status": reject.status, **message})
            self._link.write(REJECT, 0, self._key, 0, body)
        self._is_moving = False
        self._inbox.clear()
        self._finish(None, True)

    async def _call(self, name: str, *values: Any) -> bool:
        """Calls a handler; if it fails, closes the client. Returns whether it has not."""
        _, error = await self._link.backend._call(name, self, self, *values)
        if error:
            self.close(HANDLER_FAILED, FAILED)
        return not error


class Link:
    """The records of one WebSocket (RFC 6455, without extensions), and its sessions."""

    def __init__(
        self, backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
        is_client: bool,
    ):
        self.backend, self._reader, self._writer = backend, reader, writer
        self.sessions: dict[bytes, Session] = {}
        self.commands = Awaited()
        self.is_ready = False
        self._is_client = is_client
        self._is_over = False
        self._is_silent = False
        self._records: list[bytes] = []
        self._is_scheduled = False
        #: The number to acknowledge at the end of the turn, by session.
        self._acks: dict[Session, int] = {}
        self._record_bytes_max = MESSAGE_BYTES

    async def run(self) -> None:
        """Handles records until the link ends."""
        self.write(HELLO, 0, NO_SESSION, 1, encode_json(self.backend._hello))
        self.backend._links.add(self)
        watch = asyncio.ensure_future(self._watch())
        try:
            while not self._is_over:
                self._receive(await self._message())
        except WireError as error:
            self.end(error.code, str(error))
        except (OSError, EOFError):
            self.end(1000, "the link has ended")
        finally:
            watch.cancel()
            self.end(1001, "the backend stops")

    async def _watch(self) -> None:
        """Counts seconds in which this process read nothing although it could."""
        silent = 0
        while silent < SILENCE_SECONDS_MAX:
            self._is_silent = True
            await asyncio.sleep(1)
            silent = silent + 1 if self._is_silent else 0
        self.end(1001, "no bytes for 10 s")

    def end(self, code: int, reason: str) -> None:
        """Ends the connection, with a close frame. Its sessions continue elsewhere."""
        if self._is_over:
            return
        self.flush()
        self._send(8, struct.pack(">H", code) + reason.encode()[:REASON_BYTES_MAX])
        self._is_over = True
        self._writer.close()
        asyncio.get_running_loop().call_later(2, self._writer.transport.abort)
        self.backend._links.discard(self)
        self.commands.reject_all(reason)
        for session in list(self.sessions.values()):
            session._gone(End(0, reason, True))

    def check_length(self, body: bytes) -> None:
        most = self._record_bytes_max
        check(len(body) <= most, f"a message has at most {most} bytes")

    def write(self, kind: int, flags: int, key: bytes, number: int, body: bytes) -> None:
        self._records.append(HEADER.pack(len(body), kind, flags, key, number) + body)
        self._schedule()

    def ack(self, session: Session, number: int) -> None:
        self._acks[session] = number
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Sends what has been written."""
        acks, self._acks = self._acks, {}
        for session, number in acks.items():
            session._ack(number)
        self._is_scheduled = False
        records, self._records = self._records, []
        joined: list[bytes] = []
        size = 0
        for record in records:
            if joined and size + len(record) > MESSAGE_BYTES:
                self._send(2, b"".join(joined))
                joined, size = [], 0
            joined.append(record)
            size += len(record)
        if joined:
            self._send(2, b"".join(joined))

    async def written(self) -> None:
        """Waits until the system has all that was written."""
        self.flush()
        while not self._is_over and self._writer.transport.get_write_buffer_size() > 0:
            await asyncio.sleep(0.005)

    def send_many(self, keys: list[bytes], body: bytes, is_binary: bool) -> None:
        for at in range(0, len(keys), MANY_MAX):
            some = keys[at : at + MANY_MAX]
            if len(some) * 10 + len(body) <= self._record_bytes_max:
                flags = FLAG_BINARY if is_binary else 0
                self.write(MANY, flags, NO_SESSION, len(some), b"".join(some) + body)
            else:
                for key in some:
                    self.write(BINARY if is_binary else TEXT, 0, key, 0, body)

    def _send(self, opcode: int, payload: bytes) -> None:
        length, client = len(payload), 128 if self._is_client else 0
        size = length if length < 126 else 126 if length < 65536 else 127
        head = struct.pack(">BB", 128 | opcode, client | size)
        if size > 125:
            head += struct.pack(">H" if size == 126 else ">Q", length)
        if self._is_client:
            key = os.urandom(4)
            head, payload = head + key, apply_mask(payload, key)
        if not self._is_over:
            self._writer.write(head + payload)

    async def _message(self) -> bytes:
        parts: list[bytes] = []
        size, is_later, is_last = 0, False, False
        while not is_last:
            opcode, is_last, payload = await self._frame(size, is_later)
            if opcode == 8:
                raise EOFError
            if opcode == 9:
                self._send(10, payload)
            if opcode >= 8:
                is_last = False
                continue
            is_later = True
            parts.append(payload)
            size += len(payload)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _frame(self, size: int, is_later: bool) -> tuple[int, bool, bytes]:
        """Reads a frame, behind so many bytes of its message."""
        first, second = await self._read(2)
        opcode, is_last, length = first & 15, first >= 128, second & 127
        if length >= 126:
            length = int.from_bytes(await self._read(2 if length == 126 else 8), "big")
        if opcode == 1:
            raise WireError("a text message: a link has binary ones only")
        is_right = length <= 125 and is_last if opcode >= 8 else (opcode == 0) == is_later
        if not is_right or first & 0x70 or opcode not in (0, 2, 8, 9, 10):
            raise WireError("a frame is reserved or out of order")
        if (second >= 128) == self._is_client:
            raise WireError("a frame is masked wrongly")
        if opcode < 8 and size + length > max(MESSAGE_BYTES, self._record_bytes_max + HEADER.size):
            raise WireError("a message is too long", 1009)
        key = bytes(4) if self._is_client else await self._read(4)
        payload = await self._read(length)
        return opcode, is_last, payload if self._is_client else apply_mask(payload, key)

    async def _read(self, count: int) -> bytes:
        data = await self._reader.readexactly(count)
        self._is_silent = False
        return data

    def _receive(self, message: bytes) -> None:
        at = 0
        while at < len(message):
            end = at + HEADER.size
            if end <= len(message):
                length, kind, flags, key, number = HEADER.unpack_from(message, at)
                at, end = end, end + length
            if end > len(message):
                raise WireError("a record is truncated")
            self._record(kind, flags, key, number, message[at:end])
            at = end

    def _record(self, kind: int, flags: int, key: bytes, number: int, body: bytes) -> None:
        session = self.sessions.get(key)
        if not self.is_ready:
            self._take_hello(kind, number, body)
        elif kind == OPEN:
            self._open(session, flags & MOVED != 0, key, number, body)
        elif kind in (TEXT, BINARY):
            data: Data = body if kind == BINARY else decode_text(body)
            if session:
                session._deliver(data, Meta(kind == BINARY, flags & REDELIVERED != 0, number))
        elif kind == SENT:
            if session:
                settle(session._receipts.take(number))
        elif kind in (SLOW, READY):
            if session:
                session.is_slow = kind == SLOW
                self.backend._spawn(session._call("slow" if kind == SLOW else "ready", number))
        elif kind == JOINED:
            if session:
                session._joined(decode_text(body), number)
        elif kind == LEFT:
            if session:
                session._left(decode_json(body), number)
        elif kind == CLOSE:
            self._close(session, flags & MOVED != 0, number, body)
        elif kind == ASK:
            self.backend._spawn(self._ask(session, key, number, decode_json(body)))
        elif kind == RESULT:
            self._take_result(number, decode_json(body))
        elif kind == DRAIN:
            self.backend._spawn(self.backend._call("drain", None))
        elif kind == PING:
            self.write(PONG, 0, NO_SESSION, 0, body)
        elif kind != PONG and HELLO <= kind <= LEFT:
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
        self.is_ready = True

    def _open(
        self, session: Optional[Session], is_moved: bool, key: bytes, number: int, body: bytes
    ) -> None:
        request = decode_json(body)
        is_right = isinstance(request, dict) and isinstance(request.get("connection"), str)
        if session or not is_right:
            raise WireError("open of an open session, or without a connection")
        self.sessions[key] = Session(self, key, number, {**request, "moved": is_moved})

    def _close(self, session: Optional[Session], is_move: bool, code: int, body: bytes) -> None:
        if not is_move and (not 1000 <= code <= 4999 or len(body) > REASON_BYTES_MAX):
            raise WireError("a wrong close code or reason")
        reason = decode_text(body)
        if session and is_move:
            session._move()
        elif session:
            session._gone(End(code, reason, False))

    async def _ask(self, session: Optional[Session], key: bytes, number: int, ask: Any) -> None:
        message = "the application answers no questions: it has no handler `ask`"
        answer: Any = {"error": {"code": "unknown_method", "message": message}}
        if hasattr(self.backend._handlers, "ask"):
            answer, error = await self.backend._call("ask", session, ask, session)
            if error:
                answer = {"error": {"code": "internal", "message": FAILED}}
        self.write(ANSWER, 0, key, number, encode_json({} if answer is None else answer))

    def _take_result(self, number: int, result: Any) -> None:
        error = result.get("error") if isinstance(result, dict) else None
        failure = None
        if isinstance(error, dict) and "code" in error:
            failure = CommandError(error["code"], error.get("message", ""))
        settle(self.commands.take(number), result, failure)


class Awaited:
    """Futures by number."""

    def __init__(self, last: int = 0) -> None:
        self._all: dict[int, asyncio.Future[Any]] = {}
        self._last = last

    def __contains__(self, number: int) -> bool:
        return number in self._all

    def next_number(self) -> int:
        self._last = self._last % 0xFFFFFFFF + 1
        return self._last

    def add(self, number: int) -> asyncio.Future[Any]:
        self._all[number] = make_future()
        return self._all[number]

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


def make_future(error: Optional[Exception] = None) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    # An error that the caller does not await is not logged.
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    if error:
        future.set_exception(error)
    return future


def settle(future: asyncio.Future[Any], result: Any = None, error: Any = None) -> None:
    if error and not future.done():
        future.set_exception(error)
    elif not future.done():
        future.set_result(result)


def check(is_right: bool, reason: str) -> None:
    if not is_right:
        raise ValueError(reason)


def apply_mask(payload: bytes, key: bytes) -> bytes:
    keys = (key * (len(payload) // 4 + 1))[: len(payload)]
    both = int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")
    return both.to_bytes(len(payload), "big")


def accept_key(key: str) -> str:
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
    return base64.b64encode(digest).decode()


async def dial(url: str, api_key: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Upgrades a connection to a URL."""
    target = urlsplit(url)
    tls = ssl.create_default_context() if target.scheme == "wss" else None
    port = target.port or (443 if tls else 80)
    reader, writer = await asyncio.open_connection(target.hostname, port, ssl=tls)
    key = base64.b64encode(os.urandom(16)).decode()
    query = f"?{target.query}" if target.query else ""
    lines = [
        f"GET {target.path or '/'}{query} HTTP/1.1", f"Host: {target.netloc}",
        "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}", f"Sec-WebSocket-Protocol: {SUBPROTOCOL}",
        f"Authorization: Bearer {api_key}", "", "",
    ]
    writer.write("\r\n".join(lines).encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    if " 101 " not in head.split("\r\n")[0] or accept_key(key) not in head:
        writer.close()
        raise ConnectionError(f"the node answers {head.splitlines()[0]}")
    return reader, writer


def decode_text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise WireError("a body is not UTF-8") from None


def decode_json(body: bytes) -> Any:
    """Returns None for what is nested deeper than Python can read."""
    try:
        return json.loads(body)
    except ValueError:
        raise WireError("a body is not JSON") from None
    except RecursionError:
        return None


def encode_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def encode_data(data: Data) -> tuple[bytes, bool]:
    """Returns the bytes of a message, and whether it is binary."""
    if isinstance(data, str):
        return data.encode(), False
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data), True
    raise TypeError("data is str or bytes: use json.dumps for other values")


def encode_kept(name: str, value: Any, bytes_max: int, levels_max: int = 64) -> bytes:
    """Encodes JSON that Seawall keeps: for wrong JSON it ends the link, and so other sessions."""
    body = encode_json(value)
    check(len(body) <= bytes_max, f"{name} has at most {bytes_max} bytes")
    level = 0
    for token in re.findall(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]|[0-9]+', body):
        level += (token in (b"[", b"{")) - (token in (b"]", b"}"))
        check(level <= levels_max, f"{name} has at most {levels_max} levels")
        is_number = len(token) < 300 or not token.isdigit()
        check(is_number, f"{name} has a number beyond a 64-bit float")
    return body


def encode_accept(answer: dict[str, Any], request: dict[str, Any]) -> bytes:
    """Encodes what `open` accepts."""
    user, seconds, subprotocol = map(answer.get, ("user", "expires_in_s", "subprotocol"))
    is_user = isinstance(user, str) and 1 <= len(user.encode()) <= 256
    check(user is None or is_user, "user is text of 1 to 256 bytes")
    is_offered = request["moved"] or subprotocol in request.get("subprotocols", ())
    check(not subprotocol or is_offered, "subprotocol is one that the client offers")
    is_time = isinstance(seconds, int) and 1 <= seconds <= 31_536_000
    check(seconds is None or is_time, "expires_in_s is an integer from 1 to 31536000")
    encode_kept("info", answer.get("info"), 1024)
    encode_kept("state", answer.get("state"), 4096)
    return encode_kept("accept", answer, 64 * 1024, 65)
