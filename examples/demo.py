"""The whole of deepledger on one machine: python examples/demo.py [--dataset digits|breast-cancer|…] [--mode masked]

Everything runs as users run it, through the `deepledger` command, in processes of their own: a chain, a coordinator,
four participants with data of their own, and at the end an auditor who has only the chain and the blob store.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent / ".demo"
PARTICIPANTS = 4
NAMES = ["sponsor", "coordinator", *(f"participant-{number}" for number in range(PARTICIPANTS))]
ACTIONS = {
    "JobCreated": "create the job",
    "Joined": "join",
    "BondPosted": "post the bond",
    "Committed": "commit",
    "Revealed": "reveal",
    "CommittedMasked": "commit, masked",
    "Counted": "count",
    "Unmasked": "unmask",
    "Settled": "settle",
    "Left": "leave",
    "BondReleased": "release the bond",
    "Withdrawn": "withdraw",
}  # by the first event of the transaction
SCRYPT_N = 4096  # the demo's keys are public, so that its keystores need not be slow to open


class Stage:
    """Folders, environment and processes of one demo."""

    def __init__(
        self, dataset: str, stack: ExitStack, *, folder: Path = FOLDER, rounds: int = 10, mode: str = "open"
    ) -> None:
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(HERE / dataset, folder / "job", ignore=shutil.ignore_patterns("data", "__pycache__"))
        self.job_file = folder / "job" / "job.toml"
        text = re.sub(r"(?m)^min_participants = \d+", f"min_participants = {PARTICIPANTS}", self.job_file.read_text())
        text = re.sub(r"(?m)^rounds = \d+", f"rounds = {rounds}", text)
        self.job_file.write_text(text if mode == "open" else hidden(text, mode))
        self.task = folder / "job" / "task.py"
        named = {name: value for name, value in os.environ.items() if not name.startswith("DEEPLEDGER_")}
        self.env = named | {
            "DEEPLEDGER_HOME": str(folder / "home"),
            "DEEPLEDGER_STORE": str(folder / "store"),
            "DEEPLEDGER_TASKS": str(self.task),
            "DEEPLEDGER_PASSWORD": secrets.token_urlsafe(),
            "OMP_NUM_THREADS": "1",
        }
        self._stack = stack

    def run(self, *arguments: str) -> str:
        done = self.call(*arguments)
        if done.returncode:
            raise SystemExit(f"deepledger {' '.join(arguments)} failed: {done.stderr.strip()}")
        return done.stdout

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self._command(arguments), env=self.env, capture_output=True, text=True)

    def spawn(self, name: str, *arguments: str, log: str = "", **options: Any) -> subprocess.Popen[str]:
        file = self._stack.enter_context((self.folder / f"{log or name}.log").open("w"))
        process = subprocess.Popen(
            self._command(arguments), env=self.env | {"DEEPLEDGER_ACCOUNT": name}, stderr=file, text=True, **options
        )
        self._stack.callback(end, process)
        return process

    def data(self, name: str) -> Path:
        return self.folder / "job" / "data" / f"{name}.safetensors"

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [str(Path(sys.executable).parent / "deepledger"), *arguments]


def hidden(job_file: str, mode: str) -> str:
    """The same job, of whose updates only sums are seen: paid by samples where it was paid by contribution, which sums
    do not show.
    """
    kept = re.sub(r"(?ms)^\[(rewards|screening|aggregation)\].*?(?=^\[)", "", job_file)
    rules = '[aggregation]\nrule = "weighted_mean"\n\n[rewards]\npolicy = "samples"\n\n'
    rules += '[masks]\nkeys = "x25519+mlkem768"\n\n' * (mode == "hybrid")
    privacy = "encrypted" if mode == "encrypted" else "masked"
    return kept.replace("[model]", f'privacy = "{privacy}"\n\n{rules}[model]', 1)


def end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", choices=["digits", "breast-cancer", "diabetes"], default="digits")
    parser.add_argument(
        "--mode",
        choices=["open", "masked", "hybrid", "encrypted"],
        default="open",
        help="masked: nobody sees single updates; hybrid: nor does a quantum computer to come; encrypted: updates are "
        "encrypted, and only their sum is decrypted",
    )
    parser.add_argument("--view", action="store_true", help="show it in a browser, too, and stay until interrupted")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where everything is; emptied first")
    arguments = parser.parse_args()
    dataset = arguments.dataset
    if arguments.mode == "encrypted":
        from deepledger.protocol.bfv.program import program
        from deepledger.protocol.errors import BadInput

        try:
            program()
        except BadInput as error:
            raise SystemExit(str(error)) from None
    console = Console()
    started = time.monotonic()
    with ExitStack() as stack:
        try:
            stage = Stage(dataset, stack, folder=arguments.folder, mode=arguments.mode)
        except OSError as error:
            raise SystemExit(f"cannot write to {arguments.folder}: {error}; choose another --folder") from None
        with console.status("chain, contract, accounts, data, job …"):
            job = set_the_stage(stage, dataset)
        console.print(f"job {job} on the {stage.env['KIND']} chain; logs are in {stage.folder}")
        if arguments.view:
            dashboard = stage.spawn("dashboard", "dashboard", "--port", "0", stdout=subprocess.PIPE)
            console.print(first_line(dashboard, stage))
        processes = start_roles(stage, job, in_turn=arguments.mode == "hybrid")
        times, follower, reader = watch(stage, job, processes, console)
        for process in processes:
            process.wait(60)
        trained = time.monotonic()
        with console.status("an auditor re-derives the run …"):
            begun = time.monotonic()
            done = stage.call("audit", str(job), "--json")
            audit_seconds = time.monotonic() - begun
        audit = json.loads(done.stdout) if done.stdout else {"matches": False, "findings": [], "error": done.stderr}
        with console.status("the same training without deepledger …"):
            plain = train_without_deepledger(stage, follower.job)
        summarise(console, follower, reader, times, audit, plain)
        console.print(
            f"\nset the stage in {times['opened'] - started:.1f} s, {follower.job.terms.rounds} rounds in "
            f"{trained - times['opened']:.1f} s, audited in {audit_seconds:.1f} s (start-up included)"
        )
        if done.returncode or not audit["matches"]:
            raise SystemExit(f"the audit failed: {done.stderr or audit['findings']}")
        console.print(Text("Everything matches: whoever has the chain and the blobs gets this model.", "bold green"))
        if follower.job.terms.masked:
            masked = sum(len(over.opened.commits) for over in follower.job.history)
            console.print(
                f"Everybody may read the {masked} updates, and learns of them the sum of each round only: "
                "docs/privacy.md says from whom that hides, and from whom not."
            )
        console.print(
            f"The chain ends with the demo; its logs and blobs stay in {stage.folder}. README.md shows a job to keep."
        )
        if arguments.view:
            console.print("The page stays until the demo is interrupted.")
            with suppress(KeyboardInterrupt):
                dashboard.wait()


def set_the_stage(stage: Stage, dataset: str, kind: str = "embedded") -> int:
    from deepledger.devnet import dev_accounts
    from deepledger.protocol.local.keystore import import_key

    devnet = stage.spawn("devnet", "devnet", "--kind", kind, "--port", "0", stdout=subprocess.PIPE)
    for number, name in enumerate(NAMES):
        key = dev_accounts()[number].key.hex()
        import_key(stage.folder / "home" / "accounts", name, key, stage.env["DEEPLEDGER_PASSWORD"], iterations=SCRYPT_N)
    subprocess.run(
        [sys.executable, HERE / dataset / "prepare.py", "--into", stage.folder / "job" / "data",
         "--participants", str(PARTICIPANTS)], check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    first = first_line(devnet, stage)  # "embedded devnet on http://…, chain id …"
    stage.env["KIND"] = first.split()[0]
    stage.env["DEEPLEDGER_RPC_URL"] = first.split(" on ", 1)[1].split(",")[0]
    stage.env["DEEPLEDGER_CONTRACT"] = stage.run("deploy", "--account", "sponsor").strip()
    coordinator = dev_accounts()[1].address
    options = ("--account", "sponsor", "--coordinator", coordinator, "--json")
    return int(json.loads(stage.run("job", "create", str(stage.job_file), *options))["job"])


def first_line(process: subprocess.Popen[str], stage: Stage) -> str:
    """What a server says once it serves."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if " on http" not in line:
        raise SystemExit(f"{' '.join(map(str, process.args))} did not start, see the logs in {stage.folder}")
    return line.strip()


def until_seated(stage: Stage, job: int, participants: int) -> None:
    from deepledger.protocol.chain.web3_ledger import connect
    from deepledger.protocol.job.follow import Follower
    from deepledger.protocol.types import JobId

    follower = Follower(connect(stage.env["DEEPLEDGER_RPC_URL"], stage.env["DEEPLEDGER_CONTRACT"]), JobId(job))
    end = time.monotonic() + 60
    while len(follower.job.participants) < participants:
        if time.monotonic() > end:
            raise SystemExit(f"only {len(follower.job.participants)} participants have joined, see {stage.folder}")
        follower.update(timeout=1.0)


def start_roles(stage: Stage, job: int, *, in_turn: bool = False) -> list[subprocess.Popen[str]]:
    """The coordinator and all participants. `in_turn`: with hybrid keys, who joins at once joins twice, and a round
    that has opened waits.
    """
    processes = [stage.spawn("coordinator", "coordinator", str(job))]
    for name in NAMES[2:]:
        data = str(stage.data(name))
        processes.append(stage.spawn(name, "join", str(job), "--data", data, "--yes", stdout=subprocess.DEVNULL))
        if in_turn:
            until_seated(stage, job, len(processes) - 1)
    return processes


def watch(
    stage: Stage, job: int, processes: list[subprocess.Popen[str]], console: Console
) -> tuple[dict[Any, Any], Any, Any]:
    """The live view: whatever it shows, it has read from the chain and the blob store."""
    from deepledger.protocol.blobs import open_store
    from deepledger.protocol.chain.web3_ledger import connect
    from deepledger.protocol.formats.report import MAX_REPORT_BYTES, parse_report
    from deepledger.protocol.job.fetch import fetch_spec
    from deepledger.protocol.job.follow import Follower
    from deepledger.protocol.types import JobId

    reader = connect(stage.env["DEEPLEDGER_RPC_URL"], stage.env["DEEPLEDGER_CONTRACT"])
    store = open_store(stage.env["DEEPLEDGER_STORE"])
    follower = Follower(reader, JobId(job))
    times: dict[Any, Any] = {}
    spec = fetch_spec(store, follower.job.terms)
    results: list[str] = []
    bar = Progress(TextColumn("rounds"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console)
    rounds = bar.add_task("rounds", total=follower.job.terms.rounds)
    with Live(console=console, refresh_per_second=8) as live:
        while follower.job.outcome is None:
            now = follower.update(timeout=1.0)
            if now.attempt is not None:
                times.setdefault("opened", time.monotonic())
            for over in now.history[len(results) :]:
                times[over.opened.round] = time.monotonic()
                report = parse_report(store.read(over.settled.report_digest, limit=MAX_REPORT_BYTES))
                results.append(figure(spec, report.evaluation))
            bar.update(rounds, completed=len(now.history))
            live.update(Group(bar, _state(follower, spec, results)))
            failed = [process for process in processes if process.poll() not in (None, 0)]
            if failed and now.outcome is None:
                raise SystemExit(f"{' '.join(map(str, failed[0].args))} failed, see the logs in {stage.folder}")
    console.print()
    times["results"] = results
    return times, follower, reader


def figure(spec: Any, evaluation: Any) -> str:
    """A result by the metric that tells most of the job's model."""
    from deepledger.protocol.formats.evaluation import figure, values

    return figure(spec.headline, values(evaluation, spec.validation.metrics)[spec.headline])


def heading(spec: Any) -> str:
    from deepledger.api.agreement import heading

    return heading(spec.headline, spec.validation.metrics[spec.headline])


def _state(follower: Any, spec: Any, results: list[str]) -> Table:
    from deepledger.protocol.job.state import Attempt

    job, attempt = follower.job, follower.job.attempt
    table = Table(box=None, header_style="dim")
    for column in ("participant", "seat", "samples", "committed", "released" if job.terms.masked else "revealed"):
        table.add_column(column)
    for name, seat in sorted((names()[address], seat) for address, seat in job.participants.items()):
        over = job.outcome is not None
        done = ["✓" if over or (attempt and has(attempt, seat.address)) else "·" for has in
                (Attempt.has_committed, Attempt.has_revealed)]  # fmt: skip
        table.add_row(name, str(seat.seat), str(seat.samples), *done)
    table.caption = f"{follower.phase().name.lower()}   {heading(spec)} {' '.join(results[-6:])}"
    table.caption_justify = "left"
    return table


def names() -> dict[str, str]:
    from deepledger.devnet import dev_accounts

    known = zip((account.address for account in dev_accounts()), NAMES, strict=False)
    return defaultdict(lambda: "?", known)


def train_without_deepledger(stage: Stage, job: Any) -> tuple[Any, list[str]]:
    """The job's spec, and what federated averaging in floats comes to, with the same task, data, seeds and order."""
    import numpy as np
    import torch

    from deepledger.node.training import training_seed
    from deepledger.protocol.blobs import open_store
    from deepledger.protocol.evaluation.state_dict import read_floats, write_floats
    from deepledger.protocol.evaluation.task import Task, read_source
    from deepledger.protocol.job.fetch import fetch_spec

    torch.set_num_threads(1)
    spec = fetch_spec(open_store(stage.env["DEEPLEDGER_STORE"]), job.terms)
    task = Task(read_source(stage.task))
    module = task.build_model(spec.training.seed)
    validation = task.load_data(stage.data("validation"))
    owners = {address: name for address, name in names().items() if "participant" in name}
    shards = {address: task.load_data(stage.data(name)) for address, name in owners.items()}
    model = read_floats(module).astype(np.float64)
    results = []
    for over in job.history:
        total, change = 0, np.zeros_like(model)
        for address, shard in shards.items():
            write_floats(module, model.astype(np.float32))
            seed = training_seed(spec, over.opened.round, attempt=0, participant=address)
            task.train(module, shard, round=over.opened.round, seed=seed, hyperparameters=spec.training.hyperparameters)
            change += len(shard) * (read_floats(module) - model)
            total += len(shard)
        model += change / total
        write_floats(module, model.astype(np.float32))
        results.append(figure(spec, task.evaluate(module, validation, seed=spec.training.seed)))
    return spec, results


def summarise(
    console: Console,
    follower: Any,
    reader: Any,
    times: dict[Any, Any],
    audit: dict[str, Any],
    plain: tuple[Any, list[str]],
) -> None:
    from deepledger.cli import show
    from deepledger.protocol.chain.events import JobEnded
    from deepledger.protocol.settlement.rewards import pay
    from deepledger.protocol.types import Wei

    job = follower.job
    spec, without = plain
    title = f"{heading(spec)} per round, and what federated averaging in floats comes to without it"
    table = Table(title=title, title_justify="left", box=None, header_style="dim")
    for column in ("round", "deepledger", "without", "seconds"):
        table.add_column(column, justify="right")
    last = times["opened"]
    for number, (ours, theirs) in enumerate(zip(times["results"], without, strict=True)):
        table.add_row(str(number), ours, theirs, f"{times[number] - last:.2f}")
        last = times[number]
    console.print(table)

    events = reader.events(0, reader.head().number, job=job.job)
    earned: Counter[str] = Counter()
    for over in job.history:
        earned.update({address: paid.amount for address, paid in pay(over).items() if paid.amount})
    gas: dict[str, list[int]] = defaultdict(list)
    seen = set()
    for event in events:
        if isinstance(event, JobEnded) and event.refund:
            earned[job.created.sponsor] += event.refund
        if event.at.transaction not in seen:
            seen.add(event.at.transaction)
            receipt = reader.rpc.call("eth_getTransactionReceipt", event.at.transaction)
            gas[type(event).__name__].append(int(receipt["gasUsed"], 16))
    table = Table(title="\nwho earned what", title_justify="left", box=None, header_style="dim")
    table.add_column("who")
    table.add_column("amount", justify="right")
    for address, amount in sorted(earned.items(), key=lambda item: names()[item[0]]):
        sponsor = address == job.created.sponsor
        table.add_row(names()[address] + (", back" if sponsor else ""), show.eth(Wei(amount)))
    console.print(table)
    table = Table(title="\ngas per action", title_justify="left", box=None, header_style="dim")
    for column in ("action", "how many", "least", "most"):
        table.add_column(column, justify="left" if column == "action" else "right")
    for name, used in gas.items():
        table.add_row(ACTIONS.get(name, name), str(len(used)), f"{min(used):,}", f"{max(used):,}")
    console.print(table)
    console.print(
        f"\naudit: {audit.get('rounds_derived', 0)} of {len(job.history)} rounds derived again from "
        f"{audit.get('blobs', 0)} blobs; evaluation {audit.get('evaluation')}; findings: {len(audit['findings'])}"
    )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
