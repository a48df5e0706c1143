"""The adversary suite of benchmarks/adversaries: attacks keep to what they may know, and a whole run is reported."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

SUITE = Path(__file__).resolve().parents[2] / "benchmarks" / "adversaries"


@pytest.fixture(autouse=True)
def _suite(monkeypatch):
    """Its modules are scripts beside each other, with names that others might have, too."""
    names = ("attacks", "data", "job", "report", "run", "shards")
    monkeypatch.syspath_prepend(str(SUITE))
    kept = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    yield
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(kept)


def scene(member=0, *, colluders=3, revealed=5, length=40):
    from attacks import Scene

    random = np.random.default_rng(5)
    honest = random.normal(size=(colluders, length)) + 1
    before = list(random.normal(size=(revealed, length)) + 1)
    return Scene(
        member=member, length=length, participants=10, bound=10.0, train=lambda: honest[member],
        revealed=lambda: before, tell=lambda _: list(honest), random=random,
    )  # fmt: skip


def test_every_attack_makes_an_update_with_and_without_earlier_rounds():
    from attacks import ATTACKS

    for attack in ATTACKS.values():
        for revealed in (0, 5):
            for colluders in (1, 3):
                if attack.craft is not None:
                    change = attack.craft(scene(revealed=revealed, colluders=colluders))
                    assert change.shape == (40,)
                    assert np.isfinite(change).all()


def test_optimised_attacks_stay_where_honest_updates_are():
    import attacks

    looked_at = scene()
    known = np.array(looked_at.known)
    pairs = ((known[:, None] - known[None]) ** 2).sum(axis=2)
    for attack, most, off in (
        (attacks.min_max, pairs.max(), lambda squares: squares.max()),
        (attacks.min_sum, pairs.sum(axis=1).max(), lambda squares: squares.sum()),
    ):
        change = attack(looked_at)
        reached = off(((known - change) ** 2).sum(axis=1))
        assert reached <= most
        assert reached > 0.999 * most, "as far as it may go"
        assert np.linalg.norm(change - looked_at.mean) > 0.1
    assert attacks.alie(looked_at) == pytest.approx(looked_at.mean - known.std(axis=0))
    assert attacks.ipm(looked_at) @ looked_at.mean < 0


def test_colluders_that_send_alike_can_stand_apart():
    import attacks

    assert (attacks.ipm(scene(0)) == attacks.ipm(scene(1))).all()
    apart = np.corrcoef(attacks.ipm_apart(scene(0)), attacks.ipm_apart(scene(1)))[0, 1]
    assert apart < 0.5


def test_colluders_wait_for_one_another():
    from attacks import Pool

    pool, found = Pool(3), {}

    def tell(member):
        found[member] = pool.share(0, member, np.full(2, float(member)))

    threads = [threading.Thread(target=tell, args=(member,)) for member in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [[change[0] for change in found[member]] for member in range(3)] == [[0, 1, 2]] * 3


def test_data_are_poisoned_where_they_should_be():
    import data

    arrays = data.gratings(50, seed=1)
    assert (data.flipped(arrays)["labels"] == 9 - arrays["labels"]).all()
    poisoned = data.backdoored(arrays)
    assert (poisoned["labels"][50:] == data.TARGET).all()
    assert (poisoned["images"][:50] == arrays["images"]).all()
    assert (poisoned["images"][50:] != arrays["images"]).any(axis=0).sum() <= 3
    for name in data.SPLITS:
        _, parts = data.split("gratings", name, participants=10, seed=0)
        assert min(len(part["labels"]) for part in parts) >= data.LEAST_SAMPLES


@pytest.mark.slow
def test_a_whole_run_is_resumed_and_reported(tmp_path, monkeypatch, capsys):
    import report
    import run

    settings = [
        run.Setting(participants=4, rounds=2),
        run.Setting(participants=4, rounds=2, attack="unchanged", attackers=1, policy="contribution"),
    ]
    monkeypatch.setattr(run, "usual", lambda: iter(settings))
    monkeypatch.setattr(sys, "argv", ["run.py", "--into", str(tmp_path)])
    run.main()
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    found = {json.loads(line)["setting"]["attack"]: json.loads(line) for line in lines}
    assert found["none"]["honest"] == {"accepted": 8}
    assert sum(found["none"]["paid"]) == pytest.approx(1, abs=1e-3)
    assert found["unchanged"]["attacking"] == {"unchanged": 2}
    assert found["unchanged"]["paid"][3] == 0

    run.main()
    assert (tmp_path / "results.jsonl").read_text().splitlines() == lines, "what is there is not run again"

    readme = tmp_path / "README.md"
    readme.write_text(f"before {report.MARKS[0]} old {report.MARKS[1]} after")
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path), "--readme", str(readme)])
    report.main()
    text = readme.read_text()
    assert "old" not in text
    assert "| unchanged | iid | 25 % | 100% | unchanged 2 | 0 | 0% | 0% |" in text
    assert {path.name for path in tmp_path.glob("*.png")} == {"accuracy.png", "pay.png", "attackers.png"}
    assert "Honest runs" in capsys.readouterr().out
