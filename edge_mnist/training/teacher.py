"""A teacher: a released model whose probabilities a smaller network learns."""

import numpy as np
import torch
from torch import Tensor

from edge_mnist.errors import ModelError
from edge_mnist.modelfile import find_model
from edge_mnist.predictor import Predictor
from edge_mnist.training.recipe import Recipe


class Teacher:
    """Answers for a batch of training images, from a model file.

    A file and not a checkpoint: the int8 file of ``max`` answers twice as fast as PyTorch, and it
    is in the wheel.
    """

    def __init__(self, recipe: Recipe, class_names: tuple[str, ...]) -> None:
        """Open the recipe's teacher.

        Raises:
            ModelError: There is no such model, or it knows other classes.
        """
        try:
            self.predictor = Predictor(find_model(recipe.teacher), threads=torch.get_num_threads())
        except ModelError as error:
            raise ModelError(
                f"recipe {recipe.name} learns from the model {recipe.teacher!r}: {error}; "
                "name another with --teacher, or go without: --teacher none"
            ) from error
        if self.predictor.info.class_names != class_names:
            raise ModelError(f"the teacher {recipe.teacher!r} knows other classes; --teacher none")
        self.softness = recipe.teacher_softness

    def teach(self, pixels: Tensor) -> Tensor:
        """Return probabilities for each image, shape (N, classes).

        Args:
            pixels: Shape (N, 1, 28, 28), float, 0..1.
        """
        images = (pixels.squeeze(1) * 255).round().to(torch.uint8).cpu().numpy()
        logits = self.predictor.compute_logits(np.ascontiguousarray(images))
        return (torch.from_numpy(logits) / self.softness).softmax(dim=1).to(pixels.device)
