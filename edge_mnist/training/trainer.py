"""The training loop: read ``Trainer.run_epoch`` top to bottom."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edge_mnist.errors import ModelError, ProviderError, TrainingError, UsageError
from edge_mnist.machine import read_cpu_flags
from edge_mnist.model_file import find_model, read_model
from edge_mnist.predictor import Predictor
from edge_mnist.training.augmentation import augment
from edge_mnist.training.calibration import Calibration, Validation, calibrate
from edge_mnist.training.checkpoint import Checkpoint, load_network
from edge_mnist.training.datasets import DIGIT_LABELS, Dataset, split_training
from edge_mnist.training.handwriting import Handwriting, LabelledImages, Pool, make_thin_pool
from edge_mnist.training.networks import compute_logits, make_network, to_pixels
from edge_mnist.training.outliers import draw_outliers
from edge_mnist.training.provenance import record_training_data
from edge_mnist.training.recipes import Recipe, parse_recipe
from edge_mnist.training.unipen import Characters

N_OUTLIERS = 8000
REPORT_STEPS = 20  # steps between two progress reports and checks of the loss


@dataclass(frozen=True)
class Progress:
    """The progress of a training; reported every few steps.

    ``validation_accuracy`` is that of the last whole epoch, a fraction; None in the first epoch.
    ``fold`` is the current one of ``folds``; both are 0 without cross-validation.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    validation_accuracy: float | None
    images_per_s: float
    left_s: float
    fold: int = 0
    folds: int = 0


@dataclass(frozen=True)
class Epoch:
    """What one epoch did: one line of the history.

    Attributes:
        epoch: Its number, from 1.
        loss: Mean over the augmented training images, while the weights changed.
        accuracy: Share of those whose predicted label was the target's.
        validation_loss: Of the averaged weights, after the epoch.
        validation_accuracy: Of the averaged weights, after the epoch.
        learning_rate: In the last step.
        train_s: Seconds without the validation.
        images_per_s: In those seconds.
        handwriting_accuracy: Of the averaged weights on the digits of UNIPEN's held-out writers;
            None without UNIPEN.
    """

    epoch: int
    loss: float
    accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    train_s: float
    images_per_s: float
    handwriting_accuracy: float | None = None


@dataclass(frozen=True)
class ExtraImages:
    """Images that come into every batch besides those of the data set.

    Attributes:
        images: Shape (N, 28, 28), uint8.
        labels: Shape (N,), int64; of outliers they say nothing.
        n: How many of them are drawn for a batch.
    """

    images: Tensor
    labels: Tensor
    n: int


class Trainer:
    """A network in training: the state that one epoch leaves to the next."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        device: torch.device,
        characters: Characters | None = None,
    ) -> None:
        """Put the data set on the device and draw the initial weights from the seed.

        Args:
            recipe: Every number that decides the weights.
            dataset: What to train on.
            device: Where to train.
            characters: UNIPEN, for a recipe with a ``handwriting_share``.

        Raises:
            UsageError: The recipe needs UNIPEN, and the data set is not of digits.
        """
        self.recipe, self.device, self.epoch = recipe, device, 0
        self.steps_done = 0
        self.class_names, self.dataset_name = dataset.class_names, dataset.name
        self.trained_on = record_training_data(dataset)
        train, self.held_out = split_training(dataset, recipe)
        self.images = torch.from_numpy(dataset.train_images[train]).to(device)  # (N, 28, 28) uint8
        self.labels = torch.from_numpy(dataset.train_labels[train]).to(device)  # (N,)
        self.validation_images = dataset.train_images[self.held_out]
        self.validation_labels = dataset.train_labels[self.held_out]
        self.handwriting = open_handwriting(recipe, dataset, characters)
        self.validation_handwriting: LabelledImages | None = None
        if self.handwriting:
            held_out = self.handwriting.split.validation
            self.validation_handwriting = self.handwriting.draw_held_out(held_out)
        self._make_pools(dataset.train_images[train], dataset.train_labels[train])
        self.batch_size = min(recipe.batch_size, len(self.images))
        self.steps = len(self.images) // self.batch_size

        self.teacher = Teacher(recipe, dataset.class_names) if recipe.teacher else None
        torch.manual_seed(recipe.seed)
        # channels_last took 8 s an epoch where the default layout took 13 (2 cores, no GPU).
        # bfloat16 halved the time of ``max``; ``edge`` gained nothing.
        self.use_bfloat16 = recipe.bfloat16 and has_bfloat16(device)
        self.network = make_network(recipe, len(self.class_names)).to(device)
        self.network.to(memory_format=torch.channels_last)
        self.average = AveragedModel(
            self.network, multi_avg_fn=self._average_weights, use_buffers=True
        )
        self.optimizer = make_optimizer(recipe, self.network.parameters())
        self.plateau: ReduceLROnPlateau | None = None
        if recipe.schedule == "plateau":
            self.plateau = ReduceLROnPlateau(
                self.optimizer, factor=recipe.drop_factor, patience=recipe.patience_epochs
            )

    def run_epoch(self, report: Callable[[int, float, float], None]) -> Epoch:
        """Train for one epoch, then measure the averaged weights on the validation split.

        Args:
            report: Called every few steps with the steps done, mean loss and seconds so far.

        Raises:
            TrainingError: The loss is not a finite number.
        """
        start = time.perf_counter()
        total = torch.zeros(2, device=self.device)  # of the losses, and of correct predictions
        self.network.train()
        for step, (pixels, targets) in enumerate(self.draw_batches(), start=1):
            total += self.take_step(step, pixels, targets)
            n_targets = len(targets)
            if step % REPORT_STEPS == 0 or step == self.steps:
                report(step, self._mean_loss(total[0], step), time.perf_counter() - start)
        train_s = time.perf_counter() - start
        learning_rate = self.optimizer.param_groups[0]["lr"]
        self.epoch += 1
        validation = self.validate()
        own, handwriting = validation[self.dataset_name], validation.get("unipen")
        validation_loss = measure_loss(own)
        if self.plateau:
            self.plateau.step(validation_loss)
        return Epoch(
            epoch=self.epoch,
            loss=float(total[0]) / self.steps,
            accuracy=float(total[1]) / (self.steps * n_targets),
            validation_loss=validation_loss,
            validation_accuracy=measure_accuracy(own),
            learning_rate=learning_rate,
            train_s=train_s,
            images_per_s=self.steps * self.batch_size / train_s,
            handwriting_accuracy=measure_accuracy(handwriting) if handwriting else None,
        )

    def _make_pools(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        """Prepare the images that are drawn besides those of the data set.

        Args:
            images: The data set's images to train on, shape (N, 28, 28), uint8.
            labels: Theirs, shape (N,), int64.
        """
        recipe = self.recipe
        self.labelled_pools: list[tuple[Pool, int]] = []
        self.outlier_pools: list[tuple[Pool, int]] = []
        if recipe.thin_share:
            n = round(recipe.thin_share * recipe.batch_size)
            self.labelled_pools.append((make_thin_pool(images, labels, recipe.seed), n))
        n_outliers = round(recipe.outlier_share * recipe.batch_size)
        n_letters = round(recipe.letter_share * n_outliers) if self.handwriting else 0
        if self.handwriting:
            n = round(recipe.handwriting_share * recipe.batch_size)
            digits = self.handwriting.make_digit_pool(recipe.seed, coarse_share=recipe.coarse_share)
            self.labelled_pools.append((digits, n))
            self.outlier_pools.append((self.handwriting.make_letter_pool(recipe.seed), n_letters))
        self.drawn_outliers: ExtraImages | None = None  # of all epochs
        if n_outliers - n_letters:
            drawn = draw_outliers(images, N_OUTLIERS, seed=recipe.seed)
            unlabelled = np.full(N_OUTLIERS, -1, np.int64)
            self.drawn_outliers = self._to_device(
                LabelledImages(drawn, unlabelled), n_outliers - n_letters
            )

    def _to_device(self, drawn: LabelledImages, n: int) -> ExtraImages:
        images, labels = torch.from_numpy(drawn.images), torch.from_numpy(drawn.labels)
        return ExtraImages(images.to(self.device), labels.to(self.device), n)

    def _draw_extra(
        self, pools: list[tuple[Pool, int]], fixed: ExtraImages | None = None
    ) -> list[ExtraImages]:
        drawn = [self._to_device(pool.draw_epoch(self.epoch), n) for pool, n in pools if n]
        return [fixed, *drawn] if fixed else drawn

    def draw_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield augmented images and their targets, which depend on seed and epoch alone.

        Images of the data set come first, then those of the other sources, then outliers, which
        have no targets. Targets are probabilities, shape (labelled images, classes).
        """
        labelled = self._draw_extra(self.labelled_pools)
        outliers = self._draw_extra(self.outlier_pools, self.drawn_outliers)
        seed = self.recipe.seed * 1_000_003 + self.epoch
        generator = torch.Generator(self.device).manual_seed(seed)
        for rows in torch.split(self.draw_order(generator), self.batch_size)[: self.steps]:
            images, labels = [self.images[rows]], [self.labels[rows]]
            for extra in (*labelled, *outliers):
                picks = torch.randint(
                    len(extra.images), (extra.n,), generator=generator, device=self.device
                )
                images.append(extra.images[picks])
                labels.append(extra.labels[picks])
            pixels = to_pixels(torch.cat(images))  # (B, 1, 28, 28)
            clean, pixels = augment(pixels, self.recipe, generator)
            known = torch.cat(labels[: 1 + len(labelled)])
            # The teacher is given the images before their photometric augmentation.
            yield pixels, self.draw_targets(clean[: len(known)], known, n_images=len(rows))

    def draw_order(self, generator: torch.Generator) -> Tensor:
        """Return the rows of one epoch: each once, or drawn with equal frequency of classes."""
        if not self.recipe.oversample:
            return torch.randperm(len(self.images), generator=generator, device=self.device)
        rarity = 1 / torch.bincount(self.labels).float()[self.labels]  # (N,)
        return torch.multinomial(rarity, len(rarity), replacement=True, generator=generator)

    def draw_targets(self, pixels: Tensor, labels: Tensor, *, n_images: int) -> Tensor:
        """Return the targets, shape (N, classes): smoothed labels, mixed with the teacher's output.

        Args:
            pixels: What the teacher is given, shape (N, 1, 28, 28).
            labels: True classes, shape (N,).
            n_images: How many of the images, from the first, are the data set's. The others are
                taught by a teacher only that learned from them itself.

        Source: G. Hinton et al., Distilling the Knowledge in a Neural Network, 2015.
        """
        n_classes = len(self.class_names)
        hard = nn.functional.one_hot(labels, n_classes).float()
        smooth = torch.lerp(hard, torch.full_like(hard, 1 / n_classes), self.recipe.label_smoothing)
        if not self.teacher:
            return smooth
        n = len(pixels) if self.teacher.knows_handwriting else n_images
        probabilities = self.teacher.compute_probabilities(pixels[:n])
        mixed = torch.lerp(smooth[:n], probabilities, self.recipe.teacher_share)
        return torch.cat([mixed, smooth[n:]])

    def take_step(self, step: int, pixels: Tensor, targets: Tensor) -> Tensor:
        """Do one optimizer step; return its loss and the number of correct predictions."""
        self.steps_done = self.epoch * self.steps + step
        if not self.plateau:
            done = self.steps_done / (self.recipe.epochs * self.steps)
            scale = scale_rate(self.recipe, epoch=self.epoch, done=done)
            self.optimizer.param_groups[0]["lr"] = self.recipe.learning_rate * scale
        loss, logits = self.compute_loss(self.network, pixels, targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.average.update_parameters(self.network)
        correct = logits[: len(targets)].argmax(dim=1) == targets.argmax(dim=1)
        return torch.stack([loss.detach(), correct.sum().float()])

    def compute_loss(
        self, network: nn.Module, pixels: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch, as ``draw_batches`` gives it, and its logits."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.use_bfloat16):
            logits = network(pixels.contiguous(memory_format=torch.channels_last)).float()
        loss = nn.functional.cross_entropy(logits[: len(targets)], targets)
        if len(logits) > len(targets):  # towards the same probability for every class
            uniformity = -logits[len(targets) :].log_softmax(dim=1).mean()
            loss = loss + self.recipe.outlier_weight * uniformity
        return loss, logits

    def calibrate(self, network: nn.Module) -> Calibration:
        """Return the calibration of a network on the held-out images of every source."""
        return calibrate(self.validate(network))

    def validate(self, network: nn.Module | None = None) -> dict[str, Validation]:
        """Return what a network answers to the held-out images of each source.

        Args:
            network: None for the averaged weights.
        """
        network = network or self.average.module
        parts = {self.dataset_name: LabelledImages(self.validation_images, self.validation_labels)}
        if self.validation_handwriting:
            parts["unipen"] = self.validation_handwriting
        return {
            name: Validation(compute_logits(network, part.images), part.labels)
            for name, part in parts.items()
        }

    def checkpoint(self) -> Checkpoint:
        """Return the weights and, unless the training is finished, the state to continue it."""
        weights = self.average.module.state_dict()
        if self.epoch >= self.recipe.epochs:
            checkpoint = Checkpoint(
                self.recipe, self.epoch, self.class_names, weights, trained_on=self.trained_on
            )
            # On the network as it is loaded again: another memory layout adds in another order.
            calibration = self.calibrate(load_network(checkpoint))
            return dataclasses.replace(checkpoint, calibration=calibration)
        state = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        state["average.n_averaged"] = self.average.n_averaged
        for row, entries in self.optimizer.state_dict()["state"].items():
            kept = {name: value for name, value in entries.items() if value is not None}
            state |= {f"optimizer.{row}.{name}": value for name, value in kept.items()}
        if self.plateau:
            rate = self.optimizer.param_groups[0]["lr"]
            so_far = [self.plateau.best, self.plateau.num_bad_epochs, rate]
            state["plateau"] = torch.tensor(so_far, dtype=torch.float64)
        return Checkpoint(
            self.recipe, self.epoch, self.class_names, weights, state, trained_on=self.trained_on
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Return to the state in which ``checkpoint`` was taken.

        Raises:
            ModelError: The checkpoint does not hold the state of this network.
        """
        self.epoch = checkpoint.epoch
        if checkpoint.is_finished:  # stopped before its result was written
            self.average.module.load_state_dict(checkpoint.weights)
            return
        state, optimizer = checkpoint.state, self.optimizer.state_dict()
        try:
            network = {name: state[f"network.{name}"] for name in self.network.state_dict()}
            self.network.load_state_dict(network)
            self.average.module.load_state_dict(checkpoint.weights)
            self.average.n_averaged.copy_(state["average.n_averaged"])
        except (KeyError, RuntimeError) as error:
            raise ModelError(f"the checkpoint does not fit this network: {error}") from error
        for name, value in state.items():
            if name.startswith("optimizer."):
                _, row, entry = name.split(".")
                optimizer["state"].setdefault(int(row), {})[entry] = value
        self.optimizer.load_state_dict(optimizer)
        if self.plateau:
            best, n_bad, rate = state["plateau"].tolist()
            self.plateau.best, self.plateau.num_bad_epochs = best, int(n_bad)
            self.optimizer.param_groups[0]["lr"] = rate

    def _average_weights(self, average: Any, current: Any, n_averaged: Any) -> None:
        """Update the moving average of the weights, with a shorter memory in the first steps."""
        memory_steps = self.recipe.average_share * self.steps * self.recipe.epochs
        keep = min(1 - 1 / max(memory_steps, 2), (1 + self.steps_done) / (10 + self.steps_done))
        keep = keep if memory_steps else 0.0
        get_ema_multi_avg_fn(keep)(average, current, n_averaged)  # type: ignore[no-untyped-call]

    def _mean_loss(self, total: Tensor, step: int) -> float:
        loss = float(total) / step
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is not finite in epoch {self.epoch + 1}, step {step} of {self.steps}; "
                "try a smaller learning rate"
            )
        return loss


class Teacher:
    """The teacher of a distillation: a model file whose probabilities are learned.

    A file and not a checkpoint: the int8 file of ``max`` predicts twice as fast as PyTorch, and it
    is in the wheel.
    """

    def __init__(self, recipe: Recipe, class_names: tuple[str, ...]) -> None:
        """Open the recipe's teacher.

        Raises:
            ModelError: There is no such model, or it has other classes.
        """
        try:
            self._model = read_model(find_model(recipe.teacher))
            self._predictors: dict[int, Predictor] = {}  # by their number of threads
            info = self.predictor.info
        except ModelError as error:
            raise ModelError(
                f"recipe {recipe.name} learns from the model {recipe.teacher!r}: {error}; "
                "name another with --teacher, or train without: --teacher none"
            ) from error
        if info.class_names != class_names:
            raise ModelError(
                f"the teacher {recipe.teacher!r} has other classes than the data set; "
                "train without: --teacher none"
            )
        self.temperature = recipe.teacher_softness
        taught = info.metadata.get("recipe")
        self.knows_handwriting = bool(taught and parse_recipe(taught).handwriting_share)

    @property
    def predictor(self) -> Predictor:
        """The teacher on as many threads as PyTorch has now."""
        threads = torch.get_num_threads()
        if threads not in self._predictors:
            self._predictors[threads] = Predictor(self._model, threads=threads)
        return self._predictors[threads]

    def compute_probabilities(self, pixels: Tensor) -> Tensor:
        """Return the teacher's probabilities for each image, shape (N, classes).

        Args:
            pixels: Shape (N, 1, 28, 28), float, 0..1.
        """
        images = (pixels.squeeze(1) * 255).round().to(torch.uint8).cpu().numpy()
        logits = self.predictor.compute_logits(np.ascontiguousarray(images))
        return (torch.from_numpy(logits) / self.temperature).softmax(dim=1).to(pixels.device)


def open_handwriting(
    recipe: Recipe, dataset: Dataset, characters: Characters | None
) -> Handwriting | None:
    """Return UNIPEN for a recipe that learns from it, None for others.

    Raises:
        UsageError: The data set is not of digits, or UNIPEN was not given.
    """
    if not recipe.handwriting_share:
        return None
    if dataset.class_names != DIGIT_LABELS:
        raise UsageError(
            f"recipe {recipe.name} learns from UNIPEN's digits, and {dataset.name} has other "
            "classes; train without them: --set handwriting_share=0"
        )
    if characters is None:
        raise UsageError(f"recipe {recipe.name} learns from UNIPEN: expected its characters")
    return Handwriting(characters)


def measure_loss(validation: Validation) -> float:
    """Return the mean cross-entropy of the answers."""
    logits, labels = torch.from_numpy(validation.logits), torch.from_numpy(validation.labels)
    return float(nn.functional.cross_entropy(logits, labels))


def measure_accuracy(validation: Validation) -> float:
    """Return the share of right answers."""
    return float(np.mean(validation.logits.argmax(axis=1) == validation.labels))


def make_optimizer(recipe: Recipe, weights: Iterable[nn.Parameter]) -> Optimizer:
    """Return the recipe's optimizer for these weights."""
    usual: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        return SGD(weights, momentum=recipe.momentum, **usual)
    if recipe.optimizer == "rmsprop":
        return RMSprop(weights, momentum=recipe.momentum, **usual)
    return (AdamW if recipe.optimizer == "adamw" else Adam)(weights, **usual)


def scale_rate(recipe: Recipe, *, epoch: int, done: float) -> float:
    """Return the factor of the learning rate by the recipe's schedule, 0..1.

    Args:
        recipe: Names the schedule. ``plateau`` is constant here; its drops follow an epoch.
        epoch: Number of the running epoch, from 0.
        done: Share of all steps of the training that are done, 0..1.
    """
    schedules: dict[str, Callable[[], float]] = {
        "onecycle": lambda: _one_cycle(recipe, done),
        "cosine": lambda: _cosine(done),
        "step": lambda: recipe.drop_factor ** (epoch // recipe.step_epochs),
    }
    return schedules.get(recipe.schedule, lambda: 1.0)()


def _one_cycle(recipe: Recipe, done: float) -> float:
    if done < recipe.warmup_share:
        return done / recipe.warmup_share
    return _cosine((done - recipe.warmup_share) / (1 - recipe.warmup_share))


def _cosine(done: float) -> float:
    return (1 + math.cos(math.pi * done)) / 2


def pick_device(name: str | torch.device) -> torch.device:
    """Return the torch device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UsageError: There is no such device.
        ProviderError: CUDA was asked for and does not run here.
    """
    if isinstance(name, torch.device):
        return name
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"no device named {name!r}; there are: auto, cpu, cuda")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ProviderError("--device cuda: torch finds no usable CUDA device on this machine")
    return torch.device(name)


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device multiplies in bfloat16; others emulate it, slowly."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool({"avx512_bf16", "amx_bf16"} & read_cpu_flags())
