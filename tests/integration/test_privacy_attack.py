"""`privacy attack`: what an update would betray, on a job as it stands on chain, before anything is shared."""

import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest

from deepledger.devnet import dev_accounts
from deepledger.protocol.privacy.ecies import public_key_of
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def job(runner):
    return runner.create("--coordinator", dev_accounts()[3].address)


def attack(runner, job, *options):
    data = runner.folder / "data-1.safetensors"
    return runner.run("privacy", "attack", job, "--data", data, "--shadows", 4, "--plays", 9, *options)


def test_an_update_is_attacked_before_it_is_shared_and_nothing_leaves_the_machine(runner, job, tmp_path):
    block, blobs = runner.ledger(1).head().number, sorted((runner.folder / "store").rglob("*"))
    data = runner.folder / "data-1.safetensors"
    (tmp_path / "inversion.svg").write_text("of an earlier time, readable by all")
    told = runner.json(
        "privacy", "attack", job, "--data", data, "--shadows", 4, "--plays", 12, "--participants", 3, "--to", tmp_path
    )
    assert (told["participants"], told["samples"], told["beside"], told["private"]) == (3, 40, 20, False)
    assert list(told["attacks"]) == ["inversion", "threshold", "lira", "shares"]
    assert told["attacks"]["inversion"]["control"]["found"], "one record and one step of a linear layer"
    for name in ("update", "sum"):
        assert set(told["attacks"]["shares"][name]["true"]) == {"0", "1"}
        assert 0 <= told["attacks"]["lira"][name]["low"] <= told["attacks"]["lira"][name]["auc"] <= 1
    assert told["not_tried"] == {}
    drawn = ["membership.svg", "shares-update.svg", "shares-sum.svg", "inversion.svg"]
    assert told["pictures"] == [str(tmp_path / name) for name in drawn]
    for path in told["pictures"]:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        assert Path(path).stat().st_mode & 0o777 == 0o600, "they show records"
    assert runner.ledger(1).head().number == block
    assert sorted((runner.folder / "store").rglob("*")) == blobs


def test_the_table_says_who_sees_what_and_promises_nothing(runner, job):
    done = attack(runner, job, "--attack", "threshold", "--attack", "inversion", "--to", runner.folder / "pictures")
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    assert "a sum of 2" in text
    assert "this job is open: everybody reads your update" in text
    assert "nothing is private by noise here" in text
    assert "nothing here shows that an update is safe to share" in text
    assert "lira" not in text
    assert "pictures show records of yours" in text


def test_a_job_with_other_hyperparameters_and_other_data_can_be_tried(runner, job):
    beside = [part for number in (0, 2) for part in ("--beside", runner.folder / f"data-{number}.safetensors")]
    options = ("--attack", "threshold", "--set", "learning_rate=100.0", *beside, "--json")
    assert '"beside": 40' in attack(runner, job, *options).output


def test_as_many_updates_are_played_as_the_sum_needs(runner, job):
    data = runner.folder / "data-1.safetensors"
    told = runner.json("privacy", "attack", job, "--data", data, "--attack", "shares", "--participants", 7)
    assert (list(told["attacks"]["shares"]), told["not_tried"]) == (["update", "sum"], {})
    few = " ".join(attack(runner, job, "--attack", "shares", "--participants", 3).output.split())
    assert "shares: not tried against a sum of 3, 9 updates make 3 sums of 3 that share none" in few


def test_what_is_not_possible_is_said(runner, job, tmp_path):
    copy, other = tmp_path / "copy.safetensors", runner.folder / "data-2.safetensors"
    copy.write_bytes((runner.folder / "data-1.safetensors").read_bytes())
    for options, said in (
        (("--attack", "telepathy"), "--attack telepathy: there is inversion, threshold, lira, shares"),
        (("--shadows", "5"), "give an even number"),
        (("--set", "epochs"), "give a name and a value"),
        (("--set", "epochs=3"), "no 'epochs' that can be set; it has learning_rate"),
        (("--data", tmp_path / "none"), "there is no data at"),
        (("--beside", runner.folder / "data-1.safetensors"), "is your --data"),
        (("--beside", copy), "is your --data"),
        (("--beside", other, "--beside", other), "data-2.safetensors again, whose records would count twice"),
        (("--data", runner.folder / "data-0.safetensors"), "your --data are the job's validation set"),
        (("--beside", tmp_path / "none"), f"there is no data at {tmp_path}/none: correct --beside"),
    ):
        done = attack(runner, job, *options)
        assert done.exit_code == 3, done.output
        assert said in done.stderr
    taken = tmp_path / "taken"
    taken.write_text("")
    done = attack(runner, job, "--attack", "threshold", "--to", taken)
    assert "correct --to" in done.stderr


def test_where_the_validation_set_is_withheld_other_data_are_asked_for(runner):
    job_file = (runner.folder / "job.toml").read_text()
    (runner.folder / "withheld.toml").write_text("validation_withheld = true\n" + job_file)
    key = "0x" + public_key_of(bytes(dev_accounts()[3].key)).hex()
    job = runner.create("--coordinator", key, file="withheld.toml")
    done = attack(runner, job)
    assert done.exit_code == 3
    assert "with --beside" in done.stderr


@pytest.mark.slow
def test_the_benchmark_fails_unless_its_controls_succeed(tmp_path):
    run = runpy.run_path(str(ROOT / "benchmarks/privacy_attacks.py"))
    world = run["measure"].__globals__
    world["ROUNDS"] = 1
    rows, findings, scene = run["measure"](run["settings"](2)[0], tmp_path, participants=2, shadows=8, plays=9)
    assert [row[:1] + row[4:5] for row in rows] == [["no noise", "update"], ["", "sum of 2"]]
    assert run["controls"](findings, scene) == []
    world |= {"CONTROL_DB": 101.0, "CONTROL_AUC": 1.1}
    one_step, by_heart = run["controls"](findings, scene)
    assert "101 are the least" in one_step
    assert "not 1.1" in by_heart
