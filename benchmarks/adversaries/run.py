"""Attacks in the real protocol: python benchmarks/adversaries/run.py [--quick | --full] --into FOLDER

Each run is one job on a chain of its own, with a coordinator, honest nodes and adversaries (`attacks.py`). What came of
it becomes a line of FOLDER/results.jsonl; runs that stand there already are not repeated, so that the command can be
stopped and given again. `report.py` makes tables and plots of the lines.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, fields
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from attacks import ATTACKS
from data import SPLITS, TASKS
from job import POLICIES, RULES, SCREENINGS, Setting, run
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

HOSTILE = [name for name in ATTACKS if name != "none"]
ON_RULES = ["sign flip", "scaled", "ALIE", "Min-Max apart", "label flip", "backdoor boosted"]
AT_MOST = ["sign flip", "ALIE", "Min-Max apart", "label flip"]
ON_GRATINGS = ["sign flip", "ALIE apart", "Min-Max apart", "label flip", "backdoor", "backdoor boosted"]
HARM = ["IPM apart", "ALIE apart", "Min-Max apart", "label flip", "backdoor"]
SHARES = [1, 2, 3, 4]  # attackers among ten
HELD_OUT = [6, 7, 8, 9]  # seeds of splits that the screening's thresholds were not set with


def settings(**choices: Sequence[Any]) -> list[Setting]:
    """Every combination."""
    return [
        Setting(**dict(zip(choices, chosen, strict=True)))  # type: ignore[arg-type]
        for chosen in product(*choices.values())
    ]


def quick() -> Iterator[Setting]:
    """A handful, in minutes."""
    yield from settings(split=SPLITS, screening=["on"])
    yield from settings(attack=HOSTILE, attackers=[2])


def usual() -> Iterator[Setting]:
    """What the README's tables are from, most telling first."""
    yield from settings(model=TASKS, split=SPLITS)
    yield from settings(seed=[1], split=SPLITS)
    yield from settings(participants=[4], split=SPLITS)
    yield from settings(participants=[4], model=TASKS, seed=[2, 3, 4, 5], split=["dirichlet 0.1"])
    yield from settings(attack=HOSTILE, attackers=[2], policy=["contribution"])
    yield from settings(rounds=[10], split=SPLITS)
    yield from settings(screening=["harm"], split=SPLITS)
    yield from settings(screening=["harm"], attack=HARM, attackers=[2])
    yield from settings(rule=RULES, screening=["off"])
    yield from settings(attack=ON_RULES, rule=RULES, attackers=[2], screening=["off"])
    yield from settings(attack=HOSTILE, attackers=[2], split=["dirichlet 0.1"], policy=["contribution"])
    yield from settings(model=["gratings"], rule=["weighted_mean", "median"], attack=ON_GRATINGS, attackers=[2])
    yield from settings(model=["gratings"], rule=["median"])
    yield from settings(attack=AT_MOST, rule=RULES, attackers=[4], screening=["off"])
    yield from settings(
        attack=["sign flip", "Min-Max apart"],
        rule=["weighted_mean", "median", "multi_krum"],
        attackers=[1, 3],
        screening=["off"],
    )
    yield from settings(rule=RULES, split=["dirichlet 0.1"], screening=["off"])
    yield from settings(seed=HELD_OUT, split=SPLITS)
    yield from settings(participants=[4], model=TASKS, seed=HELD_OUT, split=["dirichlet 0.1"])
    yield from settings(rule=RULES, split=["dirichlet 0.5"])
    yield from settings(attack=HOSTILE, rule=RULES, attackers=[2], split=["dirichlet 0.5"])


def full() -> Iterator[Setting]:
    """Everything: days of work."""
    everywhere = {"model": TASKS, "split": SPLITS, "rule": RULES, "policy": POLICIES, "screening": SCREENINGS}
    yield from usual()
    yield from settings(**everywhere)
    yield from settings(**everywhere, attack=HOSTILE, attackers=SHARES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, required=True, metavar="FOLDER", help="where results.jsonl is")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="two dozen runs")
    which.add_argument("--full", action="store_true", help="every attack, rule, split, policy and screening")
    parser.add_argument(
        "--only", action="append", default=[], metavar="KEY=VALUE", help="of these runs, e.g. 'attack=sign flip'"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no run after this long")
    parser.add_argument("--processes", type=int, choices=[1, 2], default=1)
    arguments = parser.parse_args()
    only = dict(text.split("=", 1) for text in arguments.only if "=" in text)
    if len(only) != len(arguments.only) or only.keys() - {field.name for field in fields(Setting)}:
        parser.error("--only takes one of " + ", ".join(f"{field.name}=…" for field in fields(Setting)))
    arguments.into.mkdir(parents=True, exist_ok=True)
    file = arguments.into / "results.jsonl"
    done = (
        {Setting(**json.loads(line)["setting"]) for line in file.read_text().splitlines()} if file.exists() else set()
    )
    planned = dict.fromkeys(full() if arguments.full else quick() if arguments.quick else usual())
    wanted = [
        setting
        for setting in planned
        if setting not in done and all(str(getattr(setting, key)) == value for key, value in only.items())
    ]
    failures = _play(wanted, file, processes=arguments.processes, until=time.monotonic() + 60 * arguments.minutes)
    if failures:
        sys.exit(f"{failures} runs failed")


def _play(wanted: Sequence[Setting], file: Path, *, processes: int, until: float) -> int:
    """Returns how many failed."""
    console = Console(stderr=True)
    left, failures = iter(wanted), 0
    running: dict[Future[dict[str, Any]], Setting] = {}
    bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   console=console)  # fmt: skip
    with (
        bar,
        file.open("a") as results,
        ProcessPoolExecutor(processes, get_context("spawn"), max_tasks_per_child=10) as pool,
    ):
        task = bar.add_task("runs", total=len(wanted))
        while True:
            while len(running) < processes and time.monotonic() < until and (setting := next(left, None)) is not None:
                running[pool.submit(run, setting)] = setting
            if not running:
                return failures
            bar.update(task, description="; ".join(map(_brief, running.values())))
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                setting = running.pop(future)
                bar.advance(task)
                if (error := future.exception()) is not None:
                    failures += 1
                    console.print(f"failed: {setting}: {type(error).__name__}: {error}", markup=False)
                    continue
                results.write(json.dumps({"setting": asdict(setting)} | future.result()) + "\n")
                results.flush()


def _brief(setting: Setting) -> str:
    """What is not as usual."""
    usual = Setting()
    parts = [f"{value}" for key, value in asdict(setting).items() if value != getattr(usual, key)]
    return ", ".join(parts) or "as usual"


if __name__ == "__main__":
    main()
