/** Which rounds were derived again, and which are to be: what is looked at comes first. */
import type { Ledger } from "./chain.ts";
import { together, type Mark } from "./core/findings.ts";
import type { Job } from "./core/job.ts";
import type { CheckedRound } from "./core/verify.ts";
import type { Answer, Order } from "./worker.ts";

export type Verified = CheckedRound | "waiting" | { trouble: string };

export class Verifier {
  readonly #worker: Worker;
  readonly #found = new Map<string, Verified>();
  #queue: Order[] = [];
  #busy = false;

  constructor(changed: () => void) {
    this.#worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
    this.#worker.onmessage = ({ data }: MessageEvent<Answer>) => {
      this.#found.set(data.id, data.found ?? { trouble: data.trouble });
      this.#busy = false;
      this.#next();
      changed();
    };
  }

  /** What is known of a settled round; asks for it where nothing is. `first`: before all that wait. */
  of(ledger: Ledger, job: Job, round: number, blobs: string, first = false): Verified {
    const over = job.history[round];
    const id = `${ledger.contract}/${job.id}/${round}/${over.settled.at.transaction}`;
    const known = this.#found.get(id);
    const place = { chainId: ledger.chainId, contract: ledger.contract, job: job.id };
    const input = { place, terms: job.created.terms, sponsored: job.created.at, over };
    if (!known) {
      this.#found.set(id, "waiting");
      this.#queue.push({ id, blobs, input });
    }
    if (first) this.#queue.sort((a, b) => Number(b.id === id) - Number(a.id === id));
    this.#next();
    return known ?? "waiting";
  }

  /** Forgets what could not be had, so that it is looked for once more. */
  lookAgain(): void {
    for (const [id, found] of this.#found) {
      if (found !== "waiting" && ("trouble" in found || found.checks.some((each) => each.mark === "missing")))
        this.#found.delete(id);
    }
  }

  #next(): void {
    const order = this.#busy ? undefined : this.#queue.shift();
    if (!order) return;
    this.#busy = true;
    this.#worker.postMessage(order);
  }
}

export function markOf(found: Verified): Mark | "waiting" {
  if (found === "waiting") return "waiting";
  return "trouble" in found ? "missing" : together(found.checks);
}
