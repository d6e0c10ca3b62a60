"""A WebSocket (RFC 6455) for binary messages, as client or server, without extensions: the small
part of the protocol that links need, so that the library has no dependencies.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import ssl
import struct
from typing import Optional
from urllib.parse import urlsplit

MESSAGE_BYTES = 256 * 1024
REASON_BYTES_MAX = 123


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
        if first & 0x70:
            raise WireError("a frame has a reserved bit")
        if (second >= 128) == self._is_client:
            raise WireError("a frame is masked wrongly")
        if opcode == 1:
            raise WireError("a text message: a link has binary ones only")
        if opcode not in (0, 2, 8, 9, 10):
            raise WireError("an unknown opcode")
        if opcode >= 8 and (length > 125 or not is_last):
            raise WireError("a wrong control frame")
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
        if length < 126:
            head = struct.pack(">BB", 128 | opcode, client | length)
        elif length < 65536:
            head = struct.pack(">BBH", 128 | opcode, client | 126, length)
        else:
            head = struct.pack(">BBQ", 128 | opcode, client | 127, length)
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


async def dial(url: str, subprotocol: str, api_key: str) -> WebSocket:
    target = urlsplit(url)
    is_tls = target.scheme == "wss"
    host, port = target.hostname or "", target.port or (443 if is_tls else 80)
    tls = ssl.create_default_context() if is_tls else None
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"GET {target.path or '/'} HTTP/1.1", f"Host: {host}:{port}", "Connection: Upgrade",
        "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}",
        f"Sec-WebSocket-Protocol: {subprotocol}", f"Authorization: Bearer {api_key}", "", "",
    ]
    writer.write("\r\n".join(lines).encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    if " 101 " not in head.split("\r\n")[0] or accept_key(key) not in head:
        writer.close()
        raise ConnectionError(f"the node answers {head.splitlines()[0]}")
    return WebSocket(reader, writer, is_client=True)
