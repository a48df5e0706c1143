"""One job in the real protocol: a chain, a store, a coordinator, honest nodes and adversaries, and what came of it."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import data
import numpy as np
import torch
from attacks import ATTACKS, Attack, Pool, Scene
from eth_account import Account

from deepledger.coordinator.coordinate import coordinate
from deepledger.devnet import CHAIN_ID, dev_accounts, start
from deepledger.node.participate import participate
from deepledger.node.training import make_update
from deepledger.protocol.blobs import digest_of, open_store
from deepledger.protocol.chain.events import JobTerms
from deepledger.protocol.chain.ledger import Ledger
from deepledger.protocol.chain.web3_ledger import connect, connect_as, deploy
from deepledger.protocol.evaluation.state_dict import format_of, read_floats, write_floats
from deepledger.protocol.evaluation.task import Task, TaskSource, read_source
from deepledger.protocol.formats.report import MAX_REPORT_BYTES, Report, parse_report
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.spec import JobSpec, build_spec, spec_bytes
from deepledger.protocol.formats.updates import encode_change
from deepledger.protocol.formats.vectors import as_model, as_update, decode_model, encode_model
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.job.state import Job
from deepledger.protocol.settlement.rewards import shares
from deepledger.protocol.types import JobId

ETHER = 10**18
NORM_BOUND = 10.0  # honest updates are 0.5 to 7 long
PATIENCE = 600  # seconds; on an idle machine a job takes ten
MAX_SAMPLES = 1000  # honest participants have 10 to 300
RULES: Mapping[str, Mapping[str, Any]] = {
    "weighted_mean": {"rule": "weighted_mean"},
    "median": {"rule": "median"},
    "trimmed_mean": {"rule": "trimmed_mean", "trim_percent": 40},
    "multi_krum": {"rule": "multi_krum", "byzantine_percent": 40},
    "centered_clipping": {"rule": "centered_clipping", "radius": 2.0, "momentum_percent": 50},
    "fltrust": {"rule": "fltrust"},  # `trusted` is the first participant, who is honest
    "dnc": {"rule": "dnc", "byzantine_percent": 40},
    "2-median": {"rule": "median", "bucket_size": 2},
    "2-multi_krum": {"rule": "multi_krum", "byzantine_percent": 40, "bucket_size": 2},
    "2-centered_clipping": {"rule": "centered_clipping", "radius": 2.0, "momentum_percent": 50, "bucket_size": 2},
}
POLICIES: Mapping[str, Mapping[str, Any]] = {
    "samples": {"policy": "samples"},
    "contribution": {"policy": "contribution", "measure": "leave_one_out"},
}
SCREENINGS: Mapping[str, Mapping[str, Any] | None] = {"off": None, "on": {}, "harm": {"harm_percent": 25}}

_training = threading.Lock()  # torch's generator is the process's: whoever trains has it to itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    model: str = "digits"
    split: str = "iid"
    rule: str = "weighted_mean"
    attack: str = "none"
    attackers: int = 0
    participants: int = 10
    policy: str = "samples"
    screening: str = "on"
    rounds: int = 6
    seed: int = 0


@dataclass
class Chain:
    """A devnet with a contract, and accounts with money on it."""

    url: str
    contract: str
    folder: Path
    open: ExitStack

    def ledger(self, number: int) -> Any:
        made = connect_as(self.url, self.contract, account(number), locks=self.folder / "locks")
        return self.open.enter_context(closing(made))

    def reader(self) -> Any:
        return self.open.enter_context(closing(connect(self.url, self.contract)))


def account(number: int) -> Any:
    return dev_accounts()[0] if number == 0 else Account.from_key(sha256(f"adversaries {number}".encode()).digest())


@contextmanager
def chain(accounts: int) -> Iterator[Chain]:
    with start("auto") as devnet, tempfile.TemporaryDirectory(prefix="deepledger-") as folder, ExitStack() as stack:
        locks = Path(folder) / "locks"
        contract, _ = deploy(devnet.url, account(0), locks=locks)
        found = Chain(devnet.url, contract, Path(folder), stack)
        rpc = found.reader().rpc
        nonce = int(rpc.call("eth_getTransactionCount", account(0).address, "latest"), 16)
        for number in range(1, accounts):
            transfer = {
                "to": account(number).address, "value": 50 * ETHER, "gas": 21_000, "nonce": nonce + number - 1,
                "maxFeePerGas": 10**11, "maxPriorityFeePerGas": 10**9, "chainId": CHAIN_ID,
            }  # fmt: skip
            signed = account(0).sign_transaction(transfer)
            rpc.call("eth_sendRawTransaction", "0x" + signed.raw_transaction.hex().removeprefix("0x"))
        yield found


@dataclass
class Actor:
    """A role in a thread."""

    run: Callable[..., None]
    stop: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._go, daemon=True)
        self.thread.start()

    def _go(self) -> None:
        try:
            self.run(observe=lambda _: None, stop=self.stop)
        except BaseException as error:
            self.error = error


def run(setting: Setting) -> dict[str, Any]:
    """Play one job to its end."""
    torch.set_num_threads(1)
    started = time.monotonic()
    people = [account(number).address for number in range(1, setting.participants + 1)]
    with chain(setting.participants + 1) as place:
        store = open_store(str(place.folder / "store"))
        source = read_source(data.TASKS[setting.model])
        validation, parts = data.split(
            setting.model, setting.split, participants=setting.participants, seed=setting.seed
        )
        path = data.write(validation, place.folder / "validation.safetensors")
        spec, model = _spec(setting, source, path, trusted=people[0])
        for blob in (spec_bytes(spec), path.read_bytes(), model):
            store.put(blob)
        sponsor = place.ledger(0)
        job, _ = sponsor.create_job(_terms(setting, spec, model), [sponsor.account])
        attack, pool = ATTACKS[setting.attack], Pool(setting.attackers)
        actors = [Actor(partial(coordinate, sponsor, store, job, tasks=[source.path]))]
        for number, part in enumerate(parts):
            ledger, folder = place.ledger(number + 1), place.folder / f"node-{number}"
            member = number - (setting.participants - setting.attackers)  # the last ones are not honest
            play: dict[str, Any] = {"make_update": honestly}
            if member >= 0:
                colluders = people[-setting.attackers :]
                play["make_update"] = _Adversary(attack, setting, ledger, store, job, colluders, member, pool)
                play["samples"] = MAX_SAMPLES if attack.inflates else len(part["labels"])
                part = attack.poison(part) if attack.poison else part
            shard = data.write(part, place.folder / f"shard-{number}.safetensors")
            actors.append(
                Actor(partial(participate, ledger, store, job, tasks=[source.path], data=shard, folder=folder, **play))
            )
        _wait(actors)
        over = Follower(place.reader(), job).job
        reports = [
            parse_report(store.read(each.settled.report_digest, limit=MAX_REPORT_BYTES)) for each in over.history
        ]
        final = as_model(store.read(over.model_digest, limit=spec.model_bytes), spec.model)
        return _outcome(setting, over, reports, people) | {
            **_what_it_learned(spec, source, decode_model(final, spec.model), validation, place.folder),
            "seconds": round(time.monotonic() - started, 1),
        }


def _spec(setting: Setting, source: TaskSource, validation: Path, *, trusted: str) -> tuple[JobSpec, bytes]:
    first = Task(source).build_model(1 + setting.seed)
    rule = dict(RULES[setting.rule])
    if rule["rule"] == "fltrust":
        rule["trusted"] = trusted
    spec = build_spec(
        {
            "name": setting.model, "task": {"name": source.path.stem, "sha256": source.sha256},
            "model": format_of(first).model_dump(),
            "update": {"bits": 16, "fraction_bits": 14, "norm_bound": NORM_BOUND},
            "training": {"seed": 1 + setting.seed, "hyperparameters": data.HYPERPARAMETERS},
            "aggregation": rule, "rewards": dict(POLICIES[setting.policy]),
            "screening": SCREENINGS[setting.screening], "max_samples": MAX_SAMPLES,
            "validation": {"digest": digest_of(validation.read_bytes()).hex(), "bytes": validation.stat().st_size},
        }
    )  # fmt: skip
    return spec, encode_model(read_floats(first, spec.model.layout), spec.model).tobytes()


def _terms(setting: Setting, spec: JobSpec, model: bytes) -> JobTerms:
    """Windows are wide: everybody acts long before they end."""
    return JobTerms(
        spec_digest=digest_of(spec_bytes(spec)), model_digest=digest_of(model), model_root=chunk_root(model, bits=32),
        rounds=setting.rounds, min_participants=setting.participants, max_participants=setting.participants,
        miss_limit=3, commit_window=3600, reveal_window=3600, settle_window=3600, reward=ETHER, stake=ETHER,
        reveal_penalty=ETHER // 4, bond=ETHER, settle_penalty=ETHER // 2,
    )  # fmt: skip


def honestly(*inputs: Any, **options: Any) -> Any:
    with _training:
        return make_update(*inputs, **options)


@dataclass
class _Adversary:
    """As `make_update`, which takes its place."""

    attack: Attack
    setting: Setting
    ledger: Ledger
    store: Any
    job: JobId
    colluders: Sequence[str]
    member: int
    pool: Pool

    def __call__(self, trainer: Any, before: Any, residual: Any, **options: Any) -> Any:
        if self.attack.craft is None:
            return honestly(trainer, before, residual, **options)
        spec, seed = trainer.spec, options["rounding_seed"]
        unit = 2.0**-spec.update.fraction_bits
        job = Follower(self.ledger, self.job).job
        scene = Scene(
            member=self.member,
            length=spec.model.coordinates,
            participants=self.setting.participants,
            bound=spec.update.norm_bound,
            train=lambda: honestly(trainer, before, residual, **options).vector * unit,
            revealed=partial(self._revealed, job, spec),
            tell=partial(self.pool.share, job.round, self.member),
            random=np.random.default_rng([self.setting.seed, job.round, self.member]),
        )
        change = self.attack.craft(scene).astype(np.float32)
        return encode_change(change, np.zeros_like(change), spec=spec, seed=seed)

    def _revealed(self, job: Job, spec: JobSpec) -> list[Any]:
        if not job.history:
            return []
        unit = 2.0**-spec.update.fraction_bits
        return [
            as_update(self.store.read(reveal.digest, limit=spec.update_bytes), spec) * unit
            for reveal in job.history[-1].opened.reveals
            if reveal.participant not in self.colluders
        ]


def _wait(actors: Sequence[Actor]) -> None:
    until = time.monotonic() + PATIENCE
    while any(actor.thread.is_alive() for actor in actors):
        for actor in actors:
            actor.thread.join(0.05)
        errors = [actor.error for actor in actors if actor.error is not None]
        if errors or time.monotonic() > until:
            for actor in actors:
                actor.stop.set()
            raise errors[0] if errors else TimeoutError(f"the job is not over after {PATIENCE} s")


def _outcome(setting: Setting, job: Job, reports: Sequence[Report], people: Sequence[str]) -> dict[str, Any]:
    """From the trail: who was paid what, and what was said of whom. Shares are of the whole reward.

    `by_samples` is what the other policy would have paid for the same verdicts.
    """
    honest = set(people[: setting.participants - setting.attackers])
    paid: Counter[str] = Counter()
    by_samples: Counter[str] = Counter()
    verdicts: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    overstated: dict[bool, int] = {True: 0, False: 0}
    signs: dict[str, list[int]] = {name: [] for name in ("likeness", "norm", "profile", "alignment", "harm")}
    for over, report in zip(job.history, reports, strict=True):
        accepted = [update for update in report.updates if update.verdict is Verdict.ACCEPTED]
        amounts = shares(over.settled.pot, over.settled.scores)
        paid.update({update.participant: amount for update, amount in zip(accepted, amounts, strict=True)})
        amounts = shares(over.settled.pot, [update.weight for update in accepted])
        by_samples.update({update.participant: amount for update, amount in zip(accepted, amounts, strict=True)})
        for update in report.updates:
            is_honest = update.participant in honest
            verdicts[is_honest][update.verdict.value] += 1
            overstated[is_honest] += update.overstated
            for name, values in signs.items():
                value = getattr(update.signs, name)
                if is_honest and value is not None:
                    values.append(value)
    pot = setting.rounds * job.terms.reward
    ends = {"likeness": min, "norm": max, "profile": min, "alignment": min, "harm": max}
    return {
        "accuracies": [round(float(report.evaluation.exact("accuracy")), 4) for report in reports],
        "losses": [round(float(report.evaluation.exact("loss")), 4) for report in reports],
        "paid": [round(paid[person] / pot, 5) for person in people],
        "by_samples": [round(by_samples[person] / pot, 5) for person in people],
        "honest": dict(verdicts[True]),
        "attacking": dict(verdicts[False]),
        "overstated": [overstated[True], overstated[False]],
        "extremes": {name: round(ends[name](values) / 1e6, 4) for name, values in signs.items() if values},
        "evaluations": sum(len(report.coalitions) for report in reports),
    }


def _what_it_learned(
    spec: JobSpec, source: TaskSource, model: Any, validation: data.Arrays, folder: Path
) -> dict[str, float]:
    task = Task(source)
    module = task.build_model(spec.training.seed)
    write_floats(module, model)

    def rate(arrays: data.Arrays) -> float:
        """Of images that get the label that stands here."""
        probe = task.load_data(data.write(arrays, folder / "probe"))
        return round(float(task.evaluate(module, probe, seed=spec.training.seed).exact("accuracy")), 4)

    return {
        "accuracy": rate(validation),
        "flipped": rate(data.flipped(validation)),
        "backdoored": rate(data.triggered(data.not_of_target(validation))),
    }
