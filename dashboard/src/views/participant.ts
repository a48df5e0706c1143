/** One participant in a job: what it did, earned and has at stake. */
import { html, type TemplateResult } from "lit-html";
import { DEPARTURES } from "../core/events.ts";
import { moneyOf } from "../core/money.ts";
import { seatsOf, shares } from "../core/rewards.ts";
import { FULL, type Job } from "../core/job.ts";
import type { Page } from "../page.ts";
import { href } from "../place.ts";
import { eth, percent } from "./format.ts";
import { paidBy } from "./gas.ts";
import { mark } from "./marks.ts";
import { markOf } from "../verifier.ts";

export function participantView(page: Page, job: Job, who: string): TemplateResult {
  const participant = [...job.everybody.values()].find(({ address }) => address.toLowerCase() === who.toLowerCase());
  const back = html`<p><a href=${href({ view: "job", job: job.id })}>Job ${job.id}</a></p>`;
  if (!participant) return html`${back}<h1>Participant</h1><p>No such account ever had a seat in this job.</p>`;
  const { address } = participant;
  const money = moneyOf(job);
  const left = job.events.findLast((event) => event.kind === "Left" && event.participant === address);
  const seated = job.participants.has(address);
  const shown = job.history.flatMap((over, round) =>
    over.opened.reveals.some((each) => each.participant === address) ? [{ over, round }] : [],
  );
  return html`${back}<h1 class="hash">${address}</h1>
    <dl class="facts">
      <dt>seat</dt><dd>${seated ? participant.seat : `left${left?.kind === "Left" ? `, ${DEPARTURES[left.departure]}` : ""}`}</dd>
      <dt>samples declared</dt><dd>${participant.samples.toLocaleString("en")}</dd>
      <dt>earned</dt><dd>${eth(money.paid.get(address) ?? 0n)}</dd>
      <dt>is owed</dt><dd>${eth(money.credits.get(address) ?? 0n)}</dd>
      <dt>stake in deposit</dt><dd>${eth(money.stakes.get(address) ?? 0n)}</dd>
      <dt>spent</dt><dd>${paidBy(page, job, address)}, as the node tells it</dd>
      <dt>reputation</dt><dd>${percent(job.reputations.get(address) ?? FULL)}</dd>
    </dl>
    <p><a href=${href({ view: "trail", job: job.id, query: address })}>What it did, in the trail</a></p>
    <div class="scroll"><table>
      <thead><tr><th scope="col">Round</th><th scope="col">Checked</th><th scope="col">Score</th><th scope="col">Paid</th></tr></thead>
      <tbody>${shown.reverse().map(({ over, round }) => {
        const seat = over.participants.get(address)!.seat;
        const index = seatsOf(over.settled.accepted).indexOf(seat);
        return html`<tr>
          <th scope="row"><a href=${href({ view: "round", job: job.id, round })}>Round ${round}</a></th>
          <td>${mark(markOf(page.verified(job, round)))}</td>
          <td>${index < 0 ? "not accepted" : over.settled.scores[index].toLocaleString("en")}</td>
          <td>${eth(index < 0 ? 0n : shares(over.settled.pot, over.settled.scores)[index])}</td>
        </tr>`;
      })}</tbody>
    </table></div>`;
}
