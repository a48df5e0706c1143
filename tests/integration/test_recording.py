"""A training that happens elsewhere, recorded by one server: what FedAvg makes of it is what the ledger has."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepledger.api.job_file import read_job_file
from deepledger.api.recording import Recording, Reply, _without_money, begin
from deepledger.protocol.chain.web3_ledger import connect_as
from deepledger.protocol.errors import BadInput
from deepledger.protocol.job.follow import Follower
from tests.conftest import World

JOB = """
name = "linear"
task = "task.py"
validation = "validation.safetensors"
max_samples = 1000
training.seed = 1
training.hyperparameters.learning_rate = 0.1
update = {bits = 8, fraction_bits = 6, norm_bound = 1.0}
aggregation.rule = "median"
rewards.policy = "equal"
[terms]
rounds = 9
min_participants = 3
max_participants = 3
miss_limit = 1
commit_window = 60
reveal_window = 60
settle_window = 60
reward = "1 ETH"
stake = "1 ETH"
reveal_penalty = "1 ETH"
bond = "1 ETH"
settle_penalty = "1 ETH"
"""


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    (tmp_path / "job.toml").write_text(JOB)
    return tmp_path / "job.toml"


@pytest.mark.parametrize("number", [0, 65])
def test_a_round_has_as_many_clients_as_a_job_has_seats(number: int) -> None:
    nothing: Any = None
    recording = Recording(*[nothing] * 9)
    with pytest.raises(BadInput, match=f"{number} clients replied, and a job seats 1 to 64"):
        recording.record([Reply(client, 1, np.zeros(1, np.float32)) for client in range(number)])


def test_a_recorded_job_moves_no_money_and_takes_the_mean(job_file: Path) -> None:
    job = _without_money(read_job_file(job_file), rounds=2, called="a run")
    assert (job.name, job.terms.rounds, job.aggregation.rule) == ("a run", 2, "weighted_mean")
    money = (job.terms.reward, job.terms.stake, job.terms.reveal_penalty, job.terms.bond, job.terms.settle_penalty)
    assert money == (0,) * 5
    assert job.terms.min_participants == 1
    assert job.update.bits == 32


@pytest.mark.parametrize(
    ("asks", "said"),
    [
        ('privacy = "masked"', 'privacy = "masked"'),
        ("validation_withheld = true", "validation_withheld"),
        ("[differential_privacy]\nnoise_multiplier = 1.0\nclip_norm = 1.0\ndelta = 1e-5", "differential_privacy"),
        (
            '[participant_privacy]\nmechanism = "local"\nclip_norm = 1.0\nnoise_multiplier = 1.0\ndelta = 1e-5',
            "participant_privacy",
        ),
    ],
)
def test_nothing_is_recorded_in_public_of_a_job_that_asks_for_privacy(job_file: Path, asks: str, said: str) -> None:
    text = job_file.read_text()
    job_file.write_text(f"{text}\n{asks}\n" if asks.startswith("[") else f"{asks}\n{text}")
    nothing: Any = None
    with pytest.raises(BadInput, match=f"asks for {said}, and of a recorded run everybody can read"):
        begin(
            job_file, nothing, rounds=3, called="a run", connect=nothing, store=nothing, account=nothing, tell=nothing
        )  # fmt: skip


@pytest.mark.slow
@pytest.mark.one_chain
def test_what_fedavg_makes_of_a_round_is_what_the_ledger_has(world: World, job_file: Path) -> None:
    shutil.copy(world.task, job_file.with_name("task.py"))
    shutil.copy(world.shards[4], job_file.with_name("validation.safetensors"))
    random, said = np.random.default_rng(0), list[str]()
    first = random.normal(size=420).astype(np.float32)
    recording = begin(
        job_file, lambda _: first, rounds=3, called="a run", store=world.store, account=world.accounts[0],
        connect=lambda account: connect_as(world.url, world.contract, account, locks=world.folder / "locks"),
        tell=said.append,
    )  # fmt: skip
    had = world.reader().balance(world.accounts[0].address)
    seated = ({7: 30, 8: 50}, {7: 30, 8: 10, 9: 20}, {9: 20})  # one has other samples now; two were not asked
    for weights in seated:
        before = recording.model
        after = {client: before + random.normal(scale=0.1, size=420).astype(np.float32) for client in weights}
        model = recording.record([Reply(client, weights[client], after[client]) for client in weights])
        mean = sum(weights[client] * after[client].astype(np.float64) for client in weights) / sum(weights.values())
        assert np.abs(model - mean).max() < 1e-6 + np.abs(mean).max() * 2**-22
    recording.finish()
    job = Follower(world.reader(), recording.job).job
    assert (job.outcome is not None, job.round) == (True, 3)
    assert said == [f"this run is recorded as job {recording.job} of {recording.ledger.address} on chain 31337"]
    assert had - world.reader().balance(world.accounts[0].address) < 10**17  # gas: what clients' accounts had came back
