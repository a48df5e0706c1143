"""privacy attack: what an attacker would get out of this participant's update, before it is shared."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepledger.cli import leaks, show
from deepledger.cli.commands import command
from deepledger.cli.options import Chain, JobNumber, Json, Store, TaskPlaces, places
from deepledger.protocol.errors import BadInput
from deepledger.protocol.types import JobId, RoundNumber

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deepledger.node.attacks.laboratory import Attack
    from deepledger.protocol.blobs.store import BlobStore
    from deepledger.protocol.chain.events import JobTerms
    from deepledger.protocol.evaluation.task import Task, TaskSource
    from deepledger.protocol.formats.spec import JobSpec


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
    app.add_typer(group, name="privacy", help="Privacy. Example: deepledger privacy attack 1 --data mine.safetensors")
    group.callback()(lambda: None)  # a group, although it has only one command
    command(group, "attack")(attack)


def attack(
    job: JobNumber,
    data: Annotated[
        Path,
        typer.Option(envvar="DEEPLEDGER_DATA", metavar="PATH", help="Your data, as the task reads it; stays here."),
    ],
    chain: Chain,
    store: Store,
    tasks: TaskPlaces = "",
    task: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The task's source, which you have read; besides --tasks.")
    ] = None,
    attacks: Annotated[
        list[str] | None,
        typer.Option(
            "--attack", metavar="NAME", help=f"{', '.join(leaks.ATTACKS)}; repeat it for others. Default: all."
        ),
    ] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            "--beside",
            metavar="PATH",
            help="Data like yours that you do not train on; repeat it for others. Default: the job's validation set.",
        ),
    ] = None,
    participants: Annotated[
        int | None, typer.Option(min=2, max=64, help="In a sum. Default: the fewest that the job's sums have.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="As if the job had this hyperparameter, or participant_privacy.noise_multiplier; repeatable.",
        ),
    ] = None,
    shadows: Annotated[int, typer.Option(min=4, max=1000, help="Models that LiRA trains, an even number.")] = 16,
    plays: Annotated[
        int | None,
        typer.Option(
            min=9, max=1000, help="Updates from which shares are learned. Default: 24, or 4 for each in a sum."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of all that is drawn at random.")] = 0,
    to: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write pictures (SVG) of what is found.")] = None,
    json: Json = False,
) -> None:
    """Attack the update that your data would make of the job's newest model, before it is shared.

    It trains as the node would, and plays the attacker: against the update as open jobs and readers of sealed ones see
    it, and against a sum, as everybody sees it of masked ones. Nothing is committed to, nothing leaves this machine.

    Example: deepledger privacy attack 1 --data shard.safetensors --task examples/digits/task.py --to pictures
    """
    import torch

    from deepledger.node.attacks import laboratory, shares
    from deepledger.node.training import load_trainer
    from deepledger.protocol.evaluation.blueprint import from_store
    from deepledger.protocol.evaluation.task import find_source
    from deepledger.protocol.job.fetch import fetch_model, fetch_spec
    from deepledger.protocol.job.follow import Follower

    wanted = _wanted(attacks)
    if shadows % 2:
        raise BadInput(f"--shadows {shadows}: give an even number, since every half of the records has another one")
    if not data.exists():
        raise BadInput(f"there is no data at {data}: correct --data")
    changed = dict(_assigned(text) for text in changes or ())
    reader, blobs = chain.reader(), store.open()
    found = Follower(reader, JobId(job)).job
    spec = fetch_spec(blobs, found.terms)
    source = find_source(spec.task, ([task] if task else []) + places(tasks))
    torch.set_num_threads(1)  # small models train no faster with more
    trainer = laboratory.with_changes(load_trainer(spec, source, data, fetch=from_store(blobs)), changed)
    similar, kept = _beside(blobs, spec, source, trainer.task, beside or [], data)
    scene = laboratory.scene_of(
        trainer,
        fetch_model(blobs, found.model_digest, spec),
        similar,
        round=RoundNumber(min(found.round, found.terms.rounds - 1)),
        seed=seed,
    )
    among = participants or fewest(spec, found.terms)
    plays = plays or max(24, shares.APART * among)
    with _progress(laboratory.steps(wanted, shadows=shadows, plays=plays)) as advance:
        findings = laboratory.run(scene, wanted, participants=among, shadows=shadows, plays=plays, progress=advance)
    del kept
    pictures = [] if to is None else leaks.draw(findings, to)
    if json:
        show.as_json(leaks.as_json(findings, among) | {"pictures": [str(path) for path in pictures]})
        return
    leaks.tell(findings, trainer.spec, among)
    for path in pictures:
        show.note(f"drawn: {path}")
    if pictures:
        show.note("pictures show records of yours, and only you can read them (mode 0600): keep them here")


def fewest(spec: JobSpec, terms: JobTerms) -> int:
    """Participants in the smallest sum that becomes public."""
    if spec.masks is not None and spec.masks.groups > 1:
        return spec.masks.least
    return max(terms.min_participants, 2)


def _wanted(names: Sequence[str] | None) -> list[Attack]:
    from deepledger.node.attacks.laboratory import Attack

    unknown = [name for name in names or () if name not in leaks.ATTACKS]
    if unknown:
        raise BadInput(f"--attack {unknown[0]}: there is {', '.join(leaks.ATTACKS)}")
    return [Attack(name) for name in leaks.ATTACKS if not names or name in names]


def _assigned(text: str) -> tuple[str, Any]:
    from tomllib import TOMLDecodeError, loads

    name, is_there, value = text.partition("=")
    try:
        values = loads(f"value = {value}")
    except TOMLDecodeError:
        values = {}
    if not is_there or list(values) != ["value"]:
        raise BadInput(f"--set {text}: give a name and a value as in a job file, such as --set noise_multiplier=2.0")
    return name.strip(), values["value"]


def _beside(
    blobs: BlobStore, spec: JobSpec, source: TaskSource, task: Task, paths: Sequence[Path], own: Path
) -> tuple[Any, object]:
    """The data, and what has to live as long as they are used: their file is gone with it."""
    from deepledger.node.spending import fingerprint
    from deepledger.protocol.evaluation.bench import bench_with
    from deepledger.protocol.evaluation.blueprint import from_store
    from deepledger.protocol.evaluation.samples import concatenate
    from deepledger.protocol.evaluation.validation import fetch_validation

    if paths:
        known = {fingerprint(own): "your --data: what was trained on tells nothing of what was not"}
        for path in paths:
            if not path.exists():
                raise BadInput(f"there is no data at {path}: correct --beside")
            content = fingerprint(path)
            if content in known:
                raise BadInput(f"--beside {path} is {known[content]}. Give others")
            known[content] = f"--beside {path} again, whose records would count twice"
        return concatenate([task.load_data(path) for path in paths]), None
    if spec.validation.withheld is not None:
        raise BadInput(
            "the validation set is withheld until the job closes, and there are no other data that you do not train "
            "on: give some that are like yours with --beside"
        )
    published = fetch_validation(blobs, spec)
    if own.is_file() and own.stat().st_size == spec.validation.bytes and own.read_bytes() == published:
        raise BadInput(
            "your --data are the job's validation set: what was trained on tells nothing of what was not. Give others "
            "with --beside"
        )
    bench = bench_with(spec, source, published, fetch=from_store(blobs))
    return bench.validation, bench


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(disable=not sys.stderr.isatty(), console=Console(stderr=True)) as bar:
        number = bar.add_task("training the attacker's models", total=total)
        yield lambda: bar.advance(number)
