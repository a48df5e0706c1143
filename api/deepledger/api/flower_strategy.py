"""A Flower strategy that records the rounds of another one on a TrainingLedger. Needs Flower."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result, Strategy

from deepledger.api.recording import Connect, Recording, Reply, begin
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BadInput
from deepledger.protocol.formats.model import LayoutEntry, ModelFormat
from deepledger.protocol.formats.vectors import Floats

_THE_SERVER = 0  # in the place of a client
_log = logging.getLogger("flwr")


class Recorded(Strategy):  # type: ignore[misc]
    """Everything is as with the strategy that is wrapped, but for the arrays after a round: those are the ledger's.

    Where the strategy aggregates as FedAvg does, the update of every client is recorded, weighted by its examples, and
    the audit derives the aggregate again. Where it does something else of its own, the update that it makes of a round
    is recorded as the server's: the trail then has every model, and not how the server came by it.
    """

    def __init__(self, strategy: Strategy, job: Path, *, connect: Connect, store: BlobStore, account: Any) -> None:
        self.strategy: Any = strategy
        self.job_file = job
        self.averages = type(strategy).aggregate_train is FedAvg.aggregate_train
        self._connect, self._store, self._account = connect, store, account
        self.recording: Recording | None = None

    def start(self, grid: Grid, initial_arrays: ArrayRecord, num_rounds: int = 3, **options: Any) -> Result:
        kind = type(self.strategy).__name__
        by = "One server signs for all clients" if self.averages else "Aggregated and signed by the server"
        self.recording = begin(
            self.job_file,
            lambda model: _values(initial_arrays, model),
            rounds=num_rounds,
            called=f"Flower {kind}. {by}",
            connect=self._connect,
            store=self._store,
            account=self._account,
            tell=_log.info,
        )
        if not self.averages:
            _log.warning("%s has an aggregation of its own: its models are recorded, not what clients sent", kind)
        first = _arrays(self.recording.model, self.recording.drafted.spec.model, initial_arrays)
        try:
            return super().start(grid, first, num_rounds, **options)
        finally:
            self.recording.finish()

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        received = list(replies)
        arrays, metrics = self.strategy.aggregate_train(server_round, received)
        recording = self.recording
        if arrays is None or recording is None:
            return arrays, metrics
        model = recording.drafted.spec.model
        if self.averages:
            sent = [self._reply(message, model) for message in received if message.has_content()]
        else:
            sent = [Reply(client=_THE_SERVER, samples=1, after=_values(arrays, model))]
        return _arrays(recording.record(sent), model, arrays), metrics

    def _reply(self, message: Message, model: ModelFormat) -> Reply:
        (arrays,), (metrics,) = message.content.array_records.values(), message.content.metric_records.values()
        key = self.strategy.weighted_by_key
        weight, client = metrics[key], message.metadata.src_node_id
        if not isinstance(weight, int | float) or weight != int(weight) or weight < 1:
            raise BadInput(f"client {client} weighs {weight!r} ({key}): the ledger weighs by whole numbers of samples")
        return Reply(client=client, samples=int(weight), after=_values(arrays, model))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        messages: Iterable[Message] = self.strategy.configure_train(server_round, arrays, config, grid)
        return messages

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        messages: Iterable[Message] = self.strategy.configure_evaluate(server_round, arrays, config, grid)
        return messages

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return self.strategy.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        self.strategy.summary()


def _values(arrays: ArrayRecord, model: ModelFormat) -> Floats:
    """As a vector, shape (d,). Raises `BadInput` for arrays that are not the model's."""
    values = np.empty(model.coordinates, np.float32)
    for entry in model.layout:
        array = arrays[entry.name].numpy() if entry.name in arrays else None
        if array is None or tuple(array.shape) != entry.shape or entry.is_complex:
            found = "none" if array is None else f"one of shape {tuple(array.shape)} and type {array.dtype}"
            raise BadInput(
                f"the job's model has an array {entry.name!r} of shape {entry.shape}, and the run has {found}"
            )
        values[entry.offset : entry.offset + entry.size] = array.astype(np.float32).ravel()
    return values


def _arrays(values: Floats, model: ModelFormat, others: ArrayRecord) -> ArrayRecord:
    """The ledger's values in the place of those that travel; what else is there, as counters, stays."""
    place: Callable[[LayoutEntry], Any] = lambda entry: values[entry.offset : entry.offset + entry.size]  # noqa: E731
    found = {
        name: Array(place(entry).reshape(entry.shape).astype(others[name].numpy().dtype, copy=True))
        for entry in model.layout
        for name in (entry.name, *entry.also)
    }
    return ArrayRecord({name: found.get(name, array) for name, array in others.items()})
