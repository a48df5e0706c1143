"""Fixtures: a terminal for the command line on an embedded chain, and a job that was brought to its end there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from safetensors.numpy import save_file

from deepledger.cli.options import PASSWORD
from deepledger.devnet import dev_accounts, start
from deepledger.protocol.local.keystore import import_key

from .cli_runner import JOB, TASK, Runner

ACCOUNTS = {"sponsor": 0, "ann": 1, "ben": 2, "coordinator": 3, "coordinator-of-all": 4}
"""Names of the devnet's accounts."""


@pytest.fixture(scope="session")
def command_line_chain() -> Iterator[str]:
    with start("embedded") as devnet:
        yield devnet.url


@pytest.fixture(scope="session")
def runner(command_line_chain: str, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    folder = tmp_path_factory.mktemp("runner")
    for name, number in ACCOUNTS.items():  # few scrypt rounds: unlocking is tested elsewhere
        import_key(folder / "home/accounts", name, dev_accounts()[number].key.hex(), "secret", iterations=2)
    import_key(folder / "home/accounts", "poor", "22" * 32, "secret", iterations=2)
    random = np.random.default_rng(0)
    for number in range(3):
        x = random.normal(size=(40, 4)).astype(np.float32)
        save_file({"x": x, "y": (x[:, 0] > 0).astype(np.int64)}, folder / f"data-{number}.safetensors")
    (folder / "task.py").write_text(TASK)
    (folder / "job.toml").write_text(JOB)
    settings = {
        "DEEPLEDGER_HOME": str(folder / "home"),
        "DEEPLEDGER_STORE": str(folder / "store"),
        "DEEPLEDGER_RPC_URL": command_line_chain,
        "DEEPLEDGER_TASKS": str(folder / "task.py"),
        PASSWORD: "secret",
    }
    deployed = Runner(settings, folder).json("deploy", "--account", "sponsor", "--least-window", "1")
    return Runner(settings | {"DEEPLEDGER_CONTRACT": deployed["contract"]}, folder)


@pytest.fixture(scope="session")
def finished(runner: Runner) -> int:
    """A job that two participants and a coordinator brought to its end, each in a process of its own."""
    job = runner.create("--coordinator", dev_accounts()[3].address)
    running = [runner.start("coordinator", job, "--account", "coordinator")]
    for number, name in enumerate(("ann", "ben"), 1):
        data = runner.folder / f"data-{number}.safetensors"
        running.append(runner.start("join", job, "--data", data, "--account", name, "--yes"))
    for process in running:
        out, err = process.end()
        assert process.status == 0, out + err
        assert "Traceback" not in err
        assert "secret" not in out + err
    return job


@pytest.fixture(autouse=True)
def nothing_goes_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test has started and not ended is killed, so that a test that fails spoils none after it."""
    yield
    if "runner" in request.fixturenames:
        request.getfixturevalue("runner").kill()
