"""Fixtures: a chain, a store, and a small job that scripted participants and coordinators play."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from deepledger.devnet import dev_accounts, find_anvil, start
from deepledger.protocol.bfv.program import find_program, program
from deepledger.protocol.blobs import digest_of, open_store
from deepledger.protocol.chain.abi import terms_hash
from deepledger.protocol.chain.events import JobTerms
from deepledger.protocol.chain.web3_ledger import connect, connect_as, deploy
from deepledger.protocol.errors import BadVector, BlobMissing
from deepledger.protocol.evaluation.state_dict import format_of, read_floats
from deepledger.protocol.evaluation.task import Task, read_source
from deepledger.protocol.evaluation.withheld import encrypt, lock_of, new_key, seal
from deepledger.protocol.formats.commitment import Slot, commitment_for
from deepledger.protocol.formats.evaluation import Coalition
from deepledger.protocol.formats.report import Report, report_bytes
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.spec import JobSpec, build_spec, spec_bytes
from deepledger.protocol.formats.updates import parse_update
from deepledger.protocol.formats.vectors import encode_model
from deepledger.protocol.job.fetch import fetch_model
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.privacy.ecies import public_key_of
from deepledger.protocol.settlement.aggregation.stack import Row, Stack
from deepledger.protocol.settlement.coalitions import Coalitions
from deepledger.protocol.settlement.inputs import Contribution, Earlier, revealed_in
from deepledger.protocol.settlement.judging import inspect
from deepledger.protocol.settlement.reporting import build_report
from deepledger.protocol.settlement.settle import Settlement, settle

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's threads, here and in what tests start: tests share the cores
settings.register_profile("thorough", deadline=None)  # machines are noisy: never assert a time
settings.register_profile("quick", settings.get_profile("thorough"), max_examples=20)

sys.path.append(str(Path(__file__).parent / "services"))
pytest_plugins = ["kubo_daemon"]

ETHER = 10**18
WAITS_IN_VAIN = 600.0  # seconds; only so that a test that waits in vain ends
ROOT = Path(__file__).resolve().parent.parent
TASK = """
import torch
from safetensors.torch import load_file

def build_model():
    return torch.nn.Linear(20, 20)

def load_data(path):
    shard = load_file(path)
    return torch.utils.data.TensorDataset(shard["x"], shard["y"])

def train(model, data, *, learning_rate):
    x, y = data.tensors
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    torch.nn.functional.mse_loss(model(x), y).backward()
    optimizer.step()

def evaluate(model, data):
    x, y = data.tensors
    loss = torch.nn.functional.mse_loss(model(x), y)
    return {"samples": len(x), "correct": int((model(x).argmax(1) == y.argmax(1)).sum()), "loss": float(loss)}
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="leave out what is marked slow, and try fewer examples")


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("quick" if config.getoption("quick") else "thorough")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    again = {item for item in items if item.get_closest_marker("one_chain") and item.get_closest_marker("anvil")}
    items[:] = [item for item in items if item not in again]
    config.hook.pytest_deselected(items=list(again))
    if config.getoption("quick"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: `make test-all` runs it"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was left out: how many tests, why, and of which files."""
    left_out: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        left_out.setdefault(report.longrepr[2].removeprefix("Skipped: "), []).append(Path(report.fspath).name)
    if left_out:
        terminalreporter.section("left out")
    for reason, files in sorted(left_out.items()):
        terminalreporter.write_line(f"{len(files)} tests, {reason} ({', '.join(sorted(set(files)))})")


def need(binary: object, name: str) -> None:
    """Skip without a service, unless nothing may be skipped."""
    if binary is None:
        if os.environ.get("DEEPLEDGER_REQUIRE_SERVICES") == "1":
            pytest.fail(f"{name} is required and not installed")
        pytest.skip(f"{name} is not installed (tests/services says how)")


def service(name: str) -> str | None:
    local = ROOT / "tests/services/bin" / name
    return str(local) if local.exists() else shutil.which(name)


@pytest.fixture(scope="session")
def bfv_program() -> Path:
    need(find_program(), "deepledger-bfv")
    return program()


def agreed(ledger: Any, job: int) -> bytes:
    """The hash of the terms that a job has now."""
    return terms_hash(Follower(ledger, job).job.created)


def take_seat(ledger: Any, job: int, samples: int, *, key: bytes = bytes(32), value: int) -> Any:
    return ledger.join(job, samples, terms_hash=agreed(ledger, job), key=key, value=value)


def post_bond(ledger: Any, job: int, *, value: int) -> Any:
    return ledger.post_bond(job, terms_hash=agreed(ledger, job), value=value)


@dataclass
class World:
    """A ledger on a devnet, a store, a tiny task, and everybody's accounts."""

    url: str
    contract: str
    folder: Path
    shards: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        from safetensors.numpy import save_file

        random = np.random.default_rng(0)
        truth = random.normal(size=(20, 20)).astype(np.float32)
        for number in range(5):
            x = random.normal(size=(30 + number, 20)).astype(np.float32)
            path = self.folder / f"shard-{number}.safetensors"
            save_file({"x": x, "y": x @ truth}, path)
            self.shards.append(path)
        self.task = self.folder / "linear.py"
        self.task.write_text(TASK)
        self.store = open_store(str(self.folder / "store"))
        self.accounts = dev_accounts()
        self.sponsor = self.ledger(0)

    def ledger(self, number: int) -> Any:
        return connect_as(self.url, self.contract, self.accounts[number], locks=self.folder / "locks")

    def reader(self) -> Any:
        return connect(self.url, self.contract)

    def rpc(self, method: str, *arguments: Any) -> Any:
        return self.sponsor.rpc.call(method, *arguments)

    def trained(self, model: Any, *, rate: float = 1.0) -> list[Any]:
        """What the step down its own loss is of who has a shard, as the tiny task would take it."""
        from safetensors.numpy import load_file

        weights, bias = (model[:400] / 2.0**20).reshape(20, 20), model[400:] / 2.0**20
        updates = []
        for shard in map(load_file, self.shards):
            missed = 2 * (shard["x"] @ weights.T + bias - shard["y"]) / shard["y"].size
            change = -rate * np.concatenate([(missed.T @ shard["x"]).ravel(), missed.sum(axis=0)])
            updates.append(np.rint(change * 2**14).astype("<i2"))
        return updates

    def pass_time(self, seconds: int) -> None:
        """Chain time goes on, whatever the clock on the wall does: no test waits for a window to end."""
        self.rpc("evm_increaseTime", seconds)
        self.rpc("evm_mine")

    def spec(self, **changes: Any) -> tuple[JobSpec, np.ndarray]:
        source = read_source(self.task)
        model = Task(source).build_model(1)
        validation = self.shards[4].read_bytes()
        fields = {
            "version": 1, "name": "linear", "task": {"name": "linear", "sha256": source.sha256},
            "model": format_of(model).model_dump(),
            "update": {"bits": 16, "fraction_bits": 14, "norm_bound": 5.0},
            "training": {"seed": 1, "hyperparameters": {"learning_rate": 0.1}},
            "aggregation": {"rule": "weighted_mean"}, "rewards": {"policy": "samples"}, "privacy": "open",
            "validation": {"digest": digest_of(validation).hex(), "bytes": len(validation)}, "max_samples": 1000,
        } | changes  # fmt: skip
        spec = build_spec(fields)
        return spec, encode_model(read_floats(model), spec.model)

    def withhold(self, coordinators: tuple[int, ...] = (1,), *, encrypted: bytes | None = None) -> dict[str, Any]:
        """For `create_job`: the validation set withheld. A liar of a sponsor has other bytes `encrypted`."""
        key, validation = new_key(), self.shards[4].read_bytes()
        ciphertext, salted_digest = encrypt(key, validation)
        if encrypted is not None:
            ciphertext, _ = encrypt(key, encrypted)
        digest = self.store.put(ciphertext)
        to = [public_key_of(bytes(self.accounts[number].key)) for number in coordinators]
        keys = [seal(key, to=each, ciphertext=digest).model_dump() for each in to]
        withheld = {"salted_digest": salted_digest.hex(), "keys": keys}
        pin = {"digest": digest.hex(), "bytes": len(ciphertext), "withheld": withheld}
        self.key = key
        return {
            "coordinators": coordinators, "spec_changes": {"validation": pin}, "validation_lock": lock_of(key),
        }  # fmt: skip

    def create_job(
        self, *, coordinators: tuple[int, ...] = (1,), spec_changes: dict[str, Any] | None = None, **terms: Any
    ) -> int:
        spec, model = self.spec(**(spec_changes or {}))
        data = model.data.cast("B")
        for blob in (spec_bytes(spec), self.shards[4].read_bytes(), data):
            self.store.put(blob)
        fixed = JobTerms(
            spec_digest=digest_of(spec_bytes(spec)), model_digest=digest_of(data), model_root=chunk_root(data, bits=32),
            rounds=3, min_participants=2, max_participants=8, miss_limit=3, commit_window=60, reveal_window=60,
            settle_window=60, reward=ETHER // 10 + 1, stake=ETHER, reveal_penalty=ETHER // 4, bond=ETHER,
            settle_penalty=ETHER // 2,
        )  # fmt: skip
        names = [self.accounts[number].address for number in coordinators]
        job, _ = self.sponsor.create_job(replace(fixed, **terms), names)
        return job


@dataclass
class Claim:
    """What a coordinator is about to post; a liar changes it."""

    model: np.ndarray
    settlement: Settlement
    accepted: int
    scores: list[int]
    report: dict[str, Any]


@dataclass
class StoredSources:
    """What a settlement is made from, without any patience."""

    store: Any
    spec: JobSpec
    evaluator: Any

    def update(self, contribution: Contribution) -> Any:
        return inspect(self.store.read(contribution.digest, limit=self.spec.update_bytes), contribution, self.spec)

    def earlier_update(self, earlier: Earlier) -> Any:
        try:
            return parse_update(self.store.read(earlier.digest, limit=self.spec.update_bytes), self.spec)
        except (BlobMissing, BadVector):
            return None

    def earlier_model(self, digest: bytes) -> Any:
        return fetch_model(self.store, digest, self.spec)

    def evaluate(self, coalitions: Coalitions, wanted: Sequence[Coalition]) -> Any:
        return self.evaluator.evaluate(coalitions, wanted)


class Play:
    """A job played step by step, by participants with random updates and a coordinator that may lie."""

    def __init__(self, world: World, *, participants: int = 3, **terms: Any) -> None:
        self.world = world
        self.job = world.create_job(**terms)
        self.spec, _ = world.spec(**terms.get("spec_changes") or {})
        self.coordinator = world.ledger(1)
        self.nodes = [world.ledger(2 + number) for number in range(participants)]
        self.random = np.random.default_rng(7)
        self.sources = StoredSources
        self.looks_at_the_model_after = True  # a liar may not
        self.follower = Follower(world.reader(), self.job)
        for number, node in enumerate(self.nodes):
            take_seat(node, self.job, 30 + number, value=self.terms.stake)
        post_bond(self.coordinator, self.job, value=self.terms.bond)
        self.see()

    @property
    def terms(self) -> JobTerms:
        return self.follower.job.terms

    def see(self) -> Any:
        self.follower = Follower(self.world.reader(), self.job)
        return self.follower.job

    def update(self) -> bytes:
        return self.random.integers(-500, 500, self.spec.model.coordinates).astype("<i2").tobytes()

    def trained(self, *, rate: float = 1.0) -> list[bytes]:
        """What each participant's step down its own loss is, as the tiny task would take it."""
        model = fetch_model(self.world.store, self.see().model_digest, self.spec)
        return [update.tobytes() for update in self.world.trained(model, rate=rate)[: len(self.nodes)]]

    def salt(self) -> bytes:
        return bytes(self.random.bytes(32))

    def commit_all(self, updates: list[bytes]) -> list[tuple[Any, dict[str, bytes]]]:
        made = []
        for node, update in zip(self.nodes, updates, strict=False):
            root = chunk_root(update, bits=self.spec.update.bits) if update else b"\1" * 32
            opened = {"digest": digest_of(update), "root": root, "salt": self.salt()}
            attempt = self.see().attempt
            slot = Slot(node.chain_id, node.address, self.job, attempt.round, node.account)
            node.commit(self.job, attempt.round, attempt.attempt, commitment_for(slot, **opened))
            made.append((node, opened))
        return made

    def round(
        self, updates: list[bytes] | None = None, *, lie: Callable[[Claim], None] | None = None, publish: bool = True
    ) -> None:
        updates = updates or [self.update() for _ in self.nodes]
        made = self.commit_all(updates)
        for node, opened in made:
            node.reveal(self.job, **opened)
        if publish:
            for update in updates:
                self.world.store.put(update)
        self.settle(lie)

    def settle(self, lie: Callable[[Claim], None] | None = None) -> None:
        from deepledger.protocol.evaluation.bench import bench_with
        from deepledger.protocol.evaluation.evaluators import OneByOne

        job, world = self.see(), self.world
        model = fetch_model(world.store, job.model_digest, self.spec)
        bench = bench_with(self.spec, read_source(world.task), world.shards[4].read_bytes())
        sources = self.sources(world.store, self.spec, OneByOne(bench))
        revealed = revealed_in(job, job.attempt, job.participants, self.spec)
        settlement = settle(
            self.spec, model, revealed, sources,
            outcome=(lambda *made: bench.evaluate(made[-1])) if self.looks_at_the_model_after else None,
        )  # fmt: skip
        claim = Claim(model, settlement, settlement.accepted, list(settlement.scores), {})
        if lie is not None:
            lie(claim)
        data = claim.model.data.cast("B")
        pin = (world.store.put(data), chunk_root(data, bits=32))
        evaluation = bench.evaluate(claim.model)
        report = build_report(
            job, job.attempt, claim.settlement, chain_id=self.coordinator.chain_id, contract=self.coordinator.address,
            model_before=(job.model_digest, job.model_root), model_after=pin, evaluation=evaluation, spec=self.spec,
        )  # fmt: skip
        report = Report.model_validate(report.model_dump() | claim.report)
        self.coordinator.settle(
            self.job, job.round, model_digest=pin[0], model_root=pin[1],
            report_digest=world.store.put(report_bytes(report)), accepted=claim.accepted, scores=claim.scores,
            revealed=sum(1 << job.participants[reveal.participant].seat for reveal in job.attempt.reveals),
        )  # fmt: skip

    def go_home(self) -> None:
        """Everybody leaves a job that is over and takes what is theirs."""
        for node in self.nodes:
            node.leave(self.job)
            node.withdraw(self.job)
        self.coordinator.release_bond(self.job)
        self.coordinator.withdraw(self.job)
        if self.world.sponsor.credit(self.job, self.world.sponsor.account):
            self.world.sponsor.withdraw(self.job)


@pytest.fixture(scope="session", params=["embedded", pytest.param("anvil", marks=pytest.mark.anvil)])
def devnet(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "anvil":
        need(find_anvil(), "anvil")
    with start(request.param) as chain:
        yield chain.url


def world_on(devnet: str, folder: Path) -> World:
    """With a ledger of its own: what is played in one world touches no other."""
    contract, _ = deploy(devnet, dev_accounts()[9], least_window=1, locks=folder / "locks")
    return World(devnet, contract, folder)


@pytest.fixture
def world(devnet: str, tmp_path: Path) -> World:
    return world_on(devnet, tmp_path)


@pytest.fixture(scope="session")
def spec_fields() -> Callable[..., dict[str, Any]]:
    """The fields of a valid spec; keyword arguments replace whole fields."""

    def fields(*, coordinates: int = 10, **changes: Any) -> dict[str, Any]:
        return {
            "name": "digits",
            "task": {"name": "digits", "sha256": "ab" * 32},
            "model": {"fraction_bits": 20, "layout": [{"name": "w", "shape": [coordinates], "offset": 0}]},
            "update": {"bits": 16, "fraction_bits": 16, "norm_bound": 5.0},
            "training": {"seed": 1, "hyperparameters": {"epochs": 1, "rate": 0.5, "nesterov": True, "name": "sgd"}},
            "aggregation": {"rule": "weighted_mean"},
            "rewards": {"policy": "samples"},
            "validation": {"digest": "cd" * 32, "bytes": 100},
            "max_samples": 1000,
        } | changes

    return fields


@pytest.fixture(scope="session")
def spec_of(spec_fields: Callable[..., dict[str, Any]]) -> Callable[..., JobSpec]:
    return lambda **changes: build_spec(spec_fields(**changes))


@pytest.fixture(scope="session")
def stack_of() -> Callable[..., Stack]:
    """Updates side by side, of participants 0x00…, 0x01… in seats 0, 1, …"""

    def stack(spec: JobSpec, updates: Sequence[np.ndarray], weights: Sequence[int] | None = None) -> Stack:
        rows = tuple(
            Row(seat, f"0x{seat:040x}", 1 if weights is None else weights[seat], update)
            for seat, update in enumerate(updates)
        )
        return Stack(rows, spec.model.coordinates, spec.model.fraction_bits - spec.update.fraction_bits)

    return stack
