"""Links and sessions: the records of one WebSocket, and the queue of one client.

A session's steps (open, messages, close) run one after the other. It has ended when `is_open` is
false: then it writes nothing more, and its handlers that still run are the last ones.
"""

from __future__ import annotations

import asyncio
import inspect
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional

from .body import STATE_BYTES_MAX, Data, Reject, decode_json, decode_question, decode_text
from .body import encode_accept, encode_data, encode_json, encode_kept
from .websocket import MESSAGE_BYTES, REASON_BYTES_MAX, WebSocket, WireError

if TYPE_CHECKING:
    from . import Backend

VERSION = 1
HEADER = struct.Struct(">IBB10sI")
#: Sessions in one `many` record.
MANY_MAX = 4096
#: Seawall pings every second: a link without any bytes for so long is lost.
SILENCE_SECONDS_MAX = 10
#: The close code of a client whose handler has failed.
HANDLER_FAILED = 4500

(HELLO, OPEN, ACCEPT, REJECT, TEXT, BINARY, ACK, SENT, SLOW, READY, CLOSE, STATE, MANY, ASK, ANSWER,
 COMMAND, RESULT, DRAIN, PING, PONG) = range(1, 21)
MOVED, REDELIVERED, RECEIPT, FLAG_BINARY = 1, 2, 4, 8
NO_SESSION = bytes(10)
FAILED = "the application failed"


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


async def call(handler: Optional[Callable[..., Any]], *values: Any) -> Any:
    result = handler(*values) if handler else None
    return await result if inspect.isawaitable(result) else result


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
        body = encode_kept("state", value, STATE_BYTES_MAX)
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
        self._link.forget(self._key, self)
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
        self._commands = _Awaited()
        self._record_bytes_max = MESSAGE_BYTES
        self.write(HELLO, 0, NO_SESSION, VERSION, encode_json(backend._hello))

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
            self._commands.reject_all(reason)
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

    def command(self, command: dict[str, Any]) -> asyncio.Future[Any]:
        body = encode_json(command)
        return self._commands.add(lambda number: self.write(COMMAND, 0, NO_SESSION, number, body))

    def forget(self, key: bytes, session: Session) -> None:
        if self.sessions.get(key) is session:
            del self.sessions[key]

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
        if number != VERSION:
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
            error = {"code": "no_handler", "message": "the application has no handler"}
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
        settle(self._commands.take(number), result, failure)
