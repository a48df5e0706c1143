"""job new: code is read and not run, a task and a job come of it, and what could not be translated is said."""

import ast
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from deepledger.api.job_file import draft, read_job_file
from deepledger.cli.main import app
from deepledger.cli.translation import TRANSLATE
from deepledger.protocol.errors import BadInput

EXAMPLES = Path(__file__).resolve().parents[2] / "examples/adapters"
SCRIPT = """
from pathlib import Path
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset
import sizes

Path("i-was-run").touch()
train_loader = DataLoader(TensorDataset(torch.zeros(8, 4), torch.zeros(8).long()), batch_size=8, shuffle=True)
net = nn.Linear(sizes.FEATURES, 2)
criterion = nn.CrossEntropyLoss()
opt = optim.SGD(net.parameters(), lr=0.1)

def fit(net, loader, opt, device):
    for x, y in loader:
        opt.zero_grad()
        criterion(net(x), y).backward()
        opt.step()

for epoch in range(1, 3 + 1):
    fit(net, train_loader, opt, "cpu")
"""


def new(folder, *arguments):
    return CliRunner().invoke(app, ["job", "new", *map(str, arguments), "--into", str(folder / "job")])


def write_data(folder, *names):
    random = np.random.default_rng(0)
    for name in names:
        x = random.normal(size=(40, 4)).astype(np.float32)
        np.savez(folder / name, x=x, y=(x[:, 0] > 0).astype(np.int64))


def drafted(job, old="validation.safetensors", **changes):
    """What `job create` would publish."""
    text = (job / "job.toml").read_text().replace(old, "validation.npz")
    for name, value in changes.items():
        text = text.replace(name, value)
    (job / "job.toml").write_text(text)
    write_data(job, "validation.npz")
    return draft(read_job_file(job / "job.toml"), job)


def test_a_job_to_begin_with_can_be_created_as_it_is(tmp_path):
    done = new(tmp_path)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [str(tmp_path / "job" / name) for name in ("job.toml", "task.py")]
    assert drafted(tmp_path / "job").first.correct is not None
    again = new(tmp_path)
    assert again.exit_code == 3
    assert "is there already: name another folder with --into" in again.stderr


def test_a_script_becomes_a_task_and_is_not_run_by_that(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "sizes.py").write_text("FEATURES = 4\n")
    done = new(tmp_path, "--from", "script", tmp_path / "train.py")
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "i-was-run").exists()
    task = (tmp_path / "job/task.py").read_text()
    assert '"sizes.py": "' in task
    assert (
        'TASK = adapters.script(net, opt, criterion, train_loader, load_data=adapters.columns("x", "y"), '
        "epochs=len(range(1, 3 + 1)), train=lambda loader, model, optimizer: fit(model, loader, optimizer, 'cpu'))"
    ) in task
    added = set(task.splitlines()) - set(SCRIPT.splitlines())
    assert len([line for line in added if "sha" not in line and '"sizes.py"' not in line]) <= 5
    made = drafted(tmp_path / "job")
    assert made.spec.model.coordinates == 10
    assert made.first.samples == 40


@pytest.mark.parametrize("kind", ["script", "trainer", "lightning"])
def test_a_published_example_gets_the_lines_that_make_it_a_task(kind):
    made = TRANSLATE[kind](EXAMPLES / kind / "before.py")
    by_hand = ast.parse((EXAMPLES / kind / "task.py").read_text())
    (ours,), (theirs,) = (
        [each.value for each in tree.body if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "TASK"]
        for tree in (ast.parse(made.task), by_hand)
    )
    assert [ast.dump(each) for each in ours.args] == [ast.dump(each) for each in theirs.args]
    assert ast.dump(ours.func) == ast.dump(theirs.func)
    assert any("needs " in note and "sklearn" in note for note in made.notes)


def test_a_flower_app_stays_as_it_is_and_is_pinned():
    made = TRANSLATE["flower"](EXAMPLES / "flower/app")
    assert made.files.keys() == {"digitsapp/__init__.py", "digitsapp/client_app.py", "digitsapp/task.py"}
    assert all(data == (EXAMPLES / "flower/app" / name).read_bytes() for name, data in made.files.items())
    assert (made.rounds, made.least) == (3, 2)
    assert made.hyperparameters == {"local_epochs": 3, "batch_size": 32, "lr": 0.1}
    assert set(made.columns) == {"img", "label"}
    assert "client.load_data = adapters.loaders(client.load_data)" in made.task
    assert "whoever trains or evaluates needs flwr, sklearn" in made.notes


@pytest.fixture
def app_folder(tmp_path):
    """A copy to change."""
    for name in ("pyproject.toml", *(f"digitsapp/{each}.py" for each in ("task", "client_app", "server_app"))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((EXAMPLES / "flower/app" / name).read_text())
    return tmp_path


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("server_app", "FedAvg(", "FedAdam(", "FedAdam is not translated: the weighted mean takes its place"),
        ("server_app", "min_available_nodes=2", "fraction_train=0.3", "fraction_train: in a job, everybody"),
        ("server_app", "min_available_nodes=2", "train_metrics_aggr_fn=f", "train_metrics_aggr_fn is not translated"),
        ("server_app", '"lr": lr', '"lr": decay()', "what the server sends as 'lr' could not be read"),
        ("client_app", "trainloader, valloader = load", "loaders = load", 'context.node_config["data"]'),
        ("client_app", "model = Net()", "model = Net(64)", "the arguments of Net(64) are written as they stand"),
        ("task", 'batch["img"].to(device), batch["label"].to(device)', "batch", "") ,
    ],
)  # fmt: skip
def test_what_an_app_has_that_a_job_has_not_is_said(app_folder, file, old, new, says):
    path = app_folder / f"digitsapp/{file}.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert any(says in note for note in TRANSLATE["flower"](app_folder).notes)


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("script", "x = 1", "makes no optimizer of a model at its top level"),
        ("script", SCRIPT.replace("for epoch in range(1, 3 + 1)", "def main()"), "no loop at its top level"),
        ("trainer", "def main():\n    trainer = Trainer()\n    trainer.train()\n", "has not, at its top level"),
        ("lightning", "t = L.Trainer()\nt.fit(m, datamodule=d)\n", "not given a module and a DataLoader"),
        ("lightning", "print(", "is no Python that can be read"),
        ("flower", "", "a Flower app is a folder with one"),
    ],
)  # fmt: skip
def test_what_cannot_be_translated_is_said(tmp_path, kind, text, says):
    (tmp_path / "code.py").write_text(text)
    with pytest.raises(BadInput, match=says):
        TRANSLATE[kind](tmp_path / "code.py" if kind != "flower" else tmp_path)


def test_what_everybody_would_run_is_said(tmp_path):
    text = 'd = load_dataset("x")\nt = Trainer(model=m)\nif True:\n    t.train()\n'
    (tmp_path / "code.py").write_text(text)
    notes = TRANSLATE["trainer"](tmp_path / "code.py").notes
    assert any("code.py:1: load_dataset is run by everybody who loads the task" in note for note in notes)
    assert "t has no compute_metrics: only the loss is measured" in notes


def test_a_schedule_and_steps_of_its_own_are_said(tmp_path):
    text = SCRIPT.replace("for epoch", "s = optim.lr_scheduler.StepLR(opt, 1)\nfor epoch").replace(
        'fit(net, train_loader, opt, "cpu")', "criterion(net(train_loader), 1).backward()"
    )
    (tmp_path / "code.py").write_text(text)
    notes = " ".join(TRANSLATE["script"](tmp_path / "code.py").notes)
    assert "the schedule of the learning rate is not used" in notes
    assert "the steps of this loop are not used, but one with the loss of every batch" in notes
