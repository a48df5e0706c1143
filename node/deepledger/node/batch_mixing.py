"""Whether a model mixes the samples of a batch: then no gradient is that of one sample, and clipping bounds nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from deepledger.protocol.errors import BadInput

_TOLERANCE = 1e-4  # of the largest value: far more than another order of sums makes, and less than a sample does


class BatchMixing:
    """Looks at the first batch that shows it: with another sample in the place of the first, what the model makes of
    the others has to stay what it was.

    Samples are in the one dimension that is as long as the batch; where two are, the next batch may tell. Not seen is
    what is not handed to the model itself, as a whole batch, nor what a loss mixes.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._call: tuple[Any, Any] | None = None
        self._hook = model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _model: nn.Module, args: Any, kwargs: Any) -> None:
        if torch.is_grad_enabled():
            self._call = args, kwargs

    def check(self, samples: int) -> None:
        """After the model was called with so many samples, and before they change it. Raises `BadInput`."""
        if self._call is None or samples < 2:
            return
        given, shape = pytree.tree_flatten(self._call)
        self._call = None
        changed = _with_another_first(given, samples)
        if changed is None:
            return
        with torch.no_grad():
            try:
                made, again, other = (
                    self._outputs(pytree.tree_unflatten(each, shape)) for each in (given, given, changed)
                )
            except Exception:  # it does without gradients what it cannot: nothing can be told
                self.forget()
                return
        kept = [(one, two) for one, two in zip(made, other, strict=True) if _dimension(one, samples) is not None]
        if not kept:
            return
        self.forget()
        if not all(_alike(one, two) for one, two in zip(made, again, strict=True)):
            return  # it draws by chance, from where nobody knows
        if not all(_alike(_but_first(one, samples), _but_first(two, samples)) for one, two in kept):
            raise BadInput(
                "make_private: what the model makes of one sample depends on the others in its batch, so that no "
                "gradient is of one sample alone. Take torch.nn.GroupNorm or LayerNorm where it normalises by the "
                "batch, and keep samples apart"
            )

    def _outputs(self, call: tuple[Any, Any]) -> list[torch.Tensor]:
        """With the same chance each time; what the model notes about itself does not last."""
        args, kwargs = call
        buffers = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            made = torch.func.functional_call(self._model, buffers, args, kwargs)
        return [leaf for leaf in pytree.tree_leaves(made) if isinstance(leaf, torch.Tensor)]

    def forget(self) -> None:
        self._hook.remove()
        self._call = None


def _dimension(value: Any, samples: int) -> int | None:
    """Of a tensor, in which its samples are."""
    found = [at for at, size in enumerate(value.shape) if size == samples] if isinstance(value, torch.Tensor) else []
    return found[0] if len(found) == 1 else None


def _with_another_first(values: list[Any], samples: int) -> list[Any] | None:
    """With the first sample that is another than the first in its place; None where there is none."""
    batched = {at: _dimension(value, samples) for at, value in enumerate(values)}
    for other in range(1, samples):
        changed = list(values)
        for at, dimension in batched.items():
            if dimension is not None:
                changed[at] = values[at].detach().clone()
                changed[at].select(dimension, 0).copy_(values[at].select(dimension, other))
        if any(changed[at] is not value and not torch.equal(changed[at], value) for at, value in enumerate(values)):
            return changed
    return None


def _but_first(value: torch.Tensor, samples: int) -> torch.Tensor:
    return value.narrow(_dimension(value, samples) or 0, 1, samples - 1)


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    scale = float(one.abs().nan_to_num(0.0, 0.0, 0.0).max()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=0.0, atol=_TOLERANCE * scale, equal_nan=True)
