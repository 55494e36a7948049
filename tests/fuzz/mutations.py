"""How a message that is right is made wrong: by its structure, and by its bytes. From a random generator alone."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

INTEGERS = (
    0,
    1,
    2,
    3,
    7,
    127,
    128,
    255,
    256,
    4095,
    4096,
    65_535,
    65_536,
    (1 << 20) - 1,
    1 << 20,
    (1 << 24) - 1,
    1 << 24,
)
EDGES = tuple(sign * (1 << bits) + by for bits in (31, 32, 53, 63, 64) for sign in (1, -1) for by in (-1, 0, 1))
FLOATS = (0.0, -0.0, 0.5, 1.0, -1.0, 1e-45, 3e38, -3e38, math.inf, -math.inf, math.nan)
LENGTHS = (0, 1, 25, 26, 27, 63, 64, 65, 255, 256, 257, 1024, 5000)
LONG = (9_000, 60_000, 60_000, 3_000_000)
ALPHABETS = ("a", "\0", "é", "\n", "😀", "%s{}", "../", "\u202e")

LIMITS = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(1 << 31), (1 << 31) - 1),
}


class Mutator:
    """Makes messages wrong."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._changes: tuple[Callable[[bytes], bytes], ...] = (
            self._flipped,
            self._cut,
            self._spliced,
            self._repeated,
            self._with_junk,
        )

    def mutated(self, message: Message) -> bytes:
        """A message with one field or a few at fault, or its bytes spoiled; sometimes as it is."""
        random = self._random
        if random.random() < 0.15:
            return message.SerializeToString()
        if random.random() < 0.25:
            return self.spoiled(message.SerializeToString())
        wrong = type(message)()
        wrong.CopyFrom(message)
        for _ in range(random.choice((1, 1, 1, 2, 5))):
            self._change(wrong)
        raw = wrong.SerializeToString()
        return self.spoiled(raw) if random.random() < 0.1 else raw

    def spoiled(self, raw: bytes) -> bytes:
        """Bytes with a fault or a few."""
        for _ in range(self._random.choice((1, 1, 2, 4))):
            raw = self._random.choice(self._changes)(raw)
        return raw

    def integer(self, low: int, high: int) -> int:
        """One within limits, mostly at an edge."""
        random = self._random
        if random.random() < 0.2:
            return random.randint(low, high)
        value = random.choice((*INTEGERS, *EDGES, low, high))
        return min(max(value, low), high)

    def text(self) -> str:
        """A string that nobody asked for."""
        length = self._random.choice(LONG if self._random.random() < 0.03 else LENGTHS)
        return (self._random.choice(ALPHABETS) * length)[:length]

    def _change(self, message: Message) -> None:
        """Put one field of a message, or of one within it, at fault."""
        random = self._random
        parts = [value for field, value in message.ListFields() if field.message_type is not None]
        nested = [one for value in parts for one in (value if _is_many(value) else [value])]
        if nested and random.random() < 0.75:
            self._change(random.choice(nested))
            return
        fields = message.DESCRIPTOR.fields
        given = [field for field, _ in message.ListFields()]
        if not fields:
            return
        field: Any = random.choice(given if given and random.random() < 0.7 else list(fields))
        if random.random() < 0.1:
            message.ClearField(field.name)
        elif field.is_repeated:
            self._change_many(message, field)
        elif field.message_type is not None:
            getattr(message, field.name).SetInParent()
        else:
            setattr(message, field.name, self._value(field, getattr(message, field.name)))

    def _change_many(self, message: Message, field: FieldDescriptor) -> None:
        random, values = self._random, getattr(message, field.name)
        what = random.choice(("drop", "double", "add", "add", "many"))
        if what == "drop" and values:
            del values[random.randrange(len(values))]
        elif what == "double" and values:
            values.extend([random.choice(values)])
        elif field.message_type is not None:
            for _ in range(1 if what != "many" else random.choice((10, 300))):
                values.add()
        else:
            one = self._value(field, None)
            values.extend([one] * (1 if what != "many" else random.choice((10, 3000))))

    def _value(self, field: FieldDescriptor, old: Any) -> Any:
        kind = field.cpp_type
        if kind in LIMITS:
            return self.integer(*LIMITS[kind])
        if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
            return self._random.choice(FLOATS)
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return self._random.random() < 0.5
        if field.type == FieldDescriptor.TYPE_BYTES:
            return self._column(old or b"")
        return self.text()

    def _column(self, old: bytes) -> bytes:
        """A run of numbers, one of which is another, or of another length."""
        random = self._random
        size = random.choice((1, 4, 8))
        if len(old) < size or random.random() < 0.3:
            return random.choice((b"", old[:-1], old + b"\0" * size, old + old, old * 40, random.randbytes(size * 3)))
        at = size * random.randrange(len(old) // size)
        if size == 4 and random.random() < 0.5:
            new = struct.pack("<f", random.choice(FLOATS[:-5] + FLOATS[-3:]))
        else:
            new = self.integer(0, (1 << 8 * size) - 1).to_bytes(size, "little")
        return old[:at] + new + old[at + size :]

    def _flipped(self, raw: bytes) -> bytes:
        flipped = bytearray(raw)
        for _ in range(self._random.choice((1, 2, 8)) if raw else 0):
            flipped[self._random.randrange(len(raw))] ^= 1 << self._random.randrange(8)
        return bytes(flipped)

    def _cut(self, raw: bytes) -> bytes:
        return raw[: self._random.randrange(len(raw) + 1)]

    def _spliced(self, raw: bytes) -> bytes:
        begin, end = (self._random.randrange(len(raw) + 1) for _ in range(2))
        return raw[:begin] + raw[end:]

    def _repeated(self, raw: bytes) -> bytes:
        return raw * self._random.choice((2, 3, 20))

    def _with_junk(self, raw: bytes) -> bytes:
        """Unknown fields, groups that do not end, lengths that lie, nesting without end."""
        random = self._random
        junk = random.choice(
            (
                random.randbytes(random.choice((1, 5, 64))),
                b"\xf8\xff\xff\xff\x0f\x01",
                b"\x0b",
                b"\x0a\xff\xff\xff\xff\x0f",
                b"\x12\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
                b"\x0a\x02\xff\xfe",
                b"\x0b" * 200 + b"\x0c" * 200,
            )
        )
        return raw + junk if random.random() < 0.5 else junk + raw


def _is_many(value: object) -> bool:
    return not isinstance(value, Message)
