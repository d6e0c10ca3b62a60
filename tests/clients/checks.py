"""What the Python clients share: the messages to echo, and frames written by hand."""

import os
import ssl
import struct
import sys

BIG = 16 << 20
LENGTHS = [0, 1, 125, 126, 127, 65535, 65536, 1 << 20, BIG]
CLOSE_CODES = [1000, 3001, 4000]
TEXTS = ["", "hello", "grüße, 世界, 🦭", "x" * 70_000]


def arguments():
    """The URL, and the context of `ssl` for a server that speaks TLS: it trusts the authority and
    speaks the version that are named behind the URL."""
    url, *tls = sys.argv[1:]
    if not tls:
        return url, None
    authority, version = tls
    context = ssl.create_default_context(cafile=authority)
    context.minimum_version = ssl.TLSVersion["TLSv" + version.replace(".", "_")]
    context.maximum_version = context.minimum_version
    return url, context


def masked_frame(first, payload):
    """A frame as clients send it; `first` is FIN, reserved bits and opcode (RFC 6455 5.2)."""
    key = os.urandom(4)
    assert len(payload) < 126
    body = bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))
    return struct.pack("!BB", first, 0x80 | len(payload)) + key + body


# A message in fragments with a ping between them.
FRAGMENTS = b"".join([
    masked_frame(0x01, "grü".encode()[:3]),
    masked_frame(0x89, b"between"),
    masked_frame(0x00, "grü".encode()[3:]),
    masked_frame(0x80, "ße".encode()),
])
# A frame with a reserved bit: refused with 1002.
WRONG = masked_frame(0xF1, b"reserved")


def expect(found, wanted, what):
    if found != wanted:
        show = lambda value: repr(value)[:200]
        sys.exit(f"{what}: {show(found)} instead of {show(wanted)}")
