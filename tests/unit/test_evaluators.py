"""Wherever models are evaluated, the results are the same."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from safetensors.numpy import save_file

from deepledger.protocol.blobs import digest_of
from deepledger.protocol.blobs.spool import FileVector, keep, room_for
from deepledger.protocol.errors import BadInput, OutOfTime, StateError
from deepledger.protocol.evaluation import bench as bench_module
from deepledger.protocol.evaluation import evaluators
from deepledger.protocol.evaluation.apart import Apart
from deepledger.protocol.evaluation.bench import open_bench
from deepledger.protocol.evaluation.evaluators import InProcesses, OneByOne, OnRay, evaluator_for
from deepledger.protocol.evaluation.state_dict import format_of, keep_model, read_floats
from deepledger.protocol.evaluation.task import Task, read_source
from deepledger.protocol.formats.evaluation import Coalition, Evaluation
from deepledger.protocol.formats.spec import build_spec, spec_bytes
from deepledger.protocol.formats.vectors import encode_model, load
from deepledger.protocol.local.temporary import remove_folder
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.stack import Row, Stack
from deepledger.protocol.settlement.coalitions import Coalitions
from deepledger.protocol.types import Address

TASK = """
import os, torch
from safetensors.torch import load_file

def build_model():
    return torch.nn.Linear(4, 3)

def load_data(path):
    assert path.name.endswith(".tensors"), "tasks choose a reader by the name's end"
    data = load_file(path)
    return torch.utils.data.TensorDataset(data["x"], data["y"])

def train(model, data):
    pass

def evaluate(model, data):
    if os.environ.get("DIE_IN_WORKERS") not in (None, str(os.getpid())):
        os.kill(os.getpid(), 9)
    while os.environ.get("HANG_IN_WORKERS") not in (None, str(os.getpid())):
        pass
    x, y = data.tensors
    logits = model(x)
    loss = torch.nn.functional.cross_entropy(logits, y)
    return {"samples": len(y), "correct": int((logits.argmax(1) == y).sum()), "loss": float(loss)}
"""
WANTED = [Coalition(mask, plain) for mask in range(16) for plain in (False, True)]


@pytest.fixture
def bench(tmp_path, spec_fields):
    random = np.random.default_rng(3)
    data = {"x": random.normal(size=(50, 4)).astype(np.float32), "y": random.integers(0, 3, 50)}
    save_file(data, tmp_path / "validation.tensors")
    (tmp_path / "task.py").write_text(TASK)
    source = read_source(tmp_path / "task.py")
    model = Task(source).build_model(1)
    spec = build_spec(
        spec_fields(
            task={"name": "task", "sha256": source.sha256},
            model=format_of(model).model_dump(),
            training={"seed": 1, "hyperparameters": {}},
            aggregation={"rule": "median"},
            validation={
                "digest": digest_of((tmp_path / "validation.tensors").read_bytes()).hex(),
                "bytes": 1000,
                "suffix": ".tensors",
            },
        )
    )
    return open_bench(spec, source, tmp_path / "validation.tensors")


@pytest.fixture
def coalitions(bench, stack_of):
    random = np.random.default_rng(4)
    rows = [random.integers(-20_000, 20_000, bench.spec.model.coordinates).astype("<i2") for _ in range(4)]
    before = encode_model(read_floats(bench.build()), bench.spec.model)
    drift = np.zeros(len(before), np.int64)
    return Coalitions(bench.spec, before, stack_of(bench.spec, rows), Context(bytes(32), bench.spec.model, drift=drift))


def test_worker_processes_agree_with_this_one(bench, coalitions, monkeypatch):
    expected = OneByOne(bench).evaluate(coalitions, WANTED)
    assert len({result.millionths["loss"] for result in expected}) > 10
    monkeypatch.setattr(evaluators, "_WORTHWHILE", 0.0)
    workers = evaluator_for(bench, workers=2)
    for _ in range(2):  # the second time, the workers are there
        assert workers.evaluate(coalitions, WANTED) == expected
    workers.close()
    assert workers.evaluate(coalitions, WANTED[:3]) == expected[:3]
    workers.close()


def test_that_the_machine_is_to_blame_is_asked_once_in_a_settlement(bench, coalitions, monkeypatch):
    """Not for every model on which the task fails: there may be a thousand of them."""
    whole, tried, write = Task.evaluate, [], bench_module.write_floats

    def write_floats(module, *arguments):
        module.is_of_a_coalition = True
        write(module, *arguments)

    def evaluate(task, module, *arguments, **options):
        tried.append(hasattr(module, "is_of_a_coalition"))
        if tried[-1]:
            raise BadInput("infinity")
        return whole(task, module, *arguments, **options)

    monkeypatch.setattr(bench_module, "write_floats", write_floats)
    monkeypatch.setattr(Task, "evaluate", evaluate)
    for settlement in (coalitions, replace(coalitions)):
        tried.clear()
        for half in (WANTED[:16], WANTED[16:]):
            assert all(result.failed for result in OneByOne(bench).evaluate(settlement, half))
        assert (tried.count(True), tried.count(False)) == (2 * len(WANTED), 1)


def test_little_work_starts_no_processes(bench, coalitions):
    workers = evaluator_for(bench, workers=2)
    assert isinstance(workers, InProcesses)
    assert workers.evaluate(coalitions, WANTED[:3]) == OneByOne(bench).evaluate(coalitions, WANTED[:3])
    assert workers._pool is None
    assert workers.evaluate(coalitions, []) == []


def test_where_a_worker_dies_the_rest_is_done_here_and_the_next_round_has_workers_again(bench, coalitions, monkeypatch):
    monkeypatch.setattr(evaluators, "_WORTHWHILE", 0.0)
    monkeypatch.setenv("DIE_IN_WORKERS", str(os.getpid()))
    expected, told = OneByOne(bench).evaluate(coalitions, WANTED), []
    workers = InProcesses(bench, workers=1, warn=told.append)
    for _ in range(2):
        assert workers.evaluate(coalitions, WANTED) == expected
        assert workers._pool is None
    (why,) = told
    assert "died" in why
    monkeypatch.delenv("DIE_IN_WORKERS")
    assert workers.evaluate(replace(coalitions), WANTED) == expected
    assert workers._pool is not None
    workers.close()


def test_without_room_to_hand_models_on_they_are_evaluated_here(bench, coalitions, monkeypatch, tmp_path):
    def full(pickler, value):
        pickler._vectors.write(bytes(100))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(evaluators, "_WORTHWHILE", 0.0)
    monkeypatch.setattr(evaluators._Pickler, "persistent_id", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    told = []
    workers = InProcesses(bench, workers=2, warn=told.append)
    assert workers.evaluate(coalitions, WANTED) == OneByOne(bench).evaluate(coalitions, WANTED)
    (why,) = told
    assert "No space left on device; set TMPDIR" in why
    assert not list((tmp_path / "tmp").iterdir()), "what was written makes room again"


def test_models_are_handed_to_workers_once_a_round(bench, coalitions, monkeypatch):
    handed = []

    def counted(coalitions, real=evaluators.hand_over):
        handed.append(real(coalitions))
        return handed[-1]

    monkeypatch.setattr(evaluators, "_WORTHWHILE", 0.0)
    monkeypatch.setattr(evaluators, "hand_over", counted)
    workers = evaluator_for(bench, workers=2)
    part = replace(coalitions)
    for _ in range(3):
        workers.evaluate(part, WANTED[:4])
    assert len(handed) == 1
    del part
    assert not handed[0].exists()
    workers.close()


def test_handing_updates_to_workers_takes_no_more_memory_with_more_of_them(coalitions):
    length, rows = 1 << 20, []
    for seat in range(16):
        with room_for(2 * length) as file, file:
            file.write(np.full(length, seat, "<i2").data)
            file.flush()
            rows.append(Row(seat, Address(f"0x{seat:040x}"), 1, FileVector(file, np.dtype("<i2"))))
    large = replace(coalitions, stack=Stack(tuple(rows), length, 4))
    tracemalloc.start()
    try:
        folder = evaluators.hand_over(large)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * length < 16 * 2 * length
    read = evaluators._read(folder)
    remove_folder(folder)
    assert [row.vector[0:3].tolist() for row in read.stack.rows] == [[seat] * 3 for seat in range(16)]
    assert np.array_equal(read.before, large.before)


ASK = """
import sys
from pathlib import Path
import numpy as np
from deepledger.protocol.evaluation.bench import bench_with
from deepledger.protocol.evaluation.task import read_source
from deepledger.protocol.formats.spec import parse_spec

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    validation = (folder / "validation.tensors").read_bytes()
    spec, source = parse_spec((folder / "spec.json").read_bytes()), read_source(folder / "task.py")
    bench = bench_with(spec, source, validation, apart=print)
    first = np.zeros(spec.model.coordinates, np.int32)
    evaluation = bench.evaluate(first)
    with bench.threads(1):
        bench.check_repeats(evaluation, bench.try_out(first))
    differing = bench.differs_from_first(np.load(folder / "first.npy"))
    print(bench.samples, evaluation.samples, bench.draws(first, evaluation), differing, "torch" in sys.modules)
    bench.close()
"""


def test_a_process_that_has_its_models_evaluated_apart_has_no_torch(bench, tmp_path):
    (tmp_path / "spec.json").write_bytes(spec_bytes(bench.spec))
    (tmp_path / "ask.py").write_text(ASK)
    np.save(
        tmp_path / "first.npy",
        load(keep_model(bench.build(), bench.spec.model)) + np.eye(1, bench.spec.model.coordinates, dtype=np.int32)[0],
    )
    done = subprocess.run([sys.executable, tmp_path / "ask.py", tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == "50 50 False 1 False\n"


class Teller:
    """What a task could make its process answer."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return (open, (str(self.folder / "ran"), "w"))

    def anything(self):
        return self

    def slow(self, seconds):
        time.sleep(seconds)
        return round(seconds)

    def slow_once(self, model):
        if not (self.folder / "slow").exists():
            (self.folder / "slow").touch()
            time.sleep(600)
        return len(model)

    def hangs(self):
        (self.folder / "hangs").touch()
        while True:
            pass

    def total(self, model):
        return int(model[0 : len(model)].sum(dtype=int))

    def spoils(self, model):
        os.truncate(f"/proc/self/fd/{model._descriptor}", 0)
        return len(model)

    def prints(self):
        print('{"matches": true}')
        return True

    def notes(self):
        with (self.folder / "noted").open("a") as noted:
            noted.write("once\n")

    def fails(self):
        raise BadInput("it fails")

    def ends(self):
        os.kill(os.getpid(), signal.SIGKILL)


def test_an_answer_runs_nothing_where_it_is_read(tmp_path, capfd):
    apart = Apart(partial(Teller, tmp_path), warn=lambda _: None)
    with pytest.raises(BadInput, match="ended without a word"):
        apart.call("anything")
    assert not (tmp_path / "ran").exists()
    assert apart.call("prints") is True
    assert capfd.readouterr().out == ""
    apart.close()


def test_what_is_only_told_is_done_before_the_next_question_and_not_answered(tmp_path):
    apart = Apart(partial(Teller, tmp_path), warn=lambda _: None)
    apart.tell("notes")
    assert apart._running is None, "nothing is started for it"
    assert apart.call("slow", 0) == 0
    for method in ("notes", "fails", "notes"):
        apart.tell(method)
    assert apart.call("slow", 0) == 0
    assert (tmp_path / "noted").read_text() == "once\n" * 2
    apart.close()


def test_where_what_is_told_ends_the_process_the_next_question_says_so(tmp_path):
    apart = Apart(partial(Teller, tmp_path), warn=lambda _: None)
    assert apart.call("slow", 0) == 0
    apart.tell("ends")
    apart._running[0].join(60)
    apart.tell("notes")
    with pytest.raises(BadInput, match="killed by SIGKILL"):
        apart.call("slow", 0)
    assert apart.call("slow", 0) == 0
    apart.close()


def test_a_question_that_is_given_up_leaves_no_answer_to_the_next(tmp_path, monkeypatch):
    apart = Apart(partial(Teller, tmp_path), warn=lambda _: None)
    assert apart.call("slow", 0) == 0
    _, pipe = apart._running
    monkeypatch.setattr(type(pipe), "poll", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        apart.call("slow", 2)
    monkeypatch.undo()
    assert apart.call("slow", 0) == 0
    apart.close()


def test_who_ends_it_while_it_works_is_not_told_that_the_task_did(tmp_path):
    said = []
    apart = Apart(partial(Teller, tmp_path), warn=said.append)
    assert apart.call("slow", 0) == 0
    with ThreadPoolExecutor(1) as beside:
        asked = beside.submit(apart.call, "slow", 600)
        while not apart._alone.locked():
            time.sleep(0.01)
        apart.close()
        with pytest.raises(BadInput, match="was ended meanwhile"):
            asked.result()
    assert said == []


def sleeps():
    time.sleep(600)


def test_whoever_waits_for_a_task_that_hangs_while_it_is_loaded_can_be_let_go():
    ended = Event()

    def waits(_seconds, _models):
        if ended.is_set():
            raise BadInput("nobody waits")
        return False

    apart = Apart(sleeps, warn=lambda _: None, waits=waits)
    with ThreadPoolExecutor(1) as beside:
        asked = beside.submit(apart.call, "anything")
        while apart._running is None:
            time.sleep(0.01)
        ended.set()
        with pytest.raises(BadInput, match="nobody waits"):
            asked.result()
    assert apart._running is None
    with pytest.raises(BadInput, match="nobody waits"):
        apart.call("anything")
    assert apart._running is None, "nothing is started for it"


def test_what_does_not_answer_can_be_asked_again_in_a_process_of_its_own(tmp_path):
    waited = []

    def waits(seconds, _models):
        waited.append(seconds)
        return seconds > 0 and waited.count(0.0) == 1 and (tmp_path / "slow").exists()

    apart = Apart(partial(Teller, tmp_path), warn=pytest.fail, waits=waits)
    assert apart.call("slow_once", model=np.arange(5, dtype="<i4")) == 5, "the model is handed over again"
    assert waited.count(0.0) == 2
    apart.close()


def test_a_process_that_evaluates_ends_with_the_one_that_asks_however_that_ends(tmp_path):
    ask = f"""
import os, time
from functools import partial
from pathlib import Path
from deepledger.protocol.evaluation.apart import Apart
from tests.unit.test_evaluators import Teller

if __name__ == "__main__":
    apart = Apart(partial(Teller, Path({str(tmp_path)!r})), warn=print)
    apart.call("slow", 0)
    print(apart._running[0].pid, flush=True)
    apart.tell("hangs")
    while not Path({str(tmp_path)!r}, "hangs").exists():
        time.sleep(0.01)
    os.kill(os.getpid(), 9)
"""
    folder = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    process = Path("/proc", done.stdout.strip())
    while process.exists() and "(zombie)" not in (process / "status").read_text():
        time.sleep(0.01)


class Hanging:
    """A bench whose workers hang, and which is asked whether to wait on."""

    def __init__(self, bench, says):
        self.real, self.says, self.waited = bench, says, []

    def __getattr__(self, name):
        return getattr(self.real, name)

    def waits(self, seconds, models):
        self.waited.append((seconds, models))
        return self.says()


def test_workers_that_do_not_answer_are_ended_and_the_rest_is_done_here(bench, coalitions, monkeypatch):
    monkeypatch.setattr(evaluators, "_WORTHWHILE", 0.0)
    monkeypatch.setenv("HANG_IN_WORKERS", str(os.getpid()))
    told = []
    workers = InProcesses(Hanging(bench, lambda: True), workers=1, warn=told.append)
    assert workers.evaluate(coalitions, WANTED) == OneByOne(bench).evaluate(coalitions, WANTED)
    assert told == ["the processes that evaluate models do not answer. They are evaluated one after another."]
    assert workers._pool is None


def test_whoever_waits_for_workers_in_vain_can_be_let_go_and_they_are_ended(bench, coalitions, monkeypatch):
    monkeypatch.setattr(evaluators, "_WORTHWHILE", 0.0)
    monkeypatch.setenv("HANG_IN_WORKERS", str(os.getpid()))
    running = []

    def says():
        running.extend(workers._pool._processes.values())
        raise OutOfTime("it takes too long")

    hanging = Hanging(bench, says)
    workers = InProcesses(hanging, workers=1, warn=pytest.fail)
    with pytest.raises(OutOfTime, match="it takes too long"):
        workers.evaluate(coalitions, WANTED)
    assert hanging.waited[0][1] > 1, "so many models are waited for"
    assert workers._pool is None
    for process in running:
        process.join()


def test_an_answer_of_another_kind_than_was_asked_for_is_none(tmp_path):
    apart = Apart(partial(Teller, tmp_path), warn=lambda _: None)
    with pytest.raises(BadInput, match="the process that the task runs in"):
        apart.call("prints", kind=Evaluation)
    apart.close()


def test_no_task_can_write_to_what_others_go_on_from(tmp_path):
    apart = Apart(partial(Teller, tmp_path), warn=lambda _: None)
    model = keep(np.arange(5, dtype="<i4"), np.dtype("<i4"))
    assert apart.call("spoils", model=model) == 0
    assert model[0:5].tolist() == [0, 1, 2, 3, 4]
    apart.close()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.slow
def test_a_ray_cluster_agrees_with_this_process(bench, coalitions):
    ray = pytest.importorskip("ray")
    try:
        on_ray = evaluator_for(bench, ray="local")
        assert isinstance(on_ray, OnRay)
        assert on_ray.evaluate(coalitions, WANTED) == OneByOne(bench).evaluate(coalitions, WANTED)
    finally:
        ray.shutdown()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_cluster_that_is_not_there_is_named(bench):
    pytest.importorskip("ray")
    with pytest.raises(BadInput, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        evaluator_for(bench, ray="127.0.0.1:1")


def test_a_model_goes_to_the_process_that_evaluates_in_a_file_and_without_room_for_it_that_is_said(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    apart = Apart(partial(Teller, tmp_path), warn=lambda _: None)
    for values in (np.arange(200_000), np.arange(5)):  # a shorter one is not followed by the rest of the longer
        assert apart.call("total", model=values.astype("<i4")) == values.sum()
    (folder,) = [path for path in tmp_path.iterdir() if (path / "model").exists()]
    assert folder.stat().st_mode & 0o77 == 0
    apart.close()
    assert not folder.exists()

    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("deepledger.protocol.evaluation.apart.make_folder", full)
    with pytest.raises(StateError, match=r"no model can be handed .* No space left on device; free space"):
        apart.call("total", model=np.zeros(3, "<i4"))
    apart.close()
