"""A plain PyTorch script: its model, optimizer and data loader are made anew for every round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy, deepcopy
from typing import TYPE_CHECKING, Any

from deepledger.adapters.adapted import Adapted, LoadData, Metrics, unknown
from deepledger.protocol.errors import BadInput

if TYPE_CHECKING:
    import torch
    from torch.optim import Optimizer
    from torch.utils.data import DataLoader

_EVALUATED = 1024  # samples at a time
_MEANS = ("mean", "batchmean")


def script(
    model: torch.nn.Module,
    optimizer: Optimizer,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    loader: DataLoader[Any],
    *,
    load_data: LoadData,
    train: Callable[[DataLoader[Any], torch.nn.Module, Optimizer], object] | None = None,
    evaluate: Callable[[torch.nn.Module, Any], Mapping[str, Any]] | None = None,
    metrics: Metrics | None = None,
    epochs: int = 1,
) -> Adapted:
    """The task of a script that has made these.

    In a round, `train(loader, model, optimizer)` is called `epochs` times, with the round's model, an optimizer like
    the script's on that model, and a loader like the script's of the participant's data; by default it takes a step
    with the loss of every batch, which is a pair of inputs and targets. The job's hyperparameters may name `epochs`,
    `batch_size`, and options of the optimizer. `evaluate(model, data)` is as in any task; by default it is the mean
    loss and, where targets are classes, how many are right. Classes weigh what a CrossEntropyLoss or NLLLoss gives
    them; the mean of a function is taken to be one over samples. Raises `BadInput` for an optimizer of another model,
    for a loader whose batches are not chosen by `batch_size` and `shuffle` alone, and where no mean loss is to be had.
    """
    check_loader(loader)
    if evaluate is None and (reduction := getattr(loss, "reduction", "mean")) not in _MEANS:
        raise BadInput(
            f"adapters.script: this loss has reduction={reduction!r}, and measured is the mean: give it evaluate=, or "
            "a loss with reduction='mean'"
        )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    if any(id(each) not in names for group in optimizer.param_groups for each in group["params"]):
        raise BadInput(
            "adapters.script: the optimizer has a parameter that the model has not; give those that belong together"
        )
    options = sorted(optimizer.defaults)

    def train_round(
        model: torch.nn.Module, data: Any, *, epochs: int = epochs, batch_size: int | None = None, **changed: Any
    ) -> None:
        if wrong := sorted(changed.keys() - optimizer.defaults.keys()):
            raise unknown(
                wrong[0],
                of=f"a script with {type(optimizer).__name__}",
                known=", ".join(["epochs", "batch_size", *options]),
            )
        own = _optimizer_like(optimizer, names, model, changed)
        batches = loader_like(loader, data, batch_size=batch_size)
        for _ in range(epochs):
            if train is None:
                _epoch(batches, model, own, loss)
            else:
                train(batches, model, own)

    def measure(model: torch.nn.Module, data: Any) -> Mapping[str, Any]:
        return mean_loss(model, loader_like(loader, data, batch_size=_EVALUATED, shuffle=False), loss)

    return Adapted(
        build_model=lambda: deepcopy(model),
        load_data=load_data,
        train=train_round,
        evaluate=evaluate or measure,
        METRICS=metrics or {},
    )


def check_loader(loader: Any) -> None:
    """Raises `BadInput` if no loader of other data can be like it: whatever else chooses samples is of its own."""
    from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler

    if not isinstance(loader, DataLoader):
        raise BadInput(f"deepledger.adapters: give it a DataLoader, not a {type(loader).__name__}")
    plain = isinstance(loader.dataset, IterableDataset) or type(loader.sampler) in (RandomSampler, SequentialSampler)
    drawn = getattr(loader.sampler, "replacement", False) or getattr(loader.sampler, "_num_samples", None) is not None
    by_hand = loader.batch_sampler is not None and loader.batch_size is None
    if by_hand or drawn or not plain:
        chooser = loader.batch_sampler if by_hand else loader.sampler
        raise BadInput(
            f"deepledger.adapters: this DataLoader's {type(chooser).__name__} chooses among its own samples, and a "
            "round has a participant's: give it a DataLoader with batch_size and shuffle, and no sampler"
        )


def loader_like(
    loader: DataLoader[Any], data: Any, *, batch_size: int | None = None, shuffle: bool | None = None
) -> DataLoader[Any]:
    """Of other data, see `check_loader`. Workers stay behind: they are the machine's."""
    from torch.utils.data import DataLoader, RandomSampler

    return DataLoader(
        data,
        batch_size=batch_size or loader.batch_size,
        shuffle=isinstance(loader.sampler, RandomSampler) if shuffle is None else shuffle,
        collate_fn=loader.collate_fn,
        drop_last=loader.drop_last and shuffle is None,
    )


def mean_loss(model: torch.nn.Module, batches: DataLoader[Any], loss: Callable[..., torch.Tensor]) -> dict[str, Any]:
    """Of all samples; with `correct` where targets are classes of which outputs have a score each.

    Raises `BadInput` where the loss counts none of them.
    """
    samples, total, weights, correct, classes = 0, 0.0, 0.0, 0, False
    for inputs, targets in _on_device(batches, model):
        outputs = model(inputs)
        part, weight = _sum(loss, outputs, targets)
        samples, total, weights = samples + len(targets), total + part, weights + weight
        classes = not (targets.is_floating_point() or outputs.ndim != 2 or targets.ndim != 1)
        if classes:
            correct += int((outputs.argmax(dim=1) == targets).sum())
    if samples and not weights:
        raise BadInput(
            f"adapters.script: {type(loss).__name__} ignores, or gives no weight to, all targets that are measured: "
            "give others, or other options of the loss"
        )
    return {"samples": samples, "loss": total / (weights or 1)} | ({"correct": correct} if classes else {})


def _sum(loss: Any, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[float, float]:
    """Of a batch, and what a mean divides it by: samples, or, of classes, the weights of those that are not ignored."""
    import torch

    if type(loss) not in (torch.nn.CrossEntropyLoss, torch.nn.NLLLoss) or targets.is_floating_point():
        return float(loss(outputs, targets)) * len(targets), len(targets)
    summed, counted = copy(loss), targets[targets != loss.ignore_index]
    summed.reduction = "sum"
    weight = counted.numel() if loss.weight is None else float(loss.weight[counted].sum(dtype=torch.float64))
    return float(summed(outputs, targets)), weight


def _epoch(
    batches: DataLoader[Any], model: torch.nn.Module, optimizer: Optimizer, loss: Callable[..., torch.Tensor]
) -> None:
    for inputs, targets in _on_device(batches, model):
        optimizer.zero_grad()
        loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _on_device(batches: DataLoader[Any], model: torch.nn.Module) -> Any:
    device = next(model.parameters()).device
    for batch in batches:
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            raise BadInput(
                "adapters.script: a batch is no pair of inputs and targets; give it your own train and evaluate"
            )
        yield tuple(part.to(device) for part in batch)


def _optimizer_like(
    optimizer: Optimizer, names: Mapping[int, str], model: torch.nn.Module, changed: Mapping[str, Any]
) -> Optimizer:
    own = dict(model.named_parameters())
    groups = [
        {name: option for name, option in group.items() if name != "param_names"}
        | {"params": [own[names[id(each)]] for each in group["params"]]}
        | dict(changed)
        for group in optimizer.param_groups
    ]
    make: Callable[..., Optimizer] = type(optimizer)
    return make(groups)
