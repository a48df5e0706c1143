"""Whole rounds with differential privacy: what they cost is written down, and a budget ends them in order."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import pytest

from deepledger.cli import doctor
from deepledger.node.accountant import Accountant
from deepledger.node.notices import (
    CommittedUpdate,
    Finished,
    LeftSeat,
    PrivacyCharged,
    PrivacyForeseen,
    RoundOver,
    TookSeat,
    Trained,
    Withdrawn,
)
from deepledger.node.participate import participate
from deepledger.node.spending import ledger_of
from deepledger.node.training import make_update
from deepledger.protocol.errors import BadInput, PrivacySpent
from deepledger.protocol.formats.private_run import Steps, parse_statement
from deepledger.protocol.roles.notices import Warned
from tests.integration.test_roles import Actor, assert_audit_matches, coordinator

pytestmark = pytest.mark.one_chain

TASK = """
import torch
from safetensors.torch import load_file
from deepledger.privacy import make_private

def build_model():
    return torch.nn.Linear(20, 20)

def load_data(path):
    shard = load_file(path)
    return torch.utils.data.TensorDataset(shard["x"], shard["y"])

def train(model, data, *, learning_rate, noise_multiplier, times, round):
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    if noise_multiplier:
        loader = torch.utils.data.DataLoader(data, batch_size=10)
        optimizer, loader = make_private(model, optimizer, loader, noise_multiplier=noise_multiplier, clip_norm=1.0)
    else:
        loader = [data.tensors]
    for x, y in (batch for _ in range(times ** round) for batch in loader):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()

def evaluate(model, data):
    x, y = data.tensors
    return {"samples": len(x), "loss": float(torch.nn.functional.mse_loss(model(x), y))}
"""
ASKED = {"noise_multiplier": 2.0, "clip_norm": 1.0, "delta": 1e-3}
METRICS = {"loss": {"better": "lower", "scale": 1.0, "tolerance": 1e-6, "ties": 0}}


@pytest.fixture
def create(world):
    world.task.write_text(TASK)

    def job(*, noise_multiplier=2.0, times=1, asked=ASKED, more=None, **terms):
        given = {"learning_rate": 0.1, "noise_multiplier": noise_multiplier, "times": times}
        training = {"seed": 1, "hyperparameters": given}
        pin = world.spec()[0].validation.model_dump() | {"metrics": METRICS}
        changes = {"training": training, "differential_privacy": asked, "validation": pin}
        return world.create_job(**{"min_participants": 1, "spec_changes": changes | (more or {})} | terms)

    return job


def node(world, job, number, **options):
    return Actor(run_of(world, job, number, **options)).start()


def run_of(world, job, number, **options):
    given = {"tasks": [world.task], "data": world.shards[number], "folder": world.folder / "nodes"}
    return partial(participate, world.ledger(2 + number), world.store, job, **given | options)


def spent_by(world, number):
    return ledger_of(world.folder / "nodes/privacy", world.shards[number]).read()


def test_a_budget_ends_a_nodes_part_before_the_round_that_would_pass_it(world, create):
    job = create(rounds=4)
    settling, before = coordinator(world, job), world.reader().balance(world.accounts[3].address)
    a_round = (Steps(10 / 31, 2.0, 4),)
    budget = Accountant(a_round * 2).epsilon(ASKED["delta"]) + 0.01
    frugal = node(world, job, 1, epsilon_budget=budget, delta=ASKED["delta"])
    with pytest.raises(PrivacySpent, match=r" at δ = 0.001.*The seat was given up, and 1\.2\d*… ETH taken home"):
        frugal.join()
    other = node(world, job, 0)
    for role in (settling, other):
        role.join()
    assert isinstance(other.seen[-1], Finished)
    assert_audit_matches(world, job)

    charged = [each for each in frugal.seen if isinstance(each, PrivacyCharged)]
    trained = [each for each in frugal.seen if isinstance(each, Trained)]
    assert len(charged) == len(trained) == 2
    (foreseen,) = (each.forecast for each in frugal.seen if isinstance(each, PrivacyForeseen))
    assert (foreseen.lasts, foreseen.rounds, foreseen.budget) == (2, 4, budget)
    assert [each.epsilon for each in charged] == sorted(each.epsilon for each in charged)
    assert charged[-1].epsilon <= charged[-1].budget == budget
    assert {type(each) for each in frugal.seen} >= {LeftSeat, Withdrawn}
    assert world.reader().balance(world.accounts[3].address) > before
    assert [each.steps for each in spent_by(world, 1).lines] == [a_round] * 2
    assert len(spent_by(world, 0).lines) == 2

    again = node(world, create(), 1, epsilon_budget=charged[-1].epsilon / 2, delta=ASKED["delta"])
    with pytest.raises(PrivacySpent):
        again.join()
    assert not any(isinstance(each, TookSeat) for each in again.seen)


def test_a_commitment_binds_what_its_training_kept_private(world, create):
    job = create(rounds=1)
    for role in [coordinator(world, job), node(world, job, 0)]:
        role.join()
    result = assert_audit_matches(world, job)
    (reveal,) = result.job.history[0].opened.reveals
    run = parse_statement(world.store.read(reveal.salt, limit=1 << 20)).run
    assert run.steps == (Steps(1 / 3, 2.0, 3),)
    assert (run.samples, run.past) == (30, None)

    cannot = "differential privacy cannot be checked, since noise inside training cannot be seen: {} of 1 updates bind"
    assert cannot.format(1) in result.notes[-1]
    files = [path for path in world.folder.rglob("*") if path.is_file()]
    (stated,) = (path for path in files if path.read_bytes().startswith(b'{"nonce'))
    stated.unlink()
    said = assert_audit_matches(world, job).notes
    assert cannot.format(0) in said[-2]
    assert f"in round 0 {world.accounts[2].address} states nothing that reaches what the job asks" in said[-1]


@pytest.mark.parametrize(
    ("noise", "said"),
    [(1.5, "with a noise multiplier of 2 or more, and training has 1.5"), (0, "makes nothing private")],
)
def test_a_task_that_does_not_reach_what_the_job_asks_for_is_refused_before_a_stake(world, create, noise, said):
    one = node(world, create(noise_multiplier=noise), 0)
    with pytest.raises(BadInput, match=said):
        one.join()
    assert not one.seen


def test_a_budget_refuses_a_task_that_keeps_nothing_private_before_a_stake(world, create):
    one = node(world, create(noise_multiplier=0, asked=None), 0, epsilon_budget=3)
    with pytest.raises(BadInput, match="there is a privacy budget, and nothing is guaranteed"):
        one.join()
    assert not one.seen


def test_a_budget_that_leaves_no_round_is_told_before_a_stake(world, create):
    budget = Accountant([Steps(1 / 3, 2.0, 2)]).epsilon(ASKED["delta"])  # of three steps that a round takes
    one = node(world, create(), 0, epsilon_budget=budget, delta=ASKED["delta"])
    with pytest.raises(PrivacySpent, match="one round would pass it"):
        one.join()
    assert not one.seen
    assert not spent_by(world, 0).lines


def test_masked_rounds_are_counted_by_the_node_and_bind_no_statement(world, create):
    masked = {"privacy": "masked", "masks": {"weight_bits": 4}}
    job = create(more=masked, min_participants=3, rounds=1, masked=True)
    keys = [bytes(world.accounts[2 + number].key) for number in range(3)]
    for role in [coordinator(world, job), *(node(world, job, each, secret=keys[each]) for each in range(3))]:
        role.join()
    assert "masked updates bind no statement of it" in assert_audit_matches(world, job).notes[-1]
    assert [len(spent_by(world, number).lines) for number in range(3)] == [1, 1, 1]
    mine = doctor.Mine(world.reader(), job, world.accounts[2].address, world.folder / "nodes/privacy")
    assert doctor._written_down(mine) == "all that this account committed to in this job, 1 update"


def test_a_training_that_comes_to_the_budget_is_given_up_and_costs_nothing(world, create):
    job = create(times=2, rounds=3)  # of three steps a round as it is rehearsed, and six in the second
    settling = coordinator(world, job)
    budget = Accountant([Steps(1 / 3, 2.0, 8)]).epsilon(ASKED["delta"])
    one = node(world, job, 0, epsilon_budget=budget + 0.01, delta=ASKED["delta"])
    with pytest.raises(PrivacySpent, match=r"the next step would pass the privacy budget.*ETH taken home"):
        one.join()
    assert [each.round for each in one.seen if isinstance(each, Trained | PrivacyCharged)] == [0, 0]
    assert [each.steps for each in spent_by(world, 0).lines] == [(Steps(1 / 3, 2.0, 3),)]
    settling.stop.set()
    settling.join()


def as_given(world, **changes):
    """The job's first update format, with other values."""
    return world.spec()[0].update.model_dump() | changes


def behind_noise(world):
    noise = {"mechanism": "local", "clip_norm": 1.0, "noise_multiplier": 3.0, "delta": 1e-3}
    return {
        "participant_privacy": noise,
        "update": as_given(world, bits=16, fraction_bits=6, norm_bound=400.0),
    }


def test_what_was_trained_and_rounds_to_nothing_is_charged_since_later_updates_carry_it(world, create):
    """However many trainings one update carries, each was written down before it left."""
    world.task.write_text(
        world.task.read_text().replace("lr=learning_rate", "lr=learning_rate if round == 2 else 1e-6")
    )
    more = {"update": as_given(world, fraction_bits=2, norm_bound=100.0)}
    job = create(rounds=3, miss_limit=5, commit_window=15, more=more)
    carried = []

    def noted(trainer, before, residual, *, round, **given):
        kept = np.array(residual)
        encoded = make_update(trainer, before, residual, round=round, **given)
        carried.append((bool(kept.any()), not np.any(encoded.vector[0 : len(kept)])))
        for _ in range(200):  # so that the round does without this one
            if any(isinstance(each, CommittedUpdate) and each.round == round for each in list(other.seen)):
                break
            time.sleep(0.05)
        return encoded

    def rounds_to_something(trainer, before, residual, **given):
        encoded = make_update(trainer, before, residual, **given)
        encoded.vector[0] += 1
        return encoded

    other = Actor(run_of(world, job, 1, make_update=rounds_to_something))
    idle = node(world, job, 0, make_update=noted)
    for role in (coordinator(world, job), idle, other.start()):
        role.join()
    assert carried[-1] == (True, False), "what was trained before travels in the last update"
    trained = [each.round for each in idle.seen if isinstance(each, Trained)]
    assert len(trained) == len(carried) >= 3
    assert len([each for each in idle.seen if isinstance(each, CommittedUpdate)]) < len(trained)
    spent = spent_by(world, 0)
    assert [each.round for each in spent.lines] == trained
    told = Accountant([Steps(1 / 3, 2.0, 3)] * len(trained)).epsilon(ASKED["delta"])
    assert spent.epsilon(ASKED["delta"]) == pytest.approx(told)


def test_an_update_is_charged_to_the_data_that_it_was_trained_on_whatever_a_restarted_node_is_given(world, create):
    job = create(rounds=1, commit_window=60)
    settling = coordinator(world, job)
    Actor(run_of(world, job, 0), kill_on=Trained).start().join()
    again = node(world, job, 0, data=world.shards[1])
    for role in (again, settling):
        role.join()
    assert not any(isinstance(each, Trained) for each in again.seen)
    assert any(isinstance(each, CommittedUpdate) for each in again.seen)
    assert [len(spent_by(world, number).lines) for number in range(2)] == [1, 0]


def test_an_update_behind_noise_alone_is_followed_by_none_that_only_its_own_steps_are_charged_for(world, create):
    """The first is cheaper by its noise, the second would be by its steps, and carries what the first left out."""
    world.task.write_text(world.task.read_text().replace("times ** round", "(50 if round == 0 else 1)"))
    job = create(rounds=2, noise_multiplier=4.0, more=behind_noise(world))
    for role in (coordinator(world, job), node(world, job, 0)):
        role.join()
    spent = spent_by(world, 0)
    release = spent.lines[0].release
    assert release is not None
    its_steps = Steps(1 / 3, 4.0, 3)
    assert Accountant([release, its_steps]).epsilon(1e-3) < Accountant([release] * 2).epsilon(1e-3)
    assert [each.costs for each in spent.lines] == [(release,)] * 2


def test_what_noise_hid_of_some_data_is_not_sent_with_others_that_are_charged_alone(world, create):
    job = create(rounds=2, noise_multiplier=0, asked=None, more=behind_noise(world))
    settling, residuals = coordinator(world, job), []

    def noted(trainer, before, residual, **given):
        residuals.append(bool(np.any(residual)))
        return make_update(trainer, before, residual, **given)

    Actor(run_of(world, job, 0), kill_on=RoundOver).start().join()
    again = node(world, job, 0, data=world.shards[1], make_update=noted)
    for role in (again, settling):
        role.join()
    said = [each.message for each in again.seen if isinstance(each, Warned)]
    assert any("What earlier rounds left out is not sent with round 1" in each for each in said)
    assert residuals == [False]
    assert [[each.round for each in spent_by(world, number).lines] for number in range(2)] == [[0], [1]]


def test_a_round_that_keeps_nothing_private_is_counted_after_one_that_did(world, create):
    world.task.write_text(world.task.read_text().replace("if noise_multiplier:", "if round == 0:"))
    job = create(rounds=2, asked=None)
    for role in (coordinator(world, job), node(world, job, 0)):
        role.join()
    spent = spent_by(world, 0)
    assert [each.round for each in spent.lines] == [0, 1]
    assert not spent.is_bounded, "else ε of the first would be told for both"
