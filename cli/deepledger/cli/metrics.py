"""Prometheus metrics of a running role, counted from what happens. Names follow Prometheus' conventions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import make_wsgi_app

from deepledger.coordinator.notices import RoundSettled, UpdateJudged
from deepledger.node.notices import CommittedUpdate, PrivacyCharged, RevealedUpdate, RoundOver, Trained
from deepledger.protocol.chain.events import Phase
from deepledger.protocol.chain.ledger import Reader
from deepledger.protocol.errors import BadInput, ChainError, StateError
from deepledger.protocol.roles.notices import Acted, Notice, Waiting, Warned
from deepledger.protocol.types import Address


@contextmanager
def serving(place: str, reader: Reader, account: Address) -> Iterator[tuple[str, Callable[[Notice], None]]]:
    """Serve metrics at "host:port" as long as the context lasts; gives the URL and what is to be told of notices.

    Raises `BadInput` for another `place`, `StateError` if nothing can listen there.
    """
    host, _, port = place.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise BadInput(f"{place!r} is no place for metrics: give --metrics HOST:PORT, for example 127.0.0.1:9101")
    metrics = Metrics.fresh(reader, account)
    try:
        server = make_server(host.strip("[]"), int(port), make_wsgi_app(metrics.registry), handler_class=_Quiet)
    except OSError as error:
        raise StateError(f"metrics cannot be served at {place}: {error.strerror}; choose another --metrics") from None
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_port}/metrics", metrics.count
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Quiet(WSGIRequestHandler):
    timeout = 10  # seconds that a client may keep the only thread waiting

    def log_message(self, *_: object) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Metrics:
    registry: CollectorRegistry
    round: Gauge
    phase: Gauge
    phase_ends: Gauge
    seated: Gauge
    acted: Gauge
    transactions: Counter
    gas: Counter
    fees: Counter
    rounds: Counter
    seconds: Histogram
    bytes: Counter
    verdicts: Counter
    earned: Counter
    epsilon: Gauge
    results: Gauge
    warnings: Counter

    @classmethod
    def fresh(cls, reader: Reader, account: Address) -> Metrics:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

        def balance() -> float:
            try:
                return reader.balance(account) / 10**18
            except ChainError:
                return float("nan")

        Gauge("deepledger_balance_ether", "What the account has left.", registry=registry).set_function(balance)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"deepledger_{name}", text, ("job", *labels), registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"deepledger_{name}", text, ("job", *labels), registry=registry)

        return cls(
            registry=registry,
            round=gauge("round", "Index of the open round."),
            phase=gauge("phase", "1 for the phase that the open round is in.", "phase"),
            phase_ends=gauge("phase_end_timestamp_seconds", "Chain time at which the phase ends by itself; 0: never."),
            seated=gauge("participants", "Seats taken."),
            acted=gauge("round_actions", "Commitments and reveals in the open round.", "action"),
            transactions=counter("transactions", "Transactions of ours that are on the chain.", "action"),
            gas=counter("gas_used", "Gas used by them.", "action"),
            fees=counter("fees_ether", "Fees paid for them."),
            rounds=counter("rounds", "Rounds that ended.", "outcome"),
            seconds=Histogram(
                "deepledger_work_seconds",
                "Time per round for training (node), or for verifying, aggregating and settling (coordinator).",
                ("job", "work"),
                buckets=(0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000),
                registry=registry,
            ),
            bytes=counter("update_bytes", "Bytes of updates that were published."),
            verdicts=counter("updates_judged", "Updates by verdict.", "verdict"),
            earned=counter("earned_ether", "Rewards credited to this account."),
            epsilon=gauge("privacy_epsilon", "Spent of the data's privacy, by all rounds and jobs on it.", "delta"),
            results=gauge(
                "validation_result", "The model's, on the validation set, by each metric of the job.", "metric"
            ),
            warnings=counter("warnings", "Warnings given."),
        )

    def count(self, notice: Notice) -> None:
        """Also where another thread does."""
        job = str(notice.job)
        if isinstance(notice, Acted):
            name = type(notice).__name__
            self.transactions.labels(job, name).inc()
            self.gas.labels(job, name).inc(notice.receipt.gas_used)
            self.fees.labels(job).inc(notice.receipt.fee / 10**18)
        match notice:
            case Waiting():
                self._show(job, notice)
            case Warned():
                self.warnings.labels(job).inc()
            case Trained():
                self.seconds.labels(job, "training").observe(notice.seconds)
            case PrivacyCharged():
                self.epsilon.labels(job, f"{notice.delta:g}").set(notice.epsilon)
            case CommittedUpdate() | RevealedUpdate():
                self.bytes.labels(job).inc(notice.bytes)
            case RoundOver():
                outcome = "paid" if notice.accepted else "not accepted" if notice.took_part else "missed"
                self.rounds.labels(job, outcome).inc()
                self.earned.labels(job).inc(notice.earned / 10**18)
            case UpdateJudged():
                self.verdicts.labels(job, str(notice.judged.verdict)).inc()
            case RoundSettled():
                self.rounds.labels(job, "settled").inc()
                self.seconds.labels(job, "settling").observe(notice.seconds)
                for name, value in notice.results.items():
                    self.results.labels(job, name).set(float("nan") if value is None else value)

    def _show(self, job: str, state: Waiting) -> None:
        self.round.labels(job).set(state.round)
        for phase in Phase:
            self.phase.labels(job, phase.name.lower()).set(phase is state.phase)
        self.phase_ends.labels(job).set(state.ends or 0)
        self.seated.labels(job).set(state.seated)
        self.acted.labels(job, "commit").set(state.commits)
        self.acted.labels(job, "reveal").set(state.reveals)
