"""A trainer's state as tensors and plain data, and back: what a bit-exact continuation needs."""

from __future__ import annotations

import logging
from dataclasses import asdict, fields
from typing import Any, TypeVar

import torch

from components.classifier.device import describe_device, is_out_of_memory
from components.shared.artifacts.model import EpochRecord, StartedFrom
from components.shared.errors import CheckpointError
from components.shared.seeds import derived_seed
from components.shared.text import shortened
from components.shared.version import __version__
from components.train.checkpoints.format import CheckpointManifest
from components.train.checkpoints.resume import Found
from components.train.generators import set_shared_states, shared_states
from components.train.precision import kept_precision
from components.train.trainer import Best, Position, Trainer

T = TypeVar("T")


def manifest_of(trainer: Trainer, dataset_sha256: str) -> CheckpointManifest:
    """The manifest of a checkpoint of a trainer's present state."""
    position = trainer.position
    return CheckpointManifest(
        created_by=f"shutterline {__version__}",
        epoch=position.epoch,
        batch=position.batch,
        step=position.step,
        finished=trainer.is_finished,
        params=trainer.params.to_dict(),
        dataset_sha256=dataset_sha256,
        processes=trainer.group.size,
        device=describe_device(trainer.device),
        torch=torch.__version__,
    )


def tensors_of(trainer: Trainer) -> dict[str, Any]:
    """The large part of the state."""
    return {
        "network": trainer.network.state_dict(),
        "average": trainer.average.state_dict() if trainer.average is not None else None,
        "optimiser": trainer.optimiser.state_dict(),
    }


def state_of(trainer: Trainer) -> dict[str, Any]:
    """Everything a run is between two steps; every process of the group must call this at the same step.

    Tensors are the trainer's own, not copies.
    """
    return {
        **tensors_of(trainer),
        "position": asdict(trainer.position),
        "schedules": trainer.schedules.state_dict(),
        "best": vars(trainer.best).copy(),
        "history": [record.model_dump() for record in trainer.history],
        "epoch": {
            "order": trainer.order_state,
            "weight": trainer.weight_sum,
            # Each process has summed up its own images.
            "sums": trainer.group.gathered((trainer.loss_sum.item(), trainer.right.item())),
            "learning_rate": trainer.learning_rate,
            "rates": trainer.rates,
            "seconds": trainer.epoch_seconds,
        },
        "seconds": dict(trainer.timing.seconds),
        "step": trainer.captured.outcome if trainer.captured is not None else None,
        "started_from": trainer.started_from.model_dump() if trainer.started_from is not None else None,
        "precision": trainer.precision.name,
        "compiled": trainer.compiled,
        "generators": {
            "flip": trainer.training_step.flipping.get_state(),
            "mix": trainer.training_step.mixing.draws.getstate(),
            # Each process's own, which layers and transforms draw from.
            "processes": trainer.group.gathered(
                {"augment": trainer.training_step.augmenting.get_state()} | shared_states(trainer.device)
            ),
        },
    }


def restore(trainer: Trainer, found: Found, log: logging.Logger) -> None:
    """Go on from a checkpoint, bit by bit where device and number of processes are the same; else a warning is logged.

    Raises:
        CheckpointError: What it holds is not of such a trainer.
    """
    state = found.state
    try:
        trainer.network.load_state_dict(state["network"])
        average = state["average"]
        if trainer.average is not None:
            trainer.average.load_state_dict(average)
        # Before the optimiser, whose rates it sets.
        trainer.schedules.load_state_dict(state["schedules"], state["position"]["epoch"] - 1)
        trainer.optimiser.load_state_dict(state["optimiser"])
        trainer.best = _of_fields(Best, state["best"])
        trainer.history = [EpochRecord.model_validate(record) for record in state["history"]]
        trainer.position = _of_fields(Position, state["position"])
        trainer.timing.seconds.update(state["seconds"])
        if trainer.captured is not None and state.get("step") == "eager":
            # It was found out before, and steps of both kinds would make another run of it.
            trainer.captured.outcome = "eager"
            log.warning("step: eager, as before the checkpoint")
        if state["started_from"] is not None:
            trainer.started_from = StartedFrom.model_validate(state["started_from"])
        if (name := state.get("precision")) is not None and trainer.params.precision == "auto":  # from 0.10
            trainer.training_step.precision = kept_precision(name, trainer.device)
        is_other = state.get("compiled", trainer.compiled) != trainer.compiled
        if is_other and not found.manifest.finished and trainer.group.is_first:
            kinds = ("a compiled network", "a plain one")
            message = (
                "the checkpoint is of %s, the run goes on with %s: sums and random numbers may be others from here on"
            )
            log.warning(message, *(kinds if state["compiled"] else reversed(kinds)))
        _restore_epoch(trainer, state["epoch"])
        _restore_generators(trainer, state["generators"], found.manifest, log)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        why = shortened(" ".join(str(error).split()), 200)
        raise CheckpointError(
            f"the checkpoint of {found.manifest.position} is not one of this training ({why}); remove it, "
            "or start over by --start-over (start_over=True)"
        ) from error


def _of_fields(kind: type[T], values: dict[str, Any]) -> T:
    """A dataclass of values that must all be there, whatever its defaults."""
    return kind(**{field.name: values[field.name] for field in fields(kind)})  # type: ignore[arg-type]


def _restore_epoch(trainer: Trainer, epoch: dict[str, Any]) -> None:
    group, sums = trainer.group, epoch["sums"]
    trainer.shuffling.set_state(epoch["order"])
    trainer.begin_epoch()
    trainer.weight_sum.copy_(epoch["weight"])
    if len(sums) != group.size:  # of another number of processes: together they are what counts
        sums = [tuple(map(sum, zip(*sums, strict=True))), *[(0.0, 0)] * (group.size - 1)]
    loss, right = sums[group.rank]
    trainer.loss_sum.fill_(loss)
    trainer.right.fill_(right)
    trainer.learning_rate = epoch["learning_rate"]
    trainer.rates = epoch["rates"]
    trainer.epoch_seconds = epoch["seconds"]


def _restore_generators(
    trainer: Trainer, generators: dict[str, Any], manifest: CheckpointManifest, log: logging.Logger
) -> None:
    group, device, seed = trainer.group, trainer.device, trainer.params.manual_seed
    version, numbers, gauss = generators["mix"]
    trainer.training_step.mixing.draws.setstate((version, tuple(numbers), gauss))
    is_same = (
        generators["flip"].numel() == trainer.training_step.flipping.get_state().numel()
        and manifest.device.startswith("cpu") == (device.type == "cpu")
        and len(generators["processes"]) == group.size
    )
    there = (manifest.processes, manifest.device, manifest.torch)
    here = (group.size, describe_device(device), torch.__version__)
    if group.is_first and there != here:
        log.warning(
            "the checkpoint was made by %s process(es) on %s with torch %s; the run goes on with %s on %s with torch "
            "%s, and from here on %s than they would have been",
            *there,
            *here,
            "its sums may be rounded otherwise" if is_same else "its random numbers are others",
        )
    if is_same:
        trainer.training_step.flipping.set_state(generators["flip"])
        own = generators["processes"][group.rank]
        trainer.training_step.augmenting.set_state(own["augment"])
        set_shared_states(own, device)
        return
    trainer.training_step.flipping.manual_seed(derived_seed(seed, f"flip/{manifest.step}"))
    trainer.training_step.augmenting.manual_seed(derived_seed(seed, f"augment/{manifest.step}/{group.rank}"))
    torch.manual_seed(derived_seed(seed, f"torch/{manifest.step}/{group.rank}"))
