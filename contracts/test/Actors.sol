// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ITrainingLedger, JobId, JobTerms, Phase, Round, Stage} from "../src/interfaces/ITrainingLedger.sol";
import {Accounting} from "./Accounting.sol";

/// @notice What the fuzzer may do: play several jobs of different terms, well or badly. An act looks for a job in which it
/// can succeed, so that hardly a call is wasted; only `anyoneTries` makes calls that may be refused.
contract Actors is Accounting {
    uint256 internal constant MOST_JOBS = 6;
    bytes32 internal constant KEY = "key";

    constructor() {
        for (uint256 kind; kind < 4; kind++) createJob(kind);
        createJob(5);
    }

    /* SPONSOR */

    function createJob(uint256 kind) public {
        if (ledger.jobCount() == MOST_JOBS) return;
        _createJob(_terms(kind % 6));
    }

    function closeJob(uint256 which) external {
        // Rarely, or no job would grow old.
        if (which % 32 != 0) return;
        (bool found, JobId job) = _find(which, Phase.Waiting, Phase.Starved);
        if (found) _closeJob(job);
    }

    /* COORDINATORS */

    function postBond(uint256 which, uint256 who) public {
        JobId job = _job(which);
        address coordinator = _coordinators[who % 3];
        uint256 bond = ledger.termsOf(job).bond;
        if (_isOver(job) || bond == 0 || ledger.bondOf(job, coordinator) != 0) return;
        _postBond(job, coordinator, bond);
    }

    function releaseBond(uint256 which, uint256 who) external {
        JobId job = _job(which);
        address coordinator = _coordinators[who % 3];
        Phase phase = _phase(job);
        bool idle = phase == Phase.Waiting || phase == Phase.Starved || phase == Phase.Over;
        idle = idle && !_isVoid(job, ledger.roundOf(job));
        bool free = (idle && !withholds(job)) || coordinator != _serving(job);
        if (ledger.bondOf(job, coordinator) == 0) return;
        if (free) _releaseBond(job, coordinator);
        else _try(job, coordinator, abi.encodeCall(ITrainingLedger.releaseBond, (job)), 0);
    }

    function settle(uint256 which, uint256 accepted, uint256 scores) external {
        (bool found, JobId job) = _find(which, Phase.Settling, Phase.Overdue);
        bool settled = found && !_isDisclosing(job) && ledger.roundOf(job).stage != Stage.Masking;
        if (settled) _settle(job, uint64(accepted), scores);
    }

    function count(uint256 which, uint256 chosen) external {
        (bool found, JobId job) = _find(which, Phase.Counting, Phase.Overdue);
        if (!found) return;
        Round memory round = ledger.roundOf(job);
        uint64 counted = round.committed & uint64(chosen);
        if (_phase(job) == Phase.Counting) _count(job, chosen);
        else _try(job, _serving(job), abi.encodeCall(ITrainingLedger.count, (job, round.number, round.attempt, counted)), 0);
    }

    /// @dev Enough are seated, the coordinator has taken its bond home, and its successor waits until it may go on.
    function takeOver(uint256 which) external {
        (bool found, JobId job) = _find(which, Phase.Waiting, Phase.Waiting);
        uint256 bond = ledger.termsOf(job).bond;
        uint256 serving = ledger.stateOf(job).coordinator;
        if (!found || bond == 0 || serving == 2 || withholds(job)) return;
        if (ledger.bondOf(job, _coordinators[serving]) != 0) _releaseBond(job, _coordinators[serving]);
        address successor = _coordinators[serving + 1];
        if (ledger.bondOf(job, successor) == 0) _postBond(job, successor, bond);
        for (uint256 i; i < 6; i++) if (_canJoin(job, _participants[i])) _join(job, _participants[i], 1);
        // Sometimes it tries at once.
        if (which >> 8 & 1 == 0) {
            _try(job, successor, abi.encodeCall(ITrainingLedger.takeOver, (job)), 0);
            return;
        }
        uint256 ripe = block.timestamp + 300;
        _pass(ripe);
        if (block.timestamp == ripe) _takeOver(job, successor);
    }

    function replaceCoordinator(uint256 which, uint256 who) external {
        (bool found, JobId job) = _find(which, Phase.Overdue, Phase.Settling);
        // Sometimes a coordinator that has time left oversleeps.
        if (!found || which % 8 == 0) (found, job) = _find(which, Phase.Disclosing, Phase.Disclosing);
        bool inTime = found && _phase(job) != Phase.Overdue;
        if (inTime && who % 2 == 0) _pass(ledger.roundOf(job).revealEnd + 300);
        if (found && _phase(job) == Phase.Overdue) _replaceCoordinator(job, _everyone[who % _everyone.length]);
    }

    /* PARTICIPANTS */

    function join(uint256 which, uint256 who, uint32 samples) external {
        JobId job = _job(which);
        address participant = _participants[who % 6];
        if (_canJoin(job, participant)) _join(job, participant, samples == 0 ? 1 : samples);
    }

    function leave(uint256 which, uint256 who) external {
        JobId job = _job(which);
        address participant = _participants[who % 6];
        if (_isSeated(job, participant) && !_has(job, participant, ledger.roundOf(job).committed)) {
            _leave(job, participant);
        }
    }

    /// @dev All others commit; the one that they wait for leaves.
    function leaveLast(uint256 which, uint256 who) external {
        (bool found, JobId job) = _find(which, Phase.Committing, Phase.Committing);
        address last = _participants[1 + who % 5];
        if (!found || !_isSeated(job, last) || _has(job, last, ledger.roundOf(job).committed)) return;
        for (uint256 i; i < 6; i++) if (_participants[i] != last) _commitIfDue(job, _participants[i]);
        _leave(job, last);
    }

    function commit(uint256 which, uint256 who) external {
        (bool found, JobId job) = _find(which, Phase.Committing, Phase.Committing);
        if (found) _commitIfDue(job, _participants[who % 6]);
    }

    function reveal(uint256 which, uint256 who) external {
        (bool found, JobId job) = _find(which, Phase.Revealing, Phase.Revealing);
        if (found) _revealIfDue(job, _participants[who % 6]);
    }

    /* ANYONE */

    function disclose(uint256 which, uint256 who) external {
        (bool found, JobId job) = _find(which, Phase.Disclosing, Phase.Overdue);
        // Now and then it is given away before it is due.
        if (!found && which % 64 == 0) (found, job) = (true, _job(which));
        if (found && ledger.termsOf(job).validationLock != 0 && ledger.stateOf(job).validationKey == 0) {
            _disclose(job, _everyone[who % _everyone.length]);
        }
    }

    function restartRound(uint256 which, uint256 who) external {
        (bool found, JobId job) = _find(which, Phase.Starved, Phase.Starved);
        if (found) _restartRound(job, _everyone[who % _everyone.length]);
    }

    function withdraw(uint256 which, uint256 who) external {
        JobId job = _job(which);
        address account = _everyone[who % _everyone.length];
        if (ledger.creditOf(job, account) != 0) _withdraw(job, account);
    }

    /// @dev Some seconds, or as many as there are to a job's deadline.
    function wait(uint256 which, uint256 time) external {
        Round memory round = ledger.roundOf(_job(which));
        Phase phase = _phase(_job(which));
        if (time % 2 == 0 && phase == Phase.Committing) _pass(round.commitEnd);
        else if (time % 2 == 0 && phase == Phase.Revealing) _pass(round.revealEnd);
        // A coordinator oversleeps the count.
        else if (time % 4 == 0 && phase == Phase.Counting) _pass(uint256(round.revealEnd) + 300);
        else _pass(block.timestamp + time % 20);
    }

    /// @dev Everybody does what is asked for until the round is to be settled; single acts seldom get that far.
    function carryOn(uint256 which, uint256 lazy) external {
        JobId job = _job(which);
        if (_phase(job) == Phase.Waiting) {
            postBond(which, ledger.stateOf(job).coordinator);
            for (uint256 i; i < 6; i++) if (_canJoin(job, _participants[i])) _join(job, _participants[i], 1);
        }
        for (uint256 i; i < 6; i++) if (_phase(job) == Phase.Committing) _commitIfDue(job, _participants[i]);
        if (ledger.roundOf(job).stage == Stage.Masking && _phase(job) == Phase.Committing && lazy >> 40 & 3 != 0) {
            _pass(ledger.roundOf(job).commitEnd);
        }
        if (_phase(job) == Phase.Counting) _count(job, lazy >> 42 & 1 == 0 ? lazy >> 44 : type(uint256).max);
        for (uint256 i; i < 6; i++) {
            // Now and then somebody stays silent.
            bool reveals = lazy >> (2 * i) & 3 != 0 || i == 0;
            if (reveals && _phase(job) == Phase.Revealing) _revealIfDue(job, _participants[i]);
        }
        // Sometimes the window ends at once.
        if (lazy >> 12 & 3 == 0 && _phase(job) == Phase.Revealing) _pass(ledger.roundOf(job).revealEnd);
    }

    /// @dev Any call by anyone at any time, with whatever arguments: most are refused, and what is not is accounted for as
    /// every other call is.
    function anyoneTries(uint256 which, uint256 what, uint32 samples, bytes32 word) external {
        JobId job = _job(which);
        Round memory round = ledger.roundOf(job);
        address who = _everyone[uint256(word) % _everyone.length];
        // A call of those that are not refused is as likely as one that is.
        bytes32 terms = samples % 8 == 0 ? word : ledger.stateOf(job).termsHash;
        bytes30 commitment = ledger.commitmentFor(job, round.number, who, "digest", "root", "salt");
        uint24 number = samples % 8 == 2 ? round.number + 1 : round.number;
        uint16 attempt = samples % 8 == 3 ? round.attempt + 1 : round.attempt;
        what %= 15;
        // The honest participant does nothing but what it should.
        if (who == honest && (what > 4 && what < 9 || what > 12)) who = stranger;
        if (what == 0) _try(job, who, abi.encodeCall(ITrainingLedger.closeJob, (job)), 0);
        else if (what == 1) _try(job, who, abi.encodeCall(ITrainingLedger.postBond, (job, terms)), ledger.termsOf(job).bond);
        else if (what == 2) _try(job, who, abi.encodeCall(ITrainingLedger.releaseBond, (job)), 0);
        else if (what == 3) _try(job, who, _settleCall(job, samples % 8 == 4 ? uint64(samples) : type(uint64).max, samples), 0);
        else if (what == 4) _try(job, who, abi.encodeCall(ITrainingLedger.replaceCoordinator, (job)), 0);
        else if (what == 5) _tryJoin(job, who, terms, samples);
        else if (what == 6) _try(job, who, abi.encodeCall(ITrainingLedger.leave, (job)), 0);
        else if (what == 7) _try(job, who, abi.encodeCall(ITrainingLedger.commit, (job, number, attempt, commitment)), 0);
        else if (what == 8) _try(job, who, abi.encodeCall(ITrainingLedger.reveal, (job, "digest", "root", "salt")), 0);
        else if (what == 9) _try(job, who, abi.encodeCall(ITrainingLedger.restartRound, (job)), 0);
        else if (what == 10) _try(job, who, abi.encodeCall(ITrainingLedger.disclose, (job, word)), 0);
        else if (what == 11) _try(job, who, abi.encodeCall(ITrainingLedger.takeOver, (job)), 0);
        else if (what == 12) _try(job, who, abi.encodeCall(ITrainingLedger.count, (job, number, attempt, uint64(samples))), 0);
        else if (what == 13) _try(job, who, abi.encodeCall(ITrainingLedger.commitMasked, (job, number, attempt, word)), 0);
        else _try(job, who, abi.encodeCall(ITrainingLedger.unmask, (job, number, attempt, word)), 0);
    }

    /* CALLS, EACH ACCOUNTED FOR */

    function _createJob(JobTerms memory terms) internal watched(JobId.wrap(ledger.jobCount() + 1)) {
        uint256 budget = uint256(terms.rounds) * terms.reward;
        JobId job = JobId.wrap(ledger.jobCount() + 1);
        (_totals[job].budget, _totals[job].paidIn) = (budget, budget);
        _from(sponsor, budget);
        ledger.createJob{value: budget}(terms, _coordinators);
    }

    function _closeJob(JobId job) internal watched(job) {
        _from(sponsor, 0);
        ledger.closeJob(job);
    }

    function _postBond(JobId job, address coordinator, uint256 bond) internal watched(job) {
        _totals[job].paidIn += bond;
        bytes32 termsHash = ledger.stateOf(job).termsHash;
        _from(coordinator, bond);
        ledger.postBond{value: bond}(job, termsHash);
    }

    function _releaseBond(JobId job, address coordinator) internal watched(job) {
        _from(coordinator, 0);
        ledger.releaseBond(job);
    }

    function _settle(JobId job, uint64 accepted, uint256 seed) internal watched(job) {
        bytes memory call = _settleCall(job, accepted, seed);
        _from(_serving(job), 0);
        (bool done,) = address(ledger).call(call);
        vm.assertTrue(done, "settle");
    }

    function _replaceCoordinator(JobId job, address caller) internal watched(job) {
        _from(caller, 0);
        ledger.replaceCoordinator(job);
    }

    function _join(JobId job, address participant, uint32 samples) internal watched(job) {
        uint256 stake = ledger.termsOf(job).stake;
        _totals[job].paidIn += stake;
        if (participant == honest) _totals[job].honestPaidIn += stake;
        bytes32 termsHash = ledger.stateOf(job).termsHash;
        bytes32 key = ledger.termsOf(job).masked ? KEY : bytes32(0);
        _from(participant, stake);
        ledger.join{value: stake}(job, termsHash, samples, new bytes32[](0), key);
    }

    function _leave(JobId job, address participant) internal watched(job) {
        _from(participant, 0);
        ledger.leave(job);
    }

    function _commitIfDue(JobId job, address participant) internal watched(job) {
        Round memory round = ledger.roundOf(job);
        if (!_isSeated(job, participant) || _has(job, participant, round.committed)) return;
        if (ledger.termsOf(job).masked) {
            if (!_has(job, participant, ledger.stateOf(job).cohort)) return;
            _from(participant, 0);
            ledger.commitMasked(job, round.number, round.attempt, "letters");
            return;
        }
        bytes30 commitment = ledger.commitmentFor(job, round.number, participant, "digest", "root", "salt");
        _from(participant, 0);
        ledger.commit(job, round.number, round.attempt, commitment);
    }

    function _revealIfDue(JobId job, address participant) internal watched(job) {
        Round memory round = ledger.roundOf(job);
        if (!_has(job, participant, round.committed & ~round.revealed)) return;
        _from(participant, 0);
        if (round.stage == Stage.Unmasking) ledger.unmask(job, round.number, round.attempt, "release");
        else ledger.reveal(job, "digest", "root", "salt");
    }

    /// @dev Those of `chosen` who committed.
    function _count(JobId job, uint256 chosen) internal watched(job) {
        Round memory round = ledger.roundOf(job);
        _from(_serving(job), 0);
        ledger.count(job, round.number, round.attempt, round.committed & uint64(chosen));
    }

    function _restartRound(JobId job, address caller) internal watched(job) {
        _from(caller, 0);
        ledger.restartRound(job);
    }

    function _disclose(JobId job, address caller) internal watched(job) {
        _from(caller, 0);
        ledger.disclose(job, KEY);
    }

    function _withdraw(JobId job, address account) internal watched(job) {
        _from(account, 0);
        ledger.withdraw(job);
    }

    function _takeOver(JobId job, address successor) internal watched(job) {
        _from(successor, 0);
        ledger.takeOver(job);
    }

    function _tryJoin(JobId job, address who, bytes32 terms, uint32 samples) internal {
        bytes32 key = ledger.termsOf(job).masked == (samples % 8 == 6) ? bytes32(0) : KEY;
        bytes memory call = abi.encodeCall(ITrainingLedger.join, (job, terms, samples, new bytes32[](0), key));
        uint256 value = samples % 8 == 5 ? samples : ledger.termsOf(job).stake;
        bool agreed = terms == ledger.stateOf(job).termsHash && value == ledger.termsOf(job).stake && samples != 0;
        agreed = agreed && (key != 0) == ledger.termsOf(job).masked;
        bool done = _try(job, who, call, value);
        vm.assertTrue(agreed || !done, "it joined something else");
    }

    function _try(JobId job, address who, bytes memory call, uint256 value) internal watched(job) returns (bool done) {
        _from(who, value);
        (done,) = address(ledger).call{value: value}(call);
        if (done) _totals[job].paidIn += value;
    }

    /// @dev The next call is `account`'s, which comes into the money for it.
    function _from(address account, uint256 value) internal {
        vm.deal(account, account.balance + value);
        vm.prank(account);
    }

    /// @dev Among `accepted`, those who revealed; scores of none, of one unit, and up to the highest.
    function _settleCall(JobId job, uint64 accepted, uint256 seed) internal view returns (bytes memory) {
        Round memory round = ledger.roundOf(job);
        accepted &= round.revealed;
        uint32[] memory scores = new uint32[](_ones(accepted));
        for (uint256 i; i < scores.length; i++) {
            scores[i] = uint32(uint256(keccak256(abi.encode(seed, i))) % 4 == 0 ? 0 : seed >> (i * 32));
        }
        bytes32 digest = keccak256(abi.encode(seed));
        return abi.encodeCall(
            ITrainingLedger.settle, (job, round.number, digest, digest, digest, round.revealed, accepted, scores)
        );
    }

    /* TIME */

    /// @dev The honest participant is awake meanwhile: it reveals at the latest when committing ends by the clock.
    function _pass(uint256 until) internal {
        _honestReveals();
        for (uint256 id = 1; id <= ledger.jobCount(); id++) {
            Round memory round = ledger.roundOf(JobId.wrap(id));
            bool waits = block.timestamp < round.commitEnd && _has(JobId.wrap(id), honest, round.committed);
            if (waits && round.commitEnd < until) until = round.commitEnd;
        }
        vm.warp(until);
        _honestReveals();
    }

    function _honestReveals() internal {
        for (uint256 id = 1; id <= ledger.jobCount(); id++) {
            if (_phase(JobId.wrap(id)) == Phase.Revealing) _revealIfDue(JobId.wrap(id), honest);
        }
    }

    /* READING */

    function _job(uint256 which) internal view returns (JobId) {
        return JobId.wrap(1 + which % ledger.jobCount());
    }

    /// @dev A job in one of two phases, looked for from `which` on.
    function _find(uint256 which, Phase either, Phase or) internal view returns (bool, JobId job) {
        for (uint256 i; i < ledger.jobCount(); i++) {
            job = _job(which % MOST_JOBS + i);
            Phase phase = _phase(job);
            if (phase == either || phase == or) return (true, job);
        }
        return (false, job);
    }

    function _isOver(JobId job) internal view returns (bool) {
        return ledger.roundOf(job).stage == Stage.Over;
    }

    function _isDisclosing(JobId job) internal view returns (bool) {
        return ledger.roundOf(job).stage == Stage.Disclosing;
    }

    function _isSeated(JobId job, address participant) internal view returns (bool) {
        return ledger.memberOf(job, participant).seatPlusOne != 0;
    }

    function _has(JobId job, address participant, uint64 bits) internal view returns (bool) {
        uint8 seatPlusOne = ledger.memberOf(job, participant).seatPlusOne;
        return seatPlusOne != 0 && bits >> (seatPlusOne - 1) & 1 != 0;
    }

    function _canJoin(JobId job, address participant) internal view returns (bool) {
        bool free = ledger.roundOf(job).seated < ledger.termsOf(job).maxParticipants;
        return free && !_isOver(job) && !_isDisclosing(job) && !_isSeated(job, participant);
    }

    /// @dev Ordinary; one seat and no deposits; penalties as high as the deposits, and no reward; many seats and amounts
    /// that do not divide; a single round; a masked one. In all but one the validation set is withheld.
    function _terms(uint256 kind) internal pure returns (JobTerms memory terms) {
        (terms.specDigest, terms.modelDigest, terms.modelRoot) = ("spec", "model", "root");
        (terms.commitWindow, terms.revealWindow, terms.settleWindow) = (100, 200, 300);
        if (kind != 3) terms.validationLock = keccak256(abi.encode(KEY));
        if (kind == 0) _shape(terms, [uint8(4), 2, 4, 2], [uint96(9 ether), 1 ether, 0.4 ether, 5 ether, 2 ether]);
        else if (kind == 1) _shape(terms, [uint8(3), 1, 1, 1], [uint96(7), 0, 0, 0, 0]);
        else if (kind == 2) _shape(terms, [uint8(6), 2, 3, 1], [uint96(0), 1001, 1001, 10, 10]);
        else if (kind == 3) _shape(terms, [uint8(5), 3, 6, 3], [uint96(101), 99, 33, 7, 7]);
        else if (kind == 4) _shape(terms, [uint8(1), 1, 2, 1], [uint96(1), 5, 2, 3, 0]);
        else _shape(terms, [uint8(4), 3, 6, 2], [uint96(101), 100, 33, 7, 7]);
        terms.masked = kind == 5;
    }

    function _shape(JobTerms memory terms, uint8[4] memory counts, uint96[5] memory amounts) internal pure {
        (terms.rounds, terms.minParticipants, terms.maxParticipants) = (counts[0], counts[1], counts[2]);
        terms.missLimit = counts[3];
        (terms.reward, terms.stake, terms.revealPenalty) = (amounts[0], amounts[1], amounts[2]);
        (terms.bond, terms.settlePenalty) = (amounts[3], amounts[4]);
    }
}
