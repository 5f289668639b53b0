"""Reads PGM files without any package: python predict.py LIBRARY FILE...

LIBRARY is the shared library, such as PREFIX/lib/libedge_mnist.so. Prints for each file its class,
or "rejected: " and the reason, and the confidence.
"""

import ctypes
import re
import sys
from ctypes import POINTER, Structure, c_char_p, c_int, c_int32, c_size_t, c_void_p
from pathlib import Path


class Prediction(Structure):
    """``edge_mnist_prediction`` of edge_mnist_predict.h."""

    _fields_ = (("label", c_int32), ("confidence", c_int32), ("reason", c_int32))


def open_library(path: str) -> ctypes.CDLL:
    """Load the shared library and state the types of its functions."""
    library = ctypes.CDLL(path)
    library.edge_mnist_predict_scratch_size.argtypes = (c_int, c_int)
    library.edge_mnist_predict_scratch_size.restype = c_size_t
    library.edge_mnist_predict.argtypes = (
        c_char_p, c_int, c_int, c_int, POINTER(Prediction), c_void_p, c_size_t,
    )  # fmt: skip
    for function in (library.edge_mnist_class_name, library.edge_mnist_reason_name):
        function.argtypes, function.restype = (c_int,), c_char_p
    return library


def predict(library: ctypes.CDLL, grey: bytes, width: int, height: int) -> Prediction:
    """Read a picture: rows of grey levels, one after another."""
    size = library.edge_mnist_predict_scratch_size(width, height)
    prediction, scratch = Prediction(), ctypes.create_string_buffer(size)
    error = library.edge_mnist_predict(grey, width, height, width, prediction, scratch, size)
    if error:
        raise ValueError(f"error {error}")
    return prediction


def read_pgm(path: str) -> tuple[bytes, int, int]:
    """Return levels, width and height of a PGM file."""
    content = Path(path).read_bytes()
    head = re.match(rb"P5\s+(\d+)\s+(\d+)\s+255\s", content)
    if not head or len(content) != head.end() + int(head[1]) * int(head[2]):
        raise ValueError(f"{path}: no PGM file of 8 bits")
    return content[head.end() :], int(head[1]), int(head[2])


def main() -> None:
    """Read the files that the command names."""
    library = open_library(sys.argv[1])
    for path in sys.argv[2:]:
        found = predict(library, *read_pgm(path))
        name = library.edge_mnist_class_name(found.label)
        if found.label < 0:
            name = b"rejected: " + library.edge_mnist_reason_name(found.reason)
        print(f"{name.decode()} {found.confidence / 65536:.4f}")


if __name__ == "__main__":
    main()
