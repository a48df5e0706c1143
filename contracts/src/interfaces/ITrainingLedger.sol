// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

type JobId is uint256;

/// @notice What a job is in until a transaction takes it further.
enum Stage {
    /// No round is open: too few participants are seated, or the coordinator has not posted its bond.
    Waiting,
    /// A round is open; which of its phases it is in follows from counters and time.
    Open,
    /// A masked attempt is open and not counted.
    Masking,
    /// A masked attempt is counted: the holders release what this set of updates calls for.
    Unmasking,
    /// No round will be open any more, and the key of the validation set is due.
    Disclosing,
    /// The job is over.
    Over
}

/// @notice Where a job stands at a given time. Nobody triggers a phase: it follows from counters and time.
enum Phase {
    /// No round is open: too few participants are seated, or the coordinator has not posted its bond.
    Waiting,
    /// Seated participants may commit.
    Committing,
    /// Of a masked attempt: the coordinator is to count whose updates it could fetch.
    Counting,
    /// Committed participants may reveal; in a masked round, counted ones unmask.
    Revealing,
    /// The coordinator is to settle.
    Settling,
    /// Too few committed, or were counted, or nobody revealed: anyone may restart the round. Nothing that anybody showed
    /// is unpaid then.
    Starved,
    /// The coordinator missed its deadline: anyone may replace it. Until somebody does, it may still count enough, settle,
    /// or disclose.
    Overdue,
    /// The last round is over, and the job ends once the key of its validation set is disclosed.
    Disclosing,
    /// The job is over.
    Over
}

/// @notice Why a participant gave up its seat.
enum Departure {
    Voluntary,
    /// It missed `missLimit` attempts in a row.
    Missing,
    /// Its stake no longer covers a penalty.
    Exhausted
}

/// @notice How a job ended.
enum Outcome {
    /// Every round was settled.
    Completed,
    /// The sponsor closed it while no round could be settled.
    Withdrawn,
    /// No coordinator was left on the list.
    Abandoned
}

/// @notice What a sponsor fixes when it creates a job. Amounts in wei, windows in seconds.
struct JobTerms {
    /// Digest of the job spec, see DESIGN "Digest".
    bytes32 specDigest;
    /// Digest of the first model.
    bytes32 modelDigest;
    /// Chunk root of the first model.
    bytes32 modelRoot;
    uint24 rounds;
    uint8 minParticipants;
    uint8 maxParticipants;
    /// With so many attempts missed in a row a participant loses its seat (not its stake). Each lasts `commitWindow`.
    uint8 missLimit;
    uint32 commitWindow;
    uint32 revealWindow;
    /// In a masked round also the time to count.
    uint32 settleWindow;
    /// Nobody sees a single update, only the weighted sum of those counted.
    bool masked;
    /// Divided among the participants of a round in proportion to their scores.
    uint96 reward;
    /// What a participant deposits when it joins.
    uint96 stake;
    /// Taken from the stake of a participant that committed and did not reveal, or was counted and did not unmask.
    uint96 revealPenalty;
    /// What a coordinator deposits before it can serve.
    uint96 bond;
    /// Taken from the bond of a coordinator that misses its deadline.
    uint96 settlePenalty;
    /// keccak256(abi.encode(key)) of the key under which the validation set is encrypted; 0 when the set is public.
    bytes32 validationLock;
    /// Merkle root of the accounts that may take a seat, see `join`; 0: anyone may.
    bytes32 admission;
}

/// @notice The open round, in one storage word. Times are Unix seconds, until the year 2106.
struct Round {
    /// Number of rounds settled so far, which is the index of the open one.
    uint24 number;
    /// How often this round has been opened before.
    uint16 attempt;
    Stage stage;
    /// Committing is over from this timestamp on; 0 when no round is open.
    uint32 commitEnd;
    /// Revealing is over from this timestamp on. In Masking and Disclosing: the window to count or to disclose runs from
    /// here; 0 in Masking once a count has made the attempt void.
    uint32 revealEnd;
    /// Seats taken.
    uint8 seated;
    /// So many must commit: the job's `minParticipants`, here because every call of a round needs it. Of a masked attempt
    /// it is no less than two thirds of those seated when it opened: so many holders can unmask, and fewer cannot.
    uint8 least;
    /// Bit i: seat i has committed in this attempt; once a masked one is counted: is counted.
    uint64 committed;
    /// Bit i: seat i has revealed, or unmasked, in this attempt; in Disclosing, in the last one.
    uint64 revealed;
}

/// @notice What a job is besides its terms and its open round.
struct JobState {
    address sponsor;
    /// Index of the serving coordinator in the job's list.
    uint8 coordinator;
    /// Bit i: seat i is taken.
    uint64 seats;
    /// Reward money that nobody has earned yet, and what divisions left over, in wei.
    uint128 escrow;
    /// Bit i: who sits in seat i has sat there since the masked attempt opened. Means nothing while none is open.
    uint64 cohort;
    /// keccak256(abi.encode(sponsor, terms, coordinators)): what a participant or coordinator agrees to.
    bytes32 termsHash;
    /// Digest of the current model.
    bytes32 modelDigest;
    /// Chunk root of the current model.
    bytes32 modelRoot;
    /// The key of a withheld validation set; 0 until it is disclosed.
    bytes32 validationKey;
}

/// @notice A participant.
struct Member {
    /// Seat number plus one; 0 when not seated.
    uint8 seatPlusOne;
    /// Attempts missed in a row. Stays when the seat is given up, until the account commits again; in a masked job, until
    /// it unmasks again: a commitment that cannot be fetched is a miss.
    uint8 misses;
    /// It came when less than a whole window to commit was left, so that the first attempt it misses does not count.
    bool excused;
    /// Number of training samples it declared: its weight.
    uint32 samples;
    /// What is left of its stake, in wei.
    uint96 stake;
}

/// @title ITrainingLedger
/// @notice Jobs, rounds, commitments, settlements and the money that moves with them.
/// @dev Trust assumptions:
/// - Nobody has privileges beyond the roles a job names: its sponsor, its coordinators, its participants.
/// - The serving coordinator decides, per round, the next model and who is paid what share of that round's pot. It
/// cannot pay anyone who did not reveal, cannot pay more than the pot, and cannot touch a stake.
/// - It may accept nobody. The reward then stays in escrow and returns to the sponsor in the end, so that those two
/// together could train for nothing. The audit shows it. Nobody else can: who revealed is paid by a settlement, or,
/// alike and whatever it revealed, out of the escrow when no coordinator is left to settle.
/// - Whoever deploys the ledger chooses its least window, once: a few blocks of its chain.
/// - The contract does not know whether a model is right. Whoever replays the job does (see `auditor/`).
/// - In a masked job the serving coordinator also decides who of those that committed is in the sum: at least two thirds
/// of those seated. It can leave anybody out, who then loses the round and, `missLimit` times in a row, the seat, never
/// the stake. What a sum of colluders and one other says of the other no contract can hide: `admission` can.
/// - A deadline gives everyone the right to act; block producers may shift a timestamp by seconds.
interface ITrainingLedger {
    /* EVENTS */

    event JobCreated(JobId indexed job, address indexed sponsor, JobTerms terms, address[] coordinators);
    event BondPosted(JobId indexed job, address indexed coordinator, uint256 amount);
    event BondReleased(JobId indexed job, address indexed coordinator, uint256 amount);
    /// @notice `key` is the X25519 key of a participant of a masked job; zero in any other.
    event Joined(JobId indexed job, address indexed participant, uint8 seat, uint32 samples, bytes32 key);
    /// @notice `stake` is what was left of the stake; it is credited to the participant.
    event Left(JobId indexed job, address indexed participant, uint8 seat, Departure departure, uint256 stake);
    event RoundOpened(JobId indexed job, uint24 indexed round, uint16 attempt, uint32 commitEnd, uint32 revealEnd);
    /// @notice An attempt at a round ended with too few commitments, or too few counted, or with no reveal.
    event RoundStarved(JobId indexed job, uint24 indexed round, uint16 attempt);
    event Committed(JobId indexed job, uint24 indexed round, address indexed participant, bytes30 commitment);
    event Revealed(
        JobId indexed job, uint24 indexed round, address indexed participant, bytes32 digest, bytes32 root, bytes32 salt
    );
    /// @notice `digest` is that of a blob of letters, see DESIGN "Masked rounds".
    event CommittedMasked(
        JobId indexed job, uint24 indexed round, uint16 attempt, address indexed participant, bytes32 digest
    );
    /// @notice Bit i of `counted`: the update of seat i is in the sum. It never changes in an attempt. `revealEnd` is 0
    /// where they are too few: the attempt is void, and exposes nobody.
    event Counted(
        JobId indexed job,
        uint24 indexed round,
        uint16 attempt,
        address indexed coordinator,
        uint64 counted,
        uint32 revealEnd
    );
    /// @notice `digest` is that of the blob with what a counted participant releases for the counted set.
    event Unmasked(JobId indexed job, uint24 indexed round, address indexed participant, bytes32 digest);
    /// @notice `participant` committed and did not reveal, or was counted and did not unmask.
    event PenaltyTaken(JobId indexed job, uint24 indexed round, address indexed participant, uint256 amount);
    /// @notice Bit i of `accepted` is seat i; `scores` are those of the accepted seats, in ascending order of seats.
    /// `pot` is what was divided, in wei: the reward and this round's penalties. Seat i with score s was credited
    /// `pot * s / total`, rounded down. If all scores are 0 nothing of it was, and `Shared` tells of the penalties.
    event Settled(
        JobId indexed job,
        uint24 indexed round,
        address indexed coordinator,
        bytes32 modelDigest,
        bytes32 modelRoot,
        bytes32 reportDigest,
        uint64 accepted,
        uint32[] scores,
        uint256 pot
    );
    /// @notice Each participant in `seats` (a bit per seat) was credited `share` wei: of penalties, or of the reward of a
    /// round that nobody was left to settle.
    event Shared(JobId indexed job, uint64 seats, uint256 share);
    /// @notice `successor` is zero when nobody was left. `deadline` is when it is to have settled or disclosed; 0 when
    /// nothing is due from it yet.
    event CoordinatorReplaced(
        JobId indexed job,
        uint24 indexed round,
        address indexed coordinator,
        address successor,
        uint256 penalty,
        uint32 deadline
    );
    /// @notice The job ends with this outcome once the key of its validation set is disclosed, which the serving
    /// coordinator is to do before `disclosureEnd`.
    event DisclosureDue(JobId indexed job, Outcome outcome, uint32 disclosureEnd);
    event ValidationDisclosed(JobId indexed job, bytes32 key);
    /// @notice `refund` is what was left in escrow, credited to the sponsor.
    event JobEnded(JobId indexed job, Outcome outcome, uint256 refund);
    event Withdrawn(JobId indexed job, address indexed account, uint256 amount);

    /* ERRORS */

    error UnknownJob(JobId job);
    error WrongPhase(Phase actual);
    error WrongRound(uint24 current, uint16 attempt);
    error WrongTerms(bytes32 termsHash);
    error WrongValue(uint256 expected);
    error NotSponsor(address sponsor);
    error NotCoordinator(address coordinator);
    error NotSeated(address account);
    error ZeroRounds();
    error BadWindow(uint32 least, uint32 most);
    error ZeroDigest();
    error BadParticipantLimits(uint8 most);
    error TooFewToHide(uint8 least);
    error ZeroMissLimit();
    error PenaltyExceedsDeposit(uint96 deposit);
    error BadCoordinatorCount(uint256 most);
    error BadCoordinator(address coordinator);
    error BondAlreadyPosted(uint256 bond);
    error NoBond(address coordinator);
    error BondInUse(Phase phase);
    error TooEarly(uint256 from);
    error NotAdmitted(address account);
    error JobFull(uint8 most);
    error AlreadySeated(uint8 seat);
    error ZeroSamples();
    error BadKey();
    error NotInCohort(address account);
    error NotCountable(uint64 seats);
    error TooFewCounted(uint8 least);
    error AlreadyCommitted(address participant);
    error NotCommitted(address participant);
    error AlreadyRevealed(address participant);
    error CommitmentMismatch(bytes30 commitment);
    error CommitmentOutstanding(uint24 round);
    error StaleReveals(uint64 revealed);
    error NotRevealed(uint64 seats);
    error BadScoreCount(uint256 expected);
    error WrongKey(bytes32 lock);
    error AlreadyDisclosed(bytes32 key);
    error NothingToWithdraw(address account);
    error TransferFailed(address account);

    /* JOBS */

    /// @notice Creates a job; the caller is its sponsor and sends `rounds * reward` wei, the whole reward budget.
    /// @param coordinators Who may settle, in the order of succession; 1 to 8 distinct addresses.
    function createJob(JobTerms calldata terms, address[] calldata coordinators) external payable returns (JobId job);

    /// @notice Ends a job while no round can be settled (Waiting or Starved). Only the sponsor.
    /// What no round has spent is credited to the sponsor.
    /// If a round was settled with a validation set that is still withheld, the job first waits for its key (Disclosing).
    function closeJob(JobId job) external;

    /* COORDINATORS */

    /// @notice Deposits the bond of a listed coordinator. Send exactly `bond` wei.
    /// @param termsHash What the caller agrees to, see `JobState`: after a re-organisation this number can be another job.
    function postBond(JobId job, bytes32 termsHash) external payable;

    /// @notice Credits a coordinator's bond to it. The serving coordinator cannot while a round is open, unless it has
    /// starved without its own count making it void, nor while a round was settled with a validation set that is still
    /// withheld.
    function releaseBond(JobId job) external;

    /// @notice Says, once, whose updates are in the sum of a masked attempt. Only the serving coordinator, in Counting, and
    /// in Overdue after it. With fewer than the attempt needs, which it may say in Counting only, it is void: anyone may
    /// restart the round, and the coordinator's bond stays until somebody does. Whoever committed and is not counted has
    /// missed the attempt.
    /// @param round The open round and,
    /// @param attempt its attempt.
    /// @param counted Bit i: seat i is counted. Each must have committed.
    function count(JobId job, uint24 round, uint16 attempt, uint64 counted) external;

    /// @notice Settles the open round. Only the serving coordinator, in Settling or Overdue. After the last round the job
    /// ends, or waits for the key of its validation set (Disclosing).
    /// @param round The open round.
    /// @param revealed Bit i: the settlement was made from the reveal of seat i. It must be from all there are: a caller
    /// whose view of the chain lags cannot leave one out.
    /// @param accepted Bit i: the update of seat i was accepted. Each must have revealed.
    /// @param scores One per accepted seat, in ascending order of seats; the pot is divided in proportion.
    function settle(
        JobId job,
        uint24 round,
        bytes32 modelDigest,
        bytes32 modelRoot,
        bytes32 reportDigest,
        uint64 revealed,
        uint64 accepted,
        uint32[] calldata scores
    ) external;

    /// @notice Replaces the serving coordinator, which missed its deadline, by the next one on the list that has posted its
    /// bond. Anyone, in Overdue. It loses `settlePenalty`; its whole bond if it was to disclose a validation set, or if
    /// settled rounds are left with one that nobody else is to disclose. With nobody left the job ends, and those whose
    /// reveals nobody settled divide the round's reward and penalties equally.
    function replaceCoordinator(JobId job) external;

    /// @notice Makes the caller, the next one on the list with a bond, the serving coordinator, in Waiting, if nothing but
    /// the serving one's bond is missing for the round to open, and the caller's own has been in deposit for a settle
    /// window. The serving one loses nothing.
    function takeOver(JobId job) external;

    /* PARTICIPANTS */

    /// @notice Takes a seat. Send exactly `stake` wei.
    /// @param termsHash What the caller agrees to, see `JobState`: after a re-organisation this number can be another job.
    /// @param samples Number of training samples the caller declares.
    /// @param proof Merkle path from the caller to the job's `admission`, from the leaf up; empty where anyone may join.
    /// A leaf is keccak256(keccak256(abi.encode(account))), a node the hash of its two children, the lesser one first.
    /// @param key The caller's X25519 key in a masked job; zero in any other.
    function join(JobId job, bytes32 termsHash, uint32 samples, bytes32[] calldata proof, bytes32 key) external payable;

    /// @notice Gives up the caller's seat and credits its stake. Not while it has committed in the open round.
    /// If only it was waited for, revealing begins, and ends no sooner than was announced.
    function leave(JobId job) external;

    /// @notice Commits to an update for the open round, once per attempt, in Committing.
    /// @param round The open round and,
    /// @param attempt its attempt: a transaction that comes late must not commit to the next one.
    /// @param commitment See `commitmentFor`. 30 bytes bind as well as 32: nobody finds two openings that agree in 240 bits.
    function commit(JobId job, uint24 round, uint16 attempt, bytes30 commitment) external;

    /// @notice Opens the caller's commitment, in Revealing.
    /// @param digest Digest of the update.
    /// @param root Chunk root of the update.
    function reveal(JobId job, bytes32 digest, bytes32 root, bytes32 salt) external;

    /// @notice Commits to a masked update for the open round, once per attempt, in Committing. Only who was seated when the
    /// attempt opened.
    /// @param round The open round and,
    /// @param attempt its attempt: what is masked for one is of no use in the next.
    /// @param digest Digest of the letters, which name the masked vector.
    function commitMasked(JobId job, uint24 round, uint16 attempt, bytes32 digest) external;

    /// @notice Releases what the counted set calls for, once, in Revealing. Only who is counted.
    /// @param round The open round and,
    /// @param attempt its attempt: of another one this would be the other kind of share.
    /// @param digest Digest of what is released.
    function unmask(JobId job, uint24 round, uint16 attempt, bytes32 digest) external;

    /* ANYONE */

    /// @notice Opens a starved round again, or waits for participants if too few are seated. Anyone, in Starved.
    function restartRound(JobId job) external;

    /// @notice Puts the key of a withheld validation set on chain; in Disclosing, and in Overdue after it, ends the job.
    /// Anyone who knows the key, once, at any time: whoever knows it could also give it away elsewhere.
    /// @param key What `validationLock` is the hash of.
    function disclose(JobId job, bytes32 key) external;

    /// @notice Pays the caller all it has been credited in a job.
    function withdraw(JobId job) external returns (uint256 amount);

    /* VIEWS */

    /// @notice The shortest window that a job of this ledger may have, in seconds.
    function leastWindow() external view returns (uint32);

    /// @notice Number of jobs; ids run from 1 to this.
    function jobCount() external view returns (uint256);

    function termsOf(JobId job) external view returns (JobTerms memory);

    function stateOf(JobId job) external view returns (JobState memory);

    function roundOf(JobId job) external view returns (Round memory);

    /// @notice The phase of a job in a block with this timestamp, if no transaction comes before it.
    function phaseAt(JobId job, uint256 timestamp) external view returns (Phase);

    function coordinatorsOf(JobId job) external view returns (address[] memory);

    /// @notice The bond a coordinator has in deposit, in wei.
    function bondOf(JobId job, address coordinator) external view returns (uint256);

    function memberOf(JobId job, address participant) external view returns (Member memory);

    /// @notice Who sits in a seat; zero when it is free.
    function participantAt(JobId job, uint8 seat) external view returns (address);

    /// @notice A participant's latest commitment in its seat, of whichever round.
    function commitmentOf(JobId job, address participant) external view returns (bytes30);

    /// @notice The first 30 bytes of
    /// keccak256(abi.encode(chain id, this contract, job, round, participant, digest, root, salt)).
    function commitmentFor(
        JobId job,
        uint24 round,
        address participant,
        bytes32 digest,
        bytes32 root,
        bytes32 salt
    ) external view returns (bytes30);

    /// @notice What an account may withdraw from a job, in wei.
    function creditOf(JobId job, address account) external view returns (uint256);
}
