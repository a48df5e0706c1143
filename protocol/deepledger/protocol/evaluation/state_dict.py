"""A model's entries as one vector, and back; and those that are frozen as bytes. Needs torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from typing_extensions import Buffer

from deepledger.protocol.blobs.digest import digest_of
from deepledger.protocol.blobs.spool import FileVector, empty
from deepledger.protocol.errors import BadInput
from deepledger.protocol.evaluation.fates import Entry, entries_of, named_tensors
from deepledger.protocol.formats.model import KINDS, Frozen, FrozenEntry, Kind, LayoutEntry, ModelFormat
from deepledger.protocol.formats.vectors import Blocks, Floats, encode_parts
from deepledger.protocol.kernels.cores import BLOCK

if TYPE_CHECKING:
    import torch

_Pinned = TypeVar("_Pinned", LayoutEntry, FrozenEntry)


def format_of(
    model: torch.nn.Module, said: Mapping[str, str] | None = None, *, fraction_bits: int = 20, least_variance: int = 1
) -> ModelFormat:
    """What of a model travels, and what does not; `said` is what the task says of it. Raises `BadInput` by name."""
    entries = entries_of(model, said or {})
    layout = _layout(entries)
    if not any(entry.kind == "trainable" and entry.size for entry in layout):
        raise BadInput(
            "the task's model has no trainable entry: a floating-point parameter with requires_grad, when build_model "
            "returns it"
        )
    fixed = [entry for entry in entries if entry.fate == "frozen"]
    return ModelFormat(
        fraction_bits=fraction_bits,
        least_variance=least_variance,
        layout=layout,
        frozen=_frozen(fixed) if fixed else None,
        local=tuple(name for entry in entries if entry.fate == "local" for name in (entry.name, *entry.also)),
    )


def layout_of(model: torch.nn.Module) -> tuple[LayoutEntry, ...]:
    """What of a model travels whose task says nothing of it. Raises `BadInput` as `format_of`."""
    return format_of(model).layout


def _layout(entries: Sequence[Entry]) -> tuple[LayoutEntry, ...]:
    found, offset = [], 0
    for kind, entry in _by_kind(entries):
        shape, tensor = tuple(entry.tensor.shape), entry.tensor
        each = LayoutEntry(
            name=entry.name, shape=shape, offset=offset, kind=kind, is_complex=tensor.is_complex(), also=entry.also
        )
        found.append(each)
        offset += each.size
    return tuple(found)


def _by_kind(entries: Sequence[Entry]) -> Iterator[tuple[Kind, Entry]]:
    for kind in KINDS:
        yield from ((kind, entry) for entry in entries if entry.fate == kind)


def _frozen(entries: Sequence[Entry]) -> Frozen:
    return Frozen(
        digest=digest_of(_bytes(entry.tensor for entry in entries)).hex(),
        entries=tuple(
            FrozenEntry(
                name=entry.name,
                shape=tuple(entry.tensor.shape),
                dtype=str(entry.tensor.dtype).removeprefix("torch."),
                also=entry.also,
            )
            for entry in entries
        ),
    )


def read_floats(
    model: torch.nn.Module, layout: Sequence[LayoutEntry] | None = None, *, out: Floats | None = None
) -> Floats:
    """A copy of what travels of a model, shape (d,), in `out` if that is given: its `layout_of`, unless another layout
    is given.

    Raises `BadInput` if its entries are not those of the layout.
    """
    layout = layout_of(model) if layout is None else layout
    values = np.empty(sum(entry.size for entry in layout), np.float32) if out is None else out
    for part, floats in float_parts(model, layout):
        values[part] = floats
    return values


def float_parts(model: torch.nn.Module, layout: Sequence[LayoutEntry]) -> Iterator[tuple[slice, Floats]]:
    """What travels of a model, part by part: where a part lies, and what is there, to be looked at only. Raises as
    `read_floats`.
    """
    for part, tensor in _parts(model, layout):
        yield part, tensor.float().cpu().numpy()


def keep_model(model: torch.nn.Module, format_: ModelFormat) -> FileVector:
    """What travels of a model, shape (d,), int32, as `encode_model` makes it, in a file. Raises `BadInput` as
    `read_floats`, `BadVector` for what cannot be encoded, and `StateError` without room.
    """
    vector = empty(format_.coordinates, np.dtype("<i4"))
    for part, integers in encode_parts(float_parts(model, format_.layout), format_):
        vector[part] = integers
    return vector


def write_floats(model: torch.nn.Module, values: Blocks, layout: Sequence[LayoutEntry] | None = None) -> None:
    """Set what travels of a model, of which large entries are looked at part by part. Raises `BadInput` as
    `read_floats`, and for another number of values.
    """
    import torch

    layout = layout_of(model) if layout is None else layout
    if sum(entry.size for entry in layout) != len(values):
        raise BadInput("the task's model does not have the layout that the spec pins; is its configuration the same?")
    with torch.no_grad():
        for entry, tensor in _entries(model, layout):
            target, end = _real(tensor), entry.offset + entry.size
            if not target.is_contiguous():
                target.copy_(torch.from_numpy(values[entry.offset : end]).reshape(target.shape))
                continue
            flat = target.view(-1)
            for start in range(entry.offset, end, BLOCK):
                part = torch.from_numpy(values[start : min(start + BLOCK, end)])
                flat[start - entry.offset : start - entry.offset + len(part)] = part


def holds_floats(model: torch.nn.Module, values: Blocks, layout: Sequence[LayoutEntry]) -> bool:
    """Whether the model is as `write_floats` makes it."""
    import torch

    return all(
        torch.from_numpy(values[part]).to(tensor.dtype).equal(tensor.cpu()) for part, tensor in _parts(model, layout)
    )


def frozen_bytes(model: torch.nn.Module, frozen: Frozen) -> bytearray:
    """The values of frozen entries, one after the other."""
    return _bytes(tensor for _, tensor in _entries(model, frozen.entries))


def write_frozen(model: torch.nn.Module, frozen: Frozen, data: Buffer) -> None:
    import torch

    rest = memoryview(data).cast("B")
    with torch.no_grad():
        for entry, tensor in _entries(model, frozen.entries):
            part, rest = rest[: entry.bytes], rest[entry.bytes :]
            if part:
                tensor.copy_(torch.frombuffer(bytearray(part), dtype=tensor.dtype).reshape(tensor.shape))


def fingerprints(model: torch.nn.Module, frozen: Frozen) -> dict[str, bytes]:
    """A hash of every frozen entry, by name: to see which ones have changed."""
    return {entry.name: sha256(_bytes([tensor])).digest() for entry, tensor in _entries(model, frozen.entries)}


def check_tied(model: torch.nn.Module, entries: Iterable[LayoutEntry]) -> None:
    """Of a tensor with several names, one is read: the others must still be that one. Raises `BadInput`."""
    tensors = named_tensors(model)
    for entry in entries:
        for name in entry.also:
            one, other = tensors.get(entry.name), tensors.get(name)
            if one is not None and other is not None and not (one.shape == other.shape and one.equal(other)):
                raise BadInput(
                    f"training makes two of the entries {entry.name!r} and {name!r}, which are one tensor when "
                    "build_model returns them: one would be lost. Let build_model return two, or keep them one"
                )


def _entries(model: torch.nn.Module, entries: Iterable[_Pinned]) -> Iterator[tuple[_Pinned, torch.Tensor]]:
    tensors = named_tensors(model)
    for entry in entries:
        tensor = tensors.get(entry.name)
        if tensor is None or tuple(tensor.shape) != entry.shape:
            found = "is gone" if tensor is None else f"has the shape {tuple(tensor.shape)}, not {entry.shape}"
            raise BadInput(f"entry {entry.name!r} of the model {found}: the task's model is not the one that it built")
        yield entry, tensor.detach()


def _parts(model: torch.nn.Module, layout: Sequence[LayoutEntry]) -> Iterator[tuple[slice, torch.Tensor]]:
    """What travels of a model, flat: none of them has more than `BLOCK` coordinates."""
    for entry, tensor in _entries(model, layout):
        flat = _real(tensor).reshape(-1)
        for start in range(0, entry.size, BLOCK):
            stop = min(start + BLOCK, entry.size)
            yield slice(entry.offset + start, entry.offset + stop), flat[start:stop]


def _real(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _bytes(tensors: Iterable[torch.Tensor]) -> bytearray:
    import torch

    data = bytearray()
    for tensor in tensors:
        data += tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return data
