"""A Flower client, as it is: `ClientApp`, or the function that makes a `NumPyClient`.

The client gets the messages that a Flower server would send it, for one node that has all of a participant's data.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from inspect import signature
from pathlib import Path
from threading import Event
from time import time
from typing import TYPE_CHECKING, Any

from deepledger.adapters.adapted import Adapted, LoadData, Metrics, need, quiet, result, unknown
from deepledger.adapters.rows import records
from deepledger.protocol.errors import BadInput

if TYPE_CHECKING:
    import torch

_data: ContextVar[Any] = ContextVar("data", default=None)
_asking: set[Event] = set()
"""Set where a client, while it is asked, loads in a thread, to which the data are not known."""
_ASTRAY = (
    "the Flower client loads data in a thread of its own, where a participant's are not known: load in the client's "
    "function itself, or in a thread that is run with contextvars.copy_context().run"
)
_BATCH = 32
_DAY = 86_400.0  # seconds


def loaders(load_data: Callable[..., Any], *, batch_size: int | None = None) -> Callable[..., Any]:
    """The app's function that gives a client its loaders, for training and for testing: in a job, both are of the
    participant's data; in Flower, it is what it was.

    A batch has as many samples as the function's argument `batch_size`, or 32.
    """

    @wraps(load_data)
    def answer(*arguments: Any, **options: Any) -> Any:
        data = _data.get()
        if data is None and not _asking:
            return load_data(*arguments, **options)
        if data is None:
            for each in list(_asking):
                each.set()
            raise BadInput(_ASTRAY)
        from torch.utils.data import DataLoader

        given = signature(load_data).bind(*arguments, **options)
        given.apply_defaults()
        size = batch_size or given.arguments.get("batch_size") or _BATCH
        return DataLoader(data, batch_size=size, shuffle=True), DataLoader(data, batch_size=size)

    return answer


def recorded(strategy: Any, job: str | Path) -> Any:
    """The strategy of a Flower server, whose rounds are recorded on a TrainingLedger from now on; clients stay as they
    are.

    `job` is a job file, as `deepledger job new --from flower` writes it: of it, task, model and validation set are
    used. Chain, contract, store and account are the environment's, as for the command line. The server signs for its
    clients. Raises `BadInput` without Flower, and for what is no strategy of its ServerApp.
    """
    need("flwr", extra="flower")
    from flwr.serverapp.strategy import Strategy

    if not isinstance(strategy, Strategy):
        raise BadInput(
            f"adapters.recorded takes a strategy of flwr.serverapp.strategy, not a {type(strategy).__name__}"
        )
    from deepledger.api.account import Account
    from deepledger.api.flower_strategy import Recorded
    from deepledger.api.network import Network

    network, account = Network.here(), Account.open()
    connect = partial(network.signed_by, locks=account.locks, most_per_gas=account.most_per_gas)
    return Recorded(strategy, Path(job), connect=connect, store=network.blobs(writes=True), account=account.signer)


def flower(
    app: Any,
    *,
    model: Callable[[], torch.nn.Module],
    load_data: LoadData = records,
    run_config: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    metrics: Metrics | None = None,
) -> Adapted:
    """The task of a Flower app's client: a `ClientApp`, or a `client_fn(context)` that makes a client.

    In a round, the client is sent the model to train, as a server would, and the arrays that it replies with are the
    model after; it evaluates by its own evaluation. `run_config` is what stands in pyproject.toml, `config` what the
    server sends along; the job's hyperparameters replace entries of both, with _ for -. A client finds its data in
    `context.node_config["data"]`, or gets loaders from a function that went through `loaders`. The model's arrays are
    its `state_dict`; a client's own `context.state` lasts for one round. Of its evaluation, `metrics` names what counts
    besides loss and accuracy. Raises `BadInput` without Flower.
    """
    need("flwr", extra="flower")
    from flwr.clientapp import ClientApp

    client = app if isinstance(app, ClientApp) else ClientApp(client_fn=app)
    setting, sent = dict(run_config or {}), dict(config or {})

    def train(net: torch.nn.Module, data: Any, *, round: int = 0, **changed: Any) -> None:
        run, told = dict(setting), dict(sent) | {"server-round": round + 1}
        for name, value in changed.items():
            place = next(
                ((each, key) for each in (run, told) for key in (name, name.replace("_", "-")) if key in each), None
            )
            if place is None:
                raise unknown(name, of="the app", known=", ".join([*run, *told]))
            place[0][place[1]] = value
        _write(net, _ask(client, "train", net, data, run_config=run, config=told)[0])

    def evaluate(net: torch.nn.Module, data: Any) -> Mapping[str, Any]:
        _, found = _ask(client, "evaluate", net, data, run_config=setting, config=sent)
        where = "return it from the client's evaluation"
        return result(found, samples=len(data), metrics=metrics or {}, where=where)

    return Adapted(model, load_data, train, evaluate, metrics or {})


def _ask(
    client: Any, kind: str, net: torch.nn.Module, data: Any, *, run_config: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the client replies: arrays by name, and metrics. Raises `BadInput` for a reply that is an error."""
    from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

    node = {"partition-id": 0, "num-partitions": 1, "data": data}
    context = Context(run_id=0, node_id=0, node_config=node, state=RecordDict(), run_config=dict(run_config))
    of_functions = getattr(client, "_call", None) is not None  # a client_fn, whose messages have another form
    if of_functions:
        content = _instructions(kind, net, config)
    else:
        content = RecordDict({"arrays": ArrayRecord(dict(net.state_dict())), "config": ConfigRecord(dict(config))})
    with ExitStack() as stack:
        stack.enter_context(supplied(data))
        stack.enter_context(quiet("flwr", logging.ERROR))
        import torch

        stack.enter_context(torch.enable_grad() if kind == "train" else torch.no_grad())
        reply = client(Message(content=content, metadata=_metadata(kind)), context)
    if reply.has_error():
        raise BadInput(f"the Flower client replies to {kind} with an error: {reply.error.reason}")
    return _results(kind, net, reply.content) if of_functions else _records(reply.content)


@contextmanager
def supplied(data: Any) -> Iterator[None]:
    """Functions that went through `loaders` give these data. Raises `BadInput` if one could not."""
    astray, token = Event(), _data.set(data)
    _asking.add(astray)
    try:
        yield
    finally:
        _asking.remove(astray)
        _data.reset(token)
    if astray.is_set():
        raise BadInput(_ASTRAY)


def _metadata(kind: str) -> Any:
    """Of a message of no run: a Message that is made without looks for the run that it is in."""
    from flwr.app import Metadata

    ends = {"src_node_id": 0, "dst_node_id": 0, "reply_to_message_id": "", "group_id": ""}
    return Metadata(run_id=0, message_id="", created_at=time(), ttl=_DAY, message_type=kind, **ends)


def _records(content: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    arrays = {name: array.numpy() for record in content.array_records.values() for name, array in record.items()}
    metrics = {name: value for record in content.metric_records.values() for name, value in record.items()}
    return arrays, metrics


def _instructions(kind: str, net: torch.nn.Module, config: Mapping[str, Any]) -> Any:
    from flwr.common import EvaluateIns, FitIns, ndarrays_to_parameters
    from flwr.compat.common.recorddict_compat import evaluateins_to_recorddict, fitins_to_recorddict

    arrays = ndarrays_to_parameters([value.detach().cpu().numpy() for value in net.state_dict().values()])
    if kind == "train":
        return fitins_to_recorddict(FitIns(arrays, dict(config)), keep_input=True)
    return evaluateins_to_recorddict(EvaluateIns(arrays, dict(config)), keep_input=True)


def _results(kind: str, net: torch.nn.Module, content: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    from flwr.common import parameters_to_ndarrays
    from flwr.compat.common.recorddict_compat import recorddict_to_evaluateres, recorddict_to_fitres

    if kind == "evaluate":
        measured = recorddict_to_evaluateres(content)
        return {}, {"loss": measured.loss} | dict(measured.metrics)
    arrays, names = (
        parameters_to_ndarrays(recorddict_to_fitres(content, keep_input=True).parameters),
        list(net.state_dict()),
    )
    if len(arrays) != len(names):
        raise BadInput(
            f"the Flower client returns {len(arrays)} arrays, and the model's state_dict has {len(names)}: get and set "
            "all of it, as [value.cpu().numpy() for value in net.state_dict().values()]"
        )
    return dict(zip(names, arrays, strict=True)), {}


def _write(net: torch.nn.Module, arrays: Mapping[str, Any]) -> None:
    import torch

    own = net.state_dict()
    if not arrays or (strange := sorted(arrays.keys() - own.keys())):
        what = f"an array {strange[0]!r} that the model has not" if arrays else "no arrays"
        raise BadInput(f"the Flower client replies with {what}; reply with ArrayRecord(model.state_dict())")
    with torch.no_grad():
        for name, array in arrays.items():
            if tuple(array.shape) != tuple(own[name].shape):
                raise BadInput(
                    f"the Flower client returns {name!r} of shape {array.shape}, not {tuple(own[name].shape)}"
                )
            own[name].copy_(torch.from_numpy(array.copy()))
