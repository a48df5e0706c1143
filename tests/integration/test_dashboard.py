"""The page in a real browser, on a real chain: what is honest is ticked, and each lie has its cross.

All of it looks at one devnet on which a few jobs were played. The pictures in docs/dashboard are made here, too, where
DEEPLEDGER_PICTURES is set.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import requests
from kubo_daemon import KuboDaemon
from PIL import Image

from deepledger.auditor.replay import hold_against
from deepledger.auditor.rules import Rules
from deepledger.cli import api
from deepledger.cli.page import built_page, page_folder
from deepledger.cli.page_server import serving
from deepledger.devnet import start
from deepledger.node.accountant import Accountant
from deepledger.protocol.blobs import cid_of, digest_of, open_store
from deepledger.protocol.blobs.digest import CHUNK
from deepledger.protocol.errors import BlobCorrupt, ChainUnreachable
from deepledger.protocol.formats.private_run import PrivateRun, Steps, statement_of
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.job.phases import phase_at
from deepledger.protocol.job.trail import apply
from deepledger.protocol.privacy.opening import as_it_is
from deepledger.protocol.privacy.skellam import epsilon_of_rounds
from deepledger.protocol.settlement.reading import read_update
from tests.conftest import ROOT, WAITS_IN_VAIN, Play, StoredSources, World, need, post_bond, world_on
from tests.dashboard_node import derived, node, page, told

from .test_audit_finds_lies import (
    drop_as_unavailable,
    drop_for_a_false_reason,
    leave_out_of_the_report,
    move_one_coordinate,
    pay_a_friend,
    tell_of_another_job,
    weigh_wrongly,
)
from .test_masked import Play as MaskedPlay
from .test_sealed import Sealed
from .test_sparse import SHARE
from .test_sparse import trained as of_few

pytestmark = [pytest.mark.slow, pytest.mark.browser]

LIES = [
    (move_one_coordinate, {"model"}, "1 of 420 coordinates differ, the first is coordinate 17"),
    (pay_a_friend, {"scores"}, "was paid for another score than its update has"),
    (weigh_wrongly, {"verdicts"}, "otherwise than its bytes deserve"),
    (drop_as_unavailable, {"updates", "model"}, "was dropped as unavailable, but the store serves it"),
    (drop_for_a_false_reason, {"verdicts", "scores"}, "otherwise than its bytes deserve"),
    (leave_out_of_the_report, {"verdicts"}, "otherwise than its bytes deserve"),
    (tell_of_another_job, {"report"}, "the report's job is not the chain's"),
]
"""What each is, which checks it fails, and what is said; told in a round of its own, from round 1 on."""


@dataclass
class Stage:
    """Jobs that were played once for all tests: they only look."""

    world: World
    honest: Play
    lying: Play
    troubled: Play
    unchecked: Play
    masked: MaskedPlay
    sealed: Play
    sparse: Play
    private: Play


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with start("embedded") as devnet:
        world = world_on(devnet.url, tmp_path_factory.mktemp("dashboard"))
        honest = Play(world)
        for _ in range(3):
            honest.round(honest.trained())
        honest.go_home()
        lying = Play(world, rounds=len(LIES) + 1)
        lying.round()
        for lie, _, _ in LIES:
            lying.round(lie=lie)
        masked, sealed = MaskedPlay(world), Sealed(world)
        masked.round((0, 1, 2))
        sealed.play.round([sealed.close(number) for number in range(3)])
        sparse = Play(world, spec_changes=SHARE)
        sparse.round(of_few(sparse))
        first, second, _ = of_few(sparse)
        sparse.round([first, second, b"\xff" * len(first)])
        private = Stating(world, spec_changes=NOISY, min_participants=3)
        private.round(private.trained(rate=0.1))
        yield Stage(world, honest, lying, troubled(world), unchecked(world), masked, sealed.play, sparse, private)


STATED = PrivateRun(samples=30, clip_norm=0.5, steps=(Steps(rate=0.1, noise_multiplier=2.0, count=20),), past=None)
NOISY = {
    "update": {"bits": 16, "fraction_bits": 10, "norm_bound": 100.0},
    "differential_privacy": {"noise_multiplier": 1.5, "clip_norm": 1.0, "delta": 1e-4},
    "participant_privacy": {"mechanism": "local", "clip_norm": 0.5, "noise_multiplier": 1.0, "delta": 1e-4},
}


class Stating(Play):
    """Of three participants two state private steps, as nodes do, under the salts of their commitments."""

    def salt(self) -> bytes:
        self.salts = getattr(self, "salts", 0) + 1
        return super().salt() if self.salts % 3 == 0 else self.world.store.put(statement_of(STATED))


def troubled(world: World) -> Play:
    """A copy and a stump, a silent participant, a coordinator that is replaced, an attempt that starves, a job that is
    closed.
    """
    play = Play(world, participants=4, coordinators=(1, 7), rounds=4)
    play.sources = Reading
    same = play.update()
    play.round([same, play.update(), same, b"stump"])
    updates = [play.update() for _ in play.nodes]
    for (committer, opened), update in list(zip(play.commit_all(updates), updates, strict=True))[:3]:
        committer.reveal(play.job, **opened)
        world.store.put(update)
    heir = world.ledger(7)
    post_bond(heir, play.job, value=play.terms.bond)
    world.pass_time(121)
    heir.replace_coordinator(play.job)
    play.coordinator = heir
    play.settle()
    world.pass_time(61)
    heir.restart_round(play.job)
    world.pass_time(61)
    world.sponsor.close_job(play.job)
    return play


class Reading(StoredSources):
    """As a coordinator reads: what has another length is nobody's update."""

    def update(self, contribution: Any) -> Any:
        try:
            return read_update(self.store, contribution, self.spec, as_it_is)
        except BlobCorrupt:
            return Verdict.UNAVAILABLE


def unchecked(world: World) -> Play:
    """What the page cannot check: a rule that it does not know, and scores that follow from evaluations."""
    changes = {
        "aggregation": {"rule": "multi_krum", "byzantine_percent": 10},
        "rewards": {"policy": "contribution", "floor_percent": 20},
        "screening": {},
    }
    play = Play(world, participants=4, spec_changes=changes)
    play.round(play.trained())
    return play


# What the page folds, on its own Node.js


@pytest.mark.parametrize("name", ["honest", "lying", "troubled", "unchecked", "masked", "sealed", "private"])
def test_trails_come_to_the_same_in_typescript(stage: Stage, name: str) -> None:
    need(node(), "the dashboard's Node.js")
    reader, job = stage.world.reader(), getattr(stage, name).job
    events = reader.events(0, reader.head().number, job=job)
    times = [event.at.timestamp for event in events]
    (found,) = derived([{"ask": "trail", "events": [*map(told, events)], "times": times}])
    rules = Rules(job, chain_id=reader.chain_id, contract=reader.address, least_window=reader.least_window())
    assert list(hold_against(rules, events)) == []
    state, phases = None, []
    for event in events:
        state = apply(state, event)
        later = (0,) if not phases else (0, 59, 61, 10_000)
        phases.append([phase_at(state, event.at.timestamp + seconds).name.lower() for seconds in later])
    assert state is not None
    money = rules.accounts
    assert found["phases"] == phases
    assert found["reputations"] == state.reputations
    assert found["seats"] == {address: seat.seat for address, seat in state.participants.items()}
    assert found["findings"] == 0
    assert int(found["escrow"]) == money.escrow
    for kept in ("credits", "stakes", "bonds"):
        mine = {address: int(amount) for address, amount in found[kept].items() if int(amount)}
        assert mine == {address: amount for address, amount in getattr(money, kept).items() if amount}


def test_a_trail_that_cannot_be_is_refused_in_typescript(stage: Stage) -> None:
    need(node(), "the dashboard's Node.js")
    reader = stage.world.reader()
    events = [told(event) for event in reader.events(0, reader.head().number, job=stage.honest.job)]
    kinds = [event["kind"] for event in events]
    without = [kinds.index(kind) for kind in ("JobCreated", "Joined", "RoundOpened", "Committed", "Settled")]
    broken = [[*events[:place], *events[place + 1 :]] for place in without] + [[*events, events[0]], events[::-1]]
    found = derived([{"ask": "trail", "events": each, "times": [0] * len(each)} for each in broken])
    assert [answer for answer, _ in found] == ["refused"] * len(broken)


# What a browser shows


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium")
    need(chromium, "chromium")
    need(page(), "the dashboard's page")
    need(find_spec("playwright"), "Playwright")
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*quiet, "--disable-sync"])
        yield browser
        browser.close()


@dataclass
class Look:
    """A browser's page, and what a test asks of it."""

    page: Any
    url: str

    def at(self, place: str, query: str = "") -> None:
        self.page.goto(f"{self.url}/{query}#/{place}")

    def checks(self) -> dict[str, str]:
        """By name, once the round is through."""
        self.page.locator("section[aria-busy=false] li[data-check]").first.wait_for()
        found = self.page.locator("section li[data-check]")
        return {
            each.get_attribute("data-check"): each.locator(".mark").first.get_attribute("class").split()[-1]
            for each in found.all()
        }

    def await_text(self, text: str) -> None:
        self.page.get_by_text(text).first.wait_for()


@pytest.fixture
def served(stage: Stage) -> Iterator[str]:
    reader = stage.world.reader()
    with serving(page_folder(), reader.address, reader.rpc, stage.world.store, port=0) as url:
        yield url


@pytest.fixture
def look(browser: Any, served: str) -> Iterator[Look]:
    context = browser.new_context(viewport={"width": 860, "height": 700}, color_scheme="light")
    context.set_default_timeout(WAITS_IN_VAIN * 1000)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if "Content Security Policy" in line.text else None)
    yield Look(page, served)
    context.close()
    assert wrong == []


def picture(look: Look, name: str) -> None:
    """For the docs, in few colours and so few bytes."""
    folder = os.environ.get("DEEPLEDGER_PICTURES")
    if folder:
        shown = Image.open(BytesIO(look.page.screenshot(full_page=True)))
        shown.convert("RGB").quantize(96).save(Path(folder) / name, optimize=True)


def test_a_job_shows_its_name_and_terms(stage: Stage, look: Look) -> None:
    look.at(f"job/{stage.honest.job}")
    look.page.get_by_role("heading", name=f"Job {stage.honest.job}: linear").wait_for()
    told = look.page.locator("[data-terms]").inner_text()
    for part in ("open: everybody can read every update", "by declared samples", "0.1", "to train and commit"):
        assert part in told, told
    look.at(f"job/{stage.masked.job}")
    look.await_text("masked: nobody can read a single update")
    look.at("")
    look.page.get_by_role("cell", name="linear").first.wait_for()


def test_gas_of_a_job_and_of_each_transaction(stage: Stage, look: Look) -> None:
    reader = stage.world.reader()
    events = reader.events(0, reader.head().number, job=stage.honest.job)
    receipts = {
        each.at.transaction: reader.rpc.call("eth_getTransactionReceipt", each.at.transaction) for each in events
    }
    used = {transaction: int(receipt["gasUsed"], 16) for transaction, receipt in receipts.items()}
    look.at(f"job/{stage.honest.job}")
    look.page.locator(f"[data-gas='{len(used)}']").wait_for()
    assert f"{sum(used.values()):,} gas" in look.page.locator("[data-gas]").inner_text()
    rows = dict.fromkeys(look.page.locator("h2:has-text('Gas') ~ .scroll tbody th").all_inner_texts())
    assert list(rows) == [
        "JobCreated",
        "Joined",
        "BondPosted",
        "Committed",
        "Revealed",
        "Settled",
        "Left",
        "Withdrawn",
        "BondReleased",
    ]
    look.at(f"job/{stage.honest.job}/trail/settled")
    transaction = stage.honest.see().history[2].settled.at.transaction
    look.page.get_by_text(f"{used[transaction]:,}").wait_for()


def test_similarity_is_shown_with_names_and_numbers(stage: Stage, look: Look) -> None:
    """A copy is as alike as can be; what cannot be read is not there."""
    look.at(f"job/{stage.troubled.job}/round/0")
    heat = look.page.locator("table.heat")
    heat.wait_for()
    names = [f"{node.account[:6]}…{node.account[-4:]}" for node in stage.troubled.nodes[:3]]
    assert heat.locator("thead th").all_inner_texts() == ["Participant", *names]
    assert heat.locator("tbody th").all_inner_texts() == names
    values = heat.locator("tbody tr").first.locator("td").all_inner_texts()
    assert (values[0], values[2]) == ("1.00", "1.00"), "its copy"
    assert abs(float(values[1].replace("−", "-"))) < 0.5
    shades = (
        heat.locator("tbody tr")
        .first.locator("td")
        .evaluate_all("cells => cells.map(cell => getComputedStyle(cell).backgroundColor)")
    )
    assert shades[0] == shades[2] != shades[1]
    look.at(f"job/{stage.honest.job}/round/1")
    heat.wait_for()
    picture(look, "round.png")


def test_epsilon_is_told_of_what_is_stated_and_ticked_nowhere(stage: Stage, look: Look) -> None:
    look.at(f"job/{stage.private.job}/round/0")
    found = look.checks()
    assert found["noise"] == "unchecked"
    look.await_text("2 of 3 updates bind a statement that it is as the job asks")
    look.at(f"job/{stage.private.job}")
    release = stage.private.spec.release
    assert release is not None
    told = look.page.locator("[data-epsilon]").inner_text()
    assert float(told.removeprefix("ε = ")) == pytest.approx(epsilon_of_rounds(release, rounds=1, delta=1e-4), rel=0.01)
    stated = look.page.locator("td:has-text('or less, in 1 round')")
    stated.first.wait_for()
    assert stated.count() == 2
    bound = float(re.search(r"ε = (\S+)", stated.first.inner_text()).group(1))
    assert bound >= Accountant(STATED.steps).epsilon(1e-4) - 0.01


def test_an_honest_job_is_all_ticks(stage: Stage, look: Look) -> None:
    look.at(f"job/{stage.honest.job}")
    look.await_text("3 of 3 recomputed here.")
    marks = look.page.locator("main .mark")
    look.page.locator("li[data-check=credits] .mark.recomputed").wait_for()
    assert {each.get_attribute("class") for each in marks.all()} == {"mark recomputed"}
    picture(look, "job.png")
    look.at(f"job/{stage.honest.job}/round/1")
    assert look.checks() == {
        **dict.fromkeys(("payouts", "commitments", "report", "updates", "verdicts", "scores", "model"), "recomputed"),
        "evaluation": "unchecked",
    }
    look.await_text(f"deepledger audit {stage.honest.job} --task task.py")
    assert look.page.locator("canvas").count() == 0
    look.at("")
    row = look.page.locator("tr", has=look.page.get_by_role("link", name=f"Job {stage.honest.job}", exact=True))
    assert "over" in row.inner_text()


@pytest.mark.parametrize("number", range(1, len(LIES) + 1), ids=[lie.__name__ for lie, _, _ in LIES])
def test_each_lie_has_its_cross(stage: Stage, look: Look, number: int) -> None:
    _, names, words = LIES[number - 1]
    look.at(f"job/{stage.lying.job}/round/{number}")
    found = look.checks()
    assert {name for name, mark in found.items() if mark == "wrong"} == names
    assert "missing" not in found.values()
    settled = stage.lying.see().history[number].settled.at.transaction
    for name in names:
        said = look.page.locator(f"li[data-check={name}] .finding").first.inner_text()
        for part in (settled, f"round {number}", "claimed", "derived"):
            assert part in said
    told = look.page.locator(".finding").all_inner_texts()
    assert any(words in each for each in told)
    if number == 1:
        claimed, truth = re.search(r"claimed\s+(-?\d+)\s+derived\s+(-?\d+)", told[0]).groups()
        assert int(claimed) == int(truth) + 1
        picture(look, "lie.png")


def test_what_the_page_cannot_check_has_no_tick(stage: Stage, look: Look) -> None:
    look.at(f"job/{stage.unchecked.job}/round/0")
    found = look.checks()
    assert {name for name, mark in found.items() if mark == "unchecked"} == {"scores", "model", "evaluation"}
    assert found["verdicts"] == "partly", "what screening says of them is not checked"
    assert set(found.values()) == {"unchecked", "partly", "recomputed"}
    look.at(f"job/{stage.unchecked.job}")
    look.await_text("0 of 1 recomputed here, 1 in part.")


@pytest.mark.parametrize(
    ("name", "unchecked"), [("masked", {"model", "scores", "evaluation"}), ("sealed", {"model", "evaluation"})]
)
def test_what_only_others_can_read_has_no_tick(stage: Stage, look: Look, name: str, unchecked: set[str]) -> None:
    look.at(f"job/{getattr(stage, name).job}/round/0")
    found = look.checks()
    assert {check for check, mark in found.items() if mark == "unchecked"} == unchecked
    assert "wrong" not in found.values()
    assert "missing" not in found.values()
    look.at(f"job/{getattr(stage, name).job}")
    look.await_text("0 of 1 recomputed here, 1 in part.")
    look.page.locator("li[data-check=credits] .mark.recomputed").wait_for()


def test_updates_of_few_coordinates_are_derived_again(stage: Stage, look: Look) -> None:
    look.at(f"job/{stage.sparse.job}/round/1")
    found = look.checks()
    assert {name for name, mark in found.items() if mark != "recomputed"} == {"evaluation"}
    look.await_text("malformed")


def test_a_job_that_went_badly_is_honest_all_the_same(stage: Stage, look: Look) -> None:
    look.at(f"job/{stage.troubled.job}")
    look.await_text("2 of 2 recomputed here.")
    look.await_text("over (withdrawn)")
    look.page.locator("li[data-check=state] .mark.recomputed").wait_for()
    look.at(f"job/{stage.troubled.job}/round/0")
    assert "wrong" not in look.checks().values()
    assert "copy of 0x" in look.page.locator("table").first.inner_text()
    look.at(f"job/{stage.troubled.job}/round/1")
    look.await_text("was fined")
    look.at(f"job/{stage.troubled.job}/participant/{stage.troubled.nodes[3].account}")
    look.await_text("not accepted")


def test_a_coordinators_api_serves_the_page_and_its_blobs(stage: Stage, browser: Any) -> None:
    reader, asked = stage.world.reader(), stage.world.reader()
    store = stage.world.store
    with (
        api.serving(asked, store, store, page=built_page(reader), host="127.0.0.1", port=0) as url,
        tab(browser) as open_,
    ):
        look = Look(open_, f"{url}/page")
        look.at(f"job/{stage.honest.job}")
        look.await_text("3 of 3 recomputed here.")
        look.page.locator("li[data-check=credits] .mark.recomputed").wait_for()
        question = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}
        assert requests.post(f"{url}/page/rpc", json=question, timeout=60).json()["result"] == "0x7a69"
        send = question | {"method": "eth_sendRawTransaction"}
        assert requests.post(f"{url}/page/rpc", json=send, timeout=60).json()["error"]["code"] == -32601
        assert requests.post(f"{url}/page/rpc", data="{}", timeout=60).status_code == 415
        large = requests.post(f"{url}/page/rpc", data=b"[" * (1 << 21), headers=JSON, timeout=60)
        assert large.status_code == 413
        assert requests.post(f"{url}/page/rpc", data=b"[" * 1000, headers=JSON, timeout=60).status_code == 400
        for path in ("page/nothing", "page/%2e%2e/secret", "page/assets"):
            assert requests.get(f"{url}/{path}", timeout=60).status_code == 404, path
        assert requests.get(f"{url}/page", timeout=60).headers["Content-Security-Policy"] == "frame-ancestors 'none'"


JSON = {"Content-Type": "application/json"}


@pytest.mark.kubo
def test_a_trustless_gateway_serves_blobs_block_by_block(stage: Stage, look: Look, kubo: KuboDaemon) -> None:
    """A real one, which refuses to serve whole files."""
    kubo.stop()
    kubo.ipfs("config", "--json", "Gateway.DeserializedResponses", "false")
    kubo.start()
    into = open_store(kubo.api)
    for path in stage.world.store.path.iterdir():
        if not path.name.startswith("."):
            into.put(path.read_bytes())
    large = into.put(bytes(5 * CHUNK + 1))
    assert requests.get(kubo.gateway + cid_of(large), timeout=60).status_code == 406
    if node():
        question = {"ask": "served", "base": kubo.gateway, "digest": f"0x{large.hex()}"}
        found = derived([question | {"limit": limit} for limit in (5 * CHUNK + 1, 5 * CHUNK)])
        assert found[0] == [5 * CHUNK + 1, f"0x{large.hex()}"]
        assert "has more than" in found[1][1]
    look.at(f"job/{stage.honest.job}", f"?blobs={kubo.gateway}")
    look.await_text("3 of 3 recomputed here.")


def test_pages_of_others_may_link_to_it_and_have_no_blob_read(stage: Stage, look: Look, monkeypatch: Any) -> None:
    read: list[object] = []
    store = stage.world.store.read
    monkeypatch.setattr(stage.world.store, "read", lambda digest, **how: read.append(digest) or store(digest, **how))
    blob = f"{look.url}/blobs/{cid_of(digest_of(b'blob'))}"
    with other_bytes() as other:
        look.page.goto(other)
        look.page.evaluate("url => fetch(url, {mode: 'no-cors'}).catch(() => null)", blob)
        look.page.goto(other.replace("127.0.0.1", "localhost"))
        look.page.evaluate("url => fetch(url, {mode: 'no-cors'}).catch(() => null)", blob)
        look.page.evaluate("url => void (location.href = url)", blob)
        look.await_text("only the dashboard's own page may ask")
        assert read == []
        look.page.goto(other)
        look.page.evaluate("url => void (location.href = url)", f"{look.url}/")
    look.page.get_by_role("cell", name="linear").first.wait_for()


def test_a_store_that_serves_other_bytes_gets_no_tick_and_accuses_nobody(stage: Stage, look: Look) -> None:
    with other_bytes() as blobs:
        look.at(f"job/{stage.honest.job}/round/0", f"?blobs={blobs}/")
        found = look.checks()
        assert found["spec"] == "missing"
        assert "wrong" not in found.values()
        look.await_text("it serves other bytes")


def test_a_node_that_alters_what_was_revealed(stage: Stage, browser: Any) -> None:
    with lied_to(stage, browser, altering) as look:
        look.at(f"job/{stage.honest.job}/round/0")
        found = look.checks()
        assert found["commitments"] == "wrong"
        look.await_text("the RPC node altered one of them")


def test_a_node_that_withholds_the_end(stage: Stage, browser: Any) -> None:
    with lied_to(stage, browser, withholding) as look:
        look.at(f"job/{stage.honest.job}")
        look.page.locator("li[data-check=credits] .mark.wrong").wait_for()
        assert "some are withheld" in look.page.locator(".finding").first.inner_text()


def test_a_node_that_goes_away_and_comes_back(stage: Stage, browser: Any) -> None:
    away = threading.Event()
    with lied_to(stage, browser, lambda outcome: outcome, away=away) as look:
        look.at(f"job/{stage.honest.job}")
        look.await_text("3 of 3 recomputed here.")
        away.set()
        look.page.locator("[role=alert]", has_text="What is shown is as of block").wait_for()
        assert look.page.get_by_text("3 of 3 recomputed here.").count() == 1
        away.clear()
        look.page.locator("[role=alert]").wait_for(state="detached")


def test_it_is_live(stage: Stage, look: Look) -> None:
    play = Play(stage.world, commit_window=3600)
    look.at(f"job/{play.job}")
    look.await_text("No round is settled yet.")
    play.round()
    look.await_text("1 of 1 recomputed here.")


def test_the_trail_is_searched_and_each_row_has_its_transaction(stage: Stage, look: Look) -> None:
    look.at(f"job/{stage.honest.job}/trail/")
    rows = look.page.locator("tbody tr")
    rows.first.wait_for()
    whole = rows.count()
    links = look.page.locator("tbody tr td:last-child a").all()
    assert len(links) == whole
    assert all(re.fullmatch(r"0x[0-9a-f]{64}", link.get_attribute("title")) for link in links)
    look.page.get_by_role("searchbox").press_sequentially("settled")
    look.await_text("3 events")
    assert look.page.url.endswith("/trail/settled")
    assert look.page.evaluate("document.activeElement.type") == "search", "it keeps the focus"


def test_it_can_be_used_with_a_keyboard_in_the_dark_and_on_a_phone(stage: Stage, look: Look) -> None:
    look.at(f"job/{stage.lying.job}")
    look.await_text("Money's way")
    look.page.keyboard.press("Tab")
    assert look.page.evaluate("document.activeElement.textContent") == "Skip to content"
    light = look.page.evaluate("getComputedStyle(document.body).backgroundColor")
    look.page.emulate_media(color_scheme="dark")
    assert look.page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    look.page.set_viewport_size({"width": 360, "height": 720})
    wide = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    for place in ("", f"job/{stage.lying.job}", f"job/{stage.lying.job}/round/1", f"job/{stage.lying.job}/trail/"):
        look.at(place)
        look.page.locator("h1").wait_for()
        assert look.page.evaluate(wide), place
        assert look.page.locator("h1").count() == 1
        named = look.page.locator(
            "main [role=img]:not([aria-label]), main th:not([scope]), main input:not(label input)"
        )
        assert named.count() == 0, "a screen reader tells what each is"
    look.at(f"job/{stage.lying.job}")
    look.await_text(f"1 of {len(LIES) + 1} recomputed here, {len(LIES)} with claims that do not hold.")
    picture(look, "phone.png")


def test_a_wheel_carries_the_page(tmp_path: Path) -> None:
    need(page(), "the dashboard's page")
    uv = Path(sys.executable).parent / "uv"
    done = subprocess.run([uv, "build", "--wheel", "--out-dir", tmp_path, ROOT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    carried = {each.removeprefix("deepledger/dashboard/") for each in ZipFile(wheel).namelist()}
    assert {path.relative_to(page()).as_posix() for path in page().rglob("*") if path.is_file()} <= carried


# Those who lie to the page


def altering(outcome: Any) -> Any:
    """Another salt in every reveal, which is the last word of its data."""
    if not isinstance(outcome, list):
        return outcome
    return [
        log | {"data": log["data"][:-2] + ("00" if log["data"][-2:] != "00" else "01")} if is_reveal(log) else log
        for log in outcome
    ]


def is_reveal(log: dict[str, Any]) -> bool:
    return len(log["topics"]) == 4 and len(log["data"]) == 2 + 3 * 64


def withholding(outcome: Any) -> Any:
    """Nothing of what was withdrawn."""
    if not isinstance(outcome, list):
        return outcome
    return [log for log in outcome if len(log["topics"]) != 3 or len(log["data"]) != 2 + 64]


@dataclass
class Liar:
    """An `Rpc` that changes lists of logs, or is away."""

    rpc: Any
    change: Any
    away: threading.Event

    def batch(self, *requests: Any) -> list[Any]:
        if self.away.is_set():
            raise ChainUnreachable("the node is away")
        outcomes = self.rpc.batch(*requests)
        pairs = zip(requests, outcomes, strict=True)
        return [self.change(outcome) if method == "eth_getLogs" else outcome for (method, _), outcome in pairs]


@contextmanager
def tab(browser: Any) -> Iterator[Any]:
    context = browser.new_context()
    context.set_default_timeout(WAITS_IN_VAIN * 1000)
    yield context.new_page()
    context.close()


@contextmanager
def lied_to(stage: Stage, browser: Any, change: Any, *, away: threading.Event | None = None) -> Iterator[Look]:
    """A page that is served with such a node."""
    reader = stage.world.reader()
    liar: Any = Liar(reader.rpc, change, away or threading.Event())
    with serving(page_folder(), reader.address, liar, stage.world.store, port=0) as url, tab(browser) as page:
        yield Look(page, url)


@contextmanager
def other_bytes() -> Iterator[str]:
    """A gateway that answers whatever is asked for with something else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/ipfs"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
