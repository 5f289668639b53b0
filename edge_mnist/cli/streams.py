"""The standard streams of a command: closed, full, or unable to print a character."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from edge_mnist.errors import OutputError


class _Output(io.TextIOWrapper):
    """Standard output. A reader that closed the pipe ends the command, and is no error."""

    def write(self, text: str, /) -> int:
        """Write a text.

        Raises:
            OutputError: The stream is closed, or its disk is full.
        """
        if text == "":  # how Click finds out what kind of stream it is, heedless of errors
            return 0
        with self._translate_errors():
            return super().write(text)

    def flush(self) -> None:
        """Write what is buffered; raises as ``write``."""
        with self._translate_errors():
            super().flush()

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError as error:
            _drop_output(self)
            raise SystemExit(0) from error
        except OSError as error:
            _drop_output(self)
            raise OutputError(f"cannot write standard output: {error.strerror}") from error


class _Messages(io.TextIOWrapper):
    """Standard error. A message that cannot be written is dropped: the answers still count."""

    def write(self, text: str, /) -> int:
        """Write a text, or drop it."""
        try:
            return super().write(text)
        except OSError:
            _drop_output(self)
            return len(text)

    def flush(self) -> None:
        """Write what is buffered, or drop it."""
        try:
            super().flush()
        except OSError:
            _drop_output(self)


def prepare_streams() -> None:
    """Replace the standard streams by ones that fail in one line, and print any character.

    A closed stream gets the null device, so that no file that is opened later takes its number:
    standard input and output in the mode that makes their use an error, standard error not.
    """
    for number, name, flags, mode in (
        (0, "stdin", os.O_WRONLY, "r"),
        (1, "stdout", os.O_RDONLY, "w"),
        (2, "stderr", os.O_WRONLY, "w"),
    ):
        if getattr(sys, name) is None:
            _open_null(number, flags)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    sys.stdout = sys.__stdout__ = _rewrap(sys.stdout, _Output)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _rewrap(sys.stderr, _Messages)  # type: ignore[misc]


def escape(text: str) -> str:
    """Return a text on one line, with what cannot be printed as escapes.

    A file's name may hold control characters, which would move the cursor or colour the terminal,
    and bytes that are not UTF-8, which Python keeps as surrogates.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escape_character(one) for one in text)


def _escape_character(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # the byte that os.fsdecode could not decode
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def _rewrap(stream: TextIO, kind: type[io.TextIOWrapper]) -> io.TextIOWrapper:
    """Wrap a stream's buffer anew."""
    if not isinstance(stream, io.TextIOWrapper):
        raise TypeError(f"expected a stream of the interpreter, got {type(stream).__name__}")
    encoding, is_line_buffered = stream.encoding, stream.line_buffering
    writes_through = stream.write_through
    return kind(
        stream.detach(),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=is_line_buffered,
        write_through=writes_through,
    )


def _drop_output(stream: io.TextIOWrapper) -> None:
    """Send what is buffered and what follows to the null device.

    Else Python writes it once more at the end, and fails once more.
    """
    _open_null(stream.fileno(), os.O_WRONLY)


def _open_null(number: int, flags: int) -> None:
    """Open the null device as the file of a number."""
    null = os.open(os.devnull, flags)
    if null == number:
        os.set_inheritable(number, True)
    else:
        os.dup2(null, number)
        os.close(null)
