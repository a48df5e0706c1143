"""What masks cost: bytes and CPU of one participant, and what it takes to unmask a round.

    python benchmarks/masked_updates.py [--coordinates N] [--participants N ...] [--groups N]

All that a masked round computes, in one process and without a chain; the sum is held against that of the updates.
`×int16` are the vector, the letters and what is released, in bytes of a plain update. A participant's CPU is
masking (key agreements, masks, shares and their hashes), then reading the others' letters and releasing shares.

Hybrid keys are measured up to 64 participants, as many as a job seats: the key blob of the last one that joins, its CPU
for reading all others' and making its own, and the CPU of the first one for what it shares with each: once in a job.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from deepledger.protocol.blobs.digest import digest_of
from deepledger.protocol.formats.rules import MAX_SEATS
from deepledger.protocol.privacy.cohort import Cohort, MaskContext, Member, cohort_of
from deepledger.protocol.privacy.hybrid_keys import Known, hybrid_secret, key_blob, parse_key_blob, shared_by
from deepledger.protocol.privacy.mask_keys import mask_key
from deepledger.protocol.privacy.masked_updates import mask_update, parse_letters
from deepledger.protocol.privacy.unmasking import rebuild, release, unmask_sum

CONTRACT = "0x" + "11" * 20
COORDINATES = 252_398
RUNS = 5


def key_of(seat: int) -> Any:
    return mask_key(seat.to_bytes(32), chain_id=1, contract=CONTRACT, job=0)


def cohort_with(participants: int, groups: int) -> Cohort:
    members = [Member(seat, f"0x{seat:040x}", key_of(seat).word) for seat in range(participants)]
    context = MaskContext(1, CONTRACT, 0, 0, 0)
    return cohort_of(members, context=context, update_bits=16, drawn_from=b"\7" * 32, most_groups=groups, least=3)


def timed(
    work: Callable[[], Any], *, runs: int = 1, clock: Callable[[], float] = time.process_time
) -> tuple[Any, float]:
    """What it returns, and the least milliseconds."""
    result, least = None, float("inf")
    for _ in range(runs):
        start = clock()
        result = work()
        least = min(least, clock() - start)
    return result, least * 1e3


def measure(participants: int, dropped: int, coordinates: int, groups: int) -> list[str]:
    cohort = cohort_with(participants, groups)
    rng = np.random.default_rng(0)
    keys = {seat: key_of(seat) for seat in range(participants)}
    counted = set(range(participants - dropped))

    def update_of(seat: int) -> Any:
        return np.random.default_rng(seed=seat).integers(-(2**15), 2**15, coordinates, dtype=np.int16)

    first = update_of(0)
    _, mask = timed(lambda: mask_update(cohort, 0, first, key=keys[0]), runs=RUNS)
    letters, vectors, expected = {}, {}, np.zeros(coordinates, np.int64)
    for seat in sorted(counted):
        update = update_of(seat)
        masked = mask_update(cohort, seat, update, key=keys[seat], random=rng.bytes)
        letters[seat], vectors[seat] = masked.letters, masked.vector
        expected += update
    held = cohort.authors(0, counted)

    def released() -> bytes:
        read = {seat: parse_letters(cohort, seat, letters[seat]) for seat in held}
        return release(cohort, 0, counted, read, key=keys[0])

    blob, unmask = timed(released, runs=RUNS)
    parsed = {seat: parse_letters(cohort, seat, each) for seat, each in letters.items()}
    releases = {seat: release(cohort, seat, counted, parsed, key=keys[seat]) for seat in keys}
    rebuilt, secrets = timed(lambda: rebuild(cohort, counted, parsed, releases), clock=time.perf_counter)

    def summed() -> list[Any]:
        return [
            unmask_sum(cohort, rebuilt, vectors, coordinates=coordinates, group=group[0]) for group in cohort.groups
        ]

    sums, summing = timed(summed, clock=time.perf_counter)
    assert np.array_equal(np.sum(sums, axis=0, dtype=np.int64), expected)
    size = len(vectors[0]) + len(letters[0]) + len(blob)
    return [
        f"{participants:,}",
        f"{dropped}",
        f"{cohort.modulus_bits}",
        f"{size / (2 * coordinates):.3f}",
        f"{mask:.1f}",
        f"{unmask:.1f}",
        f"{mask + unmask:.1f}",
        f"{secrets:.0f}",
        f"{summing:.0f}",
    ]


def measure_hybrid(participants: int) -> list[str]:
    owners = [f"0x{seat:040x}" for seat in range(participants)]
    secrets = [
        hybrid_secret(seat.to_bytes(32), chain_id=1, contract=CONTRACT, job=0, owner=owner)
        for seat, owner in enumerate(owners)
    ]
    blobs: list[bytes] = []

    def joining(seat: int) -> bytes:
        read = [(owners[other], digest_of(blob), parse_key_blob(blob)) for other, blob in enumerate(blobs)]
        return key_blob(secrets[seat], [Known(*each) for each in read])

    for seat in range(participants - 1):
        blobs.append(joining(seat))
    last, join = timed(lambda: joining(participants - 1), runs=RUNS)
    blobs.append(last)
    own, word = parse_key_blob(blobs[0]), digest_of(blobs[0])

    def sharing() -> list[bytes]:
        return [
            shared_by(secrets[0], own, own_word=word, word=digest_of(blob), other=owner, blob=parse_key_blob(blob))
            for owner, blob in zip(owners[1:], blobs[1:], strict=True)
        ]

    shared, share = timed(sharing, runs=RUNS)
    assert shared[-1] == shared_by(
        secrets[-1], parse_key_blob(last), own_word=digest_of(last), word=word, other=owners[0], blob=None
    )
    return [f"{participants}", f"{len(last):,}", f"{join:.1f}", f"{share:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coordinates", type=int, default=COORDINATES)
    parser.add_argument("--participants", type=int, nargs="*", default=[4, 64, 1000])
    parser.add_argument("--groups", type=int, default=1)
    arguments = parser.parse_args()
    table = Table(title=f"masked int16 updates of {arguments.coordinates:,} coordinates; CPU and times in ms")
    columns = "members dropped bits ×int16 mask release both rebuild sum"
    for column in columns.split():
        table.add_column(column, justify="right")
    for participants in arguments.participants:
        for dropped in (0, participants // 20 or 1):
            table.add_row(*measure(participants, dropped, arguments.coordinates, arguments.groups))
    hybrid = Table(title="hybrid keys; CPU in ms")
    for column in ("members", "key blob", "join", "share"):
        hybrid.add_column(column, justify="right")
    for participants in arguments.participants:
        if participants <= MAX_SEATS:
            hybrid.add_row(*measure_hybrid(participants))
    Console().print(table, hybrid)


if __name__ == "__main__":
    main()
