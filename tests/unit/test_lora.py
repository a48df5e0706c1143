"""The LoRA example: only what is trained is sent, and who has no base gets the sponsor's, by its digest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load as tensors_in

from deepledger.api.agreement import of_fates
from deepledger.api.exported import safetensors_of
from deepledger.api.job_file import Draft, draft, read_job_file
from deepledger.node.training import load_trainer, make_update
from deepledger.protocol.blobs.directory import DirectoryStore
from deepledger.protocol.errors import BadInput, BadSpec, BlobMissing
from deepledger.protocol.evaluation.bench import prepare_bench
from deepledger.protocol.evaluation.blueprint import from_store
from deepledger.protocol.evaluation.state_dict import frozen_bytes
from deepledger.protocol.evaluation.task import TaskSource, read_source
from deepledger.protocol.formats.vectors import decode_model, load
from deepledger.protocol.settlement.aggregation import advance
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.stack import Row, Stack

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/lora"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("lora")
    (into / "task.py").write_bytes((EXAMPLE / "task.py").read_bytes())
    command = [sys.executable, EXAMPLE / "prepare.py", "--into", into / "data", "--participants", "2"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return into


@pytest.fixture(scope="module")
def made(folder: Path) -> Draft:
    return draft(read_job_file(EXAMPLE / "job.toml"), folder)


@pytest.fixture(scope="module")
def elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TaskSource:
    """The same task where there is no base."""
    path = tmp_path_factory.mktemp("participant") / "task.py"
    path.write_bytes((folder / "task.py").read_bytes())
    return read_source(path)


@pytest.fixture
def store(made: Draft, tmp_path: Path) -> DirectoryStore:
    store = DirectoryStore(tmp_path)
    made.publish(store)
    return store


def test_no_more_is_sent_than_is_trained(made: Draft, elsewhere: TaskSource, store: DirectoryStore) -> None:
    bench = prepare_bench(store, made.spec, elsewhere)
    trained = sum(each.numel() for each in bench.build().parameters() if each.requires_grad)
    everything = sum(each.numel() for each in bench.build().parameters())
    print(f"\nbytes a round: {made.spec.update_bytes:,}; were all weights sent, {everything * 2:,}")
    assert (trained, everything) == (2_698, 103_754)
    assert made.spec.update_bytes <= 1.1 * trained * made.spec.update.bits / 8
    assert made.spec.model_bytes == 4 * trained


def test_it_learns_the_digits_that_the_base_has_not_seen(
    made: Draft, folder: Path, elsewhere: TaskSource, store: DirectoryStore
) -> None:
    """One participant has the base, one has not; both train, and the coordinator has not, either."""
    spec = made.spec
    trainers = [
        load_trainer(spec, source, folder / f"data/participant-{number}.safetensors", fetch=from_store(store))
        for number, source in enumerate((read_source(folder / "task.py"), elsewhere))
    ]
    model = load(made.model)
    none = np.zeros(spec.model.coordinates, np.float32)
    for number in range(2):
        rows = []
        for seat, trainer in enumerate(trainers):
            encoded = make_update(
                trainer, model, none, last=None, training_seed=number, rounding_seed=number, round=number
            )
            assert not encoded.clipped
            rows.append(Row(seat, trainer_address(seat), 1, encoded.vector))
        shift = spec.model.fraction_bits - spec.update.fraction_bits
        advance(model, Stack(tuple(rows), len(model), shift), spec.aggregation, Context(bytes(32), spec.model))
    after = prepare_bench(store, spec, elsewhere).evaluate(model)
    assert after == prepare_bench(store, spec, read_source(folder / "task.py")).evaluate(model)
    assert made.first.exact("accuracy") < 0.4
    assert after.exact("accuracy") > 0.7


def trainer_address(seat: int) -> str:
    return f"0x{seat:040x}"


def test_who_has_another_base_and_no_store_is_told(made: Draft, folder: Path, elsewhere: TaskSource) -> None:
    with pytest.raises(BadInput, match=r"builds other frozen entries \('places' or another\)"):
        load_trainer(made.spec, elsewhere, folder / "data/participant-0.safetensors")


def test_a_base_that_nobody_serves_is_missing(made: Draft, elsewhere: TaskSource, store: DirectoryStore) -> None:
    frozen = made.spec.model.frozen
    assert frozen is not None
    other = frozen.model_copy(update={"digest": "ab" * 32})
    spec = made.spec.model_copy(update={"model": made.spec.model.model_copy(update={"frozen": other})})
    for apart in (None, print):
        with pytest.raises(BlobMissing):
            prepare_bench(store, spec, elsewhere, apart=apart)


def test_in_another_process_the_base_is_the_sponsors_too(
    made: Draft, elsewhere: TaskSource, store: DirectoryStore
) -> None:
    model = load(made.model)
    apart = prepare_bench(store, made.spec, elsewhere, apart=print)
    assert apart.frozen == made.frozen
    assert apart.evaluate(model) == prepare_bench(store, made.spec, elsewhere).evaluate(model) == made.first
    apart.close()


def test_another_layout_is_named(made: Draft, folder: Path, store: DirectoryStore) -> None:
    wider = folder / "wider.py"
    wider.write_text((folder / "task.py").read_text().replace("RANK = 64, 2, 4, 4", "RANK = 64, 2, 4, 5"))
    for apart in (None, print):
        with pytest.raises(BadSpec, match=r"entry 'blocks.0.query.down' is another one"):
            prepare_bench(store, made.spec, read_source(wider), apart=apart)


def test_what_is_exported_is_the_whole_model(made: Draft, elsewhere: TaskSource, store: DirectoryStore) -> None:
    bench = prepare_bench(store, made.spec, elsewhere)
    values = decode_model(load(made.model), made.spec.model)
    assert made.frozen is not None
    tensors = tensors_in(safetensors_of(made.spec.model, values, made.frozen, {"job": "1"}))
    model = bench.task.build_model(2)
    model.load_state_dict(tensors)
    frozen = made.spec.model.frozen
    assert frozen is not None
    assert frozen_bytes(model, frozen) == made.frozen
    for name, value in bench.build().state_dict().items():
        if name == "head.weight":
            assert torch.allclose(value, tensors[name], atol=2**-20)


def test_every_entrys_fate_is_shown(made: Draft) -> None:
    shown = of_fates(made.spec.model)
    assert shown["trained"].startswith("2,698 values, sent as updates: blocks.0.query.down, ")
    assert shown["frozen"].startswith("101,056 values, pinned, 404,224 bytes that never travel: places, rows.weight, ")
    assert shown.keys() == {"trained", "frozen"}
