"""MessagePack fields as the protocol has them: packed by hand to the byte, read with checks.

The C++ side's `codec.cpp` in Python. Everything here is immutable and usable from any thread.
"""

from __future__ import annotations

import enum
import math
import struct
import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

import msgpack

from attune.values import Floats

MAX_FRAME_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 8
MAX_VALUES = 65_536
MAX_LINE_BYTES = 4096

_FLOAT32_MAX = float.fromhex("0x1.fffffep+127")


class FrameError(ValueError):
    """Bytes that cannot be read, or values that are not what a field wants."""


def pack_array_header(size: int) -> bytes:
    """How a MessagePack array of so many values begins."""
    if size < 16:
        return bytes((0x90 | size,))
    if size < 65_536:
        return b"\xdc" + size.to_bytes(2, "big")
    return b"\xdd" + size.to_bytes(4, "big")


def is_unsigned(value: object) -> bool:
    """Whether a decoded value is an integer from 0; a boolean is none."""
    return type(value) is int and value >= 0


def _pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def _pack_real(value: float, form: Callable[[float], bytes]) -> bytes:
    """Whole numbers go as integers, as the C++ encoder writes them."""
    if math.isfinite(value) and -(2**63) <= value < 2**64 and value == int(value):
        return _pack(int(value))
    return form(value)


def _kind(value: object) -> str:
    if value is None:
        return "nil"
    if type(value) is bool:
        return "a boolean"
    if type(value) is int:
        return "an integer" if value >= 0 else "a negative integer"
    names = {float: "a float", str: "a string", bytes: "a binary", list: "an array"}
    return names.get(type(value), "a map or an extension")


class Kind:
    """How one field travels. `pack` raises ValueError, `unpack` FrameError: ends of sentences."""

    def pack(self, value: Any, where: str) -> bytes:
        """The bytes of a value; `where` names the field in a complaint."""
        raise NotImplementedError

    def unpack(self, value: Any, where: str) -> Any:
        """The value behind a decoded MessagePack value; `where` names the field."""
        raise NotImplementedError


def _refuse(where: str, what: str) -> NoReturn:
    raise FrameError(f"field '{where}' {what}")


def _refuse_type(where: str, value: object, wanted: str) -> NoReturn:
    _refuse(where, f"is {_kind(value)}, not {wanted}")


def _check_length(where: str, size: int, limit: int, unit: str) -> None:
    if size > limit:
        _refuse(where, f"has {size} {unit}, more than {limit}")


@dataclass(frozen=True)
class Integer(Kind):
    """An integer from `least` to `most`."""

    least: int
    most: int

    def pack(self, value: Any, where: str) -> bytes:
        """As Kind."""
        if not self.least <= value <= self.most:
            raise ValueError(f"{where}: {value} is outside {self.least} to {self.most}")
        return _pack(int(value))

    def unpack(self, value: Any, where: str) -> Any:
        """As Kind."""
        if not is_unsigned(value):
            _refuse_type(where, value, "an integer from 0")
        if not self.least <= value <= self.most:
            _refuse(where, f"is {value}, outside {self.least} to {self.most}")
        return value


U32 = Integer(0, 2**32 - 1)
U64 = Integer(0, 2**64 - 1)


class Enum(Kind):
    """One of the values of an enumeration, from `least` to `most` (default: all)."""

    def __init__(
        self,
        cls: type[enum.IntEnum],
        least: enum.IntEnum | None = None,
        most: enum.IntEnum | None = None,
    ) -> None:
        values = list(cls)
        self._cls = cls
        self._range = Integer(
            int(values[0] if least is None else least), int(values[-1] if most is None else most)
        )

    def pack(self, value: Any, where: str) -> bytes:
        """As Kind."""
        return self._range.pack(value, where)

    def unpack(self, value: Any, where: str) -> Any:
        """As Kind."""
        return self._cls(self._range.unpack(value, where))


@dataclass(frozen=True)
class Real(Kind):
    """A number, of 32 bits where `single`."""

    single: bool

    def pack(self, value: Any, where: str) -> bytes:
        """As Kind."""
        if self.single:
            if math.isfinite(value) and abs(value) > _FLOAT32_MAX:
                raise ValueError(f"{where} is beyond the range of float32")
            return _pack_real(value, lambda number: b"\xca" + struct.pack(">f", number))
        return _pack_real(value, lambda number: b"\xcb" + struct.pack(">d", number))

    def unpack(self, value: Any, where: str) -> Any:
        """As Kind."""
        if type(value) not in (float, int):
            _refuse_type(where, value, "a number")
        number = float(value)
        if not self.single or not math.isfinite(number):
            return number
        if abs(number) > _FLOAT32_MAX:
            _refuse(where, "is beyond the range of float32")
        return struct.unpack("<f", struct.pack("<f", number))[0]


F32 = Real(single=True)
F64 = Real(single=False)


class Flag(Kind):
    """True or false."""

    def pack(self, value: Any, where: str) -> bytes:
        """As Kind."""
        return b"\xc3" if value else b"\xc2"

    def unpack(self, value: Any, where: str) -> Any:
        """As Kind."""
        if type(value) is not bool:
            _refuse_type(where, value, "a boolean")
        return value


@dataclass(frozen=True)
class Text(Kind):
    """Text of at most `limit` bytes; what is no UTF-8 is kept as surrogate escapes."""

    limit: int

    def pack(self, value: Any, where: str) -> bytes:
        """As Kind."""
        size = len(value.encode(errors="surrogateescape"))
        if size > self.limit:
            raise ValueError(f"{where} has {size} bytes; the protocol allows {self.limit}")
        return msgpack.packb(value, unicode_errors="surrogateescape")  # type: ignore[no-any-return]

    def unpack(self, value: Any, where: str) -> Any:
        """As Kind."""
        if type(value) is not str:
            _refuse_type(where, value, "a string")
        _check_length(where, len(value.encode(errors="surrogateescape")), self.limit, "bytes")
        return value


class Line(Text):
    """A line for people: a longer one is cut when it is sent, never inside a character."""

    def __init__(self) -> None:
        super().__init__(MAX_LINE_BYTES)

    def pack(self, value: Any, where: str) -> bytes:
        """As Kind."""
        data = value.encode(errors="surrogateescape")
        if len(data) > self.limit:
            end = self.limit
            while data[end] & 0xC0 == 0x80:
                end -= 1
            value = data[:end].decode(errors="surrogateescape")
        return super().pack(value, where)


@dataclass(frozen=True)
class FloatArray(Kind):
    """At most `limit` 32-bit floats, little-endian, as one binary."""

    limit: int

    def pack(self, value: Any, where: str) -> bytes:
        """As Kind."""
        if len(value) > self.limit:
            raise ValueError(f"{where} has {len(value)} floats; the protocol allows {self.limit}")
        return _pack(_little_endian(value).tobytes())

    def unpack(self, value: Any, where: str) -> Any:
        """As Kind."""
        if type(value) is not bytes:
            _refuse_type(where, value, "a binary")
        if len(value) % 4 != 0:
            _refuse(where, f"is {len(value)} bytes, which is no whole number of float32")
        _check_length(where, len(value) // 4, self.limit, "floats")
        return _little_endian(array("f", value))


def _little_endian(values: Floats) -> Floats:
    if sys.byteorder == "little":
        return values
    swapped = array("f", values)
    swapped.byteswap()
    return swapped


@dataclass(frozen=True)
class Mask(Kind):
    """At most `limit` rows of `row` bytes, each 0 or 1."""

    limit: int
    row: int = 1

    def pack(self, value: Any, where: str) -> bytes:
        """As Kind."""
        if len(value) > self.limit * self.row:
            raise ValueError(
                f"{where} has {len(value)} bytes; the protocol allows {self.limit * self.row}"
            )
        if value.strip(b"\x00\x01"):
            raise ValueError(f"{where} holds a value other than 0 and 1")
        return _pack(bytes(value))

    def unpack(self, value: Any, where: str) -> Any:
        """As Kind."""
        if type(value) is not bytes:
            _refuse_type(where, value, "a binary")
        _check_length(where, len(value), self.limit * self.row, "bytes")
        for place, byte in enumerate(value):
            if byte > 1:
                _refuse(where, f"holds {byte} at place {place} where only 0 and 1 may stand")
        if len(value) % self.row != 0:
            _refuse(where, f"is {len(value)} bytes, which is no whole number of {self.row}")
        return value


@dataclass(frozen=True)
class Choices(Kind):
    """At most `limit` bytes, each below `choices`."""

    limit: int
    choices: int

    def pack(self, value: Any, where: str) -> bytes:
        """As Kind."""
        if len(value) > self.limit:
            raise ValueError(f"{where} has {len(value)} bytes; the protocol allows {self.limit}")
        if any(byte >= self.choices for byte in value):
            raise ValueError(f"{where} holds a choice that is none of the {self.choices}")
        return _pack(bytes(value))

    def unpack(self, value: Any, where: str) -> Any:
        """As Kind."""
        if type(value) is not bytes:
            _refuse_type(where, value, "a binary")
        _check_length(where, len(value), self.limit, "bytes")
        for place, byte in enumerate(value):
            if byte >= self.choices:
                last = self.choices - 1
                _refuse(where, f"holds {byte} at place {place} where 0 to {last} may stand")
        return value


@dataclass(frozen=True)
class Maybe(Kind):
    """A value or nil, which is None."""

    kind: Kind

    def pack(self, value: Any, where: str) -> bytes:
        """As Kind."""
        return b"\xc0" if value is None else self.kind.pack(value, where)

    def unpack(self, value: Any, where: str) -> Any:
        """As Kind."""
        return None if value is None else self.kind.unpack(value, where)


@dataclass(frozen=True)
class Field:
    """One field: its name on the wire, its kind, and where the value stands in the message.

    `path` is the attribute, with dots for attributes of attributes (default: the name). One that
    is `later` is lacked by senders from before it: then the attribute has its default.
    """

    name: str
    kind: Kind
    at: str = ""
    later: bool = False

    @property
    def path(self) -> str:
        """Where the value stands in the message."""
        return self.at or self.name


T = TypeVar("T")


class Record(Generic[T]):
    """The fields of one dataclass in their order; `parts` are the classes of nested attributes."""

    def __init__(
        self, cls: type[T], fields: tuple[Field, ...], parts: dict[str, type] | None = None
    ) -> None:
        self.cls = cls
        self._fields = [(field, field.path.split(".")) for field in fields]
        # Inner parts before the ones that hold them.
        self._parts = sorted(
            ((path.split("."), part) for path, part in (parts or {}).items()),
            key=lambda item: -len(item[0]),
        )

    def pack(self, value: T, where: str) -> list[bytes]:
        """The packed fields, one entry each."""
        packed = []
        for field, path in self._fields:
            attribute: Any = value
            for name in path:
                attribute = getattr(attribute, name)
            packed.append(field.kind.pack(attribute, f"{where}: field '{field.name}'"))
        return packed

    def unpack(self, values: list[Any], prefix: str = "") -> T:
        """The value that such fields make; `prefix` goes before their names in complaints."""
        tree: dict[str, Any] = {}
        for place, (field, path) in enumerate(self._fields):
            where = prefix + field.name
            if place >= len(values):
                if field.later:
                    continue
                _refuse(where, "is missing")
            branch = tree
            for name in path[:-1]:
                branch = branch.setdefault(name, {})
            branch[path[-1]] = field.kind.unpack(values[place], where)
        for path, part in self._parts:
            branch = tree
            for name in path[:-1]:
                branch = branch[name]
            branch[path[-1]] = part(**branch[path[-1]])
        return self.cls(**tree)


class List(Kind):
    """At most `limit` records, as a tuple."""

    def __init__(self, record: Record[Any], limit: int) -> None:
        self._record = record
        self._limit = limit

    def pack(self, value: Any, where: str) -> bytes:
        """As Kind."""
        if len(value) > self._limit:
            raise ValueError(
                f"{where} has {len(value)} elements; the protocol allows {self._limit}"
            )
        parts = [pack_array_header(len(value))]
        for element in value:
            fields = self._record.pack(element, where)
            parts.append(pack_array_header(len(fields)))
            parts += fields
        return b"".join(parts)

    def unpack(self, value: Any, where: str) -> Any:
        """As Kind."""
        if type(value) is not list:
            _refuse_type(where, value, "an array")
        _check_length(where, len(value), self._limit, "elements")
        elements = []
        for place, element in enumerate(value):
            if type(element) is not list:
                _refuse_type(f"{where}[{place}]", element, "an array")
            elements.append(self._record.unpack(element, f"{where}[{place}]."))
        return tuple(elements)


# Bytes behind the first of a value that stands alone, by its first byte.
_FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8} | {
    code: size
    for first in (0xCC, 0xD0)
    for code, size in zip(range(first, first + 4), (1, 2, 4, 8), strict=False)
}
# Bytes of the length that follows the first byte: strings and binaries, arrays, maps.
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_ARRAYS = {0xDC: 2, 0xDD: 4}
_MAPS = {0xDE, 0xDF}
_EXTENSIONS = {0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8}


def unpack(frame: bytes) -> list[Any]:
    """The values of a frame, an array, checked before memory is spent on what it claims.

    Raises:
        FrameError: For what is no whole MessagePack array, has bytes behind it, holds maps or
            extensions, or is beyond the limits.
    """
    what = f"frame of {len(frame)} bytes: "
    if len(frame) > MAX_FRAME_BYTES:
        raise FrameError(f"{what}larger than {MAX_FRAME_BYTES}")
    if not frame:
        raise FrameError(f"{what}empty")
    try:
        end = _walk(frame)
    except FrameError as error:
        raise FrameError(f"{what}{error}") from None
    if end != len(frame):
        raise FrameError(f"{what}the message ends at byte {end}")
    root = msgpack.unpackb(
        frame,
        raw=False,
        unicode_errors="surrogateescape",
        max_str_len=len(frame),
        max_bin_len=len(frame),
        max_array_len=MAX_VALUES,
    )
    if type(root) is not list:
        raise FrameError(f"{what}{_kind(root)}, not an array")
    return root


def _walk(frame: bytes) -> int:
    """The end of the frame's first value. Nothing is stored, so that a hostile one costs little."""
    at = 0
    values_left = min(len(frame), MAX_VALUES)
    open_arrays: list[int] = [1]  # elements still to come, of every array that is open
    while open_arrays:
        if at >= len(frame):
            raise FrameError("it ends inside a value")
        code = frame[at]
        begin, at = at, at + 1
        open_arrays[-1] -= 1
        if code < 0x80 or code >= 0xE0:
            size = 0
        elif 0xA0 <= code < 0xC0:
            size = code & 0x1F
        elif 0x90 <= code < 0xA0 or code in _ARRAYS:
            wide = _ARRAYS.get(code, 0)
            count = int.from_bytes(_take(frame, at, wide), "big") if wide else code & 0x0F
            at += wide
            if len(open_arrays) > MAX_DEPTH:
                raise FrameError(f"arrays nest deeper than {MAX_DEPTH}")
            if count > values_left:
                raise FrameError(
                    f"an array claims {count} elements, more than fit into the frame or the "
                    f"limit of {MAX_VALUES}"
                )
            values_left -= count
            open_arrays.append(count)
            size = 0
        elif code in _FIXED:
            size = _FIXED[code]
        elif code in _SIZED:
            wide = _SIZED[code]
            size = int.from_bytes(_take(frame, at, wide), "big")
            at += wide
        elif code < 0x90 or code in _MAPS:
            raise FrameError("it holds a map")
        elif code in _EXTENSIONS:
            raise FrameError("it holds an extension type")
        else:
            raise FrameError(f"the byte at {begin} begins no MessagePack value")
        if size > len(frame) - at:
            raise FrameError("it ends inside a value")
        at += size
        while open_arrays and open_arrays[-1] == 0:
            open_arrays.pop()
    return at


def _take(frame: bytes, at: int, size: int) -> bytes:
    if at + size > len(frame):
        raise FrameError("it ends inside a value")
    return frame[at : at + size]
