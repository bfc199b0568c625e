"""How many values a computation holds at one time; on the meta device, where it takes no memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


class LiveValues(TorchDispatchMode):  # type: ignore[no-untyped-call] # of its base
    """Follows what operations make until nothing refers to it any more.

    Attributes:
        most: Values that were alive at one time; those that were made before are not counted.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        # By memory, which a view and the result of an operation in place share with what they are made of.
        self._sizes: WeakIdKeyDictionary = WeakIdKeyDictionary()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # torch's name: otherwise the first operation imports the compiler
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What an operation gives."""
        given = {id(storage) for storage, _ in _storages((args, kwargs))}
        made = func(*args, **(kwargs or {}))
        for storage, values in _storages(made):
            if id(storage) not in given:
                self._sizes[storage] = values
        self.most = max(self.most, sum(self._sizes.values()))  # type: ignore[no-untyped-call]
        return made


def _storages(values: Any) -> list[tuple[torch.UntypedStorage, int]]:
    """The memory of all tensors among some values, and how many values it has."""
    tensors = [(value.untyped_storage(), value) for value in tree_leaves(values) if isinstance(value, Tensor)]
    return [(storage, storage.nbytes() // tensor.element_size()) for storage, tensor in tensors]
