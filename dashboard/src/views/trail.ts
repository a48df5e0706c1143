/** Everything that happened, in the chain's order, searchable. */
import { html, type TemplateResult } from "lit-html";
import { argumentsOf, type Event } from "../core/events.ts";
import type { Job } from "../core/job.ts";
import type { Page } from "../page.ts";
import { href } from "../place.ts";
import { count, moment, short, told } from "./format.ts";

const MOST = 500; // rows at once

export function trailView(page: Page, job: Job, query: string): TemplateResult {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const found = job.events.filter((event) => words.every((word) => textOf(event).includes(word)));
  page.costs(found.slice(-MOST).map((event) => event.at.transaction));
  return html`<p><a href=${href({ view: "job", job: job.id })}>Job ${job.id}</a></p>
    <h1>Trail</h1>
    <form role="search" @submit=${(event: SubmitEvent) => event.preventDefault()}>
      <label>Search events, addresses, transactions
        <input type="search" .value=${query} @input=${(event: InputEvent) => page.go({ view: "trail", job: job.id, query: (event.target as HTMLInputElement).value })} />
      </label>
    </form>
    <p role="status">${count(found.length, "event")}${found.length > MOST ? `, of which the last ${MOST} are shown` : ""}</p>
    <div class="scroll"><table>
      <thead><tr><th scope="col">Block</th><th scope="col">When</th><th scope="col">Event</th><th scope="col">What</th><th scope="col">Gas</th><th scope="col">Transaction</th></tr></thead>
      <tbody>${found
        .slice(-MOST)
        .reverse()
        .map(
          (event) => html`<tr>
        <td>${event.at.block}</td>
        <td>${moment(event.at.timestamp)}</td>
        <th scope="row">${event.kind}</th>
        <td class="what">${argumentsOf(event).map(([name, value]) => html`<span>${name} <b>${told(name, value)}</b></span> `)}</td>
        <td>${page.cost(event.at.transaction)?.gas.toLocaleString("en") ?? ""}</td>
        <td><a class="hash" title=${event.at.transaction} href=${href({ view: "trail", job: job.id, query: event.at.transaction })}>${short(event.at.transaction)}</a></td>
      </tr>`,
        )}</tbody>
    </table></div>`;
}

const texts = new WeakMap<Event, string>();

function textOf(event: Event): string {
  let text = texts.get(event);
  if (!text) {
    const said = argumentsOf(event).map(([name, value]) => `${name} ${told(name, value)}`);
    text = [event.kind, event.at.block, event.at.transaction, ...said].join(" ").toLowerCase();
    texts.set(event, text);
  }
  return text;
}
