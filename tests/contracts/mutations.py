"""Puts one fault at a time into the contract and asks the tests whether they see it: `make mutations`.

Each fault is played against the tests of single functions or against the invariants alone, in a copy; the score is
printed, and the exit status is 1 where a set of tests misses more than it may.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

CONTRACTS = Path(__file__).parents[2] / "contracts"
SOURCE = "src/TrainingLedger.sol"
FORGE = CONTRACTS.parent / "tests" / "services" / "bin" / "forge"
SUITES = {
    "unit": ("--no-match-contract", "InvariantTest|GasTest"),
    "invariants": ("--match-contract", "InvariantTest"),
}
SETTINGS = {
    # Few runs find what many find, and nobody reads the shortest sequence of acts that does.
    "FOUNDRY_INVARIANT_RUNS": "4",
    "FOUNDRY_INVARIANT_SHRINK_RUN_LIMIT": "0",
    # Only the contract is compiled again, in seconds: tests fetch its code as they run, and nobody optimizes it.
    "FOUNDRY_DYNAMIC_TEST_LINKING": "true",
    "FOUNDRY_OPTIMIZER": "false",
}
MISSES_ALLOWED = {"unit": 0, "invariants": 4}


@dataclass(frozen=True, slots=True)
class Mutation:
    fault: str
    old: str  # occurs once in the source
    new: str
    invariants: bool = True  # whether the invariants alone are to see it


def stateless(fault: str, old: str, new: str) -> Mutation:
    """A fault that shows in what is refused, not in what follows from it."""
    return Mutation(fault, old, new, invariants=False)


MUTATIONS = (
    # Who missed what
    Mutation("misses are not counted", "pledge.misses += 1;", "{}"),
    Mutation("one more may be missed", "pledge.misses + 1 < missLimit", "pledge.misses < missLimit"),
    Mutation("an excuse lasts for ever", "entry.excused = false;", "{}"),
    Mutation("an excuse is worth nothing", "if (entry.excused) entry.excused = false;\n            else if", "if"),
    Mutation("who comes again is excused", ": late && !entry.returning;", ": late;"),
    Mutation("who was in time is excused", "block.timestamp + j.terms.commitWindow > current.commitEnd", "true"),
    Mutation(
        "committing clears no misses",
        "(pledge.misses, pledge.commitment) = (0, commitment);",
        "pledge.commitment = commitment;",
    ),
    Mutation(
        "leaving clears misses", "misses: j.pledges[participant].misses, commitment: 0", "misses: 0, commitment: 0"
    ),
    # Deadlines
    Mutation(
        "committing lasts as long as revealing",
        "current.commitEnd = uint32(block.timestamp + j.terms.commitWindow)",
        "current.commitEnd = uint32(block.timestamp + j.terms.revealWindow)",
    ),
    Mutation(
        "revealing lasts as long as settling",
        "current.revealEnd = uint32(block.timestamp + j.terms.revealWindow)",
        "current.revealEnd = uint32(block.timestamp + j.terms.settleWindow)",
    ),
    Mutation(
        "the last reveal closes nothing",
        "current.revealEnd = uint32(block.timestamp);\n\n        emit Revealed",
        "{}\n\n        emit Revealed",
    ),
    Mutation(
        "leaving begins a reveal window of its own",
        "            current.commitEnd = uint32(block.timestamp);\n        }\n        j.round",
        "            current.commitEnd = uint32(block.timestamp);\n"
        "            current.revealEnd = uint32(block.timestamp + j.terms.revealWindow);\n        }\n        j.round",
    ),
    Mutation("a successor has no window of its own", "            current.revealEnd = uint32(block.timestamp);\n", ""),
    Mutation(
        "the settle window is a second longer",
        "timestamp < settleEnd ? Phase.Settling",
        "timestamp <= settleEnd ? Phase.Settling",
    ),
    Mutation(
        "a round starves when few reveal",
        "if (current.revealed == 0) return",
        "if (_count(current.revealed) < current.least) return",
    ),
    Mutation(
        "few may close committing",
        "return commits == awaited && commits >= least;",
        "return commits == awaited && commits != 0;",
    ),
    # Attempts
    Mutation(
        "a settled round keeps its attempt",
        "(current.number, current.attempt) = (round + 1, 0);",
        "current.number = round + 1;",
    ),
    Mutation("attempts are not counted", "current.attempt += 1;", "{}"),
    # Money
    Mutation("who revealed is penalised", "0 : current.committed & ~current.revealed;", "0 : current.committed;"),
    Mutation("penalties are lost", "            penalties += penalty;\n", ""),
    Mutation("who can pay once more loses its seat", "if (entry.stake < penalty)", "if (entry.stake <= penalty)"),
    Mutation("what is paid stays in escrow", "j.state.escrow + penalties - paid", "j.state.escrow + penalties"),
    Mutation("unearned penalties stay in escrow", "_payEqually(job, j, revealed, penalties);", "0;"),
    Mutation("who leaves loses its earnings", "+= stake + j.seats[seat].earned;", "+= stake;"),
    Mutation("credits can be withdrawn twice", "        delete j.credits[msg.sender];\n", ""),
    Mutation("work is not paid when nobody is left to settle", "if (last && unsettled) {", "if (false) {"),
    # Who owes a settlement or a key
    Mutation(
        "a job closes though its key is withheld",
        "_endOnceDisclosed(job, j, current, Outcome.Withdrawn);",
        "_end(job, j, current, Outcome.Withdrawn);",
    ),
    Mutation(
        "who keeps the key at the last loses the penalty only",
        "!unsettled || (last && _withholds(j, current));",
        "!unsettled;",
    ),
    Mutation(
        "who does not disclose loses the penalty only",
        "!unsettled || (last && _withholds(j, current));",
        "last && _withholds(j, current);",
    ),
    Mutation(
        "who withholds a key takes its bond home",
        "require(idle && !_withholds(j, j.round), BondInUse(phase));",
        "require(idle, BondInUse(phase));",
    ),
    Mutation("who leaves inherits", "        current.revealed &= ~_bit(seat);\n", ""),
    Mutation(
        "a job that is over can be joined", "current.stage != Stage.Disclosing && current.stage != Stage.Over;", "true;"
    ),
    Mutation("a successor need not wait", "        require(block.timestamp >= from, TooEarly(from));\n", ""),
    Mutation("who left keeps its bit", "        j.state.seats &= ~_bit(seat);\n", ""),
    # Masked rounds
    Mutation("half of the cohort may unmask", "(2 * current.seated + 2) / 3", "current.seated / 2"),
    Mutation("what one attempt needs all do", "if (_isMasked(current)) current.least = j.terms.minParticipants;", "{}"),
    Mutation("few are counted", "if (_count(counted) >= current.least) {", "if (true) {"),
    Mutation("who is not counted stays in the sum", "        current.committed = counted;\n", ""),
    Mutation(
        "a count leaves less time to unmask",
        "uint32(block.timestamp + j.terms.revealWindow));\n        } else {",
        "current.revealEnd + j.terms.revealWindow);\n        } else {",
    ),
    Mutation(
        "an attempt is counted again",
        "phase == Phase.Counting || (phase == Phase.Overdue && current.stage == Stage.Masking), WrongPhase(phase)",
        "phase == Phase.Counting || phase == Phase.Overdue, WrongPhase(phase)",
    ),
    Mutation(
        "an overdue count makes an attempt void",
        "            require(phase == Phase.Counting, TooFewCounted(current.least));\n",
        "",
    ),
    Mutation(
        "who made an attempt void takes its bond home",
        "phase == Phase.Starved && j.round.revealEnd != 0",
        "phase == Phase.Starved",
    ),
    Mutation("who left stays in the cohort", "            j.state.cohort &= ~_bit(seat);\n", ""),
    Mutation(
        "the last of a cohort closes nothing",
        "_isComplete(committed, _count(cohort),",
        "_isComplete(committed, 64,",
    ),
    Mutation("unmasking clears no misses", "if (pledge.misses != 0) pledge.misses = 0;", "{}"),
    Mutation("who leaves a masked attempt is excused", "entry.left != _attemptPlusOne(current)", "true"),
    Mutation(
        "who waited for the count is penalised",
        "current.stage == Stage.Masking ? 0 : current.committed &",
        "current.committed &",
    ),
    Mutation(
        "who committed is not its heir",
        "current.stage == Stage.Masking ? current.committed : current.revealed",
        "current.revealed",
    ),
    Mutation("nobody need count", "if (current.stage == Stage.Masking) return", "if (false) return"),
    stateless("who came later commits", "        require(cohort & bit != 0, NotInCohort(msg.sender));\n", ""),
    stateless(
        "anybody is counted",
        "        require(counted & ~current.committed == 0, NotCountable(counted & ~current.committed));\n",
        "",
    ),
    stateless("a masked job needs no key", "        require((key != 0) == j.terms.masked, BadKey());\n", ""),
    stateless("two may hide", "!terms.masked || terms.minParticipants >= LEAST_MASKED", "true"),
    # What is refused
    stateless(
        "anyone closes a job", "        require(msg.sender == j.state.sponsor, NotSponsor(j.state.sponsor));\n", ""
    ),
    stateless("anyone takes over", "        require(msg.sender == successor, NotCoordinator(successor));\n", ""),
    stateless(
        "anyone settles",
        "        require(round == current.number, WrongRound(current.number, current.attempt));\n"
        "        address coordinator = _servingCoordinator(j);\n"
        "        require(msg.sender == coordinator, NotCoordinator(coordinator));\n",
        "        require(round == current.number, WrongRound(current.number, current.attempt));\n",
    ),
    stateless("a window may be short", "window >= leastWindow && window", "window"),
    stateless("a window may be long", " && window <= MOST_WINDOW, BadWindow(leastWindow", ", BadWindow(leastWindow"),
    stateless("who is not on the list joins", "return root == 0 || node == root;", "return true;"),
    stateless("a list has one order", "node < proof[i] ?", "true ?"),
    stateless(
        "any terms will do", "        require(termsHash == j.state.termsHash, WrongTerms(j.state.termsHash));\n", ""
    ),
    stateless(
        "any attempt will do",
        "require(round == current.number && attempt == current.attempt, WrongRound(current.number, current.attempt));\n"
        "        Pledge storage pledge = j.pledges[msg.sender];\n        uint64 bit = _seatedBit(pledge.seatPlusOne);\n"
        "        require(current.committed & bit == 0",
        "require(round == current.number, WrongRound(current.number, current.attempt));\n"
        "        Pledge storage pledge = j.pledges[msg.sender];\n        uint64 bit = _seatedBit(pledge.seatPlusOne);\n"
        "        require(current.committed & bit == 0",
    ),
    stateless(
        "a reveal may be overlooked",
        "        require(revealed == current.revealed, StaleReveals(current.revealed));\n",
        "",
    ),
    stateless(
        "who did not reveal is paid",
        "        require(accepted & ~revealed == 0, NotRevealed(accepted & ~revealed));\n",
        "",
    ),
    stateless("any key fits", "key != 0 && keccak256(abi.encode(key)) == lock", "key != 0"),
    stateless("a budget may be too small", "        require(msg.value == budget, WrongValue(budget));\n", ""),
    stateless(
        "misses are counted before penalties are taken",
        "        penalties = _takePenalties(job, j, current, silent);\n"
        "        _countMisses(job, j, current, j.state.seats & ~current.committed);\n",
        "        _countMisses(job, j, current, j.state.seats & ~current.committed);\n"
        "        penalties = _takePenalties(job, j, current, silent);\n",
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Put faults into the contract, one at a time, and run its tests.")
    parser.add_argument("--suite", choices=SUITES, action="append", help="only these tests (default: both)")
    parser.add_argument("--only", default="", help="only faults whose description contains this")
    arguments = parser.parse_args()
    original = (CONTRACTS / SOURCE).read_text("utf-8")
    for mutation in MUTATIONS:
        if (times := original.count(mutation.old)) != 1:
            sys.exit(f"{mutation.fault!r}: its text stands {times} times in {SOURCE}; mend the list")
    survivors: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        # With what was compiled, so that only the contract has to be compiled again.
        shutil.copytree(CONTRACTS, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("deepledger", "*.pyc"))
        (Path(folder) / "foundry.toml").write_text(
            (CONTRACTS / "foundry.toml").read_text("utf-8").replace("../tests", f"{CONTRACTS.parent}/tests"), "utf-8"
        )
        for suite in arguments.suite or SUITES:
            tried = [each for each in MUTATIONS if each.invariants or suite == "unit"]
            tried = [each for each in tried if arguments.only in each.fault]
            survivors[suite] = [each.fault for each in tried if not _is_seen(each, suite, original, Path(folder))]
            print(f"{suite}: {len(tried) - len(survivors[suite])} of {len(tried)} faults are seen", flush=True)
    sys.exit(int(any(len(missed) > MISSES_ALLOWED[suite] for suite, missed in survivors.items())))


def _is_seen(mutation: Mutation, suite: str, original: str, folder: Path) -> bool:
    (folder / SOURCE).write_text(original.replace(mutation.old, mutation.new), "utf-8")
    command = [str(FORGE), "test", "--fail-fast", "--gas-snapshot-check=false", *SUITES[suite]]
    done = subprocess.run(command, cwd=folder, env=os.environ | SETTINGS, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if "Compiler run failed" in said or ("[FAIL" not in said and "[PASS]" not in said):
        sys.exit(f"{mutation.fault!r} does not compile, or nothing ran:\n{said[-2000:]}")
    seen = done.returncode != 0
    print(f"{suite}: {'seen' if seen else 'MISSED'}: {mutation.fault}", flush=True)
    return seen


if __name__ == "__main__":
    main()
