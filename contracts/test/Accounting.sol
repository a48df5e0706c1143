// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {
    Departure, ITrainingLedger, JobId, JobState, JobTerms, Member, Outcome, Phase, Round, Stage
} from "../src/interfaces/ITrainingLedger.sol";
import {Vm} from "./Vm.sol";

/// @notice Totals of a job that are kept beside the ledger.
struct Totals {
    uint256 paidIn;
    uint256 paidOut;
    uint256 budget;
    uint256 penalties;
    uint256 earned;
    uint256 refund;
    uint256 honestPaidIn;
    uint256 honestPaidOut;
    uint256 honestPenalties;
}

/// @notice What is known of a participant of a job, in or out of a seat.
struct Ghost {
    uint8 misses;
    bool excused;
    bool returning;
    /// In which masked attempt it last gave a seat up, if it did so in one.
    bytes32 left;
}

/// @notice A second ledger for the invariants: every call goes through `watched`, which reads what was before, and from the
/// events that it left derives what has to be after: the round, each seat, each wei.
abstract contract Accounting {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    ITrainingLedger public immutable ledger =
        ITrainingLedger(vm.deployCode("TrainingLedger.sol:TrainingLedger", abi.encode(uint32(10))));

    address public immutable sponsor = _actor("sponsor");
    /// Commits and reveals whenever it can, and reveals in time what it has committed to.
    address public immutable honest = _actor("honest");
    address public immutable stranger = _actor("stranger");
    /// The honest participant is the first.
    address[] internal _participants;
    address[] internal _coordinators;
    address[] internal _everyone;

    mapping(JobId => Totals) internal _totals;
    mapping(JobId => mapping(address => Ghost)) internal _ghosts;
    /// Of a masked attempt, who has had a seat since it opened, and how many were seated then.
    mapping(JobId => uint64) internal _cohorts;
    mapping(JobId => uint256) internal _opened;
    /// How often an attempt was counted, and as what.
    mapping(JobId => mapping(bytes32 attempt => uint256)) internal _counts;
    mapping(JobId => mapping(bytes32 attempt => uint64)) internal _counted;
    /// The most that any attempt was counted.
    uint256 public recounts;
    uint256 public voids;
    /// Penalties in masked attempts of seats that were not counted.
    uint256 public uncountedPenalties;
    mapping(JobId => uint256) internal _endedAs;
    mapping(JobId => mapping(address coordinator => uint256)) internal _since;
    /// How often each event was seen, by its first topic.
    mapping(bytes32 topic => uint256) public seen;
    mapping(Outcome => uint256) public ends;
    mapping(Departure => uint256) public departures;
    /// How often a successor took over where only a bond was missing.
    uint256 public takeovers;
    /// How often committing ended because whom all waited for left.
    uint256 public closedByLeaving;

    /* WHAT WAS BEFORE THE CALL */

    Round internal _round;
    JobState internal _state;
    Phase internal _phaseBefore;
    bool internal _withheldBefore;
    mapping(address => Member) internal _members;
    mapping(address => uint256) internal _credits;
    mapping(address => uint256) internal _bonds;

    /* WHAT THE CALL SAID */

    /// Counts calls, so that nothing of what follows has to be deleted.
    uint256 internal _call;
    mapping(uint256 call => mapping(bytes32 topic => uint256)) internal _times;
    mapping(uint256 call => mapping(bytes32 topic => address)) internal _whom;
    mapping(uint256 call => mapping(bytes32 topic => bytes)) internal _said;
    mapping(uint256 call => mapping(address => uint256)) internal _penalty;
    mapping(uint256 call => mapping(address => uint256)) internal _gain;
    mapping(uint256 call => mapping(address => uint256)) internal _departurePlusOne;

    constructor() {
        _participants = [honest, _actor("ann"), _actor("bob"), _actor("cy"), _actor("dee"), _actor("eve")];
        _coordinators = [_actor("first coordinator"), _actor("second coordinator"), _actor("third coordinator")];
        for (uint256 i; i < _participants.length; i++) _everyone.push(_participants[i]);
        for (uint256 i; i < _coordinators.length; i++) _everyone.push(_coordinators[i]);
        _everyone.push(sponsor);
        _everyone.push(stranger);
    }

    function everyone() external view returns (address[] memory) {
        return _everyone;
    }

    function totals(JobId job) external view returns (Totals memory) {
        return _totals[job];
    }

    /// @dev 0 while it has not ended.
    function outcomePlusOne(JobId job) external view returns (uint256) {
        return _endedAs[job];
    }

    function _actor(string memory name) internal returns (address actor) {
        actor = address(uint160(uint256(keccak256(bytes(name)))));
        vm.label(actor, name);
    }

    modifier watched(JobId job) {
        _look(job);
        vm.recordLogs();
        _;
        _enter(job, vm.getRecordedLogs());
    }

    function _look(JobId job) internal {
        _call++;
        bool known = JobId.unwrap(job) <= ledger.jobCount();
        Round memory none;
        JobState memory nothing;
        _round = known ? ledger.roundOf(job) : none;
        _state = known ? ledger.stateOf(job) : nothing;
        _phaseBefore = known ? _phase(job) : Phase.Waiting;
        _withheldBefore = known && withholds(job);
        for (uint256 i; i < _everyone.length; i++) {
            address account = _everyone[i];
            Member memory nobody;
            _members[account] = known ? ledger.memberOf(job, account) : nobody;
            _credits[account] = known ? ledger.creditOf(job, account) : 0;
            _bonds[account] = known ? ledger.bondOf(job, account) : 0;
        }
    }

    function _enter(JobId job, Vm.Log[] memory logs) internal {
        for (uint256 i; i < logs.length; i++) {
            bytes32 topic = logs[i].topics[0];
            address account = logs[i].topics.length == 0 ? address(0) : _account(logs[i]);
            seen[topic]++;
            _times[_call][topic]++;
            _whom[_call][topic] = account;
            _said[_call][topic] = logs[i].data;
            if (topic == ITrainingLedger.PenaltyTaken.selector) {
                _penalty[_call][account] += abi.decode(logs[i].data, (uint256));
            } else if (topic == ITrainingLedger.Left.selector) {
                (, Departure departure, uint256 stake) = abi.decode(logs[i].data, (uint8, Departure, uint256));
                departures[departure]++;
                _departurePlusOne[_call][account] = uint256(departure) + 1;
                vm.assertEq(stake, _members[account].stake - _penalty[_call][account], "what is left of a stake");
                _gain[_call][account] += stake;
            }
        }
        if (logs.length == 0) return;
        _enterMembers(job);
        _enterRound(job);
        _enterMoney(job);
        _enterBonds(job);
        _enterEnd(job);
    }

    /* SEATS */

    /// @dev An attempt is over in which misses count, and penalties unless it starved.
    function _attemptEnded() internal view returns (bool) {
        return _has(ITrainingLedger.Settled.selector) || _has(ITrainingLedger.RoundStarved.selector) || _isAbandoned();
    }

    /// @dev Nobody was left to settle the open round.
    function _isAbandoned() internal view returns (bool) {
        return _replaced() && _successor() == address(0) && _round.stage != Stage.Disclosing;
    }

    function _enterMembers(JobId job) internal {
        JobTerms memory terms = ledger.termsOf(job);
        for (uint256 i; i < _everyone.length; i++) {
            address account = _everyone[i];
            Ghost storage ghost = _ghosts[job][account];
            Member memory expected = _members[account];
            uint256 departure;
            uint256 penalty;
            if (expected.seatPlusOne != 0 && _attemptEnded()) {
                uint64 bit = uint64(1) << (expected.seatPlusOne - 1);
                bool starved = _has(ITrainingLedger.RoundStarved.selector);
                if (_round.stage == Stage.Masking && _round.committed & bit != 0) {
                    // It could not do more before a count.
                } else if (!starved && _round.committed & ~_round.revealed & bit != 0) {
                    penalty = terms.revealPenalty;
                    if (expected.stake < 2 * penalty) departure = uint256(Departure.Exhausted) + 1;
                } else if (_round.committed & bit == 0) {
                    if (ghost.excused) ghost.excused = false;
                    else if (ghost.misses + 1 < terms.missLimit) ghost.misses++;
                    else departure = uint256(Departure.Missing) + 1;
                }
            } else if (_departurePlusOne[_call][account] == uint256(Departure.Voluntary) + 1) {
                departure = _departurePlusOne[_call][account];
                vm.assertTrue(expected.seatPlusOne != 0, "who leaves had a seat");
                bool held = _round.committed >> (expected.seatPlusOne - 1) & 1 != 0;
                vm.assertFalse(held, "who has committed does not leave");
            }
            vm.assertEq(_penalty[_call][account], penalty, "the penalty that was owed");
            vm.assertEq(_departurePlusOne[_call][account], departure, "who loses its seat, and why");
            _totals[job].penalties += penalty;
            if (terms.masked && penalty != 0) {
                bool counted = _counted[job][_attempt(_round)] >> (expected.seatPlusOne - 1) & 1 != 0;
                if (!counted) uncountedPenalties++;
            }
            if (account == honest) _totals[job].honestPenalties += penalty;

            expected.stake -= uint96(penalty);
            if (departure != 0) ghost.left = _isMasked(_round) ? _attempt(_round) : bytes32(0);
            if (departure != 0) (expected.seatPlusOne, expected.samples, expected.stake, ghost.excused) = (0, 0, 0, false);
            if (_whom[_call][ITrainingLedger.Committed.selector] == account) ghost.misses = 0;
            if (_whom[_call][ITrainingLedger.Unmasked.selector] == account) ghost.misses = 0;
            Member memory found = ledger.memberOf(job, account);
            if (_whom[_call][ITrainingLedger.Joined.selector] == account) {
                vm.assertEq(expected.seatPlusOne, 0, "who joins had no seat");
                bool closed = _round.stage == Stage.Disclosing || _round.stage == Stage.Over;
                vm.assertFalse(closed, "who joins can still take part");
                bool late = _round.stage == Stage.Open && block.timestamp > _round.commitEnd - uint256(terms.commitWindow);
                ghost.excused = late && !ghost.returning;
                if (_isMasked(_round)) ghost.excused = ghost.left != _attempt(_round);
                ghost.returning = true;
                (expected.seatPlusOne, expected.samples) = (found.seatPlusOne, found.samples);
                expected.stake = terms.stake;
            }
            (expected.misses, expected.excused) = (ghost.misses, ghost.excused);
            vm.assertEq(abi.encode(found), abi.encode(expected), "a member");
        }
    }

    /* THE ROUND */

    function _enterRound(JobId job) internal {
        JobTerms memory terms = ledger.termsOf(job);
        Round memory expected = _round;
        uint32 time = uint32(block.timestamp);
        if (_has(ITrainingLedger.JobCreated.selector)) expected.least = terms.minParticipants;
        uint8 left = uint8(_times[_call][ITrainingLedger.Left.selector]);
        expected.seated = expected.seated + uint8(_times[_call][ITrainingLedger.Joined.selector]) - left;

        bool settled = _has(ITrainingLedger.Settled.selector);
        bool starved = _has(ITrainingLedger.RoundStarved.selector);
        if (_has(ITrainingLedger.Committed.selector)) {
            vm.assertEq(uint256(_phaseBefore), uint256(Phase.Committing), "commit");
            expected.committed |= _bit(ITrainingLedger.Committed.selector);
            if (_isComplete(job, expected)) (expected.commitEnd, expected.revealEnd) = (time, time + terms.revealWindow);
        } else if (_has(ITrainingLedger.CommittedMasked.selector)) {
            vm.assertEq(uint256(_phaseBefore), uint256(Phase.Committing), "commit");
            uint64 bit = _bit(ITrainingLedger.CommittedMasked.selector);
            vm.assertTrue(_cohorts[job] & bit != 0, "who commits was there when the attempt opened");
            expected.committed |= bit;
            if (_isComplete(job, expected)) (expected.commitEnd, expected.revealEnd) = (time, time);
        } else if (_has(ITrainingLedger.Counted.selector)) {
            _enterCount(job, expected, time);
        } else if (_has(ITrainingLedger.Unmasked.selector)) {
            vm.assertEq(uint256(_phaseBefore), uint256(Phase.Revealing), "unmask");
            vm.assertEq(uint256(_round.stage), uint256(Stage.Unmasking), "only what is counted is unmasked");
            expected.revealed |= _bit(ITrainingLedger.Unmasked.selector);
            vm.assertEq(expected.revealed & ~_counted[job][_attempt(_round)], 0, "who unmasks is counted");
            if (expected.revealed == expected.committed) expected.revealEnd = time;
        } else if (_has(ITrainingLedger.Revealed.selector)) {
            vm.assertEq(uint256(_round.stage), uint256(Stage.Open), "nothing is revealed in a masked round");
            vm.assertEq(uint256(_phaseBefore), uint256(Phase.Revealing), "reveal");
            expected.revealed |= _bit(ITrainingLedger.Revealed.selector);
            vm.assertEq(expected.revealed & ~expected.committed, 0, "who reveals has committed");
            if (expected.revealed == expected.committed) expected.revealEnd = time;
        } else if (settled) {
            bool late = _phaseBefore == Phase.Overdue && (_round.stage == Stage.Open || _round.stage == Stage.Unmasking);
            vm.assertTrue(late || _phaseBefore == Phase.Settling, "settle");
            (expected.number, expected.attempt) = (expected.number + 1, 0);
            (,,, uint64 accepted,,) =
                abi.decode(_said[_call][ITrainingLedger.Settled.selector], (bytes32, bytes32, bytes32, uint64, uint32[], uint256));
            vm.assertEq(accepted & ~_round.revealed, 0, "who is accepted has revealed");
        } else if (starved) {
            vm.assertEq(uint256(_phaseBefore), uint256(Phase.Starved), "restart");
            if (!_has(ITrainingLedger.JobEnded.selector)) expected.attempt += 1;
        } else if (_replaced() && _phaseBefore == Phase.Overdue) {
            expected.revealEnd = time;
        } else if (left != 0) {
            expected.revealed &= ~_bit(ITrainingLedger.Left.selector);
            _cohorts[job] &= ~_bit(ITrainingLedger.Left.selector);
            // The announced end of revealing stays: no deadline comes sooner because somebody leaves.
            if (time < expected.commitEnd && _isComplete(job, expected)) {
                expected.commitEnd = time;
                closedByLeaving++;
            }
        }

        bool over = _has(ITrainingLedger.JobEnded.selector) || _has(ITrainingLedger.DisclosureDue.selector);
        if (_isMasked(_round) && (settled || starved) && !over) expected.least = terms.minParticipants;
        bool opens = _has(ITrainingLedger.RoundOpened.selector);
        bool may = expected.seated >= expected.least && ledger.bondOf(job, _serving(job)) == terms.bond;
        bool fresh = settled || starved;
        if (_has(ITrainingLedger.JobEnded.selector)) {
            _clear(expected, Stage.Over);
        } else if (_has(ITrainingLedger.DisclosureDue.selector)) {
            uint64 heirs = expected.revealed;
            _clear(expected, Stage.Disclosing);
            (expected.revealed, expected.revealEnd) = (heirs, time);
        } else if (opens) {
            vm.assertTrue(may && (fresh || _round.stage == Stage.Waiting), "a round opens");
            _clear(expected, terms.masked ? Stage.Masking : Stage.Open);
            (expected.commitEnd, expected.revealEnd) =
                (time + terms.commitWindow, time + terms.commitWindow + (terms.masked ? 0 : terms.revealWindow));
            if (terms.masked) {
                (_cohorts[job], _opened[job]) = (ledger.stateOf(job).seats, expected.seated);
                // All but a third.
                uint8 holders = expected.seated - expected.seated / 3;
                expected.least = holders < terms.minParticipants ? terms.minParticipants : holders;
            }
            vm.assertEq(
                keccak256(_said[_call][ITrainingLedger.RoundOpened.selector]),
                keccak256(abi.encode(expected.attempt, expected.commitEnd, expected.revealEnd)),
                "what it is said to be"
            );
        } else if (fresh || _round.stage == Stage.Waiting) {
            vm.assertFalse(may, "a round that could be open is");
            _clear(expected, Stage.Waiting);
        }
        vm.assertEq(abi.encode(ledger.roundOf(job)), abi.encode(expected), "the round");
        if (_isMasked(expected)) vm.assertEq(ledger.stateOf(job).cohort, _cohorts[job], "who is left of the cohort");
    }

    function _enterCount(JobId job, Round memory expected, uint32 time) internal {
        bool late = _phaseBefore == Phase.Overdue && _round.stage == Stage.Masking;
        vm.assertTrue(late || _phaseBefore == Phase.Counting, "count");
        vm.assertEq(_whom[_call][ITrainingLedger.Counted.selector], _serving(job), "who serves counts");
        (uint16 attempt, uint64 counted, uint32 revealEnd) =
            abi.decode(_said[_call][ITrainingLedger.Counted.selector], (uint16, uint64, uint32));
        vm.assertEq(attempt, _round.attempt, "which attempt");
        vm.assertEq(counted & ~(_round.committed & _cohorts[job]), 0, "who is counted committed, and was there");
        expected.committed = counted;
        if (_ones(counted) >= _round.least) {
            (expected.stage, expected.revealEnd) = (Stage.Unmasking, time + ledger.termsOf(job).revealWindow);
        } else {
            vm.assertFalse(late, "who is late makes no attempt void");
            voids++;
            expected.revealEnd = 0;
        }
        vm.assertEq(revealEnd, expected.revealEnd, "until when is unmasked");

        uint256 times = ++_counts[job][_attempt(_round)];
        if (times > recounts) recounts = times;
        if (times == 1) _counted[job][_attempt(_round)] = counted;
    }

    /// @dev The set as which the open attempt was counted first; and how often it was counted.
    function countOf(JobId job) external view returns (uint64 counted, uint256 times) {
        bytes32 attempt = _attempt(ledger.roundOf(job));
        return (_counted[job][attempt], _counts[job][attempt]);
    }

    /// @dev Its coordinator has counted too few.
    function _isVoid(JobId job, Round memory round) internal view returns (bool) {
        return round.stage == Stage.Masking && _counts[job][_attempt(round)] != 0;
    }

    /// @dev How many were seated when the open masked attempt opened.
    function openedWith(JobId job) external view returns (uint256) {
        return _opened[job];
    }

    function _attempt(Round memory round) internal pure returns (bytes32) {
        return keccak256(abi.encode(round.number, round.attempt));
    }

    function _isMasked(Round memory round) internal pure returns (bool) {
        return round.stage == Stage.Masking || round.stage == Stage.Unmasking;
    }

    function _clear(Round memory round, Stage stage) internal pure {
        (round.stage, round.commitEnd, round.revealEnd, round.committed, round.revealed) = (stage, 0, 0, 0, 0);
    }

    function _isComplete(JobId job, Round memory round) internal view returns (bool) {
        uint256 commits = _ones(round.committed);
        uint256 awaited = round.stage == Stage.Masking ? _ones(_cohorts[job]) : round.seated;
        return commits == awaited && commits >= round.least;
    }

    /* MONEY */

    function _enterMoney(JobId job) internal {
        JobTerms memory terms = ledger.termsOf(job);
        uint256 escrow = _has(ITrainingLedger.JobCreated.selector) ? uint256(terms.rounds) * terms.reward : _state.escrow;
        uint256 penalties;
        for (uint256 i; i < _everyone.length; i++) penalties += _penalty[_call][_everyone[i]];

        uint256 equally;
        uint256 paid;
        if (_has(ITrainingLedger.Settled.selector)) {
            paid = _enterShares(terms.reward + penalties);
            if (paid == type(uint256).max) (paid, equally) = (0, penalties);
        }
        uint256 forfeited = _replaced() ? _forfeit() : 0;
        if (_replaced() && _phaseBefore == Phase.Overdue) {
            equally = forfeited + (_isAbandoned() ? terms.reward + penalties : 0);
        }
        paid += _enterEqualShares(equally);
        _totals[job].earned += paid;
        _totals[job].penalties += forfeited;

        escrow = escrow + penalties + forfeited - paid;
        if (_has(ITrainingLedger.JobEnded.selector)) {
            (, uint256 refund) = abi.decode(_said[_call][ITrainingLedger.JobEnded.selector], (Outcome, uint256));
            vm.assertEq(refund, escrow, "what is left goes to the sponsor");
            _gain[_call][sponsor] += refund;
            _totals[job].refund = refund;
            escrow = 0;
        }
        vm.assertEq(ledger.stateOf(job).escrow, escrow, "escrow");

        if (_has(ITrainingLedger.BondReleased.selector)) {
            address coordinator = _whom[_call][ITrainingLedger.BondReleased.selector];
            _gain[_call][coordinator] += abi.decode(_said[_call][ITrainingLedger.BondReleased.selector], (uint256));
        }
        address out = _whom[_call][ITrainingLedger.Withdrawn.selector];
        for (uint256 i; i < _everyone.length; i++) {
            address account = _everyone[i];
            uint256 expected = _credits[account] + _gain[_call][account];
            if (account == out) {
                uint256 amount = abi.decode(_said[_call][ITrainingLedger.Withdrawn.selector], (uint256));
                vm.assertEq(amount, expected, "all of it is withdrawn");
                _totals[job].paidOut += amount;
                if (account == honest) _totals[job].honestPaidOut += amount;
                expected = 0;
            }
            vm.assertEq(ledger.creditOf(job, account), expected, "credit");
        }
    }

    /// @dev In proportion to the scores; 2^256 - 1 when all are 0.
    function _enterShares(uint256 expectedPot) internal returns (uint256 paid) {
        (,,, uint64 accepted, uint32[] memory scores, uint256 pot) =
            abi.decode(_said[_call][ITrainingLedger.Settled.selector], (bytes32, bytes32, bytes32, uint64, uint32[], uint256));
        vm.assertEq(pot, expectedPot, "pot");
        uint256 total;
        for (uint256 i; i < scores.length; i++) total += scores[i];
        if (total == 0) return type(uint256).max;
        uint256 k;
        for (uint8 seat; seat < 64; seat++) {
            if (accepted >> seat & 1 == 0) continue;
            uint256 share = pot * scores[k++] / total;
            _gain[_call][_inSeat(seat)] += share;
            paid += share;
        }
    }

    function _enterEqualShares(uint256 amount) internal returns (uint256 paid) {
        uint64 heirs = _round.stage == Stage.Masking ? _round.committed : _round.revealed;
        if (heirs == 0) heirs = _state.seats;
        uint256 share = heirs == 0 ? 0 : amount / _ones(heirs);
        vm.assertTrue(_has(ITrainingLedger.Shared.selector) == (share != 0), "shares");
        if (share == 0) return 0;
        vm.assertEq(
            keccak256(_said[_call][ITrainingLedger.Shared.selector]), keccak256(abi.encode(heirs, share)), "equal shares"
        );
        for (uint8 seat; seat < 64; seat++) if (heirs >> seat & 1 != 0) _gain[_call][_inSeat(seat)] += share;
        return share * _ones(heirs);
    }

    function _forfeit() internal view returns (uint256 amount) {
        (, amount,) = abi.decode(_said[_call][ITrainingLedger.CoordinatorReplaced.selector], (address, uint256, uint32));
    }

    function _successor() internal view returns (address who) {
        (who,,) = abi.decode(_said[_call][ITrainingLedger.CoordinatorReplaced.selector], (address, uint256, uint32));
    }

    function _replaced() internal view returns (bool) {
        return _has(ITrainingLedger.CoordinatorReplaced.selector);
    }

    /* BONDS */

    function _enterBonds(JobId job) internal {
        JobTerms memory terms = ledger.termsOf(job);
        address posted = _whom[_call][ITrainingLedger.BondPosted.selector];
        address released = _whom[_call][ITrainingLedger.BondReleased.selector];
        address served = _state.sponsor == address(0) ? address(0) : _coordinators[_state.coordinator];
        uint256 forfeited = _replaced() ? _forfeit() : 0;
        if (_replaced()) {
            (address successor, uint256 penalty, uint32 deadline) =
                abi.decode(_said[_call][ITrainingLedger.CoordinatorReplaced.selector], (address, uint256, uint32));
            vm.assertEq(successor, _next(job), "in the order of the list");
            if (_phaseBefore == Phase.Waiting) {
                takeovers++;
                vm.assertEq(_bonds[served], 0, "who is overtaken has no bond");
                vm.assertEq(penalty + deadline, 0, "it loses nothing");
                vm.assertTrue(successor != address(0), "somebody takes over");
                vm.assertLe(_since[job][successor] + terms.settleWindow, block.timestamp, "it has waited");
            } else {
                vm.assertEq(uint256(_phaseBefore), uint256(Phase.Overdue), "who is replaced is late");
                bool key = _round.stage == Stage.Disclosing || (successor == address(0) && _withheldBefore);
                vm.assertEq(penalty, key ? _bonds[served] : terms.settlePenalty, "its penalty");
                uint256 due = successor == address(0) ? 0 : block.timestamp + terms.settleWindow;
                vm.assertEq(deadline, due, "its successor's deadline");
                vm.assertEq(released, served, "the rest of its bond is released");
            }
            if (successor != address(0)) vm.assertEq(_serving(job), successor, "it serves");
        } else if (served != address(0)) {
            vm.assertEq(_serving(job), served, "nobody else serves");
        }
        if (posted != address(0)) _since[job][posted] = block.timestamp;
        if (released != address(0) && released == served && !_replaced()) {
            bool idle = _phaseBefore == Phase.Waiting || _phaseBefore == Phase.Starved || _phaseBefore == Phase.Over;
            vm.assertTrue(idle && !_withheldBefore && !_isVoid(job, _round), "who owes something gets its bond back");
        }
        for (uint256 i; i < _everyone.length; i++) {
            address account = _everyone[i];
            uint256 expected = account == released ? 0 : account == posted ? terms.bond : _bonds[account];
            vm.assertEq(ledger.bondOf(job, account), expected, "bond");
        }
        if (released != address(0)) {
            uint256 amount = abi.decode(_said[_call][ITrainingLedger.BondReleased.selector], (uint256));
            vm.assertEq(amount + forfeited, _bonds[released], "what a bond was");
        }
    }

    function _next(JobId job) internal view returns (address) {
        for (uint256 i = _state.coordinator + 1; i < _coordinators.length; i++) {
            if (_bonds[_coordinators[i]] == ledger.termsOf(job).bond) return _coordinators[i];
        }
        return address(0);
    }

    /* THE END */

    function _enterEnd(JobId job) internal {
        bool last = ledger.roundOf(job).number == ledger.termsOf(job).rounds;
        if (_has(ITrainingLedger.DisclosureDue.selector)) {
            (Outcome outcome, uint32 due) =
                abi.decode(_said[_call][ITrainingLedger.DisclosureDue.selector], (Outcome, uint32));
            vm.assertEq(due, block.timestamp + ledger.termsOf(job).settleWindow, "when the key is due");
            vm.assertEq(uint256(outcome), uint256(last ? Outcome.Completed : Outcome.Withdrawn), "how it is to end");
            vm.assertTrue(withholds(job), "a key is wanted");
        }
        if (_has(ITrainingLedger.ValidationDisclosed.selector)) {
            vm.assertEq(_state.validationKey, 0, "a key is disclosed once");
            bytes32 key = ledger.stateOf(job).validationKey;
            vm.assertEq(keccak256(abi.encode(key)), ledger.termsOf(job).validationLock, "the key fits");
        } else if (_state.sponsor != address(0)) {
            vm.assertEq(ledger.stateOf(job).validationKey, _state.validationKey, "the key");
        }
        if (!_has(ITrainingLedger.JobEnded.selector)) return;
        (Outcome ended,) = abi.decode(_said[_call][ITrainingLedger.JobEnded.selector], (Outcome, uint256));
        ends[ended]++;
        vm.assertEq(_endedAs[job], 0, "a job ends once");
        _endedAs[job] = uint256(ended) + 1;
        if (ended == Outcome.Abandoned) {
            vm.assertTrue(_replaced() && _successor() == address(0), "nobody was left");
        } else {
            vm.assertFalse(withholds(job), "a key is still wanted");
            vm.assertTrue(last == (ended == Outcome.Completed), "how it ended");
        }
    }

    /* READING */

    function _has(bytes32 topic) internal view returns (bool) {
        return _times[_call][topic] != 0;
    }

    /// @dev Of whom an event tells: the last of its indexed accounts.
    function _account(Vm.Log memory log) internal pure returns (address) {
        uint256 topics = log.topics.length;
        return topics < 3 ? address(0) : address(uint160(uint256(log.topics[topics - 1])));
    }

    /// @dev The seat, before the call, of whom this event tells.
    function _bit(bytes32 topic) internal view returns (uint64) {
        return uint64(1) << (_members[_whom[_call][topic]].seatPlusOne - 1);
    }

    /// @dev Before the call.
    function _inSeat(uint8 seat) internal view returns (address) {
        for (uint256 i; i < _everyone.length; i++) {
            if (_members[_everyone[i]].seatPlusOne == seat + 1) return _everyone[i];
        }
        vm.assertTrue(false, "nobody sits there");
        return address(0);
    }

    function _ones(uint64 bits) internal pure returns (uint256 ones) {
        for (; bits != 0; bits &= bits - 1) ones++;
    }

    function _phase(JobId job) internal view returns (Phase) {
        return phaseOf(job, block.timestamp);
    }

    /// @dev The phase as the terms mean it, from counters and time.
    function phaseOf(JobId job, uint256 time) public view returns (Phase) {
        Round memory round = ledger.roundOf(job);
        JobTerms memory terms = ledger.termsOf(job);
        bool late = time >= uint256(round.revealEnd) + terms.settleWindow;
        if (round.stage == Stage.Waiting) return Phase.Waiting;
        if (round.stage == Stage.Over) return Phase.Over;
        if (round.stage == Stage.Disclosing) return late ? Phase.Overdue : Phase.Disclosing;
        if (time < round.commitEnd) return Phase.Committing;
        if (_ones(round.committed) < (terms.masked ? round.least : terms.minParticipants)) return Phase.Starved;
        if (round.stage == Stage.Masking) return late ? Phase.Overdue : Phase.Counting;
        if (time < round.revealEnd) return Phase.Revealing;
        if (_ones(round.revealed) == 0) return Phase.Starved;
        return late ? Phase.Overdue : Phase.Settling;
    }

    function _serving(JobId job) internal view returns (address) {
        return _coordinators[ledger.stateOf(job).coordinator];
    }

    /// @dev Whether a round was settled with a validation set whose key is not on chain.
    function withholds(JobId job) public view returns (bool) {
        bool settled = ledger.roundOf(job).number != 0;
        return settled && ledger.termsOf(job).validationLock != 0 && ledger.stateOf(job).validationKey == 0;
    }
}
