// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ITrainingLedger, JobId, JobState, JobTerms, Member, Phase, Round} from "../src/interfaces/ITrainingLedger.sol";
import {Vm} from "./Vm.sol";

/// @notice One job and the steps that bring it into each phase.
/// Participants are numbered; as they join in order, the number of a participant is that of its seat.
abstract contract BaseTest {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    uint256 internal constant START = 1_800_000_000;
    uint32 internal constant COMMIT_WINDOW = 100;
    uint32 internal constant REVEAL_WINDOW = 200;
    uint32 internal constant SETTLE_WINDOW = 300;
    uint32 internal constant LEAST_WINDOW = 10;
    bytes32 internal constant MODEL = keccak256("model");
    bytes32 internal constant ROOT = keccak256("root");
    bytes32 internal constant REPORT = keccak256("report");
    bytes32 internal constant KEY = keccak256("key of the validation set");
    bytes32 internal constant NO_KEY = 0;
    bytes32 internal constant LOCK = keccak256(abi.encode(KEY));

    address internal immutable sponsor = _account("sponsor");
    address internal immutable stranger = _account("stranger");

    ITrainingLedger internal ledger;
    JobId internal job;
    /// @dev What everybody agrees to in `job`.
    bytes32 internal termsHash;

    function setUp() public virtual {
        vm.warp(START);
        ledger = _deploy();
        job = _createJob(_terms());
    }

    /// @dev By name, so that tests need not be compiled again when only the contract has changed.
    function _deploy() internal returns (ITrainingLedger) {
        return ITrainingLedger(vm.deployCode("TrainingLedger.sol:TrainingLedger", abi.encode(LEAST_WINDOW)));
    }

    /* ACTORS */

    function _account(string memory name) internal returns (address account) {
        account = address(uint160(uint256(keccak256(bytes(name)))));
        vm.label(account, name);
    }

    function _participant(uint256 i) internal pure returns (address) {
        return address(uint160(0x1000000 + i));
    }

    function _coordinator(uint256 i) internal pure returns (address) {
        return address(uint160(0xC000000 + i));
    }

    /* A JOB */

    function _terms() internal pure virtual returns (JobTerms memory) {
        return JobTerms({
            specDigest: keccak256("spec"),
            modelDigest: keccak256("first model"),
            modelRoot: keccak256("first root"),
            rounds: 3,
            minParticipants: 2,
            maxParticipants: 4,
            missLimit: 2,
            commitWindow: COMMIT_WINDOW,
            revealWindow: REVEAL_WINDOW,
            settleWindow: SETTLE_WINDOW,
            masked: false,
            reward: 9 ether,
            stake: 1 ether,
            revealPenalty: 0.4 ether,
            bond: 5 ether,
            settlePenalty: 2 ether,
            validationLock: 0,
            admission: 0
        });
    }

    /// @dev One round, and a validation set that is withheld.
    function _withheld() internal pure returns (JobTerms memory terms) {
        terms = _terms();
        (terms.rounds, terms.validationLock) = (1, LOCK);
    }

    function _masked() internal pure virtual returns (JobTerms memory terms) {
        terms = _terms();
        (terms.masked, terms.minParticipants, terms.maxParticipants) = (true, 3, 8);
    }

    function _coordinators() internal pure virtual returns (address[] memory list) {
        list = new address[](3);
        for (uint256 i; i < list.length; i++) list[i] = _coordinator(i);
    }

    function _newJob(JobTerms memory terms) internal {
        job = _createJob(terms);
    }

    function _createJob(JobTerms memory terms) internal returns (JobId) {
        uint256 budget = uint256(terms.rounds) * terms.reward;
        termsHash = keccak256(abi.encode(sponsor, terms, _coordinators()));
        vm.deal(sponsor, budget);
        vm.prank(sponsor);
        return ledger.createJob{value: budget}(terms, _coordinators());
    }

    /* STEPS */

    function _postBond(uint256 i) internal {
        uint256 bond = ledger.termsOf(job).bond;
        vm.deal(_coordinator(i), bond);
        vm.prank(_coordinator(i));
        ledger.postBond{value: bond}(job, termsHash);
    }

    function _join(uint256 i) internal {
        JobTerms memory terms = ledger.termsOf(job);
        vm.deal(_participant(i), terms.stake);
        vm.prank(_participant(i));
        bytes32 key = terms.masked ? _maskKey(i) : NO_KEY;
        ledger.join{value: terms.stake}(job, termsHash, uint32(100 + i), _noProof(), key);
    }

    function _maskKey(uint256 i) internal pure returns (bytes32) {
        return keccak256(abi.encode("mask key", i));
    }

    function _leave(uint256 i) internal {
        vm.prank(_participant(i));
        ledger.leave(job);
    }

    function _digest(uint256 i, uint24 round) internal pure returns (bytes32) {
        return keccak256(abi.encode("digest", i, round));
    }

    function _root(uint256 i, uint24 round) internal pure returns (bytes32) {
        return keccak256(abi.encode("root", i, round));
    }

    function _salt(uint256 i, uint24 round) internal pure returns (bytes32) {
        return keccak256(abi.encode("salt", i, round));
    }

    function _commitment(uint256 i, uint24 round) internal view returns (bytes30) {
        return ledger.commitmentFor(
            job, round, _participant(i), _digest(i, round), _root(i, round), _salt(i, round)
        );
    }

    function _commit(uint256 i) internal {
        Round memory current = _round();
        bytes30 commitment = _commitment(i, current.number);
        vm.prank(_participant(i));
        ledger.commit(job, current.number, current.attempt, commitment);
    }

    function _reveal(uint256 i) internal {
        uint24 round = ledger.roundOf(job).number;
        vm.prank(_participant(i));
        ledger.reveal(job, _digest(i, round), _root(i, round), _salt(i, round));
    }

    function _letters(uint256 i, uint24 round) internal pure returns (bytes32) {
        return keccak256(abi.encode("letters", i, round));
    }

    function _release(uint256 i, uint24 round) internal pure returns (bytes32) {
        return keccak256(abi.encode("release", i, round));
    }

    function _commitMasked(uint256 i) internal {
        Round memory current = _round();
        vm.prank(_participant(i));
        ledger.commitMasked(job, current.number, current.attempt, _letters(i, current.number));
    }

    function _count(uint64 counted) internal {
        Round memory current = _round();
        vm.prank(_serving());
        ledger.count(job, current.number, current.attempt, counted);
    }

    function _unmask(uint256 i) internal {
        Round memory current = _round();
        vm.prank(_participant(i));
        ledger.unmask(job, current.number, current.attempt, _release(i, current.number));
    }

    function _settle(uint64 accepted, uint32[] memory scores) internal {
        Round memory current = ledger.roundOf(job);
        vm.prank(_serving());
        ledger.settle(job, current.number, MODEL, ROOT, REPORT, current.revealed, accepted, scores);
    }

    /// @dev Accepts seats 0 to n - 1 with equal scores.
    function _settleAll(uint256 n) internal {
        _settle(_seats(n), _equalScores(n));
    }

    function _withdraw(address account) internal returns (uint256) {
        vm.prank(account);
        return ledger.withdraw(job);
    }

    /* PHASES */

    /// @dev Brings a new job with n participants to Committing.
    function _open(uint256 n) internal {
        _postBond(0);
        for (uint256 i; i < n; i++) _join(i);
    }

    function _commitAll(uint256 n) internal {
        for (uint256 i; i < n; i++) _commit(i);
    }

    function _revealAll(uint256 n) internal {
        for (uint256 i; i < n; i++) _reveal(i);
    }

    /// @dev Brings a new job with n participants to Revealing.
    function _openAndCommit(uint256 n) internal {
        _open(n);
        _commitAll(n);
    }

    /// @dev Brings a new job with n participants to Settling.
    function _openToReveal(uint256 n) internal {
        _openAndCommit(n);
        _revealAll(n);
    }

    function _commitMaskedAll(uint256 n) internal {
        for (uint256 i; i < n; i++) _commitMasked(i);
    }

    function _unmaskAll(uint256 n) internal {
        for (uint256 i; i < n; i++) _unmask(i);
    }

    /// @dev Plays a masked round with seats 0 to n - 1, who are all of the cohort.
    function _playMasked(uint256 n) internal {
        _commitMaskedAll(n);
        _count(_seats(n));
        _unmaskAll(n);
        _settleAll(n);
    }

    /// @dev Brings a new masked job, which needs `least` of n, to Committing. Where `least` is less than n, the others come
    /// when the first round is open, and are the cohort of the second one with them.
    function _withMost(uint256 n, uint8 least) internal {
        JobTerms memory terms = _masked();
        (terms.minParticipants, terms.maxParticipants) = (least, uint8(n));
        _newJob(terms);
        _open(n);
    }

    /// @dev Brings a new masked job with n participants to Counting.
    function _openToCount(uint256 n) internal {
        _newJob(_masked());
        _open(n);
        _commitMaskedAll(n);
        _assertPhase(Phase.Counting);
    }

    /// @dev Brings a new masked job with n participants to Revealing, with all of them counted.
    function _openToUnmask(uint256 n) internal {
        _openToCount(n);
        _count(_seats(n));
        _assertPhase(Phase.Revealing);
    }

    /// @dev Three are seated and only the first commits.
    function _starve() internal {
        _open(3);
        _commit(0);
        _skip(COMMIT_WINDOW);
    }

    /// @dev Brings a new job with three participants to a phase; they have done all that the phases before ask for.
    /// In Counting and Disclosing that is another job than before, since not every job gets there.
    function _bring(Phase phase) internal {
        if (phase == Phase.Disclosing) _openToDisclosing(3);
        else if (phase == Phase.Counting) _bringToCounting();
        else if (phase == Phase.Over) _close();
        else if (phase == Phase.Starved) _starve();
        else if (phase != Phase.Waiting) _open(3);

        if (phase == Phase.Revealing || phase == Phase.Settling || phase == Phase.Overdue) _commitAll(3);
        if (phase == Phase.Settling || phase == Phase.Overdue) _revealAll(3);
        if (phase == Phase.Overdue) _skip(SETTLE_WINDOW);
        _assertPhase(phase);
    }

    /// @dev A masked job, and but for that the one that was.
    function _bringToCounting() internal {
        JobTerms memory terms = ledger.termsOf(job);
        (terms.masked, terms.minParticipants) = (true, 3);
        _newJob(terms);
        _open(3);
        _commitMaskedAll(3);
    }

    /// @dev Brings a new job with n participants and a withheld validation set to Disclosing.
    function _openToDisclosing(uint256 n) internal {
        _newJob(_withheld());
        _openToReveal(n);
        _settleAll(n);
    }

    /// @dev Nothing is left to do in the round but to settle it: everyone acts, and the coordinator settles.
    function _playRound(uint256 n) internal {
        _commitAll(n);
        _revealAll(n);
        _settleAll(n);
    }

    /// @dev The sponsor ends the job.
    function _close() internal {
        vm.prank(sponsor);
        ledger.closeJob(job);
    }

    function _disclose() internal {
        vm.prank(stranger);
        ledger.disclose(job, KEY);
    }

    function _skip(uint256 time) internal {
        vm.warp(block.timestamp + time);
    }

    /* READING */

    function _serving() internal view returns (address) {
        return ledger.coordinatorsOf(job)[ledger.stateOf(job).coordinator];
    }

    function _phase() internal view returns (Phase) {
        return ledger.phaseAt(job, block.timestamp);
    }

    function _round() internal view returns (Round memory) {
        return ledger.roundOf(job);
    }

    function _state() internal view returns (JobState memory) {
        return ledger.stateOf(job);
    }

    function _noProof() internal pure returns (bytes32[] memory) {}

    function _member(uint256 i) internal view returns (Member memory) {
        return ledger.memberOf(job, _participant(i));
    }

    function _credit(uint256 i) internal view returns (uint256) {
        return ledger.creditOf(job, _participant(i));
    }

    function _seats(uint256 n) internal pure returns (uint64) {
        return uint64((1 << n) - 1);
    }

    function _score(uint32 only) internal pure returns (uint32[] memory scores) {
        scores = new uint32[](1);
        scores[0] = only;
    }

    function _scores(uint32 first, uint32 second) internal pure returns (uint32[] memory scores) {
        scores = new uint32[](2);
        (scores[0], scores[1]) = (first, second);
    }

    function _equalScores(uint256 n) internal pure returns (uint32[] memory scores) {
        scores = new uint32[](n);
        for (uint256 i; i < n; i++) scores[i] = 7;
    }

    /// @dev The number of bits set.
    function _ones(uint64 bits) internal pure returns (uint256 ones) {
        for (uint256 i; i < 64; i++) ones += bits >> i & 1;
    }

    /* EXPECTING */

    /// @dev Since `vm.recordLogs`.
    function _assertLogCount(uint256 expected) internal {
        vm.assertEq(vm.getRecordedLogs().length, expected, "number of events");
    }

    function _assertPhase(Phase expected) internal view {
        vm.assertEq(uint256(_phase()), uint256(expected));
    }

    function _expectError(bytes4 error) internal {
        vm.expectRevert(abi.encodeWithSelector(error));
    }

    function _expectError(bytes4 error, uint256 argument) internal {
        vm.expectRevert(abi.encodeWithSelector(error, argument));
    }

    function _expectError(bytes4 error, address argument) internal {
        vm.expectRevert(abi.encodeWithSelector(error, argument));
    }

    function _expectWrongPhase(Phase actual) internal {
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.WrongPhase.selector, actual));
    }

    function _expectWrongRound(uint24 current, uint16 attempt) internal {
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.WrongRound.selector, current, attempt));
    }

    function _expectUnknownJob(JobId unknown) internal {
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.UnknownJob.selector, unknown));
    }

    function _expectEvent() internal {
        vm.expectEmit(address(ledger));
    }

    function _bound(uint256 value, uint256 least, uint256 most) internal pure returns (uint256) {
        return least + value % (most - least + 1);
    }
}
