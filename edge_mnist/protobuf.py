"""Just enough of protobuf to look into an ONNX file before any runtime opens it.

Source: protobuf's encoding guide; field numbers from onnx.proto.
"""

from collections.abc import Iterator

from edge_mnist.errors import ModelError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
Field = tuple[int, int | bytes]


def read_fields(message: bytes) -> Iterator[Field]:
    """Yield the fields of a message: number, and its integer or its bytes.

    Raises:
        ModelError: The message is truncated, or no protobuf at all.
    """
    place = 0
    while place < len(message):
        tag, place = _read_varint(message, place)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, place = _read_varint(message, place)
            yield number, value
            continue
        if kind == BYTES:
            length, place = _read_varint(message, place)
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise ModelError("not an ONNX file")
        if place + length > len(message):
            raise ModelError("the ONNX file is truncated")
        yield number, message[place : place + length]
        place += length


def read_bytes(message: bytes, number: int) -> Iterator[bytes]:
    """Yield the values of one field of a message, where they are bytes or messages."""
    for found, value in read_fields(message):
        if found == number and isinstance(value, bytes):
            yield value


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise ModelError("the ONNX file is truncated")
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ModelError("not an ONNX file")
