"""Whole jobs from Python: `import deepledger`, as a script or a notebook uses it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import deepledger
from deepledger.api.network import Network
from deepledger.api.sandbox import Sandbox
from deepledger.protocol.errors import StateError, TaskMismatch
from tests.conftest import WAITS_IN_VAIN, Play, World

from .cli_runner import JOB, TASK, Runner


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("python")
    random = np.random.default_rng(0)
    for number in range(3):
        x = random.normal(size=(40, 4)).astype(np.float32)
        save_file({"x": x, "y": (x[:, 0] > 0).astype(np.int64)}, folder / f"data-{number}.safetensors")
    (folder / "task.py").write_text(TASK)
    (folder / "job.toml").write_text(JOB)
    return folder


@pytest.fixture(scope="module")
def net() -> Iterator[Sandbox]:
    with deepledger.sandbox(kind="embedded") as net:
        yield net


def made(net: Sandbox, folder: Path) -> deepledger.Job:
    sponsor, settler = net.accounts[:2]
    return deepledger.Job.create(
        folder / "job.toml", account=sponsor, network=net.network, coordinators=[settler.address]
    )


def test_a_whole_job_from_python(net: Sandbox, folder: Path, tmp_path: Path) -> None:
    job, task = made(net, folder), folder / "task.py"
    agreed = job.agreement()
    assert "signs" in agreed._repr_html_()
    assert "yours again when you leave" in agreed._repr_html_()
    roles = [deepledger.coordinate(job, task=task, account=net.accounts[1])]
    for number in (1, 2):
        data = folder / f"data-{number}.safetensors"
        roles.append(deepledger.join(job, agreed=agreed, data=data, task=task, account=net.accounts[1 + number]))
    seen = list(job.watch())
    for role in roles:
        assert role.wait(WAITS_IN_VAIN), role.lines
        assert any("over" in line for line in role.lines)
    assert [status.settled for status in seen] == sorted(status.settled for status in seen)
    over = job.status()
    assert (over.settled, over.outcome) == (over.rounds, 0)
    assert f"round {over.rounds} of {over.rounds}" in over._repr_html_()
    assert [each.number for each in job.rounds()] == list(range(over.rounds))
    assert all(0 <= (each.results["accuracy"] or 0) <= 1 for each in job.rounds())
    assert {each.address for each in job.participants()} == {each.address for each in net.accounts[2:4]}
    assert sum(each.earned for each in job.participants()) > 0
    trail = job.trail()
    assert (trail[0].name, trail[0].block <= trail[-1].block) == ("JobCreated", True)
    assert trail[0].transaction in trail._repr_html_()

    model = job.model()
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {"weight": (2, 4), "bias": (2,)}
    assert not model.save(tmp_path / "model.safetensors")
    assert np.array_equal(load_file(tmp_path / "model.safetensors")["weight"], model.state_dict()["weight"])
    with pytest.raises(deepledger.BadInput, match="there is a file already"):
        model.save(tmp_path / "model.safetensors")
    assert model.save(tmp_path / "model.safetensors", force=True)
    assert not np.array_equal(job.model(after=0).vector, model.vector)
    with pytest.raises(deepledger.BadInput, match="no model after 99"):
        job.model(after=99)
    with pytest.raises(deepledger.BadInput, match="no model after -1"):
        job.model(after=-1)

    told: list[tuple[str, int, int]] = []
    audit = deepledger.audit(job, task=task, workers=1, progress=lambda *far: told.append(far))
    assert (audit.matches, audit.evaluation) == (True, "checked")
    assert told
    assert "Everything matches" in audit._repr_html_()
    assert job.number in [each.job for each in deepledger.jobs(net.network)]
    (tmp_path / "other.py").write_text(TASK + "\n")
    with pytest.raises(TaskMismatch):
        deepledger.audit(job, task=tmp_path / "other.py")


def test_what_cannot_be_joined_is_said_before_anything_is_staked(net: Sandbox, folder: Path, tmp_path: Path) -> None:
    job = made(net, folder)
    agreed, account, before = job.agreement(), net.accounts[5], net.network.reader().balance(net.accounts[5].address)

    def join(**changes: Any) -> Any:
        usual = {"agreed": agreed, "data": folder / "data-1.safetensors", "task": folder / "task.py"}
        return deepledger.join(job, account=account, **usual | changes)

    with pytest.raises(deepledger.BadInput, match="other terms than those that were agreed to"):
        join(agreed=replace(agreed, hash=bytes(32)))
    with pytest.raises(deepledger.BadInput, match="there is no data at"):
        join(data=tmp_path / "nothing")
    with pytest.raises(deepledger.BadInput, match="--epsilon-budget -1"):
        join(epsilon_budget=-1.0)
    (tmp_path / "other.py").write_text(TASK + "\n")
    with pytest.raises(TaskMismatch):
        join(task=tmp_path / "other.py")
    with pytest.raises(deepledger.BadInput, match="no job 99"):
        deepledger.Job.open(99, net.network)
    with pytest.raises(deepledger.BadInput, match="not on job"):
        deepledger.coordinate(job, task=folder / "task.py", account=account).wait()
    assert net.network.reader().balance(account.address) == before


def test_one_account_settles_a_job_once_at_a_time(net: Sandbox, folder: Path) -> None:
    job = made(net, folder)
    with deepledger.coordinate(job, task=folder / "task.py", account=net.accounts[1]) as first:
        while not first.notices and first.is_alive:
            first.wait(0.1)
        with pytest.raises(StateError, match="settles job"):
            deepledger.coordinate(job, task=folder / "task.py", account=net.accounts[1]).wait()
    assert not first.is_alive


def test_a_sandbox_takes_along_whoever_still_works_in_it(folder: Path) -> None:
    net = deepledger.sandbox(kind="embedded")
    job = made(net, folder)
    node = deepledger.join(
        job,
        agreed=job.agreement(),
        data=folder / "data-1.safetensors",
        task=folder / "task.py",
        account=net.accounts[2],
    )
    assert node.is_alive
    net.close()
    assert not node.is_alive
    assert not net.folder.exists()


@pytest.mark.parametrize(
    ("ends", "stays"), [("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", True), ("raise SystemExit", False)]
)
def test_of_a_sandbox_that_nobody_closed_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str, stays: bool
) -> None:
    """Of one that was killed, until the next is made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = f'import deepledger; net = deepledger.sandbox(kind="embedded"); print(net.folder, flush=True); {ends}'
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"TMPDIR": str(tmp_path)}
    )
    left = Path(done.stdout.strip())
    assert (left.parent, left.is_dir()) == (tmp_path, stays), done.stderr
    with deepledger.sandbox(kind="embedded"):
        assert not left.exists()


def test_a_lie_is_a_finding_and_no_exception(world: World) -> None:
    play = Play(world)
    play.round()

    def lie(claim: Any) -> None:
        claim.model[0] += 1

    play.round(lie=lie)
    job = deepledger.Job.open(play.job, Network(world.contract, world.url, str(world.folder / "store")))
    audit = deepledger.audit(job, task=world.task, workers=1)
    assert not audit.matches
    assert [finding.kind for finding in audit.findings] == ["model"]
    assert "MODEL" in audit._repr_html_()


def test_commands_and_python_say_the_same_of_a_job(runner: Runner, finished: int, capsys: Any) -> None:
    contract, url, store = (runner.settings[f"DEEPLEDGER_{name}"] for name in ("CONTRACT", "RPC_URL", "STORE"))
    network = Network(contract, url, store)
    job, said = deepledger.Job.open(finished, network), runner.json("status", finished)
    assert [each["model"] for each in said["history"]] == [each.model for each in job.rounds()]
    assert [int(each["earned"]) for each in said["participants"]] == [each.earned for each in job.participants()]
    assert re.search(r"phase +over \(completed\)", runner.run("status", finished).stdout)
    assert job.live().outcome == 0
    assert capsys.readouterr() == ("", ""), "nothing is printed where nobody looks"


def test_a_script_without_a_guard_is_run_once(net: Sandbox, folder: Path, tmp_path: Path) -> None:
    """The processes that evaluate would import it again, and it would begin again in each."""
    script = tmp_path / "script.py"
    script.write_text(f"""
import deepledger
print("begun", flush=True)
with deepledger.sandbox(kind="embedded") as net:
    job = deepledger.Job.create({str(folder / "job.toml")!r}, account=net.accounts[0], network=net.network)
    audit = deepledger.audit(job, task={str(folder / "task.py")!r}, workers=2)
    print(audit.complete, audit.findings, audit.evaluation)
""")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.stdout == "begun\nTrue () checked\n", done.stdout + done.stderr
