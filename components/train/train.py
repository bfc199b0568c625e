"""train(): from a dataset directory to a model directory."""

from __future__ import annotations

import time
import warnings
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from components.classifier.check import Checked, check
from components.classifier.device import describe_device
from components.classifier.graphs import own_stream
from components.shared.artifacts.artifact import ArtifactWriter
from components.shared.artifacts.model import MODEL
from components.shared.errors import DivergedError
from components.shared.events.data import Emit, ignore_events
from components.shared.logs import step_logger
from components.shared.metrics import log_batches
from components.shared.params.params import Params
from components.shared.signals import Deferred, Terminated, ends_deferred
from components.shared.train_result import TrainResult
from components.train.agreement import Agreement
from components.train.checkpoints.resume import Checkpoints, last_good, lock_directory
from components.train.checkpoints.writer import CheckpointWriter
from components.train.curves import Curves
from components.train.graph_export import GraphExport
from components.train.group import Group, join_group, loss_before_signal
from components.train.memory import explaining_out_of_memory
from components.train.progress import TrainingProgress
from components.train.speed import measure_speed, speed_lines
from components.train.start import TrainingInputs, check_inputs, count_parameters, start_trainer
from components.train.state import manifest_of, state_of, tensors_of
from components.train.trainer import Trainer

_log = step_logger("train")

# Steps between two looks at the loss: each makes the host wait for the device.
LOSS_CHECK_EVERY = 100
_POLL_S = 0.1


def train(
    *,
    dataset: Path,
    model: Path,
    params: Params,
    checkpoints: Path | Checkpoints | None = None,
    initial_weights: Path | None = None,
    emit: Emit = ignore_events,
    group: Group | None = None,
    checked: Checked | None = None,
    graph: GraphExport | None = None,
) -> TrainResult[Path]:
    """Train the network of `params` on a dataset directory and write a model directory.

    A run that was interrupted goes on from its newest checkpoint, to the same weights bit by bit. In a group of
    processes that torchrun has started, every process calls this; the first writes.

    Args:
        dataset: A complete dataset directory.
        model: Where the model directory is made; new, empty, or an earlier model that is replaced.
        params: The run's options.
        checkpoints: Where checkpoints are kept; by default beside `model`.
        initial_weights: What ``initial_weights`` of the params names, fetched; by default the path that it is.
        emit: Gets the status of the step.
        group: The processes that train together; by default those that the environment names.
        checked: The params as checked before; by default they are checked here.
        graph: The export of the params' network, where it has begun before; by default it begins here.

    Raises:
        InputError: Params, dataset, checkpoints, model directory or device cannot be used.
        DivergedError: A loss or a weight became NaN or infinite; the last checkpoint is of before.
        GroupLostError: Another process of the group ended.
    """
    if isinstance(checkpoints, Path):
        checkpoints = Checkpoints(checkpoints)
    kept = checkpoints or Checkpoints.beside(model)
    with join_group() if group is None else nullcontext(group) as group, ExitStack() as stack:
        first = group.is_first
        if first and graph is None:
            graph = stack.enter_context(GraphExport(params, kept.directory))
        inputs = group.together(lambda: check_inputs(checked or check(params), dataset))
        group.require_alike(inputs.same_in_all)
        ending = stack.enter_context(ends_deferred())
        stack.enter_context(loss_before_signal(ending))
        group.together(lambda: stack.enter_context(lock_directory(kept.directory, _log)) if first else None)
        if graph is not None:
            graph.keep_in(kept.directory)
        # Before the earlier model makes room for another, which checkpoints of another run would hinder.
        found, is_to_clear = group.on_first(lambda: kept.find(params, inputs.dataset_sha256, _log))
        writer = group.together(lambda: stack.enter_context(ArtifactWriter(model, MODEL)) if first else None)
        if inputs.params.step == "graph" and group.size == 1:
            stack.enter_context(own_stream(inputs.device))
        trainer = start_trainer(inputs, group, found, initial_weights)
        inputs = replace(inputs, params=trainer.params)
        if is_to_clear:
            group.together(lambda: kept.clear() if first else None)
        curves = stack.enter_context(Curves(model / "tensorboard")) if first else None
        loop = _Loop(inputs, trainer, kept, curves, emit, ending, graph, is_resumed=found is not None)
        if trainer.device.type == "cuda":
            # A network that cannot be expressed takes no GPU's time.
            group.together(lambda: graph.wait(loop.end_if_interrupted) if graph is not None else None)
        if not loop.run():
            # If it was this process that got the signal, its own handler raises it when this block is left.
            group.ends_together = True
            raise loop.left or Terminated()
        # ONNX, its runtime and Jinja2: nothing before needs them.
        from components.train.model_files import commit_model, selection_of, write_weights

        files = group.together(
            lambda: (
                write_weights(writer, trainer, inputs, graph, loop.end_if_interrupted, _log)
                if writer is not None and graph is not None
                else {}
            )
        )
        loop.end_if_interrupted()
        speed = measure_speed(trainer)
        for line in speed_lines(speed):
            _log.info("%s", line)
        if trainer.compiled:
            compiling, steps = trainer.timing.seconds["compiling"], trainer.timing.training
            what = "compiling and capturing" if trainer.is_captured else "compiling"
            _log.info("%s took %.1f s, and the steps %.1f s; what it saved was not measured", what, compiling, steps)
        if writer is not None and curves is not None:
            curves.speed(speed, len(trainer.history))
            commit_model(writer, trainer, inputs, files, speed)
    return TrainResult(
        model=model,
        checkpoints=kept.directory,
        resumed_from=found.manifest.position if found is not None else None,
        selection=selection_of(trainer, inputs),
        train_loss=trainer.history[-1].train_loss,
        epochs=len(trainer.history),
        parameters=count_parameters(trainer.network),
        images_per_second=trainer.images_per_second,
        seconds=sum(trainer.timing.seconds.values()),
        device=describe_device(inputs.device),
    )


class _Leave(Exception):  # noqa: N818 - no fault, and never seen outside
    """The process is to end, and what it needs to go on is saved."""


class _Loop:
    """Epochs of steps until there is nothing left to train, and what happens between two steps."""

    def __init__(
        self,
        inputs: TrainingInputs,
        trainer: Trainer,
        checkpoints: Checkpoints,
        curves: Curves | None,
        emit: Emit,
        ending: Deferred,
        graph: GraphExport | None,
        *,
        is_resumed: bool,
    ) -> None:
        params = inputs.params
        self._inputs, self._trainer, self._curves, self._ending = inputs, trainer, curves, ending
        self._directory, self._graph = checkpoints.directory, graph
        self._agree = Agreement(trainer.group)
        self._writer: CheckpointWriter | None = None
        if trainer.group.is_first:
            self._writer = CheckpointWriter(self._directory, params.keep_checkpoints, checkpoints.on_saved)
        self._progress = TrainingProgress(
            params,
            emit,
            _log,
            batches=len(trainer.slices),
            images=len(trainer.training.images),
            split=inputs.data.selection_split,
            device=str(trainer.device),
            done=(trainer.position.epoch - 1) * len(trainer.slices) + trainer.position.batch,
        )
        self._every_s = params.checkpoint_minutes * 60 if params.checkpoint_minutes is not None else float("inf")
        self._saved_at = time.monotonic()
        self._saved_position = self._position if is_resumed else None
        self._is_prepared = self._has_asked = False
        self.left: Terminated | None = None  # what all end with that have left at one step

    @property
    def _position(self) -> tuple[int, int]:
        """How far the run is; equal positions have equal checkpoints."""
        return self._trainer.position.epoch, self._trainer.position.batch

    @property
    def is_interrupted(self) -> bool:
        """Whether the process is to end, by itself: what is left to do is done again from the last checkpoint."""
        return self._ending.signal is not None and self._trainer.group.size == 1

    def end_if_interrupted(self) -> None:
        """Raise `Terminated` where the process is to end by itself."""
        if self.is_interrupted:
            raise Terminated

    def run(self) -> bool:
        """Train all that is left; false where the process is to end, and has saved what it needs."""
        trainer, curves = self._trainer, self._curves
        with ExitStack() as stack:
            stack.enter_context(self._progress)
            stack.enter_context(self._writer or nullcontext())
            stack.callback(self._agree.close)
            # A schedule whose step() takes the epoch's metric makes torch suspect a wrong order of calls.
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
            if curves is not None:
                for record in trainer.history:
                    curves.epoch(record, self._inputs.data.selection_split)
            try:
                while not trainer.is_finished:
                    self._epoch()
            except _Leave:
                return False
            except DivergedError as error:
                if self._writer is None:
                    raise
                with suppress(OSError):  # what is reported is the loss
                    self._writer.wait()  # the last good state may still be on its way
                raise DivergedError(f"{error}; {self._last_good()}") from error
            if self.is_interrupted:
                return False
            predictions = trainer.predict_with_best()
            if curves is not None:
                curves.precision_recall(predictions, self._inputs.data.manifest.classes, trainer.best.epoch)
            self._report_saved(is_waiting=True)
            return self._wait_for_graph()

    def _wait_for_graph(self) -> bool:
        """Wait in all processes of a group for the first one's export; false where one of them is to end."""
        graph, group, is_reported = self._graph, self._trainer.group, False
        while True:
            is_there = graph is None or graph.is_done() or group.size == 1  # which has more to do before it waits
            waiting, ending = zip(*group.gathered((not is_there, self._ending.signal is not None)), strict=True)
            if any(ending) or not any(waiting):
                return not any(ending)
            if not is_reported:
                _log.info("waiting for the network's export to ONNX")
            is_reported = True
            time.sleep(_POLL_S)

    def _epoch(self) -> None:
        trainer, params = self._trainer, self._trainer.params
        explaining_out_of_memory(trainer, lambda: trainer.train_epoch(self._after_step))
        epoch = trainer.position.epoch
        if epoch == params.num_epochs and epoch % params.eval_freq != 0 and self._position != self._saved_position:
            self._save()  # what a run of more epochs can go on from, which has no evaluation here
        record, predictions = explaining_out_of_memory(
            trainer, lambda: trainer.end_epoch(self._poll), is_evaluation=True
        )
        self._progress.epoch(record)
        if self._curves is not None:
            self._curves.epoch(record, self._inputs.data.selection_split)
        if predictions is not None and params.eval_metric_compute_freq == "batch":
            columns = (predictions.labels, predictions.predicted, predictions.losses)
            log_batches(_log, *columns, predictions.n_classes, params.eval_batch_size)
        trainer.timing.lap("other")
        self._progress.emit_epoch(record)
        trainer.timing.lap("status")
        if record.epoch % params.save_freq == 0 or trainer.is_finished:
            self._save()
        self._report_saved()
        if self.is_interrupted:
            self._leave()

    def _after_step(self) -> None:
        trainer, writer = self._trainer, self._writer
        position = trainer.position
        if position.step % LOSS_CHECK_EVERY == 0:
            trainer.require_finite_loss()
        self._progress.step(position.epoch, position.batch, lambda: trainer.loss_so_far)
        if writer is not None and not self._is_prepared:
            # After its first step an optimiser has all of its state.
            writer.prepare(tensors_of(trainer))
            self._is_prepared = True
        # In a group the answer comes some steps later; until then it is not asked again. The process that writes asks.
        is_due = time.monotonic() - self._saved_at > self._every_s
        asks = is_due and writer is not None and not writer.is_busy and not self._has_asked
        self._has_asked = self._has_asked or asks
        has_failed = self._graph is not None and self._graph.has_failed()
        leave, save, has_failed = self._agree(self._ending.signal is not None, asks, has_failed)
        trainer.timing.lap("status")
        if has_failed:
            trainer.group.together(lambda: self._graph.wait() if self._graph is not None else None)
        if leave:
            self._leave()
        if save:
            self._save()
        self._report_saved()

    def _poll(self) -> None:
        """Between two chunks of an evaluation, which is made again after a restart; in every process as often."""
        leave, *_ = self._agree(self._ending.signal is not None, False, False, at_once=True)
        if leave:
            self._leave()

    def _leave(self) -> None:
        if self._position != self._saved_position:  # what is whole already is not written anew
            self._save()
        position = manifest_of(self._trainer, self._inputs.dataset_sha256).position
        self.left = self._trainer.group.leaving(self._ending.signal, position)
        self._report_saved(is_waiting=True)
        raise _Leave

    def _save(self) -> None:
        """Hand the present state over to be written; every process of a group gets here at the same step."""
        self._trainer.require_finite_weights()
        state = state_of(self._trainer)
        if self._writer is not None:
            self._writer.save(manifest_of(self._trainer, self._inputs.dataset_sha256), state)
        self._saved_at, self._saved_position, self._has_asked = time.monotonic(), self._position, False
        self._trainer.timing.lap("checkpoints")

    def _report_saved(self, *, is_waiting: bool = False) -> None:
        if self._writer is None:
            return
        if is_waiting:
            self._writer.wait()
        for manifest, path in self._writer.saved():
            self._progress.emit_checkpoint(manifest, path)

    def _last_good(self) -> str:
        if (found := last_good(self._directory)) is None:
            return "there is no checkpoint of before"
        return f"the last good state, {found.position}, is kept in {self._directory}"
