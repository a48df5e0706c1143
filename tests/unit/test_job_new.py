"""job new: code is read and not run, a task and a job come of it, and what could not be translated is said."""

import ast
import os
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from deepledger.api.job_file import draft, read_job_file
from deepledger.cli.main import app
from deepledger.cli.translation import TRANSLATE
from deepledger.cli.translation.losses import NO_WEIGHT, OBJECTS
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


def functional(call="F.cross_entropy(net(x), y)", *, imports="import torch.nn.functional as F", steps=""):
    """That script, with a function's loss."""
    return (
        SCRIPT.replace("criterion = nn.CrossEntropyLoss()\n", "")
        .replace("import sizes", f"import sizes\n{imports}\nweight = torch.tensor([1.0, 3.0])")
        .replace("        criterion(net(x), y)", f"        {steps}\n        loss = {call}\n        loss")
    )


@pytest.mark.parametrize(
    ("text", "loss"),
    [
        (functional(), "nn.CrossEntropyLoss()"),
        (functional("nn.functional.cross_entropy(net(x), y)"), "nn.CrossEntropyLoss()"),
        (
            functional("torch.nn.functional.cross_entropy(out, y, weight=weight)", steps="out = net(x.to(device))"),
            "nn.CrossEntropyLoss(weight=weight)",
        ),
        (
            functional("entropy(input=out, target=y.to(device), label_smoothing=1 / 8) / 2", steps="out = net(x)",
                       imports="from torch.nn.functional import cross_entropy as entropy"),
            "nn.CrossEntropyLoss(label_smoothing=1 / 8)",
        ),
        (functional("loss_fn(net(x), y)", imports="loss_fn = nn.functional.cross_entropy"), "loss_fn"),
        (functional().replace("torch import nn, optim", "torch import optim").replace("nn.L", "torch.nn.L"),
         "torch.nn.CrossEntropyLoss()"),
        (functional().replace("import torch\nfrom torch import nn, optim", "from torch import optim")
         .replace("torch.tensor([1.0, 3.0])", "1").replace("torch.zeros", "zeros").replace("nn.L", "L")
         .replace("import sizes", "import sizes\nfrom torch import zeros\nfrom torch.nn import Linear", 1),
         "torch.nn.CrossEntropyLoss()"),
    ],
)  # fmt: skip
def test_a_loss_that_is_a_function_is_measured_as_the_object_that_does_the_same(tmp_path, monkeypatch, text, loss):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(text)
    (tmp_path / "sizes.py").write_text("FEATURES = 4\n")
    done = new(tmp_path, "--from", "script", tmp_path / "train.py")
    assert done.exit_code == 0, done.output
    assert f"adapters.script(net, opt, {loss}, train_loader, " in (tmp_path / "job/task.py").read_text()
    assert drafted(tmp_path / "job").first.correct is not None


@pytest.mark.parametrize("name", OBJECTS)
def test_a_function_and_its_object_are_the_same_loss(name):
    function, kind = getattr(nn.functional, name), getattr(nn, OBJECTS[name])
    options = set(list(signature(function).parameters)[2:]) - ({"weight"} if name in NO_WEIGHT else set())
    assert options <= signature(kind).parameters.keys()
    torch.manual_seed(0)
    outputs = torch.rand(6, 3)
    targets = torch.randint(3, (6,)) if name in ("cross_entropy", "nll_loss", "multi_margin_loss") else torch.rand(6, 3)
    targets = torch.randint(3, (6, 3)) if name == "multilabel_margin_loss" else targets
    how = {"reduction": "batchmean"} if name == "kl_div" else {}
    assert torch.equal(function(outputs, targets, **how), kind(**how)(outputs, targets))


@pytest.mark.parametrize(
    ("call", "steps", "says"),
    [
        ("F.mse_loss(net(x).squeeze(1), y)", "", r"train.py:19: F.mse_loss\(net\(x\).squeeze\(1\), y\) is not "
         r"understood: net\(x\).squeeze\(1\) is not what a model gives, as it is"),
        ("F.nll_loss(out, y)", "out = F.log_softmax(net(x), dim=1)", "dim=1.* is not what a model gives, as it is"),
        ("F.nll_loss(out, y)", "out = net(x); out = out[:, :2]", "2\\] is not what a model gives, as it is"),
        ("F.mse_loss(net(x), y)", "y = y.float()", r"y.float\(\) is not what the data have, as it is"),
        ("F.cross_entropy(net(x), y, w)", "", "options by their names"),
        ("F.cross_entropy(net(x), y, **options)", "", "options by their names"),
        ("F.cross_entropy(net(x), y, weight=weight.to(device))", "", "device is not known at the top level"),
        ("F.mse_loss(net(x), y, weight=weight)", "", "MSELoss has no weight"),
        ("F.ctc_loss(net(x), y, 1, 2)", "", "ctc_loss takes more than outputs and targets"),
        ("F.mse_loss(net(x), y) + F.l1_loss(net(x), y)", "", r"of several, train.py:19: F.mse_loss\(net\(x\), y\) and "
         r"train.py:19: F.l1_loss"),
        ("net(x, y)", "", r"has no loss that can be read: no object.*, and no .* where it trains \(train.py:15\)"),
    ],
)  # fmt: skip
def test_of_a_loss_that_is_not_understood_line_and_reason_are_said(tmp_path, call, steps, says):
    (tmp_path / "train.py").write_text(functional(call, steps=steps))
    (tmp_path / "sizes.py").write_text("FEATURES = 4\n")
    with pytest.raises(BadInput, match=says):
        TRANSLATE["script"](tmp_path / "train.py")


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
        ("flower", "", "a Flower app is a folder with"),
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


@pytest.mark.parametrize(
    "line", ["a = 'one\u2028two'", "# one\x85two", "\x0c", "a = 'one\x0btwo'", "a = 1\r\nb = 2\rc = 3"]
)
def test_lines_are_those_that_python_counts(tmp_path, line):
    path = tmp_path / "train.py"
    path.write_bytes(SCRIPT.replace("import sizes", f"import sizes\n{line}").encode())
    (tmp_path / "sizes.py").write_text("FEATURES = 4\n")
    assert new(tmp_path, "--from", "script", path).exit_code == 0
    task = (tmp_path / "job/task.py").read_bytes().decode()
    assert task.index("adapters.pinned(") < task.index("import sizes") < task.index(line) < task.index("TASK = ")
    assert task.index("TASK = ") < task.index("for epoch in range(")
    assert line in task
    compile(task, "task.py", "exec")


def test_a_byte_order_mark_and_imports_in_functions_only_are_no_obstacle(tmp_path):
    text = SCRIPT.replace("import sizes\n", "").replace("sizes.FEATURES", "features()")
    text = text.replace(
        "train_loader =", "def features():\n    import sizes\n    return sizes.FEATURES\n\ntrain_loader =", 1
    )
    (tmp_path / "train.py").write_bytes(b"\xef\xbb\xbf" + text.lstrip().encode())
    (tmp_path / "sizes.py").write_text("FEATURES = 4\n")
    made = TRANSLATE["script"](tmp_path / "train.py")
    assert made.files.keys() == {"sizes.py"}
    assert made.task.startswith("from deepledger import adapters\nadapters.pinned(")
    compile(made.task, "task.py", "exec")


def test_words_and_numbers_of_an_app_are_written_as_toml_has_them(app_folder):
    project = app_folder / "pyproject.toml"
    said = 'words = "\U0001f33b \\" \\u007f"\nnone = nan\nfar = -inf\n'
    project.write_text(project.read_text().replace("[tool.flwr.app.config]\n", f"[tool.flwr.app.config]\n{said}"))
    client = app_folder / "digitsapp/client_app.py"
    client.write_text(client.read_text() + "\nWORDS, NONE, FAR = 'words', 'none', 'far'\n")
    done = new(app_folder, "--from", "flower", app_folder)
    assert done.exit_code == 0, done.output
    assert read_job_file(app_folder / "job/job.toml").training.hyperparameters["words"] == '\U0001f33b " \x7f'
    assert "none in [tool.flwr.app.config] is no finite number" in done.stderr
    assert "far in [tool.flwr.app.config] is no finite number" in done.stderr
    assert not {"nan", "inf"} & {
        node.id for node in ast.walk(ast.parse((app_folder / "job/task.py").read_text())) if isinstance(node, ast.Name)
    }


@pytest.mark.parametrize(
    "text", ["[tool]\nflwr = 1", "tool = 1", "[tool.flwr]\napp = []", "[tool.flwr.app]\nconfig = 1", "\udcff"]
)
def test_a_project_that_is_no_app_is_refused(tmp_path, text):
    (tmp_path / "pyproject.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadInput, match=r"pyproject.toml (has no \[tool.flwr.app\]|is not TOML)"):
        TRANSLATE["flower"](tmp_path)


def test_what_never_ends_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pyproject.toml")
    (tmp_path / "zero.py").symlink_to("/dev/zero")
    for kind, path in (
        ("flower", tmp_path),
        ("script", tmp_path / "pyproject.toml"),
        ("trainer", tmp_path / "zero.py"),
    ):
        with pytest.raises(BadInput, match="is no file"):
            TRANSLATE[kind](path)
    (tmp_path / "long.py").write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(BadInput, match="has more than 1048576 bytes"):
        TRANSLATE["script"](tmp_path / "long.py")


def test_a_task_that_python_would_not_take_is_not_written(tmp_path):
    """It is parsed, and no more, when it is read."""
    (tmp_path / "train.py").write_text(SCRIPT + "\nreturn\n")
    (tmp_path / "sizes.py").write_text("FEATURES = 4\n")
    done = new(tmp_path, "--from", "script", tmp_path / "train.py")
    assert done.exit_code == 3
    assert "what would be written is not to be read: 'return' outside function" in " ".join(done.stderr.split())
    assert not (tmp_path / "job").exists()
