"""The journal by itself: what it gives back, and what it keeps apart."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deepledger.node.journal import Charge, Forgotten, Journal, Record, ResidualLost, Room
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
    return Journal(folder, SLOT, spec_of(3), spec_digest=spec_digest)


def spec_of(coordinates: int) -> Any:
    return SimpleNamespace(
        update_bytes=2 * coordinates, masks=None, sparse=None, release=None, update=SimpleNamespace(bits=16),
        model=SimpleNamespace(coordinates=coordinates, trained=coordinates),
    )  # fmt: skip


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


def test_the_residual_is_that_of_the_latest_update_that_entered_the_model(tmp_path: Path) -> None:
    journal(tmp_path).write(RECORD)
    journal(tmp_path).write(replace(RECORD, attempt=1, commitment=b"\x08" * 32, residual=np.ones(3, np.float32)))

    def left(*entered: bytes) -> list[float]:
        return [float(each) for each in journal(tmp_path).residual_before(SECOND, entered=entered)]

    assert left() == [0, 0, 0]
    assert left(b"\7" * 32) == [0.5, 0, -0.5]
    assert left(b"\7" * 32, b"\x08" * 32) == [1, 1, 1]


def test_the_last_update_is_the_latest_that_entered_the_model_or_changes_nothing(tmp_path: Path) -> None:
    journal(tmp_path).write(RECORD)
    journal(tmp_path).write(replace(RECORD, attempt=1, commitment=b"\x08" * 32, update=bytes(6)))

    def last(round: RoundNumber, *entered: bytes) -> bytes | None:
        return journal(tmp_path).update_before(round, entered=entered)

    assert last(SECOND) == bytes(6)
    assert last(FIRST, b"\7" * 32) is None
    assert last(SECOND, b"\7" * 32) == RECORD.update
    assert last(SECOND, b"\7" * 32, b"\x08" * 32) == bytes(6)


def test_a_record_says_whose_privacy_was_charged_for_it(tmp_path: Path) -> None:
    charged = Charge(b"\x0a" * 32, by_steps=True)
    journal(tmp_path).write(replace(RECORD, statement=b"{", charge=charged))
    found = journal(tmp_path).read(FIRST, 0, MODEL)
    assert found is not None
    assert found.charge == charged
    assert journal(tmp_path).charge_before(SECOND, entered=[RECORD.commitment]) == charged
    assert journal(tmp_path).charge_before(FIRST, entered=[RECORD.commitment]) is None


def test_of_an_older_versions_record_that_changes_nothing_what_it_left_out_goes_nowhere_uncharged(
    tmp_path: Path,
) -> None:
    for number, statement in enumerate((b"", b"{")):
        made = replace(
            RECORD, round=RoundNumber(number), update=bytes(6), residual=RECORD.residual + number, statement=statement
        )
        journal(tmp_path).write(made)
    for path in tmp_path.glob("*/round-*/commitment.json"):
        names = json.loads(path.read_text())
        path.write_text(json.dumps({name: names[name] for name in names if name not in ("data", "by_steps")}))
    kept, third = journal(tmp_path), RoundNumber(2)
    old = kept.read(SECOND, 0, MODEL)
    assert old is not None
    assert old.charge == Charge(None, by_steps=True), "so that it is charged before it is committed to"
    assert kept.residual_before(third, entered=[]).tolist() == RECORD.residual.tolist(), "of what is charged to nobody"
    assert kept.charge_before(third, entered=[]) == Charge()
    assert kept.charge_before(third, entered=[RECORD.commitment]) == Charge(None, by_steps=True)


def test_of_attempts_long_over_only_the_commitments_are_kept(tmp_path: Path) -> None:
    kept = roomy(tmp_path)
    idle, early = 1, 2
    for attempt in range(6):
        record = replace(made_in(kept.room()), attempt=attempt, commitment=bytes([attempt]) * 32)
        if attempt == idle:
            record = replace(record, update=bytes(6))
        kept.write(record)
        kept.forget_attempts(FIRST, attempt, entered=[], committed=[bytes([early]) * 32])
    whole = [path for path in kept.folder.glob("round-*") if (path / "residual").exists()]
    assert sorted(int(path.name[23:28]) for path in whole) == [idle, early, 4, 5]
    assert [each.name for path in kept.folder.glob("*.over") for each in path.iterdir()] == ["commitment.json"] * 2
    for gone in (0, 3):
        assert kept.knows(bytes([gone]) * 32, FIRST), "should the chain go back to it"
        with pytest.raises(Forgotten):
            kept.read(FIRST, gone, MODEL)
    assert kept.residual_before(SECOND, entered=[]).tolist() == [0.25] * 3
    kept.forget_before(RoundNumber(9), entered=[])
    assert [int(path.name[23:28]) for path in kept.folder.glob("round-*")] == [idle]


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


def roomy(folder: Path, coordinates: int = 3) -> Journal:
    return Journal(folder, SLOT, spec_of(coordinates), spec_digest=SPEC)


def made_in(room: Room, *, round: int = 0, value: float = 0.25) -> Record:
    assert room.residual is not None
    assert room.update is not None
    room.residual[:] = value
    room.update[:] = (1, -2, 3)
    return replace(RECORD, round=RoundNumber(round), update=room.update.data.cast("B"), residual=room.residual)


def test_what_was_made_in_the_room_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = roomy(tmp_path)
    record, written = made_in(kept.room()), []
    inode = (kept.folder / "next" / "update").stat().st_ino
    monkeypatch.setattr(Path, "write_bytes", lambda path, _: written.append(path))
    kept.write(record)
    found = kept.read(FIRST, 0, MODEL)
    assert found is not None
    assert bytes(found.update) == bytes(record.update) == np.int16([1, -2, 3]).tobytes()
    assert found.residual.tolist() == [0.25] * 3
    assert kept.update_file(record).stat().st_ino == inode
    assert not written


def test_the_file_of_a_residual_long_over_is_taken_again_and_that_of_an_update_never(tmp_path: Path) -> None:
    """The store may have the update under another name, and no blob may change."""
    kept, inodes, updates = roomy(tmp_path), [], []
    for number in range(6):
        record = made_in(kept.room(), round=number, value=number)
        kept.write(record)
        (path,) = kept.folder.glob(f"round-{number:08d}.*")
        inodes.append((path / "residual").stat().st_ino)
        updates.append((path / "update").open("rb"))  # an inode that is open is not given away
        kept.forget_before(RoundNumber(number), entered=[RECORD.commitment])
    assert len(set(inodes)) < len(inodes), "taken again"
    assert len({os.fstat(each.fileno()).st_ino for each in updates}) == 6
    latest = kept.residual_before(RoundNumber(6), entered=[RECORD.commitment])
    assert latest.tolist() == [5.0] * 3
    for each in updates:
        each.close()


def test_a_residual_that_a_power_cut_left_undone_is_told(tmp_path: Path) -> None:
    kept = roomy(tmp_path)
    kept.write(made_in(kept.room()))
    (path,) = kept.folder.glob("round-*")
    (path / "residual").write_bytes(np.float32([0.25, 0, 0.25]).tobytes())
    with pytest.raises(ResidualLost, match="round 0 is not on disk any more"):
        kept.residual_before(SECOND, entered=[RECORD.commitment])
    assert kept.read(FIRST, 0, MODEL) is not None, "what was committed to can be revealed all the same"


def test_a_damaged_record_is_told_where_it_is_needed_and_ends_no_node_that_only_forgets(tmp_path: Path) -> None:
    kept = journal(tmp_path)
    kept.write(RECORD)
    (path,) = tmp_path.glob("*/round-*")
    (path / "update").write_bytes(b"{")
    kept.forget_before(RoundNumber(9), entered=[])
    with pytest.raises(StateError, match=r"is damaged .*move it away to go on without it"):
        kept.residual_before(RoundNumber(9), entered=[])
    assert path.is_dir()


def test_the_update_is_on_the_disk_before_its_record_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, synced = roomy(tmp_path), []
    record = made_in(kept.room())

    def noted(file: int) -> None:
        path = Path(f"/proc/self/fd/{file}").readlink()
        synced.append((path.name, any(each.suffix != ".part" for each in kept.folder.glob("round-*"))))

    monkeypatch.setattr(os, "fsync", noted)
    kept.write(record)
    assert ("update", False) in synced
    assert synced[-1] == (kept.folder.name, True)


def test_without_room_on_the_disk_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StateError, match=r"No space left on device\. Nothing was committed"):
        roomy(tmp_path).room()
