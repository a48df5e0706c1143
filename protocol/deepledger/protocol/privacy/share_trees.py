"""One hash for all shares in a letter, of which its holder can show some and keep the others to itself.

    root = node(leaf(share of b), tree over the leaves of the shares of s_ij)

with leaf = SHA-256(0x00 ‖ share) and node = SHA-256(0x01 ‖ left ‖ right), cut to 16 bytes, and the shape of RFC 9162. A
share of b is shown in nearly every round and others rarely, so that it stands at the top: one hash proves it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from functools import lru_cache
from hashlib import sha256
from typing import Final

HASH_BYTES: Final = 16


class Step(Enum):
    """Of putting a root together again, on a stack."""

    LEAF = 0  # the hash of the next share that is shown
    GIVEN = 1  # the next hash that is given, of shares that are not
    NODE = 2  # the hash of the two uppermost


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Of the leaves of b and of every s_ij: at least two."""
    return _node(leaves[0], _tree(leaves[1:]))


def leaf(share: bytes) -> bytes:
    return sha256(b"\0" + share).digest()[:HASH_BYTES]


def given(leaves: Sequence[bytes], shown: tuple[int, ...]) -> list[bytes]:
    """The hashes of what is not shown, which prove what is."""
    return [_tree(leaves[start:stop]) for start, stop in _hidden(len(leaves), shown)]


def proven(steps: Iterable[Step], shares: Iterator[bytes], hashes: Iterator[bytes]) -> bytes:
    """The root that shares which are shown and hashes that are given make together."""
    stack: list[bytes] = []
    for step in steps:
        if step is Step.LEAF:
            stack.append(leaf(next(shares)))
        elif step is Step.GIVEN:
            stack.append(next(hashes))
        else:
            right = stack.pop()
            stack[-1] = _node(stack[-1], right)
    return stack[0]


@lru_cache(maxsize=4096)
def steps_to_prove(leaves: int, shown: tuple[int, ...]) -> tuple[Step, ...]:
    """How to put together the root over so many leaves, of which some are shown."""
    return tuple(step for step, _, _ in _walk(leaves, frozenset(shown)))


@lru_cache(maxsize=4096)
def _hidden(leaves: int, shown: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((start, stop) for step, start, stop in _walk(leaves, frozenset(shown)) if step is Step.GIVEN)


def _walk(leaves: int, shown: frozenset[int]) -> Iterator[tuple[Step, int, int]]:
    """Steps, with the range of leaves below each."""

    def below(start: int, stop: int) -> Iterator[tuple[Step, int, int]]:
        if shown.isdisjoint(range(start, stop)):
            yield Step.GIVEN, start, stop
        elif stop - start == 1:
            yield Step.LEAF, start, stop
        else:
            middle = start + (1 << (stop - start - 1).bit_length() - 1)
            yield from below(start, middle)
            yield from below(middle, stop)
            yield Step.NODE, start, stop

    yield from below(0, 1)
    yield from below(1, leaves)
    yield Step.NODE, 0, leaves


def _tree(nodes: Sequence[bytes]) -> bytes:
    """As `formats.roots.tree_hash`, with short hashes."""
    while len(nodes) > 1:
        odd = list(nodes[-1:]) if len(nodes) % 2 else []
        nodes = [_node(left, right) for left, right in zip(nodes[::2], nodes[1::2], strict=False)] + odd
    return nodes[0]


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()[:HASH_BYTES]
