"""A job that survives everything being killed: python benchmarks/chaos.py [--rounds 20] [--kills 200] [--mode hybrid]

The demo's job on anvil and Kubo (or, where they are not installed, on the embedded chain and a folder). Again and again
something happens to it at a random moment: a SIGKILL for the coordinator, a node or Kubo, which is started again at
once; or for seconds the chain's RPC does one of what public nodes do (tests/services/faulty_proxy.py): it drops every
connection, lacks logs, lags, loses answers, throttles, refuses. In the end everybody must be where an undisturbed run
would have brought them:

- the audit, a process with only the chain and the blobs, matches;
- no wei is missing: the contract holds nothing once all have gone home;
- no committed update is lost: every commitment was revealed (masked: counted and unmasked), and nobody paid a penalty.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / place) for place in ("examples", "tests/services")]
import demo  # noqa: E402
import faulty_proxy as faults  # noqa: E402
import kubo_daemon  # noqa: E402

LONGEST_FAULT = 4.0  # seconds


def outage() -> faults.Fault:
    """Every connection is dropped."""

    def meet(*_: object) -> None:
        raise faults.Dropped

    return faults.Fault("outage", meet)


FAULTS: tuple[Callable[[], faults.Fault], ...] = (
    outage,
    lambda: faults.lacking_logs(times=4, by_hash=True),
    lambda: faults.behind(1, times=6),
    lambda: faults.behind(3, times=6),
    lambda: faults.stale_count(times=2),
    lambda: faults.losing_answers(times=1),
    lambda: faults.answering(429, times=5, Retry_After="1"),
    lambda: faults.answering(503, times=4),
    lambda: faults.answering(413, method="eth_getLogs", times=2),
    lambda: faults.narrow(3, message="eth_getLogs is limited to a 3 block range"),
    lambda: faults.null("eth_getTransactionReceipt", times=5),
    faults.without_pending,
    faults.standing_still,
    faults.no_receipts_of_blocks,
)
"""What the node of everybody suffers from, one at a time, each for a while."""


@dataclass
class Cast:
    """The processes of a job, each with the command that starts it again."""

    stage: demo.Stage
    job: int
    running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    starts: Counter[str] = field(default_factory=Counter)
    gave_up: Counter[tuple[str, int]] = field(default_factory=Counter)  # with which exit code

    def start(self, name: str) -> None:
        arguments = ["coordinator", str(self.job)]
        if name != "coordinator":
            arguments = ["join", str(self.job), "--data", str(self.stage.data(name)), "--yes"]
        self.starts[name] += 1
        log = f"{name}.{self.starts[name]}"
        self.running[name] = self.stage.spawn(name, *arguments, log=log, stdout=subprocess.DEVNULL)

    def supervise(self) -> None:
        """Start again what found no chain or no store when it began, as compose and systemd do."""
        for name, process in list(self.running.items()):
            if process.poll() not in (None, 0):
                self.gave_up[name, process.returncode] += 1
                self.start(name)

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running[name].wait()
        self.start(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--kills", type=int, default=200, help="stop killing after so many")
    parser.add_argument("--faults", type=float, default=0.4, help="the share of blows that are the chain node's faults")
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between two blows, on the average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mode", choices=["open", "masked", "hybrid"], default="open")
    parser.add_argument("--folder", type=Path, default=demo.FOLDER)
    arguments = parser.parse_args()
    console = Console()
    with ExitStack() as stack:
        stage = demo.Stage("digits", stack, folder=arguments.folder, rounds=arguments.rounds, mode=arguments.mode)
        kubo = kubo_daemon.find_kubo()
        daemon = stack.enter_context(kubo_daemon.run_kubo(stage.folder, binary=kubo)) if kubo else None
        if daemon is not None:
            stage.env["DEEPLEDGER_STORE"] = daemon.api
        job = demo.set_the_stage(stage, "digits", "auto")
        direct = stage.env["DEEPLEDGER_RPC_URL"]
        proxy = stack.enter_context(faults.faulty_proxy(direct))
        stage.env["DEEPLEDGER_RPC_URL"] = proxy.url
        cast = Cast(stage, job)
        for name in demo.NAMES[1:]:
            cast.start(name)
        blows, follower = strike(arguments, console, stage, cast, proxy, daemon, direct)
        for process in cast.running.values():
            process.wait(120)
        stage.env["DEEPLEDGER_RPC_URL"] = direct
        wrong = [*lost_updates(follower), *missing_wei(stage, follower)]
        audit = stage.call("audit", str(job))
    outcome = follower.job.outcome.name.lower()
    console.print(f"processes that ended by themselves and were started again: {dict(cast.gave_up)}")
    console.print(f"{follower.job.round} of {arguments.rounds} rounds settled, {outcome}; blows: {dict(blows)}")
    console.print(f"audit: exit status {audit.returncode}; {len(wrong)} other complaints {wrong}")
    if audit.returncode or wrong or follower.job.round != arguments.rounds:
        raise SystemExit(f"chaos won: {audit.stdout[-2000:]}{audit.stderr}")


def strike(
    arguments: argparse.Namespace,
    console: Console,
    stage: demo.Stage,
    cast: Cast,
    proxy: faults.FaultyProxy,
    daemon: kubo_daemon.KuboDaemon | None,
    direct: str,
) -> tuple[Counter[str], Any]:
    """Deal blows until the job is over."""
    from deepledger.protocol.chain.web3_ledger import connect
    from deepledger.protocol.job.follow import Follower
    from deepledger.protocol.types import JobId

    dice = random.Random(arguments.seed)
    follower = Follower(connect(direct, stage.env["DEEPLEDGER_CONTRACT"]), JobId(cast.job))
    blows: Counter[str] = Counter()
    victims = [*cast.running, *(["kubo"] if daemon else [])]
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        rounds = progress.add_task("rounds", total=arguments.rounds)
        kills = progress.add_task("kills", total=arguments.kills)
        while follower.update(timeout=dice.expovariate(1 / arguments.pause)).outcome is None:
            killed = sum(blows[victim] for victim in victims)
            progress.update(rounds, completed=follower.job.round)
            progress.update(kills, completed=killed)
            cast.supervise()
            if killed >= arguments.kills:
                continue
            if dice.random() < arguments.faults:
                proxy.faults = [dice.choice(FAULTS)()]
                blows[proxy.faults[0].name] += 1
                time.sleep(dice.uniform(0.5, LONGEST_FAULT))
                proxy.faults = []
                continue
            victim = dice.choice(victims)
            blows[victim] += 1
            if victim == "kubo" and daemon is not None:
                daemon.stop(kill=True)
                daemon.start()
            elif cast.running[victim].poll() is None:
                cast.kill(victim)
        progress.update(rounds, completed=follower.job.round)
    return blows, follower


def lost_updates(follower: Any) -> list[str]:
    lost = []
    for over in follower.job.history:
        revealed = {reveal.participant for reveal in over.opened.reveals}
        lost += [
            f"round {over.opened.round}: {commit.participant} did not reveal"
            for commit in over.opened.commits
            if commit.participant not in revealed
        ]
    return lost


def missing_wei(stage: demo.Stage, follower: Any) -> list[str]:
    """Once everybody has withdrawn, the contract has what it owes the sponsor and nothing else."""
    from deepledger.protocol.chain.web3_ledger import connect

    reader = connect(stage.env["DEEPLEDGER_RPC_URL"], stage.env["DEEPLEDGER_CONTRACT"])
    held, owed = reader.balance(reader.address), reader.credit(follower.job.job, follower.job.created.sponsor)
    return [] if held == owed else [f"the contract holds {held} wei and owes the sponsor {owed}"]


if __name__ == "__main__":
    main()
