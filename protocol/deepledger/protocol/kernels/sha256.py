"""What both compiled versions of SHA-256 have in common (FIPS 180-4), and how their machine code gets into kernels.

What is hashed here is a few bytes of framing, then a chunk where it lies, a multiple of 64 bytes, then a tail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core.cgutils import get_or_insert_function
from numba.core.registry import cpu_target
from numba.extending import intrinsic

_, _, _target = cpu_target.target_context.codegen().magic_tuple()
_FEATURES: Final = frozenset(cast(str, _target).split(","))
"""What machine code is made for; numba knows by these what it has on disk for another CPU."""

INSTRUCTIONS: Final = "+sha" in _FEATURES
"""Whether there are those that `sha256_instructions` calls. To compile that where there are none ends the process."""

WIDE: Final = "+avx512f" in _FEATURES
"""Whether `sha256_lanes` has registers of sixteen lanes, in which it does about twice what hashlib does."""

BY_INSTRUCTIONS: Final = INSTRUCTIONS and not WIDE
"""They do 1.8 times what hashlib does; beside registers of sixteen lanes they were not measured."""

_PRIMES = [p for p in range(2, 312) if all(p % q for q in range(2, p))]


def _fraction(prime: int, *, root: int) -> int:
    """32 bits after the point of a prime's square or cube root (FIPS 180-4, 4.2.2 and 5.3.3)."""
    low, high = 0, 1 << 40
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**root <= prime << 32 * root else (low, middle)
    return low & 0xFFFFFFFF


K: Final = [_fraction(prime, root=3) for prime in _PRIMES]
INITIAL: Final = [_fraction(prime, root=2) for prime in _PRIMES[:8]]


def ending(head: int, chunk: int, tail: bytes) -> bytes:
    """What follows the chunk in a message whose framing is `head` bytes: tail, padding, length."""
    return (tail + b"\x80").ljust(56 - head, b"\0") + (8 * (head + chunk + len(tail))).to_bytes(8)


def emitted(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that writes its machine code by LLVM, to be called from kernels without the first argument."""
    return cast(Callable[..., Any], intrinsic(function))


def address(context: Any, builder: Any, signature: Any, arguments: Any, number: int) -> Any:
    """Where the data of an argument lie, which is an array."""
    return context.make_array(signature.args[number])(context, builder, arguments[number]).data


def call(builder: Any, name: str, *vectors: Any) -> Any:
    """One of LLVM's own functions, of vectors of one type, which its result has as well."""
    kind = vectors[0].type
    known = get_or_insert_function(  # type: ignore[no-untyped-call]
        builder.module, ir.FunctionType(kind, [kind] * len(vectors)), name
    )
    return builder.call(known, vectors)
