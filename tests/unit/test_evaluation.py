"""The bench: lazily read validation sets, models that a task cannot stand, and what is left behind."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepledger.protocol.blobs import digest_of
from deepledger.protocol.blobs.directory import DirectoryStore
from deepledger.protocol.errors import BadInput, BadSpec, StateError
from deepledger.protocol.evaluation.bench import Bench, BenchHere, agrees, prepare_bench
from deepledger.protocol.evaluation.state_dict import format_of, keep_model, read_floats
from deepledger.protocol.evaluation.task import Task, read_source
from deepledger.protocol.formats.evaluation import FAILED_LOSS, Evaluation, failure
from deepledger.protocol.formats.metrics import ACCURACY, BUILT_IN, LOSS, Metric
from deepledger.protocol.formats.spec import build_spec
from deepledger.protocol.formats.vectors import encode_model, load

TASK = """
import torch

class Lazy:
    def __init__(self, path):
        if path.read_text() == "broken":
            raise ValueError("broken")
        self.path = path
    def __len__(self):
        return 3
    def __getitem__(self, index):
        return float(self.path.read_text()[index])

def build_model():
    return torch.nn.Linear(1, 1)

def load_data(path):
    return Lazy(path)

def train(model, data):
    pass

def evaluate(model, data):
    if float(model.weight.abs().max()) > 100:
        raise ValueError("Input contains infinity")
    return {"samples": len(data), "correct": 0, "loss": data[0] + data[1] + data[2]}
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def prepare(folder: Path, validation: bytes, task: str = TASK, metrics: Mapping[str, Any] = BUILT_IN) -> Bench:
    (folder / "lazy.py").write_text(task)
    source = read_source(folder / "lazy.py")
    store = DirectoryStore(folder / "store")
    store.put(validation)
    spec = build_spec(
        {
            "version": 1, "name": "lazy", "task": {"name": "lazy", "sha256": source.sha256},
            "model": format_of(Task(source).build_model(1)).model_dump(),
            "update": {"bits": 16, "fraction_bits": 14, "norm_bound": 5.0},
            "training": {"seed": 1, "hyperparameters": {}}, "aggregation": {"rule": "weighted_mean"},
            "rewards": {"policy": "samples"}, "privacy": "open", "max_samples": 1000,
            "validation": {"digest": digest_of(validation).hex(), "bytes": len(validation), "metrics": metrics},
        }
    )  # fmt: skip
    return prepare_bench(store, spec, source)


def test_data_may_be_read_when_it_is_needed_and_is_gone_with_the_bench(tmp_path: Path, temporary: Path) -> None:
    bench = prepare(tmp_path, b"123")
    model = encode_model(read_floats(bench.build()), bench.spec.model)
    for _ in range(2):
        assert bench.evaluate(model) == Evaluation(samples=3, correct=0, millionths={"loss": 6_000_000})
    assert len(list(temporary.rglob("validation"))) == 1
    del bench
    gc.collect()
    assert list(temporary.iterdir()) == []


def test_a_model_that_is_built_ahead_serves_one_evaluation(tmp_path: Path) -> None:
    """What `evaluate` does to a model must be gone with it."""
    spoils = TASK.replace('return {"samples"', 'model.weight.data += 1\n    return {"samples"')
    bench = prepare(tmp_path, b"123", task=spoils.replace("data[0] +", "float(model.weight.detach()) + data[0] +"))
    model = encode_model(np.array([0.5, 0], np.float32), bench.spec.model)
    plain = bench.evaluate(model)
    assert isinstance(bench, BenchHere)
    for _ in range(2):
        bench.build_ahead()
    assert len(bench.ahead) == 1
    assert [bench.evaluate(model) for _ in range(3)] == [plain] * 3
    assert plain.millionths == {"loss": 7_500_000}
    assert not bench.ahead


def test_nothing_is_left_behind_by_data_that_cannot_be_loaded(tmp_path: Path, temporary: Path) -> None:
    with pytest.raises(BadInput, match=r"load_data .* failed: ValueError: broken"):
        prepare(tmp_path, b"broken")
    assert list(temporary.iterdir()) == []


def test_a_model_that_the_task_cannot_stand_has_the_worst_result(tmp_path: Path, temporary: Path) -> None:
    bench = prepare(tmp_path, b"123")
    poisoned = encode_model(np.array([1000, 0], np.float32), bench.spec.model)
    assert bench.evaluate(poisoned) == Evaluation(samples=3, correct=0, millionths={"loss": FAILED_LOSS})
    with pytest.raises(BadInput, match="contains infinity"):
        bench.try_out(poisoned)


def test_a_machine_that_fails_once_is_tried_again(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = prepare(tmp_path, b"123")
    model = encode_model(read_floats(bench.build()), bench.spec.model)
    whole, tries = Task.evaluate, []

    def short_of_memory(task: Task, *arguments: Any, seed: int) -> Evaluation:
        tries.append(task)
        if len(tries) == 1:
            raise BadInput("evaluate failed: OutOfMemoryError")
        return whole(task, *arguments, seed=seed)

    monkeypatch.setattr(Task, "evaluate", short_of_memory)
    assert bench.evaluate(model) == Evaluation(samples=3, correct=0, millionths={"loss": 6_000_000})
    assert len(tries) == 2


def test_what_fails_with_every_model_is_no_models_fault(tmp_path: Path, temporary: Path) -> None:
    """A cleaner of temporary files has taken the validation set, say."""
    bench = prepare(tmp_path, b"123")
    model = encode_model(read_floats(bench.build()), bench.spec.model)
    bench.path.unlink()
    with pytest.raises(StateError, match=r"on the job's first model, too: .*FileNotFoundError"):
        bench.evaluate(model)
    bench.path.write_bytes(b"123")
    assert bench.evaluate(model).millionths["loss"] == 6_000_000


SPOILING = """
import torch
from torch.nn.utils import parametrizations, parametrize

def build_model():
    model = torch.nn.Sequential(parametrizations.weight_norm(torch.nn.Linear(1, 1)))
    model.register_buffer("calls", torch.tensor(0))
    model.register_buffer("mean", torch.zeros(1))
    return model

def load_data(path):
    return [1.0]

def train(model, data):
    pass

def evaluate(model, data):
    LINE
    loss = float(model(torch.tensor([data])).abs() + model.calls + model.mean)
    return {"samples": 1, "correct": 0, "loss": loss}
"""


@pytest.mark.parametrize(
    "line",
    [
        "model.calls += 1",
        "model.mean.lerp_(torch.ones(1), 0.5)",
        "model.seen = data[0] = 1.0 if hasattr(model, 'seen') else 2.0",
        "if parametrize.is_parametrized(model[0]): parametrize.remove_parametrizations(model[0], 'weight')",
    ],
)
def test_no_result_depends_on_the_evaluations_before(line: str, tmp_path: Path, temporary: Path) -> None:
    """Whatever `evaluate` does to the model: the audit evaluates in another order."""
    bench = prepare(tmp_path, b"1", SPOILING.replace("LINE", line))
    one, other = (encode_model(np.array(values, np.float32), bench.spec.model) for values in ([1, 2, 3], [4, 5, 6]))
    first = bench.try_out(one)
    bench.try_out(other)
    again = bench.try_out(one)
    assert again == first
    bench.check_repeats(first, again)


def test_what_the_task_itself_keeps_of_an_evaluation_is_refused(tmp_path: Path, temporary: Path) -> None:
    counting = "load_data.calls = getattr(load_data, 'calls', 0) + 1; model.calls += load_data.calls"
    bench = prepare(tmp_path, b"1", SPOILING.replace("LINE", counting))
    model = load(keep_model(bench.build(), bench.spec.model))
    with pytest.raises(
        BadInput, match=r"evaluate of task .*lazy\.py gives .*for the same model again .*: let it depend"
    ):
        bench.check_repeats(bench.try_out(model), bench.try_out(model))
    with pytest.raises(BadInput, match="works once, and fails"):
        bench.check_repeats(bench.try_out(model), bench.worst)


def result(correct: int | None = None, **millionths: int) -> Evaluation:
    return Evaluation(samples=200, correct=correct, millionths={"loss": 0} | millionths)


METRICS = {
    "loss": LOSS,
    "accuracy": ACCURACY,
    "rmse": Metric(better="lower", scale=50.0, tolerance=1e-4),
    "ndcg": Metric(better="higher", ties=2),
}


@pytest.mark.parametrize(
    ("name", "one", "other", "agree"),
    [
        ("loss", 10, 0, True),
        ("loss", 11, 0, False),
        ("loss", -3_000_030, -3_000_000, True),
        ("loss", -3_000_031, -3_000_000, False),
        ("rmse", 900_100, 900_000, True),
        ("rmse", 900_101, 900_000, False),
        ("rmse", 5_000_500, 5_000_000, True),
        ("rmse", 5_000_501, 5_000_000, False),
        ("ndcg", 510_010, 500_000, True),
        ("ndcg", 510_011, 500_000, False),
    ],
)
def test_results_agree_within_the_tolerance_of_each_metric(name: str, one: int, other: int, agree: bool) -> None:
    """Of its scale or of its size, and where it sums up samples, of so many of them."""
    usual = {"rmse": 1_000_000, "ndcg": 0}
    pair = [result(7, **usual | {name: value}) for value in (one, other)]
    assert agrees(*pair, METRICS) == agree


def test_results_agree_by_all_metrics_and_by_no_others() -> None:
    usual = {"rmse": 1, "ndcg": 1}
    assert agrees(result(7, **usual), result(6, **usual), METRICS), "one near tie"
    assert not agrees(result(8, **usual), result(6, **usual), METRICS)
    without = {name: metric for name, metric in METRICS.items() if name != "accuracy"}
    assert agrees(result(**usual), result(**usual), without)
    for odd in (result(7), result(**usual), result(7, **usual, mae=1)):
        assert not agrees(odd, result(7, **usual), METRICS)
        assert not agrees(odd, odd, METRICS)


def test_the_worst_result_is_the_worst_by_every_metric() -> None:
    worst = failure(METRICS, samples=3)
    assert worst.names == METRICS.keys()
    assert (worst.failed, worst.diverged) == (True, True)
    assert worst.exact("ndcg") < 0 < worst.exact("rmse")


def test_a_task_whose_metrics_are_not_those_of_the_spec_is_not_evaluated(tmp_path: Path, temporary: Path) -> None:
    """Else a sponsor could turn a direction round in the spec alone."""
    declared = f'{TASK}\nMETRICS = {{"rmse": {{"better": "lower", "scale": 10}}}}\n'
    declared = declared.replace('"correct": 0', '"rmse": 1.0')
    loss, rmse = {"better": "lower"}, {"better": "lower", "scale": 10.0}
    model = prepare(tmp_path, b"123", declared, {"loss": loss, "rmse": rmse | {"tolerance": 1e-3}})
    assert model.evaluate(encode_model(read_floats(model.build()), model.spec.model)).names == {"loss", "rmse"}
    for pinned in ({"loss": loss}, {"loss": loss, "rmse": rmse | {"better": "higher"}}, {"loss": loss, "mae": rmse}):
        with pytest.raises(BadSpec, match="METRICS are not those that the spec pins"):
            prepare(tmp_path, b"123", declared, pinned)


def test_a_task_that_counts_no_longer_what_the_job_pins_is_told(tmp_path: Path, temporary: Path) -> None:
    bench = prepare(tmp_path, b"123", TASK.replace('"correct": 0, ', ""))
    with pytest.raises(BadInput, match="tells loss, and the job pins loss, accuracy"):
        bench.try_out(encode_model(read_floats(bench.build()), bench.spec.model))


def test_a_disk_without_room_is_told(tmp_path: Path, temporary: Path) -> None:
    temporary.rmdir()
    with pytest.raises(StateError, match="No such file or directory; free space, or set TMPDIR"):
        prepare(tmp_path, b"123")
