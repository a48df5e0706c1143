"""SHA-256 by the CPU's own instructions, of two messages at once: a round waits only for that of its own message.

Written after Intel's "Intel SHA Extensions" (Gulley and others, 2013). What each instruction does is in the SDM, volume
2, how LLVM calls it in `IntrinsicsX86.td`. Two of them take four words of the message through four rounds. The state is
two registers, of the words H G D C and F E B A.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core.cgutils import alloca_once_value, for_range

from deepledger.protocol.kernels.sha256 import INITIAL, K, address, call, emitted, ending

STREAMS: Final = 2

Bytes = npt.NDArray[np.uint8]

_PLACE = ir.IntType(64)
_BYTES = ir.VectorType(ir.IntType(8), 16)
_WORDS = ir.VectorType(ir.IntType(32), 4)
_HALVES = [7, 6, 3, 2], [5, 4, 1, 0]
"""Which words of a hash each half of the state is, and which of both halves' words are each half of a hash."""


def frame(head: bytes, chunk: int, tail: bytes = b"") -> Bytes:
    """What stands around chunks of that many bytes: 16 bytes that end in the head, and what follows a chunk."""
    return np.frombuffer(head.rjust(16, b"\0") + ending(len(head), chunk, tail), np.uint8)


def hashing(head: int) -> Callable[..., Any]:
    """A function that hashes `STREAMS` chunks, each in the same `frame`, whose head has that many bytes (at most 16).

    The chunks lie in `data` side by side from `start`, `size` bytes each, a multiple of 64. Their hashes are written to
    `out` from `place` once all is read. A block of a message is a block of data moved right by the head, so that it
    begins with the end of what stands before.
    """

    def hashes(typing: Any, data: Any, start: Any, size: Any, around: Any, out: Any, place: Any) -> Any:  # noqa: ARG001
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            def begin(number: int) -> Any:
                return builder.ptrtoint(address(context, builder, signature, arguments, number), _PLACE)

            def moved(place: Any, by: int) -> Any:
                return builder.add(place, ir.Constant(_PLACE, by))

            def load(place: Any) -> Any:
                return builder.load(builder.inttoptr(place, _BYTES.as_pointer()), align=1)

            def block(place: Any, before: Any) -> list[Any]:
                """The sixteen words of a block of which the data are at `place`, those before them at `before`."""
                parts = [load(moved(place, i - head)) for i in (16, 32, 48)]
                parts.insert(0, _picked(builder, load(before), load(place), range(16 - head, 32 - head)))
                return [_swapped(builder, part) for part in parts]

            def compress(blocks: list[list[Any]]) -> None:
                states = [tuple(builder.load(half) for half in state) for state in variables]
                for old, new, state in zip(states, _rounds(builder, list(states), blocks), variables, strict=True):
                    for i in range(2):
                        builder.store(builder.add(old[i], new[i]), state[i])

            def new_state() -> list[Any]:
                halves = [ir.Constant(_WORDS, [INITIAL[i] for i in words]) for words in _HALVES]
                return [alloca_once_value(builder, half) for half in halves]  # type: ignore[no-untyped-call]

            variables = [new_state() for _ in range(STREAMS)]
            around, size = begin(3), arguments[2]
            chunks = [builder.add(begin(0), arguments[1])]
            while len(chunks) < STREAMS:
                chunks.append(builder.add(chunks[-1], size))
            with for_range(builder, builder.udiv(size, ir.Constant(_PLACE, 64))) as loop:
                offset = builder.mul(loop.index, ir.Constant(_PLACE, 64))
                first = builder.icmp_unsigned("==", offset, ir.Constant(_PLACE, 0))
                places = [builder.add(chunk, offset) for chunk in chunks]
                compress([block(place, builder.select(first, around, moved(place, -16))) for place in places])
            compress([block(moved(around, 16), moved(builder.add(chunk, size), -16)) for chunk in chunks])
            target = builder.add(begin(4), arguments[5])
            for i, state in enumerate(variables):
                low, high = (builder.load(half) for half in state)
                for j, words in enumerate(_HALVES):
                    half = _swapped(builder, _picked(builder, low, high, words))
                    place = moved(target, 32 * i + 16 * j)
                    builder.store(half, builder.inttoptr(place, _WORDS.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(data, types.int64, types.int64, around, out, types.int64), generate

    return emitted(hashes)


def _rounds(builder: Any, states: list[Any], blocks: list[list[Any]]) -> list[Any]:
    """All 64, four of each stream in turns."""
    for i in range(16):
        for stream, words in enumerate(blocks):
            if i >= 4:
                part = call(builder, "llvm.x86.sha256msg1", words[i - 4], words[i - 3])
                part = builder.add(part, _picked(builder, words[i - 2], words[i - 1], [1, 2, 3, 4]))
                words.append(call(builder, "llvm.x86.sha256msg2", part, words[i - 1]))
            low, high = states[stream]
            given = builder.add(words[i], ir.Constant(_WORDS, K[4 * i : 4 * i + 4]))
            between = call(builder, "llvm.x86.sha256rnds2", low, high, given)
            given = _picked(builder, given, given, [2, 3, 2, 3])
            states[stream] = between, call(builder, "llvm.x86.sha256rnds2", high, between, given)
    return states


def _picked(builder: Any, one: Any, other: Any, places: Iterable[int]) -> Any:
    places = list(places)
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places))


def _swapped(builder: Any, part: Any) -> Any:
    """Words between big-endian memory and a register."""
    return call(builder, "llvm.bswap.v4i32", builder.bitcast(part, _WORDS))
