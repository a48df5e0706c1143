/** The reward money's way through a job: what came in on the left, where it is now on the right, wide as it is much. */
import { html, nothing, svg, type TemplateResult } from "lit-html";
import type { Money } from "../core/money.ts";
import type { Job } from "../core/job.ts";
import { eth, short } from "./format.ts";

interface Stream {
  name: string;
  wei: bigint;
}

interface Band extends Stream {
  top: number;
  height: number;
}

const [LEFT, RIGHT, WIDTH] = [190, 390, 700];
const THICK = 8;
const LINE = 18; // a name's, so that none lies on another
const LEAST = 2; // of a band, so that the smallest can be seen
const ROOM = 160; // that is divided in proportion
const MOST = 8; // participants by themselves; the rest are one

export function flow(job: Job, money: Money): TemplateResult {
  const budget = BigInt(job.created.terms.rounds) * job.created.terms.reward;
  const earned = [...money.paid].map(([account, wei]) => ({ name: `earned by ${short(account)}`, wei }));
  const total = budget + money.penalties;
  if (!total) return html`${nothing}`;
  const sources = stacked(
    [
      { name: "budget", wei: budget },
      { name: "penalties", wei: money.penalties },
    ],
    total,
  );
  const targets = stacked(
    [...fewer(earned), { name: "back to the sponsor", wei: money.refund }, { name: "in escrow", wei: money.escrow }],
    total,
  );
  const height = Math.max(...[...sources, ...targets].map((each) => each.top + Math.max(each.height, LINE))) + 4;
  const deposits = [...money.stakes.values(), ...money.bonds.values()].reduce((sum, wei) => sum + wei, 0n);
  const streams = ribbons(sources, targets, total).map((path) => svg`<path class="stream" d=${path} />`);
  return html`<figure class="flow"><figcaption>Money's way</figcaption>
    <div class="scroll"><svg viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="Money's way; the list below has the numbers">
      ${streams}${sources.map((each) => band(each, LEFT - THICK, "end"))}${targets.map((each) => band(each, RIGHT, "start"))}
    </svg></div>
    <details><summary>As a list</summary><ul>
      ${sources.map((each) => html`<li>in: ${each.name}, ${eth(each.wei)}</li>`)}
      ${targets.map((each) => html`<li>now: ${each.name}, ${eth(each.wei)}</li>`)}
    </ul></details>
    <p class="quiet">Besides, ${eth(deposits)} of stakes and bonds are in deposit.</p>
  </figure>`;
}

function band({ name, wei, top, height }: Band, x: number, anchor: "start" | "end"): TemplateResult {
  const place = anchor === "end" ? x - 6 : x + THICK + 6;
  return svg`<rect class="band" x=${x} y=${top} width=${THICK} height=${height} />
    <text x=${place} y=${top + height / 2 + 4} text-anchor=${anchor}>${name}: ${eth(wei)}</text>`;
}

/** Money is alike: each target has of each source what its part is of all. */
function ribbons(sources: Band[], targets: Band[], total: bigint): string[] {
  const paths: string[] = [];
  const left = sources.map(() => 0);
  for (const target of targets) {
    let right = 0;
    sources.forEach((source, index) => {
      const [wide, narrow] = [part(target.wei, total) * source.height, part(source.wei, total) * target.height];
      const [a, b] = [source.top + left[index], target.top + right];
      const middle = (LEFT + RIGHT) / 2;
      paths.push(
        `M${LEFT} ${a} C${middle} ${a} ${middle} ${b} ${RIGHT} ${b} V${b + narrow}` +
          ` C${middle} ${b + narrow} ${middle} ${a + wide} ${LEFT} ${a + wide} Z`,
      );
      left[index] += wide;
      right += narrow;
    });
  }
  return paths;
}

function stacked(streams: Stream[], total: bigint): Band[] {
  let top = 4;
  return streams
    .filter((each) => each.wei > 0n)
    .map((each) => {
      const height = Math.max(LEAST, part(each.wei, total) * ROOM);
      const line = Math.max(LINE, height);
      const at = top + (line - height) / 2;
      top += line + 4;
      return { ...each, top: at, height };
    });
}

function part(wei: bigint, total: bigint): number {
  return Number((wei * 1_000_000n) / total) / 1_000_000;
}

function fewer(streams: Stream[]): Stream[] {
  const sorted = [...streams].sort((a, b) => (a.wei < b.wei ? 1 : -1));
  const rest = sorted.slice(MOST).reduce((sum, each) => sum + each.wei, 0n);
  return [...sorted.slice(0, MOST), { name: `earned by ${sorted.length - MOST} others`, wei: rest }];
}
