"""SHA-256 of sixteen messages of one length at once, one per lane of a SIMD register (Gueron and Krasnov 2012).

It is written as LLVM vectors of 16 × 32 bits, which LLVM cuts to what the CPU has: one AVX-512 register, two of AVX2,
four of NEON. What is hashed here is a few bytes of framing and then data where it lies, so that the message is the data
moved right by as many bytes: `compression` gives a compression function that shifts on the way, by a fixed number.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types

from deepledger.protocol.kernels.compiling import kernel
from deepledger.protocol.kernels.sha256 import INITIAL, K, address, call, emitted, ending

LANES: Final = 16

Words = npt.NDArray[np.uint32]
"""Shape (n, LANES or more), C order: word n of a message or a hash, for each lane."""


def spread(data: bytes) -> Words:
    """The same big-endian words in every lane."""
    return np.repeat(np.frombuffer(data, ">u4").astype(np.uint32), LANES).reshape(-1, LANES)


START: Final = spread(b"".join(word.to_bytes(4) for word in INITIAL))


def first_carry(head: bytes) -> Words:
    """What `compression(len(head))` carries into a message's first block."""
    return spread(bytes(-len(head) % 4) + head)


def last_block(head: int, data: int, tail: bytes = b"") -> Words:
    """What follows `data` bytes, a multiple of 64, in a message that `head` bytes precede: tail, padding, length."""
    return spread(ending(head, data, tail) + bytes(head))


@kernel
def copy(rows: Words, out: Words) -> None:
    """out[:] = rows, which would take numba seconds to compile: it makes the message of an error that there is not."""
    for row in range(len(rows)):
        for lane in range(LANES):
            out[row, lane] = rows[row, lane]


_VECTOR = ir.VectorType(ir.IntType(32), LANES)


@emitted
def load(typing: Any, data: Any, start: Any, stride: Any, words: Any) -> Any:  # noqa: ARG001
    """Read sixteen big-endian words for each lane from start + lane · stride: loads, then transposes by shuffles."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source = builder.ptrtoint(address(context, builder, signature, arguments, 0), ir.IntType(64))
        rows = []
        for lane in range(LANES):
            offset = builder.add(arguments[1], builder.mul(arguments[2], ir.Constant(ir.IntType(64), lane)))
            place = builder.inttoptr(builder.add(source, offset), _VECTOR.as_pointer())
            rows.append(call(builder, "llvm.bswap.v16i32", builder.load(place, align=1)))
        for step in (1, 2, 4, 8):
            upper = [lane if not lane & step else lane - step + LANES for lane in range(LANES)]
            lower = [lane + LANES if lane & step else lane + step for lane in range(LANES)]
            for i in (i for i in range(LANES) if not i & step):
                one, other = rows[i], rows[i + step]
                rows[i] = builder.shuffle_vector(one, other, _indices(upper))
                rows[i + step] = builder.shuffle_vector(one, other, _indices(lower))
        target = _rows(context, builder, signature, arguments, 3)
        for i, row in enumerate(rows):
            builder.store(row, builder.gep(target, [_index(i)]), align=4)
        return context.get_dummy_value()

    return types.void(data, types.int64, types.int64, words), generate


def compression(head: int) -> Callable[..., Any]:
    """SHA-256's compression function (FIPS 180-4, 6.2.2) in every lane, of `words` moved right by `head` bytes.

    `carry` holds the bytes before them, in whole words, and then the last of `words`, for the next call.
    """
    carried, shift = -(-head // 4), 8 * (-head % 4)

    def compress(typing: Any, state: Any, carry: Any, words: Any) -> Any:  # noqa: ARG001
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            def join(high: Any, low: Any, left: int) -> Any:
                return call(builder, "llvm.fshl.v16i32", high, low, _splat(left))

            def rotations(x: Any, *right: int) -> Any:
                first, *rest = [join(x, x, 32 - n) for n in right]
                return _xor(builder, first, *rest)

            def load(number: int, index: int) -> Any:
                rows = _rows(context, builder, signature, arguments, number)
                return builder.load(builder.gep(rows, [_index(index)]), align=4)

            def store(row: Any, number: int, index: int) -> None:
                rows = _rows(context, builder, signature, arguments, number)
                builder.store(row, builder.gep(rows, [_index(index)]), align=4)

            def total(*terms: Any) -> Any:
                first, *rest = terms
                for term in rest:
                    first = builder.add(first, term)
                return first

            raw = [load(1, i) for i in range(carried)] + [load(2, i) for i in range(16)]
            w = [join(high, low, shift) for high, low in pairwise(raw[:17])]
            before = [load(0, i) for i in range(8)]
            a, b, c, d, e, f, g, h = before
            for i in range(64):
                if i >= 16:
                    s0 = _xor(builder, rotations(w[i - 15], 7, 18), builder.lshr(w[i - 15], _splat(3)))
                    s1 = _xor(builder, rotations(w[i - 2], 17, 19), builder.lshr(w[i - 2], _splat(10)))
                    w.append(total(w[i - 16], s0, w[i - 7], s1))
                choice = _xor(builder, g, builder.and_(e, _xor(builder, f, g)))
                majority = builder.or_(builder.and_(a, b), builder.and_(c, builder.or_(a, b)))
                t1 = total(h, _splat(K[i]), w[i], choice, rotations(e, 6, 11, 25))
                t2 = builder.add(rotations(a, 2, 13, 22), majority)
                a, b, c, d, e, f, g, h = builder.add(t1, t2), a, b, c, builder.add(d, t1), e, f, g
            for i, (old, new) in enumerate(zip(before, (a, b, c, d, e, f, g, h), strict=True)):
                store(builder.add(old, new), 0, i)
            for i in range(carried):
                store(raw[16 + i], 1, i)
            return context.get_dummy_value()

        return types.void(state, carry, words), generate

    return emitted(compress)


def _rows(context: Any, builder: Any, signature: Any, arguments: Any, number: int) -> Any:
    return builder.bitcast(address(context, builder, signature, arguments, number), _VECTOR.as_pointer())


def _xor(builder: Any, first: Any, *rest: Any) -> Any:
    for term in rest:
        first = builder.xor(first, term)
    return first


def _splat(value: int) -> Any:
    return ir.Constant(_VECTOR, [value] * LANES)


def _indices(lanes: list[int]) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(32), LANES), lanes)


def _index(value: int) -> Any:
    return ir.Constant(ir.IntType(64), value)
