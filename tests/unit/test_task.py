from __future__ import annotations

import gc
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deepledger.protocol.errors import BadInput, TaskMismatch
from deepledger.protocol.evaluation.state_dict import read_floats, write_floats
from deepledger.protocol.evaluation.task import (
    FUNCTIONS,
    MAX_SOURCE_BYTES,
    Task,
    TaskSource,
    find_source,
    read_source,
)
from deepledger.protocol.formats.evaluation import Evaluation, in_words, values
from deepledger.protocol.formats.metrics import BUILT_IN, WORST
from deepledger.protocol.formats.spec import TaskPin

torch = pytest.importorskip("torch")

SOURCE = """
import torch

def build_model():
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))

def load_data(path):
    return path.read_text().split()

def train(model, data, *, rate):
    with torch.no_grad():
        model[0].bias += rate * torch.rand(2)

def evaluate(model, data):
    return {"samples": len(data), "correct": 1, "loss": 0.5}
"""


@pytest.fixture
def task_of(tmp_path):
    def load(source: str = SOURCE) -> Task:
        path = tmp_path / "task.py"
        path.write_text(source)
        return Task(read_source(path))

    return load


def test_a_task_says_what_becomes_of_entries(task_of):
    task = task_of()
    assert task.fates(task.build_model(1)) == {}
    told = task_of(SOURCE + "\nfates = {'1': 'local'}\n")
    assert told.fates(told.build_model(1)) == {"1": "local"}
    told = task_of(SOURCE + "\ndef fates(model):\n    return {'1.running_var': type(model[1]).__name__}\n")
    assert told.fates(told.build_model(1)) == {"1.running_var": "BatchNorm1d"}
    for wrong in ("['1']", "{'1': 1}"):
        told = task_of(SOURCE + f"\nfates = {wrong}\n")
        with pytest.raises(BadInput, match=r"fates of task .* is not a dict of names"):
            told.fates(told.build_model(1))


def without(name: str) -> str:
    return SOURCE.replace(f"def {name}(", f"def other_{name}(")


def test_a_task_runs(task_of, tmp_path):
    task = task_of()
    (tmp_path / "data").write_text("a b c")
    model, data = task.build_model(5), task.load_data(tmp_path / "data")
    before = read_floats(model)
    assert (before == read_floats(task.build_model(5))).all()
    assert (before != read_floats(task.build_model(6))).any()
    task.train(model, data, round=0, seed=1, hyperparameters={"rate": 0.5})
    after = read_floats(model)
    assert (after != before).any()
    write_floats(model, before)
    task.train(model, data, round=0, seed=1, hyperparameters={"rate": 0.5})
    assert (after == read_floats(model)).all()
    assert task.evaluate(model, data, seed=1) == Evaluation(samples=3, correct=1, millionths={"loss": 500_000})


@pytest.mark.parametrize(
    ("hyperparameters", "says"),
    [
        ({"rte": 0.5}, "missing a required argument: 'rate'"),
        ({"rate": 0.5, "epochs": 1}, "unexpected keyword argument 'epochs'"),
        ({"rate": 0.5, "model": 1}, "multiple values for argument 'model'"),
    ],
)
def test_hyperparameters_that_train_does_not_take_are_named(task_of, hyperparameters, says):
    task = task_of()
    task.check_hyperparameters({"rate": 0.5})
    with pytest.raises(BadInput, match=rf"hyperparameters: .*{says}.*\(model, data, \*, rate\)"):
        task.check_hyperparameters(hyperparameters)
    task_of(SOURCE.replace("*, rate", "**rates")).check_hyperparameters(
        {name: value for name, value in hyperparameters.items() if name != "model"}
    )


def test_train_is_told_the_round_where_it_asks_for_it(task_of):
    """A schedule over rounds; who takes options of any name gets the job's only."""
    for named, expected in (("*, rate, round", [0, 0.5, 1]), ("round, rate", [0, 0.5, 1]), ("rate, **others", [0] * 3)):
        moved = "round" if "round" in named else "sum(others.values())"
        task = task_of(SOURCE.replace("*, rate", named).replace("rate * torch.rand(2)", f"rate * {moved}"))
        task.check_hyperparameters({"rate": 0.5})
        biases = []
        for number in range(3):
            model = task.build_model(1)
            before = model[0].bias.tolist()
            task.train(model, [1], round=number, seed=1, hyperparameters={"rate": 0.5})
            biases.append(model[0].bias[0].item() - before[0])
        assert biases == pytest.approx(expected, abs=1e-6)
    task = task_of(SOURCE.replace("*, rate", "*, rate, round"))
    with pytest.raises(BadInput, match=r"hyperparameters.round: train .* is told the round .* give the hyperparameter"):
        task.check_hyperparameters({"rate": 0.5, "round": 3})


def test_hyperparameters_may_be_lists_and_no_training_changes_them(task_of):
    task = task_of(SOURCE.replace("rate * torch", "rate.pop() * torch"))
    given = {"rate": [0.5, 0.25]}
    for _ in range(2):
        task.train(task.build_model(1), [1], round=0, seed=1, hyperparameters=given)
    assert given == {"rate": [0.5, 0.25]}


SPAWNING = """
class Squares(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        return index**2, __file__

def squares():
    return torch.utils.data.DataLoader(Squares(), num_workers=1, multiprocessing_context="spawn")
"""


def test_processes_that_a_data_loader_spawns_find_the_task(task_of, tmp_path):
    task = task_of(SOURCE + SPAWNING)
    (tmp_path / "task.py").write_text("raise SystemExit('swapped')")
    found = [(int(square), name) for square, (name,) in task._module.squares()]
    assert found == [(index**2, str(tmp_path / "task.py")) for index in range(4)]
    (folder,) = {path for path in sys.path if Path(path, f"{task._module.__name__}.py").exists()}
    del task
    gc.collect()
    assert folder not in sys.path
    assert not Path(folder).exists()


def test_a_source_is_found_by_its_hash_wherever_it_lies(tmp_path):
    folder = tmp_path / "tasks" / "deep"
    folder.mkdir(parents=True)
    (folder / "other.py").write_text("1")
    (folder / "digits.py").write_text(SOURCE)
    wanted = read_source(folder / "digits.py")
    pin = TaskPin(name="digits", sha256=wanted.sha256)
    assert find_source(pin, [tmp_path / "tasks" / "deep" / "other.py", tmp_path]) == wanted
    (folder / "digits.py").write_text(SOURCE + "# changed")
    with pytest.raises(TaskMismatch, match=rf"{wanted.sha256[:12]}….*digits.py has .*--task"):
        find_source(pin, [tmp_path])
    with pytest.raises(TaskMismatch, match="no candidate was found"):
        find_source(pin, [])


def test_what_is_no_source_does_not_end_the_search(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "a.py").mkdir()
    (folder / "b.py").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "c.py")
    (folder / "digits.py").write_bytes(b"#" * (MAX_SOURCE_BYTES + 1))
    (folder / "e.py").write_text(SOURCE)
    wanted = read_source(folder / "e.py")
    assert find_source(TaskPin(name="digits", sha256=wanted.sha256), [folder]) == wanted
    (folder / "e.py").unlink()
    with pytest.raises(TaskMismatch, match=r"digits.py has more than"):
        find_source(TaskPin(name="digits", sha256=wanted.sha256), [folder])
    with pytest.raises(BadInput, match=r"digits.py has more than"):
        find_source(TaskPin(name="digits", sha256=wanted.sha256), [folder / "digits.py"])


def test_what_runs_are_the_bytes_that_were_hashed(tmp_path):
    path = tmp_path / "task.py"
    path.write_text(SOURCE)
    source = read_source(path)
    path.write_text("raise SystemExit('swapped')")
    assert Task(source).source.sha256 == source.sha256


def test_sources_that_cannot_be_read(tmp_path):
    with pytest.raises(BadInput, match=r"cannot read the task source .*: No such file"):
        read_source(tmp_path / "none.py")
    with pytest.raises(BadInput, match="cannot read"):
        read_source(tmp_path)
    (tmp_path / "long.py").write_bytes(b"#" * (MAX_SOURCE_BYTES + 1))
    with pytest.raises(BadInput, match="more than"):
        read_source(tmp_path / "long.py")


@pytest.mark.parametrize("source", ["def build_model(:", "import no_such_module_anywhere", "1 / 0", "\0"])
def test_a_source_that_does_not_load(source, task_of):
    with pytest.raises(BadInput, match=r"task.py fails to load: \w+Error"):
        task_of(source)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_missing_function_is_named(name, task_of):
    with pytest.raises(BadInput, match=rf"task.py lacks {name}\("):
        task_of(without(name))


FAILURES = {
    "build_model": ("torch.nn.Sequential(", "[1] + (", "build_model of task .* failed: TypeError"),
    "no module": ("return torch.nn.Sequential", "return repr, ", "returned a tuple, not a torch.nn.Module"),
    "load_data": ("path.read_text().split()", "path.no_such_method()", "load_data of task .* failed: AttributeError"),
    "no length": ("path.read_text().split()", "iter(())", "a tuple_iterator, which has no length; give the task"),
    "no samples": ("path.read_text().split()", "[]", "has no samples"),
    "train": ("rate * torch", "rate.no_such * torch", "train of task .* failed: AttributeError"),
    "no dictionary": (
        '{"samples": len(data), "correct": 1, "loss": 0.5}',
        "0.5",
        "a float is no dictionary; it is eval",
    ),
    "no loss": (', "loss": 0.5', "", "evaluate of task .* must: 'loss' is missing"),
    "negative": ('"correct": 1', '"correct": -1', "'correct' is -1, but it counts samples"),
    "a share": ('"correct": 1', '"correct": 0.93', "'correct' is 0.93, but it counts samples: not a share"),
    "more than all": ('"correct": 1', '"correct": 4', "'correct' is 4, of 3 samples"),
    "text": ('"loss": 0.5', '"loss": "0.5"', "'loss' is a str, not a number"),
    "yes or no": ('"correct": 1', '"correct": True', "'correct' is a bool, not a number"),
    "yes or no of torch": ('"correct": 1', '"correct": torch.tensor(True)', "'correct' is a bool, not a number"),
    "nothing": ('"loss": 0.5', '"loss": None', "'loss' is a NoneType, not a number"),
    "one for each": ('"loss": 0.5', '"loss": torch.ones(3)', "'loss' is a Tensor of several elements, not one number"),
    "not declared": ('"loss": 0.5', '"loss": 0.5, "f1": 0.5', r"'f1' is not declared: add METRICS = \{\"f1\": "),
    "its own accuracy": ('"correct": 1', '"accuracy": 0.3', "'accuracy' is not declared: return how many are correct"),
    "no name": ('"loss": 0.5', '"loss": 0.5, 5: 1', "a key that is a int is not declared"),
    "no metric": ("import torch", "import torch\nMETRICS = {'rmse': 'lower'}", "must: 'rmse' is missing"),
}


@pytest.mark.parametrize(("old", "new", "message"), FAILURES.values(), ids=FAILURES)
def test_a_failing_task_is_named(old, new, message, task_of, tmp_path):
    assert old in SOURCE
    task = task_of(SOURCE.replace(old, new))
    (tmp_path / "data").write_text("a b c")

    def run():
        model = task.build_model(1)
        data = task.load_data(tmp_path / "data")
        task.train(model, data, round=0, seed=1, hyperparameters={"rate": 0.5})
        task.evaluate(model, data, seed=1)

    with pytest.raises(BadInput, match=message):
        run()


DECLARED = """
METRICS = {"rmse": {"better": "lower", "scale": 10}, "ndcg@10": {"better": "higher", "ties": 1}, "r2": "higher"}
"""


def measuring(results: str) -> str:
    return SOURCE.replace('"correct": 1, "loss": 0.5', results) + DECLARED


def test_a_task_measures_what_it_declares(task_of):
    task = task_of(measuring('"loss": -0.25, "rmse": torch.tensor([53.2]), "ndcg@10": 0.75, "r2": -1'))
    result = task.evaluate(task.build_model(1), [1, 2], seed=1)
    counted = {"loss": -250_000, "rmse": 5_320_000, "ndcg@10": 750_000, "r2": -1_000_000}
    assert result == Evaluation(samples=2, correct=None, millionths=counted)
    assert in_words(result, BUILT_IN | task.metrics) == "loss -0.25, ndcg@10 0.75, r2 -1, rmse 53.2"
    assert (result.diverged, result.names) == (False, {"loss", "rmse", "ndcg@10", "r2"})


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e40"])
def test_what_is_not_finite_is_the_worst_whichever_way_is_better(value, task_of):
    text = f'"loss": 10**400, "rmse": float("{value}"), "ndcg@10": -float("{value}"), "r2": 0.5'
    task = task_of(measuring(text))
    result = task.evaluate(task.build_model(1), [1], seed=1)
    assert result.millionths == {"loss": WORST, "rmse": WORST, "ndcg@10": -WORST, "r2": 500_000}
    assert result.diverged
    assert not result.failed
    words = "loss not finite, ndcg@10 not finite, r2 0.5, rmse not finite"
    assert in_words(result, BUILT_IN | task.metrics) == words
    assert values(result, BUILT_IN | task.metrics)["rmse"] is None


@pytest.mark.parametrize("value", ["torch.tensor(1)", "1.0", "torch.ones(1)", "__import__('numpy').int64(1)"])
def test_counts_may_come_as_torch_and_numpy_have_them(value, task_of):
    task = task_of(SOURCE.replace('"correct": 1', f'"correct": {value}'))
    assert task.evaluate(task.build_model(1), [1], seed=1).correct == 1


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("['rmse']", r"METRICS is a list: write METRICS = \{"),
        ("{'rmse': {}}", "METRICS: rmse.better: "),
        ("{'rmse': 'less'}", "METRICS: rmse.better: 'less' is not 'lower' or 'higher'"),
        ("{'rmse': {'better': 'lower', 'scale': -1.0}}", "METRICS: rmse.scale: "),
        ("{'rmse': {'better': 'lower', 'scal': 1.0}}", "METRICS: rmse.scal: "),
        ("{'root mean square': 'lower'}", "METRICS: root mean square"),
        ("{'loss': 'lower'}", "'loss' is always known"),
        ("{'correct': 'higher'}", "'correct' is always known"),
        ("{f'm{i}': 'lower' for i in range(8)}", "METRICS has 8 metrics, and 7 are the most"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused_by_name(declared, message, task_of):
    with pytest.raises(BadInput, match=f"task.py: .*{message}"):
        task_of(f"{SOURCE}\nMETRICS = {declared}")


def test_what_an_evaluation_draws_is_the_same_each_time(task_of):
    """And what the caller draws does not depend on it."""
    task = task_of(SOURCE.replace('"loss": 0.5', '"loss": float(torch.rand(()))'))
    model = task.build_model(1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = (task.evaluate(model, [1], seed=seed) for seed in (7, 7))
    assert first == second
    assert first != task.evaluate(model, [1], seed=8)
    assert torch.equal(torch.rand(3), expected)


def test_no_evaluation_waits_for_another_jobs(task_of):
    """Each of two goes on when it has heard of the other: one after the other, neither would end."""
    meeting = SOURCE.replace('return {"samples"', 'data.wait(60)\n    return {"samples"').replace("len(data)", "1")
    task, both = task_of(meeting), threading.Barrier(2)
    with ThreadPoolExecutor(2) as threads:
        runs = [threads.submit(task.evaluate, task.build_model(seed), both, seed=seed) for seed in (1, 2)]
        assert [run.result().samples for run in runs] == [1, 1]


def test_hyperparameters_that_the_task_does_not_know(task_of, tmp_path):
    task = task_of()
    with pytest.raises(BadInput, match=r"train of task .* unexpected keyword argument 'momentum'"):
        task.train(task.build_model(1), [1], round=0, seed=1, hyperparameters={"rate": 0.5, "momentum": 0.9})


@pytest.mark.parametrize("name", ["name", "self", "arguments", "options"])
def test_hyperparameters_may_have_any_name(name, task_of):
    task = task_of(SOURCE.replace("*, rate):", "**options):").replace("rate *", "sum(options.values()) *"))
    model = task.build_model(1)
    before = read_floats(model)
    task.train(model, [1], round=0, seed=1, hyperparameters={name: 0.5})
    assert (before != read_floats(model)).any()


@pytest.mark.parametrize("name", ["model", "data"])
def test_a_hyperparameter_with_the_name_of_what_train_is_given_is_told(name, task_of):
    task = task_of(SOURCE.replace("*, rate", "**options"))
    with pytest.raises(BadInput, match=f"train of task .* multiple values for argument '{name}'"):
        task.train(task.build_model(1), [1], round=0, seed=1, hyperparameters={name: 0.5})


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("len(data) // 2", 3),
        ("0", "has no samples"),
        ("-1", "returned -1"),
        ("2.0", "returned 2.0, which is no number"),
    ],
)
def test_a_task_may_count_its_samples_itself(said, expected, task_of, tmp_path):
    """Also of what has no length."""
    (tmp_path / "data").write_text("a b c d e f")
    task = task_of(SOURCE + f"\ndef count_samples(data):\n    return {said}\n")
    if isinstance(expected, int):
        assert task.count_samples(task.load_data(tmp_path / "data")) == expected
    else:
        with pytest.raises(BadInput, match=expected):
            task.load_data(tmp_path / "data")


def test_no_data(task_of, tmp_path):
    with pytest.raises(BadInput, match="no data at"):
        task_of().load_data(tmp_path / "none")


@pytest.mark.parametrize(
    ("loss", "millionths"),
    [
        ("nan", 10**15),
        ("inf", 10**15),
        ("-inf", 10**15),
        ("1e30", 10**15),
        ("-0.5", -500_000),
        ("-1e30", -(10**15)),
        ("0.1234567", 123457),
    ],
)
def test_every_loss_has_its_millionths(loss, millionths, task_of):
    task = task_of(SOURCE.replace('"loss": 0.5', f'"loss": float("{loss}")'))
    assert task.evaluate(task.build_model(1), [1], seed=1).millionths["loss"] == millionths


def test_a_task_source_has_the_hash_of_its_bytes(tmp_path):
    assert TaskSource(tmp_path, b"").sha256 == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("end", ["sys.exit(0)", "os._exit(0)", "raise SystemExit"])
@pytest.mark.parametrize("name", ["build_model", "load_data", "train", "evaluate"])
def test_a_task_that_would_end_the_process_fails_like_others(task_of, tmp_path, end, name):
    head, _, body = SOURCE.partition(f"def {name}(")
    signature, _, rest = body.partition(":\n")
    task = task_of(f"import os, sys\n{head}def {name}({signature}:\n    {end}\n{rest}")
    model = torch.nn.Linear(3, 2)
    calls = {
        "build_model": lambda: task.build_model(1),
        "load_data": lambda: task.load_data(tmp_path),
        "train": lambda: task.train(model, [], round=0, seed=1, hyperparameters={"rate": 1.0}),
        "evaluate": lambda: task.evaluate(model, [1], seed=1),
    }
    with pytest.raises(BadInput, match=rf"{name} of task .* failed: SystemExit"):
        calls[name]()


@pytest.mark.parametrize("end", ["sys.exit(0)", "os._exit(0)"])
def test_a_task_that_would_end_the_process_when_it_is_loaded_fails_like_others(task_of, end):
    with pytest.raises(BadInput, match="fails to load: SystemExit: 0"):
        task_of(f"import os, sys\n{end}\n{SOURCE}")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_task_whose_thread_would_end_the_process_ends_the_thread(task_of):
    thread = "import os, threading\n    t = threading.Thread(target=os._exit, args=(0,))\n    t.start()\n    t.join()"
    task = task_of(SOURCE.replace("def evaluate(model, data):", f"def evaluate(model, data):\n    {thread}"))
    assert task.evaluate(torch.nn.Linear(3, 2), [1, 2], seed=1).samples == 2


def test_processes_that_a_task_forks_may_end_as_they_do(task_of):
    fork = "import os\n    if not (child := os.fork()):\n        os._exit(7)\n    status = os.waitpid(child, 0)[1]"
    source = SOURCE.replace("def evaluate(model, data):", f"def evaluate(model, data):\n    {fork}")
    task = task_of(source.replace('"correct": 1', '"correct": os.waitstatus_to_exitcode(status)'))
    assert task.evaluate(torch.nn.Linear(3, 2), "12345678", seed=1).correct == 7


def test_several_threads_load_tasks_at_once(tmp_path):
    """Python before 3.11.8 loses count where one parses, another's turn comes, as it may while garbage is collected,
    and that one parses, too.
    """
    path, callback, before = tmp_path / "task.py", lambda *_: time.sleep(0.0001), gc.get_threshold()
    path.write_text(SOURCE + "NUMBERS = [1, (2, [3, 4]), {5: 6}]\n" * 100 + "# there is no TASK\n")
    gc.callbacks.append(callback)
    gc.set_threshold(50)
    try:
        with ThreadPoolExecutor(4) as threads:
            loaded = list(threads.map(Task, [read_source(path)] * 12))
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(callback)
    assert len(loaded) == 12
