"""deepledger-bfv: encrypting a vector under a key of its own, and reading the sum of several, by Lattigo's BFV.

A program of its own, since Lattigo is Go: each call starts it once, with bytes of fixed lengths in and out. Whatever is
wrong with it, or ends it, is an error in words. What it computes stands at the top of `program/main.go`.

The parameters, 128 bits of security by the table of the HomomorphicEncryption.org standard (Albrecht et al. 2018;
uniform secrets, dimension 2048: at most 56 bits of modulus, errors of 3.19 or more):

    N  2048    q  2^54 − 77,823    t  2^32 + 24,577    errors  4.6, at most 27

DEEPLEDGER_BFV names the program where `local.programs` does not find it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import IO, Final

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from deepledger.protocol.errors import BadInput, StateError
from deepledger.protocol.local.programs import find

ENVIRONMENT: Final = "DEEPLEDGER_BFV"
NAME: Final = "deepledger-bfv"
SOURCE: Final = Path(__file__).with_name("program")

DEGREE: Final = 2048
MODULUS: Final = 18014398509404161
PLAIN_MODULUS: Final = 4294991873
WORD_BITS: Final = 54
BLOCK_BYTES: Final = DEGREE * WORD_BITS // 8
"""Of a block of a vector, and of a share of a key."""
ZERO_BLOCKS: Final = 2
SEED_BYTES: Final = 32

MOST_VECTORS: Final = 64
"""In a sum: their errors, 27 each at the most, may come to q / 2t."""

_PATIENCE: Final = 60.0  # seconds, and one more for so many bytes: fifty times what it takes
_BYTES_A_SECOND: Final = 1 << 20

Int32s = npt.NDArray[np.int32]


class NoKey(Exception):
    """The shares make no key under which the sum is encrypted."""


class BeyondRange(Exception):
    """The sum has a coordinate that sums of such updates cannot have."""


def vector_bytes(coordinates: int) -> int:
    """Of an encrypted vector: blocks of zeros, by which a key is known to be right, and those of the vector."""
    return BLOCK_BYTES * (ZERO_BLOCKS + -(-coordinates // DEGREE))


def find_program() -> Path | None:
    """Raises `BadInput` where the environment names nothing that can be run."""
    return find(NAME, variable=ENVIRONMENT)


def program() -> Path:
    """The program, of this version. Raises `BadInput`, which says what to do."""
    found = find_program()
    mend = "`deepledger build-bfv` builds it, with Go 1.23 or newer"
    if found is None:
        raise BadInput(f"updates of encrypted jobs take the program {NAME}, which is not here: {mend}")
    if _told_source(found) != source_digest():
        raise BadInput(f"{found} was built from another version of its source than this one's: {mend}")
    return found


@lru_cache
def source_digest() -> str:
    """By which a program says what it was built from; that of this process, whatever is installed meanwhile."""
    files = (SOURCE / name for name in ("main.go", "go.mod", "go.sum"))
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _told_source(program: Path) -> str:
    try:
        about = program.stat()
    except OSError as error:
        raise BadInput(f"{program} cannot be run: {error}") from None
    return _source_of(program, about.st_ino, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=8)
def _source_of(program: Path, *_file: int) -> str:
    """What it says itself, asked once of a file that stays as it is."""
    try:
        return subprocess.run([program, "source"], capture_output=True, timeout=60).stdout.decode().strip()  # noqa: S603
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise BadInput(f"{program} cannot be run: {error}") from None


def build(into: Path) -> Path:
    """Build the program into a folder; Go fetches what it is made of. Raises `BadInput`, `StateError`."""
    if (go := shutil.which("go")) is None:
        raise BadInput("Go is not installed; install 1.23 or newer (go.dev), then run this again")
    final = into / NAME
    aside = final.with_name(f"{NAME}.{os.getpid()}")
    command = [go, "build", "-trimpath", "-mod=readonly", "-o", str(aside.absolute()), "."]
    try:
        into.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True)  # noqa: S603
        if done.returncode:
            raise StateError(f"Go could not build {NAME}: {' '.join(done.stderr.split())}")
        aside.replace(final)
    except OSError as error:
        raise StateError(f"cannot write {final}: {error.strerror}; choose another folder with --into") from None
    finally:
        aside.unlink(missing_ok=True)
    return final


def encrypt(
    vector: npt.NDArray[np.signedinteger], *, seed: bytes, holders: int, threshold: int
) -> tuple[bytes, list[bytes]]:
    """A vector of int32, shape (d,), under a key that is drawn for it and kept nowhere; and that key's shares, of
    which `threshold` make it. Vectors that are to be added up have one `seed`, which everybody may know.
    """
    options = {"coordinates": len(vector), "holders": holders, "threshold": threshold}
    size = vector_bytes(len(vector))
    given = (seed, np.ascontiguousarray(vector, "<i4").data.cast("B"))
    made = _run("encrypt", options, given, size=size, wanted=size + holders * BLOCK_BYTES)
    return made[:size], [made[start : start + BLOCK_BYTES] for start in range(size, len(made), BLOCK_BYTES)]


def add_shares(shares: Sequence[Buffer]) -> bytes:
    """A holder's share of the sum of keys, from its shares of each."""
    return _run("add", {"shares": len(shares)}, shares, size=BLOCK_BYTES * len(shares), wanted=BLOCK_BYTES)


def open_sum(
    vectors: Sequence[Buffer],
    *,
    seed: bytes,
    shares: Mapping[int, Buffer],
    threshold: int,
    coordinates: int,
    most: int,
) -> Int32s:
    """The sum of encrypted vectors, shape (d,), from shares of the sum of their keys, by place (from 1).

    Vectors may be mapped files: they are read block by block. Raises `NoKey` where no `threshold` of the shares make
    that key, or some vector is encrypted under another than its shares make; and `BeyondRange` where a coordinate is
    more than `most`, either way.
    """
    if len(vectors) > MOST_VECTORS:
        raise BadInput(f"no more than {MOST_VECTORS} vectors can be added up under encryption, and these are more")
    views = [memoryview(vector).cast("B") for vector in vectors]
    options: dict[str, int | str] = {
        "coordinates": coordinates,
        "vectors": len(views),
        "threshold": threshold,
        "most": most,
        "points": ",".join(map(str, sorted(shares))),
    }
    given: Iterator[Buffer] = chain((seed,), (shares[place] for place in sorted(shares)), _in_turns(views, coordinates))
    size = sum(view.nbytes for view in views)
    made = _run("open", options, given, size=size, wanted=4 * coordinates)
    return np.frombuffer(made, "<i4").astype(np.int32, copy=False)


def _in_turns(views: Sequence[memoryview], coordinates: int) -> Iterator[Buffer]:
    for start in range(0, vector_bytes(coordinates), BLOCK_BYTES):
        for view in views:
            yield view[start : start + BLOCK_BYTES]


def _run(command: str, options: Mapping[str, int | str], given: Iterable[Buffer], *, size: int, wanted: int) -> bytes:
    """`size`: bytes that it works on, by which it has time. Raises `StateError` however else than due it ends."""
    arguments = [f"-{name}={value}" for name, value in options.items()]
    try:
        process = subprocess.Popen(  # noqa: S603
            [program(), command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        raise StateError(f"{NAME} cannot be run: {error}") from None
    limit, overdue = _PATIENCE + size / _BYTES_A_SECOND, threading.Event()

    def end() -> None:
        overdue.set()
        process.kill()

    late = threading.Timer(limit, end)
    late.daemon = True
    late.start()
    with process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None  # noqa: S101, PT018
        feeding = threading.Thread(target=_feed, args=(process.stdin, given), name=NAME, daemon=True)
        feeding.start()
        made = process.stdout.read(wanted + 1)
        if len(made) > wanted:
            process.kill()
        said = process.stderr.read().decode(errors="replace").strip()
        code = process.wait()
        late.cancel()
        feeding.join()
    if overdue.is_set():
        raise StateError(f"{NAME} {command} failed: it was not done after {limit:.0f} seconds")
    if code in (refusals := {3: NoKey, 4: BeyondRange}):
        raise refusals[code](said)
    if code or len(made) != wanted:
        raise StateError(f"{NAME} {command} failed: {said or f'it ended with {code}, after {len(made)} bytes'}")
    return made


def _feed(pipe: IO[bytes], given: Iterable[Buffer]) -> None:
    with suppress(BrokenPipeError, OSError), pipe:  # it may have ended: why, it says itself
        for piece in given:
            pipe.write(piece)
