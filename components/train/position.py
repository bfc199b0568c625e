"""How far a run is, and the best that it has found so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from components.classifier.network import Network

State = dict[str, Tensor]


@dataclass
class Best:
    """The best evaluated epoch so far: highest accuracy, then lowest loss, then earliest."""

    epoch: int = 0
    accuracy: float = -1.0
    loss: float = math.inf
    weights: State = field(default_factory=dict)

    def offer(self, epoch: int, accuracy: float, loss: float, network: Network) -> bool:
        """Take an evaluated epoch if it is better; whether it was."""
        if (accuracy, -loss) <= (self.accuracy, -self.loss):
            return False
        self.epoch, self.accuracy, self.loss = epoch, accuracy, loss
        self.weights = weights_of(network)
        return True


@dataclass
class Position:
    """How far a run is.

    Attributes:
        epoch: The epoch that is being trained, from 1; one more than there are when all are done.
        batch: Batches of it that are done.
        step: Steps of the optimiser so far.
        stale: Evaluations in a row that were not better than the best.
        stopped: Whether it was stopped early.
    """

    epoch: int = 1
    batch: int = 0
    step: int = 0
    stale: int = 0
    stopped: bool = False


def weights_of(network: Network) -> State:
    """A copy of a network's weights and buffers, on the CPU."""
    return {name: value.detach().to("cpu", copy=True) for name, value in network.state_dict().items()}
