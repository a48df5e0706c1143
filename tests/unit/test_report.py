from __future__ import annotations

import json
from fractions import Fraction

import pytest

from deepledger.protocol.errors import BadSpec
from deepledger.protocol.formats.evaluation import FAILED_LOSS, Coalition
from deepledger.protocol.formats.metrics import MOST_METRICS
from deepledger.protocol.formats.report import (
    MAX_COALITIONS,
    MAX_REPORT_BYTES,
    EvaluatedCoalition,
    Evaluation,
    Report,
    SignsOf,
    parse_report,
    report_bytes,
)
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.settlement.coalitions import most_coalitions
from deepledger.protocol.settlement.inputs import Contribution
from deepledger.protocol.settlement.judging import Judged
from deepledger.protocol.settlement.reporting import build_report
from deepledger.protocol.settlement.settle import Settlement

from .scripted import A, B, C, Script, digest

RESULT = Evaluation(samples=100, correct=80, millionths={"loss": 400_000})
FAILED = Evaluation(samples=5, correct=0, millionths={"loss": FAILED_LOSS})  # where samples are not what a task counts


@pytest.fixture
def report(spec_of) -> Report:
    script = Script()
    script.create()
    script.join(A, B, C)
    script.open(1000, attempt=2)
    judged = tuple(
        Judged(
            Contribution(
                participant=participant, seat=seat, weight=7, digest=digest(1), root=digest(2), copy_of=copy_of
            ),
            verdict,
            score,
        )
        for seat, (participant, verdict, score, copy_of) in enumerate(
            [(A, Verdict.ACCEPTED, 7, None), (B, Verdict.COPY, 0, A), (C, Verdict.NORM_EXCEEDED, 0, None)]
        )
    )
    return build_report(
        script.job,
        script.job.attempt,
        Settlement(
            judged=judged,
            saturated=4,
            forgotten=(digest(8),),
            evaluations={Coalition(0b110, plain=True): RESULT, Coalition(2**63): FAILED},
        ),
        chain_id=31337,
        contract="0x" + "9" * 40,
        model_before=(digest(3), digest(4)),
        model_after=(digest(5), digest(6)),
        evaluation=Evaluation(samples=100, correct=91, millionths={"loss": 250_000}),
        spec=spec_of(),
    )


def test_a_report_comes_back_as_it_was(report):
    assert parse_report(report_bytes(report)) == report
    assert [update.verdict for update in report.updates] == [Verdict.ACCEPTED, Verdict.COPY, Verdict.NORM_EXCEEDED]
    assert report.updates[1].copy_of == A
    assert report.evaluations() == {Coalition(0b110, plain=True): RESULT, Coalition(2**63): FAILED}
    assert (report.attempt, report.saturated, report.model_after.root) == (2, 4, digest(6).hex())
    assert (report.evaluation.exact("accuracy"), report.evaluation.exact("loss")) == (Fraction(91, 100), Fraction(1, 4))
    assert Evaluation(samples=0, correct=0, millionths={"loss": 0}).exact("accuracy") == 0


CHANGES = {
    "verdict": lambda fields: fields["updates"][0].update(verdict="paid"),
    "updates": lambda fields: fields.update(updates=fields["updates"] * 30),
    "updates.0.score": lambda fields: fields["updates"][0].update(score=-1),
    "seat": lambda fields: fields["updates"][0].update(seat=1.5),
    "spec": lambda fields: fields.update(spec="zz" * 32),
    "digest": lambda fields: fields["model_after"].update(digest="00"),
    "participant": lambda fields: fields["updates"][0].update(participant="0xA\x1b[2J"),
    "evaluation.millionths.loss": lambda fields: fields["evaluation"].update(millionths={"loss": 2**53}),
    "evaluation.millionths.a b": lambda fields: fields["evaluation"].update(millionths={"loss": 1, "a b": 1}),
    "evaluation.millionths: ": lambda fields: fields["evaluation"].update(millionths={f"m{i}": 1 for i in range(9)}),
    "there is a loss": lambda fields: fields["coalitions"][0].update(millionths={}),
    "accuracy follows": lambda fields: fields["evaluation"].update(millionths={"loss": 1, "accuracy": 1}),
    "coalitions.0.seats": lambda fields: fields["coalitions"][0].update(seats="1" * 17),
    "coalitions": lambda fields: fields.update(coalitions=fields["coalitions"][:1] * (MAX_COALITIONS + 1)),
    "forgotten": lambda fields: fields.update(forgotten=["00" * 32] * 257),
    "signs.norm": lambda fields: fields["updates"][0]["signs"].update(norm=-1),
    "note": lambda fields: fields.update(note="hello"),
    "round": lambda fields: fields.pop("round"),
    "version": lambda fields: fields.update(version=2),
    "evaluation: 101 of 100 samples are correct": lambda fields: fields["evaluation"].update(correct=101),
    "coalitions.0: 101 of 100 samples are correct": lambda fields: fields["coalitions"][0].update(correct=101),
}


@pytest.mark.parametrize(("named", "change"), CHANGES.items(), ids=CHANGES)
def test_a_hostile_report_is_refused_in_one_line(named, change, report):
    fields = json.loads(report_bytes(report))
    change(fields)
    with pytest.raises(BadSpec, match="the report does not validate: ") as refusal:
        parse_report(json.dumps(fields, separators=(",", ":"), sort_keys=True).encode())
    assert named in str(refusal.value)
    assert str(refusal.value).isprintable()


def test_only_the_canonical_form_is_read(report):
    data = report_bytes(report)
    for other in (data + b" ", data.replace(b'"version":3', b'"version": 3')):
        with pytest.raises(BadSpec, match="not in canonical form"):
            parse_report(other)
    with pytest.raises(BadSpec, match="not valid JSON: a key stands twice"):
        parse_report(data.replace(b'"version":3', b'"version":3,"version":3'))
    with pytest.raises(BadSpec, match="the report has more than"):
        parse_report(data.ljust(MAX_REPORT_BYTES + 1))


def test_the_largest_report_has_room(report, spec_of):
    """As much as a spec allows: 64 updates, 4 rounds remembered, everybody suspected, Shapley values of all, and the
    most metrics with the longest names.
    """
    most, worst = 2**53 - 1, FAILED_LOSS
    signs = SignsOf(norm=worst, likeness=2 * 10**12, like=A, profile=-(10**6), alignment=-(10**6), harm=-worst)
    update = report.updates[1].model_copy(
        update={"verdict": Verdict.LABEL_FLIPPED, "seat": 63, "weight": 2**32, "score": 2**32, "signs": signs}
    )
    spec = spec_of(screening={"harm_percent": 1}, rewards={"policy": "contribution", "most_evaluations": 4000})
    number = most_coalitions(spec, 64)
    assert number <= MAX_COALITIONS
    results = {"loss": worst} | {str(i).rjust(40, "m"): -worst for i in range(MOST_METRICS - 1)}
    coalition = EvaluatedCoalition(seats="f" * 16, plain=False, samples=most, correct=most, millionths=results)
    largest = report.model_copy(
        update={
            "updates": (update,) * 64,
            "forgotten": ("f" * 64,) * 256,
            "coalitions": (coalition,) * number,
            "job": most,
        }
    )
    assert parse_report(report_bytes(largest)) == largest
