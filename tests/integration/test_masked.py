"""Masked rounds, played by real nodes and coordinators: nobody sees a single update, everybody can check the sum."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from eth_account import Account

from deepledger.auditor.audit import audit
from deepledger.auditor.findings import Kind
from deepledger.coordinator.notices import UpdatesCounted
from deepledger.coordinator.schemas import settled_round
from deepledger.node.journal import Journal, OtherCount, Record
from deepledger.node.node import basis
from deepledger.node.notices import CommittedUpdate, Trained, UnmaskedRound
from deepledger.protocol.blobs.digest import cid_of, digest_of
from deepledger.protocol.chain.abi import terms_hash
from deepledger.protocol.chain.events import PenaltyTaken, Phase
from deepledger.protocol.chain.web3_ledger import connect_as
from deepledger.protocol.errors import BadInput, BadSpec
from deepledger.protocol.evaluation.bench import bench_with
from deepledger.protocol.evaluation.evaluators import OneByOne
from deepledger.protocol.evaluation.task import read_source
from deepledger.protocol.formats.commitment import Slot
from deepledger.protocol.formats.report import report_bytes
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.job.fetch import fetch_model
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.privacy.hidden_updates import hide_update, parse_letters, release
from deepledger.protocol.privacy.mask_keys import mask_key
from deepledger.protocol.privacy.masked_updates import BadLetters
from deepledger.protocol.privacy.unmasking import NOTHING
from deepledger.protocol.settlement.inputs import Place, cohort_in, revealed_in
from deepledger.protocol.settlement.reading import read_masked, read_release
from deepledger.protocol.settlement.reporting import build_report
from deepledger.protocol.settlement.settle import settle
from tests.conftest import ETHER
from tests.unit.masked_rounds import Lacking

from .test_roles import coordinator, node

MASKED = {"privacy": "masked", "masks": {"weight_bits": 4}}


def masked_job(world: Any, **terms: Any) -> int:
    fixed: dict[str, Any] = {"masked": True, "min_participants": 3, "max_participants": 3, "spec_changes": MASKED}
    return world.create_job(**fixed | terms)


def audited(world: Any, job: int) -> Any:
    return audit(world.reader(), world.store, job, tasks=[world.task])


def test_a_masked_job_is_played_to_its_end_and_audited(world: Any) -> None:
    job = masked_job(world)
    actors = [coordinator(world, job), *(node(world, job, number) for number in range(3))]
    for actor in actors:
        actor.join()
    result = audited(world, job)
    assert result.matches, result.findings
    assert [each.derived for each in result.rounds] == [True] * 3
    for each in result.rounds:
        assert {update.verdict for update in each.report.updates} == {Verdict.ACCEPTED}
        assert len(each.over.opened.commits) == len(each.over.opened.reveals) == 3
    first, last = result.rounds[0].report.evaluation, result.rounds[-1].report.evaluation
    assert last.millionths["loss"] < first.millionths["loss"]
    told = settled_round(result.job.history[0])  # as the API answers
    assert told.masked is not None
    assert (told.revealed, len(told.masked.awaited)) == ([], 3)
    assert told.masked.counted == told.masked.awaited
    assert all(each.released for each in told.masked.updates)


class Stores:
    """`MaskedSources` without any patience."""

    def __init__(self, world: Any, spec: Any, bench: Any) -> None:
        self.store, self.spec, self.evaluator = world.store, spec, OneByOne(bench)

    def masked(self, contribution: Any, cohort: Any) -> Any:
        return read_masked(self.store, contribution, self.spec, cohort)

    def release(self, contribution: Any, cohort: Any) -> Any:
        return read_release(self.store, contribution, cohort)

    def evaluate(self, coalitions: Any, wanted: Any) -> Any:
        return self.evaluator.evaluate(coalitions, wanted)

    def update(self, contribution: Any) -> Any:
        raise NotImplementedError

    earlier_update = earlier_model = update


def funded(world: Any, number: int) -> Any:
    """An account of which a devnet knows nothing, with what a participant needs."""
    account = Account.from_key(f"0x{number + 1:064x}")
    giver, rpc = world.accounts[0], world.rpc
    count, price = (rpc("eth_getTransactionCount", giver.address, "pending"), rpc("eth_gasPrice"))
    paid = {"to": account.address, "value": 10 * ETHER, "nonce": int(count, 16), "gas": 21_000}
    paid |= {"gasPrice": int(price, 16), "chainId": world.sponsor.chain_id}
    rpc("eth_sendRawTransaction", "0x" + giver.sign_transaction(paid).raw_transaction.hex().removeprefix("0x"))
    return account


class Play:
    """A masked job played step by step: everybody may stop, or lie, at every one."""

    def __init__(
        self,
        world: Any,
        *,
        participants: int = 4,
        coordinators: tuple[int, ...] = (1,),
        spec_changes: dict[str, Any] = MASKED,
        **terms: Any,
    ) -> None:
        self.world, self.coordinator = world, world.ledger(1)
        terms = {"max_participants": participants, "coordinators": coordinators} | terms
        self.job = masked_job(world, spec_changes=spec_changes, **terms)
        self.spec, _ = world.spec(**spec_changes)
        accounts = [*world.accounts[2:], *(funded(world, seat) for seat in range(8, participants))][:participants]
        self.nodes = [connect_as(world.url, world.contract, each, locks=world.folder / "locks") for each in accounts]
        place = {"chain_id": self.coordinator.chain_id, "contract": self.coordinator.address, "job": self.job}
        self.secrets = [bytes(each.key) for each in accounts]
        self.place = Place(**place)
        self.keys: list[Any] = self.make_keys(**place)
        self.random = np.random.default_rng(3)
        self.updates: dict[int, Any] = {}
        self.letters: dict[int, bytes] = {}
        self.digests: dict[int, bytes] = {}
        self.cohort_then: Any = None
        for number, (ledger, key) in enumerate(zip(self.nodes, self.keys, strict=True)):
            hashed = terms_hash(self.see().created)
            ledger.join(self.job, 30 + number, terms_hash=hashed, key=key.word, value=self.see().terms.stake)
        for number in coordinators:
            hashed = terms_hash(self.see().created)
            world.ledger(number).post_bond(self.job, terms_hash=hashed, value=self.see().terms.bond)

    def make_keys(self, **place: Any) -> list[Any]:
        return [mask_key(secret, **place) for secret in self.secrets]

    def see(self) -> Any:
        return Follower(self.world.reader(), self.job).job

    @property
    def cohort(self) -> Any:
        return cohort_in(self.see().attempt, self.spec, self.place)

    def commit(
        self,
        *seats: int,
        publish: bool = True,
        spoil: Any = None,
        times: int = 1,
        among: Any = None,
        update: Any = None,
    ) -> None:
        """`times`: how much longer than others' updates; `among`: in which cohort it is masked, if another; `update`:
        instead of one that is drawn.
        """
        attempt, cohort = self.see().attempt, among or self.cohort
        for seat in seats:
            drawn = self.random.integers(-500, 500, self.spec.model.coordinates).astype("<i2") * np.int16(times)
            sent = drawn if update is None else update
            masked = hide_update(cohort, seat, sent, key=self.keys[seat])
            letters = masked.letters if spoil is None else spoil(masked.letters)
            self.updates[seat], self.letters[seat], self.digests[seat] = sent, letters, digest_of(letters)
            if publish:
                self.world.store.put(masked.vector)
                self.world.store.put(letters)
            self.nodes[seat].commit_masked(self.job, attempt.round, attempt.attempt, digest_of(letters))

    def count(self, *seats: int, by: Any = None) -> None:
        attempt = self.see().attempt
        if attempt.commit_end > self.world.reader().head().timestamp:
            self.world.pass_time(61)
        (by or self.coordinator).count(self.job, attempt.round, attempt.attempt, sum(1 << seat for seat in seats))

    def unmask(self, *seats: int, spoil: Any = None) -> None:
        attempt, cohort = self.see().attempt, self.cohort
        counted = [seat for seat in range(len(self.nodes)) if attempt.counted.counted >> seat & 1]
        letters = {}
        for seat in cohort.summed(counted):
            with suppress(BadLetters):
                letters[seat] = parse_letters(cohort, seat, self.letters[seat])
        for seat in seats:
            blob = release(cohort, seat, counted, letters, key=self.keys[seat])
            blob = blob if spoil is None else spoil(blob)
            self.world.store.put(blob)
            self.nodes[seat].unmask(self.job, attempt.round, attempt.attempt, digest_of(blob))

    def settle(self, *, lie: Any = None, sources: type = Stores) -> Any:
        job, world = self.see(), self.world
        if job.attempt.reveal_end > self.world.reader().head().timestamp:
            world.pass_time(61)
        model = fetch_model(world.store, job.model_digest, self.spec)
        bench = bench_with(self.spec, read_source(world.task), world.shards[4].read_bytes())
        revealed = revealed_in(job, job.attempt, job.participants, self.spec, place=self.place)
        done = settle(
            self.spec, model, revealed, sources(world, self.spec, bench), outcome=lambda *made: bench.evaluate(made[-1])
        )
        if lie is not None:
            done = lie(model, done) or done
        report = build_report(
            job, job.attempt, done, chain_id=self.place.chain_id, contract=self.place.contract,
            model_before=(job.model_digest, job.model_root),
            model_after=(digest_of(model.data.cast("B")), chunk_root(model.data.cast("B"), bits=32)),
            evaluation=done.evaluation, spec=self.spec,
        )  # fmt: skip
        self.coordinator.settle(
            self.job, job.round, model_digest=world.store.put(model.data.cast("B")),
            model_root=chunk_root(model.data.cast("B"), bits=32), report_digest=world.store.put(report_bytes(report)),
            revealed=revealed.seats, accepted=done.accepted, scores=done.scores,
        )  # fmt: skip
        return done

    def round(self, counted: tuple[int, ...] = (0, 1, 2, 3)) -> Any:
        self.commit(0, 1, 2, 3)
        self.count(*counted)
        self.unmask(*counted)
        return self.settle()


def weighted_mean(play: Play, before: Any, seats: tuple[int, ...]) -> Any:
    """The model after, from the plain updates."""
    weights = {member.seat: member.weight for member in play.cohort_then.members}
    total = sum(weights[seat] * play.updates[seat].astype(np.int64) for seat in seats)
    shift = play.spec.model.fraction_bits - play.spec.update.fraction_bits
    return before + np.rint((total << shift) / sum(weights[seat] for seat in seats)).astype(np.int64)


def verdicts(result: Any, number: int = 0) -> dict[int, Verdict]:
    return {update.seat: update.verdict for update in result.rounds[number].report.updates}


whoever_drops_out = pytest.mark.parametrize(
    ("committed", "counted", "unmasked"),
    [
        ((0, 1, 2, 3), (0, 1, 2, 3), (0, 1, 2, 3)),
        ((0, 1, 2), (0, 1, 2), (0, 1, 2)),  # one never commits
        ((0, 1, 2, 3), (0, 2, 3), (0, 2, 3)),  # one is not counted
        ((0, 1, 2, 3), (0, 1, 2, 3), (1, 2, 3)),  # one does not unmask
    ],
)


def round_without(play: Play, committed: tuple[int, ...], counted: tuple[int, ...], unmasked: tuple[int, ...]) -> None:
    """Settled and audited: the model is of the counted updates, and who alone did not unmask is silent and fined."""
    before = fetch_model(play.world.store, play.see().model_digest, play.spec)
    play.commit(*committed)
    play.cohort_then = play.cohort
    for seat in set(committed) - set(counted):  # its blob cannot be had, so that an honest coordinator leaves it out
        forget(play.world, digest_of(play.letters[seat]))
    play.count(*counted)
    play.unmask(*unmasked)
    play.settle()
    after = fetch_model(play.world.store, play.see().model_digest, play.spec)
    assert np.array_equal(after, weighted_mean(play, before, counted))
    result = audited(play.world, play.job)
    assert result.matches, result.findings
    assert verdicts(result) == {seat: Verdict.ACCEPTED if seat in unmasked else Verdict.SILENT for seat in counted}
    fined = {each.participant for each in result.events if isinstance(each, PenaltyTaken)}
    assert fined == {play.nodes[seat].account for seat in set(counted) - set(unmasked)}


@whoever_drops_out
def test_the_sum_is_that_of_the_counted_updates_whoever_drops_out(
    world: Any, committed: tuple[int, ...], counted: tuple[int, ...], unmasked: tuple[int, ...]
) -> None:
    round_without(Play(world), committed, counted, unmasked)


def test_a_round_that_too_few_unmask_is_skipped_and_shows_nobodys_update(world: Any) -> None:
    play = Play(world)
    before = play.see().model_digest
    play.commit(0, 1, 2, 3)
    play.count(0, 1, 2, 3)
    play.unmask(0, 1)
    play.settle()
    assert play.see().model_digest == before
    result = audited(world, play.job)
    assert result.matches, result.findings
    assert verdicts(result) == {0: Verdict.SKIPPED, 1: Verdict.SKIPPED, 2: Verdict.SILENT, 3: Verdict.SILENT}
    play.round()
    assert audited(world, play.job).matches


def test_a_count_of_too_few_opens_the_round_again(world: Any) -> None:
    play = Play(world)
    play.commit(0, 1, 2, 3)
    play.count(0, 1)
    assert Follower(world.reader(), play.job).phase() is Phase.STARVED
    play.nodes[0].restart_round(play.job)
    assert play.see().attempt.attempt == 1
    play.round()
    assert not [each for each in audited(world, play.job).findings if each.kind is not Kind.CONTESTED]


def test_who_shares_its_masks_badly_is_named_and_not_counted_again(world: Any) -> None:
    """Its letters parse, and open for nobody: only when they are to be unmasked does that show."""
    play = Play(world, rounds=2)
    play.commit(0, 1, 2)
    roots = slice(32 + 2 * 16 + 4 * 16, 32 + 2 * 16 + 4 * 16 + 4 * 16)  # what every letter is known by
    play.commit(3, spoil=lambda letters: letters[: roots.start] + bytes(64) + letters[roots.stop :])
    play.count(0, 1, 2, 3)
    play.unmask(0, 1, 2, 3)
    play.settle()
    result = audited(world, play.job)
    assert result.matches, result.findings
    assert verdicts(result) == dict.fromkeys((0, 1, 2), Verdict.SKIPPED) | {3: Verdict.BADLY_SHARED}
    play.round(counted=(0, 1, 2))
    result = audited(world, play.job)
    assert result.matches, "to leave out who shared badly before is no lie"


def test_who_shares_just_too_badly_and_then_shows_a_wrong_share_of_its_own_is_not_counted_again(world: Any) -> None:
    """One holder complains, as many as may lie; with its own wrong share it lacks one that fits."""
    play = Play(world, rounds=2)
    play.commit(0, 1, 2)
    root = 32 + 2 * 16 + 4 * 16  # of the letter to seat 0
    play.commit(3, spoil=lambda letters: letters[:root] + bytes(16) + letters[root + 16 :])
    play.count(0, 1, 2, 3)
    play.unmask(0, 1, 2)
    play.unmask(3, spoil=lambda blob: blob[:-20] + bytes([blob[-20] ^ 1]) + blob[-19:])
    play.settle()
    result = audited(world, play.job)
    assert result.matches, result.findings
    assert verdicts(result) == dict.fromkeys((0, 1, 2), Verdict.SKIPPED) | {3: Verdict.BAD_SHARES}
    play.round(counted=(0, 1, 2))
    assert audited(world, play.job).matches, "to leave it out is no lie"


def test_a_share_that_is_not_what_was_sent_is_named(world: Any) -> None:
    play = Play(world)
    play.commit(0, 1, 2, 3)
    play.count(0, 1, 2, 3)
    play.unmask(0, 1, 2)
    play.unmask(3, spoil=lambda blob: blob[:1] + bytes([blob[1] ^ 1]) + blob[2:])
    play.settle()
    result = audited(world, play.job)
    assert result.matches, result.findings
    assert verdicts(result)[3] is Verdict.BAD_SHARES
    assert play.see().history[0].settled.accepted == 0b0111


def off_by_one(model: Any, _settlement: Any) -> None:
    model[5] += 1


def pretend_to_skip(model: Any, settlement: Any) -> Any:
    judged = tuple(replace(each, verdict=Verdict.SKIPPED, score=0) for each in settlement.judged)
    return replace(settlement, judged=judged)


@pytest.mark.parametrize(
    ("lie", "kinds"),
    [(off_by_one, {Kind.MODEL}), (pretend_to_skip, {Kind.VERDICT, Kind.SCORE})],
)
def test_a_coordinator_that_lies_about_the_sum_is_caught(world: Any, lie: Any, kinds: set[Kind]) -> None:
    play = Play(world)
    play.commit(0, 1, 2, 3)
    play.count(0, 1, 2, 3)
    play.unmask(0, 1, 2, 3)
    play.settle(lie=lie)
    found = {finding.kind for finding in audited(world, play.job).findings if finding.kind.accuses}
    assert found >= kinds


def test_a_count_that_leaves_out_whom_the_store_has_is_told(world: Any) -> None:
    play = Play(world)
    play.round(counted=(0, 1, 2))
    (finding,) = audited(world, play.job).findings
    assert finding.kind is Kind.CONTESTED
    assert play.nodes[3].account in finding.explanation
    assert "left out of the count" in finding.explanation


def test_who_shares_no_mask_with_another_costs_the_sum_nothing(world: Any) -> None:
    """As liars can do on purpose, and hybrid keys by accident: both seeds of the pair are taken off."""
    play = Play(world, rounds=1)
    play.keys[3] = Lacking(play.keys[3], frozenset({play.keys[0].word}))
    before = fetch_model(world.store, play.see().model_digest, play.spec)
    play.commit(0, 1, 2, 3)
    play.cohort_then = play.cohort
    play.count(0, 1, 2, 3)
    play.unmask(0, 1, 2, 3)
    play.settle()
    after = fetch_model(world.store, play.see().model_digest, play.spec)
    assert np.array_equal(after, weighted_mean(play, before, (0, 1, 2, 3)))
    result = audited(world, play.job)
    assert result.matches, result.findings
    assert set(verdicts(result).values()) == {Verdict.ACCEPTED}


def test_a_count_that_would_show_somebody_is_not_unmasked_and_proves_its_coordinator_wrong(world: Any) -> None:
    play = Play(world, rounds=1)
    play.keys[3] = Lacking(play.keys[3], frozenset(play.keys[seat].word for seat in (0, 1)))
    play.commit(0, 1, 2, 3)
    play.count(0, 1, 2, 3)
    with pytest.raises(BadInput, match="seat 3 has no mask in common with 2"):
        play.unmask(0)
    attempt = play.see().attempt
    for ledger in play.nodes:
        ledger.unmask(play.job, attempt.round, attempt.attempt, world.store.put(NOTHING))
    play.settle()
    (finding,) = audited(world, play.job).findings
    assert finding.kind is Kind.VERDICT
    assert "do not fit" in finding.explanation
    assert play.see().history[0].settled.accepted == 0


def test_a_successor_takes_over_a_count_with_an_empty_disk(world: Any) -> None:
    job = masked_job(world, coordinators=(1, 7), rounds=1, settle_window=8)
    nodes = [node(world, job, number) for number in range(3)]
    first = coordinator(world, job, kill_on=UpdatesCounted)
    second = coordinator(world, job, 7)
    first.join()
    for actor in [*nodes, second]:
        actor.join()
    result = audited(world, job)
    assert result.matches, result.findings
    assert result.rounds[0].over.settled.coordinator == world.accounts[7].address
    assert set(verdicts(result).values()) == {Verdict.ACCEPTED}


@pytest.mark.parametrize("kill_on", [CommittedUpdate, UnmaskedRound, Trained])
def test_a_node_that_is_killed_at_any_step_goes_on(world: Any, kill_on: type) -> None:
    job = masked_job(world, rounds=2)
    settling = coordinator(world, job)
    others = [node(world, job, number) for number in (1, 2)]
    node(world, job, 0, kill_on=kill_on).join()
    for actor in [settling, *others, node(world, job, 0)]:
        actor.join()
    result = audited(world, job)
    assert result.matches, result.findings
    assert {verdict for number in (0, 1) for verdict in verdicts(result, number).values()} == {Verdict.ACCEPTED}


def test_an_update_is_masked_again_where_the_chain_took_back_who_masks_together(world: Any) -> None:
    """One that was masked among others could not be unmasked: the attempt has the same number, and another cohort, or
    is dealt into groups after another block. Without groups, the block is nothing to it.
    """
    play = Play(world)
    attempt, model = play.see().attempt, play.see().model_digest
    here: Any = SimpleNamespace(spec=play.spec, follower=SimpleNamespace(job=play.see()))
    here.cohort = lambda attempt: cohort_in(attempt, here.spec, play.place)
    other, later = replace(attempt, cohort=attempt.cohort[:3]), replace(attempt, opened_in="0x" + "12" * 32)
    assert len({basis(here, attempt), basis(here, other), model}) == 3
    assert basis(here, later) == basis(here, attempt)
    here.spec, _ = world.spec(**MASKED | {"masks": {"groups": 3}, "aggregation": {"rule": "median"}})
    assert basis(here, later) != basis(here, attempt)


def test_nothing_is_released_for_a_second_count_of_one_attempt(tmp_path: Path) -> None:
    """Neither where the chain took back from which model the round began, and more than the count."""
    spec: Any = SimpleNamespace(masks=None, update_bytes=0, model=SimpleNamespace(coordinates=1))
    journal = Journal(tmp_path, Slot(1, "0x" + "1" * 40, 1, 0, "0x" + "2" * 40), spec, spec_digest=bytes(32))
    one, other = (
        Record(0, 0, model * 32, bytes(32), bytes(32), b"", model * 32, b"", np.zeros(1, np.float32))
        for model in (b"\1", b"\2")
    )
    journal.write(one)
    assert journal.release(one, b"\7" * 32, lambda: b"shares\nof seats") == b"shares\nof seats"
    assert journal.release(one, b"\7" * 32, lambda: b"others") == b"shares\nof seats", "what was released stays"
    with pytest.raises(OtherCount, match="another count"):
        journal.release(one, b"\3" * 32, lambda: b"others")
    journal.write(other)
    found = journal.committed(one.commitment, 0, other.model)
    assert found is not None
    with pytest.raises(OtherCount, match="another count"):
        journal.release(found, b"\3" * 32, lambda: b"others")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"aggregation": {"rule": "median"}}, "median looks at single updates.*weighted_mean.*masks.groups = 3"),
        ({"aggregation": {"rule": "weighted_mean", "bucket_size": 2}}, "without buckets"),
        ({"rewards": {"policy": "contribution"}}, 'take policy = "equal" or "samples"'),
        ({"screening": {}}, "screening looks at single updates"),
        ({"update": {"bits": 32, "fraction_bits": 14, "norm_bound": 5.0}}, "8 or 16"),
        ({"masks": None}, "those of a masked job"),
        ({"masks": {"groups": 3}}, 'over the means of masks.groups = 3.*take rule = "median" or "trimmed_mean"'),
        ({"masks": {"groups": 2}, "aggregation": {"rule": "median"}}, "withstands no bad update; take 3 or more"),
        (
            {"masks": {"groups": 4}, "aggregation": {"rule": "trimmed_mean", "trim_percent": 20}},
            "withstands no bad update; take 5 or more",
        ),
        ({"masks": {"least": 2}}, "least"),
    ],
)
def test_what_masks_do_not_allow_is_refused_when_the_job_is_made(
    world: Any, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadSpec, match=said):
        world.spec(**MASKED | changes)


def forget(world: Any, digest: bytes) -> None:
    (path,) = (world.folder / "store").rglob(f"{cid_of(digest)}*")
    path.unlink()


def test_of_a_round_that_is_void_again_and_again_a_node_keeps_what_it_made_for_the_last_attempts_only(
    world: Any,
) -> None:
    """It may be begun again 65,535 times, and a record is as long as two models."""
    job, posting = masked_job(world, rounds=1, commit_window=60, settle_window=60, miss_limit=9), world.ledger(1)
    nodes = [node(world, job, number) for number in range(3)]
    follower = Follower(world.reader(), job)
    posting.post_bond(job, terms_hash=terms_hash(follower.job.created), value=follower.job.terms.bond)
    for attempt in range(6):
        while follower.phase() is not Phase.COUNTING or follower.job.attempt.attempt != attempt:
            follower.update(timeout=0.5)
        if attempt < 5:
            follower.reach(posting.count(job, 0, attempt, 0))
    for actor in nodes:
        actor.stop.set()
        actor.join()
    for number in range(3):
        (kept,) = (world.folder / "nodes").glob(f"*{world.accounts[2 + number].address}")
        whole = {path.parent.name[23:28] for path in kept.glob("round-*/update")}
        assert whole == {"00004", "00005"}
        assert len(list(kept.glob("round-*/commitment.json"))) == 6, "by which it knows its own"
