"""How fast and how lean: this build, an earlier one and Flower, in turns: python benchmarks/performance.py [--only ROW]

    large   100 million coordinates, four participants whose training adds noise: a round, peak memory, the audit
    medium  10 million coordinates: a round, beside Flower's simulation
    small   a perceptron on the digits, one epoch: a round, beside Flower's simulation
    cold    ten rounds of that with all that comes before and after, beside Flower's simulation as a whole command
    rest    how often a coordinator asks its RPC node while nobody has joined

Everything runs as users run it, on this machine: ours with node processes on anvil, chain, blobs and settlement
included; Flower 1.42 simulated (no network, no chain) or, for `large`, deployed (SuperLink and four SuperNodes). The
earlier build, of which `--base` names the commit, gets a worktree and an environment of its own, and so does Flower. Of
rounds all but the first count. Take a quiet machine for times; memory, CPU seconds and bytes written mind noise little.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import secure_aggregation as peer
from counting_proxy import CountingProxy
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
TREE = HERE.parent
BASE = "6cd8e91"
MODEL = 4  # bytes of a coordinate
LARGE, MEDIUM = 100_000_000, 10_000_000
TORCH = "import torch, resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
REST = 60.0  # seconds that a coordinator is left alone before it is looked at, and looked at


@dataclass(frozen=True, slots=True)
class Build:
    name: str
    tree: Path
    python: Path

    def run(self, dataset: str, rounds: int, folder: Path) -> dict[str, Any]:
        """What `performance_run.run` found."""
        command = [self.python, HERE / "performance_run.py", self.tree, dataset, str(rounds), folder / "run"]
        with (folder / "log").open("w") as log:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, env=_alone(), check=False)
        if done.returncode:
            raise SystemExit(f"{self.name} failed: {(folder / 'log').read_text()[-2000:]}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    @property
    def torch(self) -> int:
        """Bytes that a process has at most which only imports torch."""
        return int(subprocess.run([self.python, "-c", TORCH], capture_output=True, text=True, check=True).stdout)


def _alone() -> dict[str, str]:
    """An environment in which four participants on one machine do not fight for its cores."""
    return os.environ | {"OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}


@contextmanager
def earlier(commit: str, folder: Path) -> Iterator[Build]:
    """A build of a commit of this repository, in an environment of its own; or one that is in a folder already."""
    if Path(commit).is_dir():
        yield Build("base", Path(commit).resolve(), Path(commit).resolve() / ".venv/bin/python")
        return
    tree, uv = folder / "base", Path(sys.executable).parent / "uv"
    subprocess.run(["git", "-C", TREE, "worktree", "add", "--quiet", "--detach", tree, commit], check=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", tree / ".venv"], check=True)
        python = tree / ".venv/bin/python"
        install = [uv, "pip", "install", "--quiet", "--python", python, "-c", "constraints.txt", "-e", ".[dev]"]
        subprocess.run(install, cwd=tree, check=True)
        (tree / "tests/services/bin").symlink_to(TREE / "tests/services/bin")
        yield Build(commit, tree, python)
    finally:
        subprocess.run(["git", "-C", TREE, "worktree", "remove", "--force", tree], check=True)


def noise(folder: Path, coordinates: int) -> str:
    """A job in which training adds noise, in a folder of its own, which the stage copies. Its windows have room for the
    slowest machine.
    """
    folder = folder / "noise"
    folder.mkdir(exist_ok=True)
    job = (TREE / "examples/digits/job.toml").read_text()
    job = re.sub(r"(?ms)^\[training.hyperparameters\].*?(?=^\[)", "[training.hyperparameters]\n\n", job)
    job = re.sub(r"(?m)^norm_bound = \S+", f"norm_bound = {0.02 * coordinates**0.5}", job)
    job = re.sub(r"(?m)^(commit|reveal|settle)_window = \d+", r"\1_window = 3600", job)
    (folder / "job.toml").write_text(job)
    (folder / "task.py").write_text(peer.TASK.format(coordinates=coordinates))
    (folder / "prepare.py").write_text(peer.PREPARE)
    return str(folder)


PERCEPTRON = """def build_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
"""
COPY = """
import shutil
import sys

shutil.copytree({data!r}, sys.argv[sys.argv.index("--into") + 1])
"""


def perceptron(folder: Path) -> str:
    """The example with a smaller network and one epoch, so that training takes next to nothing, and with data that are
    there already, as Flower's are.
    """
    data, folder = folder / "digits", folder / "perceptron"
    prepare = [sys.executable, TREE / "examples/digits/prepare.py", "--into", data, "--participants", "4"]
    subprocess.run(prepare, check=True, stdout=subprocess.DEVNULL)
    folder.mkdir()
    job = (TREE / "examples/digits/job.toml").read_text()
    given = "[training.hyperparameters]\nepochs = 1\nbatch_size = 32\nlearning_rate = 0.1\nmomentum = 0.0\n\n"
    (folder / "job.toml").write_text(re.sub(r"(?ms)^\[training.hyperparameters\].*?(?=^\[)", given, job))
    task = (TREE / "examples/digits/task.py").read_text()
    (folder / "task.py").write_text(re.sub(r"(?ms)^def build_model.*?(?=^\n\ndef )", PERCEPTRON, task))
    (folder / "prepare.py").write_text(COPY.format(data=str(data)))
    return str(folder)


class Found:
    """Figures by name and by who they are of, over all turns."""

    def __init__(self) -> None:
        self.of: dict[str, dict[str, list[float]]] = {}

    def add(self, figure: str, who: str, *values: float) -> None:
        self.of.setdefault(figure, {}).setdefault(who, []).extend(values)

    def table(self, this: str) -> Table:
        table = Table("figure", "of", "median", "least", "most", "this build / it", box=None)
        for figure, each in self.of.items():
            mine = statistics.median(each[this])
            for who, values in each.items():
                middle = statistics.median(values)
                ratio = f"{mine / middle:.2f}" if middle else "—"
                table.add_row(figure, who, *(f"{value:.2f}" for value in (middle, min(values), max(values))), ratio)
        return table


def large(builds: list[Build], flower: Path | None, folder: Path, found: Found) -> None:
    models = LARGE * MODEL
    for build in builds:
        got = build.run(noise(folder, LARGE), 4, _empty(folder, build.name))
        torch = build.torch
        found.add("a round, s", build.name, *got["rounds"])
        _add_roles(found, build.name, got, models=models, torch=torch)
        found.add("audit / training and rounds", build.name, got["commands"]["audit 1"]["seconds"] / got["training"])
        found.add("audit, s of CPU", build.name, got["commands"]["audit 1"]["cpu"])
    if flower is not None:
        env = _alone() | {"PLAIN": "1", "COORDINATES": str(LARGE), "ROUNDS": "3"}
        found.add("a round, s", "Flower, deployed", *peer.flower_deployed(flower, env, _empty(folder, "deployed")))


def _add_roles(found: Found, name: str, got: dict[str, Any], *, models: int, torch: int) -> None:
    coordinator = got["roles"]["coordinator"]
    nodes = [took for role, took in got["roles"].items() if role != "coordinator"]
    found.add("a node's peak above torch's, models", name, *((took["peak"] - torch) / models for took in nodes))
    first = min(coordinator["peaks"], key=int)  # the processes that evaluate are started by it
    found.add("coordinator and what evaluates: peak above idle, models", name,
              (coordinator["peak"] - coordinator["idle"]) / models)  # fmt: skip
    found.add("coordinator alone: peak, models", name, coordinator["peaks"][first] / models)
    found.add("job create's peak above torch's, models", name, (got["commands"]["job create"]["peak"] - torch) / models)
    found.add("a node's CPU, s a round", name, *(took["cpu"] / (len(got["rounds"]) + 1) for took in nodes))
    found.add("coordinator's CPU, s a round", name, coordinator["cpu"] / (len(got["rounds"]) + 1))
    written = sum(took["written"] for took in got["roles"].values())
    found.add("bytes written a round, models", name, written / models / (len(got["rounds"]) + 1))


def medium(builds: list[Build], flower: Path | None, folder: Path, found: Found) -> None:
    for build in builds:
        got = build.run(noise(folder, MEDIUM), 8, _empty(folder, build.name))
        found.add("a round, s", build.name, *got["rounds"])
        found.add("a node's CPU, s in all", build.name, got["roles"]["participant-0"]["cpu"])
    if flower is not None:
        env = _alone() | {"PLAIN": "1", "COORDINATES": str(MEDIUM), "ROUNDS": "8"}
        found.add("a round, s", "Flower, simulated", *peer.flower_simulated(flower, env, _empty(folder, "simulated")))


def small(builds: list[Build], flower: Path | None, folder: Path, found: Found) -> None:
    """With `cold`, of which it is the rounds."""
    job = perceptron(folder)
    for build in builds:
        got = build.run(job, 10, _empty(folder, build.name))
        found.add("a round, s", build.name, *got["rounds"])
        found.add("ten rounds from a cold start, s", build.name, got["whole"])
        for part in ("stage", "first", "home"):
            found.add(f"of which {part}, s", build.name, got[part])
        found.add("of which audit, s", build.name, got["commands"]["audit 1"]["seconds"])
        cpu = sum(role["cpu"] for role in got["roles"].values()) + sum(e["cpu"] for e in got["commands"].values())
        found.add("CPU of roles and commands, s", build.name, cpu)
    if flower is not None:
        env = _alone() | {"PLAIN": "1", "TASK": f"{job}/task.py", "DATA": str(folder / "digits"), "ROUNDS": "10"}
        started = time.monotonic()
        found.add("a round, s", "Flower, simulated", *peer.flower_simulated(flower, env, _empty(folder, "simulated")))
        found.add("ten rounds from a cold start, s", "Flower, simulated", time.monotonic() - started)


def rest(builds: list[Build], flower: Path | None, folder: Path, found: Found) -> None:  # noqa: ARG001
    for build in builds:
        for websocket in (False, True):
            asked = _asked_at_rest(build, _empty(folder, build.name), websocket=websocket)
            what = "by subscription" if websocket else "over HTTP"
            found.add(f"requests of a coordinator at rest, {what}, 1/s", build.name, asked / REST)


def _asked_at_rest(build: Build, folder: Path, *, websocket: bool) -> int:
    """A job that nobody joins, whose coordinator has deposited its bond."""
    script = f"""
import sys, time
from contextlib import ExitStack
from pathlib import Path
sys.path.insert(0, {str(build.tree / "examples")!r})
import demo
with ExitStack() as stack:
    stage = demo.Stage("digits", stack, folder=Path({str(folder / "run")!r}), rounds=1)
    job = demo.set_the_stage(stage, "digits", "anvil")
    print(stage.env["DEEPLEDGER_RPC_URL"], flush=True)
    stage.env["DEEPLEDGER_RPC_URL"] = input()
    stage.spawn("coordinator", "coordinator", str(job))
    input()
"""
    process = subprocess.Popen(
        [build.python, "-c", script], env=_alone(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with CountingProxy(process.stdout.readline().strip(), websocket=websocket) as proxy:
        print(proxy.url, file=process.stdin, flush=True)
        log = folder / "run/coordinator.log"
        peer.until(lambda: log.exists() and "deposited the bond" in log.read_text(), 120)
        time.sleep(REST)
        before = proxy.calls
        time.sleep(REST)
        asked = proxy.calls - before
        print(file=process.stdin, flush=True)
        process.wait(30)
    return asked


def _empty(folder: Path, name: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"{name}-".replace(" ", "-"), dir=folder))


ROWS: dict[str, Callable[[list[Build], Path | None, Path, Found], None]] = {
    "large": large,
    "medium": medium,
    "small": small,
    "rest": rest,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*ROWS, "cold"], action="append", help="these rows; `cold` is in `small`")
    parser.add_argument("--times", type=int, default=1, help="how often everything is run, in turns")
    parser.add_argument("--base", default=BASE, metavar="COMMIT", help="the earlier build, or a folder that it is in")
    parser.add_argument("--without", choices=["base", "flower"], action="append", default=[])
    given = parser.parse_args()
    console = Console()
    this = Build("this build", TREE, Path(sys.executable))
    chosen = [name for name in ROWS if given.only is None or name in [{"cold": "small"}.get(e, e) for e in given.only]]
    with tempfile.TemporaryDirectory() as root:
        flower = None
        if "flower" not in given.without and chosen != ["rest"]:
            flower = peer.install(Path(root) / "flower", "torch", "safetensors")
        with earlier(given.base, Path(root)) as base:
            builds = [this] if "base" in given.without else [this, base]
            for name in chosen:
                found = Found()
                for turn in range(given.times):
                    with tempfile.TemporaryDirectory(dir=root, prefix=f"{name}-") as folder:
                        ROWS[name](builds if turn % 2 else builds[::-1], flower, Path(folder), found)
                console.print(f"\n{name}")
                console.print(found.table(this.name))


if __name__ == "__main__":
    main()
