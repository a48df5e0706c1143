"""The ledger of ε, and what a node may still spend."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deepledger.api.noise import foreseen, of_cost
from deepledger.cli import status
from deepledger.cli.options import Home
from deepledger.node.accountant import Accountant
from deepledger.node.journal import Charge
from deepledger.node.private_run import any_number
from deepledger.node.purse import Purse
from deepledger.node.spending import SpendingLedger, fingerprint, ledgers_in
from deepledger.protocol.errors import BadInput, BadSpec, PrivacySpent, StateError
from deepledger.protocol.formats.participant_privacy import Release
from deepledger.protocol.formats.private_run import PrivateRun, Statement, Steps, parse_statement, statement_of

DELTA = 1e-5
STEPS = (Steps(0.05, 1.0, 40),)
RUN = PrivateRun(samples=100, clip_norm=1.0, steps=STEPS, past=None)
RELEASE = Release(10**6, 10**6, 100)
PAST = PrivateRun(samples=100, clip_norm=1.0, steps=STEPS, past="the model was changed")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "mine.csv"
    path.write_text("1,2\n")
    return path


def purse(data: Path, home: Path, *, epsilon: float | None = None, **other: Any) -> Purse:
    usual = {"job": "1-0xA-1", "account": "0xB"}
    return Purse(folder=home / "privacy", data=data, epsilon=epsilon, delta=DELTA, **usual | other)


def test_what_is_spent_adds_up_over_accounts_and_jobs_once_for_each_commitment(data: Path, tmp_path: Path) -> None:
    one, other = purse(data, tmp_path), purse(data, tmp_path, job="1-0xA-2", account="0xC")
    one.charge(RUN, commitment=b"1", round=0)
    one.charge(RUN, commitment=b"1", round=0)  # sent again, after a crash
    spent = other.charge(RUN, commitment=b"2", round=0)
    assert spent.epsilon(DELTA) == pytest.approx(Accountant(STEPS * 2).epsilon(DELTA))
    assert one.ledger.read().lines == spent.lines
    assert one.ledger.read().epsilon(DELTA) == pytest.approx(spent.epsilon(DELTA))


def test_the_count_goes_with_the_data_and_the_folder_wherever_they_are(data: Path, tmp_path: Path) -> None:
    purse(data, tmp_path / "home").charge(RUN, commitment=b"1", round=0)
    moved = shutil.move(tmp_path / "home", tmp_path / "elsewhere")
    renamed = data.rename(tmp_path / "other name.csv")
    os.utime(renamed, (0, 0))
    assert len(purse(renamed, moved).ledger.read().lines) == 1
    renamed.write_text("1,3\n")
    assert not purse(renamed, moved).ledger.read().lines  # other data, which the documentation says
    assert [len(each.read().lines) for each in ledgers_in(moved / "privacy")] == [1]


def test_a_folder_is_known_by_the_names_and_bytes_in_it(tmp_path: Path) -> None:
    for name in ("a/b/one", "a/two"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    first = fingerprint(tmp_path / "a")
    assert fingerprint(shutil.copytree(tmp_path / "a", tmp_path / "copy")) == first
    (tmp_path / "a/two").rename(tmp_path / "a/three")
    assert fingerprint(tmp_path / "a") != first
    with pytest.raises(StateError, match="to know it again"):
        fingerprint(tmp_path / "nothing")


def test_a_line_is_on_disk_before_anything_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, synced = purse(data, tmp_path), []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    mine.charge(RUN, commitment=b"1", round=0)
    assert mine.ledger.path.stat().st_size in synced


def test_a_line_that_was_never_finished_counts_for_nothing_and_a_damaged_one_is_told(
    data: Path, tmp_path: Path
) -> None:
    mine = purse(data, tmp_path)
    mine.charge(RUN, commitment=b"1", round=0)
    whole = mine.ledger.path.read_bytes()
    mine.ledger.path.write_bytes(whole + whole[:30])  # a power cut
    mine.charge(RUN, commitment=b"2", round=1)
    again = SpendingLedger(mine.ledger.path)
    assert [each.round for each in again.read().lines] == [0, 1]
    mine.ledger.path.write_bytes(whole[10:])
    with pytest.raises(StateError, match="is damaged"):
        again.read()


def test_a_budget_ends_before_the_round_that_would_pass_it(data: Path, tmp_path: Path) -> None:
    mine = purse(data, tmp_path, epsilon=Accountant(STEPS * 2).epsilon(DELTA) + 0.01)
    for number in range(2):
        mine.open()
        mine.charge(RUN, commitment=bytes([number]), round=number)
    with pytest.raises(PrivacySpent, match=r"ε = .* of it is spent: a round like the last one would pass it"):
        mine.open()
    may_take = purse(data, tmp_path, job="another", epsilon=mine.epsilon).open()  # which may train less in a round
    assert not may_take((), 0.05, 1.0, 40)
    with pytest.raises(PrivacySpent, match="this update would pass it"):  # another node was quicker
        mine.charge(RUN, commitment=b"9", round=2)
    assert len(mine.ledger.read().lines) == 2
    with pytest.raises(PrivacySpent):
        purse(data, tmp_path, job="another", epsilon=1e-3).open()


def test_what_nothing_is_guaranteed_of_passes_every_budget(data: Path, tmp_path: Path) -> None:
    mine = purse(data, tmp_path, epsilon=100.0)
    for run, said in ((None, "does not call deepledger.privacy.make_private"), (PAST, "the model was changed")):
        with pytest.raises(BadInput, match=said):
            mine.check(run)
    mine.check(RUN)
    free = purse(data, tmp_path)
    free.check(None)
    assert free.open() is any_number
    assert math.isinf(free.charge(PAST, commitment=b"1", round=0).epsilon(DELTA))
    with pytest.raises(PrivacySpent, match="nothing was guaranteed"):
        mine.open()


def test_noise_in_what_is_released_is_charged_and_ends_a_budget_before_training(data: Path, tmp_path: Path) -> None:
    three = Accountant([RELEASE] * 3).epsilon(DELTA)
    mine = purse(data, tmp_path, epsilon=three, release=RELEASE)
    for number in range(3):
        assert mine.open() is any_number
        mine.check(None)  # noise is enough, whatever train does
        spent = mine.charge(None, commitment=bytes([number]), round=number)
    assert spent.epsilon(DELTA) == pytest.approx(three)
    assert SpendingLedger(mine.ledger.path).read().lines == spent.lines
    with pytest.raises(PrivacySpent, match="what a round of this job shows would pass it"):
        mine.open()
    with pytest.raises(PrivacySpent, match="this update would pass it"):
        mine.charge(None, commitment=b"9", round=3)
    assert len(mine.ledger.read().lines) == 3


def test_a_forecast_counts_what_was_spent_and_says_how_long_a_budget_lasts(data: Path, tmp_path: Path) -> None:
    purse(data, tmp_path).charge(RUN, commitment=b"0", round=0)
    after = {rounds: Accountant(STEPS * (1 + rounds)).epsilon(DELTA) for rounds in (3, 4, 10)}
    mine = purse(data, tmp_path, epsilon=(after[3] + after[4]) / 2)
    forecast = mine.forecast(RUN, rounds=10)
    assert forecast is not None
    assert forecast.lasts == 3
    assert forecast.epsilon == pytest.approx(Accountant(STEPS).epsilon(DELTA))
    assert forecast.after == pytest.approx(after[10])
    assert (forecast.spent, forecast.updates) == (pytest.approx(Accountant(STEPS).epsilon(DELTA)), 1)
    told = of_cost(RUN, forecast)
    assert (
        f"(40 private steps with noise of 1 × 1, 5.00% of the data each); ε = {forecast.spent:.3g} is spent of" in told
    )
    assert "by 1 update; after the 10 rounds that are left it is" in told
    assert "lasts for 3 of the 10 rounds" in told
    assert told.endswith("The rehearsal itself costs nothing")
    for number in range(3):
        mine.open()
        mine.charge(RUN, commitment=bytes([1, number]), round=number)
    with pytest.raises(PrivacySpent):
        mine.open()  # as it was foretold
    with pytest.raises(PrivacySpent, match=r"ε = .* of it is spent: one round would pass it, ε = .* by itself"):
        mine.forecast(RUN, rounds=10)


def test_of_what_nothing_is_guaranteed_that_is_told_before_it_is_written_down(data: Path, tmp_path: Path) -> None:
    mine = purse(data, tmp_path)
    assert of_cost(None, mine.forecast(None, rounds=2)).startswith(
        "neither the task nor the job keeps anything private"
    )
    vain = of_cost(PAST, mine.forecast(PAST, rounds=2))
    assert "nothing is guaranteed: the model was changed" in vain
    assert "no budget holds for them any more" in vain
    mine.charge(PAST, commitment=b"1", round=0)
    after = mine.forecast(RUN, rounds=2)
    assert after is not None
    assert "nothing is guaranteed of these data, by 1 update; after the 2 rounds that are left nothing" in foreseen(
        after
    )
    with pytest.raises(BadInput, match="there is a privacy budget"):
        purse(data, tmp_path / "other", epsilon=3.0).forecast(PAST, rounds=2)


def test_a_ledger_that_others_own_is_told_before_an_update_is_trained_for_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = purse(data, tmp_path).ledger
    ledger.check_writable()  # which is not there yet
    purse(data, tmp_path).charge(RUN, commitment=b"1", round=0)
    ledger.check_writable()
    monkeypatch.setattr(os, "access", lambda path, _: path != ledger.path)
    with pytest.raises(StateError, match=rf"jsonl belongs to user {os.getuid()}, and user .* Give it to that user"):
        ledger.check_writable()


def test_a_step_that_cannot_be_is_damage(data: Path, tmp_path: Path) -> None:
    mine = purse(data, tmp_path)
    mine.charge(RUN, commitment=b"1", round=0)
    whole = mine.ledger.path.read_text()
    for good, bad in (('"rate": 0.05', '"rate": 5.05'), ('"count": 40', '"count": -40'), ("1e-05", "15")):
        assert good in whole
        mine.ledger.path.write_text(whole.replace(good, bad))
        with pytest.raises(StateError, match="is damaged"):
            SpendingLedger(mine.ledger.path).read()


def test_a_forecast_takes_the_cheaper_way_and_is_none_where_nothing_is_guaranteed(data: Path, tmp_path: Path) -> None:
    assert purse(data, tmp_path).forecast(PAST, rounds=2) is None
    assert purse(data, tmp_path).forecast(None, rounds=2) is None
    noise = Accountant([RELEASE] * 2).epsilon(DELTA)
    forecast = purse(data, tmp_path, release=RELEASE).forecast(None, rounds=2)
    assert forecast is not None
    assert (forecast.after, forecast.lasts) == (pytest.approx(noise), None)
    assert "There is no --epsilon-budget" in foreseen(forecast)
    both = purse(data, tmp_path, release=RELEASE, epsilon=100.0).forecast(RUN, rounds=2)
    assert both is not None
    assert both.after == pytest.approx(min(noise, Accountant(STEPS * 2).epsilon(DELTA)))
    assert "lasts for all of them" in foreseen(both)


def test_behind_the_noise_of_a_sum_data_stand_once(data: Path, tmp_path: Path) -> None:
    one, other = (purse(data, tmp_path, account=name, release=RELEASE, shared=True) for name in ("0xB", "0xC"))
    one.charge(None, commitment=b"1", round=0)
    one.charge(None, commitment=b"2", round=0)  # of an attempt that began again
    with pytest.raises(PrivacySpent, match="0xB has committed to an update on the same data in round 0 of this job"):
        other.charge(None, commitment=b"3", round=0)
    assert len(one.ledger.read().lines) == 2
    other.charge(None, commitment=b"4", round=1)
    alone = purse(data, tmp_path, account="0xD", release=RELEASE)  # whose own noise is enough
    alone.charge(None, commitment=b"5", round=1)


def test_of_two_ways_in_which_an_update_is_private_the_cheaper_one_counts(data: Path, tmp_path: Path) -> None:
    little, much = Release(10**6, 10**4, 100), Release(10**6, 10**8, 100)
    for release, costs in ((little, (little,)), (much, STEPS)):
        mine = purse(data, tmp_path / str(release.squares), epsilon=20.0, release=release, by_steps=True)
        mine.open()
        assert mine.charge(RUN, commitment=b"1", round=0).lines[0].costs == costs
    past = mine.charge(PAST, commitment=b"2", round=1) if (mine := purse(data, tmp_path, release=little)) else None
    assert past is not None
    assert past.is_bounded


def test_what_the_noise_of_an_update_hid_travels_behind_noise_only(data: Path, tmp_path: Path) -> None:
    """What rounding left out of it is not noisy: no steps of later trainings bound what it tells."""
    release, few = Release(9 * 256**2, 4 * 256**2, 1000), PrivateRun(100, 1.0, (Steps(0.1, 3.0, 1),), None)
    mine, by_steps = purse(data, tmp_path, release=release), True
    for number, run in enumerate((None, few, few)):
        spent = mine.charge(run, commitment=bytes([number]), round=number, by_steps=by_steps)
        by_steps = spent.by_steps(bytes([number]))
    assert spent.epsilon(DELTA) == pytest.approx(Accountant([release] * 3).epsilon(DELTA))
    cheap = purse(data, tmp_path / "other", release=release)
    assert cheap.charge(few, commitment=b"1", round=0).by_steps(b"1"), "where nothing travels that they do not bound"

    left = cheap.ledger.read().epsilon(DELTA) + 0.1
    frugal = purse(data, tmp_path / "other", release=release, by_steps=True, epsilon=left)
    frugal.open()
    with pytest.raises(PrivacySpent, match="what a round of this job shows would pass it"):
        frugal.open(by_steps=False)


def test_what_an_update_left_out_travels_only_where_what_it_tells_is_charged(data: Path, tmp_path: Path) -> None:
    other = data.with_name("other.csv")
    other.write_text("2\n")
    mine, theirs = (purse(each, tmp_path, release=RELEASE) for each in (data, other))
    by_noise = Charge(mine.fingerprint)
    assert mine.may_carry(by_noise)
    assert not theirs.may_carry(by_noise), "whose privacy is charged for the next update"
    assert theirs.may_carry(replace(by_noise, by_steps=True)), "private steps bound it, wherever it goes"
    assert theirs.may_carry(None)
    assert not mine.may_carry(Charge(None)), "an older version did not say of which data it is"
    assert purse(data, tmp_path).may_carry(Charge()), "nothing is told of what keeps nothing private"
    assert not purse(data, tmp_path, epsilon=3.0).may_carry(Charge())


def test_what_keeps_nothing_private_is_counted_where_others_of_the_job_are(data: Path, tmp_path: Path) -> None:
    mine = purse(data, tmp_path)
    assert not mine.counts_job
    mine.charge(RUN, commitment=b"1", round=0)
    damaged = mine.ledger.path.with_name("0.jsonl")
    damaged.write_text("{}\n")
    assert mine.counts_job, "whatever another ledger is like"
    assert not purse(data, tmp_path, job="another").counts_job
    assert not purse(data, tmp_path, account="0xC").counts_job


def test_a_statement_says_what_was_run_and_is_another_one_each_time() -> None:
    for stated in (Statement(RUN), Statement(PAST), Statement(None, RELEASE), Statement(RUN, RELEASE)):
        assert parse_statement(statement_of(stated.run, stated.release)) == stated
    assert statement_of(RUN) != statement_of(RUN)
    for bad in (b"{}", b"[1", statement_of(RUN).replace(b'"rate":0.05', b'"rate":1.5')):
        with pytest.raises(BadSpec):
            parse_statement(bad)


def test_status_tells_what_every_data_set_has_spent(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = data.with_name("other.csv")
    other.write_text("2\n")
    purse(data, tmp_path).charge(RUN, commitment=b"1", round=0)
    purse(data, tmp_path, job="another").charge(RUN, commitment=b"2", round=0)
    purse(other, tmp_path).charge(PAST, commitment=b"3", round=0)
    monkeypatch.setattr("deepledger.api.listing.all_jobs", lambda _: [])
    reader: Any = SimpleNamespace(chain_id=1, address="0xA", head=lambda: SimpleNamespace(number=1, timestamp=0))
    status._accounts(reader, Home(tmp_path), json=True)
    told = {each["data"]: each for each in json.loads(capsys.readouterr().out)["privacy"]}
    assert told["mine.csv"]["epsilon"] == pytest.approx(Accountant(STEPS * 2).epsilon(DELTA))
    assert (told["mine.csv"]["jobs"], told["mine.csv"]["updates"], told["mine.csv"]["delta"]) == (2, 2, DELTA)
    assert told["other.csv"]["epsilon"] is None
    status._accounts(reader, Home(tmp_path), json=False)
    shown = capsys.readouterr().out
    assert "of one update nothing is guaranteed" in shown
    assert f"ε = {told['mine.csv']['epsilon']:.3g} at δ = 1e-05" in shown
