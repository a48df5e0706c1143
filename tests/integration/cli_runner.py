"""The command line as its tests use it: in this process, or in one of its own.

One of its own is forked from a process that has imported already what commands import; torch and its optimizers alone
take ten seconds. It has its own arguments, environment and streams, and ends as it would for a shell.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TextIO

from typer.testing import CliRunner

from deepledger.cli.main import app, run
from deepledger.devnet import dev_accounts
from deepledger.protocol.chain.web3_ledger import connect_as

TASK = """
import torch
from safetensors.torch import load_file

def build_model():
    return torch.nn.Linear(4, 2)

def load_data(path):
    shard = load_file(path)
    return torch.utils.data.TensorDataset(shard["x"], shard["y"])

def train(model, data, *, learning_rate):
    x, y = data.tensors
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    for _ in range(20):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

def evaluate(model, data):
    x, y = data.tensors
    logits = model(x)
    loss = torch.nn.functional.cross_entropy(logits, y)
    return {"samples": len(y), "correct": int((logits.argmax(1) == y).sum()), "loss": float(loss)}
"""
JOB = """
name = "signs"
task = "task.py"
validation = "data-0.safetensors"
max_samples = 1000
update = {bits = 16, fraction_bits = 14, norm_bound = 8.0}
training = {seed = 1, hyperparameters = {learning_rate = 0.1}}
aggregation = {rule = "weighted_mean"}
rewards = {policy = "equal"}

[terms]
rounds = 2
min_participants = 2
max_participants = 2
miss_limit = 3
commit_window = 3600
reveal_window = 3600
settle_window = 3600
reward = "0.01 ETH"
stake = "0.1 ETH"
reveal_penalty = "0.02 ETH"
bond = "0.5 ETH"
settle_penalty = "0.1 ETH"
"""
IMPORTED = multiprocessing.get_context("forkserver")
IMPORTED.set_forkserver_preload(
    [
        "torch",
        "torch._dynamo",  # the first optimizer imports it
        "numba",
        "deepledger.cli.main",
        "deepledger.protocol.chain.web3_ledger",
        "deepledger.node.participate",
        "deepledger.coordinator.coordinate",
    ]
)


class Command:
    """`deepledger` with `arguments`, in a process of its own in which `before` is executed first."""

    def __init__(self, arguments: list[str], environment: dict[str, str], *, before: str = "") -> None:
        (printed, out), (said, err) = IMPORTED.Pipe(duplex=False), IMPORTED.Pipe(duplex=False)
        self._process = IMPORTED.Process(target=_execute, args=(arguments, environment, before, out, err))
        self._process.start()
        out.close()
        err.close()
        self._printed, self._said = _lines_of(printed), _lines_of(said)

    @property
    def status(self) -> int | None:
        """None while it runs; minus the signal's number if one ended it."""
        return self._process.exitcode

    def until(self, text: str) -> str:
        """The next line of its log that has `text`."""
        for line in self._said:
            if text in line:
                return line
        raise AssertionError(f"it ended without saying {text!r}")

    def end(self, number: signal.Signals | None = None) -> tuple[str, str]:
        """When it has ended, by itself or by this signal: what it printed, and the rest of its log."""
        if number is not None:
            assert self._process.pid is not None
            os.kill(self._process.pid, number)
        with self._said, self._printed:
            said, printed = self._said.read(), self._printed.read()
        self._process.join()
        return printed, said

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def _lines_of(connection: Connection) -> TextIO:
    with connection:
        return os.fdopen(os.dup(connection.fileno()), encoding="utf-8")


def _execute(arguments: list[str], environment: dict[str, str], before: str, out: Connection, err: Connection) -> None:
    for stream, connection in ((sys.stdout, out), (sys.stderr, err)):
        stream.flush()
        os.dup2(connection.fileno(), stream.fileno())
        connection.close()
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["deepledger", *arguments]
    exec(before, {})
    run()


@dataclass(frozen=True, slots=True)
class Runner:
    """A terminal in which everything is set."""

    settings: dict[str, str]
    folder: Path
    started: list[Command] = field(default_factory=list)

    def run(self, *arguments: object, **settings: str) -> Any:
        """The command in this process."""
        unset: dict[str, str | None] = {name: None for name in os.environ if name.startswith("DEEPLEDGER_")}
        return CliRunner().invoke(app, [str(part) for part in arguments], env=unset | self.settings | settings)

    def json(self, *arguments: object, **settings: str) -> Any:
        result = self.run(*arguments, "--json", **settings)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def start(self, *arguments: object, before: str = "") -> Command:
        """The command in a process of its own."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DEEPLEDGER_")}
        command = Command([str(part) for part in arguments], environment | self.settings, before=before)
        self.started.append(command)
        return command

    def kill(self) -> None:
        """Whatever was started and still runs."""
        while self.started:
            self.started.pop().kill()

    def ledger(self, number: int) -> Any:
        """Of the devnet's account with this number, as if somebody else's program used it."""
        url, contract = (self.settings[f"DEEPLEDGER_{name}"] for name in ("RPC_URL", "CONTRACT"))
        return connect_as(url, contract, dev_accounts()[number], locks=self.folder / "home/locks")

    def create(self, *arguments: object, file: str = "job.toml") -> int:
        return int(self.json("job", "create", self.folder / file, "--account", "sponsor", *arguments)["job"])
