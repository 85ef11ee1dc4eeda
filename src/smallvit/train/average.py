"""A model's weights and their exponential moving average, which then is what is measured and kept."""

import copy
from collections.abc import Mapping

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

MODEL, AVERAGE = "model", "average"
"""Names of a checkpoint's groups of tensors."""


class WeightAverage:
    """A model's weights and, with a decay above 0, their average, which every rank keeps for itself."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.decay = decay
        self.measured = model
        """The model to measure and to keep: the one with the averaged weights, where there is one."""
        if decay > 0:
            self.measured = copy.deepcopy(model).requires_grad_(False)

    def update(self, step: int) -> None:
        """Let the average follow the weights after `step`, counted from 0."""
        if self.measured is not self.model:
            follow = get_ema_multi_avg_fn(decay_at(step, self.decay))
            follow(list(self.measured.parameters()), list(self.model.parameters()), None)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the weights, and their average where there is one, as groups of tensors for a checkpoint."""
        found = {MODEL: self.model.state_dict()}
        return found if self.measured is self.model else {**found, AVERAGE: self.measured.state_dict()}

    def load(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take over what `tensors` returned."""
        self.model.load_state_dict(tensors[MODEL])
        if self.measured is not self.model:
            self.measured.load_state_dict(tensors[AVERAGE])


def decay_at(step: int, decay: float) -> float:
    """Return the share of the average that a step, counted from 0, keeps: step / (step + 9) up to `decay`, so that a
    short run's average is not that of its first weights.
    """
    return min(decay, step / (step + 9))
