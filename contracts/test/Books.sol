// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Departure, ITrainingLedger, JobId, JobTerms, Member, Outcome, Phase, Round} from "../src/interfaces/ITrainingLedger.sol";
import {Vm} from "./Vm.sol";

/// @notice Totals of a job that are kept beside the ledger, from what was sent to it and from its events.
struct Totals {
    uint256 paidIn;
    uint256 paidOut;
    uint256 budget;
    uint256 penalties;
    uint256 credited;
    uint256 creditedToSponsor;
    /// What was credited to somebody who had not revealed and was not the heir of an ended job or a bond either.
    uint256 unearned;
    /// What coordinators got back though their bond had to stay, or to lose a penalty first.
    uint256 escaped;
    uint256 honestPaidIn;
    uint256 honestPaidOut;
    uint256 honestPenalties;
}

/// @notice Second books for the invariants: every call goes through `watched`, which reads the events it left.
abstract contract Books {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    ITrainingLedger public immutable ledger = ITrainingLedger(vm.deployCode("TrainingLedger.sol:TrainingLedger"));

    address public immutable sponsor = _actor("sponsor");
    /// Commits and reveals whenever it can, and reveals in time what it has committed to.
    address public immutable honest = _actor("honest");
    address public immutable stranger = _actor("stranger");
    /// The honest participant is the first.
    address[] internal _participants;
    address[] internal _coordinators;
    address[] internal _everyone;

    mapping(JobId => Totals) internal _totals;
    /// How often each event was seen, by its first topic.
    mapping(bytes32 topic => uint256) public seen;
    mapping(Outcome => uint256) public ends;
    mapping(Departure => uint256) public departures;
    /// How often a successor took over where only a bond was missing.
    uint256 public takeovers;

    /* WHO WAS WHAT BEFORE THE CALL */

    mapping(address => bool) internal _wasSeated;
    mapping(address => bool) internal _hadRevealed;
    bool internal _someoneHadRevealed;
    bool internal _wasDisclosing;
    Phase internal _phaseBefore;
    bool internal _withheldBefore;
    address internal _served;
    uint256 internal _servingBond;

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

    function coordinators() external view returns (address[] memory) {
        return _coordinators;
    }

    function totals(JobId job) external view returns (Totals memory) {
        return _totals[job];
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
        (_phaseBefore, _withheldBefore) = (Phase.Waiting, false);
        if (JobId.unwrap(job) > ledger.jobCount()) return;
        Round memory round = ledger.roundOf(job);
        _someoneHadRevealed = round.revealed != 0;
        _wasDisclosing = _isDisclosing(job);
        _phaseBefore = _phase(job);
        _withheldBefore = withholds(job);
        _served = _serving(job);
        _servingBond = ledger.bondOf(job, _served);
        for (uint256 i; i < _everyone.length; i++) {
            Member memory member = ledger.memberOf(job, _everyone[i]);
            _wasSeated[_everyone[i]] = member.seatPlusOne != 0;
            _hadRevealed[_everyone[i]] = member.seatPlusOne != 0 && round.revealed >> (member.seatPlusOne - 1) & 1 != 0;
        }
    }

    function _enter(JobId job, Vm.Log[] memory logs) internal {
        Totals storage sums = _totals[job];
        uint256 penalty;
        for (uint256 i; i < logs.length; i++) {
            bytes32 topic = logs[i].topics[0];
            bytes memory data = logs[i].data;
            seen[topic]++;
            if (topic == ITrainingLedger.PenaltyTaken.selector) {
                uint256 amount = abi.decode(data, (uint256));
                sums.penalties += amount;
                if (_address(logs[i].topics[3]) == honest) sums.honestPenalties += amount;
            } else if (topic == ITrainingLedger.CoordinatorReplaced.selector) {
                (, penalty) = abi.decode(data, (address, uint256));
                sums.penalties += penalty;
                if (_phaseBefore == Phase.Waiting) takeovers++;
            } else if (topic == ITrainingLedger.Credited.selector) {
                _enterCredit(job, _address(logs[i].topics[2]), abi.decode(data, (uint256)));
            } else if (topic == ITrainingLedger.Withdrawn.selector) {
                uint256 amount = abi.decode(data, (uint256));
                sums.paidOut += amount;
                if (_address(logs[i].topics[2]) == honest) sums.honestPaidOut += amount;
            } else if (topic == ITrainingLedger.JobEnded.selector) {
                ends[abi.decode(data, (Outcome))]++;
            } else if (topic == ITrainingLedger.Left.selector) {
                (, Departure departure,) = abi.decode(data, (uint8, Departure, uint256));
                departures[departure]++;
            }
        }
        _enterBond(job, penalty);
    }

    /// @dev Whoever serves gets its bond back while nobody is owed a settlement or a key; else only less a penalty.
    function _enterBond(JobId job, uint256 penalty) internal {
        bool idle = _phaseBefore == Phase.Waiting || _phaseBefore == Phase.Starved || _phaseBefore == Phase.Over;
        uint256 rest = ledger.bondOf(job, _served);
        if ((idle && !_withheldBefore) || rest == _servingBond) return;
        JobTerms memory terms = ledger.termsOf(job);
        bool overdue = _phaseBefore == Phase.Overdue;
        uint256 owed = !overdue || _wasDisclosing ? terms.bond : terms.settlePenalty;
        if (penalty < owed) _totals[job].escaped += owed - penalty;
    }

    function _enterCredit(JobId job, address account, uint256 amount) internal {
        Totals storage sums = _totals[job];
        sums.credited += amount;
        if (_hadRevealed[account]) return;
        bool over = ledger.stateOf(job).over;
        bool inherits = over || _wasDisclosing;
        if (over && account == sponsor) sums.creditedToSponsor += amount;
        else if (!inherits || _someoneHadRevealed || !_wasSeated[account]) sums.unearned += amount;
    }

    /// @dev Its last round is over, and it waits for the key of its validation set.
    function _isDisclosing(JobId job) internal view returns (bool) {
        Round memory round = ledger.roundOf(job);
        return round.commitEnd == 0 && round.revealEnd != 0;
    }

    function _phase(JobId job) internal view returns (Phase) {
        return ledger.phaseAt(job, block.timestamp);
    }

    function _serving(JobId job) internal view returns (address) {
        return ledger.coordinatorsOf(job)[ledger.stateOf(job).coordinator];
    }

    /// @dev Whether a round was settled with a validation set whose key is not on chain.
    function withholds(JobId job) public view returns (bool) {
        bool settled = ledger.roundOf(job).number != 0;
        return settled && ledger.termsOf(job).validationLock != 0 && ledger.stateOf(job).validationKey == 0;
    }

    function _address(bytes32 topic) internal pure returns (address) {
        return address(uint160(uint256(topic)));
    }
}
