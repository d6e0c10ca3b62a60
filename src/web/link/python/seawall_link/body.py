"""Bodies of records, encoded and decoded. A wrong body from Seawall ends the link. What a handler
wants to send is checked before: a wrong record of ours would end the link as well, and with it the
sessions of other clients, whose data may be what is wrong.
"""

from __future__ import annotations

import json
import re
from typing import Any, Union

from .websocket import WireError

Data = Union[str, bytes]
REJECT_CHARS_MAX = 200
USER_BYTES_MAX = 256
INFO_BYTES_MAX = 1024
STATE_BYTES_MAX = 4096
ACCEPT_BYTES_MAX = 64 * 1024
EXPIRES_S_MAX = 31_536_000
#: Nesting of JSON that Seawall keeps.
LEVELS_MAX = 64


class Reject(Exception):
    """Raised or returned by `open`: the client gets this HTTP status (401, 403, 429 or 503)."""

    def __init__(self, status: int, message: str = ""):
        # One line, well-formed.
        message = re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", message.encode(errors="replace").decode())
        message = message[:REJECT_CHARS_MAX]
        super().__init__(message)
        if status not in (401, 403, 429, 503):
            raise ValueError(f"a client is rejected with 401, 403, 429 or 503, not {status}")
        self.status, self.message = status, message


def encode_data(data: Data) -> tuple[bytes, bool]:
    if isinstance(data, str):
        return data.encode(), False
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data), True
    raise TypeError("data is str or bytes: use json.dumps for other values")


def encode_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def encode_kept(name: str, value: Any, bytes_max: int, levels_max: int = LEVELS_MAX) -> bytes:
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
    if user is not None and not (
        isinstance(user, str) and 1 <= len(user.encode()) <= USER_BYTES_MAX
    ):
        raise ValueError(f"user is text of 1 to {USER_BYTES_MAX} bytes")
    encode_kept("info", answer.get("info"), INFO_BYTES_MAX)
    encode_kept("state", answer.get("state"), STATE_BYTES_MAX)
    if subprotocol and not request["moved"] and subprotocol not in request.get("subprotocols", ()):
        raise ValueError("subprotocol is one that the client offers")
    if seconds is not None and not (isinstance(seconds, int) and 1 <= seconds <= EXPIRES_S_MAX):
        raise ValueError(f"expires_in_s is an integer from 1 to {EXPIRES_S_MAX}")
    return encode_kept("accept", answer, ACCEPT_BYTES_MAX, LEVELS_MAX + 1)


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
