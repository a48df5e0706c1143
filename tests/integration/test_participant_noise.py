"""Whole jobs with differential privacy of participants: what is shown, what it costs, and what an audit says of it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from deepledger.api import status
from deepledger.auditor.audit import audit
from deepledger.auditor.findings import Kind
from deepledger.coordinator import settling
from deepledger.coordinator.api import build_app
from deepledger.node import participant_noise
from deepledger.node.notices import Finished, PrivacyCharged, Trained
from deepledger.node.spending import ledger_of
from deepledger.node.training import make_update
from deepledger.protocol.chain.events import Counted
from deepledger.protocol.errors import BadSpec, BlobMissing, ChainUnreachable, LedgerRejected, PrivacySpent
from deepledger.protocol.formats.vectors import as_update, sum_of_squares
from deepledger.protocol.job.fetch import fetch_spec
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.privacy.skellam import epsilon_of_rounds
from deepledger.protocol.settlement.reporting import build_report
from tests.integration.cli_runner import JOB, Runner
from tests.integration.test_masked import Play, audited, forget
from tests.integration.test_masked_attacks import Shows, within
from tests.integration.test_private_rounds import node
from tests.integration.test_roles import assert_audit_matches, coordinator

pytestmark = [pytest.mark.one_chain, pytest.mark.slow]

LOCAL = {"mechanism": "local", "clip_norm": 0.5, "noise_multiplier": 1.0, "delta": 1e-4}
DISTRIBUTED = LOCAL | {"mechanism": "distributed", "honest": 2}
UPDATE = {"bits": 16, "fraction_bits": 10, "norm_bound": 15.0}
MASKED = {"privacy": "masked", "masks": {"weight_bits": 0}, "rewards": {"policy": "equal"}}


def job_with(world: Any, privacy: dict[str, Any], *, changes: Any = None, **terms: Any) -> int:
    changes = {"update": UPDATE, "participant_privacy": privacy} | (changes or {})
    return world.create_job(**{"rounds": 2, "spec_changes": changes} | terms)


def test_an_open_job_shows_updates_behind_noise_and_ends_at_a_budget(world: Any) -> None:
    job = job_with(world, LOCAL, min_participants=1, rounds=3)
    spec = fetch_spec(world.store, Follower(world.reader(), job).job.terms)
    assert spec.release is not None
    costs = [epsilon_of_rounds(spec.release, rounds=rounds, delta=1e-4) for rounds in (1, 2)]
    settling, other = coordinator(world, job), node(world, job, 0)
    frugal = node(world, job, 1, epsilon_budget=costs[1] + 0.01, delta=1e-4)
    with pytest.raises(PrivacySpent, match="what a round of this job shows would pass it"):
        frugal.join()
    for role in (settling, other):
        role.join()
    charged = [each for each in frugal.seen if isinstance(each, PrivacyCharged)]
    assert [each.epsilon for each in charged] == pytest.approx(costs)
    assert len([each for each in frugal.seen if isinstance(each, Trained)]) == 2, "it stopped before it trained"
    lines = ledger_of(world.folder / "nodes/privacy", world.shards[1]).read().lines
    assert [each.release for each in lines] == [spec.release] * 2

    result = assert_audit_matches(world, job)
    lengths = [
        sum_of_squares(as_update(world.store.read(reveal.digest, limit=spec.update_bytes), spec)) ** 0.5 / 2**10
        for over in result.job.history
        for reveal in over.opened.reveals
    ]
    assert min(lengths) > 5, "about 0.5 times the root of 420 coordinates"
    assert f"ε = {epsilon_of_rounds(spec.release, rounds=3, delta=1e-4):.3g} at δ = 0.0001" in result.notes[-2]
    told = TestClient(build_app(world.reader(), world.store)).get(f"/jobs/{job}/privacy").json()
    assert (told["updates"], told["examples"]) == ("open", None)
    shown = {"mechanism": "local", "honest": 1, "colluders": None, "delta": 1e-4}
    assert shown.items() <= told["participants"].items()
    whole = epsilon_of_rounds(spec.release, rounds=3, delta=1e-4)
    assert told["participants"]["epsilon"] == told["participants"]["epsilon_of_job"] == pytest.approx(whole)
    assert status.spent_by_rounds(result.job, spec).epsilon == pytest.approx(whole)

    of_all = f"{len(lengths)} of {len(lengths)} updates bind a statement that noise was drawn and are as long as"
    assert of_all in result.notes[-1]


def test_an_audit_names_who_published_without_noise(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_with(world, LOCAL, min_participants=1, rounds=1)
    monkeypatch.setattr(participant_noise, "skellam", lambda count, *, variance: [0] * count)
    for role in [coordinator(world, job), node(world, job, 0)]:
        role.join()
    said = assert_audit_matches(world, job).notes
    assert "0 of 1 updates bind a statement" in said[-2]
    assert f"in round 0 {world.accounts[2].address} shows an update of length 0." in said[-1]
    assert "or longer: it was not drawn" in said[-1]


def test_shares_of_noise_add_up_in_a_masked_job(world: Any) -> None:
    job = job_with(world, DISTRIBUTED, changes=MASKED, min_participants=3, max_participants=3, masked=True)
    keys = [bytes(world.accounts[2 + number].key) for number in range(3)]
    nodes = [node(world, job, each, secret=keys[each]) for each in range(3)]
    for role in [coordinator(world, job), *nodes]:
        role.join()
    assert all(isinstance(each.seen[-1], Finished) for each in nodes)
    result = assert_audit_matches(world, job)
    assert "and so did 1 more in each sum" in result.notes[-2]
    charged = [each for each in nodes[0].seen if isinstance(each, PrivacyCharged)]
    assert len(charged) == 2


def test_a_job_whose_terms_let_too_few_be_counted_is_not_joined(world: Any) -> None:
    job = job_with(
        world, DISTRIBUTED | {"honest": 4}, changes=MASKED, min_participants=3, max_participants=8, masked=True
    )
    with pytest.raises(BadSpec, match="the noise that hides one is that of more than may be counted then"):
        fetch_spec(world.store, Follower(world.reader(), job).job.terms)
    one = node(world, job, 0, secret=bytes(world.accounts[2].key))
    with pytest.raises(BadSpec):
        one.join()


def test_a_count_of_fewer_than_share_the_noise_of_a_sum_unmasks_nothing(world: Any) -> None:
    """Three of four could take the masks off, and the sum of three would have less noise than hides one."""
    changes = {"update": UPDATE, "participant_privacy": DISTRIBUTED | {"honest": 4}} | MASKED
    play = Play(world, rounds=1, min_participants=4, spec_changes=changes)
    play.commit(0, 1, 2, 3)
    assert play.cohort.summed([0, 1, 2]) == {0, 1, 2}
    play.count(0, 1, 2)
    assert play.see().attempt.void
    with pytest.raises(LedgerRejected):
        play.unmask(0)
    (finding,) = audit(world.reader(), world.store, play.job).findings
    assert (finding.kind, finding.who) == (Kind.CONTESTED, world.accounts[1].address)
    assert play.nodes[3].account in finding.explanation

    def open_to_unmasking(*arguments: Any, **options: Any) -> list[Any]:
        return [
            replace(each, reveal_end=each.at.timestamp + 60) if isinstance(each, Counted) else each
            for each in world.reader().events(*arguments, **options)
        ]

    node = Shows(world.reader(), events=open_to_unmasking)
    with pytest.raises(ChainUnreachable, match="an attempt is void where too few are counted"):
        Follower(node, play.job)
    assert Kind.RULE in {each.kind for each in audit(node, world.store, play.job).findings}


def test_the_command_line_tells_what_noise_keeps_before_a_stake(runner: Runner) -> None:
    section = "\n".join(["[participant_privacy]", *(f"{name} = {json.dumps(value)}" for name, value in LOCAL.items())])
    job = JOB.replace("fraction_bits = 14, norm_bound = 8.0", "fraction_bits = 10, norm_bound = 15.0")
    (runner.folder / "noisy.toml").write_text(job.replace("[terms]", f"{section}\n\n[terms]"))
    created = runner.run("job", "create", runner.folder / "noisy.toml", "--account", "sponsor")
    assert created.exit_code == 0, created.stderr
    told = "what is trained is clipped to length 0.5, then every node adds noise of 0.5 to every coordinate"
    assert told in " ".join(created.stderr.split())
    number = int(created.stdout)
    assert told in " ".join(runner.run("job", "show", number).stdout.split())
    checks = {each["check"]: each["found"] for each in runner.json("doctor", number, "--account", "ann")}
    assert told in checks["of participants"]
    data = runner.folder / "data-1.safetensors"
    tried = runner.json("doctor", number, "--account", "ann", "--data", data, "--epsilon-budget", 50)
    (privacy,) = (each["found"] for each in tried if each["check"] == "privacy")
    assert privacy.startswith("a round costs ε = ")
    assert "The budget of 50 lasts for " in privacy
    assert runner.json("status", number)["participant_privacy"] == {"epsilon": 0.0, "delta": 1e-4}


ADAPTIVE = DISTRIBUTED | {"adaptive": {"quantile": 0.5, "start": 0.05, "rate": 1.0}, "noise_multiplier": 0.5}


@pytest.mark.parametrize("lies", [False, True])
def test_the_clip_norm_follows_from_what_was_clipped_before(
    world: Any, lies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_with(world, ADAPTIVE, changes=MASKED, min_participants=3, max_participants=3, masked=True, rounds=3)
    clips: list[list[float]] = [[] for _ in range(3)]

    def noted(number: int) -> Any:
        def make(*arguments: Any, clip: float, **options: Any) -> Any:
            clips[number].append(clip)
            return make_update(*arguments, clip=clip, **options)

        return make

    if lies:

        def altered(*arguments: Any, **options: Any) -> Any:
            report = build_report(*arguments, **options)
            assert report.clip is not None
            return report.model_copy(update={"clip": report.clip.model_copy(update={"after": 16 / 2**10 / 0.5})})

        monkeypatch.setattr(settling, "build_report", altered)
    keys = [bytes(world.accounts[2 + number].key) for number in range(3)]
    nodes = [node(world, job, each, secret=keys[each], make_update=noted(each)) for each in range(3)]
    for role in [coordinator(world, job), *nodes]:
        role.join()
    assert clips[0] == clips[1] == clips[2], "from public reports, so that all have the same"
    result = audit(world.reader(), world.store, job, tasks=[world.task])
    if lies:
        assert clips[0][0] > clips[0][1] == clips[0][2] == 16 / 2**10 / 0.5, "noise keeps a standard deviation of 16"
        assert [each.explanation for each in result.findings] == ["the report's clip is not the chain's"] * 3
        return
    assert result.matches, result.findings
    assert len(set(clips[0])) == 3
    privacy = result.spec.participant_privacy
    clip = 0.05
    for each, used in zip(result.rounds, clips[0], strict=True):
        assert used == pytest.approx(clip, rel=1e-9)
        told = each.report.clip
        assert told.norm == used
        assert told.unclipped.counted == 3
        clip = privacy.after(used, unclipped=told.unclipped.total, counted=3, fraction_bits=10)
        assert told.after == clip
        assert each.report.release.model_dump() == asdict(result.spec.release)


def adaptive_play(world: Any, *, rounds: int) -> Play:
    """Whose reports, if `Play` settles, tell no clip norm."""
    changes = {"update": UPDATE, "participant_privacy": ADAPTIVE} | MASKED
    return Play(world, rounds=rounds, participants=3, coordinators=(1, 2), spec_changes=changes, settle_window=20)


def short(play: Play) -> Any:
    """An update that nobody minds, with the coordinate of who is within the clip."""
    return play.random.integers(-5, 5, play.spec.masked_coordinates).astype("<i2")


def test_a_report_that_tells_no_clip_norm_takes_no_successors_bond(world: Any) -> None:
    play = adaptive_play(world, rounds=2)
    play.commit(0, 1, 2, update=short(play))
    play.count(0, 1, 2)
    play.unmask(0, 1, 2)
    play.settle()
    successor = coordinator(world, play.job, 2)
    play.commit(0, 1, 2, update=short(play))
    within(90, lambda: play.see().attempt.counted, successor)
    assert play.see().serving == 1, "its predecessor was silent"
    play.unmask(0, 1, 2)
    successor.join()
    assert len(play.see().history) == 2
    result = audited(world, play.job)
    assert [(each.round, each.explanation) for each in result.findings] == [(0, "the report's clip is not the chain's")]
    assert result.rounds[1].report.clip.norm == pytest.approx(ADAPTIVE["adaptive"]["start"]), "none was told since"


def test_a_successor_leaves_where_nobody_can_have_the_report_that_told_the_clip_norm(world: Any) -> None:
    """The last one tells none, so that the one before is needed: it is looked for while the bond can still go."""
    play = adaptive_play(world, rounds=3)
    for number in range(2):
        play.commit(0, 1, 2, update=short(play))
        play.count(0, 1, 2)
        play.unmask(0, 1, 2)
        play.settle()
        if not number:
            forget(world, play.see().history[0].settled.report_digest)
    successor = coordinator(world, play.job, 2)
    with pytest.raises(BlobMissing):
        successor.join()
    assert world.accounts[2].address not in play.see().bonded
