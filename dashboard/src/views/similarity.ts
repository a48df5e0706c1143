/** How alike a round's updates are, as a table that is coloured, too: each cell has its number. */
import { html, type TemplateResult } from "lit-html";
import type { SettledRound } from "../core/job.ts";
import type { Similarity } from "../core/similarity.ts";
import { short } from "./format.ts";

export function similarityView({ seats, cosines, stride }: Similarity, over: SettledRound): TemplateResult {
  const named = new Map([...over.participants.values()].map(({ seat, address }) => [seat, address]));
  const name = (seat: number) => html`<span class="hash">${short(named.get(seat) ?? `seat ${seat}`)}</span>`;
  const which = stride > 1 ? `every ${stride.toLocaleString("en")}th of ` : "";
  return html`<h2>Similarity of updates</h2>
    <p>Cosines between updates whose bytes were read here, of ${which}what is trained: 1 is the same direction, −1 the opposite, 0 nothing
      in common. Honest updates on like data are alike; a copy has 1, flipped signs are negative.</p>
    <div class="scroll"><table class="heat">
      <thead><tr><th scope="col">Participant</th>${seats.map((seat) => html`<th scope="col">${name(seat)}</th>`)}</tr></thead>
      <tbody>${seats.map(
        (seat, i) => html`<tr><th scope="row">${name(seat)}</th>${cosines[i].map((value) => cell(value))}</tr>`,
      )}</tbody>
    </table></div>`;
}

function cell(value: number | null): TemplateResult {
  if (value === null) return html`<td>none</td>`;
  const [hue, depth] = [value < 0 ? "var(--against)" : "var(--accent)", Math.round(Math.min(Math.abs(value), 1) * 55)];
  return html`<td .style=${`background: color-mix(in srgb, ${hue} ${depth}%, transparent)`}>${value.toFixed(2).replace("-", "−")}</td>`;
}
