"""What becomes of every entry of a model's `state_dict`: whether it travels, is pinned, or stays at home. Needs torch.

A task may say it itself, see `Task.fates`; otherwise it follows from what the modules are. What cannot travel is
refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, get_args

from deepledger.protocol.errors import BadInput
from deepledger.protocol.formats.model import DTYPES

if TYPE_CHECKING:
    import torch

Fate = Literal["trainable", "statistic", "variance", "frozen", "local"]
FATES: tuple[Fate, ...] = get_args(Fate)

_COMPILED = "_orig_mod."  # what torch.compile puts before names
_STATISTICS: Mapping[str, Fate] = {"running_mean": "statistic", "running_var": "variance"}


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    name: str  # the first of its names
    tensor: torch.Tensor
    fate: Fate
    also: tuple[str, ...]  # its other names


def entries_of(model: torch.nn.Module, said: Mapping[str, str]) -> list[Entry]:
    """In the order of the `state_dict`; a tensor with several names once. `said`: what the task says, by name of an
    entry or of a module. Raises `BadInput` with the name of what cannot travel, and what to do.
    """
    tensors = named_tensors(model)
    _check_said(said, list(tensors))
    names: dict[tuple[object, ...], list[str]] = {}
    for name, tensor in tensors.items():
        _check(name, tensor)
        names.setdefault(_place(tensor) if tensor.numel() else (name,), []).append(name)
    _check_apart({shared[0]: tensors[shared[0]] for shared in names.values()})
    _check_own(model, tensors)
    entries = []
    for first, *also in names.values():
        told = [fate for name in (first, *also) if (fate := _said(name, said)) is not None]
        fate = told[0] if told else _default(first, tensors)
        _check_fate(first, tensors[first], fate)
        entries.append(Entry(first, tensors[first], fate, tuple(also)))
    return entries


def _place(tensor: torch.Tensor) -> tuple[object, ...]:
    """The same for tensors that are one."""
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def named_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The `state_dict`, without the prefix of `torch.compile`. Raises `BadInput` if something in it is no tensor."""
    import torch

    try:
        state = model.state_dict(keep_vars=True)
    except Exception as error:
        raise BadInput(f"the state_dict() of the task's model fails: {type(error).__name__}: {error}") from error
    tensors: dict[str, torch.Tensor] = {}
    for full, value in state.items():
        name = full.replace(_COMPILED, "")
        if not isinstance(value, torch.Tensor) or name.rpartition(".")[2] == "_extra_state":
            raise _refused(name, *_no_tensor(name, value))
        tensors[name] = value
    return tensors


def _no_tensor(name: str, value: Any) -> tuple[str, str]:
    if name.rpartition(".")[2] == "_extra_state":
        return "is extra state (get_extra_state)", "keep it in a buffer, or let get_extra_state be"
    return (
        f"is a {type(value).__name__}, not a tensor, as quantised modules have them",
        "train the float model, and quantise what is exported",
    )


def _check(name: str, tensor: torch.Tensor) -> None:
    import torch

    if torch.nn.parameter.is_lazy(tensor):
        raise _refused(name, "is not initialised (a lazy module)", "call the model once in build_model, on zeros, say")
    if tensor.device.type == "meta":
        raise _refused(name, "is on the meta device and has no values", "build the model on the CPU")
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise _refused(name, "is sparse or quantised", "make it a dense float tensor")
    if tensor.numel() and any(step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True)):
        raise _refused(name, "is expanded: several of its values are one", "register .clone() of it")


def _check_apart(tensors: Mapping[str, torch.Tensor]) -> None:
    """Of tensors with some values in common, who is written last would win."""
    spans = sorted(
        (tensor.data_ptr(), tensor.data_ptr() + _extent(tensor), name)
        for name, tensor in tensors.items()
        if tensor.numel()
    )
    for (_, end, one), (start, _, other) in pairwise(spans):
        if start < end:
            raise _refused(other, f"shares part of its memory with {one!r}", "let both be one tensor, or clone one")


def _extent(tensor: torch.Tensor) -> int:
    """Bytes from its first value to its last."""
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


def _check_own(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """What is written to the `state_dict` must reach the model, and what is trained must be in it."""
    parameters = {name.replace(_COMPILED, ""): each for name, each in model.named_parameters(remove_duplicate=False)}
    own = {_place(tensor) for tensor in (*parameters.values(), *model.buffers())}
    for name, tensor in tensors.items():
        if _place(tensor) not in own:
            raise _refused(
                name, "is a copy or a part that state_dict() makes", "let state_dict() return the model's own tensors"
            )
    held = {_place(tensor) for tensor in tensors.values()}
    for name, parameter in parameters.items():
        if parameter.requires_grad and parameter.numel() and _place(parameter) not in held:
            raise _refused(name, "is trained and not in the state_dict", "let state_dict() return every parameter")


def _check_said(said: Mapping[str, str], names: list[str]) -> None:
    for key, fate in said.items():
        if fate not in FATES:
            raise BadInput(f"fates of the task says {fate!r} of {key!r}; it can be {', '.join(FATES)}")
        if not any(_is_below(name, key) for name in names):
            near = get_close_matches(key, names, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise BadInput(f"fates of the task names {key!r}, which the model does not have{meant}")


def _said(name: str, said: Mapping[str, str]) -> Fate | None:
    """The longest key counts."""
    keys = [key for key in said if _is_below(name, key)]
    return next(fate for fate in FATES if fate == said[max(keys, key=len)]) if keys else None


def _is_below(name: str, key: str) -> bool:
    return name == key or name.startswith(f"{key}.")


def _default(name: str, tensors: Mapping[str, torch.Tensor]) -> Fate:
    import torch

    tensor, (module, _, own) = tensors[name], name.rpartition(".")
    floating = tensor.is_floating_point() or tensor.is_complex()
    if tensor.requires_grad and floating:
        return "trainable"
    if isinstance(tensor, torch.nn.Parameter):
        return "frozen"
    if tensor.is_floating_point():
        if own in _STATISTICS:
            return _STATISTICS[own]
        if any(other in tensors for other in _normalised(module, own)):
            return "statistic"
    return "local" if not floating and tensor.dim() == 0 else "frozen"


def _normalised(module: str, own: str) -> Iterator[str]:
    """What spectral normalisation, whose power iteration goes on in training, calls the weight of a vector `own`."""
    if own in ("_u", "_v"):  # parametrizations.weight.0._u
        yield f"{module.rpartition('.')[0]}.original"
    elif own.endswith(("_u", "_v")):
        yield f"{module}.{own[:-2]}_orig".removeprefix(".")


def _check_fate(name: str, tensor: torch.Tensor, fate: Fate) -> None:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if fate == "frozen" and dtype not in DTYPES:
        raise _refused(name, f"is a frozen {dtype}, which cannot be pinned", 'say "local" of it in fates')
    if fate in ("trainable", "statistic", "variance") and not (tensor.is_floating_point() or tensor.is_complex()):
        raise _refused(name, f"is {dtype} and cannot be {fate}", "only what is floating-point or complex travels")
    if fate == "variance" and tensor.is_complex():
        raise _refused(name, "is complex and cannot be a variance", "keep it real")


def _refused(name: str, why: str, do: str) -> BadInput:
    return BadInput(f"entry {name!r} of the task's model {why}: {do}")
