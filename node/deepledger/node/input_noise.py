"""Input perturbation: samples are noised before anything is trained on them, so that any training will do.

As in Okamoto, Sato and Iwamura (2021, "A Study on Decentralized Machine Learning with Differential Privacy based on
Input Perturbation"), noise falls on a participant's own samples, not on gradients; the accounting is ours. Each sample,
all its numbers together, is shortened to an L2 norm and gets Gaussian noise: one step of the Gaussian mechanism that
takes every sample. What follows is a function of the result. A neighbour has zeros in the place of one sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from deepledger.node.private_run import watch_over
from deepledger.node.secret_noise import SecretNoise
from deepledger.protocol.errors import BadInput


def perturb(
    model: torch.nn.Module, tensors: Sequence[torch.Tensor], *, noise_multiplier: float, clip_norm: float
) -> tuple[torch.Tensor, ...]:
    """See `deepledger.privacy.perturb_inputs`."""
    for name, value in {"noise_multiplier": noise_multiplier, "clip_norm": clip_norm}.items():
        if not (math.isfinite(value) and value > 0):
            raise BadInput(f"perturb_inputs: {name} is {value}; it must be a number above 0")
    samples = _count(tensors)
    rows = [tensor.detach().reshape(samples, -1).double() for tensor in tensors]
    norms = torch.stack([each.norm(dim=1) for each in rows]).norm(dim=0)
    if not norms.isfinite().all():
        raise BadInput("perturb_inputs: there are NaN or infinity among the samples")
    watch_over(model).perturbed(samples=samples, noise_multiplier=noise_multiplier)
    scale, noise = (clip_norm / norms.clamp(min=clip_norm)).unsqueeze(1), SecretNoise()
    return tuple(
        (each * scale + noise.normal(each.numel()).view_as(each).to(each.device) * (noise_multiplier * clip_norm))
        .to(tensor.dtype)
        .view_as(tensor)
        for tensor, each in zip(tensors, rows, strict=True)
    )


def _count(tensors: Sequence[torch.Tensor]) -> int:
    """Samples in all of them. Raises `BadInput`."""
    if not tensors or any(not isinstance(each, torch.Tensor) or not each.ndim for each in tensors):
        raise BadInput("perturb_inputs takes tensors with a row for each sample: inputs, and targets if there are any")
    counts = {len(each) for each in tensors}
    if len(counts) > 1 or 0 in counts:
        told = " and ".join(map(str, sorted(counts)))
        raise BadInput(
            f"perturb_inputs: tensors have {told} rows; each has one for every sample, of which there are some"
        )
    for number, each in enumerate(tensors):
        if not each.dtype.is_floating_point:
            raise BadInput(
                f"perturb_inputs: tensor {number} is of {each.dtype}, on which noise cannot fall: of labels take "
                "torch.nn.functional.one_hot(labels, classes).float(), and a loss that takes those, such as mse_loss"
            )
    return counts.pop()
