/** What transactions cost, by their receipts: as the node tells it, which nothing here can check. */
import { type Hex, type PublicClient, TransactionReceiptNotFoundError } from "viem";
import type { Address, Event, Kind } from "./core/events.ts";

export interface Cost {
  gas: bigint;
  fee: bigint; // wei
  from: Address; // who paid it
}

const AT_ONCE = 100;
const PAUSE = 10_000; // milliseconds, after a node that does not answer

/** Asks for each receipt once, some at a time. */
export class Receipts {
  readonly #known = new Map<Hex, Cost | null>(); // null: the node has none
  readonly #changed: () => void;
  #wanted = new Set<Hex>();
  #busy = false;
  #notBefore = 0;

  constructor(changed: () => void) {
    this.#changed = changed;
  }

  /** Undefined: not known yet. */
  of(transaction: Hex): Cost | null | undefined {
    return this.#known.get(transaction);
  }

  ask(client: PublicClient, transactions: Iterable<Hex>): void {
    for (const each of transactions) if (!this.#known.has(each)) this.#wanted.add(each);
    if (!this.#busy && this.#wanted.size && performance.now() >= this.#notBefore) void this.#fetch(client);
  }

  async #fetch(client: PublicClient): Promise<void> {
    this.#busy = true;
    const asked = [...this.#wanted].slice(0, AT_ONCE);
    try {
      await Promise.all(asked.map(async (each) => this.#known.set(each, await costOf(client, each))));
      for (const each of asked) this.#wanted.delete(each);
    } catch {
      this.#wanted.clear(); // whoever looks wants them again
      this.#notBefore = performance.now() + PAUSE;
    }
    this.#busy = false;
    if (this.#notBefore < performance.now()) this.#changed();
    if (this.#wanted.size) void this.#fetch(client);
  }
}

async function costOf(client: PublicClient, hash: Hex): Promise<Cost | null> {
  try {
    const { gasUsed, effectiveGasPrice, from } = await client.getTransactionReceipt({ hash });
    return { gas: gasUsed, fee: gasUsed * effectiveGasPrice, from };
  } catch (error) {
    if (error instanceof TransactionReceiptNotFoundError) return null;
    throw error;
  }
}

/** What was done in a transaction: of its events the one that is no consequence of another. */
const DEEDS: Kind[] = [
  ..."JobCreated BondPosted Joined Committed CommittedMasked Counted Revealed Unmasked Settled".split(" "),
  ..."CoordinatorReplaced ValidationDisclosed Withdrawn RoundStarved BondReleased Left JobEnded RoundOpened".split(" "),
] as Kind[];

/** By transaction, in the chain's order. */
export function deedsOf(events: Event[]): Map<Hex, Kind> {
  const found = new Map<Hex, Kind>();
  for (const { kind, at } of events) {
    const before = found.get(at.transaction);
    if (!before || place(kind) < place(before)) found.set(at.transaction, kind);
  }
  return found;
}

function place(kind: Kind): number {
  return (DEEDS.indexOf(kind) + DEEDS.length + 1) % (DEEDS.length + 1);
}
