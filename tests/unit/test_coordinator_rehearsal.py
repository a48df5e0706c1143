"""What is rehearsed is all that a settlement may take."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest

from deepledger.coordinator import rehearsal, rehearsed_sums
from deepledger.coordinator.rehearsal import Rehearsed, rehearse
from deepledger.protocol.formats.evaluation import Coalition
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.kernels import cores
from deepledger.protocol.privacy.hidden_updates import read_sum
from deepledger.protocol.privacy.unmasking import NotUnmaskable
from deepledger.protocol.settlement.settle import Settlement, settle

SpecOf = Callable[..., JobSpec]
TRUSTED = "0x" + "ab" * 20
SHORT: Any = {"update": {"bits": 16, "fraction_bits": 12, "norm_bound": 5.0}}
BY_CONTRIBUTION = {"policy": "contribution", "measure": "leave_one_out"}


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> list[Settlement]:
    made: list[Settlement] = []

    def kept(*arguments: Any) -> Settlement:
        made.append(settle(*arguments))
        return made[-1]

    monkeypatch.setattr(rehearsal, "settle", kept)
    return made


@pytest.mark.parametrize(("bits", "fraction"), [(8, 6), (16, 12), (32, 20)])
@pytest.mark.parametrize(
    "rule",
    [
        {"rule": "median"},
        {"rule": "fltrust", "trusted": TRUSTED},
        {"rule": "centered_clipping", "radius": 1.0},
        {"rule": "dnc", "byzantine_percent": 20},
    ],
    ids=lambda rule: rule["rule"],
)
def test_every_seat_is_looked_at_to_the_end(
    spec_of: SpecOf, settled: list[Settlement], bits: int, fraction: int, rule: dict[str, Any]
) -> None:
    """Nothing that is drawn is put aside early, so that harm is looked for in all of it, and all of it is valued."""
    spec = spec_of(
        coordinates=3000, aggregation=rule, rewards=BY_CONTRIBUTION, screening={"harm_percent": 10},
        update={"bits": bits, "fraction_bits": fraction, "norm_bound": 100.0},
    )  # fmt: skip
    rehearse(spec, 12, workers=2)
    for settlement in settled:
        assert [judged.verdict for judged in settlement.judged] == [Verdict.ACCEPTED] * 12
        players = 12 - (rule["rule"] == "fltrust")
        assert len(settlement.evaluations) == 2 * (players + 1)
        assert not settlement.forgotten


def test_all_that_is_remembered_is_compared(spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[int] = []

    def kept(spec: JobSpec, model: Any, revealed: Any, sources: Any) -> Settlement:
        known.append(len(revealed.earlier))
        return settle(spec, model, revealed, sources)

    monkeypatch.setattr(rehearsal, "settle", kept)
    rehearse(spec_of(screening={"memory_rounds": 3}), 5, workers=1)
    rehearse(spec_of(screening={"copy_percent": 0}), 5, workers=1)
    assert set(known) == {15, 0}


def test_models_of_coalitions_are_counted_apart(spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands still but for the models: the dearest one counts, and none of them for the rest."""
    now, made = [0.0], count(1)

    class Slow(rehearsal.Coalitions):
        def model_of(self, coalition: Coalition) -> Any:
            now[0] += next(made)
            return None

    def evaluate(spec: JobSpec, model: Any, revealed: Any, sources: Any) -> None:
        for wanted in ([Coalition(1)], [Coalition(1), Coalition(3)]):
            sources.evaluate(Slow(spec, model, None, None), wanted)  # type: ignore[arg-type]
        now[0] += 7

    monkeypatch.setattr(rehearsal, "settle", evaluate)
    assert rehearse(spec_of(), 2, workers=1, clock=lambda: now[0]) == Rehearsed(coalition=4.0, settling=7.0)


@pytest.mark.parametrize(("workers", "threads"), [(1, 2), (2, 1)])
def test_a_model_is_made_as_it_is_by_one_of_so_many_workers(
    spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch, workers: int, threads: int
) -> None:
    """Several have one thread each: they work at the same time."""
    makers: list[int] = []

    class Watched(rehearsal.Coalitions):
        def model_of(self, coalition: Coalition) -> Any:
            both = threading.Barrier(threads)  # one thread would not pass alone for two

            def work(*_: int) -> int:
                both.wait(60)
                return threading.get_ident()

            makers.extend(cores.in_parts(work, 2, step=1))

    def evaluate(spec: JobSpec, model: Any, revealed: Any, sources: Any) -> None:
        sources.handed_over = True
        sources.evaluate(Watched(spec, model, None, None), [Coalition(1)])  # type: ignore[arg-type]

    monkeypatch.setattr(cores, "CORES", 2)
    monkeypatch.setattr(rehearsal, "settle", evaluate)
    rehearse(spec_of(), 2, workers=workers)
    assert (set(makers) == {threading.get_ident()}) == (threads == 1)


@pytest.mark.parametrize("masks", [{"weight_bits": 4}, {"weight_bits": 0, "groups": 4}])
def test_the_sums_of_a_masked_round_are_read_by_as_many_seeds_as_there_can_be(
    spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch, masks: dict[str, int]
) -> None:
    """A clock that stands still but for reading: it counts, with every group's."""
    now, seeds, sizes = [0.0], set[int](), list[int]()

    def read(cohort: Any, rebuilt: Any, vectors: Any, *, coordinates: int, group: int) -> Any:
        now[0] += 3
        members = next(each for each in cohort.groups if each[0] == group)
        sizes.append(len(members))
        counted = rebuilt.counted.intersection(members)
        seeds.add(len(counted) + sum(one in counted for one, _ in rebuilt.pairs))
        return read_sum(cohort, rebuilt, vectors, coordinates=coordinates, group=group)

    monkeypatch.setattr(rehearsed_sums, "read_sum", read)
    groups = masks.get("groups", 1)
    rule = {"rule": "weighted_mean" if groups == 1 else "median"}
    spec = spec_of(coordinates=3000, privacy="masked", masks=masks, aggregation=rule, **SHORT)
    assert rehearse(spec, 24, workers=1, clock=lambda: now[0]).settling == 3 * groups
    assert sizes == [24 // groups] * groups * 2, "once before, when libraries are loaded"
    assert seeds == {16 + 16 * 8 if groups == 1 else 4 + 4 * 2}


@pytest.mark.usefixtures("bfv_program")
def test_an_encrypted_round_is_opened_and_shares_that_do_not_fit_are_tried_out(
    spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, opened = [0.0], list[str]()

    def read(*arguments: Any, **options: Any) -> Any:
        now[0] += 1
        try:
            total = read_sum(*arguments, **options)
        except NotUnmaskable:
            opened.append("no key")
            now[0] += 4
            raise
        opened.append("sum")
        assert not total.any()
        return total

    monkeypatch.setattr(rehearsed_sums, "read_sum", read)
    spec = spec_of(coordinates=3000, privacy="encrypted", masks={"weight_bits": 4}, **SHORT)
    assert rehearse(spec, 5, workers=1, clock=lambda: now[0]).settling == 1 + 5
    assert opened == ["sum", "sum", "no key"]


def test_no_two_jobs_rehearse_at_the_same_time(spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch) -> None:
    on_stage, seen, spec = threading.Semaphore(0), list[int](), spec_of()

    def perform(*_: Any) -> Rehearsed:
        on_stage.release()
        threading.Event().wait(0.02)
        seen.append(on_stage._value)
        on_stage.acquire()
        return Rehearsed(coalition=0.0, settling=0.0)

    monkeypatch.setattr(rehearsal, "_perform", perform)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: rehearse(spec, 8, workers=1), range(4)))
    assert seen == [1] * 8


@pytest.mark.parametrize("coordinates", [1 << 10, 1 << 16, 1 << 20])
def test_large_models_are_rehearsed_in_part(spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch, coordinates: int) -> None:
    lengths: list[int] = []

    def perform(spec: JobSpec, length: int, *_: Any) -> Rehearsed:
        lengths.append(length)
        return Rehearsed(coalition=length * 2.0**-10, settling=5 + length * 2.0**-8)

    monkeypatch.setattr(rehearsal, "_perform", perform)
    found = rehearse(spec_of(coordinates=coordinates), 64, workers=1)
    assert found == Rehearsed(coalition=coordinates * 2.0**-10, settling=5 + coordinates * 2.0**-8)
    assert max(lengths) == min(coordinates, 1 << 18)
