"""One job on this machine as users run it, with what its processes took, as a line of JSON.

performance.py runs it with the Python of the build that it measures, this one or an earlier one, whose
`examples/demo.py` is in the tree that is named first. It asks nothing of that build but what both have.

    python benchmarks/performance_run.py TREE DATASET ROUNDS FOLDER
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAUSE = 0.05


@dataclass(slots=True)
class Took:
    """Of one role, its processes together."""

    peak: float = 0.0  # bytes: the most that all of its processes had together when they were looked at
    idle: float = 0.0  # bytes, as the first round opens
    cpu: float = 0.0  # seconds
    written: float = 0.0  # bytes that went to disk
    peaks: dict[int, int] = field(default_factory=dict)  # of each process, as the kernel kept it
    seconds: dict[int, tuple[float, float]] = field(default_factory=dict)  # of each: CPU, bytes written


class Watch:
    """Looks at processes until they are gone."""

    def __init__(self, roles: dict[str, int]) -> None:
        self.took = {name: Took() for name in roles}
        self._roles, self._over = roles, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def note_idle(self) -> None:
        for name, pid in self._roles.items():
            self.took[name].idle = sum(_of(each)["VmRSS"] for each in _tree(pid))

    def end(self) -> None:
        self._over.set()
        self._thread.join()
        for took in self.took.values():
            took.cpu, took.written = (sum(each) for each in zip(*took.seconds.values(), strict=True))

    def _run(self) -> None:
        while not self._over.wait(_PAUSE):
            for name, pid in self._roles.items():
                with suppress(OSError, ValueError, IndexError, KeyError):  # it has just ended
                    self._look(self.took[name], pid)

    def _look(self, took: Took, pid: int) -> None:
        together = 0
        for each in _tree(pid):
            found = _of(each)
            together += found["VmRSS"]
            took.peaks[each] = max(took.peaks.get(each, 0), found["VmHWM"])
            user, system = Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
            io = dict(line.split(": ") for line in Path(f"/proc/{each}/io").read_text().splitlines())
            took.seconds[each] = ((int(user) + int(system)) * _TICK, int(io["write_bytes"]))
        took.peak = max(took.peak, together)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from _tree(int(child))
        for thread in Path(f"/proc/{pid}/task").iterdir():
            if thread.name != str(pid):
                for child in (thread / "children").read_text().split():
                    yield from _tree(int(child))


def _of(pid: int) -> dict[str, int]:
    """Bytes, by the kernel's names."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[0] in ("VmRSS:", "VmHWM:")}


@dataclass(frozen=True, slots=True)
class Once:
    """A command that was run and has ended."""

    seconds: float
    cpu: float
    peak: float  # bytes


def measured(command: list[str], env: dict[str, str]) -> tuple[str, Once]:
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, env=env, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        said = out.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return said, Once(time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def run(tree: Path, dataset: str, rounds: int, folder: Path) -> dict[str, Any]:
    sys.path.insert(0, str(tree / "examples"))
    import demo

    kept: dict[str, Once] = {}

    class Stage(demo.Stage):  # type: ignore[misc, name-defined]
        def run(self, *arguments: str) -> str:
            said, kept[" ".join(arguments[:2])] = measured(self._command(arguments), self.env)
            return said

    console = Console(quiet=True)
    started = time.monotonic()
    with ExitStack() as stack:
        stage = Stage(dataset, stack, folder=folder, rounds=rounds)
        job = demo.set_the_stage(stage, dataset, "anvil")
        processes = [stage.spawn("coordinator", "coordinator", str(job))]
        for name in demo.NAMES[2:]:
            data = str(stage.data(name))
            processes.append(stage.spawn(name, "join", str(job), "--data", data, "--yes", stdout=subprocess.DEVNULL))
        roles = {name: each.pid for name, each in zip(demo.NAMES[1:], processes, strict=True)}
        watch = Watch(roles)
        threading.Thread(target=_note_when_open, args=(stage.env, job, watch), daemon=True).start()
        times, follower, _ = demo.watch(stage, job, processes, console)
        for process in processes:
            process.wait(120)
        watch.end()
        trained = time.monotonic()
        stage.run("audit", str(job))
        ended = time.monotonic()
        done = len(follower.job.history)
    ends = [times[number] for number in range(done)]
    return {
        "rounds": [after - before for before, after in pairwise(ends)],
        "first": ends[0] - times["opened"],
        "stage": times["opened"] - started,
        "training": ends[-1] - times["opened"],
        "home": trained - ends[-1],
        "whole": ended - started,
        "roles": {name: asdict(took) for name, took in watch.took.items()},
        "commands": {name: asdict(once) for name, once in kept.items()},
    }


def _note_when_open(env: dict[str, str], job: int, watch: Watch) -> None:
    """The coordinator has deposited its bond before the first round opens, and rests until somebody reveals."""
    from deepledger.protocol.chain.web3_ledger import connect
    from deepledger.protocol.types import JobId

    reader = connect(env["DEEPLEDGER_RPC_URL"], env["DEEPLEDGER_CONTRACT"])
    head = reader.head()
    while not any(type(event).__name__ == "RoundOpened" for event in reader.events(0, head.number, job=JobId(job))):
        head = reader.wait(head, timeout=1.0)
    watch.note_idle()


if __name__ == "__main__":
    tree, dataset, rounds, folder = sys.argv[1:]
    print(json.dumps(run(Path(tree).resolve(), dataset, int(rounds), Path(folder))))
