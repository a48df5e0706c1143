"""What a round costs besides training, and what an audit costs: python benchmarks/round_overhead.py [anvil|embedded]
[--mode masked]

The demo's job with four node processes. Overhead of a round = its length, as seen by a watcher of the chain, less the
slowest participant's training, as the nodes log it. The first round is left out: it includes torch's start-up.

The audit is that of the same job, in a process of its own; its start-up is what `import torch` takes there beside the
command line. It is set against the time that the participants spent training, all of them together.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import demo

START_UP = "import torch, deepledger.cli.main, deepledger.auditor.audit, deepledger.protocol.chain.web3_ledger"


@dataclass(frozen=True, slots=True)
class Figures:
    """Seconds."""

    overheads: list[float]  # of every round but the first
    training: float  # of all participants in all rounds
    audit: float  # the whole process
    start_up: float  # of such a process


def measure(kind: str, mode: str, console: Console) -> Figures:
    with ExitStack() as stack:
        stage = demo.Stage("digits", stack, mode=mode)
        job = demo.set_the_stage(stage, "digits", kind)
        processes = demo.start_roles(stage, job)
        times, follower, _ = demo.watch(stage, job, processes, console)
        for process in processes:
            process.wait(60)
        audit = least_seconds(lambda: stage.run("audit", str(job)))
        start_up = least_seconds(lambda: subprocess.run([sys.executable, "-c", START_UP], check=True))
    slowest, training = defaultdict[int, float](float), 0.0
    for name in demo.NAMES[2:]:
        log = (demo.FOLDER / f"{name}.log").read_text()
        for number, seconds in re.findall(r"round (\d+): trained in ([\d.]+) s", log):
            slowest[int(number)] = max(slowest[int(number)], float(seconds))
            training += float(seconds)
    rounds = range(1, len(follower.job.history))
    overheads = [times[number] - times[number - 1] - slowest[number] for number in rounds]
    return Figures(overheads, training=training, audit=audit, start_up=start_up)


def least_seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=["anvil", "embedded"], metavar="anvil|embedded")
    parser.add_argument("--mode", choices=["open", "masked"], action="append", help="both, one after the other")
    arguments = parser.parse_args()
    console = Console()
    for kind in arguments.kinds:
        for mode in arguments.mode or ["open", "masked"]:
            found = measure(kind, mode, console)
            work = found.audit - found.start_up
            console.print(
                f"{kind}, {mode}: overhead per round, seconds: median {statistics.median(found.overheads):.2f}, "
                f"least {min(found.overheads):.2f}, most {max(found.overheads):.2f}\n"
                f"{kind}, {mode}: audit {found.audit:.2f} s, of which start-up {found.start_up:.2f}, work {work:.2f}: "
                f"{work / found.training:.1%} of {found.training:.2f} s of training"
            )
