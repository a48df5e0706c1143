"""The ledger of ε: what has been committed to of each data set, in a file of its own that only grows.

A data set is known by the hash of its bytes, not by its path, and nothing depends on a clock: whatever is moved or set
back, the count stays. A folder that is copied elsewhere counts by itself from then on, and data that differ in a byte
are other data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from deepledger.node.accountant import Accountant, Allowance, Cost
from deepledger.node.journal import make_folder, sync
from deepledger.protocol.errors import PrivacySpent, StateError
from deepledger.protocol.formats.canonical import describe
from deepledger.protocol.formats.participant_privacy import Release
from deepledger.protocol.formats.private_run import StatedRelease, StatedSteps, Steps
from deepledger.protocol.local.locks import held

C = TypeVar("C", Steps, Release)

_PATIENCE = 60.0  # seconds that another node may take to write a line
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent of a data set, by all rounds and jobs together."""

    epsilon: float
    delta: float


@dataclass(frozen=True, slots=True)
class Spending:
    """What one update cost."""

    commitment: str  # hexadecimal
    job: str  # with chain and contract
    round: int
    account: str
    data: str  # the name that it had
    delta: float  # by which its ε was told
    steps: tuple[Steps, ...] | None  # by which it is bounded; None: by no private steps
    release: Release | None = None  # by which it is bounded instead

    @property
    def costs(self) -> tuple[Cost, ...] | None:
        """None: nothing is guaranteed."""
        return self.steps if self.release is None else (self.release,)


class Spent:
    """All that a ledger has, composed when it is asked for; after another one of which it has all and more."""

    def __init__(self, lines: Sequence[Spending] = (), *, after: Spent | None = None) -> None:
        self.lines, self._after = tuple(lines), after

    @property
    def is_bounded(self) -> bool:
        return all(each.costs is not None for each in self.lines)

    @cached_property
    def accountant(self) -> Accountant:
        before, self._after = self._after, None
        if before is None:
            return Accountant(_costs(self.lines))
        more = _costs(self.lines[len(before.lines) :])
        return before.accountant.plus(more) if more else before.accountant

    def epsilon(self, delta: float) -> float:
        """Infinite where of one update nothing is guaranteed."""
        return self.accountant.epsilon(delta) if self.is_bounded else float("inf")

    def by_steps(self, commitment: bytes) -> bool:
        """Whether private steps bound this update."""
        return any(each.steps is not None for each in self.lines if each.commitment == commitment.hex())

    def plus(self, spending: Spending) -> Spent:
        return Spent((*self.lines, spending), after=self)

    def fits(self, budget: Budget) -> bool:
        return self.is_bounded and self.accountant.fits(budget.epsilon, budget.delta)

    def left_of(self, budget: Budget) -> Allowance:
        """Raises `PrivacySpent` where there is nothing left."""
        if not self.fits(budget):
            raise PrivacySpent(self.told(budget))
        return Allowance(self.accountant, epsilon=budget.epsilon, delta=budget.delta)

    def told(self, budget: Budget) -> str:
        spent = f"ε = {self.epsilon(budget.delta):.3g} of it is spent"
        if not self.is_bounded:
            spent = "for one update on it nothing was guaranteed"
        return f"the privacy budget of this data is ε = {budget.epsilon:g} at δ = {budget.delta:g}, and {spent}"


class SpendingLedger:
    """Of one data set."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = Spent()

    @property
    def _lock(self) -> Path:
        return self.path.with_suffix(".lock")

    def check_writable(self) -> None:
        """Raises `StateError` where what an update costs could not be written down, so that it would not be sent."""
        for path in (self.path.parent, self.path, self._lock):
            if path.exists() and not os.access(path, os.W_OK):
                raise StateError(
                    f"{path} belongs to user {path.stat().st_uid}, and user {os.geteuid()}, as which this runs, cannot "
                    "write to it: no update on this data could be committed to. Give it to that user (chown)"
                )

    def read(self) -> Spent:
        """Raises `StateError` where a line is damaged."""
        try:
            lines = tuple(_parse(line) for line in self._bytes().splitlines())
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StateError(
                f"{self.path} is damaged ({error}): what was spent of this data is not known. Restore it from a backup"
            ) from None
        if lines != self._known.lines:
            extends = lines[: len(self._known.lines)] == self._known.lines
            self._known = Spent(lines, after=self._known if extends else None)
        return self._known

    def charge(self, spending: Spending, *, budget: Budget | None, once: bool = False) -> Spent:
        """What is spent now, all told. Once for a commitment; returns once it would survive a power cut.

        Raises `PrivacySpent`, and writes nothing, where that would pass the budget: another node may have spent what
        was left. `once`: also where another account has put these data into the same round. Both would hide behind one
        noise, that of a sum, which costs more than two releases behind a noise each.
        """
        with held(self._lock, busy=f"{self.path} is locked by another process", timeout=_PATIENCE):
            known = self.read()
            if any(each.commitment == spending.commitment for each in known.lines):
                return known
            others = (each.account for each in known.lines if (each.job, each.round) == (spending.job, spending.round))
            if once and (other := next((account for account in others if account != spending.account), None)):
                raise PrivacySpent(
                    f"{other} has committed to an update on the same data in round {spending.round} of this job, and "
                    "the noise of a sum hides data that are in it once: let one account take part with them"
                )
            after = known.plus(spending)
            if budget is not None and not after.fits(budget):
                raise PrivacySpent(f"{known.told(budget)}: this update would pass it, and is not committed to")
            try:
                make_folder(self.path.parent)
                kept = len(self._bytes())
                with self.path.open("ab") as file:
                    file.truncate(kept)
                    file.write(json.dumps(asdict(spending)).encode() + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
                sync(self.path.parent)
            except OSError as error:
                raise StateError(f"cannot write {self.path}: {error.strerror}. Nothing was committed") from None
            self._known = after
            return after

    def _bytes(self) -> bytes:
        """Whole lines: one that was never finished counts for nothing, since what it is for was not sent."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise StateError(f"cannot read {self.path}: {error.strerror}") from None
        return data[: data.rfind(b"\n") + 1]


def ledger_of(folder: Path, data: Path) -> SpendingLedger:
    return SpendingLedger(folder / f"{fingerprint(data)}.jsonl")


def ledgers_in(folder: Path) -> Iterator[SpendingLedger]:
    """Raises `StateError` where it cannot be seen whether there are any."""
    try:
        found = sorted(each for each in folder.iterdir() if each.suffix == ".jsonl")
    except FileNotFoundError:
        return
    except OSError as error:
        raise StateError(f"cannot read {folder}: {error.strerror}") from None
    yield from map(SpendingLedger, found)


def fingerprint(data: Path) -> str:
    """SHA-256 of a file's bytes; of a folder, of the names and bytes of all files below it. Raises `StateError`."""
    try:
        if not data.is_dir():
            return _digest(data)
        found = sha256()
        for path in sorted(each for each in data.rglob("*") if each.is_file()):
            found.update(f"{path.relative_to(data)}\0{_digest(path)}\n".encode(errors="surrogateescape"))
        return found.hexdigest()
    except OSError as error:
        raise StateError(f"cannot read {data} to know it again: {error.strerror}") from None


def _digest(path: Path) -> str:
    found = sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return found.hexdigest()


def _costs(lines: Sequence[Spending]) -> tuple[Cost, ...]:
    return tuple(cost for each in lines for cost in each.costs or ())


def _parse(line: bytes) -> Spending:
    fields = json.loads(line)
    steps, release = fields.pop("steps"), fields.pop("release", None)
    if not 0 < fields["delta"] < 1:
        raise ValueError(f"a δ of {fields['delta']}")
    return Spending(
        **fields,
        steps=None if steps is None else tuple(_checked(Steps, StatedSteps, each) for each in steps),
        release=None if release is None else _checked(Release, StatedRelease, release),
    )


def _checked(kind: type[C], of: type[StatedSteps | StatedRelease], fields: object) -> C:
    """What is no step or release cannot be counted."""
    try:
        return kind(**of.model_validate(fields).model_dump())
    except ValidationError as error:
        raise ValueError(describe(error)) from None
