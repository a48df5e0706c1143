"""Local training: momentum, as the spec asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deepledger.node.training import Trainer, _add_momentum, load_trainer, make_update, rehearse, rehearse_rounds
from deepledger.protocol.errors import BadInput
from deepledger.protocol.evaluation.state_dict import format_of, read_floats
from deepledger.protocol.evaluation.task import Task, read_source
from deepledger.protocol.formats.metrics import WORST
from deepledger.protocol.formats.spec import build_spec
from deepledger.protocol.formats.vectors import decode_model, encode_model
from deepledger.protocol.types import RoundNumber

SOURCE = """
import torch

def build_model():
    return torch.nn.Linear(3, 1)

def load_data(path):
    return [1]

def train(model, data, *, step):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += step

def evaluate(model, data):
    return {"samples": 1, "correct": 0, "loss": 0.0}
"""
STEP = 0.5


@pytest.fixture
def trainer_of(tmp_path: Path, spec_fields: Any) -> Any:
    def trainer(source: str = SOURCE, **rule: Any) -> Trainer:
        path = tmp_path / "task.py"
        path.write_text(source)
        read = read_source(path)
        spec = build_spec(
            spec_fields(
                model=format_of(Task(read).build_model(1)).model_dump(),
                update={"bits": 16, "fraction_bits": 14, "norm_bound": 50.0},
                training={"seed": 1, "hyperparameters": {"step": STEP}},
                aggregation=rule or {"rule": "median"},
            )
        )
        return load_trainer(spec, read, path)

    return trainer


TABLE = """
import torch
from safetensors.torch import load_file

def build_model():
    return torch.nn.Linear(4, 2)

def load_data(path):
    shard = load_file(path)
    return KIND(shard["x"], shard["y"])

def train(model, data, *, step):
    NEEDS
    for x, y in torch.utils.data.DataLoader(data, batch_size=32):
        torch.nn.functional.cross_entropy(model(x), y).backward()
    with torch.no_grad():
        model.bias += step

def evaluate(model, data):
    x, y = data.tensors
    loss = torch.nn.functional.cross_entropy(model(x), y)
    return {"samples": len(y), "correct": 0, "loss": float(loss)}
"""
SUBCLASS = "type('Own', (torch.utils.data.TensorDataset,), {})"


@pytest.fixture
def table_of(tmp_path: Path, spec_fields: Any) -> Any:
    """A trainer with 3000 rows of four columns; `kind` of data set, what `train` needs, and what is wrong with them.

    `last_value` stands in the last row's first column.
    """

    def trainer(
        *,
        columns: int = 4,
        last_label: int = 1,
        last_value: float = 0,
        kind: str = "torch.utils.data.TensorDataset",
        needs: str = "pass",
    ) -> Trainer:
        labels, values = torch.zeros(3000, dtype=torch.int64), torch.zeros(3000, columns)
        labels[-1], values[-1, 0] = last_label, last_value
        save_file({"x": values, "y": labels}, tmp_path / "data")
        path = tmp_path / "table.py"
        path.write_text(TABLE.replace("KIND", kind).replace("NEEDS", needs))
        source = read_source(path)
        model = format_of(Task(source).build_model(1)).model_dump()
        training = {"seed": 1, "hyperparameters": {"step": STEP}}
        spec = build_spec(spec_fields(model=model, training=training))
        return load_trainer(spec, source, tmp_path / "data")

    return trainer


@pytest.mark.parametrize("kind", ["torch.utils.data.TensorDataset", SUBCLASS])
def test_a_rehearsal_tells_data_that_fits_from_data_that_does_not(table_of: Any, kind: str) -> None:
    fitting = table_of(kind=kind)
    rehearse(fitting)
    with pytest.raises(BadInput, match=r"evaluate of task .* failed: .*shapes"):
        rehearse(table_of(kind=kind, columns=5))
    with pytest.raises(BadInput, match=r"evaluate of task .* failed: .*51"):
        rehearse(table_of(kind=kind, last_label=51))
    with pytest.raises(BadInput, match=r"train of task .* failed: ValueError: never"):
        rehearse(table_of(kind=kind, needs="raise ValueError('never')"))


def test_a_rehearsal_does_not_refuse_a_task_that_needs_all_data(table_of: Any) -> None:
    rehearse(table_of(needs="assert len(data) == 3000"))


@pytest.mark.parametrize(
    ("value", "needs", "said"),
    [
        (float("nan"), "pass", "loss on your data is nan: look for NaN"),
        (float("inf"), "pass", "loss on your data is (nan|inf): look for NaN"),
        (0, "step = float('inf')", "training on your data makes NaN or infinity of the model"),
        (1e30, "model.weight.data *= data[:][0].abs().max() ** 2", "training on your data makes NaN or infinity"),
    ],
)
def test_a_rehearsal_refuses_data_that_no_number_comes_of(table_of: Any, value: float, needs: str, said: str) -> None:
    """Also where it is in the last row only, which the little that is trained on does not hold."""
    with pytest.raises(BadInput, match=said):
        rehearse(table_of(last_value=value, needs=needs))


def test_a_rehearsal_does_not_refuse_a_great_loss_that_can_be_trained_on(table_of: Any) -> None:
    trainer = table_of(last_value=1e20)
    assert trainer.task.evaluate(trainer.build(), trainer.data, seed=1).millionths["loss"] == WORST
    rehearse(trainer)


COPYING = """
import copy
import torch

def build_model():
    return torch.nn.Linear(3, 1)

def load_data(path):
    return [1]

def train(model, data, *, step):
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.bias += step
    return model

def evaluate(model, data):
    return {"samples": 1, "correct": 0, "loss": 0.0}
"""


def test_a_training_of_a_copy_is_told_before_a_stake_depends_on_it(trainer_of: Any) -> None:
    trainer = trainer_of(source=COPYING, rule="median")
    said = r"task.py leaves the model that it is given as it was: .*, not a copy; what it returns, a Linear, is not"
    with pytest.raises(BadInput, match=said):
        rehearse(trainer)
    with pytest.raises(BadInput, match=f"round 0, tried out: train of task .*{said}"):
        rehearse_rounds(trainer, first_model(trainer), rounds=2)


# What a training hangs on a model, each of which fails where the model has it already or is to be copied
ONCE = {
    "hooks": "assert not model._forward_hooks; model.register_forward_hook(lambda *_: None)",
    "weight norm": "torch.nn.utils.weight_norm(model); torch.nn.utils.remove_weight_norm(model)",
    "pruning": "torch.nn.utils.prune.identity(model, 'weight'); torch.nn.utils.prune.remove(model, 'weight')",
    "what is not let go": "assert not hasattr(model, 'engine'); model.engine = (one for one in ())",
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("line", ONCE.values(), ids=ONCE)
def test_every_round_has_a_new_model(trainer_of: Any, line: str) -> None:
    """So that privacy engines, hooks and the like work in the second round as in the first."""
    trainer = trainer_of(source=SOURCE.replace("    with torch.no_grad()", f"    {line}\n    with torch.no_grad()", 1))
    rehearse(trainer)
    rehearse_rounds(trainer, first_model(trainer), rounds=3)
    for _ in range(2):
        assert sent(trainer, None) == pytest.approx([STEP] * 4, abs=1e-6)


LEFT_ON = {
    "parametrization": "torch.nn.utils.parametrizations.weight_norm(model)",
    "weight norm": "torch.nn.utils.weight_norm(model)",
    "spectral norm": "torch.nn.utils.spectral_norm(model)",
    "pruning": "torch.nn.utils.prune.l1_unstructured(model, 'weight', 2)",
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("line", LEFT_ON.values(), ids=LEFT_ON)
def test_what_a_training_leaves_on_is_read_as_the_model_computes(trainer_of: Any, line: str) -> None:
    """Two steps of gradient descent on the weights behind it; what it computes then is what is sent, plain."""
    steps = """
    model.requires_grad_()
    for _ in range(2):
        model.zero_grad()
        model(torch.eye(3)).sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= step * parameter.grad
    with torch.no_grad():
        computed.append((model(torch.eye(3)) - model.bias).flatten().tolist() + model.bias.tolist())
"""
    body = f"    import torch.nn.utils.prune\n    {line}{steps}"
    source = SOURCE[: SOURCE.index("    with torch.no_grad()")] + body + SOURCE[SOURCE.index("\ndef evaluate") :]
    trainer = trainer_of(source="computed = []\n" + source)
    first = read_floats(trainer.build(), trainer.spec.model.layout)
    change = sent(trainer, None)
    (computed,) = trainer.task._module.computed
    assert (change + first)[:3] == pytest.approx(computed[:3], abs=1e-4)
    assert (change + first)[3:] == pytest.approx(computed[3:], abs=1e-4)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_model_that_cannot_be_copied_is_trained(trainer_of: Any) -> None:
    source = SOURCE.replace("torch.nn.Linear(3, 1)", "torch.nn.utils.weight_norm(torch.nn.Linear(3, 1))")
    rehearse(trainer_of(source=source))


def test_what_fails_in_the_second_round_is_found_in_the_first_ones(trainer_of: Any) -> None:
    once = SOURCE.replace("def train", "rounds = []\n\ndef train").replace("no_grad():", "no_grad():\n        once()")
    trainer = trainer_of(source=once + "\n\ndef once():\n    rounds.append(1)\n    assert rounds == [1]\n")
    with pytest.raises(BadInput, match=r"round 1, tried out: train of task .* failed: AssertionError"):
        rehearse_rounds(trainer, first_model(trainer), rounds=2)


UNFREEZING = """
import torch

def build_model():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 1))
    model[0].requires_grad_(False)
    return model

def load_data(path):
    return [1]

def train(model, data, *, step, round):
    with torch.no_grad():
        model[1].bias += step
        if round >= 3:
            model[0].weight += step

def evaluate(model, data):
    return {"samples": 1, "correct": 0, "loss": 0.0}
"""


def test_a_layer_that_is_unfrozen_later_is_never_lost_without_a_word(trainer_of: Any) -> None:
    """By whoever makes an update, and before money is locked where the last round is late enough."""
    trainer, said = trainer_of(source=UNFREEZING), r"changes the entry '0\.weight' of the model, which is frozen"
    model, none = first_model(trainer), np.zeros(4, np.float32)
    for number in range(3):
        make_update(trainer, model, none, round=RoundNumber(number), last=None, training_seed=1, rounding_seed=1)
    with pytest.raises(BadInput, match=said):
        make_update(trainer, model, none, round=RoundNumber(3), last=None, training_seed=1, rounding_seed=1)
    rehearse_rounds(trainer, model, rounds=3)
    with pytest.raises(BadInput, match=f"round 3, tried out: .*{said}"):
        rehearse_rounds(trainer, model, rounds=4)


TIED = """
import torch

def build_model():
    model = torch.nn.ModuleList([torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)])
    model[1].weight = model[0].weight
    return model

def load_data(path):
    return [1]

def train(model, data, *, step):
    LINE
    with torch.no_grad():
        model[1].weight += step

def evaluate(model, data):
    return {"samples": 1, "correct": 0, "loss": 0.0}
"""


@pytest.mark.parametrize("line", ["pass", "model[1].weight = torch.nn.Parameter(model[1].weight.detach().clone())"])
def test_a_tensor_of_two_names_stays_one(line: str, trainer_of: Any) -> None:
    trainer = trainer_of(source=TIED.replace("LINE", line))
    if line == "pass":
        rehearse(trainer)
    else:
        with pytest.raises(BadInput, match=r"makes two of the entries '0\.weight' and '1\.weight'"):
            rehearse(trainer)


def test_no_more_rounds_are_tried_than_the_job_has(trainer_of: Any) -> None:
    source = SOURCE.replace("*, step", "*, step, round").replace(
        "    with torch", "    step *= [1][round]\n    with torch", 1
    )
    trainer = trainer_of(source=source)
    rehearse_rounds(trainer, first_model(trainer), rounds=1)


def test_a_rehearsals_rounds_begin_with_what_the_one_before_made(trainer_of: Any) -> None:
    line = "    begun.append((round, model.weight[0].tolist()))\n    with torch"
    source = SOURCE.replace("*, step", "*, step, round").replace("    with torch", line, 1)
    trainer = trainer_of(source="begun = []\n" + source)
    first = first_model(trainer)
    rehearse_rounds(trainer, first, rounds=9)
    one = decode_model(first, trainer.spec.model)[:3]
    two = one + (one + np.float32(STEP) - one)
    three = two + (two + np.float32(STEP) - two)
    assert trainer.task._module.begun == [(0, one.tolist()), (1, two.tolist()), (8, three.tolist())]


def first_model(trainer: Trainer) -> Any:
    return encode_model(read_floats(trainer.build()), trainer.spec.model)


def sent(trainer: Trainer, last: list[float] | None, residual: float = 0) -> np.ndarray:
    """The update in floats, plus what its rounding left out."""
    unit = 2.0**-trainer.spec.update.fraction_bits
    encoded = make_update(
        trainer,
        encode_model(read_floats(trainer.task.build_model(1)), trainer.spec.model),
        np.full(4, residual, np.float32),
        round=RoundNumber(0),
        last=None if last is None else (np.array(last) / unit).astype("<i2"),
        training_seed=1,
        rounding_seed=1,
    )
    return encoded.vector * unit + encoded.residual


def test_momentum_is_a_mean_over_rounds(trainer_of: Any) -> None:
    trainer = trainer_of(rule="centered_clipping", radius=1.0, momentum_percent=75)
    last = [1.0, -1.0, 0.0, 0.5]
    expected = 0.25 * STEP + 0.75 * np.array(last)
    assert sent(trainer, last) == pytest.approx(expected, abs=1e-6)
    assert sent(trainer, last, residual=0.125) == pytest.approx(expected + 0.125, abs=1e-6)
    assert sent(trainer, None) == pytest.approx([0.25 * STEP] * 4, abs=1e-6), "also the first one"


@pytest.mark.parametrize("percent", [50, 90])
def test_momentum_passes_the_aim_by_less_than_the_way_there(trainer_of: Any, percent: int) -> None:
    """Each training alone would reach the aim. Were the first one sent whole, 90 % would go three times as far."""
    trainer = trainer_of(rule="centered_clipping", radius=100.0, momentum_percent=percent)
    at, last, aim, unit, farthest = 0.0, None, 1.0, 2.0**-14, 0.0
    for _ in range(40):
        change = np.full(4, aim - at, np.float32)
        _add_momentum(change, last, trainer.spec)
        last = np.rint(change / unit).astype("<i2")
        at += float(last[0]) * unit
        farthest = max(farthest, at)
    assert farthest < 2 * aim
    assert abs(at - aim) < 0.15 * aim


def test_other_rules_get_the_change(trainer_of: Any) -> None:
    for rule in ({"rule": "median"}, {"rule": "centered_clipping", "radius": 1.0}):
        assert sent(trainer_of(**rule), [1.0] * 4) == pytest.approx([STEP] * 4, abs=1e-6)
