"""Tables and plots of what run.py wrote: python benchmarks/adversaries/report.py FOLDER [--readme README.md]

Tables go to the terminal and, with --readme, between the two marks of that file; plots go beside it, or into FOLDER.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from attacks import ATTACKS
from data import SPLITS, TASKS
from job import RULES, Setting
from rich.console import Console
from rich.table import Table

MARKS = "<!-- tables of report.py -->", "<!-- end of the tables -->"
NOTHING = "·"


@dataclass(frozen=True, slots=True)
class Run:
    setting: Setting
    result: dict[str, Any]

    @property
    def accuracy(self) -> float:
        return float(self.result["accuracy"])

    def pay(self, policy: str) -> float | None:
        """What an attacker was paid, of what an honest participant was, by heads."""
        column = "by_samples" if policy == "samples" else "paid"
        if policy != "samples" and self.setting.policy != policy:
            return None
        paid, honest = self.result[column], self.setting.participants - self.setting.attackers
        usual = mean(paid[:honest])
        return mean(paid[honest:]) / usual if usual and self.setting.attackers else None

    @property
    def caught(self) -> float | None:
        """Part of the attackers' updates that were not accepted."""
        verdicts = self.result["attacking"]
        total = sum(verdicts.values())
        return 1 - verdicts.get("accepted", 0) / total if total else None


@dataclass(frozen=True, slots=True)
class Rows:
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def read(folder: Path) -> list[Run]:
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return [Run(Setting(**line["setting"]), line) for line in lines]


def tables(runs: Sequence[Run]) -> list[Rows]:
    found = [honest(runs, screening) for screening in ("on", "harm")]
    found += [screened(runs, model, screening) for model in TASKS for screening in ("on", "harm")]
    found.append(costs(runs))
    for model in TASKS:
        for split in SPLITS:
            for attackers in range(1, 5):
                found.append(by_rule(runs, model, split, attackers))
    return [each for each in found if each.rows]


def honest(runs: Sequence[Run], screening: str) -> Rows:
    """What screening says of people who are all honest."""
    rows = []
    for model in TASKS:
        for split in SPLITS:
            for participants in sorted({run.setting.participants for run in runs}, reverse=True):
                chosen = [
                    run for run in runs
                    if run.setting.attack == "none" and run.setting.screening == screening
                    and (run.setting.model, run.setting.split) == (model, split)
                    and run.setting.participants == participants
                ]  # fmt: skip
                if chosen:
                    rows.append([model, split, str(participants), *_false(chosen)])
    return Rows(
        f"Honest runs, screening {_named(screening)}: what honest updates were taken for",
        ["model", "split", "nodes", "runs", "updates", "not accepted", "as", "overstated", "likeness at least",
         "norm at most", "profile at least", "alignment at least", "accuracy"],
        rows,
    )  # fmt: skip


def _false(runs: Sequence[Run]) -> list[str]:
    verdicts: Counter[str] = Counter()
    for run in runs:
        verdicts.update(run.result["honest"])
    total, wrong = sum(verdicts.values()), {name: count for name, count in verdicts.items() if name != "accepted"}
    ends = {"likeness": min, "norm": max, "profile": min, "alignment": min}
    extremes = [
        f"{end(run.result['extremes'][name] for run in runs if name in run.result['extremes']):.2f}"
        for name, end in ends.items()
    ]
    return [
        str(len(runs)), str(total), f"{sum(wrong.values()) / total:.1%}", _counted(wrong),
        str(sum(run.result["overstated"][0] for run in runs)), *extremes, f"{mean(run.accuracy for run in runs):.0%}",
    ]  # fmt: skip


def screened(runs: Sequence[Run], model: str, screening: str) -> Rows:
    """Every attack with the plain mean, by split and number of attackers."""
    rows = []
    for attack in ATTACKS:
        for split in SPLITS:
            chosen = [
                run for run in runs
                if run.setting.attack == attack != "none" and run.setting.screening == screening
                and (run.setting.model, run.setting.split) == (model, split)
                and run.setting.rule == "weighted_mean"
            ]  # fmt: skip
            for attackers in sorted({run.setting.attackers for run in chosen}):
                part = [run for run in chosen if run.setting.attackers == attackers]
                verdicts: Counter[str] = Counter()
                for run in part:
                    verdicts.update(run.result["attacking"])
                wrong = sum(
                    sum(run.result["honest"].values()) - run.result["honest"].get("accepted", 0) for run in part
                )
                del verdicts["accepted"]
                rows.append(
                    [
                        attack, split, f"{attackers * 100 // part[0].setting.participants} %",
                        _percent(_mean(run.caught for run in part)), _counted(verdicts), str(wrong),
                        _percent(_mean(run.pay("samples") for run in part)),
                        _percent(_mean(run.pay("contribution") for run in part)),
                        _percent(_mean(run.accuracy for run in part)),
                        _percent(_mean(_plain(runs, run) for run in part)),
                        _success(part),
                    ]
                )  # fmt: skip
    return Rows(
        f"{model}, weighted mean, screening {_named(screening)}: what is caught, and what attackers are paid (100 %: "
        "as much as an honest participant)",
        ["attack", "split", "attackers", "caught", "as", "honest caught", "pay by samples", "by contribution",
         "accuracy", "if honest", "success"],
        rows,
    )  # fmt: skip


def costs(runs: Sequence[Run]) -> Rows:
    """What a rule costs where nobody attacks: ten honest participants, screening off."""
    off = [run for run in runs if run.setting.screening == "off"]
    rows = []
    for model in TASKS:
        for split in SPLITS:
            cells = [_cell(off, model, split, 0, rule, "none") for rule in RULES]
            if sum(map(bool, cells)) > 1:
                rows.append([model, split, *(_shown("none", cell) for cell in cells)])
    return Rows("Ten honest participants, screening off: accuracy by rule", ["model", "split", *RULES], rows)


def by_rule(runs: Sequence[Run], model: str, split: str, attackers: int) -> Rows:
    """Accuracy by attack and rule, and what targeted attacks reached; screening off where both were run."""
    rules = [rule for rule in RULES if _cell(runs, model, split, attackers, rule, None)]
    rows = []
    for attack in ATTACKS:
        cells = [_cell(runs, model, split, 0 if attack == "none" else attackers, rule, attack) for rule in rules]
        if sum(map(bool, cells)) > 1:
            rows.append([attack, *(_shown(attack, cell) for cell in cells)])
    seen = {
        run.setting.screening
        for run in runs
        if (run.setting.model, run.setting.split, run.setting.attackers) == (model, split, attackers)
        and len(rules) > 1 and run.setting.rule in rules[1:]
    }  # fmt: skip
    return Rows(
        f"{model}, {split}, {attackers * 10} % attackers: accuracy by rule (screening {' and '.join(sorted(seen))}); "
        "in brackets what a targeted attack reached",
        ["attack", *rules],
        rows if len(rows) > 1 else [],
    )


def _cell(runs: Sequence[Run], model: str, split: str, attackers: int, rule: str, attack: str | None) -> list[Run]:
    """Of ten participants. With an attack of None: any."""
    chosen = [
        run for run in runs
        if (run.setting.model, run.setting.split, run.setting.attackers) == (model, split, attackers)
        and run.setting.rule == rule and attack in (None, run.setting.attack) and run.setting.participants == 10
        and run.setting.rounds == 6
    ]  # fmt: skip
    return [run for run in chosen if run.setting.screening == "off"] or [
        run for run in chosen if run.setting.screening == "on"
    ]


def _shown(attack: str, cell: Sequence[Run]) -> str:
    if not cell:
        return NOTHING
    reached = _success(cell) if ATTACKS[attack].goal in ("flip", "backdoor") else ""
    return f"{mean(run.accuracy for run in cell):.0%}" + (f" ({reached})" if reached else "")


def _plain(runs: Sequence[Run], attacked: Run) -> float | None:
    """The accuracy of the same job with honest people."""
    same = replace(attacked.setting, attack="none", attackers=0, policy="samples")
    return _mean(
        run.accuracy
        for run in runs
        if replace(run.setting, screening="on", policy="samples") == replace(same, screening="on")
    )


def _success(runs: Sequence[Run]) -> str:
    """Of validation images: those that get the flipped label, or the target's if they carry the trigger."""
    goal = ATTACKS[runs[0].setting.attack].goal
    column = {"flip": "flipped", "backdoor": "backdoored"}.get(goal)
    return f"{mean(run.result[column] for run in runs):.0%}" if column else ""


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0%}"


def _counted(verdicts: Counter[str] | dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(verdicts.items(), key=lambda each: -each[1]))


def _named(screening: str) -> str:
    return {"on": "as by default", "harm": "with harm_percent = 25"}[screening]


def on_terminal(console: Console, found: Rows) -> None:
    table = Table(title=found.title, title_justify="left", box=None, header_style="dim")
    for number, column in enumerate(found.header):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in found.rows:
        table.add_row(*row)
    console.print(table, "")


def as_markdown(found: Rows) -> str:
    lines = [found.header, ["---"] * len(found.header), *found.rows]
    return f"**{found.title}**\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plot(runs: Sequence[Run], folder: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    def saved(name: str, draw: Callable[[Any], None], size: tuple[float, float]) -> None:
        figure, axes = pyplot.subplots(figsize=size, layout="constrained")
        draw(axes)
        figure.savefig(folder / name, dpi=72)
        pyplot.close(figure)

    saved("accuracy.png", lambda axes: _draw_rules(axes, runs), (10, 5))
    saved("pay.png", lambda axes: _draw_pay(axes, runs), (9, 4.5))
    saved("attackers.png", lambda axes: _draw_shares(axes, runs), (7, 4))


def _draw_rules(axes: Any, runs: Sequence[Run]) -> None:
    """Accuracy by rule and attack: digits, IID, screening off, two and four attackers of ten."""
    off = [run for run in runs if run.setting.screening == "off"]
    wanted = [("none", 0), *((attack, attackers) for attackers in (2, 4) for attack in ATTACKS)]
    rows = {
        f"{attack}, {attackers * 10} %" if attackers else attack: [
            _mean(run.accuracy for run in _cell(off, "digits", "iid", attackers, rule, attack)) for rule in RULES
        ]
        for attack, attackers in wanted
    }
    found = {name: row for name, row in rows.items() if row.count(None) < len(row) - 1}
    values = [[float("nan") if value is None else value for value in row] for row in found.values()]
    axes.imshow(values or [[float("nan")]], vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for y, row in enumerate(found.values()):
        for x, value in enumerate(row):
            if value is not None:
                axes.text(x, y, f"{value:.0%}", ha="center", va="center", color="white" if value < 0.6 else "black")
    axes.set_xticks(range(len(RULES)), list(RULES), rotation=30, ha="right")
    axes.set_yticks(range(len(found)), list(found))
    axes.set_title("accuracy after six rounds: digits, IID, screening off")


def _draw_pay(axes: Any, runs: Sequence[Run]) -> None:
    """An attacker's pay in parts of an honest participant's."""
    chosen = [
        run for run in runs
        if (run.setting.model, run.setting.split, run.setting.rule) == ("digits", "iid", "weighted_mean")
        and (run.setting.attackers, run.setting.screening, run.setting.policy) == (2, "on", "contribution")
    ]  # fmt: skip
    attacks = [attack for attack in ATTACKS if any(run.setting.attack == attack for run in chosen)]
    for number, policy in enumerate(("samples", "contribution")):
        heights = [
            _mean(run.pay(policy) for run in chosen if run.setting.attack == attack) or 0.0 for attack in attacks
        ]
        axes.bar([place + 0.4 * number for place in range(len(attacks))], heights, 0.4, label=f"by {policy}")
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set_ylim(0, 2)
    axes.set_xticks([place + 0.2 for place in range(len(attacks))], attacks, rotation=40, ha="right")
    axes.set_title("an attacker's pay, of an honest participant's: digits, IID, 2 of 10, screening on (bars end at 2)")
    axes.legend()


def _draw_shares(axes: Any, runs: Sequence[Run]) -> None:
    """Accuracy by the number of attackers."""
    for attack, style in (("sign flip", "-"), ("Min-Max apart", "--")):
        for rule in ("weighted_mean", "median", "multi_krum"):
            points = [
                (attackers, _mean(run.accuracy for run in runs if run.setting == Setting(
                    attack=attack if attackers else "none", attackers=attackers, rule=rule, screening="off")))
                for attackers in range(5)
            ]  # fmt: skip
            known = [(attackers * 10, value) for attackers, value in points if value is not None]
            if known:
                axes.plot(*zip(*known, strict=True), style, marker="o", label=f"{attack}, {rule}")
    axes.set_xlabel("attackers, %")
    axes.set_ylim(0, 1)
    axes.set_title("accuracy after six rounds: digits, IID, screening off")
    if axes.has_data():
        axes.legend(fontsize="small")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where results.jsonl is")
    parser.add_argument("--readme", type=Path, help="a file whose tables to replace")
    arguments = parser.parse_args()
    runs = read(arguments.folder)
    found, console = tables(runs), Console()
    for each in found:
        on_terminal(console, each)
    if arguments.readme is not None:
        before, rest = arguments.readme.read_text().split(MARKS[0])
        _, after = rest.split(MARKS[1])
        text = "\n\n".join(map(as_markdown, found))
        arguments.readme.write_text(f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}")
    plot(runs, arguments.readme.parent if arguments.readme else arguments.folder)


if __name__ == "__main__":
    main()
