"""A LightningModule, and the `Trainer` that would fit it: a copy of that fits a copy of this in every round."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from deepledger.adapters.adapted import Adapted, LoadData, Metrics, need, quiet, result, unknown
from deepledger.adapters.scripts import check_loader, loader_like
from deepledger.protocol.errors import BadInput

if TYPE_CHECKING:
    import torch
    from torch.utils.data import DataLoader

_TELLS = {"ProgressBar", "ModelSummary", "Checkpoint"}  # callbacks that write to the terminal, or to disk
_LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric")
_ADVICE = ("lightning.fabric.utilities.warnings", "lightning_fabric.utilities.warnings")
_SILENT = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
_LOOPS = {"max_epochs", "min_epochs", "max_steps", "min_steps"}


def lightning(
    module: torch.nn.Module,
    trainer: Any,
    loader: DataLoader[Any],
    *,
    load_data: LoadData,
    metrics: Metrics | None = None,
) -> Adapted:
    """The task of a script that has made these, and would call `trainer.fit(module, loader)`.

    In a round, a copy of the trainer fits the module to a loader like the script's of the participant's data, without
    progress bars, summaries, loggers and checkpoints. The module is measured by `validate` of a Trainer that takes all
    samples, on the CPU and in one process, whatever the script's does: what its `validation_step` logs as `val_loss` is
    the loss, `val_acc` or `val_accuracy` the share that is right; others have to be named in `metrics`, without `val_`.
    The job's hyperparameters may name `batch_size`, `max_epochs`, `max_steps`, and attributes of the module that are
    numbers or words. Raises `BadInput` without Lightning, and for a loader with a sampler.
    """
    kind = type(trainer)
    if not (kind.__module__.startswith(("lightning", "pytorch_lightning"))):
        need("lightning", extra="lightning")
        raise BadInput(f"adapters.lightning takes a lightning Trainer as its second argument, not a {kind.__name__}")
    check_loader(loader)
    first, fresh = deepcopy(module), deepcopy(trainer)

    def train(model: Any, data: Any, *, batch_size: int | None = None, **changed: Any) -> None:
        own = _like(fresh)
        if own.world_size > 1:
            raise BadInput(
                f"adapters.lightning: this Trainer would train in {own.world_size} processes, each of which runs the "
                "whole program again: give it devices=1 and num_nodes=1"
            )
        for name, value in changed.items():
            _set(own, model, name, value)
        with _silence():
            own.fit(model, loader_like(loader, data, batch_size=batch_size))

    def evaluate(model: Any, data: Any) -> Mapping[str, Any]:
        batches = loader_like(loader, data, shuffle=False)
        with _silence():
            own = kind(accelerator="cpu", devices=1, **_SILENT, callbacks=_callbacks(deepcopy(fresh)))
            found = own.validate(model, batches, verbose=False)
        logged = {name: value for each in found for name, value in each.items()}
        where = "log it in the module's validation_step, as self.log('val_loss', loss)"
        return result(logged, samples=len(data), metrics=metrics or {}, where=where)

    return Adapted(lambda: deepcopy(first), load_data, train, evaluate, metrics or {})


def _like(trainer: Any) -> Any:
    own = deepcopy(trainer)
    own.loggers = []
    own.callbacks = _callbacks(own)
    return own


def _callbacks(trainer: Any) -> list[Any]:
    return [each for each in trainer.callbacks if not _TELLS & {kind.__name__ for kind in type(each).__mro__}]


def _set(trainer: Any, module: Any, name: str, value: Any) -> None:
    loops = trainer.fit_loop, trainer.fit_loop.epoch_loop
    if name in _LOOPS:
        setattr(next(loop for loop in loops if hasattr(loop, name)), name, value)
        return
    saved = getattr(module, "hparams", {})
    known = hasattr(module, name) and isinstance(getattr(module, name), bool | int | float | str)
    if not known and name not in saved:
        own = f"batch_size, {', '.join(sorted(_LOOPS))}, and what the module has of numbers and words"
        raise unknown(name, of=type(module).__name__, known=own)
    if known:
        setattr(module, name, value)
    if name in saved:
        saved[name] = value


@contextmanager
def _silence() -> Iterator[None]:
    """Of the banners, and of warnings that advise on speed or on what a log lacks. Errors are raised, not logged."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message=".*LeafSpec")
        for advice in (sys.modules.get(name) for name in _ADVICE):
            if advice is not None:
                warnings.simplefilter("ignore", advice.PossibleUserWarning)
        for name in _LOGGERS:
            stack.enter_context(quiet(name, logging.ERROR))
        yield
