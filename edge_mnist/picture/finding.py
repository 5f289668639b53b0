"""Finding the pictures in a folder."""

import os
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = frozenset(
    f".{name}"
    for name in ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm")
)


def find_pictures(folder: str, suffixes: frozenset[str] = SUFFIXES) -> Iterator[str]:
    """Yield the pictures below a folder by their suffix, in order; links are not followed."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return  # a folder that may not be read holds no pictures for us
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from find_pictures(entry.path, suffixes)
        elif entry.is_file(follow_symlinks=False) and Path(entry.name).suffix.lower() in suffixes:
            yield entry.path
