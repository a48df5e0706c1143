"""Encrypted rounds, played by real nodes and coordinators: only the sum of a round is ever decrypted."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from deepledger.auditor.findings import Kind
from deepledger.auditor.render import render
from deepledger.coordinator.schemas import settled_round
from deepledger.node.notices import CommittedUpdate, TookSeat, Trained, UnmaskedRound
from deepledger.protocol.bfv import program as bfv
from deepledger.protocol.blobs.digest import digest_of
from deepledger.protocol.chain.events import PenaltyTaken
from deepledger.protocol.errors import BadInput, BadSpec, BlobCorrupt, BlobMissing
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.privacy.encrypted_updates import encrypt_update
from deepledger.protocol.privacy.mask_keys import mask_key
from deepledger.protocol.settlement.inputs import Place, cohort_in, masked_contributions
from deepledger.protocol.settlement.reading import read_letters, read_masked
from tests.conftest import ROOT, take_seat

from .cli_runner import Runner
from .test_masked import Play, audited, masked_job, off_by_one, round_without, verdicts, whoever_drops_out
from .test_roles import coordinator, node, until

ENCRYPTED = {"privacy": "encrypted", "masks": {"weight_bits": 4}}

pytestmark = [pytest.mark.one_chain, pytest.mark.usefixtures("bfv_program")]


def encrypted_job(world: Any, **terms: Any) -> int:
    return masked_job(world, **{"spec_changes": ENCRYPTED} | terms)


@pytest.mark.slow
def test_an_encrypted_job_bears_a_drop_out_and_takes_a_late_joiner(world: Any) -> None:
    job = encrypted_job(world, rounds=2, max_participants=5, min_participants=4)
    ledger, secret = world.ledger(6), bytes(world.accounts[6].key)
    key = mask_key(secret, chain_id=ledger.chain_id, contract=ledger.address, job=job)
    see = lambda: Follower(world.reader(), job).job  # noqa: E731
    spec, _ = world.spec(**ENCRYPTED)

    take_seat(ledger, job, 30, key=key.word, value=see().terms.stake)
    actors = [coordinator(world, job), *(node(world, job, number) for number in range(3))]
    until(lambda: see().attempt is not None)
    attempt = see().attempt
    late = node(world, job, 3)
    until(lambda: any(isinstance(notice, TookSeat) for notice in late.seen))

    cohort = cohort_in(attempt, spec, Place(ledger.chain_id, ledger.address, job))
    update = np.arange(spec.model.coordinates, dtype=np.int16)
    sent = encrypt_update(cohort, see().participants[ledger.account].seat, update, key=key)
    world.store.put(sent.vector)
    world.store.put(sent.letters)
    ledger.commit_masked(job, 0, 0, digest_of(sent.letters))
    until(lambda: see().attempt is None or len(see().attempt.reveals) == 3)
    world.pass_time(61)  # it never unmasks
    until(lambda: see().round == 1)
    ledger.leave(job)
    for actor in [*actors, late]:
        actor.join()

    result = audited(world, job)
    assert result.matches, result.findings
    assert [each.derived for each in result.rounds] == [True, True]
    silent = see_seat(result, ledger.account)
    assert verdicts(result, 0)[silent] is Verdict.SILENT
    assert sorted(verdicts(result, 0).values()) == sorted([Verdict.ACCEPTED] * 3 + [Verdict.SILENT])
    assert list(verdicts(result, 1).values()) == [Verdict.ACCEPTED] * 4
    assert {each.participant for each in result.events if isinstance(each, PenaltyTaken)} == {ledger.account}
    assert [notice.counted for notice in late.seen if isinstance(notice, UnmaskedRound)] == [4]
    told = settled_round(result.job.history[1])  # as the API answers
    assert told.masked is not None
    assert len(told.masked.counted) == 4


def see_seat(result: Any, account: str) -> int:
    return next(each.seat for each in result.job.history[0].opened.cohort if each.address == account)


def test_the_example_is_made_as_it_says_and_shown_for_what_it_is(world: Any) -> None:
    file = ROOT / "examples/digits/encrypted.toml"
    said = re.findall(r"^# {5}(.*?)(?: +#.*)?$", file.read_text(), re.MULTILINE)
    build, prepare, create = [shlex.split(command) for command in said]
    assert build == ["deepledger", "build-bfv"]
    here = world.folder / "checkout"
    shutil.copytree(file.parent, here / "examples/digits", ignore=shutil.ignore_patterns("data"))
    shutil.copy(ROOT / "examples/shards.py", here / "examples")
    subprocess.run([sys.executable, *prepare[1:]], cwd=here, check=True)
    settings = {"HOME": "home", "STORE": "store"}
    named = {f"DEEPLEDGER_{name}": str(here / folder) for name, folder in settings.items()}
    (here / "store").mkdir()
    runner = Runner(named | {"DEEPLEDGER_RPC_URL": world.url, "DEEPLEDGER_CONTRACT": world.contract,
                             "DEEPLEDGER_PASSWORD": "secret", "DEEPLEDGER_ACCOUNT": "sponsor"}, here)  # fmt: skip
    assert runner.run("account", "import", "sponsor", "--dev", 0).exit_code == 0
    create[create.index(str(file.relative_to(ROOT)))] = str(here / file.relative_to(ROOT))
    made = runner.run(*create[1:])
    job = int(made.output.split()[-1])
    assert "Beware: one participant can spoil every round" in made.output
    shown = " ".join(runner.run("job", "show", job).output.split())
    assert "encrypted: nobody sees your update" in shown
    assert "and 54 bits a coordinate" in shown
    assert "can spoil every round" in shown
    assert "anybody may join: list who may with terms.admitted" in shown
    checks = {each["check"]: each for each in runner.json("doctor", job, "--task", here / "examples/digits/task.py")}
    assert checks["encryption"]["ok"]
    assert "anybody may join: list who may with terms.admitted" in checks["encryption"]["found"]
    missing = runner.run("doctor", job, DEEPLEDGER_BFV="/no/such/program")
    assert missing.exit_code == 3
    assert "which is not a program" in missing.output


@pytest.mark.slow
@whoever_drops_out
def test_the_sum_is_that_of_the_counted_updates_whoever_drops_out(
    world: Any, committed: tuple[int, ...], counted: tuple[int, ...], unmasked: tuple[int, ...]
) -> None:
    round_without(Play(world, spec_changes=ENCRYPTED), committed, counted, unmasked)


def test_a_wrong_share_spoils_nothing_while_enough_are_right_and_skips_the_round_where_they_are_not(
    world: Any,
) -> None:
    play = Play(world, rounds=2, spec_changes=ENCRYPTED)
    lie = lambda blob: blob[:-1] + bytes([blob[-1] ^ 1])  # noqa: E731
    play.commit(0, 1, 2, 3)
    play.count(0, 1, 2, 3)
    play.unmask(0, 1, 2)
    play.unmask(3, spoil=lie)
    play.settle()
    before = play.see().model_digest
    play.commit(0, 1, 2)
    play.count(0, 1, 2)
    play.unmask(0, 1)
    play.unmask(2, spoil=lie)
    play.settle()
    assert play.see().model_digest == before
    result = audited(world, play.job)
    assert result.matches, result.findings
    assert set(verdicts(result, 0).values()) == {Verdict.ACCEPTED}
    assert set(verdicts(result, 1).values()) == {Verdict.SKIPPED}


def test_a_vector_that_nobody_encrypted_skips_the_round(world: Any) -> None:
    play = Play(world, rounds=1, spec_changes=ENCRYPTED)
    before = play.see().model_digest
    play.commit(0, 1, 2)
    garbage = os.urandom(bfv.vector_bytes(play.spec.masked_coordinates))
    world.store.put(garbage)
    play.commit(3, spoil=lambda letters: digest_of(garbage) + letters[32:])
    play.count(0, 1, 2, 3)
    play.unmask(0, 1, 2, 3)
    play.settle()
    assert play.see().model_digest == before
    result = audited(world, play.job)
    assert result.matches, result.findings
    assert set(verdicts(result).values()) == {Verdict.SKIPPED}


def test_who_sends_letters_that_open_for_nobody_is_named_and_not_counted_again(world: Any) -> None:
    play = Play(world, rounds=2, spec_changes=ENCRYPTED)
    play.commit(0, 1, 2)
    play.commit(3, spoil=lambda letters: letters[:64] + bytes(64) + letters[128:])
    play.count(0, 1, 2, 3)
    play.unmask(0, 1, 2, 3)
    play.settle()
    result = audited(world, play.job)
    assert result.matches, result.findings
    assert verdicts(result) == dict.fromkeys((0, 1, 2), Verdict.SKIPPED) | {3: Verdict.BADLY_SHARED}
    play.round(counted=(0, 1, 2))
    assert audited(world, play.job).matches, "to leave out who shared badly before is no lie"


def test_blobs_that_are_no_encrypted_update_are_refused(world: Any) -> None:
    play = Play(world, rounds=1, spec_changes=ENCRYPTED)
    play.commit(0, spoil=lambda letters: letters[:-1])
    play.commit(1, spoil=lambda letters: os.urandom(len(letters)))
    play.commit(2, publish=False)
    cohort = play.cohort
    short, random, lost = masked_contributions(play.see(), play.see().attempt, play.spec)
    for each, why in ((short, "bytes in this cohort"), (random, "made in another cohort")):
        with pytest.raises(BlobCorrupt, match=why):
            read_letters(world.store, each, cohort)
    world.store.put(play.letters[2])  # and never its vector
    with pytest.raises(BlobMissing):
        read_masked(world.store, lost, play.spec, cohort)


def test_a_coordinator_that_lies_about_the_sum_is_caught(world: Any) -> None:
    play = Play(world, rounds=1, spec_changes=ENCRYPTED)
    play.commit(0, 1, 2, 3)
    play.count(0, 1, 2, 3)
    play.unmask(0, 1, 2, 3)
    play.settle(lie=off_by_one)
    assert Kind.MODEL in {finding.kind for finding in audited(world, play.job).findings if finding.kind.accuses}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"masks": {"groups": 3}, "aggregation": {"rule": "median"}}, "encrypted updates have one sum.*masked"),
        ({"masks": {"keys": "x25519+mlkem768"}}, "sent under .x25519.*masked"),
        ({"masks": None}, 'those of a masked job, or an encrypted one: add privacy = "masked" or "encrypted"'),
        ({"aggregation": {"rule": "median"}}, "median looks at single updates"),
        ({"screening": {}}, "screening looks at single updates"),
        ({"update": {"bits": 32, "fraction_bits": 14, "norm_bound": 5.0}}, "encrypted updates have 8 or 16"),
    ],
)
def test_what_encryption_does_not_allow_is_refused_when_the_job_is_made(
    world: Any, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadSpec, match=said):
        world.spec(**ENCRYPTED | changes)


@pytest.mark.slow
def test_without_the_program_an_audit_checks_all_but_the_sum_and_says_so(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = Play(world, rounds=4, spec_changes=ENCRYPTED)
    for silent in (False, True):
        play.commit(0, 1, 2, 3)
        play.count(0, 1, 2, 3)
        play.unmask(*((0, 1, 2) if silent else (0, 1, 2, 3)))
        play.settle()
    play.commit(0, 1, 2)
    play.count(0, 1, 2)
    play.unmask(0, 1)
    play.unmask(2, spoil=lambda blob: blob[:-1] + bytes([blob[-1] ^ 1]))
    play.settle()  # is skipped
    play.commit(0, 1, 2, 3)
    play.count(0, 1, 2, 3)
    play.unmask(0, 1, 2)

    def slander(_model: Any, settlement: Any) -> Any:
        first, *others = settlement.judged
        return replace(settlement, judged=(replace(first, verdict=Verdict.BAD_SHARES, score=0), *others))

    assert audited(world, play.job).matches
    monkeypatch.setattr(bfv, "find_program", lambda: None)
    result = audited(world, play.job)
    assert not result.findings
    assert (result.sealed, result.matches) == (True, False)
    assert [each.derived for each in result.rounds] == [False] * 3
    assert any("sums were not opened" in note and "deepledger build-bfv" in note for note in result.notes)
    console = Console(file=io.StringIO(), width=200)
    console.print(render(result, trail=False))
    assert "Sums not opened: that takes deepledger-bfv" in " ".join(console.file.getvalue().split())
    monkeypatch.undo()
    play.settle(lie=slander)
    monkeypatch.setattr(bfv, "find_program", lambda: None)
    accused = [finding for finding in audited(world, play.job).findings if finding.kind.accuses]
    assert {finding.kind for finding in accused} == {Kind.VERDICT, Kind.SCORE}
    assert {finding.round for finding in accused} == {3}


def test_without_the_program_nobody_stakes_anything(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job = encrypted_job(world)
    monkeypatch.setattr(bfv, "find_program", lambda: None)
    for actor in (node(world, job, 0), coordinator(world, job)):
        with pytest.raises(BadInput, match="deepledger build-bfv"):
            actor.join()
    assert not Follower(world.reader(), job).job.participants


@pytest.mark.slow
def test_shares_of_noise_add_up_under_encryption_and_a_killed_node_goes_on(world: Any) -> None:
    noise = {"mechanism": "distributed", "clip_norm": 0.5, "noise_multiplier": 1.0, "delta": 1e-4, "honest": 2}
    changes = {
        "privacy": "encrypted",
        "masks": {"weight_bits": 0},
        "rewards": {"policy": "equal"},
        "update": {"bits": 16, "fraction_bits": 10, "norm_bound": 15.0},
        "participant_privacy": noise,
    }
    job = encrypted_job(world, rounds=1, spec_changes=changes)
    settling = coordinator(world, job)
    others = [node(world, job, number) for number in (1, 2)]
    node(world, job, 0, kill_on=CommittedUpdate).join()
    again = node(world, job, 0)
    for actor in [settling, *others, again]:
        actor.join()
    result = audited(world, job)
    assert result.matches, result.findings
    assert list(verdicts(result).values()) == [Verdict.ACCEPTED] * 3
    assert result.rounds[0].derived
    assert not [notice for notice in again.seen if isinstance(notice, Trained)], "it goes on with what it committed to"
