"""What a node must not forget: the salt and the update behind every commitment, on disk before it is on chain.

A record is a folder that appears whole (written aside, synced, renamed), so a node that is killed at any step either
has it or never committed to it.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

from deepledger.protocol.blobs.digest import digest_of
from deepledger.protocol.blobs.spool import FileVector
from deepledger.protocol.errors import BadVector, StateError
from deepledger.protocol.formats.commitment import Slot
from deepledger.protocol.formats.spec import JobSpec, spec_bytes
from deepledger.protocol.formats.updates import moves, parse_update
from deepledger.protocol.formats.vectors import Blocks, Floats, UpdateVector, update_dtype
from deepledger.protocol.kernels.cores import BLOCK
from deepledger.protocol.local.locks import held
from deepledger.protocol.privacy.masked_updates import Masked
from deepledger.protocol.types import Digest, Root, RoundNumber

_KEPT_ROUNDS = _KEPT_ATTEMPTS = 2
_SPEC = "spec.json"
_OVER = ".over"
"""Behind the name of a record of which the commitment is left."""
_DAMAGE = (OSError, ValueError, KeyError, AttributeError)
"""What reading a damaged record raises."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Room:
    """Where an update is made, shape (d,)."""

    residual: Floats | None = None
    update: UpdateVector | None = None


@dataclass(frozen=True, slots=True)
class Charge:
    """What a ledger of ε has of an update, which says where what the update left out may travel."""

    data: bytes | None = b""  # fingerprint of whose; empty: of none; None: not known, since an older version wrote it
    by_steps: bool = False  # by private steps, and so was all that it went on from


@dataclass(frozen=True, slots=True)
class Record:
    """An update that this node made for one attempt at a round."""

    round: RoundNumber
    attempt: int
    model: Digest  # what the update was made for
    digest: Digest
    root: Root
    salt: bytes
    commitment: bytes
    update: bytes | memoryview  # canonical bytes
    residual: Floats  # what rounding left out
    key: bytes = b""  # under which it is sealed, where updates are
    masked: Masked | None = None  # as it is published, where updates are masked
    statement: bytes = b""  # of what training kept private, if it did
    charge: Charge = Charge()


class ResidualLost(StateError):
    """What is known of it is not what was written."""


class Forgotten(StateError):
    """Attempts later, what was made for this one was removed."""


class OtherCount(StateError):
    """Shares were released for another count of the attempt."""


def kept_spec(home: Path, slot: Slot, digest: Digest) -> bytes | None:
    """A job's spec as this account had it before: whoever keeps it back later keeps no update from being revealed."""
    try:
        data = (_folder(home, slot, digest) / _SPEC).read_bytes()
    except OSError:
        return None
    return data if digest_of(data) == digest else None


def _folder(home: Path, slot: Slot, spec_digest: Digest) -> Path:
    """Everything but the spec is the same again on a devnet that was started anew."""
    job = f"{slot.chain_id}-{slot.contract}-job{slot.job}-{spec_digest.hex()[:16]}"
    return home / f"{job}-{slot.participant}"


class Journal:
    """The records of one account in one job, under `home`."""

    def __init__(self, home: Path, slot: Slot, spec: JobSpec, *, spec_digest: Digest) -> None:
        self.folder = _folder(home, slot, spec_digest)
        self._spec, self._room = spec, Room()
        try:
            make_folder(self.folder)
        except OSError as error:
            raise StateError(f"cannot write to {self.folder}: {error.strerror}. Choose another folder.") from None

    def keep_spec(self) -> None:
        """For `kept_spec`. Raises `StateError`."""
        try:
            (self.folder / _SPEC).write_bytes(spec_bytes(self._spec))
        except OSError as error:
            raise StateError(f"cannot write to {self.folder}: {error.strerror}. Make room.") from None

    def held(self) -> AbstractContextManager[None]:
        """Nobody else on this machine takes part with this account meanwhile. Raises `StateError` if somebody does."""
        return held(
            self.folder / "lock",
            busy=f"another node with this account takes part in this job already (it holds {self.folder}/lock); "
            "stop it first, or use another account",
        )

    def room(self) -> Room:
        """Where the next record's residual and update, if that is a vector, are made: files of which `write` makes the
        record, so that they are written once. A file that had the residual of a record long over is taken again, which
        saves this machine the memory of a new one. Raises `StateError` without room.
        """
        spec, next_ = self._spec, self.folder / "next"
        coordinates = spec.model.coordinates
        try:
            next_.mkdir(mode=0o700, exist_ok=True)
            self._room = Room(
                residual=_mapped(next_ / "residual", np.dtype("<f4"), coordinates),
                update=None if spec.sparse else _mapped(next_ / "update", update_dtype(spec.update), coordinates),
            )
        except OSError as error:
            raise StateError(
                f"cannot write to {next_}: {error.strerror}. Nothing was committed; make room and run the command "
                "again."
            ) from None
        return self._room

    def write(self, record: Record) -> None:
        """Returns once the record would survive a power cut, but for the residual, of which nothing was promised: what
        of it is lost then is told by its checksum.
        """
        final = self._path(record.round, record.attempt, record.model)
        aside = final.with_name(f"{final.name}.part")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            aside.mkdir(mode=0o700)
            names = {
                name: getattr(record, name).hex()
                for name in ("digest", "root", "salt", "commitment", "key", "statement")
            }
            names["checksum"] = _checksum(record.residual).hex()
            names["data"] = (record.charge.data or b"").hex()
            names["by_steps"] = bytes([record.charge.by_steps]).hex()
            self._fill(aside / "update", np.frombuffer(memoryview(record.update), np.uint8), self._room.update)
            self._fill(aside / "residual", record.residual.astype("<f4", copy=False), self._room.residual)
            _sync_file(aside / "update")
            if record.masked is not None:
                _write_synced(aside / "letters", memoryview(record.masked.letters))
                _write_synced(aside / "vector", memoryview(record.masked.vector))
            _write_synced(aside / "commitment.json", memoryview(json.dumps(names).encode()))
            sync(aside)
            aside.rename(final)
            sync(self.folder)
        except OSError as error:
            raise StateError(
                f"cannot write {final}: {error.strerror}. Nothing was committed; make room and run the command again."
            ) from None
        self._room = Room()  # else it would stay in memory until the next

    def _fill(self, path: Path, data: npt.NDArray[Any], made: npt.NDArray[Any] | None) -> None:
        """With what lies in the room already, or with a copy."""
        if made is not None and np.may_share_memory(data, made):
            (self.folder / "next" / path.name).rename(path)
        else:
            path.write_bytes(data.data)

    def update_file(self, record: Record) -> Path:
        """Its update's bytes."""
        return self._path(record.round, record.attempt, record.model) / "update"

    def release(self, record: Record, counted: Digest, make: Callable[[], bytes]) -> bytes:
        """What this account releases of the others' masks in the record's attempt, for the letters of which `counted`
        is the digest: made once, and on disk before anybody sees it.

        Raises `OtherCount` for a second count of one attempt: shares for both could show somebody's update. That holds
        for what was committed to, whatever else the chain says now, such as from which model the round began.
        """
        path = self._folder_of(record) / "release"
        try:
            if path.exists():
                kept, blob = path.read_bytes().split(b"\n", 1)
                if kept != counted.hex().encode():
                    raise OtherCount(
                        f"{path} was made for another count of this attempt than the chain shows now. Nothing more is "
                        "released: two sums of one attempt can show somebody's update"
                    )
                return blob
            blob = make()
            part = path.with_name("release.part")
            part.unlink(missing_ok=True)
            _write_synced(part, memoryview(counted.hex().encode() + b"\n" + blob))
            part.rename(path)
            sync(path.parent)
        except OSError as error:
            raise StateError(f"cannot keep {path}: {error.strerror}. Nothing was released; make room.") from None
        return blob

    def keep_keys(self, word: Digest, blob: bytes) -> None:
        """On disk before anybody knows the word. Raises `StateError`."""
        path = self._keys(word)
        try:
            part = path.with_name(f"{path.name}.part")
            part.unlink(missing_ok=True)
            _write_synced(part, memoryview(blob))
            part.rename(path)
            sync(self.folder)
        except OSError as error:
            raise StateError(f"cannot keep {path}: {error.strerror}. Nothing was staked; make room.") from None

    def keys(self, word: Digest) -> bytes | None:
        """The key blob with this digest, if it is here."""
        try:
            blob = self._keys(word).read_bytes()
        except OSError:
            return None
        return blob if digest_of(blob) == word else None

    def _keys(self, word: Digest) -> Path:
        return self.folder / f"keys-{word.hex()[:16]}"

    def read(self, round: RoundNumber, attempt: int, model: Digest) -> Record | None:
        """The record of an attempt to improve `model`, if there is one. Raises `StateError` if it was damaged, and
        `Forgotten` if it is gone: another one would be hidden under the same masks.
        """
        path = self._path(round, attempt, model)
        if path.with_name(path.name + _OVER).is_dir():
            raise Forgotten(f"what was made for attempt {attempt} at round {round} is not kept any more")
        return self._read(path, model) if path.is_dir() else None

    def _folder_of(self, record: Record) -> Path:
        for path in self._records():
            if _round_of(path) == record.round:
                with suppress(*_DAMAGE):
                    if _names(path)["commitment"] == record.commitment:
                        return path
        raise StateError(f"what was committed to in round {record.round} is not in {self.folder} any more")

    def committed(self, commitment: bytes, round: RoundNumber, model: Digest) -> Record | None:
        """The record behind a commitment, whichever attempt at the round it was made for: a transaction that was sent
        in one attempt counts in the next if it gets into a block only then. Raises `StateError` if it was damaged.
        """
        damaged: StateError | None = None
        for path in self._records():
            if _round_of(path) == round:
                try:
                    record = self._read(path, model)
                except StateError as error:
                    damaged = error
                else:
                    if record.commitment == commitment:
                        return record
        if damaged is not None:
            raise damaged
        return None

    def knows(self, commitment: bytes, round: RoundNumber) -> bool:
        """Whether a record of the round has this commitment, or is damaged so that it may have."""
        for path in [*self._records(), *self._records(_OVER)]:
            if _round_of(path) == round:
                try:
                    if _names(path)["commitment"] == commitment:
                        return True
                except _DAMAGE:
                    return True
        return False

    def _read(self, path: Path, model: Digest) -> Record:
        try:
            names = _names(path)
            return Record(
                round=_round_of(path),
                attempt=_attempt_of(path),
                model=model,
                digest=Digest(names["digest"]),
                root=Root(names["root"]),
                salt=names["salt"],
                commitment=names["commitment"],
                key=names["key"],
                statement=names["statement"],
                charge=self._charge(names),
                masked=self._masked(path),
                update=self._update(path),
                residual=self._residual(path),
            )
        except _DAMAGE as error:
            raise StateError(f"{path} is damaged ({error}); restore it from a backup to reveal this round") from None

    def residual_before(self, round: RoundNumber, *, entered: Collection[bytes]) -> Floats:
        """What is still to be sent after the rounds before, shape (d,); zeros if nothing is. Raises `ResidualLost`.

        It is what was left out of the last update that entered the model, whose commitments are `entered`, or that
        changes nothing, and so left out everything. Any other reached nobody: what was to be sent before it still is.
        """
        found = self._latest(round, entered, self._whole_residual)
        return np.zeros(self._spec.model.coordinates, np.float32) if found is None else found

    def update_before(self, round: RoundNumber, *, entered: Collection[bytes]) -> memoryview | None:
        """That update, as canonical bytes; None if there was none."""
        return self._latest(round, entered, self._update)

    def charge_before(self, round: RoundNumber, *, entered: Collection[bytes]) -> Charge | None:
        """What was charged of both; None if there are none."""
        return self._latest(round, entered, lambda path: self._charge(_names(path)))

    def _charge(self, names: dict[str, bytes]) -> Charge:
        if "data" in names:
            return Charge(names["data"], by_steps=any(names["by_steps"]))
        if not names["statement"]:
            return Charge()
        return Charge(None, by_steps=self._spec.release is None)

    def _latest(self, round: RoundNumber, entered: Collection[bytes], read: Callable[[Path], T]) -> T | None:
        path = self._path_before(round, entered)
        try:
            return None if path is None else read(path)
        except _DAMAGE as error:
            raise _damaged(path, error) from None

    def _path_before(self, round: RoundNumber, entered: Collection[bytes]) -> Path | None:
        earlier = [path for path in self._records() if _round_of(path) < round]
        for _, attempts in groupby(reversed(earlier), _round_of):
            idle: Path | None = None  # counts only where none of the round entered, which would leave out less
            for path in attempts:
                try:
                    names = _names(path)
                    if names["commitment"] in entered:
                        return path
                    if idle is not None or self._charge(names).data is None:  # it may be charged nowhere
                        continue
                    if not moves(parse_update(self._update(path), self._spec), self._spec):
                        idle = path
                except (*_DAMAGE, BadVector) as error:
                    raise _damaged(path, error) from None
            if idle is not None:
                return idle
        return None

    def forget_before(self, round: RoundNumber, *, entered: Collection[bytes]) -> None:
        """Remove the records of rounds that are long over, but for the one from which the next update goes on."""
        with suppress(StateError):  # told where it is needed
            last = self._path_before(round, entered)
            for path in self._records():
                if _round_of(path) < round - _KEPT_ROUNDS and path != last:
                    self._reuse(path)
                    shutil.rmtree(path, ignore_errors=True)
            for path in self._records(_OVER):
                if _round_of(path) < round - _KEPT_ROUNDS:
                    shutil.rmtree(path, ignore_errors=True)

    def forget_attempts(
        self, round: RoundNumber, attempt: int, *, entered: Collection[bytes], committed: Collection[bytes]
    ) -> None:
        """Remove what was made for attempts at the open round that are over, but for the last one, for what is
        `committed` to all the same, and for what the next update goes on from. The commitments are kept: should the
        chain go back to such an attempt, they are this node's, and nothing else is made for it.
        """
        with suppress(StateError):  # told where it is needed
            last = self._path_before(RoundNumber(round + 1), entered)
            for path in self._records():
                if _round_of(path) != round or _attempt_of(path) > attempt - _KEPT_ATTEMPTS or path == last:
                    continue
                with suppress(*_DAMAGE):
                    if _names(path)["commitment"] not in committed:
                        gone = path.rename(path.with_name(path.name + _OVER))
                        self._reuse(gone)
                        for each in gone.iterdir():
                            if each.name != "commitment.json":
                                each.unlink()

    def _reuse(self, path: Path) -> None:
        """The file of its residual, for the next one."""
        with suppress(OSError):
            (path / "residual").rename(self.folder / "next" / "residual")

    def remove(self) -> None:
        """The job is over, and everything that was committed to in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _update(self, path: Path) -> memoryview:
        with (path / "update").open("rb") as file:
            if os.fstat(file.fileno()).st_size != self._spec.update_bytes:
                raise ValueError("update has another length")
            return memoryview(_whole(file, mmap.ACCESS_READ))

    def _masked(self, path: Path) -> Masked | None:
        if self._spec.masks is None:
            return None
        return Masked((path / "letters").read_bytes(), (path / "vector").read_bytes())

    def _residual(self, path: Path) -> Floats:
        with (path / "residual").open("rb") as file:
            if os.fstat(file.fileno()).st_size != 4 * self._spec.model.coordinates:
                raise ValueError("residual has another length")
            return np.frombuffer(_whole(file, mmap.ACCESS_COPY), "<f4")

    def _whole_residual(self, path: Path) -> Floats:
        """In memory only once it is looked at, after training."""
        with (path / "residual").open("rb") as file:
            found = _checksum(FileVector(file, np.dtype("<f4")))
        if found != _names(path)["checksum"]:
            raise ResidualLost(
                f"what rounding left out in round {_round_of(path)} is not on disk any more, as after a power cut"
            )
        return self._residual(path)

    def _records(self, over: str = "") -> list[Path]:
        """In the order of rounds and attempts."""
        return sorted(self.folder.glob(f"round-*.attempt-?????.model-????????????????{over}"))

    def _path(self, round: RoundNumber, attempt: int, model: Digest) -> Path:
        return self.folder / f"round-{round:08d}.attempt-{attempt:05d}.model-{model.hex()[:16]}"


def _names(path: Path) -> dict[str, bytes]:
    document = json.loads((path / "commitment.json").read_text())
    return {name: bytes.fromhex(text) for name, text in document.items()}


def _damaged(path: Path | None, error: Exception) -> StateError:
    return StateError(f"{path} is damaged ({error}); move it away to go on without it")


def _round_of(path: Path) -> RoundNumber:
    return RoundNumber(int(path.name[6:14]))


def _attempt_of(path: Path) -> int:
    return int(path.name[23:28])


def _whole(file: BinaryIO, access: int) -> mmap.mmap | bytes:
    """A file, mapped; what is empty cannot be."""
    return mmap.mmap(file.fileno(), 0, access=access) if os.fstat(file.fileno()).st_size else b""


def _mapped(path: Path, dtype: np.dtype[Any], length: int) -> npt.NDArray[Any]:
    """A file of so many values, all of which have room on the disk; what is in it is anything."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        os.posix_fallocate(file.fileno(), 0, length * dtype.itemsize)
        os.ftruncate(file.fileno(), length * dtype.itemsize)
        return np.frombuffer(mmap.mmap(file.fileno(), 0), dtype)


def _checksum(values: Blocks) -> bytes:
    """Of what a power cut leaves undone, not of what somebody makes up: the sum of 64-bit words."""
    total = 0
    for start in range(0, len(values), BLOCK):
        words = values[start : min(start + BLOCK, len(values))].view("<u4")
        pairs = words[: len(words) & ~1].view("<u8")
        total += int(np.add.reduce(pairs)) + int(words[len(pairs) * 2 :].sum())
    return (total & (1 << 64) - 1).to_bytes(8, "big")


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _write_synced(path: Path, data: memoryview) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def make_folder(folder: Path) -> None:
    """With the parents that it lacks. Returns once the entries of all that was made would survive a power cut."""
    if not folder.parent.is_dir():
        make_folder(folder.parent)
    folder.mkdir(exist_ok=True, mode=0o700)
    sync(folder.parent)  # even if it was there: whoever made it may have been killed before this


def sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
