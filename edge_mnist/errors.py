"""The errors a user can cause, drawn once as a tree.

EdgeMnistError                 exit code 3: something that cannot be had
├── UsageError                 exit code 2: the request itself is wrong
├── DataError                  a data set is missing, truncated or altered
├── PictureError               a picture cannot be read
├── ModelError                 a model file or checkpoint is missing, broken or breaks the contract
├── ProviderError              the provider asked for does not really run here
├── MissingPackageError        an optional part is not installed
├── GateError                  exit code 1: a model misses a limit, so it was not written
├── ConventionError            exit code 1: a network's input convention is unclear or contradicted
├── OutputError                a result cannot be written
├── ClusterError               Ray cannot be started, or gave up on a part of a job
└── TrainingError              training went wrong, e.g. a loss that is not finite

Every message is one line that says what is wrong and, where there is one, the way out.
"""

import numbers
import operator
from typing import Any


def one_line(error: BaseException, *, length: int = 200) -> str:
    """Return the message of any error as a part of one line; its type where it has none."""
    return " ".join(str(error).split())[:length] or type(error).__name__


class EdgeMnistError(Exception):
    """The root of all errors of this package; its message is one line for the user."""

    exit_code = 3


class UsageError(EdgeMnistError):
    """The request itself is wrong: an unknown recipe, options that contradict each other."""

    exit_code = 2


class DataError(EdgeMnistError):
    """A data set is missing, truncated or altered."""


class PictureError(EdgeMnistError):
    """A picture cannot be read."""


class ModelError(EdgeMnistError):
    """A model file or checkpoint is missing, broken or breaks the contract."""


class ProviderError(EdgeMnistError):
    """The provider asked for does not really run on this machine."""


class MissingPackageError(EdgeMnistError):
    """An optional part of the package is not installed."""


class OutputError(EdgeMnistError):
    """A result cannot be written."""


class ClusterError(EdgeMnistError):
    """Ray cannot be started or reached, or gave up on a part of a job."""


class TrainingError(EdgeMnistError):
    """Training went wrong and was stopped."""


class GateError(EdgeMnistError):
    """A model misses a limit, so it was not written."""

    exit_code = 1


class ConventionError(EdgeMnistError):
    """No input convention of a network stands out, or a stated one is contradicted.

    Attributes:
        table: What was measured, a line for each convention.
    """

    exit_code = 1

    def __init__(self, message: str, table: str = "") -> None:
        """Keep the table beside the message, which stays one line."""
        super().__init__(message)
        self.table = table


def check_integer(name: str, value: Any, low: int, high: int) -> int:
    """Return an integer, Python's or NumPy's, that is within its range.

    Args:
        name: Of the argument, for the message.
        value: What was given for it.
        low: The smallest allowed.
        high: The largest allowed.

    Raises:
        UsageError: It is of another type, such as a bool, a float or a text, or out of its range.
    """
    try:
        if isinstance(value, bool) or not low <= operator.index(value) <= high:
            raise TypeError
    except TypeError:
        raise UsageError(
            f"{name}: expected an integer from {low:,} to {high:,}, got {value!r}"
        ) from None
    return operator.index(value)


def check_number(name: str, value: Any, low: float, high: float) -> float:
    """Return a real number, Python's or NumPy's, that is within its range.

    Args:
        name: Of the argument, for the message.
        value: What was given for it.
        low: The smallest allowed.
        high: The largest allowed.

    Raises:
        UsageError: It is of another type, such as a bool or a text, NaN, or out of its range.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (is_number and low <= value <= high):  # written so that NaN fails too
        raise UsageError(f"{name}: expected a number from {low:g} to {high:g}, got {value!r}")
    return float(value)
