"""The journal by itself: what it gives back, and what it keeps apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from deepledger.node.journal import Journal, Record
from deepledger.protocol.errors import StateError
from deepledger.protocol.formats.commitment import Slot
from deepledger.protocol.types import Address, Digest, JobId, Root, RoundNumber

SLOT = Slot(31337, Address("0x" + "11" * 20), JobId(1), RoundNumber(0), Address("0x" + "22" * 20))
SPEC, OTHER, MODEL = Digest(b"\1" * 32), Digest(b"\2" * 32), Digest(b"\3" * 32)
FIRST, SECOND = RoundNumber(0), RoundNumber(1)
RECORD = Record(
    round=FIRST, attempt=0, model=MODEL, digest=Digest(b"\4" * 32), root=Root(b"\5" * 32), salt=b"\6" * 32,
    commitment=b"\7" * 32, update=bytes(range(6)), residual=np.array([0.5, 0, -0.5], np.float32),
)  # fmt: skip


def journal(folder: Path, spec_digest: Digest = SPEC) -> Journal:
    spec = SimpleNamespace(update_bytes=6, masks=None, model=SimpleNamespace(coordinates=3))
    return Journal(folder, SLOT, spec, spec_digest=spec_digest)  # type: ignore[arg-type]


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    journal(tmp_path).write(RECORD)
    found = journal(tmp_path).read(FIRST, 0, MODEL)
    assert found is not None
    assert (found.digest, found.root, found.salt, found.commitment) == (
        RECORD.digest, RECORD.root, RECORD.salt, RECORD.commitment,
    )  # fmt: skip
    assert bytes(found.update) == RECORD.update
    assert found.residual.tolist() == RECORD.residual.tolist()


def test_records_of_another_chain_with_the_same_numbers_are_left_alone(tmp_path: Path) -> None:
    """A devnet started anew has the same chain id, contract, job and accounts."""
    journal(tmp_path).write(RECORD)
    assert journal(tmp_path, OTHER).read(FIRST, 0, MODEL) is None
    assert journal(tmp_path).read(FIRST, 0, Digest(b"\x09" * 32)) is None
    journal(tmp_path).write(replace(RECORD, model=Digest(b"\x09" * 32), salt=b"\x08" * 32))
    kept = journal(tmp_path).read(FIRST, 0, MODEL)
    assert kept is not None
    assert kept.salt == RECORD.salt


def test_the_residual_is_that_of_the_latest_update_that_reached_the_chain(tmp_path: Path) -> None:
    journal(tmp_path).write(RECORD)
    journal(tmp_path).write(replace(RECORD, attempt=1, commitment=b"\x08" * 32, residual=np.ones(3, np.float32)))

    def left(*committed: bytes) -> list[float]:
        return [float(each) for each in journal(tmp_path).residual_before(SECOND, committed=committed)]

    assert left() == [0, 0, 0]
    assert left(b"\7" * 32) == [0.5, 0, -0.5]
    assert left(b"\7" * 32, b"\x08" * 32) == [1, 1, 1]


def test_the_last_update_is_the_latest_that_reached_the_chain(tmp_path: Path) -> None:
    journal(tmp_path).write(RECORD)
    journal(tmp_path).write(replace(RECORD, attempt=1, commitment=b"\x08" * 32, update=bytes(6)))

    def last(round: RoundNumber, *committed: bytes) -> bytes | None:
        return journal(tmp_path).update_before(round, committed=committed)

    assert last(SECOND) is None
    assert last(FIRST, b"\7" * 32) is None
    assert last(SECOND, b"\7" * 32) == RECORD.update
    assert last(SECOND, b"\7" * 32, b"\x08" * 32) == bytes(6)


def test_the_folder_itself_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("deepledger.node.journal.sync", synced.append)
    made = journal(tmp_path / "home" / "journal").folder
    assert synced == [tmp_path, tmp_path / "home", tmp_path / "home" / "journal"]
    assert made.stat().st_mode & 0o777 == 0o700
    synced.clear()
    journal(tmp_path / "home" / "journal")
    assert synced == [made.parent]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"cannot write to .*Choose another folder"):
        journal(tmp_path / "file" / "home")


def test_a_record_is_found_by_its_commitment_whichever_attempt_it_was_made_for(tmp_path: Path) -> None:
    kept = journal(tmp_path)
    kept.write(RECORD)
    kept.write(replace(RECORD, attempt=1, commitment=b"\x08" * 32))
    kept.write(replace(RECORD, round=SECOND, commitment=b"\x09" * 32))
    first, second = (kept.committed(each * 32, FIRST, MODEL) for each in (b"\7", b"\x08"))
    assert first is not None
    assert second is not None
    assert (first.attempt, second.attempt) == (0, 1)
    assert kept.committed(b"\x09" * 32, FIRST, MODEL) is None
    (path,) = tmp_path.glob("*/round-*0.attempt-*1.model-*")
    (path / "update").unlink()
    assert kept.committed(b"\7" * 32, FIRST, MODEL) is not None
    with pytest.raises(StateError, match="is damaged"):
        kept.committed(b"\x08" * 32, FIRST, MODEL)


@pytest.mark.parametrize("name", ["update", "residual", "commitment.json"])
def test_a_damaged_record_is_told(tmp_path: Path, name: str) -> None:
    journal(tmp_path).write(RECORD)
    (path,) = tmp_path.glob("*/round-*")
    (path / name).write_bytes(b"{")
    with pytest.raises(StateError, match=r"is damaged .*restore it from a backup"):
        journal(tmp_path).read(FIRST, 0, MODEL)
