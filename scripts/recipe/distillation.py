"""Learn from what finished models say of a photo, as well as from its label.

A label says one count; models that have learned from the same photos say how likely each count is,
also of a photo that is turned, shifted and mixed with another one. Several of them know more than
one, and what learns from their mean costs no more to serve than one of them. Source: Hinton,
Vinyals and Dean, Distilling the knowledge in a neural network, 2015; of photos that both see alike:
Beyer et al., Knowledge distillation: a good teacher is patient and consistent, CVPR 2022.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel


class Teachers:
    """Finished models of the same counts, which do not learn any more.

    Args:
        models: at least one; they stay as they are, in evaluation mode.
        weight: of what they say, 0 to 1; the rest is the label's.
    """

    def __init__(self, models: Sequence[PreTrainedModel], weight: float) -> None:
        self.models = [model.eval().requires_grad_(False) for model in models]
        self.weight = weight

    def to(self, device: torch.device) -> "Teachers":
        """Move them to a device."""
        for model in self.models:
            model.to(device)
        return self

    @torch.no_grad()
    def taught(self, targets: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return targets with the teachers' share, float (batch, num_counts), rows sum to 1.

        Args:
            targets: float (batch, num_counts), of labels.
            pixel_values: float (batch, 3, height, width), as the model that learns is shown them.
        """
        said = [model(pixel_values=pixel_values).logits.float().softmax(1) for model in self.models]
        return targets.lerp(torch.stack(said).mean(dim=0), self.weight)
