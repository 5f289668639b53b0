"""How many threads PyTorch computes with in a training: as asked for, or by a short measurement."""

import copy
import itertools
import statistics
import time
from collections.abc import Iterator

import torch

from edge_mnist.errors import UsageError
from edge_mnist.session import read_threads
from edge_mnist.training.networks import limited_threads
from edge_mnist.training.trainer import Trainer, make_optimizer

ROUNDS, STEPS_PER_ROUND = 4, 3
MAX_MEASUREMENT_S = 5.0
# More threads take cores from other programs, and are given up last when those come.
LEAST_GAIN = 1.1


def resolve_threads(threads: int | str | None) -> int | None:
    """Return the number of threads that was asked for; None for ``auto``.

    Args:
        threads: A number, ``auto``, or None for EDGE_MNIST_THREADS or else PyTorch's own number.

    Raises:
        UsageError: It is out of its range.
    """
    if threads == "auto":
        return None
    if isinstance(threads, str):
        raise UsageError(f"threads: expected an integer or 'auto', got {threads!r}")
    return read_threads(threads) or torch.get_num_threads()


def choose_threads(trainer: Trainer) -> int:
    """Return the number of threads that trains fastest here and now, of 1, 2, 4 ... to PyTorch's.

    Steps of a copy of the network are timed, in turns, so that a busy machine disturbs all alike;
    the trainer stays as it is. On a GPU, and where PyTorch has one thread, nothing is measured.
    """
    most = torch.get_num_threads()
    candidates = [n for n in (2**power for power in range(9)) if n < most] + [most]
    if trainer.device.type != "cpu" or len(candidates) == 1:
        return most
    step_s: dict[int, list[float]] = {n: [] for n in candidates}
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        runs = {n: _time_steps(trainer, n) for n in candidates}
        for turn in range(ROUNDS + 1):
            for n, run in runs.items():
                spent_s = [next(run) for _ in range(STEPS_PER_ROUND)]
                if turn:  # the first round warms up
                    step_s[n] += spent_s
            if turn and time.perf_counter() - start > MAX_MEASUREMENT_S:
                break
    best = 1
    for n in candidates[1:]:
        if statistics.mean(step_s[best]) > LEAST_GAIN * statistics.mean(step_s[n]):
            best = n
    return best


def _time_steps(trainer: Trainer, threads: int) -> Iterator[float]:
    """Train a copy of a trainer's network; yield the seconds of each step, without end."""
    network = copy.deepcopy(trainer.network).train()
    optimizer = make_optimizer(trainer.recipe, network.parameters())
    batches = itertools.chain.from_iterable(trainer.draw_batches() for _ in itertools.count())
    while True:
        start = time.perf_counter()
        with limited_threads(threads):
            loss, _ = trainer.compute_loss(network, *next(batches))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        yield time.perf_counter() - start
