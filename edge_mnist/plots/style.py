"""What all plots share: colours, labels, and a figure's PNG file."""

import io
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# The palette of M. Okabe and K. Ito, which the colour-blind can tell apart, also in grey print.
BLUE, VERMILION = "#0072B2", "#D55E00"
PALETTE = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY, LIGHT_GREY = "#6E6E6E", "#EEEEEE"
DPI = 150  # of the PNG files
ELLIPSIS = "\u2026"


def to_png(figure: "Figure") -> bytes:
    """Return a figure as a PNG file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # class names may use characters that the font does not have
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def shorten(name: str, length: int) -> str:
    """Shorten a name by an ellipsis in its middle, since the ends of names tell them apart.

    Args:
        name: Any text; line breaks become spaces.
        length: Largest number of characters, at least 1.

    Returns:
        The name, escaped so that a dollar sign starts no formula; the backslash is not counted.
    """
    name = " ".join(name.split())
    if len(name) > length:
        tail = (length - 1) // 2
        name = name[: length - 1 - tail] + ELLIPSIS + name[len(name) - tail :]
    return name.replace("$", r"\$")


def format_count(count: int, noun: str) -> str:
    """Format a count with its noun, in singular or plural."""
    return f"{count:,} {noun}" + "s" * (count != 1)


def draw_message(text: str) -> bytes:
    """Draw a line of text, where there is nothing else to draw."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 1.6))
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=12)
    return to_png(figure)


def label_integers(axis: "Axis") -> None:
    """Label a linear axis at integers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def label_log_axis(axis: "Axis") -> None:
    """Label a logarithmic axis at 1, 2 and 5 of each decade, in plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
