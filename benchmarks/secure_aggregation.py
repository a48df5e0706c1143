"""A masked round beside an open one and Flower's SecAgg+: python benchmarks/secure_aggregation.py [--coordinates N]

Four participants on this machine, whose training adds noise to a vector, so that what is measured is the round: ours
with node processes on anvil (chain, blobs, settlement and evaluation included), Flower's as a simulation and deployed
(SuperLink and four SuperNodes, which start processes for every message). One after the other, twice around. Steady
rounds: all but the first two of each run. Flower is installed into a virtual environment of its own.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples"))
import demo  # noqa: E402

FLOWER = "flwr[simulation]==1.42.0"
APP = HERE / "flower"
PATIENCE = 900.0  # seconds for Flower's rounds

TASK = """
import torch
from safetensors.torch import load_file

class Vector(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros({coordinates}))

def build_model():
    return Vector()

def load_data(path):
    return torch.utils.data.TensorDataset(load_file(path)["x"])

def train(model, data):
    with torch.no_grad():
        model.weight.add_(torch.randn_like(model.weight), alpha=0.01)

def evaluate(model, data):
    return {{"samples": len(data), "correct": 0, "loss": float(model.weight.square().mean())}}
"""
PREPARE = """
import argparse
from pathlib import Path
import torch
from safetensors.torch import save_file

parser = argparse.ArgumentParser()
parser.add_argument("--into", type=Path)
parser.add_argument("--participants", type=int)
given = parser.parse_args()
given.into.mkdir(parents=True, exist_ok=True)
for name in ["validation", *(f"participant-{number}" for number in range(given.participants))]:
    save_file({"x": torch.zeros(100, 1)}, given.into / f"{name}.safetensors")
"""


def ours(mode: str, folder: Path, *, coordinates: int, rounds: int, console: Console) -> list[float]:
    """Seconds of the steady rounds."""
    job = (HERE.parent / "examples/digits/job.toml").read_text()
    job = re.sub(r"(?ms)^\[training.hyperparameters\].*?(?=^\[)", "", job)
    job = re.sub(r"(?m)^norm_bound = \S+", f"norm_bound = {0.02 * coordinates**0.5}", job)
    (folder / "job.toml").write_text(job)
    (folder / "task.py").write_text(TASK.format(coordinates=coordinates))
    (folder / "prepare.py").write_text(PREPARE)
    with ExitStack() as stack:
        stage = demo.Stage(str(folder), stack, folder=folder / "run", rounds=rounds, mode=mode)
        number = demo.set_the_stage(stage, str(folder), "anvil")
        processes = demo.start_roles(stage, number)
        times, follower, _ = demo.watch(stage, number, processes, console)
        for process in processes:
            process.wait(60)
        done = len(follower.job.history)
    return steady([times[number] for number in range(done)])


def steady(ends: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(ends)][1:]


def ends_in(file: Path) -> list[float]:
    text = file.read_text() if file.exists() else ""
    return [float(end) for end in re.findall(r"round \d+ of 4 over at ([\d.]+)\n", text)]


def flower_simulated(flower: Path, env: dict[str, str], folder: Path) -> list[float]:
    env, ends = env | {"ENDS": str(folder / "ends")}, folder / "ends"
    done = subprocess.run([flower / "python", APP / "noise.py"], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return steady(ends_in(ends))


def flower_deployed(flower: Path, env: dict[str, str], folder: Path) -> list[float]:
    link, *nodes = (free_port() for _ in range(5))
    ends = folder / "ends"
    env = env | {"FLWR_HOME": str(folder / "flwr"), "PATH": f"{flower}:{env['PATH']}", "ENDS": str(ends)}
    (folder / "flwr").mkdir()
    (folder / "flwr/config.toml").write_text(
        f'[superlink]\ndefault = "local"\n\n[superlink.local]\naddress = "127.0.0.1:{link}"\ninsecure = true\n'
    )
    log = folder / "superlink.log"
    processes: list[subprocess.Popen[bytes]] = []

    def spawn(name: str, *arguments: str, into: Path) -> None:
        with into.open("wb") as out:
            processes.append(
                subprocess.Popen(
                    [flower / name, "--insecure", *arguments],
                    env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                )
            )  # fmt: skip

    try:
        spawn(
            "flower-superlink", "--host", "127.0.0.1", "--port", str(link), "--disable-runtime-dependency-installation",
            into=log,
        )  # fmt: skip
        until(lambda: "Uvicorn running" in log.read_text(), 60)
        for number, port in enumerate(nodes):
            spawn(
                "flower-supernode", "--superlink", f"127.0.0.1:{link}", "--port", str(port),
                "--node-config", f"partition-id={number}", into=folder / f"supernode-{number}.log",
            )  # fmt: skip
        subprocess.run([flower / "flwr", "run", APP, "local"], env=env, check=True, stdout=subprocess.DEVNULL)
        rounds = int(env["ROUNDS"])
        until(lambda: len(ends_in(ends)) == rounds, PATIENCE)
    finally:
        children = [each for process in processes for each in psutil.Process(process.pid).children(recursive=True)]
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()
        for each in children:
            with suppress(psutil.NoSuchProcess):  # a ServerApp is in a session of its own
                each.kill()
    return steady(ends_in(ends))


def until(reached: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.5)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def install(folder: Path, *more: str) -> Path:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([uv, "pip", "install", "--quiet", "--python", folder / "bin/python", FLOWER, *more], check=True)
    return folder / "bin"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coordinates", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=8, help="of each run")
    parser.add_argument("--times", type=int, default=2, help="how often everything is run, in turn")
    parser.add_argument("--without", choices=["flower", "deployed"], help="leave out Flower, or what takes it long")
    given = parser.parse_args()
    console = Console()
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as root:
        env = os.environ | {
            "COORDINATES": str(given.coordinates), "ROUNDS": str(given.rounds), "FLWR_TELEMETRY_ENABLED": "0",
            "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        flower = None if given.without == "flower" else install(Path(root) / "flower")
        for turn in range(given.times):
            for mode in ("open", "masked"):
                folder = Path(root) / f"{mode}-{turn}"
                folder.mkdir()
                found = ours(mode, folder, coordinates=given.coordinates, rounds=given.rounds, console=console)
                seconds.setdefault(f"deepledger, {mode}", []).extend(found)
            if flower is not None:
                folder = Path(root) / f"simulated-{turn}"
                folder.mkdir()
                seconds.setdefault("SecAgg+, simulated", []).extend(flower_simulated(flower, env, folder))
            if flower is not None and given.without != "deployed":
                folder = Path(root) / f"deployed-{turn}"
                folder.mkdir()
                found = flower_deployed(flower, env | {"ROUNDS": "4"}, folder)
                seconds.setdefault("SecAgg+, deployed", []).extend(found)
    table = Table("a round of 4", "median, s", "least", "most", "masked / this", box=None)
    masked = statistics.median(seconds["deepledger, masked"])
    for name, each in seconds.items():
        middle = statistics.median(each)
        table.add_row(name, f"{middle:.2f}", f"{min(each):.2f}", f"{max(each):.2f}", f"{masked / middle:.3f}")
    console.print(f"{given.coordinates:,} coordinates")
    console.print(table)


if __name__ == "__main__":
    main()
