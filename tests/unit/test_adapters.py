"""Published examples, and the same with a few lines more, which make them tasks: both learn the same from the same."""

import difflib
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from hashlib import sha256
from pathlib import Path
from threading import Event
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from deepledger import adapters
from deepledger.adapters.adapted import result
from deepledger.adapters.flower_apps import supplied
from deepledger.adapters.scripts import mean_loss
from deepledger.protocol.errors import BadInput
from deepledger.protocol.evaluation.pinned_modules import given_back
from deepledger.protocol.evaluation.samples import take
from deepledger.protocol.evaluation.state_dict import format_of, read_floats
from deepledger.protocol.evaluation.task import Task, read_source

EXAMPLES = Path(__file__).resolve().parents[2] / "examples/adapters"
KINDS = ("script", "trainer", "lightning")
MOST_CHANGED = 5
SPLIT = 1400


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """What the examples train on, and what they test on, as a participant and a sponsor have it."""
    folder, (images, labels) = tmp_path_factory.mktemp("digits"), load_digits(return_X_y=True)
    images = (images / 16).reshape(-1, 8, 8).astype("float32")
    for name, rows in (("train", slice(0, SPLIT)), ("test", slice(SPLIT, None))):
        x, y = images[rows].copy(), labels[rows].copy()
        save_file({"x": x, "y": y, "pixel_values": x[:, None], "labels": y.copy()}, folder / f"{name}.safetensors")
    return folder


def load(text, folder):
    path = folder / "task.py"
    path.write_text(text)
    return Task(read_source(path))


@pytest.mark.parametrize("kind", KINDS)
def test_few_lines_are_changed(kind):
    before, after = ((EXAMPLES / kind / name).read_text().splitlines() for name in ("before.py", "task.py"))
    lines = list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:]
    changed = [line for line in lines if line[0] in "+-" and line[1:].strip()]
    assert 0 < len(changed) <= MOST_CHANGED
    assert all(line.startswith("+") for line in changed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ours_is_as_accurate_as_the_published_example(kind, digits, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    whole = subprocess.run([sys.executable, EXAMPLES / kind / "before.py"], capture_output=True, text=True, check=True)
    theirs = float(re.findall(r"Accuracy: ([\d.]+)%", whole.stdout)[-1])
    left = set(tmp_path.iterdir())
    task = Task(read_source(EXAMPLES / kind / "task.py"))
    model = task.build_model(42)
    data = task.load_data(digits / "train.safetensors")
    task.train(model, data, round=0, seed=42, hyperparameters={})  # 42: what a Trainer draws by where nobody says
    ours = task.evaluate(model, task.load_data(digits / "test.safetensors"), seed=0)
    assert task.count_samples(data) == SPLIT
    assert theirs > 80
    assert 100 * ours.correct / ours.samples == pytest.approx(theirs, abs=0.051)  # as it is printed
    assert capfd.readouterr() == ("", "")  # no banner, no bar
    assert set(tmp_path.iterdir()) == left


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["trainer", "lightning"])
def test_two_nodes_train_alike_by_the_jobs_seed_alone(kind, digits):
    """A Trainer left alone would draw by 42 in every round."""
    task = Task(read_source(EXAMPLES / kind / "task.py"))
    data = take(task.load_data(digits / "train.safetensors"), range(64))
    settings = {"num_train_epochs": 1} if kind == "trainer" else {"max_epochs": 1, "learning_rate": 0.02}

    def train(seed):
        torch.manual_seed(np.random.default_rng().integers(1 << 30).item())  # whatever was drawn before
        model = task.build_model(1)
        task.train(model, data, round=0, seed=seed, hyperparameters=settings)
        return read_floats(model, format_of(model).layout)

    before = np.random.get_state()[1].copy()
    first = train(7)
    assert (first == train(7)).all()
    if kind == "trainer":  # which shuffles
        assert (first != train(8)).any()
    assert (np.random.get_state()[1] == before).all()
    with pytest.raises(BadInput, match="no such option"):
        task.train(task.build_model(1), data, round=0, seed=1, hyperparameters={"learning_rte": 1})


SCRIPT = """
import torch
from torch.utils.data import DataLoader, TensorDataset
from deepledger import adapters
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))
optimizer = torch.optim.SGD([{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters()}], lr=0.01)
loader = DataLoader(TensorDataset(torch.zeros(8, 4), torch.zeros(8).long()), batch_size=8, shuffle=True)
TASK = adapters.script(model, optimizer, torch.nn.CrossEntropyLoss(), loader, load_data=adapters.columns("x", "y"))
raise SystemExit("what is below is not run")
"""


@pytest.fixture
def two_classes(tmp_path):
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=(x[:, 0] > 0).astype(np.int64))
    return tmp_path / "data.npz"


def test_what_stands_below_the_task_is_not_run_and_what_stands_above_is_alike_for_all(tmp_path, two_classes):
    torch.manual_seed(1)
    first = load(SCRIPT, tmp_path).build_model(1).state_dict()
    torch.manual_seed(2)
    again = load(SCRIPT + "# another file\n", tmp_path).build_model(2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_script_trains_a_model_of_the_round_and_leaves_its_own_as_it_is(tmp_path, two_classes):
    task = load(SCRIPT, tmp_path)
    data, model = task.load_data(two_classes), task.build_model(1)
    start, before = (
        task.evaluate(model, data, seed=0),
        {name: each.clone() for name, each in model.state_dict().items()},
    )
    task.train(
        model, data, round=0, seed=1, hyperparameters={"epochs": 20, "lr": 0.3, "momentum": 0.9, "batch_size": 5}
    )
    assert task.evaluate(model, data, seed=0).correct > start.correct
    untouched = task.build_model(1).state_dict()
    assert all(torch.equal(before[name], untouched[name]) for name in before)
    assert any("1.weight" in name for name in before)
    assert torch.equal(model.state_dict()["1.weight"], before["1.weight"])  # which no group of the optimizer has


def test_a_script_trains_as_it_would_by_itself(tmp_path, two_classes):
    task = load(SCRIPT, tmp_path)
    data, model = task.load_data(two_classes), task.build_model(1)
    own = task.build_model(1)
    optimizer = torch.optim.SGD([{"params": own[0].parameters(), "lr": 0.1}, {"params": own[2].parameters()}], lr=0.01)
    torch.manual_seed(3)
    own.train()
    for x, y in DataLoader(data, batch_size=8, shuffle=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(own(x), y).backward()
        optimizer.step()
    task.train(model, data, round=0, seed=3, hyperparameters={})
    assert all(torch.equal(each, own.state_dict()[name]) for name, each in model.state_dict().items())


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "torch.optim.SGD([",
            "torch.optim.SGD([{'params': torch.nn.Linear(1, 1).parameters()}, ",
            "has a parameter that",
        ),
        ('columns("x", "y")', 'columns("x", "z")', "has no column 'z'; it has x, y"),
        ("TASK = ", "TASK = 3 or ", "lacks build_model"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path, two_classes, old, new, says):
    with pytest.raises(BadInput, match=says):
        load(SCRIPT.replace(old, new, 1), tmp_path).load_data(two_classes)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "shuffle=True",
            "sampler=torch.utils.data.WeightedRandomSampler([1.0] * 8, 8)",
            "WeightedRandomSampler chooses",
        ),
        ("shuffle=True", "sampler=torch.utils.data.SubsetRandomSampler([1, 2])", "SubsetRandomSampler chooses among"),
        ("shuffle=True", "sampler=torch.utils.data.RandomSampler(range(8), replacement=True)", "RandomSampler chooses"),
        ("shuffle=True", "sampler=torch.utils.data.RandomSampler(range(8), num_samples=3)", "RandomSampler chooses"),
        ("batch_size=8, shuffle=True", "batch_sampler=[[0, 1], [2]]", "list chooses among its own samples"),
        ("loader, load", "[], load", "give it a DataLoader, not a list"),
        ("CrossEntropyLoss()", "CrossEntropyLoss(reduction='sum')", "has reduction='sum', and measured is the mean"),
    ],
)
def test_what_would_silently_be_another_training_is_refused(tmp_path, old, new, says):
    with pytest.raises(BadInput, match=says):
        load(SCRIPT.replace(old, new, 1), tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("batch_size=8, shuffle=True", "batch_size=None"),
        ("CrossEntropyLoss()", "KLDivLoss(reduction='batchmean')"),
        (
            "CrossEntropyLoss(), loader",
            "CrossEntropyLoss(reduction='sum'), loader, evaluate=lambda model, data: {'samples': 1, 'loss': 1.0}",
        ),
    ],
)
def test_what_is_the_same_training_is_not_refused(tmp_path, old, new):
    assert old in SCRIPT
    load(SCRIPT.replace(old, new, 1), tmp_path)


def test_a_flower_client_that_loads_elsewhere_gets_no_other_data():
    """What it makes of a thread's failure is its own; the round fails all the same."""
    load = adapters.loaders(lambda partition, batch_size=2: (partition, batch_size))
    assert load(7) == (7, 2)

    def quietly():
        with ThreadPoolExecutor(1) as threads:
            return type(threads.submit(load, 7).exception())

    data = TensorDataset(torch.zeros(3, 1))
    with supplied(data):
        assert load(7)[0].dataset is data
        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(copy_context().run, load, 7).result()[1].dataset is data
    with pytest.raises(BadInput, match="loads data in a thread of its own"), supplied(data):
        assert quietly() is BadInput
    assert load(7) == (7, 2)


def test_a_hyperparameter_that_nothing_has_is_named(tmp_path, two_classes):
    task = load(SCRIPT, tmp_path)
    with pytest.raises(BadInput, match=r"hyperparameters\.momntum: a script with SGD has no such option"):
        task.train(task.build_model(1), task.load_data(two_classes), round=0, seed=1, hyperparameters={"momntum": 0.9})


def test_targets_that_are_no_classes_have_no_accuracy(tmp_path):
    model = nn.Linear(2, 1)
    loader = DataLoader(TensorDataset(torch.zeros(4, 2), torch.zeros(4, 1)), batch_size=3)
    made = adapters.script(
        model, torch.optim.SGD(model.parameters()), nn.MSELoss(), loader, load_data=adapters.columns("x", "y")
    )
    data = TensorDataset(torch.randn(5, 2), torch.randn(5, 1))
    with torch.no_grad():
        found = made.evaluate(model, data)
    assert found.keys() == {"samples", "loss"}
    assert float(found["loss"]) == pytest.approx(
        float(nn.functional.mse_loss(model(data.tensors[0]), data.tensors[1]).detach())
    )


@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, nn.NLLLoss])
@pytest.mark.parametrize("weight", [None, [1.0, 5.0, 0.0]])
@pytest.mark.parametrize("ignored", [-100, 1, 2])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(), (4,)])
def test_the_mean_loss_is_what_the_criterion_is_of_all_samples_at_once(kind, weight, ignored, smoothing, shape):
    options = {"weight": None if weight is None else torch.tensor(weight), "ignore_index": ignored}
    loss = kind(**options, **({"label_smoothing": smoothing} if kind is nn.CrossEntropyLoss else {}))
    torch.manual_seed(0)
    inputs, targets = torch.randn(23, 3, *shape), torch.randint(3, (23, *shape))
    targets[:4] = 2  # a batch that may have no weight at all
    model = nn.Sequential(nn.Conv1d(3, 3, 1) if shape else nn.Linear(3, 3), nn.LogSoftmax(1))
    batches = DataLoader(TensorDataset(inputs, targets), batch_size=4)
    with torch.no_grad():
        found, whole = mean_loss(model, batches, loss), float(loss(model(inputs), targets))
    assert found["samples"] == 23
    assert found["loss"] == pytest.approx(whole, rel=1e-5)


def test_a_loss_that_counts_no_target_is_no_loss_of_zero():
    batches = DataLoader(TensorDataset(torch.zeros(3, 2), torch.full((3,), -100)))
    with torch.no_grad(), pytest.raises(BadInput, match="CrossEntropyLoss ignores, or gives no weight to, all targets"):
        mean_loss(nn.Linear(2, 2), batches, nn.CrossEntropyLoss())


def test_rows_are_read_from_three_formats(tmp_path):
    columns = {"x": np.array([[1.5, 2], [3, 4]], np.float32), "y": np.array([0, 1])}
    save_file(columns, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", **columns)
    (tmp_path / "a.csv").write_text("x,y\n1.5,0\n3,1\n")
    for suffix in ("safetensors", "npz", "csv"):
        data = adapters.records(tmp_path / f"a.{suffix}")
        assert len(data) == 2
        assert int(data[1]["y"]) == 1
        assert data[1]["y"].dtype == torch.int64
        assert [int(row["y"]) for row in take(data, [1, 0])] == [1, 0]
        assert [int(row["y"]) for row in data] == [0, 1]
    for name, text, says in (
        ("b.csv", "x,y\n1\n", "2 names"),
        ("c.txt", "", "write a load_data of your own"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(BadInput, match=says):
            adapters.records(tmp_path / name)
    np.savez(tmp_path / "d.npz", x=np.zeros(2), y=np.zeros(3))
    with pytest.raises(BadInput, match="not of one length"):
        adapters.records(tmp_path / "d.npz")


def test_numbers_are_found_under_the_names_that_libraries_give_them():
    found = {"eval_loss": 0.5, "eval_accuracy": 0.29, "eval_f1": 0.7, "eval_runtime": 3.0}
    told = result(found, samples=100, metrics={"f1": "higher"}, where="")
    assert told == {"samples": 100, "loss": 0.5, "f1": 0.7, "correct": 29}
    with pytest.raises(BadInput, match="it evaluates to val_acc, and not to loss: log it"):
        result({"val_acc": 1.0}, samples=1, metrics={}, where="log it")


def test_modules_beside_a_task_are_pinned_by_it(tmp_path):
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets/small.py").write_text("WIDTH = 3\n")
    pin = sha256((tmp_path / "nets/small.py").read_bytes()).hexdigest()
    text = (
        "from deepledger import adapters\nimport torch\n"
        f'adapters.pinned(__file__, {{"nets/small.py": "{pin}"}})\nfrom nets import small\n'
        "def build_model(): return torch.nn.Linear(small.WIDTH, 1)\n"
        "def load_data(path): return [1]\ndef train(model, data): pass\ndef evaluate(model, data): pass\n"
    )
    assert load(text, tmp_path).build_model(0).in_features == 3
    (tmp_path / "nets/small.py").write_text("WIDTH = 4\n")
    with pytest.raises(BadInput, match=r"pins .*small.py with SHA-256"):
        load(text, tmp_path)
    (tmp_path / "nets/small.py").unlink()
    with pytest.raises(BadInput, match="it comes with the task"):
        load(text, tmp_path)


LAYERED = """
from deepledger import adapters
import torch
adapters.pinned(__file__, {pins})
from {first} import WIDTH
def build_model():
    import layers
    return torch.nn.Linear(WIDTH, layers.WIDTH)
def load_data(path): return [1]
def train(model, data): pass
def evaluate(model, data): pass
"""


def layered(folder, *, pinned, first, **modules):
    """A task that imports `first` while it is loaded, and `layers` when it is called."""
    folder.mkdir()
    for name, width in modules.items():
        (folder / f"{name}.py").write_text(
            f"import layers\nWIDTH = {width}\n" if name != "layers" else f"WIDTH = {width}\n"
        )
    pins = {name: sha256((folder / name).read_bytes()).hexdigest() for name in pinned}
    return load(LAYERED.format(pins=pins, first=first), folder)


def test_tasks_of_one_process_get_their_own_modules_only(tmp_path, monkeypatch):
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed/layers.py").write_text("WIDTH = 9\n")
    monkeypatch.syspath_prepend(tmp_path / "installed")
    first = layered(tmp_path / "a", pinned=["wide.py", "layers.py"], first="wide", wide=1, layers=2)
    second = layered(tmp_path / "b", pinned=["wide.py"], first="wide", wide=3)
    third = load(LAYERED.replace("adapters.pinned(__file__, {pins})", "").format(first="layers"), tmp_path)
    shapes = {first: (2, 1), second: (9, 3), third: (9, 9)}
    for task in (second, first, third, first, second):
        assert tuple(task.build_model(0).weight.shape) == shapes[task]
    third.build_model(0)
    import layers

    assert layers.WIDTH == 9
    monkeypatch.delitem(sys.modules, "layers")


def test_what_a_program_had_is_found_again_after_each_of_several_tasks(tmp_path, monkeypatch):
    """As where one program records several runs, which use modules of the names that their task pins."""
    monkeypatch.setitem(sys.modules, "layers", ModuleType("layers"))
    before = sys.modules["layers"]
    for name in ("a", "b"):
        with given_back():
            task = layered(tmp_path / name, pinned=["layers.py"], first="layers", layers=2)
        assert sys.modules["layers"] is before
        assert task.build_model(0).out_features == 2
        with given_back():
            pass
        assert sys.modules["layers"] is before


def test_tasks_that_pin_modules_wait_for_each_other(tmp_path):
    """While one is running, another's modules are not put in the place of its own."""
    task = layered(tmp_path / "a", pinned=["layers.py"], first="layers", layers=2)
    other = layered(tmp_path / "b", pinned=["layers.py"], first="layers", layers=3)
    inside, go_on = Event(), Event()
    build = task._module.build_model

    def slow():
        inside.set()
        assert go_on.wait(60)
        return build()

    task._module.build_model = slow
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(task.build_model, 0)
        assert inside.wait(60)
        two = threads.submit(other.build_model, 0)
        wait([two], timeout=0.5)
        assert not two.done()
        go_on.set()
        assert one.result().out_features == 2
        assert two.result().out_features == 3


def test_adapters_are_there_without_what_they_adapt():
    hidden = "import sys; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'lightning', 'flwr'])); "
    call = "from deepledger import adapters; adapters.flower(None, model=None)"
    done = subprocess.run(
        [sys.executable, "-c", hidden + call.replace("flower", "trainer").replace(", model=None", "")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "pip install 'deepledger[node,trainer]'" in done.stderr.splitlines()[-1]
