"""What one training did that `deepledger.privacy.make_private` made private, as the node reads it.

A guarantee follows from private steps and from nothing else: the watch compares the whole model before each of them
with what the last one left, and batches with steps. It notices mistakes; a task that means to deceive can, since it
runs in the same process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from deepledger.protocol.formats.private_run import PrivateRun, Steps

if TYPE_CHECKING:
    import torch


MayTake = Callable[[tuple[Steps, ...], float, float, int], bool]
"""Whether so many steps of a rate and a noise multiplier may be taken, besides others."""


class StepRefused(Exception):
    """The step would pass the budget. Nothing of this training has left the machine, so that it costs nothing."""


def any_number(_others: tuple[Steps, ...], _rate: float, _noise: float, _count: int) -> bool:
    return True


class Watch:
    """Over one training of one model. `is_untouched` says whether the model is what `train` was given."""

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        is_untouched: Callable[[], bool] = lambda: True,
        may_take: MayTake = any_number,
    ) -> None:
        self._model, self._is_untouched, self._may_take = model, is_untouched, may_take
        self._entries: dict[str, torch.Tensor] = {}  # all that may travel
        self._left: list[torch.Tensor] | None = None  # what the last private step left there
        self._pending: int | None = None  # samples of the batch that no step was taken with yet
        self._counts: Counter[tuple[float, float]] = Counter()
        self._samples, self._rate, self._clip_norm = 0, 0.0, 0.0
        self._clean: Callable[[], None] = lambda: None
        self._perturbs = False
        self.past: str | None = None
        self.refused = False

    @property
    def is_begun(self) -> bool:
        return self._left is not None

    def begin(self, *, samples: int, rate: float, clean: Callable[[], None]) -> None:
        """`clean` takes away what the training has hung on the model."""
        self._samples, self._rate, self._clean = samples, rate, clean
        if not self._is_untouched():
            self._note("the model was changed before make_private")
        self._entries = _entries(self._model)
        self._keep()

    def perturbed(self, *, samples: int, noise_multiplier: float) -> None:
        """All samples got noise, before anything is trained on them. Raises `StepRefused`. What they are clipped to is
        none of a gradient's norms.
        """
        if not self._is_untouched():
            self._note("the model was changed before perturb_inputs")
        self._samples, self._perturbs = samples, True
        self._count(1.0, noise_multiplier)

    def drew(self, size: int) -> None:
        if self._pending is not None:
            self._note("no step was taken with a batch: take one with every batch, also an empty one")
        self._pending = size

    def before_step(self, *, sizes: set[int], noise_multiplier: float, clip_norm: float) -> None:
        """`sizes`: how many samples parameters have gradients of. Raises `StepRefused`."""
        self._check_unchanged()
        if self._pending is None:
            self._note("a step was taken without a batch of make_private's loader")
        elif sizes != {self._pending}:
            found = ", ".join(map(str, sorted(sizes)))
            self._note(f"a step's gradients are of {found} samples, and the batch that was drawn has {self._pending}")
        self._count(self._rate, noise_multiplier)
        self._pending = None
        self._clip_norm = max(self._clip_norm, clip_norm)

    def _count(self, rate: float, noise_multiplier: float) -> None:
        key = (rate, noise_multiplier)
        others = tuple(Steps(*each, count) for each, count in self._counts.items() if each != key)
        if not self._may_take(others, *key, self._counts[key] + 1):
            self.refused = True
            raise StepRefused("the privacy budget leaves no further step")
        self._counts[key] += 1

    def after_step(self) -> None:
        self._keep()

    def finish(self) -> PrivateRun | None:
        """None: nothing was made private. The model is as if nothing had hung on it."""
        _WATCHES.pop(self._model, None)
        if self._left is None and not self._perturbs:
            return None
        self._clean()
        if self._left is not None:  # else samples have the noise, and any training may be made of them
            self._check_unchanged(whole=True)
        if not self._counts:
            self._note("no private step was taken")
        steps = tuple(Steps(rate, noise, count) for (rate, noise), count in self._counts.items())
        return PrivateRun(samples=self._samples, clip_norm=self._clip_norm, steps=steps, past=self.past)

    def _keep(self) -> None:
        import torch

        now = list(self._entries.values())
        if self._left is None:
            self._left = [tensor.clone() for tensor in now]
        else:
            torch._foreach_copy_(self._left, now)

    def _check_unchanged(self, *, whole: bool = False) -> None:
        """`whole`: look for other tensors in the model than those that it began with, too."""
        assert self._left is not None  # noqa: S101 (it is begun)
        found = _entries(self._model) if whole else self._entries
        for (name, tensor), left in zip(self._entries.items(), self._left, strict=True):
            now = found.get(name)
            if now is None or (now is not tensor and now.data_ptr() != tensor.data_ptr()) or not _same(tensor, left):
                self._note(f"{name!r} of the model was changed outside of private steps")
                return

    def _note(self, what: str) -> None:
        self.past = self.past or what


_WATCHES: WeakKeyDictionary[torch.nn.Module, Watch] = WeakKeyDictionary()


def watch_over(model: torch.nn.Module, watch: Watch | None = None) -> Watch:
    """The one over a model from now on, until it is finished."""
    return _WATCHES.setdefault(model, watch or Watch(model))


def _entries(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All that may travel."""
    return {
        name: value.detach() for name, value in model.state_dict(keep_vars=True).items() if hasattr(value, "detach")
    }


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """To the bit, so that NaN is like itself."""
    import torch

    return torch.equal(one, other) or torch.equal(_bits(one), _bits(other))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8)
