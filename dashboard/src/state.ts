/** Whether the contract itself is where its events lead: what a node leaves out of the trail shows here. */
import type { Hex } from "viem";
import { abi } from "./abi.ts";
import type { Ledger } from "./chain.ts";
import { exactly } from "./core/amounts.ts";
import type { Address } from "./core/events.ts";
import { type Check, check, type Finding } from "./core/findings.ts";
import type { Money } from "./core/money.ts";
import { maskOf } from "./core/rewards.ts";
import { committedSeats, revealedSeats } from "./core/phases.ts";
import type { Job } from "./core/job.ts";

interface State {
  coordinator: number;
  seats: bigint;
  escrow: bigint;
  modelDigest: Hex;
  modelRoot: Hex;
  validationKey: Hex;
}

interface Round {
  number: number;
  committed: bigint;
  revealed: bigint;
}

export async function checkState(ledger: Ledger, job: Job, money: Money): Promise<Check[]> {
  const { client, contract: address } = ledger;
  const at = { address, abi, blockNumber: BigInt(ledger.head.number) };
  const accounts = [
    ...new Set([...money.credits.keys(), ...job.everybody.keys(), ...job.created.coordinators, job.created.sponsor]),
  ];
  let [state, round, credits]: [State, Round, bigint[]] = [null!, null!, []];
  try {
    [state, round, credits] = await Promise.all([
      client.readContract({ ...at, functionName: "stateOf", args: [job.id] }) as Promise<State>,
      client.readContract({ ...at, functionName: "roundOf", args: [job.id] }) as Promise<Round>,
      Promise.all(
        accounts.map(
          (account) =>
            client.readContract({ ...at, functionName: "creditOf", args: [job.id, account] }) as Promise<bigint>,
        ),
      ),
    ]);
  } catch {
    const says = `the node does not show the contract's state as of block ${ledger.head.number}`;
    return [check("state", says, [], "missing"), check("credits", says, [], "missing")];
  }
  const last = job.events[job.events.length - 1].at;
  const held = (what: string, claimed: unknown, derived: unknown, who: Address | null = null): Finding[] =>
    claimed === derived
      ? []
      : [{ what, claimed: String(claimed), derived: String(derived), at: last, round: null, who }];
  const open = job.attempt;
  const off = "is not what its events add up to: some are withheld";
  const wrong = [
    ...held(`the contract's round ${off}`, job.history.length, round.number),
    ...held(
      `the contract's seats ${off}`,
      maskOf([...job.participants.values()].map((each) => each.seat)),
      state.seats,
    ),
    ...held(`the contract's coordinator ${off}`, job.serving, state.coordinator),
    ...held(`the contract's model ${off}`, job.modelDigest, state.modelDigest),
    ...held(`the contract's model root ${off}`, job.modelRoot, state.modelRoot),
    ...(open ? held(`who committed ${off}`, committedSeats(job, open), round.committed) : []),
    ...(open ? held(`who revealed ${off}`, revealedSeats(job, open), round.revealed) : []),
  ];
  const owed = accounts.flatMap((account, index) =>
    held(
      `what the contract owes ${account} ${off}`,
      exactly(money.credits.get(account) ?? 0n),
      exactly(credits[index]),
      account,
    ),
  );
  owed.push(...held(`the contract's escrow ${off}`, exactly(money.escrow), exactly(state.escrow)));
  return [
    check("state", `the contract is at block ${ledger.head.number} where ${job.events.length} events lead`, wrong),
    check(
      "credits",
      `escrow and what it owes ${accounts.length} accounts are what every deposit, share and penalty adds up to`,
      [...money.findings, ...owed],
    ),
  ];
}
