"""Chunk roots of large vectors: SHA-256 of sixteen messages at once, one per lane of a SIMD register.

All leaves of a tree have the same length, so that sixteen of them go through the compression function in step (Gueron
and Krasnov 2012). It is written as LLVM vectors of 16 × 32 bits, which LLVM cuts to what the CPU has: one AVX-512
register, two of AVX2, four of NEON; there is no feature to ask the CPU for. `merkle` is the plain version.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic

from deepledger.protocol.kernels import in_parts, kernel
from deepledger.protocol.merkle import hash_leaf, tree_hash
from deepledger.protocol.types import Root

LANES: Final = 16
SUBTREE: Final = 1024
"""Leaves that are hashed before their inner nodes are: a power of two, so that they are a whole subtree. Its hashes
stay in the cache, and memory does not grow with the vector."""

Words = npt.NDArray[np.uint32]
"""Shape (n, LANES or more), C order: word n of a message or a hash, for each lane."""

_PRIMES = [p for p in range(2, 312) if all(p % q for q in range(2, p))]


def _fraction(prime: int, *, root: int) -> int:
    """32 bits after the point of a prime's square or cube root (FIPS 180-4, 4.2.2 and 5.3.3)."""
    low, high = 0, 1 << 40
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**root <= prime << 32 * root else (low, middle)
    return low & 0xFFFFFFFF


K: Final = [_fraction(prime, root=3) for prime in _PRIMES]
START: Words = np.repeat(np.array([_fraction(p, root=2) for p in _PRIMES[:8]], np.uint32), LANES).reshape(8, LANES)


def fast_root(data: memoryview, *, chunk: int) -> Root:
    """As `merkle.chunk_root`: `data` is plain bytes, `chunk` the bytes in a chunk, a multiple of 64."""
    whole = len(data) // (SUBTREE * chunk)
    view = np.frombuffer(data.toreadonly(), np.uint8)  # one type to compile for
    roots = np.empty((whole, 8), np.uint32)

    def work(start: int, stop: int) -> None:
        _subtrees(view, start, stop, chunk, START, np.empty((41, LANES), np.uint32), _level(), _level(), roots)

    in_parts(work, whole, step=1)
    ends = range(whole * SUBTREE * chunk, len(data), chunk)
    rest: list[bytes] = [tree_hash([hash_leaf(data[start : start + chunk]) for start in ends])] if ends else []
    return tree_hash([*(root.tobytes() for root in roots.astype(">u4")), *rest])


def _level() -> Words:
    return np.zeros((8, SUBTREE), np.uint32)


@kernel
def _subtrees(
    data: npt.NDArray[np.uint8],
    first: int,
    stop: int,
    chunk: int,
    initial: Words,
    scratch: Words,
    level: Words,
    above: Words,
    roots: Words,
) -> None:
    """Roots of the subtrees `first` … `stop`. Lanes beyond a level's width compute what nobody reads."""
    state, carry, message, padding = scratch[:8], scratch[8:9], scratch[9:25], scratch[25:]
    padding[:] = 0
    padding[0] = 0x80000000
    for tree in range(first, stop):
        padding[15] = (chunk + 1) << 11  # the message's bits, one byte further left
        for leaf in range(0, SUBTREE, LANES):
            start = (tree * SUBTREE + leaf) * chunk
            state[:] = initial
            carry[:] = 0
            for block in range(0, chunk, 64):
                _load(data, start + block, chunk, message)
                _compress(state, carry, message)
            _compress(state, carry, padding)
            level[:, leaf : leaf + LANES] = state
        padding[15] = 65 << 11
        width = SUBTREE
        while width > 1:
            width //= 2
            for node in range(0, width, LANES):
                lanes = min(LANES, width - node)
                for word in range(8):
                    for lane in range(lanes):
                        message[word, lane] = level[word, 2 * (node + lane)]
                        message[word + 8, lane] = level[word, 2 * (node + lane) + 1]
                state[:] = initial
                carry[:] = 1
                _compress(state, carry, message)
                _compress(state, carry, padding)
                above[:, node : node + LANES] = state
            level, above = above, level
        roots[tree] = level[:, 0]


def _emitted(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose machine code is written below, to be called from kernels without the first argument."""
    return cast(Callable[..., Any], intrinsic(function))


_VECTOR = ir.VectorType(ir.IntType(32), LANES)


@_emitted
def _load(typing: Any, data: Any, start: Any, stride: Any, words: Any) -> Any:  # noqa: ARG001
    """Read sixteen big-endian words for each lane from start + lane · stride: loads, then transposes by shuffles."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source = builder.ptrtoint(_address(context, builder, signature, arguments, 0), ir.IntType(64))
        swap = _function(builder, "llvm.bswap.v16i32", 1)
        rows = []
        for lane in range(LANES):
            offset = builder.add(arguments[1], builder.mul(arguments[2], ir.Constant(ir.IntType(64), lane)))
            place = builder.inttoptr(builder.add(source, offset), _VECTOR.as_pointer())
            rows.append(builder.call(swap, [builder.load(place, align=1)]))
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


@_emitted
def _compress(typing: Any, state: Any, carry: Any, words: Any) -> Any:  # noqa: ARG001
    """SHA-256's compression function (FIPS 180-4, 6.2.2) in every lane.

    RFC 9162 puts one byte before every message, so the block is `words` moved right by a byte: its first byte is the
    last of `carry`, and the last of `words` is the next `carry`.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        shift = _function(builder, "llvm.fshl.v16i32", 3)

        def join(high: Any, low: Any, left: int) -> Any:
            return builder.call(shift, [high, low, _splat(left)])

        def rotations(x: Any, *right: int) -> Any:
            first, *rest = [join(x, x, 32 - n) for n in right]
            return _xor(builder, first, *rest)

        def load(number: int, index: int) -> Any:
            rows = _rows(context, builder, signature, arguments, number)
            return builder.load(builder.gep(rows, [_index(index)]), align=4)

        def total(*terms: Any) -> Any:
            first, *rest = terms
            for term in rest:
                first = builder.add(first, term)
            return first

        raw = [load(1, 0)] + [load(2, i) for i in range(16)]
        w = [join(high, low, 24) for high, low in pairwise(raw)]
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
        target = _rows(context, builder, signature, arguments, 0)
        for i, (old, new) in enumerate(zip(before, (a, b, c, d, e, f, g, h), strict=True)):
            builder.store(builder.add(old, new), builder.gep(target, [_index(i)]), align=4)
        builder.store(raw[16], _rows(context, builder, signature, arguments, 1), align=4)
        return context.get_dummy_value()

    return types.void(state, carry, words), generate


def _address(context: Any, builder: Any, signature: Any, arguments: Any, number: int) -> Any:
    return context.make_array(signature.args[number])(context, builder, arguments[number]).data


def _rows(context: Any, builder: Any, signature: Any, arguments: Any, number: int) -> Any:
    return builder.bitcast(_address(context, builder, signature, arguments, number), _VECTOR.as_pointer())


def _function(builder: Any, name: str, arity: int) -> Any:
    return get_or_insert_function(  # type: ignore[no-untyped-call]
        builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * arity), name
    )


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
