"""How long the dashboard's page takes, in Chromium: python benchmarks/dashboard.py [--rounds 1000] [--coordinates N]

Two jobs of four participants, honest to the last bit, in events that a ledger would emit and blobs in memory: of many
rounds, from opening the page until its rounds are listed, and derived; and of a single round of a large model.
Needs `make dashboard`, Chromium and Playwright (tests/services/install-dashboard.sh).
"""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from eth_abi.abi import encode
from eth_utils.abi import collapse_if_tuple

from deepledger.cli.page import page_folder
from deepledger.cli.page_server import serving
from deepledger.protocol.blobs.digest import digest_of
from deepledger.protocol.chain.abi import ledger_abi
from deepledger.protocol.chain.rpc import NodeRefused
from deepledger.protocol.errors import BlobMissing
from deepledger.protocol.formats.commitment import Slot, commitment_for
from deepledger.protocol.formats.evaluation import Evaluation
from deepledger.protocol.formats.report import JudgedUpdate, Report, SignsOf, VectorPin, report_bytes
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.spec import JobSpec, build_spec, spec_bytes
from deepledger.protocol.settlement.aggregation import advance
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.stack import Row, Stack
from deepledger.protocol.types import Address

CONTRACT = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
CHAIN_ID = 31337
SPONSOR, COORDINATOR = "0x" + "f" * 40, "0x" + "c" * 40
PARTICIPANTS = [f"0x{number:040x}" for number in range(1, 5)]
UNSIGNED = {"norm": None, "likeness": None, "like": None, "profile": None, "alignment": None, "harm": None}
START = 1_700_000_000


@dataclass
class Recorded:
    """A chain and a store that were never run: what a job would have left on them. Implements `Rpc` and `BlobStore`."""

    logs: list[dict[str, Any]] = field(default_factory=list)
    blobs: dict[bytes, bytes] = field(default_factory=dict)

    def put(self, data: bytes) -> bytes:
        digest = digest_of(data)
        self.blobs[digest] = data
        return digest

    def read(self, digest: bytes, *, limit: int) -> bytes:
        if digest not in self.blobs or len(self.blobs[digest]) > limit:
            raise BlobMissing("no such blob")
        return self.blobs[digest]

    def emit(self, name: str, **values: Any) -> None:
        """Each in a block of its own, a second after the last."""
        topic, entry = next((topic, each) for topic, each in ledger_abi().events.items() if each["name"] == name)
        indexed = [part for part in entry["inputs"] if part["indexed"]]
        rest = [part for part in entry["inputs"] if not part["indexed"]]
        number = len(self.logs)
        self.logs.append(
            {
                "address": CONTRACT,
                "topics": [topic, *("0x" + encode([part["type"]], [values[part["name"]]]).hex() for part in indexed)],
                "data": "0x" + encode([*map(collapse_if_tuple, rest)], [values[part["name"]] for part in rest]).hex(),
                "blockNumber": hex(number),
                "blockHash": f"0x{number:064x}",
                "blockTimestamp": hex(START + number),
                "transactionHash": f"0x{number:064x}",
                "logIndex": "0x0",
            }
        )

    def batch(self, *requests: Any) -> list[Any]:
        return [self._answer(method, params) for method, params in requests]

    def _answer(self, method: str, params: list[Any]) -> Any:
        match method:
            case "eth_chainId":
                return hex(CHAIN_ID)
            case "eth_getCode":
                return "0x00"
            case "eth_getLogs":
                first, last = (int(params[0][name], 16) for name in ("fromBlock", "toBlock"))
                return self.logs[first : last + 1]
            case "eth_getBlockByNumber":
                number = len(self.logs) - 1 if params[0] == "latest" else int(params[0], 16)
                return {"number": hex(number), "hash": f"0x{number:064x}", "timestamp": hex(START + number)}
            case _:
                return NodeRefused("there is no contract behind these events", code=-32000)


def job_of(rounds: int, coordinates: int) -> Recorded:
    """Four participants whose updates are noise, as a ledger would have recorded them."""
    recorded, random = Recorded(), np.random.default_rng(0)
    spec = build_spec(
        {
            "name": "large", "task": {"name": "large", "sha256": "ab" * 32},
            "model": {"layout": [{"name": "w", "shape": [coordinates], "offset": 0}]},
            "update": {"bits": 16, "fraction_bits": 14, "norm_bound": 1e6}, "training": {"seed": 1},
            "aggregation": {"rule": "weighted_mean"}, "rewards": {"policy": "samples"},
            "validation": {"digest": "cd" * 32, "bytes": 100}, "max_samples": 1000,
        }
    )  # fmt: skip
    model = random.integers(-(1 << 20), 1 << 20, coordinates).astype("<i4")
    pin = recorded.put(model.tobytes()), chunk_root(model, bits=32)
    zero, reward = bytes(32), 10**15
    windows = 60, 60, 60
    terms = (
        recorded.put(spec_bytes(spec)),
        *pin,
        rounds,
        4,
        4,
        3,
        *windows,
        False,
        reward,
        10**18,
        0,
        0,
        0,
        zero,
        zero,
    )
    recorded.emit("JobCreated", job=1, sponsor=SPONSOR, terms=terms, coordinators=[COORDINATOR])
    for seat, participant in enumerate(PARTICIPANTS):
        recorded.emit("Joined", job=1, participant=participant, seat=seat, samples=30 + seat, key=zero)
    for number in range(rounds):
        pin = play(recorded, spec, number, model, before=pin, random=random)
    return recorded


def play(
    recorded: Recorded, spec: JobSpec, number: int, model: Any, *, before: tuple[bytes, bytes], random: Any
) -> tuple[bytes, bytes]:
    """One round; `model` becomes the one after, whose digest and root are returned."""
    about = {"job": 1, "round": number}
    now = START + len(recorded.logs)
    recorded.emit("RoundOpened", **about, attempt=0, commitEnd=now + 60, revealEnd=now + 120)
    updates = [random.integers(-500, 500, spec.model.coordinates, dtype="<i2") for _ in PARTICIPANTS]
    openings = [
        {"digest": recorded.put(each.tobytes()), "root": chunk_root(each, bits=16), "salt": random.bytes(32)}
        for each in updates
    ]
    for participant, opening in zip(PARTICIPANTS, openings, strict=True):
        slot = Slot(CHAIN_ID, CONTRACT, 1, number, participant)
        recorded.emit("Committed", **about, participant=participant, commitment=commitment_for(slot, **opening))
    for participant, opening in zip(PARTICIPANTS, openings, strict=True):
        recorded.emit("Revealed", **about, participant=participant, **opening)
    rows = tuple(Row(seat, PARTICIPANTS[seat], 30 + seat, update) for seat, update in enumerate(updates))
    advance(model, Stack(rows, len(model), 6), spec.aggregation, Context(bytes(32), spec.model))
    after = recorded.put(model.tobytes()), chunk_root(model, bits=32)
    judged = tuple(
        JudgedUpdate(
            participant=participant, seat=seat, digest=opening["digest"].hex(), root=opening["root"].hex(),
            weight=30 + seat, reputation=1_000_000, verdict="accepted", copy_of=None, signs=SignsOf(**UNSIGNED),
            overstated=False, group=None, score=30 + seat,
        )
        for seat, (participant, opening) in enumerate(zip(PARTICIPANTS, openings, strict=True))
    )  # fmt: skip
    report = Report(
        chain_id=CHAIN_ID, contract=CONTRACT, job=1, round=number, attempt=0, spec=digest_of(spec_bytes(spec)).hex(),
        model_before=VectorPin(digest=before[0].hex(), root=before[1].hex()),
        model_after=VectorPin(digest=after[0].hex(), root=after[1].hex()), updates=judged, saturated=0,
        evaluation=Evaluation(samples=100, correct=50 + number % 50, millionths={"loss": 10**6}), forgotten=(),
        coalitions=(),
    )  # fmt: skip
    recorded.emit(
        "Settled", **about, coordinator=COORDINATOR, modelDigest=after[0], modelRoot=after[1],
        reportDigest=recorded.put(report_bytes(report)), accepted=0b1111, scores=[30, 31, 32, 33], pot=10**15,
    )  # fmt: skip
    return after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--coordinates", type=int, default=10_000_000)
    arguments = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])

        def seconds(recorded: Any, place: str, awaited: str) -> float:
            page = browser.new_page()
            page.set_default_timeout(600_000)
            with serving(page_folder(), CONTRACT, recorded, recorded, port=0) as url:
                started = time.monotonic()
                page.goto(f"{url}/#/{place}")
                page.locator(awaited).first.wait_for()
                taken = time.monotonic() - started
                page.close()
            return taken

        many = job_of(arguments.rounds, 400)
        listed = seconds(many, "job/1", f"a[href='#/job/1/round/{arguments.rounds - 1}']")
        print(f"a job of {arguments.rounds} rounds is listed after {listed:.1f} s")
        derived = seconds(
            many, "job/1", f"[role=status]:has-text('{arguments.rounds} of {arguments.rounds} recomputed')"
        )
        print(f"and derived again after {derived:.1f} s")
        large = job_of(1, arguments.coordinates)
        checked = seconds(large, "job/1/round/0", "li[data-check=model] .mark.recomputed")
        print(
            f"a round of {arguments.coordinates:,} coordinates and four updates is derived again after {checked:.1f} s"
        )
        browser.close()


if __name__ == "__main__":
    main()
