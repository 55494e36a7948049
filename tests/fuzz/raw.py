"""Bytes on the ports themselves: HTTP/2 that is none, or that is and carries what no gRPC library sends. From a random
generator alone."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from contextlib import suppress
from random import Random

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED = 0x1, 0x4, 0x8
PATHS = (
    b"/evercurrent.v1.SessionService/Session",
    b"/evercurrent.v1.SessionService/Exchange",
    b"/evercurrent.v1.SessionService/Observe",
    b"/evercurrent.v1.WorkerService/Link",
    b"/evercurrent.v1.WorkerService/Release",
    b"/evercurrent.v1.AdminService/ListWorkers",
    b"/nobody/nothing",
    b"",
    b"\0\xff",
)
READ_S = 0.05
"""A server that says nothing for so long is said the next thing."""


def frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    """An HTTP/2 frame, whose length may be a lie (RFC 9113, section 4.1)."""
    size = len(payload) if length is None else length
    return struct.pack(">I", size & 0xFFFFFF)[1:] + struct.pack(">BBI", kind, flags, stream & 0xFFFFFFFF) + payload


def header(name: bytes, value: bytes) -> bytes:
    """One that is not indexed (RFC 7541, section 6.2.2)."""
    return b"\0" + _length(name) + name + _length(value) + value


def grpc_message(payload: bytes, flag: int = 0, length: int | None = None) -> bytes:
    """With the prefix of gRPC, which may be a lie."""
    return struct.pack(">BI", flag & 0xFF, (len(payload) if length is None else length) & 0xFFFFFFFF) + payload


class RawScript:
    """What one connection sends, in parts; then it is closed, or left open for a while."""

    def __init__(self, random: Random, message: bytes) -> None:
        self._random = random
        self._message = message
        write = random.choice(
            (self._noise, self._mangled_preface, self._frames, self._frames, self._calls, self._calls)
        )
        self.parts: list[bytes] = write()
        self.lingers = random.random() < 0.2
        """Whether it is a slow one, which stays until others are through."""

    @property
    def num_frames(self) -> int:
        """How much it counts for."""
        return max(1, len(self.parts))

    def _noise(self) -> list[bytes]:
        random = self._random
        text = random.choice((b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"", b"\0" * 5000))
        return [text, random.randbytes(random.choice((1, 9, 24, 1000, 70_000)))]

    def _mangled_preface(self) -> list[bytes]:
        random = self._random
        cut = random.randrange(len(PREFACE) + 1)
        mangled = bytearray(PREFACE)
        mangled[random.randrange(len(PREFACE))] ^= 1 << random.randrange(8)
        return random.choice(([PREFACE[:cut]], [bytes(mangled)], [PREFACE[:cut], PREFACE[cut:]], [PREFACE + PREFACE]))

    def _frames(self) -> list[bytes]:
        """Frames of any kind, of which none need fit the one before."""
        return [self._opening(), *(self._any_frame() for _ in range(self._random.choice((1, 4, 12))))]

    def _any_frame(self) -> bytes:
        random = self._random
        writers: tuple[Callable[[], bytes], ...] = (
            lambda: frame(random.randrange(256), random.randrange(256), random.getrandbits(32), random.randbytes(20)),
            lambda: frame(SETTINGS, 0, 0, struct.pack(">HI", random.randrange(9), random.getrandbits(32))),
            lambda: frame(SETTINGS, 0, 1, b"\0" * 5),
            lambda: frame(PING, 0, 0, b"\0" * random.choice((0, 8, 9))) * random.choice((1, 50)),
            lambda: frame(
                WINDOW_UPDATE, 0, random.choice((0, 1)), struct.pack(">I", random.choice((0, (1 << 31) - 1)))
            ),
            lambda: frame(RST_STREAM, 0, random.choice((0, 1, 9)), struct.pack(">I", random.getrandbits(32))),
            lambda: frame(GOAWAY, 0, 0, random.randbytes(random.choice((0, 8, 100)))),
            lambda: frame(PRIORITY, 0, 1, b"\0\0\0\1\x10"),
            lambda: frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2"),
            lambda: frame(CONTINUATION, 0, 1, header(b"a", b"b")),
            lambda: frame(DATA, random.choice((0, END_STREAM, PADDED)), random.choice((0, 1, 3)), b"\xff" * 30),
            lambda: frame(HEADERS, random.choice((0, END_HEADERS)), 1, random.randbytes(30)),
            lambda: frame(DATA, 0, 1, b"", length=random.choice((1, 1 << 14, (1 << 24) - 1))),
        )
        return random.choice(writers)()

    def _calls(self) -> list[bytes]:
        """Streams that begin as a call does, with messages whose prefixes may lie."""
        random, parts = self._random, [self._opening()]
        for number in range(random.choice((1, 2, 5))):
            stream = 2 * number + 1
            parts += self._headers(stream)
            for _ in range(random.choice((0, 1, 3))):
                parts.append(frame(DATA, random.choice((0, 0, END_STREAM)), stream, self._message_bytes()))
            if random.random() < 0.3:
                parts.append(frame(RST_STREAM, 0, stream, struct.pack(">I", 8)))
            elif random.random() < 0.5:
                parts.append(frame(DATA, END_STREAM, stream, b""))
        return parts

    def _headers(self, stream: int) -> list[bytes]:
        random = self._random
        block = (
            header(b":method", random.choice((b"POST", b"POST", b"POST", b"GET", b"\xff")))
            + header(b":scheme", b"http")
            + header(b":path", random.choice(PATHS))
            + header(b":authority", b"a")
            + header(b"te", b"trailers")
            + header(b"content-type", random.choice((b"application/grpc", b"application/grpc", b"text/html", b"")))
        )
        extra = random.choice(
            (
                b"",
                b"",
                header(b"grpc-timeout", random.choice((b"1n", b"99999999H", b"-1S", b"x", b""))),
                header(b"grpc-encoding", random.choice((b"gzip", b"deflate", b"snappy", b"identity"))),
                header(b"grpc-encoding", b"gzip"),
                header(b"x-bin", b"!!not base64!!"),
                header(b"long", b"a" * random.choice((8_000, 17_000, 100_000))),
                header(b"CAPITAL", b"a"),
            )
        )
        block += extra
        if random.random() < 0.1:
            endless = [frame(CONTINUATION, 0, stream, header(b"more", b"a" * 1000)) for _ in range(30)]
            return [frame(HEADERS, 0, stream, block[:16_000]), *endless]
        pieces = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
        kinds = [HEADERS, *[CONTINUATION] * (len(pieces) - 1)]
        flags = [*[0] * (len(pieces) - 1), END_HEADERS]
        return [frame(kind, flag, stream, piece) for kind, flag, piece in zip(kinds, flags, pieces, strict=True)]

    def _message_bytes(self) -> bytes:
        random, body = self._random, self._message[:10_000]
        what = random.choice(
            (
                grpc_message(body),
                grpc_message(body, flag=random.choice((1, 2, 255))),
                grpc_message(body, length=random.choice((0, len(body) + 1, 1 << 24, (1 << 32) - 1))),
                grpc_message(b"\x1f\x8b\x08\0\0\0\0\0\0\3" + random.randbytes(30), flag=1),
                b"\0\0\0",
                random.randbytes(40),
            )
        )
        return what[:16_000]

    def _opening(self) -> bytes:
        return PREFACE + frame(SETTINGS, 0, 0, b"")


async def converse(address: str, script: RawScript) -> asyncio.StreamWriter | None:
    """Send what a script has, and read what comes. The connection, if it is to linger; else it is closed."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        with suppress(ConnectionError):
            for part in script.parts:
                writer.write(part)
                await writer.drain()
                if await _ended(reader):
                    break
    except BaseException:
        writer.close()
        raise
    if script.lingers:
        return writer
    await hang_up(writer)
    return None


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close a connection, however it is."""
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def _ended(reader: asyncio.StreamReader) -> bool:
    """Read what is there; whether the server has closed."""
    try:
        async with asyncio.timeout(READ_S):
            return await reader.read(1 << 16) == b""
    except TimeoutError:
        return False


def _length(raw: bytes) -> bytes:
    """As HPACK has it, with a prefix of seven bits (RFC 7541, section 5.1)."""
    size = len(raw)
    if size < 127:
        return bytes([size])
    encoded, size = bytearray([127]), size - 127
    while size >= 128:
        encoded.append(size % 128 | 128)
        size //= 128
    encoded.append(size)
    return bytes(encoded)
