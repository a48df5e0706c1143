"""The blobs of a job in one file, from a job that processes of their own brought to its end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from deepledger.auditor.audit import audit
from deepledger.auditor.reads import blobs_of
from deepledger.protocol.blobs import open_store
from deepledger.protocol.types import JobId

from .cli_runner import Runner
from .test_masked import Play as MaskedPlay

pytestmark = pytest.mark.one_chain


@pytest.fixture(scope="module")
def car(runner: Runner, finished: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("car") / "run.car"
    done = runner.run("blobs", "export", finished, file)
    assert done.exit_code == 0, done.output
    assert f"of job {finished} up to block" in done.output
    return file


def test_an_audit_needs_the_chain_and_one_file(runner: Runner, finished: int, car: Path) -> None:
    audited = runner.run("audit", finished, "--json", DEEPLEDGER_STORE=str(car))
    assert audited.exit_code == 0, audited.output
    told = json.loads(audited.stdout)
    assert (told["evaluation"], told["matches"], told["complete"]) == ("checked", True, True)
    assert runner.run("job", "show", finished, DEEPLEDGER_STORE=str(car)).exit_code == 0


def test_blobs_are_put_into_another_store(runner: Runner, finished: int, car: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    done = runner.run("blobs", "import", car, DEEPLEDGER_STORE=store)
    assert done.exit_code == 0, done.output
    assert runner.run("audit", finished, DEEPLEDGER_STORE=store).exit_code == 0
    again = runner.run("blobs", "export", finished, tmp_path / "again.car", DEEPLEDGER_STORE=store)
    assert again.exit_code == 0, again.output
    assert (tmp_path / "again.car").read_bytes() == car.read_bytes()


def test_what_cannot_be_had_is_named_and_the_rest_is_there(
    runner: Runner, finished: int, car: Path, tmp_path: Path
) -> None:
    report = runner.json("status", finished)["history"][0]["report"]
    shutil.copytree(runner.folder / "store", tmp_path / "store")
    (tmp_path / "store" / report).unlink()
    file = tmp_path / "part.car"
    done = runner.run("blobs", "export", finished, file, "--json", DEEPLEDGER_STORE=str(tmp_path / "store"))
    assert done.exit_code == 5
    assert f"not there: no blob {report}" in done.stderr
    told = json.loads(done.stdout)
    assert told["missing"] == [report]
    assert len(told["blobs"]) + 1 == len(open_store(str(car)).blobs())
    both = runner.run("audit", finished, "--store", file, "--store", car)
    assert both.exit_code == 0, both.output


def test_files_are_not_replaced_unasked(runner: Runner, finished: int, car: Path, tmp_path: Path) -> None:
    refused = runner.run("blobs", "export", finished, car)
    assert refused.exit_code == 3
    assert "--force" in refused.output
    (tmp_path / "old.car").write_bytes(b"old")
    assert runner.run("blobs", "export", finished, tmp_path / "old.car", "--force").exit_code == 0
    assert (tmp_path / "old.car").read_bytes() == car.read_bytes()
    assert not list(tmp_path.glob(".*")), "nothing is left beside it"


def test_nothing_is_put_where_nothing_can_be(runner: Runner, finished: int, car: Path) -> None:
    for command in (["blobs", "import", car], ["join", finished, "--data", car, "--account", "ann"]):
        refused = runner.run(*command, DEEPLEDGER_STORE=str(car))
        assert refused.exit_code == 3
        assert "can only be read from" in refused.output


def test_whatever_an_audit_of_a_masked_job_reads_is_in_it(world, tmp_path: Path) -> None:
    play = MaskedPlay(world)
    play.round()
    needed = blobs_of(world.reader(), world.store, JobId(play.job))
    assert needed.missing == {}
    carried = open_store(str(tmp_path / "store"))
    for digest, size in needed.sizes.items():
        carried.put(world.store.read(digest, limit=size))
    found = audit(world.reader(), carried, JobId(play.job), tasks=[world.task])
    assert (found.matches, found.evaluation) == (True, "checked")
