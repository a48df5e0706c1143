"""A Hugging Face `Trainer`: another one like it trains the round's model, and evaluates what is to be evaluated."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from deepledger.adapters.adapted import Adapted, LoadData, Metrics, need, quiet, result, unknown
from deepledger.adapters.rows import records
from deepledger.protocol.errors import BadInput

if TYPE_CHECKING:
    import torch

_TOLD_BY = {"PrinterCallback", "ProgressCallback", "NotebookProgressCallback"}
_SEEDS = 1 << 32  # numpy takes no greater ones
_OPTIONS = (
    "learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps",
    "optim", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "lr_scheduler_type",
    "warmup_steps", "label_smoothing_factor", "neftune_noise_alpha", "dataloader_drop_last", "gradient_checkpointing",
)  # fmt: skip
"""Of TrainingArguments, what a job may say to whoever trains: none writes, sends, or says where or by which seed."""
_ALIKE = {
    "use_cpu": True,
    "bf16": False,
    "fp16": False,
    "bf16_full_eval": False,
    "fp16_full_eval": False,
    "tf32": None,
    "torch_compile": False,
    "torch_compile_backend": None,
    "torch_compile_mode": None,
}
"""Whoever evaluates, with an accelerator or without."""


def trainer(trainer: Any, *, load_data: LoadData = records, metrics: Metrics | None = None) -> Adapted:
    """The task of a script that has made this `Trainer` and would call its `train`. Its datasets are not needed.

    In every round and every evaluation there is a Trainer like it, of the same class and arguments, for the round's
    model and a participant's data: it draws by the job's seed instead of its own, saves nothing and tells nothing. It
    is measured by `evaluate`: `eval_loss` is the loss, an `accuracy` of `compute_metrics` the share that is right, and
    others have to be named in `metrics`. It trains where a Trainer would, and evaluates on the CPU, as everybody else
    does. The job's hyperparameters are those TrainingArguments that say how to learn. Raises `BadInput` for what is no
    Trainer, and for one whose optimizer is of its own model.
    """
    need("transformers", extra="trainer")
    from transformers import Trainer

    if not isinstance(trainer, Trainer):
        raise BadInput(f"adapters.trainer takes a transformers.Trainer, not a {type(trainer).__name__}")
    if trainer.optimizer is not None:
        raise BadInput(
            "adapters.trainer: this Trainer's optimizer is of its own model; give Trainer optimizer_cls_and_kwargs in "
            "its place, or a name in TrainingArguments"
        )
    if trainer.model_init is not None:
        raise BadInput("adapters.trainer: give Trainer a model, not a model_init: the job's model is the round's")
    first = deepcopy(trainer.model).to("cpu")

    def train(model: torch.nn.Module, data: Any, **changed: Any) -> None:
        if wrong := sorted(changed.keys() - set(_OPTIONS)):
            raise unknown(wrong[0], of="a Trainer in a job", known=", ".join(_OPTIONS))
        with _like(trainer, model, train_dataset=data, changed=changed) as own:
            own.train()

    def evaluate(model: torch.nn.Module, data: Any) -> Mapping[str, Any]:
        with _like(trainer, model, eval_dataset=data, changed=_ALIKE) as own:
            found = own.evaluate()
        where = "have the model return a loss where it is given labels"
        return result(found, samples=len(data), metrics=metrics or {}, where=where)

    return Adapted(lambda: deepcopy(first), load_data, train, evaluate, metrics or {})


@contextmanager
def _like(trainer: Any, model: torch.nn.Module, *, changed: Mapping[str, Any], **datasets: Any) -> Iterator[Any]:
    """What a subclass keeps beside what every Trainer has, stays; everything else is made anew.

    A Trainer seeds all generators by its arguments: by 42 where they name no seed, alike for everybody in every round.
    It moves its model to where it works, and here back again.
    """
    import torch
    from transformers import Trainer

    home = next(model.parameters()).device
    with TemporaryDirectory(prefix="deepledger-") as folder, _generators_kept(), quiet("transformers", logging.ERROR):
        arguments = replace(
            trainer.args,
            **{"dataloader_pin_memory": torch.accelerator.is_available() and not changed.get("use_cpu", False)}
            | dict(changed)
            | {
                "output_dir": folder,
                "seed": torch.initial_seed() % _SEEDS,
                "data_seed": None,
                "report_to": "none",
                "disable_tqdm": True,
                "save_strategy": "no",
                "eval_strategy": "no",
                "eval_on_start": False,
                "load_best_model_at_end": False,
                "push_to_hub": False,
            },
        )
        own = copy(trainer)
        make: Callable[..., None] = Trainer.__init__
        make(
            own,
            model=model,
            args=arguments,
            data_collator=trainer.data_collator,
            processing_class=trainer.processing_class,
            compute_loss_func=trainer.compute_loss_func,
            compute_metrics=trainer.compute_metrics,
            optimizer_cls_and_kwargs=trainer.optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=trainer.preprocess_logits_for_metrics,
            callbacks=_callbacks(trainer),
            **datasets,
        )
        for callback in [each for each in own.callback_handler.callbacks if type(each).__name__ in _TOLD_BY]:
            own.remove_callback(callback)
        try:
            yield own
        finally:
            model.to(home)


def _callbacks(trainer: Any) -> list[Any]:
    """The script's own: a Trainer brings the others by itself."""
    return [
        deepcopy(each)
        for each in trainer.callback_handler.callbacks
        if not type(each).__module__.startswith(
            ("transformers.trainer_callback", "transformers.integrations", "transformers.utils")
        )
        or type(each).__name__ == "EarlyStoppingCallback"
    ]


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Of Python and numpy, which are the process's, and not the task's. torch's are seeded before every call."""
    python, numpys = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpys)
