from __future__ import annotations

import pytest

from deepledger.protocol.chain.events import (
    BondPosted,
    BondReleased,
    CoordinatorReplaced,
    Departure,
    DisclosureDue,
    JobCreated,
    JobEnded,
    JobTerms,
    Joined,
    Left,
    Outcome,
    PenaltyTaken,
    Phase,
    RoundOpened,
    RoundStarved,
    Settled,
    Shared,
    ValidationDisclosed,
    Withdrawn,
)
from deepledger.protocol.errors import ChainNonsense
from deepledger.protocol.job.phases import bond_is_free, bond_of, deadline, deposit_of, phase_at
from deepledger.protocol.job.trail import replay

from .scripted import FIRST, SECOND, STRANGER, TERMS, A, B, C, Script, digest

SETTLED = {
    "coordinator": FIRST,
    "model_digest": digest(8),
    "model_root": digest(9),
    "report_digest": digest(10),
    "accepted": 3,
    "scores": (1, 1),
    "pot": 9,
}


@pytest.fixture
def script() -> Script:
    """Three are seated, round 0 opens at 1000: it commits until 1100 and reveals until 1150."""
    script = Script()
    script.create()
    script.join(A, B, C)
    script.open(1000)
    return script


def phases(script: Script, *times: int) -> list[Phase]:
    return [phase_at(script.job, time) for time in times]


def test_a_new_job_waits():
    script = Script()
    script.create()
    assert phases(script, 0, 10**12) == [Phase.WAITING] * 2
    assert deadline(script.job, 0) is None
    assert script.job.coordinator == FIRST


def test_deadlines_move_a_round_along(script):
    script.commit(1010, A)
    script.commit(1020, B)
    assert phases(script, 1099, 1100, 1149) == [Phase.COMMITTING, Phase.REVEALING, Phase.REVEALING]
    assert phases(script, 1150) == [Phase.STARVED]
    assert [deadline(script.job, time) for time in (1000, 1120, 1150)] == [1100, 1150, None]
    script.reveal(1120, A, 1)
    assert phases(script, 1149, 1150, 1180) == [Phase.REVEALING, Phase.SETTLING, Phase.OVERDUE]


def test_too_few_commitments_starve_a_round(script):
    script.commit(1010, A)
    assert phases(script, 1099, 1100, 1150, 2000) == [Phase.COMMITTING] + [Phase.STARVED] * 3


def test_the_last_commitment_ends_committing_in_its_block(script):
    for time, participant in ((1010, A), (1020, B), (1030, C)):
        assert phases(script, 1030) == [Phase.COMMITTING]
        script.commit(time, participant)
    assert phases(script, 1029, 1030, 1079, 1080) == [
        Phase.COMMITTING,
        Phase.REVEALING,
        Phase.REVEALING,
        Phase.STARVED,
    ]


def test_the_last_reveal_ends_revealing_in_its_block(script):
    script.commit(1010, A)
    script.commit(1020, B)
    script.reveal(1110, A, 1)
    assert phases(script, 1120) == [Phase.REVEALING]
    script.reveal(1120, B, 2)
    assert phases(script, 1119, 1120, 1149, 1150) == [
        Phase.REVEALING,
        Phase.SETTLING,
        Phase.SETTLING,
        Phase.OVERDUE,
    ]
    assert deadline(script.job, 1120) == 1150
    assert deadline(script.job, 1150) is None


def test_the_last_other_one_to_leave_ends_committing(script):
    script.commit(1010, A)
    script.commit(1020, B)
    script.say(Left, 1030, participant=C, seat=2, departure=Departure.VOLUNTARY, stake=5)
    assert phases(script, 1029, 1030, 1149, 1150) == [
        Phase.COMMITTING, Phase.REVEALING, Phase.REVEALING, Phase.STARVED,
    ]  # fmt: skip
    assert deadline(script.job, 1030) == 1150, "no sooner than announced"
    assert set(script.job.participants) == {A, B}


def test_too_few_do_not_end_committing_however_many_leave(script):
    script.commit(1010, A)
    for seat, participant in ((1, B), (2, C)):
        script.say(Left, 1030, participant=participant, seat=seat, departure=Departure.VOLUNTARY, stake=5)
    assert phases(script, 1099, 1100) == [Phase.COMMITTING, Phase.STARVED]


def test_leaving_does_not_close_a_round_nobody_committed_in(script):
    for seat, participant in enumerate((A, B, C)):
        script.say(Left, 1030, participant=participant, seat=seat, departure=Departure.VOLUNTARY, stake=5)
    assert phases(script, 1099, 1100) == [Phase.COMMITTING, Phase.STARVED]


def test_leaving_after_the_deadline_does_not_move_it(script):
    script.commit(1010, A)
    script.commit(1020, B)
    script.say(Left, 1120, participant=C, seat=2, departure=Departure.VOLUNTARY, stake=5)
    assert phases(script, 1149, 1150) == [Phase.REVEALING, Phase.STARVED]


def test_who_joins_in_time_is_waited_for(script):
    newcomer = "0x" + "d" * 40
    script.say(Joined, 1005, participant=newcomer, seat=3, samples=2, key=bytes(32))
    for participant in (A, B, C):
        script.commit(1010, participant)
    assert phases(script, 1050) == [Phase.COMMITTING]
    script.commit(1060, newcomer)
    assert phases(script, 1060) == [Phase.REVEALING]


def test_a_starved_round_opens_again(script):
    script.commit(1010, A)
    script.say(RoundStarved, 1100, round=0, attempt=0)
    assert phases(script, 1100) == [Phase.WAITING]
    script.open(1100, attempt=1)
    assert phases(script, 1100) == [Phase.COMMITTING]
    assert script.job.attempt.commits == ()
    assert [(over.round, over.attempt, len(over.commits)) for over in script.job.abandoned] == [(0, 0, 1)]


def ready(script: Script) -> None:
    script.commit(1010, A)
    script.commit(1020, B)
    script.reveal(1110, A, 1)
    script.reveal(1120, B, 2)


def test_settling_opens_the_next_round(script):
    ready(script)
    script.say(Left, 1130, participant=C, seat=2, departure=Departure.MISSING, stake=5)
    script.say(Settled, 1130, round=0, **SETTLED)
    (over,) = script.job.history
    assert (over.model_digest, over.model_root) == (b"\2" * 32, b"\3" * 32)
    assert set(over.participants) == {A, B}
    assert [reveal.participant for reveal in over.opened.reveals] == [A, B]
    assert (script.job.model_digest, script.job.model_root, script.job.round) == (digest(8), digest(9), 1)
    assert phases(script, 1130) == [Phase.WAITING]
    script.open(1130, round=1)
    assert phases(script, 1130) == [Phase.COMMITTING]


def test_a_successor_gets_its_own_window(script):
    script.say(BondPosted, 1001, coordinator=SECOND, amount=7)
    ready(script)
    assert phases(script, 1150) == [Phase.OVERDUE]
    script.say(CoordinatorReplaced, 1200, round=0, coordinator=FIRST, successor=SECOND, penalty=3, deadline=1230)
    script.say(BondReleased, 1200, coordinator=FIRST, amount=4)
    assert script.job.coordinator == SECOND
    assert script.job.bonded == {SECOND: 1001}
    assert phases(script, 1229, 1230) == [Phase.SETTLING, Phase.OVERDUE]


def test_a_successor_takes_over_where_only_a_bond_is_missing(script):
    script.say(BondPosted, 1001, coordinator=SECOND, amount=7)
    script.say(RoundStarved, 1100, round=0, attempt=0)
    with pytest.raises(ChainNonsense, match="no round is open"):
        script.say(CoordinatorReplaced, 1110, round=1, coordinator=FIRST, successor=SECOND, penalty=0, deadline=0)
    script.say(CoordinatorReplaced, 1110, round=0, coordinator=FIRST, successor=SECOND, penalty=0, deadline=0)
    assert script.job.coordinator == SECOND
    assert phases(script, 1110) == [Phase.WAITING]
    script.open(1110, attempt=1)
    assert phases(script, 1110) == [Phase.COMMITTING]


def test_without_a_successor_the_job_ends(script):
    ready(script)
    script.say(CoordinatorReplaced, 1200, round=0, coordinator=FIRST, successor=None, penalty=3, deadline=0)
    script.say(JobEnded, 1200, outcome=Outcome.ABANDONED, refund=0)
    assert phases(script, 0, 1200) == [Phase.OVER] * 2
    assert deadline(script.job, 1200) is None


def withheld() -> Script:
    """Like `script`, in a job whose validation set is withheld."""
    script = Script()
    script.create(validation_lock=b"\4" * 32)
    script.join(A, B, C)
    script.open(1000)
    return script


def test_a_withheld_validation_set_is_waited_for():
    script = withheld()
    script.say(BondPosted, 1001, coordinator=SECOND, amount=7)
    ready(script)
    assert not script.job.withholds, "no round is settled with it"
    script.say(Settled, 1130, round=0, **SETTLED)
    assert script.job.withholds
    script.say(DisclosureDue, 1130, outcome=Outcome.COMPLETED, disclosure_end=1160)
    assert phases(script, 1130, 1159, 1160) == [Phase.DISCLOSING, Phase.DISCLOSING, Phase.OVERDUE]
    assert [deadline(script.job, now) for now in (1130, 1160)] == [1160, None]
    script.say(CoordinatorReplaced, 1170, round=1, coordinator=FIRST, successor=SECOND, penalty=7, deadline=1200)
    assert script.job.coordinator == SECOND
    assert phases(script, 1199, 1200) == [Phase.DISCLOSING, Phase.OVERDUE]
    for kind, fields in (
        (DisclosureDue, {"outcome": Outcome.COMPLETED, "disclosure_end": 1300}),
        (RoundOpened, {"round": 1, "attempt": 0, "commit_end": 1300, "reveal_end": 1350}),
    ):
        with pytest.raises(ChainNonsense):
            script.say(kind, 1180, **fields)
    script.say(ValidationDisclosed, 1180, key=b"\1" * 32)
    script.say(JobEnded, 1180, outcome=Outcome.COMPLETED, refund=0)
    assert script.job.validation_key == b"\1" * 32
    assert phases(script, 1180, 1300) == [Phase.OVER] * 2
    assert deadline(script.job, 1180) is None
    with pytest.raises(ChainNonsense, match="known already"):
        script.say(ValidationDisclosed, 1190, key=b"\1" * 32)


def test_money_changes_no_state(script):
    before = script.job
    script.say(Shared, 1001, seats=1, share=2**256 - 1)
    script.say(Withdrawn, 1002, account=A, amount=2**256 - 1)
    assert (script.job.attempt, script.job.participants) == (before.attempt, before.participants)


def test_a_trail_folds_piece_by_piece_as_it_does_at_once(script):
    ready(script)
    for cut in range(len(script.events) + 1):
        assert replay(script.events[cut:], replay(script.events[:cut])) == script.job
    assert replay([]) is None


def test_what_is_in_deposit(script):
    script.say(BondPosted, 1001, coordinator=FIRST, amount=7)
    script.say(BondPosted, 1001, coordinator=A, amount=7)
    script.say(PenaltyTaken, 1002, round=0, participant=A, amount=2)
    job = script.job
    assert [deposit_of(job, each) for each in (A, B, FIRST, STRANGER)] == [10, 5, 7, 0]
    job = script.say(BondReleased, 1003, coordinator=A, amount=7)
    assert [bond_of(job, A), deposit_of(job, A)] == [0, 3]


def test_a_bond_is_free_while_nobody_is_owed_anything_by_it(script):
    assert not bond_is_free(script.job, FIRST, 1099)
    assert bond_is_free(script.job, FIRST, 1100), "the round has starved"
    assert bond_is_free(script.job, SECOND, 1099), "it stands by"
    ready(script)
    script.say(Settled, 1130, round=0, **SETTLED)
    assert bond_is_free(script.job, FIRST, 1130), "it waits, and the validation set is public"


def test_a_bond_is_not_free_while_a_key_is_owed():
    script = Script()
    script.create(validation_lock=b"\1" * 32)
    script.join(A, B, C)
    assert bond_is_free(script.job, FIRST, 1000), "nothing was settled with it"
    script.open(1000)
    ready(script)
    script.say(Settled, 1130, round=0, **SETTLED)
    assert not bond_is_free(script.job, FIRST, 1130)
    assert bond_is_free(script.job, SECOND, 1130)
    script.say(ValidationDisclosed, 1140, key=b"\1" * 32)
    assert bond_is_free(script.job, FIRST, 1140)


NONSENSE = {
    "no such round": (Settled, {"round": 5, **SETTLED}),
    "opened while open": (RoundOpened, {"round": 1, "attempt": 0, "commit_end": 1, "reveal_end": 2}),
    "seat taken": (Joined, {"participant": STRANGER, "seat": 1, "samples": 1, "key": bytes(32)}),
    "seated twice": (Joined, {"participant": A, "seat": 7, "samples": 1, "key": bytes(32)}),
    "left without a seat": (Left, {"participant": STRANGER, "seat": 7, "departure": Departure.MISSING, "stake": 0}),
    "fined without a seat": (PenaltyTaken, {"round": 0, "participant": STRANGER, "amount": 1}),
    "fined more than its stake": (PenaltyTaken, {"round": 0, "participant": A, "amount": 6}),
    "starved another round": (RoundStarved, {"round": 2**24, "attempt": 0}),
    "unknown successor": (
        CoordinatorReplaced,
        {"round": 0, "coordinator": FIRST, "successor": STRANGER, "penalty": 0, "deadline": 0},
    ),
    "succeeds itself": (
        CoordinatorReplaced,
        {"round": 0, "coordinator": FIRST, "successor": FIRST, "penalty": 0, "deadline": 0},
    ),
    "a key that nothing needs": (DisclosureDue, {"outcome": Outcome.COMPLETED, "disclosure_end": 1060}),
    "created twice": (JobCreated, {"sponsor": A, "terms": JobTerms(**TERMS), "coordinators": (FIRST,)}),
}


@pytest.mark.parametrize(("kind", "fields"), NONSENSE.values(), ids=NONSENSE)
def test_what_the_contract_cannot_emit_is_nonsense(kind, fields, script):
    with pytest.raises(ChainNonsense, match=r"the trail of job 1 cannot be: \w+ in block \d+; "):
        script.say(kind, 1010, **fields)


def test_commitments_and_reveals_come_once_from_the_seated(script):
    with pytest.raises(ChainNonsense, match="no seat"):
        script.commit(1010, STRANGER)
    script.commit(1010, A)
    with pytest.raises(ChainNonsense, match="committed before"):
        script.commit(1010, A)
    script.commit(1010, B)
    script.reveal(1110, A, 1)
    with pytest.raises(ChainNonsense, match="revealed before"):
        script.reveal(1110, A, 1)
    with pytest.raises(ChainNonsense, match="did not commit"):
        script.reveal(1110, C, 1)
    with pytest.raises(ChainNonsense, match="round 0 is open, not 1"):
        script.reveal(1110, B, 1, round=1)


def test_nothing_is_settled_that_was_not_revealed(script):
    ready(script)
    for change in (
        {"accepted": 0b111, "scores": (1, 1, 1)},  # C did not reveal
        {"accepted": 1 << 63, "scores": (1,)},
    ):
        with pytest.raises(ChainNonsense, match="accepts seats that did not reveal"):
            script.say(Settled, 1130, round=0, **SETTLED | change)
    for change in ({"scores": ()}, {"scores": (1, 1, 1)}, {"accepted": 0b10}):
        with pytest.raises(ChainNonsense, match="not one score per accepted seat"):
            script.say(Settled, 1130, round=0, **SETTLED | change)
    script.say(Settled, 1130, round=0, **SETTLED | {"accepted": 0, "scores": ()})


def leave(script: Script, time: int, participant: str, departure: Departure) -> None:
    seat = script.job.participants[participant].seat
    script.say(Left, time, participant=participant, seat=seat, departure=departure, stake=5)


def test_nobody_leaves_with_a_commitment_but_who_is_punished_for_it(script):
    script.commit(1010, A)
    script.commit(1020, B)
    script.reveal(1110, A, 1)
    for participant, departure in ((B, Departure.VOLUNTARY), *((A, each) for each in Departure)):
        with pytest.raises(ChainNonsense, match="it committed, or revealed, in the open round"):
            leave(script, 1140, participant, departure)
    leave(script, 1140, B, Departure.EXHAUSTED)
    leave(script, 1140, C, Departure.VOLUNTARY)
    with pytest.raises(ChainNonsense, match="no seat any more"):
        script.reveal(1145, B, 2)


def test_who_revealed_last_may_leave_while_the_key_is_due():
    script = withheld()
    ready(script)
    script.say(Settled, 1130, round=0, **SETTLED)
    script.say(DisclosureDue, 1130, outcome=Outcome.WITHDRAWN, disclosure_end=1160)
    leave(script, 1140, A, Departure.VOLUNTARY)
    assert set(script.job.participants) == {B, C}


def test_no_round_is_open():
    script = Script()
    script.create()
    script.join(A)
    with pytest.raises(ChainNonsense, match="no round is open"):
        script.commit(1, A)


def test_a_trail_begins_with_its_job_and_keeps_its_order(script):
    with pytest.raises(ChainNonsense, match="does not begin with its creation"):
        replay(script.events[1:])
    with pytest.raises(ChainNonsense, match="out of order"):
        replay([*script.events, script.events[-1]])
    with pytest.raises(ChainNonsense, match="out of order"):
        replay([script.events[0], script.events[2], script.events[1]])
    with pytest.raises(ChainNonsense, match="no coordinator"):
        Script().create(coordinators=())


def test_absurd_numbers_do_no_harm():
    """A chain that lies may name any number: nothing is counted up to it."""
    script, huge = Script(), 2**256 - 1
    script.create(min_participants=huge, rounds=huge, reveal_window=huge, settle_window=huge)
    script.say(Joined, huge, participant=A, seat=huge, samples=huge, key=bytes(32))
    script.say(RoundOpened, huge, round=0, attempt=huge, commit_end=huge, reveal_end=huge)
    script.commit(1, A)
    assert phases(script, 0, 1, huge) == [Phase.COMMITTING, Phase.COMMITTING, Phase.STARVED]
