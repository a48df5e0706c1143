"""The laboratory: attacks succeed where they must, and find nothing where there is nothing to be found."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from deepledger.cli import leaks
from deepledger.cli.privacy import fewest
from deepledger.node.attacks import inversion, laboratory, membership, shares
from deepledger.node.attacks.laboratory import ALONE, CONTROL, SUMMED, Attack
from deepledger.node.attacks.measures import FALSE_ALARMS, fit_of, separate
from deepledger.node.attacks.scene import Sight, columns_of, halves, losses, mean_of, update_of
from deepledger.node.training import Trainer
from deepledger.protocol.errors import BadInput, BadSpec
from deepledger.protocol.evaluation.samples import take
from deepledger.protocol.evaluation.state_dict import format_of, read_floats
from deepledger.protocol.evaluation.task import Task, TaskSource
from deepledger.protocol.formats.vectors import encode_model

pytestmark = pytest.mark.slow

TASK = """
import torch
from torch import nn

def build_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.Sigmoid(), nn.Linear(24, 6))

def load_data(path):
    raise OSError

def train(model, data, *, steps, noise):
    inputs, labels = data.tensors
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += noise * torch.randn_like(parameter)

def evaluate(model, data):
    inputs, labels = data.tensors
    logits = model(inputs)
    loss = nn.functional.cross_entropy(logits, labels)
    return {"samples": len(labels), "correct": int((logits.argmax(1) == labels).sum()), "loss": float(loss)}
"""


def patterns(number, seed, *, learnable):
    """Images of 6 x 6 of six kinds, or with labels that nothing tells."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 6, number)
    images = random.random((number, 6, 6))
    if learnable:
        images[np.arange(number), labels] += 1
    return TensorDataset(torch.tensor(images, dtype=torch.float32), torch.tensor(labels))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small models train no faster with more, and far slower where cores are busy
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def scene_for(spec_of, tmp_path_factory):
    path = tmp_path_factory.mktemp("attacks") / "task.py"
    path.write_text(TASK)

    def scene(*, steps, noise=0.0, learnable=False, own=40, beside=120, source=TASK, data=None, similar=None, **job):
        task = Task(TaskSource(path, source.encode()))
        model = task.build_model(1)
        spec = spec_of(
            task={"name": "task", "sha256": task.source.sha256},
            model=format_of(model).model_dump(),
            training={"seed": 1, "hyperparameters": {"steps": steps, "noise": noise}},
            **{"update": {"bits": 16, "fraction_bits": 10, "norm_bound": 1e4}} | job,
        )
        trainer = Trainer(spec, task, data or patterns(own, 1, learnable=learnable))
        before = encode_model(read_floats(model), spec.model)
        return laboratory.scene_of(
            trainer, before, similar or patterns(beside, 2, learnable=learnable), round=0, seed=0
        )

    return scene


def seen(scene, rows=None):
    return Sight(update_of(scene, scene.own if rows is None else take(scene.own, rows.tolist()), seed=1), 1)


def half_seen(scene):
    return seen(scene, halves(scene)[0])


def test_measures_are_what_they_say():
    random = np.random.default_rng(0)
    members, others = random.normal(0.5, 1, 60).round(1), random.normal(0, 1, 80).round(1)
    found = separate(members, others)
    pairs = np.sign(members[:, None] - others[None, :])
    assert found.auc == pytest.approx((pairs + 1).mean() / 2)
    assert found.low < found.auc < found.high
    assert found.caught == (members > sorted(others)[-1 - int(FALSE_ALARMS * len(others))]).mean()
    assert found.curve[0] == (0, 0)
    assert found.curve[-1] == (1, 1)
    area = sum((x - w) * (y + z) / 2 for (w, z), (x, y) in zip(found.curve, found.curve[1:], strict=False))
    assert area == pytest.approx(found.auc)
    same = separate(np.zeros(30), np.zeros(30))
    assert (same.auc, same.found, same.caught) == (0.5, False, 0.0)
    assert fit_of(members, 2 * members + 1, independent=60).correlation == pytest.approx(1)
    assert not fit_of(np.ones(9), members[:9], independent=9).found, "who guesses the same of all has guessed nothing"


def test_the_interval_misses_the_truth_as_often_as_it_says():
    random = np.random.default_rng(0)
    wrong = sum(separate(random.normal(size=40), random.normal(size=60)).found for _ in range(1000))
    assert wrong <= 20, "one side of 99 %: 5 are expected"
    pairs = (random.normal(size=(2, 8, 2)) for _ in range(1000))
    wrong = sum(fit_of(*pair, independent=16).found for pair in pairs)
    assert wrong <= 20


def test_near_is_told_from_nearer_than_chance():
    """Of data in two dimensions, chance brings some guess near to some record; who has the record is nearer by far."""
    random = torch.Generator().manual_seed(0)
    found, records = 0, torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    near = inversion.compare(records + 0.1, records, records[:1].expand(50, 2))
    assert near.nearest == pytest.approx(20)
    assert inversion.compare(records, records, torch.full((50, 2), 0.5)).nearest == 100
    for _ in range(300):
        guesses, records, others = (torch.rand(number, 2, generator=random) for number in (8, 60, 40))
        found += inversion.compare(guesses, records, others).found
    assert found <= 9, "3 are expected by chance"
    assert inversion.compare(torch.cat([guesses, records[:1] + 1e-4]), records, others).found


def test_who_guesses_how_records_of_a_label_look_on_average_has_found_none(scene_for):
    images, labels = patterns(400, 3, learnable=True).tensors
    mine, theirs = TensorDataset(images[labels == 1], labels[labels == 1]), patterns(120, 2, learnable=True)
    bright = TensorDataset(images[labels == 1] + 3, labels[labels == 1])
    scene = scene_for(steps=1, data=mine, similar=bright)
    rows, others = inversion.sides(scene)
    records = images[labels == 1]
    assert inversion.compare(records.mean(0)[None], records[rows], bright.tensors[0]).found, "data of another kind"
    assert not inversion.compare(records.mean(0)[None], records[rows], others).found
    assert len(rows) + len(others) == len(records)
    few = scene_for(steps=1, data=take(mine, range(8)), similar=theirs)
    rows, others = inversion.sides(few)
    inputs, targets = few.similar.tensors
    assert (rows, len(others)) == ([*range(8)], (targets == 1).sum())
    assert torch.equal(others, inputs[targets == 1])
    told = laboratory.run(few, [Attack.INVERSION], participants=2, shadows=4, plays=9)
    assert f"{len(others)} records that were not trained on have labels of yours" in told.unsuited[Attack.INVERSION]


@pytest.mark.parametrize(("kinds", "participants"), [(10, 1), (10, 5), (2, 3)])
def test_shares_are_not_guessed_from_updates_that_show_nothing(kinds, participants):
    random, found = np.random.default_rng(0), 0
    for _ in range(100):
        mixes, nothing = random.dirichlet(np.ones(kinds), 24), random.normal(size=(24, kinds)).astype(np.float32)
        found += shares.how_well(mixes, [*nothing], participants, lambda each: each, random).found
    assert found <= 4, "1 is expected"


def test_sums_are_of_updates_that_differ_and_of_too_few_nothing_is_said(scene_for):
    ones, random = np.eye(8, dtype=np.float32), np.random.default_rng(0)
    known, _ = shares._summed(np.eye(8), [*ones], np.arange(8), 5, lambda each: each, random)
    assert set(known.ravel().tolist()) == {0, 0.2}, "who takes an update twice has a share of two fifths"
    scene = scene_for(steps=1)
    told = laboratory.run(scene, [Attack.SHARES], participants=3, shadows=4, plays=11)
    assert list(told.found[Attack.SHARES]) == [ALONE]
    assert told.unsuited == {Attack.SHARES: "11 updates make 3 sums of 3 that share none: give --plays 12 or more"}
    told = laboratory.run(scene, [Attack.SHARES], participants=3, shadows=4, plays=12)
    drawn = laboratory.data_of_others(scene, 2, seed=laboratory._OTHERS_SEED)
    mean = np.mean([shares.shares_in(scene, each) for each in (scene.own, *drawn)], axis=0)
    assert told.found[Attack.SHARES][SUMMED].true == pytest.approx(mean), "of those whose updates are in the sum"


def test_losses_are_the_tasks_own(scene_for):
    """At once where the task's loss is the usual one, one by one where it is not, with the same meaning."""
    scene = scene_for(steps=3)
    fast = losses(scene, None, scene.own)
    slow = [scene.trainer.task.measure(scene.trainer.build(), take(scene.own, [row]), seed=1)[1] for row in range(40)]
    assert fast == pytest.approx(slow, rel=1e-3)
    odd = scene_for(steps=3, source=TASK.replace("cross_entropy(logits, labels)", "cross_entropy(logits, labels) ** 2"))
    assert losses(odd, None, odd.own) == pytest.approx(fast**2, rel=1e-3)


def test_who_was_learned_by_heart_is_told_and_who_was_drowned_in_noise_is_not(scene_for):
    scene = scene_for(steps=60)
    sights = [
        half_seen(scene),
        Sight(mean_of([half_seen(scene).change, *[update_of(scene, scene.others, seed=5)] * 2]), 3),
    ]
    by_heart = membership.by_threshold(scene, sights[0])
    assert by_heart.low > 0.75
    assert not membership.by_threshold(scene, None).found, "the model before the update knows none of them"
    alone, summed = membership.by_likelihood(scene, sights, shadows=6)
    assert alone.low > 0.9
    assert summed.auc < alone.auc, "others' updates are in the sum"
    noisy = replace(scene, trainer=scene_for(steps=20, noise=20.0).trainer)
    drowned = half_seen(noisy)
    assert not membership.by_threshold(noisy, drowned).found
    assert not membership.by_likelihood(noisy, [drowned], shadows=4)[0].found


def test_who_has_other_labels_than_others_is_no_member_for_that(scene_for):
    """Inputs are all alike: an update tells how many records have each label, and of no record that it was there."""
    inputs, labels = torch.zeros(120, 6, 6), patterns(120, 3, learnable=False).tensors[1]
    data, similar = TensorDataset(inputs, labels // 3), TensorDataset(inputs, labels)
    scene = scene_for(steps=10, data=data, similar=similar)
    scenes = [replace(scene, seed=seed) for seed in range(20)]
    assert sum(membership.by_threshold(each, half_seen(each)).found for each in scenes) <= 1
    ratios = [membership.by_likelihood(each, [half_seen(each)], shadows=4)[0] for each in scenes[:8]]
    assert sum(each.found for each in ratios) <= 1
    wanted = [Attack.THRESHOLD, Attack.LIKELIHOOD]
    told = laboratory.run(scene, wanted, participants=2, shadows=4, plays=9)
    assert not any(each[ALONE].found for each in told.found.values())
    few = laboratory.run(scene_for(steps=1, own=39), wanted, participants=2, shadows=4, plays=9)
    assert not few.found
    assert all("of 39 records no half can be left out" in why for why in few.unsuited.values())


def test_likelihood_ratios_are_those_of_two_normal_distributions():
    random = np.random.default_rng(3)
    shadows, observed = random.normal(size=(6, 4)), random.normal(size=4)
    inside = np.array([[1, 0, 1, 0], [0, 1, 0, 1]] * 3, bool)
    spread = {}
    for which in (True, False):
        deviations = [shadows[inside[:, n] == which, n] - shadows[inside[:, n] == which, n].mean() for n in range(4)]
        spread[which] = np.mean(np.square(deviations))

    def log_density(which, record):
        middle = shadows[inside[:, record] == which, record].mean()
        return -((observed[record] - middle) ** 2) / (2 * spread[which]) - 0.5 * np.log(spread[which])

    expected = [log_density(True, record) - log_density(False, record) for record in range(4)]
    assert membership.likelihood_ratios(observed, shadows, inside=inside) == pytest.approx(np.array(expected))


def test_a_gradient_of_one_record_shows_it_and_one_with_noise_does_not(scene_for):
    scene = scene_for(steps=1)
    clue = inversion.one_step(scene, [3])
    shown = inversion.reconstruct(scene, clue, [3], others=inversion.alike(scene, [3]))
    assert shown.nearest > 25
    assert shown.found
    assert torch.equal(shown.truth, scene.own.tensors[0][3])
    records = columns_of(scene.similar)[0]
    inputs, labels = (column[3:4] for column in scene.own.tensors)
    deep = inversion.match_distance(scene, clue[0], labels, inputs, seed=0)
    assert inversion.compare(deep, inputs, records).nearest > 25
    noise = [part + 10 * part.std() * torch.randn_like(part) for part in clue[0].gradient]
    assert not inversion.reconstruct(scene, [inversion.Clue(noise)], [3], others=inversion.alike(scene, [3])).found


def test_of_a_sparse_update_only_what_travelled_is_held_against_a_guess(scene_for, capsys):
    sparse = {"bits": 16, "fraction_bits": 12, "norm_bound": 1e3, "share": 0.3}
    source = TASK.replace(
        "torch.optim.Adam(model.parameters(), lr=0.05)", "torch.optim.SGD(model.parameters(), lr=0.5)"
    )
    scene = scene_for(steps=1, source=source, data=patterns(1, 1, learnable=False), update=sparse)
    inputs, labels = scene.own.tensors
    clue = inversion.clues_in(scene, seen(scene))[0]
    guess, away = inversion.match_direction(scene, clue, labels, inputs, seed=0)
    assert away < 1e-3, "zeros that did not travel are no part of the gradient"
    assert inversion.compare(guess, inputs, inversion.alike(scene, [0])).nearest > 20
    many = replace(scene, trainer=replace(scene.trainer, data=patterns(40, 1, learnable=False)))
    findings = laboratory.run(many, [Attack.LIKELIHOOD], participants=2, shadows=4, plays=9)
    leaks.tell(findings, many.trainer.spec, 2)
    told = " ".join("".join(capsys.readouterr()).split())
    assert "an update of a first round, and later ones carry what earlier ones left" in told
    assert "there is no control" in told


def test_a_linear_first_layer_tells_a_record_after_any_number_of_steps(scene_for):
    scene = scene_for(steps=1, source=TASK.replace("torch.optim.Adam(model.parameters(), lr=0.05)",
                                                   "torch.optim.SGD(model.parameters(), lr=0.5)"))  # fmt: skip
    scene = replace(scene, trainer=laboratory.with_changes(scene.trainer, {"steps": 30}))
    sight = Sight(update_of(scene, take(scene.own, [0]), seed=1), 1)
    read = inversion.read_first_layer(scene, inversion.clues_in(scene, sight)[0], scene.own.tensors[0])
    assert inversion.compare(read, scene.own.tensors[0][:1], columns_of(scene.similar)[0]).nearest > 20


def test_shares_of_labels_show_in_a_sum_and_not_in_noise(scene_for):
    scene = scene_for(steps=20, learnable=True, own=60, beside=240)
    lopsided = take(scene.own, torch.nonzero(scene.own.tensors[1] == 1).flatten().tolist())
    scene = replace(scene, trainer=replace(scene.trainer, data=lopsided))
    mine, theirs = (shares.shares_in(scene, data) for data in (scene.own, scene.others))
    assert mine.tolist() == [0, 1, 0, 0, 0, 0]
    own, other = seen(scene).change, update_of(scene, scene.others, seed=9)
    sights = [(Sight(own, 1), mine), (Sight(mean_of([own, other]), 2), (mine + theirs) / 2)]
    for told in shares.infer(scene, sights, plays=15):
        assert told.found
        assert told.guessed.argmax() == 1
    noisy = replace(scene, trainer=laboratory.with_changes(scene.trainer, {"noise": 20.0}))
    (nothing,) = shares.infer(noisy, [(seen(noisy), mine)], plays=15)
    assert not nothing.found


def test_what_a_job_adds_and_leaves_out_is_in_the_update_that_is_attacked(scene_for):
    privacy = {"mechanism": "local", "clip_norm": 1.0, "noise_multiplier": 0.25, "delta": 1e-5}
    scene = scene_for(steps=60, participant_privacy=privacy)
    assert 0.25 * 0.9 < update_of(scene, scene.own, seed=1).std() < 0.25 * 1.2
    assert not membership.by_threshold(scene, half_seen(scene)).found
    louder = laboratory.with_changes(scene.trainer, {"participant_privacy.noise_multiplier": 2.0})
    assert update_of(replace(scene, trainer=louder), scene.own, seed=1).std() > 1.8
    with pytest.raises(BadSpec, match="noise_multiplier"):
        laboratory.with_changes(scene.trainer, {"participant_privacy.noise_multiplier": -1.0})
    sparse = scene_for(steps=5, update={"bits": 16, "fraction_bits": 10, "norm_bound": 1e4, "share": 0.1})
    moved = update_of(sparse, sparse.own, seed=1)
    assert 0 < np.count_nonzero(moved) <= 0.11 * len(moved)


def test_the_sum_that_is_attacked_is_the_smallest_that_becomes_public(spec_of):
    masked = {"privacy": "masked", "update": {"bits": 16, "fraction_bits": 16, "norm_bound": 5.0}}
    terms = SimpleNamespace(min_participants=15)
    assert fewest(spec_of(), SimpleNamespace(min_participants=1)) == 2
    assert fewest(spec_of(**masked, masks={}), terms) == 15
    dealt = {"groups": 3, "least": 4}
    assert fewest(spec_of(**masked, masks=dealt, aggregation={"rule": "median"}), terms) == 4


def test_what_cannot_be_attacked_is_said_by_name(scene_for):
    inputs, labels = patterns(60, 1, learnable=False).tensors
    odd_loss = TASK.replace("cross_entropy(logits, labels)", "cross_entropy(logits, labels) ** 2")
    assert "neither a cross-entropy" in inversion.unsuited(scene_for(steps=1, source=odd_loss))
    words = TASK.replace("nn.Flatten()", "nn.Embedding(9, 36), nn.Flatten()")
    tokens = TensorDataset(labels[:, None], labels)
    scene = scene_for(steps=1, source=words, data=tokens, similar=tokens)
    assert "int64, which no gradient reaches" in inversion.unsuited(scene)
    assert shares.unsuited(scene) is None
    single = TensorDataset(inputs)
    source = TASK.replace("inputs, labels = data.tensors", "inputs, = data.tensors; labels = inputs[:, 0, 0].long()")
    scene = scene_for(steps=1, source=source, data=single, similar=single)
    assert "no pairs" in inversion.unsuited(scene)
    assert "no pairs" in shares.unsuited(scene)
    assert membership.by_threshold(scene, None).auc == pytest.approx(0.5, abs=0.3), "any task's loss can be looked at"
    rare = TensorDataset(inputs, torch.full_like(labels, 2))
    assert "not every label" in shares.unsuited(scene_for(steps=1, similar=rare))
    assert "kinds" in shares.unsuited(scene_for(steps=1, data=rare, similar=rare))
    with pytest.raises(BadInput, match="39 records that were not trained on"):
        scene_for(steps=1, beside=39)
    with pytest.raises(BadInput, match="no 'rate' that can be set; it has steps, noise"):
        laboratory.with_changes(scene.trainer, {"rate": 1})
    with pytest.raises(BadSpec, match="hyperparameters"):
        laboratory.with_changes(scene.trainer, {"steps": {"a": 1}})


@pytest.mark.slow
def test_all_of_it_runs_on_a_regression_which_is_told_by_halves(scene_for):
    def numbers(seed):
        inputs, _ = patterns(60, seed, learnable=False).tensors
        return TensorDataset(inputs, inputs[:, 0].sum(1))

    source = (
        TASK.replace("Linear(24, 6)", "Linear(24, 1), nn.Flatten(0)")
        .replace("cross_entropy", "mse_loss")
        .replace("int((logits.argmax(1) == labels).sum())", "0")
    )
    scene = scene_for(steps=10, source=source, data=numbers(1), similar=numbers(2))
    calls = []
    findings = laboratory.run(
        scene, list(Attack), participants=2, shadows=4, plays=9, progress=lambda: calls.append(None)
    )
    assert not findings.unsuited
    assert list(findings.found) == list(Attack)
    assert len(calls) == laboratory.steps(list(Attack), shadows=4, plays=9) == 13
    assert findings.found[Attack.INVERSION][CONTROL].found
    for name in (ALONE, SUMMED):
        assert findings.found[Attack.SHARES][name].names == ("smaller half", "greater half")
        assert findings.found[Attack.SHARES][name].true.sum() == pytest.approx(1)
