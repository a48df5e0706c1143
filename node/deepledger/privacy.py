"""What a task imports to train with differential privacy. Needs torch and Opacus only once it is called.

from deepledger.privacy import make_private

def train(model, data, *, epochs, learning_rate):
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    loader = DataLoader(data, batch_size=64)
    optimizer, loader = make_private(model, optimizer, loader, noise_multiplier=1.0, clip_norm=1.0)
    ...                                         # as always: zero_grad, loss, backward, step with every batch
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from deepledger.protocol.errors import BadInput

if TYPE_CHECKING:
    import torch

    from deepledger.node.dp_sgd import PrivateLoader, PrivateOptimizer
    from deepledger.protocol.formats.private_run import PrivateRun

__all__ = ["finish_private", "make_private", "perturb_inputs"]


def make_private(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: torch.utils.data.DataLoader[Any],
    *,
    noise_multiplier: float,
    clip_norm: float,
    loss_reduction: Literal["mean", "sum"] = "mean",
) -> tuple[PrivateOptimizer, PrivateLoader]:
    """The optimizer and the loader to train with, as with those that were given; the model stays the object it is.

    The loader draws every sample for each batch with the probability batch_size / samples; batches differ in size and
    may be empty, and a step has to be taken with each. The optimizer clips the gradient of every sample to the L2 norm
    `clip_norm` and adds noise of `noise_multiplier` times that to their sum. `loss_reduction` is that of the loss.
    Raises `BadInput` for layers, loaders and optimizers that cannot be used, with what to take instead, and without
    Opacus.
    """
    lacking = [name for name in ("torch", "opacus", "dp_accounting") if find_spec(name) is None]
    if lacking:
        raise BadInput(f"make_private needs {lacking[0]}: pip install 'deepledger[node,privacy]'")
    from deepledger.node import dp_sgd

    return dp_sgd.make_private(
        model,
        optimizer,
        loader,
        noise_multiplier=noise_multiplier,
        clip_norm=clip_norm,
        loss_reduction=loss_reduction,
    )


def perturb_inputs(
    model: torch.nn.Module, *tensors: torch.Tensor, noise_multiplier: float, clip_norm: float
) -> tuple[torch.Tensor, ...]:
    """The same tensors with noise, to train `model` on as one likes: for models of which no gradients of single samples
    can be had. Call it anew in every `train`, before anything else, and use nothing but what it returns.

    Each has a row for each sample: inputs, and targets as floats. All numbers of a sample together are shortened to the
    L2 norm `clip_norm`, and each gets Gaussian noise of `noise_multiplier` times that. Raises `BadInput` for what noise
    cannot fall on, such as integer labels.
    """
    lacking = [name for name in ("torch", "dp_accounting") if find_spec(name) is None]
    if lacking:
        raise BadInput(f"perturb_inputs needs {lacking[0]}: pip install 'deepledger[node,privacy]'")
    from deepledger.node.input_noise import perturb

    return perturb(model, tensors, noise_multiplier=noise_multiplier, clip_norm=clip_norm)


def finish_private(model: torch.nn.Module) -> PrivateRun | None:
    """What was run since `make_private` or `perturb_inputs`, and the model without hooks; None where nothing was.

    A node does this when `train` returns; only who trains without one has to.
    """
    from deepledger.node.private_run import watch_over

    return watch_over(model).finish()
