"""Job files: amounts, keys that are wrong, and the job that becomes of one."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from deepledger.api.job_file import Draft, coordinator, draft, read_job_file, suffix_of, wei
from deepledger.protocol.blobs import digest_of, open_store
from deepledger.protocol.errors import BadInput, BadSpec
from deepledger.protocol.evaluation.bench import prepare_bench
from deepledger.protocol.evaluation.task import read_source
from deepledger.protocol.evaluation.validation import fetch_validation
from deepledger.protocol.evaluation.withheld import open_key
from deepledger.protocol.formats.private_run import in_vain
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.spec import parse_spec, spec_bytes
from deepledger.protocol.formats.vectors import load
from deepledger.protocol.job.fetch import check_keys, fetch_spec
from deepledger.protocol.privacy.ecies import address_of, public_key_of

ROOT = Path(__file__).resolve().parents[2]
JOB = (ROOT / "examples/digits/job.toml").read_text()


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0.01 ETH", 10**16),
        ("5 gwei", 5 * 10**9),
        ("7 wei", 7),
        ("1.5eth", 15 * 10**17),
        ("0.000000000000000001 ETH", 1),
        (12, 12),
        (0, 0),
    ],
)
def test_amounts(text: str | int, amount: int) -> None:
    assert wei(text) == amount


@pytest.mark.parametrize(
    "text", ["", "1", "one ETH", "-1 ETH", "1e3 ETH", "0.5 wei", "0.1234567891 gwei", 1.5, True, -1, 1 << 96, "٣ ETH "]
)
def test_what_is_no_amount(text: object) -> None:
    with pytest.raises(ValueError, match="wei"):
        wei(text)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "digits"', 'name = ""', "name: "),
        ('name = "digits"', "", "name: is missing"),
        ("rounds = 10", 'rounds = "ten"', "terms.rounds: 'ten' is not a whole number"),
        ("rounds = 10", "rounds = 0", "terms.rounds: 0 is less than 1"),
        ("bits = 16", "bits = 12", "update.bits: 12 is not 4, 8, 16 or 32"),
        ('rule = "weighted_mean"', 'rule = "medain"', "aggregation: 'medain' is none of 'weighted_mean', 'median', "),
        ('rule = "weighted_mean"', 'rule = "medain"', "did you mean median, not medain?"),
        ('rule = "weighted_mean"', "", "aggregation: 'rule' is missing"),
        ('policy = "samples"', 'policy = "sample"', "did you mean samples, not sample?"),
        ("norm_bound = 16.0", "norm_bound = [1]", "update.norm_bound: a list is not a number"),
        ("rounds = 10", f"rounds = 0x{'f' * 9999}", "terms.rounds: a number this large is not "),
        ("max_samples = 10000", "max_samples = 10000\nprivacy = 'opne'", "did you mean open, not opne?"),
        ("rounds = 10", "rounds = 0", "terms.rounds: "),
        ("rounds = 10", "runds = 10", "terms.runds: "),
        ("rounds = 10", "runds = 10", "did you mean rounds, not runds?"),
        ("seed = ", "sead = ", "did you mean seed, not sead?"),
        ("seed = ", 'privacy = "masked"\nseed = ', "privacy stands before the first [section]"),
        ("seed = ", "rounds = 3\nseed = ", "rounds belongs in [terms]"),
        ("norm_bound = ", "norm_bond = ", "did you mean norm_bound, not norm_bond?"),
        ('reward = "0.01 ETH"', 'reward = "0.01 BTC"', "terms.reward: '0.01 BTC' is not an amount"),
        ("bits = 16", "bits = 12", "update.bits: "),
        ("norm_bound = 16.0", "norm_bound = nan", "update.norm_bound: "),
        ('rule = "weighted_mean"', 'rule = "magic"', "aggregation: "),
        ('stake = "0.1 ETH"', 'stake = "0.001 ETH"', "terms.reveal_penalty exceeds terms.stake"),
        ('bond = "0.5 ETH"', 'bond = "1 wei"', "terms.settle_penalty exceeds terms.bond"),
        ("min_participants = 2", "min_participants = 9", "terms.min_participants exceeds terms.max_participants"),
        ("coordinators = []", 'coordinators = ["bob"]', "terms.coordinators.0: 'bob' is not an address"),
        ("coordinators = []", f'coordinators = ["0x{"11" * 20}", "0x{"11" * 20}"]', "has an address twice"),
        ("[model]", "[model", "is not TOML"),
        ("max_samples = 10000", "max_samples = 10000\nprivacy = 'secret'", "privacy: "),
    ],
)
def test_a_wrong_key_is_named(old: str, new: str, says: str, tmp_path: Path) -> None:
    assert old in JOB
    path = tmp_path / "job.toml"
    path.write_text(JOB.replace(old, new, 1))
    with pytest.raises(BadSpec) as error:
        read_job_file(path)
    assert says in str(error.value)
    assert str(path) in str(error.value)


def test_all_that_does_not_go_together_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    text = re.sub(r"(min_participants|stake|bond) = .*", lambda found: f"{found[1]} = 1", JOB)
    text = text.replace('rule = "weighted_mean"', 'rule = "multi_krum"\nbyzantine_percent = 40\n')
    path.write_text(
        re.sub(r"max_participants = .*", "max_participants = 2", text).replace("name", 'privacy = "masked"\nname', 1)
    )
    with pytest.raises(BadSpec) as error:
        read_job_file(path)
    for says in (
        "terms.reveal_penalty exceeds terms.stake",
        "terms.settle_penalty exceeds terms.bond",
        "of fewer than 3, nothing is hidden",
        "multi_krum withstands no bad update",
    ):
        assert says in str(error.value)
    assert str(error.value).count(str(path)) == 1


@pytest.mark.parametrize(
    ("rule", "seats", "says"),
    [
        ("multi_krum", 2, "byzantine_percent = 40: with no more than 2 participants multi_krum withstands no bad"),
        ("multi_krum", 6, "set terms.max_participants to 7 or more"),
        ("multi_krum", 7, None),
        ("dnc", 2, "set terms.max_participants to 3 or more"),
        ("dnc", 3, None),
        ("median", 2, None),  # it states no number
    ],
)
def test_a_rule_that_cannot_do_what_it_says_is_refused(rule: str, seats: int, says: str | None, tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    percent = "" if rule == "median" else "\nbyzantine_percent = 40"
    text = JOB.replace('rule = "weighted_mean"', f'rule = "{rule}"{percent}\n', 1)
    path.write_text(re.sub(r"max_participants = \d+", f"max_participants = {seats}", text))
    if says is None:
        read_job_file(path)
        return
    with pytest.raises(BadSpec, match=re.escape(says)):
        read_job_file(path)


@pytest.mark.parametrize(
    ("masks", "least", "says"),
    [
        ("", 2, "of fewer than 3, nothing is hidden"),
        ("groups = 3", 8, "3 groups of 3 or more each take 9; set it to that or more, or masks.groups to fewer"),
        ("groups = 3\nleast = 4", 9, "3 groups of 4 or more each take 12"),
        ("groups = 3", 9, None),
        ("groups = 22", 9, "masks.groups: "),
        ("least = 3", 9, "masks.least is that of groups"),
        ("groups = 3\nleast = 2", 9, "masks.least: 3 or more: of two whose updates are summed, each"),
    ],
)
def test_masks_need_room_in_every_group(masks: str, least: int, says: str | None, tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    text = JOB.replace("[model]", f"[masks]\n{masks}\n[model]", 1).replace(
        "max_samples", 'privacy = "masked"\nmax_samples', 1
    )
    text = re.sub(r"max_participants = \d+", "max_participants = 20", text)
    path.write_text(re.sub(r"min_participants = \d+", f"min_participants = {least}", text))
    if says is None:
        read_job_file(path)
        return
    with pytest.raises(BadSpec, match=re.escape(says)):
        read_job_file(path)


@pytest.mark.parametrize(("honest", "groups", "says"), [(9, 1, None), (10, 1, "as few as 9"), (4, 3, "as few as 3")])
def test_noise_needs_as_many_nodes_as_share_it(honest: int, groups: int, says: str | None, tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    noise = f"clip_norm = 1.0\nnoise_multiplier = 1.0\ndelta = 1e-5\nhonest = {honest}"
    sections = f'[masks]\ngroups = {groups}\n[participant_privacy]\nmechanism = "distributed"\n{noise}\n[model]'
    text = JOB.replace("[model]", sections, 1).replace("max_samples", 'privacy = "masked"\nmax_samples', 1)
    text = re.sub(r"max_participants = \d+", "max_participants = 20", text)
    path.write_text(re.sub(r"min_participants = \d+", "min_participants = 9", text))
    if says is None:
        read_job_file(path)
        return
    with pytest.raises(BadSpec, match=f"participant_privacy.honest = {honest}: {says} may be counted in one sum"):
        read_job_file(path)


def test_a_percentage_too_small_for_any_number_of_seats_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(JOB.replace('rule = "weighted_mean"', 'rule = "trimmed_mean"\ntrim_percent = 1\n', 1))
    with pytest.raises(BadSpec, match=r"withstands no bad update; raise aggregation\.trim_percent"):
        read_job_file(path)


def test_the_terms_pin_what_is_published(tmp_path: Path, digits: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(JOB)
    shutil.copy(ROOT / "examples/digits/task.py", tmp_path)
    shutil.copytree(digits, tmp_path / "data")
    job = read_job_file(path)
    made = draft(job, tmp_path)
    again = draft(job, tmp_path)
    assert (load(made.model) == load(again.model)).all()  # the seed decides
    store = open_store(str(tmp_path / "store"))
    made.publish(store)
    assert parse_spec(store.read(made.terms.spec_digest, limit=1 << 20)) == made.spec
    assert store.read(made.terms.model_digest, limit=1 << 20) == made.model.view()[:]
    assert made.terms.model_root == chunk_root(made.model.view(), bits=32)
    assert store.read(made.spec.validation_digest, limit=1 << 20) == (digits / "validation.safetensors").read_bytes()
    assert digest_of(spec_bytes(made.spec)) == made.terms.spec_digest
    assert made.first.samples == 359


# Its evaluation and its training have a second model of their own in memory
LARGE = """
import torch

class Vector(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(COORDINATES))

def build_model():
    return Vector()

def load_data(path):
    return [1]

def train(model, data):
    with torch.no_grad():
        model.weight.add_(torch.randn_like(model.weight), alpha=0.01)

def evaluate(model, data):
    return {"samples": 1, "correct": 0, "loss": float(model.weight.square().mean())}
"""
# What a folder's job is large by is told of the second one: the first has everything imported and compiled
PEAKS = """
import json, sys
from pathlib import Path
from deepledger.api.job_file import draft, read_job_file
from deepledger.node.training import load_trainer, rehearse
from deepledger.protocol.blobs import open_store
from deepledger.protocol.evaluation.task import read_source

def memory(name):  # getrusage's peak would begin with that of the process that started this one
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024

found = {}
def note(what, before):
    found[what] = (memory("VmHWM") - before) / made.spec.model_bytes

for folder in map(Path, sys.argv[1:]):
    before = memory("VmRSS")
    made = draft(read_job_file(folder / "job.toml"), folder)
    note("drafted", before)
    made.publish(open_store(str(folder / "store")))
    note("published", before)
    rehearse(load_trainer(made.spec, read_source(folder / "task.py"), folder / "data/validation.safetensors"))
    note("rehearsed", before)
print(json.dumps(found))
"""


def test_while_a_job_is_made_or_rehearsed_only_the_tasks_own_is_as_large_as_the_model(tmp_path: Path) -> None:
    folders = {tmp_path / "small": 3 << 20, tmp_path / "large": 24 << 20}
    for folder, coordinates in folders.items():
        (folder / "data").mkdir(parents=True)
        (folder / "data/validation.safetensors").write_text("one")
        (folder / "task.py").write_text(LARGE.replace("COORDINATES", str(coordinates)))
        job = re.sub(r"(?ms)^\[training.hyperparameters\].*?(?=^\[)", "", JOB)
        (folder / "job.toml").write_text(re.sub(r"(?m)^norm_bound = \S+", "norm_bound = 200.0", job))
    done = subprocess.run([sys.executable, "-c", PEAKS, *folders], capture_output=True, text=True, check=True)
    assert all(1.5 < models < 2.5 for models in json.loads(done.stdout).values()), done.stdout


def test_a_withheld_validation_set_is_published_encrypted(tmp_path: Path, digits: Path) -> None:
    path = tmp_path / "job.toml"
    secrets = [b"\1" * 32, b"\2" * 32]
    keys = [public_key_of(secret) for secret in secrets]
    listed = f'coordinators = ["0x{keys[0].hex()}", "{keys[1].hex().upper()}"]'
    withheld = JOB.replace("\nmax_samples", "\nvalidation_withheld = true\nmax_samples", 1)
    path.write_text(withheld.replace("coordinators = []", listed, 1))
    shutil.copy(ROOT / "examples/digits/task.py", tmp_path)
    shutil.copytree(digits, tmp_path / "data")
    made = draft(read_job_file(path), tmp_path)
    assert made.coordinators == tuple(map(address_of, keys))
    assert parse_spec(spec_bytes(made.spec)) == made.spec
    store = open_store(str(tmp_path / "store"))
    made.publish(store)
    plain = (digits / "validation.safetensors").read_bytes()
    assert plain[100:200] not in store.read(made.spec.validation_digest, limit=1 << 20)
    assert fetch_spec(store, made.terms) == made.spec
    check_keys(made.spec, made.coordinators)
    for secret in secrets:
        key = open_key(made.spec, lock=made.terms.validation_lock, secret=secret)
        assert bytes(fetch_validation(store, made.spec, key)) == plain
    with pytest.raises(BadInput, match="its key is not known here"):
        fetch_validation(store, made.spec)
    with pytest.raises(BadSpec, match="not sealed to the coordinator 0x1111"):
        check_keys(made.spec, [*made.coordinators, "0x" + "1" * 40])
    with pytest.raises(BadSpec, match="by the job's terms or by its spec"):
        fetch_spec(store, replace(made.terms, validation_lock=bytes(32)))
    assert draft(read_job_file(path), tmp_path).terms.validation_lock != made.terms.validation_lock, "a key of its own"


@pytest.mark.parametrize("listed", ["", '"0x1111111111111111111111111111111111111111"'])
def test_a_withheld_validation_set_needs_public_keys(listed: str, tmp_path: Path, digits: Path) -> None:
    path = tmp_path / "job.toml"
    withheld = JOB.replace("\nmax_samples", "\nvalidation_withheld = true\nmax_samples", 1)
    path.write_text(withheld.replace("coordinators = []", f"coordinators = [{listed}]", 1))
    shutil.copy(ROOT / "examples/digits/task.py", tmp_path)
    shutil.copytree(digits, tmp_path / "data")
    with pytest.raises(BadInput, match=r"give the public key of .*`deepledger account show NAME` prints it"):
        draft(read_job_file(path), tmp_path)


def test_coordinators_are_addresses_or_public_keys() -> None:
    key = public_key_of(b"\1" * 32).hex()
    assert coordinator(f"0x{key.upper()}") == coordinator(key) == f"0x{key}"
    assert coordinator("0x" + "ab" * 20) == "0xABaBaBaBABabABabAbAbABAbABabababaBaBABaB"
    for wrong in (f"04{key[2:]}", key[:-2], "02" + "f" * 64, 7):
        with pytest.raises(ValueError, match=r"public key"):
            coordinator(wrong)


def test_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(JOB)
    with pytest.raises(BadInput, match=r"task\.py"):
        draft(read_job_file(path), tmp_path)
    shutil.copy(ROOT / "examples/digits/task.py", tmp_path)
    with pytest.raises(BadInput, match=r"validation\.safetensors.*load_data reads, from the job file's folder"):
        draft(read_job_file(path), tmp_path)


def test_a_misspelt_hyperparameter_is_noticed_before_money_is_locked(tmp_path: Path, digits: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(JOB.replace("learning_rate", "learning_rte"))
    shutil.copy(ROOT / "examples/digits/task.py", tmp_path)
    shutil.copytree(digits, tmp_path / "data")
    with pytest.raises(BadInput, match=r"training\.hyperparameters: .*learning_r"):
        draft(read_job_file(path), tmp_path)


TABLE = """
import gzip
import torch

def build_model():
    return torch.nn.Linear(2, 1)

def load_data(path):
    assert path.name.endswith(".csv.gz"), path.name
    rows = [[float(cell) for cell in line.split(",")] for line in gzip.open(path, "rt")]
    return torch.tensor(rows)

def train(model, data, *, steps, round):
    FAULT
    with torch.no_grad():
        model.weight += sum(steps)

def evaluate(model, data):
    return {"samples": len(data), "correct": 0, "loss": float((model(data) ** 2).mean())}
"""


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("pass", None),
        (
            "assert round == 0",
            r"round 1, tried out: train of task .* failed: AssertionError.* name a participant's data",
        ),
        ("model = build_model()", r"round 0, tried out: train of task .* leaves the model that it is given as it was"),
        ("model.weight.data /= 0", r"round 0, tried out: training .* makes NaN or infinity"),
    ],
)
def test_a_task_is_tried_as_it_will_be_run(fault: str, says: str | None, tmp_path: Path) -> None:
    """On the validation set under its suffix, as a coordinator gets it, and in two rounds; a setting is a list."""
    source = TABLE.replace("FAULT", fault)
    if says is None:
        made = drafted(tmp_path, source)
        assert made.spec.validation.suffix == ".csv.gz"
        assert made.spec.training.hyperparameters == {"steps": [0.5, 1]}
        store = open_store(str(tmp_path / "store"))
        made.publish(store)
        assert parse_spec(store.read(made.terms.spec_digest, limit=1 << 20)) == made.spec
        bench = prepare_bench(store, made.spec, read_source(tmp_path / "task.py"))
        assert bench.path.name == "validation.csv.gz"
    else:
        with pytest.raises(BadInput, match=says):
            drafted(tmp_path, source)


PRIVATELY = """optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = torch.utils.data.DataLoader(data, batch_size=1)
    optimizer, loader = make_private(model, optimizer, loader, noise_multiplier=2.0, clip_norm=1.0)
    for rows in loader:
        optimizer.zero_grad()
        model(rows).sum().backward()
        optimizer.step()"""


def test_a_training_that_is_less_private_than_the_job_asks_is_told_before_money_is_locked(tmp_path: Path) -> None:
    private = "from deepledger.privacy import make_private\n" + TABLE.replace("FAULT", PRIVATELY)
    asked = "[differential_privacy]\nnoise_multiplier = 2.0\nclip_norm = 1.0\ndelta = 1e-5\n[model]"
    kept = private.replace("    with torch.no_grad():\n        model.weight += sum(steps)\n", "")
    for source, says in ((TABLE, "makes nothing private"), (private, "nothing is guaranteed: 'weight' of the model")):
        with pytest.raises(BadInput, match=f"the job asks for differential privacy, and .*{says}"):
            drafted(tmp_path, source, asked=asked)
    made = drafted(tmp_path, private)  # not asked for, and broken all the same
    assert "nothing is guaranteed: 'weight' of the model was changed" in (in_vain(made.tried) or "")
    made = drafted(tmp_path, kept, asked=asked)
    assert made.tried is not None
    assert in_vain(made.tried) is None


def drafted(tmp_path: Path, source: str, *, asked: str = "[model]") -> Draft:
    """A job of `TABLE`, changed."""
    (tmp_path / "task.py").write_text(source.replace("FAULT", "pass"))
    (tmp_path / "v1.csv.gz").write_bytes(gzip.compress(b"1,2\n3,4\n"))
    text = JOB.replace('"data/validation.safetensors"', '"v1.csv.gz"').replace("[model]", asked, 1)
    start, end = text.index("[training.hyperparameters]"), text.index("[aggregation]")
    (tmp_path / "job.toml").write_text(f"{text[:start]}[training.hyperparameters]\nsteps = [0.5, 1]\n\n{text[end:]}")
    return draft(read_job_file(tmp_path / "job.toml"), tmp_path)


def test_a_task_whose_results_change_from_one_evaluation_to_the_next_is_refused(tmp_path: Path) -> None:
    drifting = TABLE.replace('"loss": float(', '"loss": SEEN.append(1) or len(SEEN) + float(').replace(
        "import gzip", "SEEN = []\nimport gzip"
    )
    with pytest.raises(BadInput, match=r"evaluate of task .* gives .*loss .*for the same model again .*loss .*"):
        drafted(tmp_path, drifting)


def test_a_job_without_hyperparameters_needs_no_section_for_them(tmp_path: Path) -> None:
    start, end = JOB.index("[training.hyperparameters]"), JOB.index("[aggregation]")
    (tmp_path / "job.toml").write_text(JOB[:start] + JOB[end:])
    assert read_job_file(tmp_path / "job.toml").training.hyperparameters == {}


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        ("float('nan')", "is nan: look for"),
        ("float('inf')", "is inf: look for"),
        ("2e9", r"is 2e\+09: scale the loss: .* 1e\+09"),
    ],
)
def test_a_first_model_that_no_round_can_be_held_against_is_refused(loss: str, says: str, tmp_path: Path) -> None:
    """Nobody could tell later that training made it worse."""
    source = TABLE.replace("float((model(data) ** 2).mean())", loss)
    with pytest.raises(BadInput, match=f"the first model's loss on the validation set {says}"):
        drafted(tmp_path, source)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("v.csv.gz", ".csv.gz"), ("a.b.tar.gz", ".tar.gz"), ("v.safetensors", ".safetensors"), ("v", ""),
        (".csv", ""), ("v.a/../b", ""), ("v.no good", ""), ("v." + "x" * 17, ""),
    ],
)  # fmt: skip
def test_what_tells_a_format_is_the_last_of_a_name(name: str, suffix: str) -> None:
    assert suffix_of(Path(name)) == suffix


def test_a_folder_as_validation_set_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(JOB)
    shutil.copy(ROOT / "examples/digits/task.py", tmp_path)
    (tmp_path / "data/validation.safetensors").mkdir(parents=True)
    with pytest.raises(BadInput, match=r"is a folder, and is published as one file: pack it"):
        draft(read_job_file(tmp_path / "job.toml"), tmp_path)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("digits")
    subprocess.run([sys.executable, ROOT / "examples/digits/prepare.py", "--into", folder], check=True)
    return folder


def test_a_task_that_reads_what_lies_beside_its_sponsor_is_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.toml").write_text(JOB)
    Path("data").mkdir()
    Path("data/validation.safetensors").write_bytes(b"1")
    Path("mine.csv").write_text("1,2\n")
    Path("task.py").write_text("TABLE = open('mine.csv').read()\n")
    with pytest.raises(BadInput, match=r"mine\.csv.*comes by load_data, or stands in it"):
        draft(read_job_file(Path("job.toml")), Path())
