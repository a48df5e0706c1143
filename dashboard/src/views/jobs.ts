/** All jobs of the contract. */
import { html, type TemplateResult } from "lit-html";
import { deadline, phaseAt } from "../core/phases.ts";
import type { Page } from "../page.ts";
import { href } from "../place.ts";
import { count, duration, eth, short } from "./format.ts";
import { mark } from "./marks.ts";

const NAMED = 100; // of the newest jobs, so that many specs are not asked for at once

export function jobsView(page: Page): TemplateResult {
  const jobs = [...page.ledger.jobs.values()].reverse();
  return html`<h1>Jobs</h1>
    ${
      jobs.length
        ? html`<div class="scroll"><table>
          <thead><tr><th scope="col">Job</th><th scope="col">Name</th><th scope="col">Phase</th><th scope="col">Rounds</th><th scope="col">Seated</th><th scope="col">Reward a round</th><th scope="col">Sponsor</th></tr></thead>
          <tbody>${jobs.map(
            ({ job, broken }, index) => html`<tr>
              <th scope="row"><a href=${href({ view: "job", job: job.id })}>Job ${job.id}</a></th>
              <td>${index < NAMED ? (page.spec(job)?.name ?? "") : ""}</td>
              <td>${broken ? mark("wrong", { words: true }) : phaseText(page, job.id)}</td>
              <td>${job.history.length} of ${job.created.terms.rounds}</td>
              <td>${job.participants.size}</td>
              <td>${eth(job.created.terms.reward)}</td>
              <td class="hash">${short(job.created.sponsor)}</td>
            </tr>`,
          )}</tbody>
        </table></div>`
        : html`<p>Nobody has made a job in this contract yet: <code>deepledger job create</code> does.</p>`
    }`;
}

/** The phase, and when it ends by itself. */
export function phaseText(page: Page, id: bigint): string {
  const { job } = page.ledger.jobs.get(id)!;
  const phase = phaseAt(job, page.now);
  const ends = deadline(job, page.now);
  const words = phase === "revealing" && job.created.terms.masked ? "releasing shares" : phase;
  if (phase === "waiting") {
    const lacking = job.created.terms.minParticipants - job.participants.size;
    return lacking > 0 ? `waiting for ${count(lacking, "participant")} more` : "waiting for the coordinator's bond";
  }
  return ends === null ? words : `${words}, ${duration(ends - page.now)} left`;
}
