/** What a job's transactions cost, by what they did. */
import { html, type TemplateResult } from "lit-html";
import type { Hex } from "viem";
import type { Kind } from "../core/events.ts";
import type { Job } from "../core/job.ts";
import { type Cost, deedsOf } from "../gas.ts";
import type { Page } from "../page.ts";
import { count, eth } from "./format.ts";

const MOST = 1_000; // transactions of which a node is asked without being told to

const allowed = new Set<bigint>();

export function gasView(page: Page, job: Job): TemplateResult {
  const deeds = deedsOf(job.events);
  if (deeds.size > MOST && !allowed.has(job.id)) {
    const go = () => {
      allowed.add(job.id);
      page.costs(deeds.keys());
    };
    return html`<p><button @click=${go}>Ask the node for the receipts of ${count(deeds.size, "transaction")}</button></p>`;
  }
  page.costs(deeds.keys());
  const rows = new Map<Kind, Cost[]>();
  for (const [transaction, kind] of deeds) {
    const cost = page.cost(transaction);
    if (cost) rows.set(kind, [...(rows.get(kind) ?? []), cost]);
  }
  const known = [...rows.values()].flat();
  const missing = deeds.size - known.length;
  return html`<p data-gas=${known.length}>${gas(known)} gas, for which ${eth(fees(known))} were paid in fees, in ${count(known.length, "transaction")}${missing ? `; of ${missing} more there is no receipt yet` : ""}. As the node tells it: not checked here.</p>
    <div class="scroll"><table>
      <thead><tr><th scope="col">What</th><th scope="col">Transactions</th><th scope="col">Gas each</th><th scope="col">Gas</th><th scope="col">Fees</th></tr></thead>
      <tbody>${[...rows].map(
        ([kind, costs]) => html`<tr>
        <th scope="row">${kind}</th>
        <td>${costs.length.toLocaleString("en")}</td>
        <td>${(sum(costs) / BigInt(costs.length)).toLocaleString("en")}</td>
        <td>${gas(costs)}</td>
        <td>${eth(fees(costs))}</td>
      </tr>`,
      )}</tbody>
    </table></div>`;
}

/** What an account paid in a job's transactions, as far as it is known. */
export function paidBy(page: Page, job: Job, account: Hex): string {
  const own = job.events
    .filter((event) => "participant" in event && event.participant === account)
    .map((event) => event.at.transaction);
  const transactions = [...new Set(own)];
  page.costs(transactions);
  const costs = transactions.flatMap((each) => page.cost(each) ?? []);
  const mine = costs.filter(({ from }) => from.toLowerCase() === account.toLowerCase());
  return `${gas(mine)} gas, ${eth(fees(mine))} of fees`;
}

function sum(costs: Cost[]): bigint {
  return costs.reduce((total, each) => total + each.gas, 0n);
}

function gas(costs: Cost[]): string {
  return sum(costs).toLocaleString("en");
}

function fees(costs: Cost[]): bigint {
  return costs.reduce((total, each) => total + each.fee, 0n);
}
