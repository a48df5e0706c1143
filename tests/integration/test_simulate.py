"""`job simulate`: what honest and other work would earn, without a chain."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from deepledger.api.simulated import alone, of_fit
from deepledger.api.simulation import Fit
from deepledger.cli.main import app
from deepledger.protocol.formats.participant_privacy import ParticipantPrivacy
from deepledger.protocol.formats.vectors import count_least_variances

pytestmark = pytest.mark.slow

TASK = """
import torch
from safetensors.torch import load_file

def build_model():
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))

def load_data(path):
    data = load_file(path)
    return torch.utils.data.TensorDataset(data["x"], data["y"])

def train(model, data, *, steps):
    x, y = data.tensors
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.5)
    for _ in range(steps):
        rows = torch.randint(len(y), (16,))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()

def evaluate(model, data):
    x, y = data.tensors
    logits = model(x)
    loss = torch.nn.functional.cross_entropy(logits, y)
    return {"samples": len(y), "correct": int((logits.argmax(1) == y).sum()), "loss": float(loss)}
"""
JOB = """
name = "toy"
task = "task.py"
validation = "validation.safetensors"
max_samples = 100000
update = {bits = 16, fraction_bits = 12, norm_bound = 50.0}
training = {seed = 1, hyperparameters = {steps = 20}}
aggregation = {rule = "weighted_mean"}
rewards = {policy = "samples"}
screening = {}
[terms]
rounds = 3
min_participants = 2
max_participants = 8
miss_limit = 3
commit_window = 60
reveal_window = 60
settle_window = 60
reward = "1 ETH"
stake = "1 ETH"
reveal_penalty = "0.1 ETH"
bond = "1 ETH"
settle_penalty = "0.5 ETH"
"""


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    truth = random.normal(size=(8, 3))
    for name in ("validation", "0", "1", "2", "3"):
        x = random.normal(size=(120, 8)).astype(np.float32)
        save_file({"x": x, "y": (x @ truth).argmax(1)}, tmp_path / f"{name}.safetensors")
    (tmp_path / "task.py").write_text(TASK)
    (tmp_path / "job.toml").write_text(JOB)
    return tmp_path


def simulate(folder, *numbers, options=()):
    data = [word for number in numbers for word in ("--data", str(folder / f"{number}.safetensors"))]
    return CliRunner().invoke(app, ["job", "simulate", str(folder / "job.toml"), *data, "--workers", "1", *options])


def test_variances_that_may_be_smaller_than_can_be_said_are_told_of(spec_of):
    layout = [
        {"name": "w", "shape": [2], "offset": 0},
        {"name": "running_var", "shape": [3], "offset": 2, "kind": "variance"},
    ]
    model = {"fraction_bits": 20, "least_variance": 16, "layout": layout}
    spec = spec_of(model=model)
    assert count_least_variances(np.array([0, 0, 16, 17, 16], np.int32), spec.model) == 2
    assert "2 running variances would be smaller than the least" in of_fit(Fit(updates=3, floored=2), spec)
    assert "variance" not in of_fit(Fit(updates=3), spec)


def test_honest_work_is_compared_with_less_and_with_more_seats(folder):
    done = simulate(folder, 0, 1, 2, 3, options=["--json"])
    assert done.exit_code == 0, done.output
    assert (json.loads(done.stdout)["rounds"], json.loads(done.stdout)["job_rounds"]) == (3, 3), "the job's own"
    played = json.loads(done.stdout)["behaviours"]
    assert list(played) == ["honest", "lazy", "copying", "mixing", "splitting", "inflating"]
    honest = {policy: int(amount) for policy, amount in played["honest"]["paid"].items()}
    assert set(honest) == {"this job's", "equal", "contribution", "contribution, floor 20 %"}
    whole = 3 * 10**18
    assert abs(honest["this job's"] - whole // 4) <= 3, "four alike shards"
    assert int(played["inflating"]["paid"]["this job's"]) > 2.5 * honest["this job's"]
    assert int(played["splitting"]["paid"]["equal"]) > 1.5 * honest["equal"]
    assert played["copying"]["verdicts"] == ["unchanged", "near copy"], "in the first round there is nothing to copy"
    assert set(played["copying"]["paid"].values()) == {"0"}
    assert played["mixing"]["verdicts"] == ["unchanged"], "the mean of three is near none of them"
    assert int(played["mixing"]["paid"]["equal"]) > honest["equal"] // 2, "which gets through"
    assert played["splitting"]["sent"] == 6
    assert played["honest"]["fit"] == {"updates": 12, "clipped": 0, "saturated": 0, "held": 0, "floored": 0}
    for outcome in played.values():
        for policy, amount in outcome["paid"].items():
            others = len([0, 1, 2])
            assert int(amount) + others * int(outcome["others"][policy]) <= whole


@pytest.mark.slow
def test_a_job_of_few_coordinates_is_played_as_it_would_be(folder):
    """A copy with noise has it where the other's update moves something, and is one all the same."""
    job = JOB.replace(
        "bits = 16, fraction_bits = 12, norm_bound = 50.0",
        "bits = 8, fraction_bits = 6, norm_bound = 50.0, share = 0.2",
    )
    (folder / "job.toml").write_text(job)
    done = simulate(folder, 0, 1, 2, options=["--rounds", "2", "--json"])
    assert done.exit_code == 0, done.output
    played = json.loads(done.stdout)["behaviours"]
    assert played["copying"]["verdicts"] == ["unchanged", "near copy"]
    assert (played["honest"]["accepted"], played["honest"]["sent"]) == (2, 2)


def test_the_table_says_what_deters_splitting(folder):
    done = simulate(folder, 0, 1, 2, options=["--rounds", "1"])
    assert done.exit_code == 0, done.output
    assert "equal: splitting pays" in done.output
    assert "gwei" in done.output
    assert "where they close early, it has to be larger" in " ".join(done.output.split())
    assert "over 1 of the job's 3 rounds; --rounds 3 plays all" in done.output


def test_a_masked_job_in_groups_is_played_with_means_of_as_many(folder):
    dealt = (
        JOB.replace("weighted_mean", "median")
        .replace("screening = {}", "")
        .replace("_participants = ", "_participants = 1")
    )
    (folder / "job.toml").write_text('privacy = "masked"\nmasks = {groups = 3}' + dealt)
    done = simulate(folder, 0, 1, 2, 3, 0, 1, options=["--rounds", "1"])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "played with open updates, averaged by 2 for groups" in said
    assert "copying" not in said, "what is masked cannot be copied"
    assert "mixing" not in said, "nor mixed"
    assert re.search(r"declaring 10 times its samples pays \S+ ETH more, up to max_samples = [\d,]+", said)


def test_a_job_that_hides_participants_is_played_with_their_noise(folder):
    noise = {"mechanism": "distributed", "clip_norm": 0.5, "noise_multiplier": 3.0, "delta": 1e-5, "honest": 9}
    asked = ParticipantPrivacy.model_validate(noise | {"adaptive": {"quantile": 0.5, "start": 0.1}})
    assert alone(asked).share(12) == asked.share(12)
    table = ", ".join(f"{name} = {json.dumps(value)}" for name, value in noise.items())
    head = f'privacy = "masked"\nmasks = {{weight_bits = 0}}\nparticipant_privacy = {{{table}, adaptive = '
    job = JOB.replace("screening = {}", "").replace("_participants = ", "_participants = 1")
    (folder / "job.toml").write_text(head + "{quantile = 0.5, start = 0.1}}\n" + job)
    done = simulate(folder, 0, 1, 2, options=["--rounds", "1"])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "every update is played with its noise, and clipped to the greatest clip norm" in said
    assert re.search(r"honest +1 of 1", done.output)


def test_what_does_not_fit_is_said_and_what_can_be_done(folder):
    """As with BatchNorm on features that are not scaled, whose running statistics are large."""
    task = folder / "task.py"
    task.write_text(TASK.replace("torch.nn.Sequential(", "torch.nn.Sequential(torch.nn.BatchNorm1d(8), "))
    done = simulate(folder, 0, 1, 2, options=["--rounds", "1"])
    assert "of 3 honest updates, 0 had to be clipped to the norm bound of 50, and 0 had coordinates" in done.output
    assert "scale features" not in done.output
    task.write_text(task.read_text().replace('data["x"]', '1000 * data["x"]'))
    done = simulate(folder, 0, 1, 2, options=["--rounds", "1"])
    assert done.exit_code == 0, done.output
    assert "of 3 honest updates, 3 had to be clipped to the norm bound of 50, and 3 had coordinates" in done.output
    assert "beyond ±8: scale features in the task's load_data" in done.output


def test_one_participant_is_enough_or_a_few(folder):
    for numbers in ((0,), (0, 1), (0, 1, 2)):
        done = simulate(folder, *numbers, options=["--rounds", "1", "--json"])
        assert done.exit_code == 0, done.output
        played = json.loads(done.stdout)["behaviours"]
        assert ("copying" in played) == (len(numbers) > 1), "alone there is nobody to copy"
        assert ("mixing" in played) == (len(numbers) > 2), "and of one nothing to mix"
        assert int(played["honest"]["paid"]["equal"]) >= 10**18 // len(numbers)
        assert played["splitting"]["sent"] == 2


HUGGING_FACE = """
class Rows:
    \"\"\"As datasets.Dataset: no torch Dataset, with a length, features, integer indices and select.\"\"\"
    features = {"x": "pixels", "y": "label"}
    def __init__(self, x, y):
        self.x, self.y = x, y
    def __len__(self):
        return len(self.y)
    def __getitem__(self, at):
        assert isinstance(at, int | slice)
        return {"x": self.x[at], "y": self.y[at]}
    def select(self, rows):
        return Rows(self.x[rows], self.y[rows])
"""


def test_data_need_not_be_a_torch_dataset(folder):
    task = HUGGING_FACE + TASK.replace("torch.utils.data.TensorDataset(", "Rows(")
    (folder / "task.py").write_text(task.replace("x, y = data.tensors", "x, y = data[:].values()"))
    done = simulate(folder, 0, 1, options=["--rounds", "1", "--json"])
    assert done.exit_code == 0, done.output
    assert "samples: 120, 120" in done.stderr
    assert json.loads(done.stdout)["behaviours"]["splitting"]["accepted"] == 2
