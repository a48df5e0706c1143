"""Entries that a training leaves in another form: parametrizations, weight norm, spectral norm, pruning. Needs torch.

Each takes an entry like `weight` out of the `state_dict` and puts what it is made of there. Models are read under the
names that they were built with, so that such an entry is made plain again, with the values that the model computes
with.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def make_plain(model: torch.nn.Module, names: Iterable[str]) -> None:
    """Give the model back those entries of these names, in place. What else it lacks, it lacks still."""
    from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm

    for entry in set(names) - model.state_dict().keys():
        path, _, name = entry.rpartition(".")
        with suppress(AttributeError):  # the module itself is gone
            module = model.get_submodule(path)
            if parametrize.is_parametrized(module, name):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
            for remove in (prune.remove, remove_weight_norm, remove_spectral_norm):
                with suppress(ValueError):  # it is another of these
                    remove(module, name)
