"""Gradients of single samples through Opacus' hooks; those of a linear layer are never written out. Needs Opacus.

The gradient of such a layer's weight for a sample is an outer product, whose norm and whose part of the sum follow from
its two factors (the book-keeping of Bu et al. 2023): the memory of a layer is that of its activations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from opacus.grad_sample.grad_sample_module import GradSampleHooks
from torch import nn

from deepledger.protocol.errors import BadInput

_EXACT, _COARSE = 1e-4, 1e-2  # of the sum of all norms: what float32 on a CPU, and TF32 or bfloat16, make of a sum


@dataclass(frozen=True, slots=True)
class OuterProducts:
    """Of a weight of shape (out, in): `backward`, shape (n, out), times `forward`, shape (n, in)."""

    backward: torch.Tensor
    forward: torch.Tensor

    def __len__(self) -> int:
        return len(self.backward)

    def norms(self) -> torch.Tensor:
        norms: torch.Tensor = self.backward.norm(dim=1) * self.forward.norm(dim=1)
        return norms

    def weighted_sum(self, weights: torch.Tensor) -> torch.Tensor:
        return (self.backward * weights[:, None]).T @ self.forward


@dataclass(frozen=True, slots=True)
class Rows:
    """Gradients of any parameter, written out: shape (n, …)."""

    gradients: torch.Tensor

    def __len__(self) -> int:
        return len(self.gradients)

    def norms(self) -> torch.Tensor:
        norms: torch.Tensor = self.gradients.flatten(1).norm(dim=1)
        return norms

    def weighted_sum(self, weights: torch.Tensor) -> torch.Tensor:
        return weights @ self.gradients.flatten(1)


class SampleGradients(GradSampleHooks):  # type: ignore[misc]
    """Leaves `OuterProducts` as `grad_sample` of a weight that one linear layer uses once; else what Opacus does."""

    def capture_backprops_hook(
        self, module: nn.Module, forward_input: Any, forward_output: Any, loss_reduction: str, batch_first: bool
    ) -> None:
        if not (self.hooks_enabled and type(module) is nn.Linear and self._is_plain(module)):
            super().capture_backprops_hook(module, forward_input, forward_output, loss_reduction, batch_first)
            return
        backward, forward = forward_output[0].detach(), module.activations.pop()[0]  # type: ignore[operator, union-attr]
        if loss_reduction == "mean":
            backward = backward * len(backward)
        for parameter, found in (
            (module.weight, OuterProducts(backward, forward)),
            (module.bias, backward),
        ):
            if parameter is not None and parameter.requires_grad:
                parameter._forward_counter = 0  # type: ignore[attr-defined]
                parameter.grad_sample = found  # type: ignore[attr-defined]

    @staticmethod
    def _is_plain(layer: nn.Linear) -> bool:
        """One row for each sample, and no parameter that is used a second time, or has gradients already."""
        used = [each for each in (layer.weight, layer.bias) if each is not None and each.requires_grad]
        return layer.activations[-1][0].dim() == 2 and all(  # type: ignore[index]
            each._forward_counter == 1 and each.grad_sample is None and not hasattr(each, "_current_grad_sample")  # type: ignore[attr-defined]
            for each in used
        )


def rows_of(parameter: Any) -> OuterProducts | Rows:
    found = parameter.grad_sample
    return found if isinstance(found, OuterProducts) else Rows(found)


def check_complete(parameters: Mapping[str, nn.Parameter], *, loss_reduction: str) -> None:
    """Raises `BadInput` where gradients of samples do not make up the gradient that torch itself has found, after
    `backward`: hooks see only what a layer of a known kind does with its own parameters.
    """
    for name, parameter in parameters.items():
        rows, whole = rows_of(parameter), parameter.grad
        if whole is None or not len(rows):
            continue
        share = 1 / len(rows) if loss_reduction == "mean" else 1.0
        made = rows.weighted_sum(torch.full_like(rows.norms(), share)).view_as(parameter)
        off, all_of_it = (made - whole).norm(), rows.norms().sum() * share
        exact = whole.device.type == "cpu" and made.dtype in (torch.float32, torch.float64)
        if off > (_EXACT if exact else _COARSE) * torch.maximum(all_of_it, whole.norm()):
            raise BadInput(
                f"make_private: the gradients of single samples of {name!r} do not add up to its gradient. Something "
                "else takes part in it: a penalty in the loss (take the optimizer's weight_decay), a use of the "
                "parameter outside of its own layer, or an option of that layer which Opacus knows nothing of"
            )
