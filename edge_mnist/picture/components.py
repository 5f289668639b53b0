"""Connected parts of a mask, with numpy alone."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Grey = NDArray[np.float32]


@dataclass(frozen=True)
class Components:
    """The 8-connected parts of a mask, as horizontal runs of pixels.

    Attributes:
        shape: Height and width of the mask.
        rows: Row of each run.
        starts: First column of each run.
        ends: Column after the last one of each run.
        labels: Which component each run belongs to, 0 .. n - 1.
        n: Number of components.
    """

    shape: tuple[int, int]
    rows: NDArray[np.intp]
    starts: NDArray[np.intp]
    ends: NDArray[np.intp]
    labels: NDArray[np.intp]
    n: int

    def sum_over(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Add up an image's values over each component; ``values`` has the mask's shape."""
        height, width = self.shape
        running = np.zeros((height, width + 1))
        np.cumsum(values, axis=1, out=running[:, 1:])
        runs = running[self.rows, self.ends] - running[self.rows, self.starts]
        sums = np.bincount(self.labels, weights=runs, minlength=self.n)
        return sums.astype(np.float64)

    def boxes(self) -> tuple[NDArray[np.intp], ...]:
        """Return top, bottom, left and right of each component; bottom and right lie outside."""
        height, width = self.shape
        top, bottom = np.full(self.n, height), np.zeros(self.n, np.intp)
        left, right = np.full(self.n, width), np.zeros(self.n, np.intp)
        np.minimum.at(top, self.labels, self.rows)
        np.maximum.at(bottom, self.labels, self.rows + 1)
        np.minimum.at(left, self.labels, self.starts)
        np.maximum.at(right, self.labels, self.ends)
        return top, bottom, left, right

    def number_pixels(self) -> NDArray[np.intp]:
        """Return each pixel's component, shape (H, W); -1 outside of all."""
        numbers = np.full(self.shape, -1)
        runs = zip(self.rows.tolist(), self.starts.tolist(), self.ends.tolist(), strict=True)
        for (row, start, end), label in zip(runs, self.labels.tolist(), strict=True):
            numbers[row, start:end] = label
        return numbers

    def mask_of(self, keep: Mask) -> Mask:
        """Return the mask of some components; ``keep`` has one entry for each."""
        height, width = self.shape
        change = np.zeros((height, width + 1), np.int8)
        kept = keep[self.labels]
        change[self.rows[kept], self.starts[kept]] += 1
        change[self.rows[kept], self.ends[kept]] -= 1
        return np.cumsum(change, axis=1, dtype=np.int8)[:, :width] > 0


def join_components(components: Components, groups: NDArray[np.intp]) -> Components:
    """Return the same runs with every component replaced by its group's number, 0 .. n - 1."""
    names, numbers = np.unique(groups, return_inverse=True)
    labels = numbers.reshape(-1)[components.labels]
    return dataclasses.replace(components, labels=labels, n=len(names))


def find_components(mask: Mask) -> Components:
    """Find the 8-connected parts of a mask."""
    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    change = np.diff(padded, axis=1)
    rows, starts = np.nonzero(change == 1)
    ends = np.nonzero(change == -1)[1]
    roots = _join_runs(rows, starts, ends, height)
    names, labels = np.unique(roots, return_inverse=True)
    return Components((height, width), rows, starts, ends, labels.reshape(-1), len(names))


def _join_runs(
    rows: NDArray[np.intp], starts: NDArray[np.intp], ends: NDArray[np.intp], height: int
) -> NDArray[np.intp]:
    """Return for each run the first run it is connected with, through touching runs."""
    parents = list(range(len(rows)))

    def find(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    first_of_row = np.searchsorted(rows, np.arange(height + 1)).tolist()
    begin, end = starts.tolist(), ends.tolist()
    for row in range(1, height):
        above, here, after = first_of_row[row - 1 : row + 2]
        upper, lower = above, here
        while upper < here and lower < after:
            if end[upper] >= begin[lower] and end[lower] >= begin[upper]:
                first, second = find(upper), find(lower)
                parents[max(first, second)] = min(first, second)
            if end[upper] < end[lower]:
                upper += 1
            else:
                lower += 1
    return np.array([find(run) for run in range(len(rows))], np.intp)
