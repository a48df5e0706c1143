"""What a round costs besides training: python benchmarks/round_overhead.py [anvil|embedded]

The demo's job with four node processes. Overhead of a round = its length, as seen by a watcher of the chain, less the
slowest participant's training, as the nodes log it. The first round is left out: it includes torch's start-up.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import demo


def overheads(kind: str, console: Console) -> list[float]:
    with ExitStack() as stack:
        stage = demo.Stage("digits", stack)
        job = demo.set_the_stage(stage, "digits", kind)
        processes = [stage.spawn("coordinator", "coordinator", str(job))]
        for name in demo.NAMES[2:]:
            data = str(stage.data(name))
            processes.append(stage.spawn(name, "join", str(job), "--data", data, "--yes", stdout=subprocess.DEVNULL))
        times, follower, _ = demo.watch(stage, job, processes, console)
        for process in processes:
            process.wait(60)
    slowest: dict[int, float] = {}
    for name in demo.NAMES[2:]:
        for number, seconds in re.findall(
            r"round (\d+): trained in ([\d.]+) s", (demo.FOLDER / f"{name}.log").read_text()
        ):
            slowest[int(number)] = max(slowest.get(int(number), 0.0), float(seconds))
    rounds = range(1, len(follower.job.history))
    return [times[number] - times[number - 1] - slowest[number] for number in rounds]


if __name__ == "__main__":
    console = Console()
    for kind in sys.argv[1:] or ["anvil", "embedded"]:
        found = overheads(kind, console)
        console.print(
            f"{kind}: overhead per round, seconds: median {statistics.median(found):.2f}, "
            f"least {min(found):.2f}, most {max(found):.2f}"
        )
