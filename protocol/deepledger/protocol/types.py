"""The nouns that every room shares."""

from __future__ import annotations

from typing import NewType

Digest = NewType("Digest", bytes)
"""32 bytes: SHA-256 of the root dag-pb node of a blob's UnixFS file. Address and integrity check at once."""

Root = NewType("Root", bytes)
"""32 bytes: RFC 9162 Merkle tree hash over a vector's chunks."""

Address = NewType("Address", str)
"""An Ethereum address in its checksummed form (EIP-55)."""

JobId = NewType("JobId", int)
RoundNumber = NewType("RoundNumber", int)
"""Counts from 0; `Settled` of round r turns model r into model r + 1."""

Wei = NewType("Wei", int)
Seconds = NewType("Seconds", int)
"""Unix time where it names a moment."""
