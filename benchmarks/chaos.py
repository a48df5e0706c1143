"""A job that survives everything being killed: python benchmarks/chaos.py [--rounds 20] [--kills 200] [--seed 0]

The demo's job on anvil and Kubo (or, where they are not installed, on the embedded chain and a folder). Again and again
something happens to it at a random moment: a SIGKILL for the coordinator, a node or Kubo, which is started again at
once; or the chain's RPC drops every connection and refuses new ones for seconds. In the end everybody must be where an
undisturbed run would have brought them:

- the audit, a process with only the chain and the blobs, matches;
- no wei is missing: the contract holds nothing once all have gone home;
- no committed update is lost: every commitment was revealed, and nobody paid a penalty.
"""

from __future__ import annotations

import argparse
import random
import select
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / place) for place in ("examples", "tests/services")]
import demo  # noqa: E402
import kubo_daemon  # noqa: E402

LONGEST_OUTAGE = 4.0  # seconds


class Proxy:
    """A TCP relay to the chain that can be cut."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._cut = threading.Event()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, seconds: float) -> None:
        """Drop every connection and whatever comes in the meantime."""
        self._cut.set()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        time.sleep(seconds)
        self._cut.clear()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._cut.is_set():
                connection.close()
            else:
                threading.Thread(target=self._relay, args=(connection,), daemon=True).start()

    def _relay(self, near: socket.socket) -> None:
        with near, suppress(OSError), socket.create_connection(self._target) as far:
            self._open |= {near, far}
            other = {near: far, far: near}
            while not self._cut.is_set():
                for source in select.select([near, far], [], [])[0]:
                    if not (data := source.recv(1 << 16)):
                        return
                    other[source].sendall(data)
        self._open -= {near}


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
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between two blows, on the average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=demo.FOLDER)
    arguments = parser.parse_args()
    console = Console()
    with ExitStack() as stack:
        stage = demo.Stage("digits", stack, folder=arguments.folder, rounds=arguments.rounds)
        kubo = kubo_daemon.find_kubo()
        daemon = stack.enter_context(kubo_daemon.run_kubo(stage.folder, binary=kubo)) if kubo else None
        if daemon is not None:
            stage.env["DEEPLEDGER_STORE"] = daemon.api
        job = demo.set_the_stage(stage, "digits", "auto")
        direct = stage.env["DEEPLEDGER_RPC_URL"]
        proxy = Proxy((urlsplit(direct).hostname or "", urlsplit(direct).port or 0))
        stage.env["DEEPLEDGER_RPC_URL"] = f"http://127.0.0.1:{proxy.port}"
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
    proxy: Proxy,
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
    victims = [*cast.running, *(["kubo"] if daemon else []), "rpc"]
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        rounds = progress.add_task("rounds", total=arguments.rounds)
        kills = progress.add_task("kills", total=arguments.kills)
        while follower.update(timeout=dice.expovariate(1 / arguments.pause)).outcome is None:
            killed = blows.total() - blows["rpc"]
            progress.update(rounds, completed=follower.job.round)
            progress.update(kills, completed=killed)
            cast.supervise()
            if killed >= arguments.kills:
                continue
            victim = dice.choice(victims)
            blows[victim] += 1
            if victim == "rpc":
                proxy.cut(dice.uniform(0.5, LONGEST_OUTAGE))
            elif victim == "kubo" and daemon is not None:
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
