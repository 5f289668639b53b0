"""What all pictures share: colours, names cut to length, figure to PNG."""

import io
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by the colour-blind, and in grey print.
BLUE, VERMILION = "#0072B2", "#D55E00"
PALETTE = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY, LIGHT_GREY = "#6E6E6E", "#EEEEEE"
DPI = 150
ELLIPSIS = "\u2026"


def to_png(figure: "Figure") -> bytes:
    """Return a figure as a PNG file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # a class may be named in letters that the font lacks
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def shorten(name: str, length: int) -> str:
    """Cut a name to a length by an ellipsis in its middle, since ends tell names apart.

    Args:
        name: Any text; line breaks become spaces.
        length: Most characters of the result, at least 1.

    Returns:
        The name, ready to be drawn: a dollar sign in it does not start a formula. The backslash
        that this takes is not counted.
    """
    name = " ".join(name.split())
    if len(name) > length:
        tail = (length - 1) // 2
        name = name[: length - 1 - tail] + ELLIPSIS + name[len(name) - tail :]
    return name.replace("$", r"\$")


def write_count(count: int, noun: str) -> str:
    """Write how many there are, with the noun in singular or plural."""
    return f"{count:,} {noun}" + "s" * (count != 1)


def draw_message(text: str) -> bytes:
    """Draw a picture that says why there is nothing to draw."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 1.6))
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=12)
    return to_png(figure)


def label_whole_numbers(axis: "Axis") -> None:
    """Label a linear axis at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def label_log_axis(axis: "Axis") -> None:
    """Label a logarithmic axis at 1, 2 and 5 of each decade, in plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
