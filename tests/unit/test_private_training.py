"""`make_private`: gradients of single samples, noise that nobody can guess, and what goes past it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from opacus.layers import DPLSTM, DPMultiheadAttention
from torch import nn
from torch.nn import functional as f
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from deepledger.cli import doctor
from deepledger.node.batch_mixing import BatchMixing
from deepledger.node.secret_noise import SecretNoise
from deepledger.node.training import Trainer, load_trainer, make_update, rehearse
from deepledger.privacy import finish_private, make_private
from deepledger.protocol.errors import BadInput
from deepledger.protocol.evaluation.state_dict import format_of, read_floats
from deepledger.protocol.evaluation.task import Task, read_source
from deepledger.protocol.formats.private_run import PrivateRun, Steps
from deepledger.protocol.formats.spec import TaskPin, build_spec
from deepledger.protocol.formats.vectors import encode_model
from deepledger.protocol.types import RoundNumber

NO_NOISE = 1e-9
CLIP = 0.5


class Tied(nn.Module):
    """An embedding whose table is the last layer's weight, too; its positions are frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(7, 6), nn.Linear(6, 7, bias=False)
        self.last.weight = self.table.weight
        self.positions = nn.Parameter(torch.ones(1, 3, 6), requires_grad=False)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.last((self.table(words) + self.positions).mean(dim=1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.last = DPLSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.cells(x)[0][:, -1])


class Attention(nn.Module):
    """As a node tells to write it: two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out, self.last = nn.Linear(4, 12), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = (part.unflatten(-1, (2, 2)).transpose(1, 2) for part in self.into(x).chunk(3, dim=-1))
        seen = f.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        return self.last(self.out(seen).mean(dim=1))


MODELS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor, int]] = {
    "perceptron": (lambda: nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)), torch.randn(20, 8), 3),
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)),
        torch.randn(20, 1, 6, 6),
        3,
    ),
    "tied and frozen": (Tied, torch.randint(0, 7, (20, 3)), 7),
    "recurrent": (Recurrent, torch.randn(20, 6, 4), 3),
    "attention": (Attention, torch.randn(20, 6, 4), 3),
}


def data_of(inputs: torch.Tensor, classes: int) -> TensorDataset:
    return TensorDataset(inputs, torch.arange(len(inputs)) % classes)


def train(model: nn.Module, data: Any, *, batch_size: int = 4, passes: int = 1, **options: float) -> list[int]:
    """As a task does. Returns the sizes of batches."""
    plain, sizes = torch.optim.SGD(model.parameters(), lr=1.0), []
    options = {"noise_multiplier": 1.0, "clip_norm": CLIP} | options
    optimizer, loader = make_private(model, plain, DataLoader(data, batch_size=batch_size), **options)
    for _ in range(passes):
        for inputs, labels in loader:
            optimizer.zero_grad()
            f.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            sizes.append(len(labels))
    return sizes


def slow_step(model: nn.Module, data: TensorDataset) -> list[torch.Tensor]:
    """One step with all samples, sample by sample."""
    params = [each for each in model.parameters() if each.requires_grad]
    total = [torch.zeros_like(each) for each in params]
    for inputs, label in data:
        loss = f.cross_entropy(model(inputs[None]), label[None])
        gradients = torch.autograd.grad(loss, params)
        norm = torch.cat([each.flatten() for each in gradients]).norm()
        for sum_, each in zip(total, gradients, strict=True):
            sum_ += each * min(1.0, CLIP / float(norm))
    return [each.detach() - sum_ / len(data) for each, sum_ in zip(params, total, strict=True)]


@pytest.mark.parametrize("name", MODELS)
def test_a_step_is_the_sum_of_clipped_gradients_and_leaves_the_model_as_it_was_built(name: str) -> None:
    build, inputs, classes = MODELS[name]
    model, data = build(), data_of(inputs, classes)
    names, frozen = list(model.state_dict()), {key: value.clone() for key, value in model.state_dict().items()}
    expected = slow_step(model, data)
    assert train(model, data, batch_size=20, noise_multiplier=NO_NOISE) == [20]
    run = finish_private(model)
    assert run == PrivateRun(samples=20, clip_norm=CLIP, steps=(Steps(1.0, NO_NOISE, 1),), past=None)
    trained = [each for each in model.parameters() if each.requires_grad]
    for one, other in zip(trained, expected, strict=True):
        torch.testing.assert_close(one.detach(), other)
    assert list(model.state_dict()) == names
    assert all(each.equal(frozen[key]) for key, each in model.named_parameters() if not each.requires_grad)
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    assert not any(vars(each) for each in model.parameters())
    slow_step(model, data)  # it can be trained without


@pytest.mark.parametrize("name", MODELS)
def test_empty_batches_are_steps_like_others(name: str) -> None:
    build, inputs, classes = MODELS[name]
    model, few = build(), data_of(inputs[:2], classes)
    sizes = train(model, few, batch_size=1, passes=30)
    assert 0 in sizes  # fails once in 4^60: one in four batches of two samples is empty
    run = finish_private(model)
    assert run is not None
    assert run.past is None
    assert run.steps == (Steps(0.5, 1.0, 60),)


def test_samples_are_drawn_by_lot_and_noise_is_as_wide_as_it_says() -> None:
    drawn = SecretNoise().normal(100_001).numpy()
    assert len(drawn) == 100_001
    assert abs(drawn.mean()) < 0.03  # ten standard deviations
    assert abs(drawn.std() - 1) < 0.025
    assert abs((np.abs(drawn) < 0.6744898).mean() - 0.5) < 0.016

    model = nn.Linear(400, 100)
    before = [each.detach().clone() for each in model.parameters()]
    still = data_of(torch.zeros(50, 400), 100)
    still.tensors[1].zero_()
    sizes = train(model, still, batch_size=10, passes=40, noise_multiplier=2.0, clip_norm=3.0)
    assert len(sizes) == 200
    assert abs(np.mean(sizes) - 10) < 2  # ten standard deviations
    assert len(set(sizes)) > 3
    moved = (model.weight.detach() - before[0]).std() * 10 / np.sqrt(200)  # no gradient reaches the weights
    assert abs(float(moved) - 2.0 * 3.0) < 0.22


def test_neither_lots_nor_noise_follow_from_the_seed_that_everybody_knows() -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(1)
        model = nn.Linear(4, 2)
        train(model, data_of(torch.zeros(8, 4), 2))
        found.append(model.weight.detach().clone())
    assert not found[0].equal(found[1])


def test_a_loader_with_workers_is_watched_alike() -> None:
    model, data = nn.Linear(8, 3), data_of(torch.randn(20, 8), 3)
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(data, batch_size=4, shuffle=True, num_workers=1)
    optimizer, batches = make_private(model, plain, loader, noise_multiplier=1.0, clip_norm=1.0)
    for _ in range(2):
        for inputs, labels in batches:
            optimizer.zero_grad()
            f.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    run = finish_private(model)
    assert run is not None
    assert (run.past, run.steps) == (None, (Steps(0.2, 1.0, 10),))


def ordinary_step(model: nn.Module, data: TensorDataset) -> None:
    train(model, data)
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def assignment(model: nn.Module, data: TensorDataset) -> None:
    train(model, data)
    model[0].weight.data = model[0].weight.data + 1


def another_parameter(model: nn.Module, data: TensorDataset) -> None:
    train(model, data)
    model[0].weight = nn.Parameter(torch.zeros(6, 8))


def other_data(model: nn.Module, data: TensorDataset) -> None:
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer, _ = make_private(model, plain, DataLoader(data, batch_size=4), noise_multiplier=1.0, clip_norm=1.0)
    f.cross_entropy(model(data.tensors[0]), data.tensors[1]).backward()
    optimizer.step()


def more_data(model: nn.Module, data: TensorDataset) -> None:
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer, loader = make_private(model, plain, DataLoader(data, batch_size=4), noise_multiplier=1.0, clip_norm=1.0)
    for inputs, _ in loader:
        optimizer.zero_grad()
        model(torch.cat([inputs, data.tensors[0]])).mean().backward()
        optimizer.step()


def skipped(model: nn.Module, data: TensorDataset) -> None:
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    make, options = DataLoader(data, batch_size=4), {"noise_multiplier": 1.0, "clip_norm": 1.0}
    _, loader = make_private(model, plain, make, **options)
    list(loader)


def nothing(model: nn.Module, data: TensorDataset) -> None:
    make_private(model, torch.optim.SGD(model.parameters()), DataLoader(data), noise_multiplier=1.0, clip_norm=1.0)


@pytest.mark.parametrize(
    ("going_past", "said"),
    [
        (ordinary_step, "'0.weight' of the model was changed outside of private steps"),
        (assignment, "'0.weight' of the model was changed outside of private steps"),
        (another_parameter, "'0.weight' of the model was changed outside of private steps"),
        (other_data, "a step was taken without a batch of make_private's loader"),
        (more_data, "a step's gradients are of 2"),
        (skipped, "no step was taken with a batch"),
        (nothing, "no private step was taken"),
    ],
)
def test_what_goes_past_the_private_steps_is_noticed(going_past: Any, said: str) -> None:
    build, inputs, classes = MODELS["perceptron"]
    model = build()
    going_past(model, data_of(inputs, classes))
    run = finish_private(model)
    assert run is not None
    assert run.past is not None
    assert said in run.past


def test_a_layer_that_takes_parts_of_samples_for_samples_is_noticed() -> None:
    class PerWord(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.flatten(0, 1)).view(len(x), 6, 3).mean(dim=1)  # of a batch without samples, too

    model = PerWord()
    train(model, data_of(torch.randn(20, 6, 4), 3))
    run = finish_private(model)
    assert run is not None
    assert "gradients are of" in (run.past or "")


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.BatchNorm1d(8), r"layer '0' is a BatchNorm1d: it mixes .* take torch.nn.GroupNorm or LayerNorm"),
        (nn.LSTM(8, 8), r"layer '0' is a LSTM: take opacus.layers.DPLSTM"),
        (nn.GRU(8, 8), "take opacus.layers.DPGRU"),
        (nn.RNN(8, 8), "take opacus.layers.DPRNN"),
        (nn.LSTMCell(8, 8), "take a whole layer of opacus.layers"),
        (nn.TransformerEncoderLayer(8, 2), r"layer '0.self_attn' is a MultiheadAttention: take .* scaled_dot_product"),
        (DPMultiheadAttention(8, 2, batch_first=True), "it takes heads for positions .* take .* scaled_dot_product"),
        (
            nn.Conv1d(8, 8, 3, padding=1, padding_mode="circular"),
            "takes any padding for zeros; take torch.nn.Reflection",
        ),
        (nn.Embedding(8, 8, scale_grad_by_freq=True), "leave scale_grad_by_freq out"),
        (nn.InstanceNorm1d(8, track_running_stats=True), "give it track_running_stats=False"),
        (nn.Bilinear(8, 8, 8), "take torch.nn.Linear"),
        (nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)), "with a parametrization: leave that out"),
        (nn.Linear(8, 8, dtype=torch.complex64), "with complex parameters"),
    ],
)
def test_layers_that_cannot_be_private_are_refused_with_what_to_take(layer: nn.Module, said: str) -> None:
    model, data = nn.Sequential(layer, nn.Linear(8, 3)), data_of(torch.randn(20, 8), 3)
    with pytest.raises(BadInput, match=said):
        train(model, data)
    assert finish_private(model) is None
    assert not any(module._forward_hooks for module in model.modules())


class Twice(nn.Module):
    """A weight that is used outside of its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(f.linear(self.first(x), self.first.weight))


def test_a_gradient_of_which_samples_make_up_a_part_only_is_refused() -> None:
    """It would be trained on a gradient that is another than the task's, without a word."""
    model = Twice()
    with pytest.raises(BadInput, match=r"single samples of 'first.weight' do not add up .* weight_decay"):
        train(model, data_of(torch.randn(20, 8), 3), batch_size=20)
    finish_private(model)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_penalty_in_the_loss_is_refused_and_one_of_the_optimizer_is_not() -> None:
    data = data_of(torch.randn(20, 8), 3)

    def step(penalty: float, weight_decay: float) -> None:
        model = nn.Linear(8, 3)
        plain = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=weight_decay)
        loader = DataLoader(data, batch_size=20)
        optimizer, loader = make_private(model, plain, loader, noise_multiplier=1.0, clip_norm=1.0)
        for inputs, labels in loader:
            optimizer.zero_grad()
            penalties = sum(each.square().sum() for each in model.parameters())
            (f.cross_entropy(model(inputs), labels) + penalty * penalties).backward()
            optimizer.step()

    step(0.0, 0.01)
    with pytest.raises(BadInput, match="a penalty in the loss"):
        step(0.01, 0.0)


class Mixing(nn.Module):
    def __init__(self, mix: Callable[[torch.Tensor], torch.Tensor], dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.dropout, self.last, self.mix = nn.Linear(8, 8), nn.Dropout(dropout), nn.Linear(8, 3), mix

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.mix(self.dropout(self.first(x))))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(
    "mix",
    [
        lambda x: f.batch_norm(x, None, None, training=True),
        lambda x: x - x.mean(dim=0),
        lambda x: f.scaled_dot_product_attention(x, x, x),
        lambda x: x.flip(0),
    ],
)
def test_a_model_that_mixes_samples_is_refused_whatever_it_does_it_with(mix: Any, dropout: float) -> None:
    """Its gradients of samples add up, and removing one sample changes them all: clipping bounds nothing."""
    model = Mixing(mix, dropout)
    with pytest.raises(BadInput, match="one sample depends on the others in its batch"):
        train(model, data_of(torch.randn(20, 8), 3), batch_size=10)
    finish_private(model)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_looking_for_mixing_changes_nothing_of_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what is drawn by chance nor what a module counts."""

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return x

    def trained() -> tuple[float, torch.Tensor]:
        model = nn.Sequential(nn.Linear(8, 3), Counts(), nn.Dropout(0.5))
        torch.manual_seed(3)
        train(model, data_of(torch.ones(20, 8) * torch.arange(20)[:, None], 3), batch_size=20)
        return float(model[1].calls), torch.rand(3)

    calls, drawn = trained()
    monkeypatch.setattr(BatchMixing, "check", lambda *_: None)
    assert (calls, drawn.tolist()) == (1, trained()[1].tolist())


def test_loaders_optimizers_and_numbers_that_cannot_be_used_are_refused() -> None:
    model, data = nn.Linear(8, 3), data_of(torch.randn(20, 8), 3)
    plain, loader = torch.optim.SGD(model.parameters()), DataLoader(data, batch_size=4)

    def refuses(said: str, **other: Any) -> None:
        given = {"optimizer": plain, "loader": loader, "noise_multiplier": 1.0, "clip_norm": 1.0} | other
        with pytest.raises(BadInput, match=said):
            make_private(model, given.pop("optimizer"), given.pop("loader"), **given)

    refuses("noise_multiplier is 0", noise_multiplier=0)
    refuses("clip_norm is inf", clip_norm=float("inf"))
    refuses("wants a torch DataLoader, not a TensorDataset", loader=data)
    refuses("leave sampler and batch_sampler out", loader=DataLoader(data, sampler=WeightedRandomSampler([1] * 20, 20)))
    refuses("parameters that are not the model's", optimizer=torch.optim.SGD(nn.Linear(1, 1).parameters()))
    private, _ = make_private(model, plain, loader, noise_multiplier=1.0, clip_norm=1.0)
    refuses("called twice")
    refuses("private already", optimizer=private)


def test_importing_it_needs_neither_torch_nor_opacus() -> None:
    check = "import sys, deepledger.privacy; print({'torch', 'opacus', 'dp_accounting'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert result.stdout == "set()\n", result.stderr


def test_the_guide_shows_a_training_that_is_private() -> None:
    guide = Path(__file__).resolve().parents[2] / "docs/privacy.md"
    (shown,) = re.findall(r"^```python\n(.*?)^```$", guide.read_text(), re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(shown, names)
    model, data = nn.Linear(8, 3), data_of(torch.randn(20, 8), 3)
    names["train"](model, data, epochs=2, batch_size=5, learning_rate=0.1, noise_multiplier=1.5, clip_norm=2.0)
    assert finish_private(model) == PrivateRun(samples=20, clip_norm=2.0, steps=(Steps(0.25, 1.5, 8),), past=None)


TASK = """
import torch
from torch.nn import functional as f
from torch.utils.data import DataLoader, TensorDataset
from deepledger.privacy import make_private

def build_model():
    return torch.nn.Linear(8, 3)

def load_data(path):
    return TensorDataset(torch.ones(20, 8), torch.arange(20) % 3)

def train(model, data, *, past=False, copies=1):
    data = TensorDataset(*(each.repeat_interleave(copies, 0) for each in data.tensors))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if past:
        f.cross_entropy(model(data.tensors[0]), data.tensors[1]).backward()
        optimizer.step()
        optimizer.zero_grad()
    optimizer, loader = make_private(model, optimizer, DataLoader(data, batch_size=5), noise_multiplier=1, clip_norm=2)
    for inputs, labels in loader:
        optimizer.zero_grad()
        f.cross_entropy(model(inputs), labels).backward()
        optimizer.step()

def evaluate(model, data):
    return {"samples": 1, "loss": 0.0}
"""


@pytest.fixture
def trainer_of(tmp_path: Path, spec_fields: Any) -> Callable[..., Trainer]:
    def trainer(**hyperparameters: Any) -> Trainer:
        path = tmp_path / "task.py"
        path.write_text(TASK)
        source = read_source(path)
        model = format_of(Task(source).build_model(1)).model_dump()
        training = {"seed": 1, "hyperparameters": hyperparameters}
        return load_trainer(build_spec(spec_fields(model=model, training=training)), source, path)

    return trainer


def test_of_rows_that_were_made_of_one_sample_nothing_is_guaranteed(trainer_of: Any) -> None:
    for copies, past in ((1, None), (3, "private for each of 60 rows, and the data have 20 samples")):
        trainer = trainer_of(copies=copies)
        rehearse(trainer)
        run = trainer.guard.last
        assert run.past is None if past is None else past in run.past


def test_the_doctor_tells_of_a_training_that_is_private_in_vain(trainer_of: Any, tmp_path: Path) -> None:
    store: Any = SimpleNamespace(open=lambda: None)
    for past in (False, True):
        trainer, path = trainer_of(past=past), tmp_path / "task.py"
        pin = TaskPin(name="task", sha256=trainer.task.source.sha256)
        spec = trainer.spec.model_copy(update={"task": pin})
        if not past:
            assert "which the task evaluates and trains on" in doctor._data(spec, [path], path, store)[0]
            continue
        with pytest.raises(BadInput, match="nothing is guaranteed: the model was changed before make_private"):
            doctor._data(spec, [path], path, store)


@pytest.mark.parametrize("past", [False, True])
def test_a_node_reads_what_a_training_kept_private(trainer_of: Any, past: bool) -> None:
    trainer = trainer_of(past=past)
    model = encode_model(read_floats(trainer.build()), trainer.spec.model)
    options: dict[str, Any] = {"last": None, "training_seed": 1, "rounding_seed": 1}
    make_update(trainer, model, np.zeros(len(model), np.float32), round=RoundNumber(0), **options)
    run = trainer.guard.last
    assert run is not None
    assert run.steps == (Steps(0.25, 1, 4),)
    assert run.past == ("the model was changed before make_private" if past else None)
