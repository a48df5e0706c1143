/** One round: who committed when, what was said of each update, what it was paid, and what holds of it. */
import { html, nothing, type TemplateResult } from "lit-html";
import { cidOf } from "../core/digest.ts";
import { seatsOf, shares } from "../core/rewards.ts";
import type { Attempt, Job, SettledRound } from "../core/job.ts";
import type { Page } from "../page.ts";
import { href } from "../place.ts";
import { eth, figure, moment, percent, short } from "./format.ts";
import { phaseText } from "./jobs.ts";
import { checkList, mark } from "./marks.ts";
import { similarityView } from "./similarity.ts";

export function roundView(page: Page, job: Job, round: number): TemplateResult {
  const over = job.history.at(round);
  const back = html`<p><a href=${href({ view: "job", job: job.id })}>Job ${job.id}</a></p>`;
  if (!over || round >= job.history.length) {
    if (job.attempt?.round !== round) return html`${back}<h1>Round ${round}</h1><p>It is not open yet.</p>`;
    return html`${back}<h1>Round ${round}</h1><p>${phaseText(page, job.id)}; attempt ${job.attempt.attempt}.</p>${acts(job.attempt)}`;
  }
  const found = page.verified(job, round, true);
  const { settled } = over;
  return html`${back}<h1>Round ${round}</h1>
    <section aria-live="polite" aria-busy=${found === "waiting"}>
      <h2>What holds</h2>
      ${
        found === "waiting"
          ? html`<p>${mark("waiting", { words: true })}</p>`
          : "trouble" in found
            ? html`<p role="alert">${mark("missing", { words: true })} ${found.trouble}</p>`
            : html`${checkList(found.checks, job)}${found.results.size ? html`<p>The coordinator reports ${[...found.results].map(([name, value]) => `${name} ${figure(name, value)}`).join(", ")}.</p>` : nothing}`
      }
      ${found !== "waiting" && ("trouble" in found || found.checks.some((each) => each.mark === "missing")) ? html`<button @click=${() => page.lookAgain()}>Look again</button>` : nothing}
    </section>
    <h2>Updates</h2>
    ${updates(page, job, over, round)}
    ${found !== "waiting" && "similarity" in found && found.similarity ? similarityView(found.similarity, over) : nothing}
    <h2>Settlement</h2>
    <dl class="facts">
      <dt>settled by</dt><dd class="hash">${settled.coordinator}</dd>
      <dt>in</dt><dd>block ${settled.at.block}, ${moment(settled.at.timestamp)}, <a class="hash" href=${href({ view: "trail", job: job.id, query: settled.at.transaction })}>${settled.at.transaction}</a></dd>
      <dt>model after</dt><dd class="hash">${cidOf(settled.modelDigest)}</dd>
      <dt>report</dt><dd class="hash">${cidOf(settled.reportDigest)}</dd>
    </dl>
    <h2>Who did what when</h2>
    ${acts(over.opened)}`;
}

function updates(page: Page, job: Job, over: SettledRound, round: number): TemplateResult {
  const found = page.verified(job, round);
  const judged = new Map(
    found !== "waiting" && "updates" in found ? found.updates.map((each) => [each.seat, each]) : [],
  );
  const amounts = shares(over.settled.pot, over.settled.scores);
  const paid = new Map(
    seatsOf(over.settled.accepted).map((seat, index) => [
      seat,
      { score: over.settled.scores[index], amount: amounts[index] },
    ]),
  );
  const rows = [...over.participants.values()]
    .filter(({ address }) => over.opened.reveals.some((each) => each.participant === address))
    .sort((a, b) => a.seat - b.seat);
  return html`<div class="scroll"><table>
    <thead><tr><th scope="col">Participant</th><th scope="col">Seat</th><th scope="col">Verdict, reported</th><th scope="col">Score</th><th scope="col">Paid</th></tr></thead>
    <tbody>${rows.map(
      ({ address, seat }) => html`<tr>
      <th scope="row"><a class="hash" href=${href({ view: "participant", job: job.id, who: address })}>${short(address)}</a></th>
      <td>${seat}</td>
      <td>${judged.get(seat)?.verdict ?? ""}${judged.get(seat)?.copyOf ? html` of <span class="hash">${short(judged.get(seat)!.copyOf!)}</span>` : nothing}<small class="quiet">${signs(judged.get(seat)?.signs ?? {})}</small></td>
      <td>${paid.get(seat)?.score.toLocaleString("en") ?? "not accepted"}</td>
      <td>${eth(paid.get(seat)?.amount ?? 0n)}</td>
    </tr>`,
    )}</tbody>
  </table></div>`;
}

/** What screening measured, of the median or of 1. */
function signs(signs: Record<string, number | string | null>): string {
  return Object.entries(signs)
    .filter(([, value]) => value !== null)
    .map(([name, value]) => `${name} ${typeof value === "number" ? percent(value) : short(value!)}`)
    .join(", ");
}

function acts(attempt: Attempt): TemplateResult {
  const all = [
    ...attempt.commits,
    ...(attempt.counted ? [attempt.counted] : []),
    ...attempt.reveals,
    ...attempt.penalties,
  ];
  const words: Record<string, string> = {
    Committed: "committed",
    CommittedMasked: "committed",
    Counted: "counted",
    Revealed: "revealed",
    Unmasked: "released shares",
    PenaltyTaken: "was fined",
  };
  return html`<ol class="acts">
    ${all.map((event) => html`<li><time>${moment(event.at.timestamp)}</time> <span class="hash">${short("participant" in event ? event.participant : event.coordinator)}</span> ${words[event.kind]}</li>`)}
  </ol>`;
}
