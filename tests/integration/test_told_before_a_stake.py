"""What the command line tells of privacy before money is at stake, and `doctor` at any time."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deepledger.cli import join
from deepledger.devnet import dev_accounts
from deepledger.node.accountant import Accountant
from deepledger.node.spending import ledger_of
from deepledger.protocol.errors import BadInput, PrivacySpent, StateError
from deepledger.protocol.formats.private_run import Steps

from .cli_runner import JOB, TASK, Runner

pytestmark = pytest.mark.filterwarnings("ignore:The 'strict' parameter:FutureWarning")  # as `run` does

PRIVATE = TASK.replace(
    """    for _ in range(20):
        optimizer.zero_grad()
""",
    """    loader = torch.utils.data.DataLoader(data, batch_size=10)
    optimizer, loader = make_private(model, optimizer, loader, noise_multiplier=4.0, clip_norm=1.0)
    for x, y in loader:
        optimizer.zero_grad()
""",
).replace("import torch\n", "import torch\nfrom deepledger.privacy import make_private\n")
ASKS = "[differential_privacy]\nnoise_multiplier = 4.0\nclip_norm = 1.0\ndelta = 1e-3\n\n[terms]"
A_ROUND = (Steps(10 / 40, 4.0, 4),)
DELTA = 1e-3


def epsilon(rounds: int) -> float:
    return Accountant(A_ROUND * rounds).epsilon(DELTA)


@pytest.fixture(scope="module")
def folder(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a job file of ten rounds for one participant, its task, and data."""
    folder = tmp_path_factory.mktemp("private")
    for file in runner.folder.glob("data-*"):
        shutil.copy(file, folder)
    (folder / "task.py").write_text(PRIVATE)
    one = JOB.replace("min_participants = 2", "min_participants = 1").replace("rounds = 2", "rounds = 10")
    one = one.replace("fraction_bits = 14, norm_bound = 8.0", "fraction_bits = 10, norm_bound = 30.0")
    (folder / "job.toml").write_text(one.replace("[terms]", ASKS))
    return folder


@pytest.fixture
def private(runner: Runner, folder: Path, tmp_path: Path) -> Runner:
    """With a home of its own, in which nothing is spent yet."""
    shutil.copytree(runner.folder / "home/accounts", tmp_path / "home/accounts")
    own = {"DEEPLEDGER_HOME": str(tmp_path / "home"), "DEEPLEDGER_TASKS": str(folder / "task.py")}
    return replace(runner, settings=runner.settings | own, folder=folder)


@pytest.fixture(scope="module")
def job(runner: Runner, folder: Path) -> int:
    return runner.create("--coordinator", dev_accounts()[3].address, file=str(folder / "job.toml"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Somebody who gives these answers, one after the other."""
    questions: list[str] = []

    def answering(*answers: bool) -> list[str]:
        def confirm(question: str, **_: Any) -> bool:
            questions.append(question)
            return answers[len(questions) - 1]

        monkeypatch.setattr(join, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
        monkeypatch.setattr("typer.confirm", confirm)
        return questions

    return answering


def home(runner: Runner) -> Path:
    return Path(runner.settings["DEEPLEDGER_HOME"])


def said(result: Any) -> str:
    return " ".join(result.output.split())


def checks(runner: Runner, *arguments: object, code: int = 0) -> dict[str, str]:
    result = runner.run("doctor", *arguments, "--account", "ann", "--json")
    assert result.exit_code == code, result.output
    return {each["check"]: each["found"] for each in json.loads(result.stdout)}


def test_whoever_makes_or_looks_at_a_job_reads_who_sees_what(private: Runner, job: int) -> None:
    made = private.run("job", "create", private.folder / "job.toml", "--account", "sponsor")
    for told in (said(made), said(private.run("job", "show", job))):
        assert "every update is published and everybody may read it for ever" in told
        assert "adds noise of 4 clip norms or more" in told
        assert "What ε a round costs, told at δ = 0.001, depends on how many samples you have" in told


def test_join_tells_what_rounds_cost_and_how_long_a_budget_lasts_before_it_asks_for_the_stake(
    private: Runner, job: int, asked: Any
) -> None:
    data, questions = private.folder / "data-1.safetensors", asked(True, False)
    before = private.ledger(1).balance(dev_accounts()[1].address)
    budget = ("--epsilon-budget", (epsilon(3) + epsilon(4)) / 2, "--delta", DELTA)
    result = private.run("join", job, "--data", data, "--account", "ann", *budget)
    assert result.exit_code == 1
    assert "to try it? That stakes and sends nothing" in questions[0]
    assert questions[1].startswith("Stake 0.1 ETH")
    told = said(result)
    assert "the data hold 40 samples; this account declares 40" in told
    assert f"a round costs ε = {epsilon(1):.3g} by itself (4 private steps with noise of 4 × 1, 25.00% of" in told
    assert "nothing is spent of these data yet" in told
    assert f"after the 10 rounds that are left it is ε = {epsilon(10):.3g}, at δ = 0.001" in told
    assert "lasts for 3 of the 10 rounds: then this node leaves" in told
    assert told.endswith("nothing was staked")
    assert private.ledger(1).balance(dev_accounts()[1].address) == before
    assert not ledger_of(home(private) / "privacy", data).read().lines


def test_a_task_does_not_run_on_the_data_of_who_does_not_agree_to_that(private: Runner, job: int, asked: Any) -> None:
    unreadable = private.folder / "unreadable"
    unreadable.write_text("which the task would fail with")
    arguments = ("join", job, "--data", unreadable, "--account", "ann")
    unasked = private.run(*arguments)
    assert (unasked.exit_code, "nobody is there to agree to the above" in unasked.output) == (BadInput.exit_code, True)
    questions = asked(False)
    result = private.run(*arguments)
    assert (result.exit_code, len(questions)) == (1, 1)
    assert "nothing was staked" in result.output


def test_a_budget_that_leaves_no_round_is_told_before_the_stake(private: Runner, job: int) -> None:
    little = ("--data", private.folder / "data-1.safetensors", "--epsilon-budget", epsilon(1) / 2, "--delta", DELTA)
    result = private.run("join", job, *little, "--account", "ann", "--yes")
    assert result.exit_code == PrivacySpent.exit_code
    assert f"one round would pass it, ε = {epsilon(1):.3g} by itself" in said(result)
    assert dev_accounts()[1].address not in said(private.run("status", job))
    found = checks(private, job, *little, code=PrivacySpent.exit_code)
    assert "one round would pass it" in found["privacy"]


def test_the_doctor_tells_what_was_spent_by_whom_and_whether_the_ledgers_have_it_all(private: Runner) -> None:
    data = private.folder / "data-2.safetensors"
    nothing = checks(private)
    assert nothing["spent privacy"] == f"nothing is written down in {home(private)}/privacy"
    assert checks(private, "--data", data)["spent privacy"] == f"nothing of {data}"

    file = private.folder / "short.toml"
    file.write_text((private.folder / "job.toml").read_text().replace("rounds = 10", "rounds = 2"))
    number = private.create("--coordinator", dev_accounts()[3].address, file=file.name)
    arguments = ("join", number, "--data", data, "--account", "ann", "--yes")
    for process in [private.start("coordinator", number, "--account", "coordinator"), private.start(*arguments)]:
        out, err = process.end()
        assert process.status == 0, out + err

    found = checks(private, number)
    assert found["written down"] == "all that this account committed to in this job, 2 updates"
    told = f": ε = {epsilon(2):.3g} at δ = 0.001, by 2 updates of ann in 1 job"
    assert found["spent privacy"].startswith("data-2.safetensors, SHA-256 ")
    assert found["spent privacy"].endswith(told)
    enough = ("--epsilon-budget", epsilon(2) + 1, "--delta", DELTA)
    assert f"of a budget of {epsilon(2) + 1:g}, 1 is left" in checks(private, *enough)["spent privacy"]
    passed = ("--epsilon-budget", epsilon(1), "--delta", DELTA)
    assert checks(private, *passed)["spent privacy"].endswith("nothing is left")
    other = ("--data", private.folder / "data-1.safetensors")
    assert "budget" not in checks(private, *passed, *other)["spent privacy"], "which is another data set's"
    mine = checks(private, *passed, "--data", data, code=PrivacySpent.exit_code)
    assert f"ε = {epsilon(2):.3g} of it is spent" in mine["spent privacy"]

    ledger = ledger_of(home(private) / "privacy", data).path
    whole = ledger.read_bytes()
    ledger.write_bytes(whole[: whole.index(b"\n") + 1])  # that of last week's backup
    found = checks(private, number, code=StateError.exit_code)
    assert (
        f"1 of 2 updates that {dev_accounts()[1].address} committed to in this job are in no" in found["written down"]
    )
    for damaged in (whole[9:], whole.replace(b'"rate": 0.', b'"rate": 7.'), whole.replace(b"0.001", b'"0.001"')):
        ledger.write_bytes(damaged)
        assert "is damaged" in checks(private, code=StateError.exit_code)["spent privacy"]
    ledger.unlink()
    ledger.mkdir()
    assert "cannot read" in checks(private, code=StateError.exit_code)["spent privacy"]
    shutil.rmtree(ledger.parent)
    ledger.parent.write_text("no folder")
    assert "cannot read" in checks(private, code=StateError.exit_code)["spent privacy"]


def test_the_doctor_tells_of_data_that_it_cannot_know_again(private: Runner) -> None:
    found = private.run("doctor", "--account", "ann", "--json", "--data", private.folder / "nowhere")
    assert found.exit_code in (StateError.exit_code, BadInput.exit_code)
    assert "to know it again" in found.stdout
