"""The command line on a real chain: a sponsor's and a participant's way, and what goes wrong on it."""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_proxy import faulty_proxy, without_pending
from safetensors.numpy import load_file, save_file

from deepledger.api import joining
from deepledger.cli import reporting
from deepledger.cli.doctor import PROBE
from deepledger.cli.options import PASSWORD
from deepledger.coordinator.notices import RoundSettled
from deepledger.devnet import dev_accounts
from deepledger.node.notices import CommittedUpdate
from deepledger.protocol.blobs.directory import DirectoryStore
from deepledger.protocol.chain.ledger import Receipt
from deepledger.protocol.errors import StoreUnreachable
from deepledger.protocol.roles.notices import Warned
from deepledger.protocol.types import Digest, JobId, RoundNumber, Wei
from tests.conftest import post_bond, take_seat

from .cli_runner import JOB, TASK, Runner

pytestmark = pytest.mark.filterwarnings("ignore:The 'strict' parameter:FutureWarning")  # as `run` does


def test_a_whole_job_by_command_line(runner: Runner, finished: int) -> None:
    status = runner.json("status", finished)
    assert (status["phase"], status["outcome"], status["settled_rounds"]) == ("over", "completed", 2)
    assert [entry["accepted"] for entry in status["history"]] == [2, 2]
    assert all(entry["reported"]["samples"] == 40 for entry in status["history"])
    shown = runner.run("status", finished)
    assert shown.exit_code == 0
    assert status["history"][1]["model"] in shown.stdout


def test_the_audit_matches(runner: Runner, finished: int) -> None:
    found = runner.json("audit", finished)
    assert found["matches"] is True
    assert found["evaluation"] == "checked"
    assert runner.run("audit", finished).exit_code == 0


def test_an_audit_of_a_spoilt_store_exits_with_1(runner: Runner, finished: int) -> None:
    report = runner.folder / "store" / runner.json("status", finished)["history"][0]["report"]
    content = report.read_bytes()
    report.write_bytes(content.replace(b"accepted", b"excepted", 1))
    try:
        result = runner.run("audit", finished)
    finally:
        report.write_bytes(content)
    assert result.exit_code == 1
    assert "Everything matches" not in result.stdout


def test_an_audit_from_an_empty_store_is_incomplete_and_accuses_nobody(
    runner: Runner, finished: int, tmp_path: Path
) -> None:
    result = runner.run("audit", finished, DEEPLEDGER_STORE=str(tmp_path))
    said = " ".join(result.stdout.split())
    assert result.exit_code == 1
    assert "Incomplete: 1 blob cannot be had here. Is this the store" in said
    assert "0 of 2 settled rounds derived again" in said
    assert "mismatch" not in said


def test_an_audit_with_another_task_than_the_pinned_one_is_refused(runner: Runner, finished: int) -> None:
    result = runner.run("audit", finished, "--task", __file__)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "the job pins the source of task 'task' with SHA-256" in result.stderr


def test_models_are_exported(runner: Runner, finished: int, tmp_path: Path) -> None:
    first, last = tmp_path / "first.safetensors", tmp_path / "last.safetensors"
    assert runner.json("model", "export", finished, "--to", first, "--round", 0)["settled_rounds"] == 0
    assert runner.json("model", "export", finished, "--to", last)["settled_rounds"] == 2
    again = runner.run("model", "export", finished, "--to", last, "--round", 0)
    assert (again.exit_code, "there is a file already; --force replaces it" in again.stderr) == (3, True)
    assert runner.json("model", "export", finished, "--to", last, "--force")["settled_rounds"] == 2
    before, after = load_file(first), load_file(last)
    assert {name: tensor.shape for name, tensor in after.items()} == {"weight": (2, 4), "bias": (2,)}
    assert not np.array_equal(before["weight"], after["weight"])
    x = load_file(runner.folder / "data-0.safetensors")
    right = (x["x"] @ after["weight"].T + after["bias"]).argmax(1) == x["y"]
    assert right.mean() > 0.8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.safetensors", "last.safetensors"]
    os.mkfifo(tmp_path / "pipe")
    for command in (("model", "export", finished, "--to"), ("blobs", "export", finished)):
        kept = runner.run(*command, tmp_path / "pipe", "--force")
        assert (kept.exit_code, f"{tmp_path}/pipe is no file, and is not replaced" in kept.stderr) == (3, True)
    late = runner.run("model", "export", finished, "--to", last, "--force", "--round", 3)
    assert (late.exit_code, "has settled 2 rounds" in late.stderr) == (3, True)
    nowhere = runner.run("model", "export", finished, "--to", tmp_path / "no/model.safetensors")
    assert (nowhere.exit_code, "cannot write" in nowhere.stderr) == (6, True)


@pytest.mark.slow
def test_a_withheld_validation_set_by_command_line(runner: Runner) -> None:
    shown = runner.json("account", "show", "coordinator")
    assert shown["address"] == dev_accounts()[3].address
    assert shown["public_key"] in runner.run("account", "show", "coordinator").stdout
    file = runner.folder / "withheld.toml"
    withheld = JOB.replace("max_samples", "validation_withheld = true\nmax_samples", 1)
    file.write_text(withheld.replace("rounds = 2", "rounds = 1").replace("participants = 2", "participants = 1"))
    refused = runner.run("job", "create", file, "--account", "sponsor", "--coordinator", shown["address"])
    assert (refused.exit_code, "`deepledger account show NAME` prints it" in refused.stderr) == (3, True)
    alone = runner.json("job", "create", file, "--account", "sponsor")
    assert alone["coordinators"] == [dev_accounts()[0].address], "the sponsor, who can open it"
    job = runner.json("job", "create", file, "--account", "sponsor", "--coordinator", shown["public_key"])["job"]
    agreed = runner.json("job", "show", job)
    assert agreed["coordinators"] == [shown["address"]]
    assert (agreed["validation"], len(agreed["terms"]["validation_lock"])) == ("withheld", 64)
    text = " ".join(runner.run("job", "show", job).stdout.split())
    assert "withheld: encrypted, and only 1 coordinators can open it" in text
    assert "all of it if it does not disclose the validation set" in text
    early = runner.run("job", "disclose", job, "--account", "coordinator")
    assert (early.exit_code, "still running" in early.stderr) == (3, True)
    running = [
        runner.start("coordinator", job, "--account", "coordinator"),
        runner.start("join", job, "--data", runner.folder / "data-1.safetensors", "--account", "ann", "--yes"),
    ]
    told = [process.end() for process in running]
    assert [process.status for process in running] == [0, 0], told
    assert "disclosed the validation set" in told[0][1]
    status = runner.json("status", job)
    assert (status["phase"], status["outcome"], status["validation"]) == ("over", "completed", "disclosed")
    assert runner.json("audit", job)["evaluation"] == "checked"
    again = runner.run("job", "disclose", job, "--account", "coordinator")
    assert (again.exit_code, "on the chain already" in again.stderr) == (4, True)
    public = runner.run("job", "disclose", runner.create(), "--account", "coordinator")
    assert (public.exit_code, "is public" in public.stderr) == (3, True)


def test_a_sponsors_way(runner: Runner) -> None:
    job = runner.create()
    agreed = runner.json("job", "show", job)
    assert agreed["terms"]["reward"] == str(10**16)
    assert agreed["coordinators"] == [dev_accounts()[0].address]
    shown = runner.run("job", "show", job)
    assert shown.exit_code == 0
    for text in (
        "signs",
        "withstands no bad update",
        "open: every update is published",
        "0.02 ETH of it each time",
        agreed["terms"]["spec"],
    ):
        assert text in " ".join(shown.stdout.split())
    assert job in [entry["job"] for entry in runner.json("job", "list") if entry["name"] == "signs"]
    assert "signs" in runner.run("job", "list").stdout
    file = runner.folder / "krum.toml"
    krum = '{rule = "multi_krum", byzantine_percent = 40}'
    file.write_text(
        JOB.replace('{rule = "weighted_mean"}', krum).replace("max_participants = 2", "max_participants = 10")
    )
    created = runner.run("job", "create", file, "--account", "sponsor")
    withstands = "3 bad updates of 9; none of fewer than 7, nor of 8 or 10"
    assert f"multi_krum withstands {withstands}" in created.stderr
    assert f"withstands {withstands}" in " ".join(runner.run("job", "show", created.stdout.strip()).stdout.split())
    masks = 'privacy = "masked"\nmasks = {groups = 3}\n'
    file.write_text(
        masks
        + JOB.replace('{rule = "weighted_mean"}', '{rule = "median"}')
        .replace("min_participants = 2", "min_participants = 9")
        .replace("max_participants = 2", "max_participants = 15")
    )
    created = runner.run("job", "create", file, "--account", "sponsor")
    grouped = " ".join(runner.run("job", "show", created.stdout.strip()).stdout.split())
    for text in (
        "3 of 3 to 5, drawn by chance for every attempt",
        "one of 3 bears none and one of 5 bears 1 drop-out",
        "1 hostile participant, whatever is sent, while every group is in the round",
        "hides among 3 to 5, not among all: 2 who act together read another's where chance deals them to its group, "
        "in 1 of 4 attempts of 9 participants; noise: what is learned scatters up to 1.25 times",
    ):
        assert text in grouped
        assert text in " ".join(created.stderr.split())
    masked = "of them letters to others, and 23 bits a coordinate; samples weigh as whole numbers up to 15"
    assert masked in grouped
    assert "only the sum of all that count in its group, one of 3" in grouped
    later = runner.create()
    newest = runner.run("job", "list", "--newest", "1", "--json")
    assert [entry["job"] for entry in json.loads(newest.stdout)] == [later]
    assert f"the newest 1 of {later} jobs" in newest.stderr
    runner.json("job", "close", later, "--account", "sponsor")
    accounts = {entry["name"]: entry for entry in runner.json("status")["accounts"]}
    entry = {"job": job, "roles": ["sponsor", "coordinator"], "deposit": "0", "credit": "0"}
    assert entry in accounts["sponsor"]["jobs"]
    assert runner.run("status").exit_code == 0
    closed = runner.json("job", "close", job, "--account", "sponsor")
    assert closed["credit"] == str(2 * 10**16)
    assert runner.json("withdraw", job, "--account", "sponsor")["amount"] == str(2 * 10**16)
    assert runner.json("withdraw", job, "--account", "sponsor")["amount"] == "0"


def test_stopping_and_leaving(runner: Runner) -> None:
    job = runner.create()
    node = runner.start("join", job, "--data", runner.folder / "data-1.safetensors", "--account", "ann", "--yes")
    node.until("not open yet")
    _, err = node.end(signal.SIGTERM)
    assert node.status == 0
    assert "run the same command again to go on" in err
    shown = " ".join(runner.run("status", job).stdout.split())
    assert "waiting for participants, 1 of at least 2 seated, and the coordinator's bond" in shown
    again = runner.start(
        "join", job, "--data", runner.folder / "data-1.safetensors", "--account", "ann", "--samples", "7"
    )
    again.until("--samples 7 changes nothing: this account declared 40")
    again.end(signal.SIGTERM)
    assert runner.json("leave", job, "--account", "ann")["credit"] == str(10**17)
    assert "0.1 ETH were paid" in runner.run("withdraw", job, "--account", "ann").stdout


def test_a_coordinator_that_is_stopped_takes_its_bond_home_with_leave(runner: Runner) -> None:
    address = dev_accounts()[3].address
    job = runner.create("--coordinator", address)
    running = runner.start("coordinator", job, "--account", "coordinator")
    running.until("deposited the bond")
    early = runner.run("leave", job, "--account", "coordinator")
    assert (early.exit_code, "stop it first" in early.stderr) == (6, True), "it would deposit again"
    _, err = running.end(signal.SIGTERM)
    assert f"job {job}: the bond of 0.5 ETH stays in deposit" in err
    assert f"`deepledger leave {job}` takes it home, also now" in err
    assert runner.json("status", job)["bonds"] == {address: str(5 * 10**17)}
    assert f"{address}, 0.5 ETH in deposit" in " ".join(runner.run("status", job).stdout.split())
    assert deposits(runner, "coordinator", job) == (str(5 * 10**17), "0")
    left = runner.json("leave", job, "--account", "coordinator")
    assert (left["seat"], len(left["bond"]), left["credit"]) == (None, 66, str(5 * 10**17))
    assert deposits(runner, "coordinator", job) == ("0", str(5 * 10**17))
    assert "0.5 ETH were paid" in runner.run("withdraw", job, "--account", "coordinator").stdout
    runner.json("job", "close", job, "--account", "sponsor")


def test_a_bond_that_is_in_use_stays_and_a_successors_comes_home(runner: Runner) -> None:
    serving, standby = (dev_accounts()[number].address for number in (2, 0))
    job = runner.create("--coordinator", serving, "--coordinator", standby)
    for number in (2, 0):
        post_bond(runner.ledger(number), job, value=5 * 10**17)
    for number in (1, 2):
        take_seat(runner.ledger(number), job, 40, value=10**17)
    assert [each["stake"] for each in runner.json("status", job)["participants"]] == [str(10**17)] * 2
    assert deposits(runner, "ben", job) == (str(6 * 10**17), "0")
    shown = " ".join(runner.run("status", job).stdout.split())
    assert f"{serving}, 0.5 ETH in deposit successors {standby}, 0.5 ETH in deposit" in shown
    assert runner.json("leave", job, "--account", "sponsor")["credit"] == str(5 * 10**17)
    runner.ledger(2).commit(job, 0, 0, b"\7" * 30)
    for says in ("serving coordinator's bond stays while a round can be settled", "participants are committing"):
        refused = runner.run("leave", job, "--account", "ben")
        assert (refused.exit_code, refused.stdout, says in refused.stderr) == (4, "", True)
    assert runner.json("status", job)["bonds"] == {serving: str(5 * 10**17), standby: "0"}


def test_who_is_coordinator_and_participant_gives_up_what_can_be_given_up(runner: Runner) -> None:
    job = runner.create("--coordinator", dev_accounts()[2].address)
    post_bond(runner.ledger(2), job, value=5 * 10**17)
    for number in (1, 2):
        take_seat(runner.ledger(number), job, 40, value=10**17)
    result = runner.run("leave", job, "--account", "ben")
    assert (result.exit_code, "0.1 ETH can be taken home" in result.stdout) == (4, True)
    assert "bond stays" in result.stderr
    closing = runner.run("job", "close", job, "--account", "sponsor")
    assert (closing.exit_code, "while it waits for participants or a round has starved" in closing.stderr) == (4, True)


def test_a_bond_comes_home_from_a_round_that_starved(runner: Runner) -> None:
    (runner.folder / "brief.toml").write_text(JOB.replace("commit_window = 3600", "commit_window = 1"))
    job = runner.create("--coordinator", dev_accounts()[2].address, file="brief.toml")
    post_bond(runner.ledger(2), job, value=5 * 10**17)
    for number in (1, 3):
        take_seat(runner.ledger(number), job, 40, value=10**17)
    while runner.json("status", job)["phase"] != "starved":
        pass
    assert runner.json("leave", job, "--account", "ben")["credit"] == str(5 * 10**17)


def deposits(runner: Runner, account: str, job: int) -> tuple[str, str]:
    """What it has in deposit in a job, and what the job owes it."""
    (found,) = (each for each in runner.json("status")["accounts"] if each["name"] == account)
    (part,) = (each for each in found["jobs"] if each["job"] == job)
    return part["deposit"], part["credit"]


Case = tuple[list[str], dict[str, str], int, str]
BAD: dict[str, Callable[[Runner, int], Case]] = {
    "unknown job": lambda runner, job: (["job", "show", "999"], {}, 3, "999"),
    "unknown job to withdraw from": lambda runner, job: (["withdraw", "999", "--account", "ann"], {}, 3, "999"),
    "another chain": lambda runner, job: (["job", "list", "--chain-id", "1"], {}, 4, "chain 1 is expected"),
    "no contract there": lambda runner, job: (["job", "list"], {"DEEPLEDGER_CONTRACT": "0x" + "11" * 20}, 4, "deploy"),
    "chain down": lambda runner, job: (["job", "list"], {"DEEPLEDGER_RPC_URL": "http://127.0.0.1:9"}, 4, "127.0.0.1:9"),
    "store without the spec": lambda runner, job: (
        ["job", "show", str(job)], {"DEEPLEDGER_STORE": str(runner.folder / "home")}, 5,
        "the job's spec cannot be had: no blob",
    ),
    "store that is not there": lambda runner, job: (
        ["job", "show", str(job)], {"DEEPLEDGER_STORE": str(runner.folder / "no")}, 5, "make it with mkdir",
    ),
    "store down": lambda runner, job: (
        ["job", "show", str(job)], {"DEEPLEDGER_STORE": "ipfs+http://127.0.0.1:9"}, 5, "127.0.0.1",
    ),
    "another task": lambda runner, job: (
        ["join", str(job), "--data", str(runner.folder), "--account", "sponsor"],
        {"DEEPLEDGER_TASKS": __file__}, 3, "not installed here",
    ),
    "no data": lambda runner, job: (
        ["join", str(job), "--data", "/nowhere", "--account", "sponsor"], {}, 3, "there is no data at /nowhere",
    ),
    "job over": lambda runner, job: (
        ["join", str(job), "--data", str(runner.folder), "--account", "sponsor", "--yes"], {}, 3, "is over (completed)",
    ),
    "fees over the limit": lambda runner, job: (
        ["deploy", "--account", "ann"], {"DEEPLEDGER_MOST_PER_GAS": "5 wei"}, 4, "allow more with --most-per-gas",
    ),
    "fees of a job over the limit": lambda runner, job: (
        ["job", "close", str(job), "--account", "sponsor", "--most-per-gas", "5 wei"], {}, 4, "--most-per-gas",
    ),
    "no such account": lambda runner, job: (["withdraw", str(job), "--account", "eve"], {}, 3, "no account 'eve'"),
    "no account chosen": lambda runner, job: (["withdraw", str(job)], {}, 3, "no account is chosen"),
    "wrong password": lambda runner, job: (
        ["withdraw", str(job), "--account", "ann"], {PASSWORD: "?"}, 3, "wrong password for account ann",
    ),
    "not the sponsor": lambda runner, job: (["job", "close", str(job), "--account", "ann"], {}, 3, "only the job's"),
    "not seated": lambda runner, job: (["leave", str(job), "--account", "sponsor"], {}, 3, "nothing to leave"),
    "not a coordinator": lambda runner, job: (
        ["coordinator", str(job), "--account", "ann"], {}, 3, "list of coordinators",
    ),
    "cannot pay": lambda runner, job: (
        ["job", "create", str(runner.folder / "job.toml"), "--account", "poor"], {}, 4, "0x",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_goes_wrong_is_said_in_one_line(case: str, runner: Runner, finished: int) -> None:
    arguments, settings, code, says = BAD[case](runner, finished)
    result = runner.run(*arguments, **settings)
    (last,) = result.stderr.splitlines()
    assert (result.exit_code, result.exception and type(result.exception)) == (code, SystemExit), result.output
    assert says in last
    assert last.startswith("deepledger: ")


FULL = "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1)"
UNREAD = "import os; reading, writing = os.pipe(); os.dup2(writing, 1); os.close(reading)"


@pytest.mark.parametrize(
    "arguments",
    [
        "audit JOB", "audit JOB --json", "status JOB", "status --json", "job show JOB", "job list",
        "doctor JOB --account ann", "model export JOB --to FILE", "blobs export JOB FILE",
    ],
)  # fmt: skip
def test_a_command_whose_results_get_nowhere_fails(
    arguments: str, runner: Runner, finished: int, tmp_path: Path
) -> None:
    arguments = arguments.replace("JOB", str(finished))
    for before, status in ((FULL, 6), (UNREAD, 141)):
        running = runner.start(*arguments.replace("FILE", str(tmp_path / f"{status}")).split(), before=before)
        _, said = running.end()
        lost = "deepledger: what is printed cannot be written" in said
        assert (running.status, lost, "Traceback" in said) == (status, before == FULL, False), said


def test_what_a_task_prints_is_no_result(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(
        TASK.replace("def load_data(path):", "def load_data(path):\n    print('loading')")
    )
    (tmp_path / "job.toml").write_text(JOB)
    (tmp_path / "data-0.safetensors").write_bytes((runner.folder / "data-0.safetensors").read_bytes())
    created = runner.run("job", "create", tmp_path / "job.toml", "--account", "sponsor", "--json")
    data = [each for number in (1, 2) for each in ("--data", runner.folder / f"data-{number}.safetensors")]
    played = runner.run("job", "simulate", tmp_path / "job.toml", *data, "--rounds", "1", "--json")
    for result in (created, played):
        assert json.loads(result.stdout)
        assert "loading" in result.stderr


def test_joining_is_refused_before_anything_is_staked(runner: Runner, tmp_path: Path) -> None:
    job = runner.create()
    data = runner.folder / "data-1.safetensors"
    unread = runner.run("join", job, "--data", data, "--account", "ann")
    assert (unread.exit_code, "--yes" in unread.stderr) == (3, True)
    assert "0.1 ETH, yours again when you leave" in " ".join(unread.stdout.split())
    poor = runner.run("join", job, "--data", data, "--account", "poor", "--yes")
    assert (poor.exit_code, "has 0 ETH, and the stake is 0.1 ETH" in poor.stderr) == (4, True)
    save_file({"x": np.zeros((40, 7), np.float32), "y": np.zeros(40, np.int64)}, tmp_path / "wide")
    wide = runner.run("join", job, "--data", tmp_path / "wide", "--account", "ann", "--yes")
    assert (wide.exit_code, "evaluate of task" in wide.stderr.splitlines()[-1]) == (3, True)
    assert runner.json("status", job)["participants"] == []


@pytest.mark.slow
def test_training_that_fails_later_says_where_the_stake_is(runner: Runner, tmp_path: Path) -> None:
    """The rehearsal is the only training of a round that this task allows."""
    once = "assert round not in seen, 'no'\n    seen.append(round)\n"
    failing = f"def train(model, data, *, learning_rate, round, seen=[]):\n    {once}"
    (tmp_path / "task.py").write_text(TASK.replace("def train(model, data, *, learning_rate):\n", failing))
    (tmp_path / "job.toml").write_text(JOB.replace("participants = 2", "participants = 1"))
    (tmp_path / "data-0.safetensors").write_bytes((runner.folder / "data-0.safetensors").read_bytes())
    made = Runner(runner.settings | {"DEEPLEDGER_TASKS": str(tmp_path / "task.py")}, tmp_path)
    job = made.create()
    coordinator = made.start("coordinator", job, "--account", "sponsor")
    node = made.start("join", job, "--data", tmp_path / "data-0.safetensors", "--account", "ann", "--yes")
    _, err = node.end()
    coordinator.end(signal.SIGTERM)
    assert node.status == 3
    assert "train of task" in err
    assert "Your stake is still in: mend this and run the same command again, or give up your seat" in err
    assert made.json("leave", job, "--account", "ann")["credit"] == str(10**17)


def test_what_was_committed_to_is_revealed_before_the_data_is_missed(runner: Runner) -> None:
    job = runner.create()
    ben, data = runner.ledger(2), runner.folder / "data-1.safetensors"
    take_seat(ben, job, 40, value=10**17)
    post_bond(runner.ledger(0), job, value=5 * 10**17)
    node = runner.start("join", job, "--data", data, "--account", "ann", "--yes")
    node.until("committed")
    node.end(signal.SIGKILL)
    again = runner.start("join", job, "--data", runner.folder / "nowhere", "--account", "ann", "--task", "nowhere.py")
    again.until("it has committed to an update: first this is revealed")
    ben.commit(job, 0, 0, b"\1" * 30)
    _, err = again.end()
    assert again.status == 3
    revealed, missed = err.strip().splitlines()[-2:]
    assert "round 0: revealed" in revealed
    assert "nowhere.py" in missed
    assert "Your stake is still in: mend this" in missed


def test_a_full_job_is_said(runner: Runner) -> None:
    job = runner.create()
    for number in (1, 2):
        take_seat(runner.ledger(number), job, 40, value=10**17)
    result = runner.run("join", job, "--data", runner.folder, "--account", "coordinator", "--yes")
    assert (result.exit_code, f"job {job} is full" in result.stderr) == (4, True)


def test_a_job_that_would_overflow_is_refused(runner: Runner, tmp_path: Path) -> None:
    for name in ("task.py", "data-0.safetensors"):
        (tmp_path / name).write_bytes((runner.folder / name).read_bytes())
    (tmp_path / "job.toml").write_text(JOB.replace("bits = 16", "bits = 32").replace("1000", "4000000000"))
    result = runner.run("job", "create", tmp_path / "job.toml", "--account", "sponsor")
    assert (result.exit_code, "overflow" in result.stderr) == (3, True)
    assert result.stderr.count("\n") == 1


@pytest.mark.slow
def test_what_happens_is_told_as_json_and_as_metrics(runner: Runner) -> None:
    job = runner.create("--coordinator", dev_accounts()[3].address)
    coordinator = runner.start(
        "coordinator", job, "--account", "coordinator", "--log-json", "--metrics", "127.0.0.1:0"
    )  # fmt: skip
    url = json.loads(coordinator.until("metrics on "))["message"].removeprefix("metrics on ")
    coordinator.until('"event": "waiting"')
    samples = {}
    for line in urllib.request.urlopen(url).read().decode().splitlines():
        if line.startswith("deepledger"):
            name, value = line.rsplit(" ", 1)
            samples[name] = float(value)
    assert samples[f'deepledger_phase{{job="{job}",phase="waiting"}}'] == 1
    assert samples[f'deepledger_transactions_total{{action="BondPosted",job="{job}"}}'] == 1
    assert samples["deepledger_balance_ether"] > 1

    running = [
        runner.start(
            "join", job, "--data", runner.folder / f"data-{number}.safetensors", "--account", name, "--yes", flag
        )
        for number, name, flag in ((1, "ann", "--log-json"), (2, "ben", "--log-json"))
    ]
    for process in running:
        _, err = process.end()
        events = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
        assert [event["round"] for event in events if event["event"] == "round_over"] == [0, 1]
        assert sum(event["earned"] for event in events if event["event"] == "round_over") == 10**16
        assert all(event["receipt"]["gas_used"] > 0 for event in events if event["event"] == "committed_update")
        assert events[-1]["event"] == "finished"
    _, err = coordinator.end()
    settled = [event for event in map(json.loads, err.splitlines()) if event["event"] == "round_settled"]
    assert [event["accepted"] for event in settled] == [2, 2]
    assert all(event["results"].keys() == {"accuracy", "loss"} for event in settled)


def test_what_is_told_has_been_counted(runner: Runner, finished: int, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, str]] = []

    def look(document: dict[str, Any]) -> None:
        if document["event"] == "said":
            told.append((document["message"].removeprefix("metrics on "), ""))
        else:
            url, _ = told[0]
            told.append((document["event"], urllib.request.urlopen(url).read().decode()))

    monkeypatch.setattr(reporting, "_print_json", look)
    reporter, ledger = reporting.Reporting(log_json=True, metrics="127.0.0.1:0"), runner.ledger(3)
    job, receipt = JobId(finished), Receipt("0x", 1, 21_000, Wei(0), ())
    settled = RoundSettled(
        job=job, round=RoundNumber(0), attempt=0, accepted=1, revealed=1, results={"loss": 0.5, "ndcg@10": None},
        model_digest=Digest(bytes(32)), report_digest=Digest(bytes(32)), seconds=0.1, receipt=receipt,
    )  # fmt: skip
    with reporter.observing(lambda _: None, reader=ledger, account=ledger.account) as observe:
        observe(Warned(job=job, message="mind"))
        observe(CommittedUpdate(job=job, round=RoundNumber(0), bytes=1000, receipt=receipt))
        observe(settled)
    assert [event for event, _ in told[1:]] == ["warned", "committed_update", "round_settled"]
    assert f'deepledger_warnings_total{{job="{finished}"}} 1.0' in told[1][1]
    assert f'deepledger_update_bytes_total{{job="{finished}"}} 1000.0' in told[2][1]
    for metric, value in (("loss", "0.5"), ("ndcg@10", "NaN")):
        assert f'deepledger_validation_result{{job="{finished}",metric="{metric}"}} {value}' in told[3][1]


def test_metrics_that_cannot_be_served_are_refused_before_anything_is_done(runner: Runner, finished: int) -> None:
    for place in ("9101", "127.0.0.1:no", "127.0.0.1:99999"):
        result = runner.run("coordinator", finished, "--account", "coordinator", "--metrics", place)
        assert result.exit_code == 3
        assert "HOST:PORT" in result.stderr


def test_a_window_that_the_ledger_does_not_take_is_told_before_the_task_is_read(runner: Runner) -> None:
    contract = runner.json("deploy", "--account", "sponsor")["contract"]
    hasty = JOB.replace("reveal_window = 3600", "reveal_window = 45").replace('"task.py"', '"nowhere.py"')
    hasty = hasty.replace("settle_window = 3600", "settle_window = 59")
    (runner.folder / "hasty.toml").write_text(hasty)
    arguments = ("job", "create", runner.folder / "hasty.toml", "--account", "sponsor")
    refused = runner.run(*arguments, DEEPLEDGER_CONTRACT=contract)
    assert (refused.exit_code, "reveal_window = 45, terms.settle_window = 59: on this ledger" in refused.stderr) == (
        3,
        True,
    )


def test_the_doctor_finds_nothing_to_mend(runner: Runner, finished: int) -> None:
    checks = {each["check"]: each for each in runner.json("doctor", finished, "--account", "ann")}
    assert list(checks) == [
        "software", "chain and contract", "clock", "transactions", "blob store", "account", "spent privacy",
        f"job {finished}", "deposit", "room for an update", "task source", "disk",
    ]  # fmt: skip
    assert all(each["ok"] for each in checks.values())
    assert checks["transactions"]["found"] == "are tried as of the block to come"
    assert "over" in checks[f"job {finished}"]["found"]
    data = runner.folder / "data-1.safetensors"
    samples = len(load_file(data)["y"])
    tried = runner.json("doctor", finished, "--account", "ann", "--data", data)
    assert f"holds {samples} samples, which the task" in next(
        each["found"] for each in tried if each["check"] == "data"
    )


def test_the_doctor_tells_whether_stake_and_bond_can_be_paid(runner: Runner) -> None:
    file = runner.folder / "dear.toml"
    file.write_text(JOB.replace('stake = "0.1 ETH"', 'stake = "100000 ETH"'))
    job = runner.create("--coordinator", dev_accounts()[2].address, file=file.name)
    asked = runner.run("doctor", job, "--json", "--account", "ann")
    (wrong,) = (each for each in json.loads(asked.stdout) if not each["ok"])
    assert (asked.exit_code, wrong["check"]) == (4, "deposit")
    assert "the stake is 100000 ETH, and fees come on top: send" in wrong["found"]

    def bond() -> object:
        checks = {each["check"]: each["found"] for each in runner.json("doctor", job, "--account", "ben")}
        return checks["deposit"]

    assert bond() == "the bond is 0.5 ETH, which the account has"
    post_bond(runner.ledger(2), job, value=5 * 10**17)
    assert bond() == "0.5 ETH are in deposit as bond"


@pytest.mark.parametrize(
    ("setting", "value", "check", "code"),
    [
        ("DEEPLEDGER_RPC_URL", "http://127.0.0.1:1", "chain and contract", 4),
        ("DEEPLEDGER_CONTRACT", "0x" + "11" * 20, "chain and contract", 4),
        ("DEEPLEDGER_STORE", "ipfs+http://127.0.0.1:1", "blob store", 5),
        (PASSWORD, "wrong", "account", 3),
        ("DEEPLEDGER_ACCOUNT", "poor", "account", 4),
        ("DEEPLEDGER_TASKS", "", "task source", 3),
    ],
)
def test_the_doctor_names_what_is_wrong(
    runner: Runner, finished: int, setting: str, value: str, check: str, code: int
) -> None:
    result = runner.run("doctor", finished, "--json", **{"DEEPLEDGER_ACCOUNT": "ann", setting: value})
    assert result.exit_code == code
    wrong = [each for each in json.loads(result.stdout) if not each["ok"]]
    assert wrong[0]["check"] == check
    assert "\n" not in wrong[0]["found"]


def test_the_doctor_tries_a_blob_as_large_as_an_update(
    runner: Runner, finished: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = DirectoryStore.put

    def put_small(self: DirectoryStore, data: bytes) -> Any:
        if len(data) > len(PROBE):
            raise StoreUnreachable("what stands before it does not let blobs of this size through")
        return put(self, data)

    monkeypatch.setattr(DirectoryStore, "put", put_small)
    result = runner.run("doctor", finished, "--json", "--account", "ann")
    assert result.exit_code == 5
    assert [each["check"] for each in json.loads(result.stdout) if not each["ok"]] == ["room for an update"]


def test_the_doctor_says_where_no_block_to_come_is_shown(runner: Runner) -> None:
    with faulty_proxy(runner.settings["DEEPLEDGER_RPC_URL"]) as proxy:
        proxy.faults.append(without_pending())
        checks = {each["check"]: each for each in runner.json("doctor", "--account", "ann", "--rpc-url", proxy.url)}
    assert "sent untried" in checks["transactions"]["found"]


def test_the_doctor_looks_at_chain_and_clock_also_without_a_contract(runner: Runner) -> None:
    settings = {name: value for name, value in runner.settings.items() if name != "DEEPLEDGER_CONTRACT"}
    result = Runner(settings, runner.folder).run("doctor", "--json", "--account", "ann")
    checks = {each["check"]: each for each in json.loads(result.stdout)}
    assert result.exit_code == 3
    assert [name for name, each in checks.items() if not each["ok"]] == ["contract"]
    assert checks["chain"]["found"].startswith("chain 31337, block ")
    assert "clock" in checks


@pytest.mark.parametrize("step", ["release_bond", "withdraw"])
@pytest.mark.slow
def test_a_bond_of_a_job_that_ended_while_its_coordinator_was_down_comes_home(runner: Runner, step: str) -> None:
    """It is killed after JobEnded: before it asks for its bond, or before it is paid."""
    kill = f"import os; from deepledger.protocol.chain.web3_ledger import ChainLedger; ChainLedger.{step} = " + (
        f"lambda *_: os.kill(os.getpid(), {signal.SIGKILL:d})"
    )
    arguments = ("coordinator", "--account", "coordinator-of-all", "--most-bonds", "5 ETH")
    job = runner.create("--coordinator", dev_accounts()[4].address)
    dying = runner.start(*arguments, before=kill)
    dying.until(f"job {job}: deposited the bond")
    runner.json("job", "close", job, "--account", "sponsor")
    dying.end()
    assert dying.status == -signal.SIGKILL
    assert sum(map(int, deposits(runner, "coordinator-of-all", job))) == 5 * 10**17
    again = runner.start(*arguments)
    again.until(f"job {job}: 0.5 ETH were paid to this account")
    again.end(signal.SIGTERM)
    assert deposits(runner, "coordinator-of-all", job) == ("0", "0")


@pytest.mark.slow
def test_a_coordinator_of_all_jobs_deposits_no_more_than_it_may(runner: Runner) -> None:
    refused = runner.run("coordinator", "--account", "coordinator-of-all")
    assert (refused.exit_code, "--most-bonds AMOUNT" in refused.stderr) == (3, True)
    first = runner.create("--coordinator", dev_accounts()[4].address)
    coordinator = runner.start("coordinator", "--account", "coordinator-of-all", "--most-bonds", "0.9 ETH")
    coordinator.until(f"job {first}: deposited the bond")
    second = runner.create("--coordinator", dev_accounts()[4].address)
    assert "ETH would be deposited, lost or paid in fees" in coordinator.until(f"job {second} is left alone")
    said = coordinator.end(signal.SIGTERM)
    assert coordinator.status == 0, said


@pytest.mark.slow
def test_a_second_coordinator_of_the_same_account_is_refused(runner: Runner) -> None:
    job = runner.create()
    first = runner.start("coordinator", job, "--account", "sponsor")
    first.until("deposited the bond")
    second = runner.run("coordinator", job, "--account", "sponsor")
    first.end(signal.SIGTERM)
    assert (second.exit_code, f"settles job {job} already" in second.stderr) == (6, True)


def test_joining_again_when_all_is_over_goes_home(runner: Runner, finished: int) -> None:
    result = runner.run("join", finished, "--data", "nowhere", "--account", "ann", "--yes", DEEPLEDGER_TASKS="")
    assert result.exit_code == 0, result.output
    assert "the job is over" in result.stderr


def test_a_node_that_is_stopped_says_whether_it_can_stay_away(world: Any) -> None:
    play = sys.modules[type(world).__module__].Play(world)
    account = play.nodes[0].account
    assert joining.parting(world.reader(), play.job, account) == "stopped; run the same command again to go on"
    (node, opened), *_ = play.commit_all([play.update() for _ in play.nodes])
    assert "round 0" in (said := joining.parting(world.reader(), play.job, account))
    assert "0.25 ETH of the stake are lost" in said
    node.reveal(play.job, **opened)
    assert joining.parting(world.reader(), play.job, account) == "stopped; run the same command again to go on"
