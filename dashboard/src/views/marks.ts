/** Ticks and crosses, in shapes and words, never in colour alone. */
import { html, nothing, type TemplateResult } from "lit-html";
import type { Check, Finding, Mark } from "../core/findings.ts";
import type { Job } from "../core/job.ts";
import { href } from "../place.ts";

const SIGNS: Record<Mark | "waiting", [string, string]> = {
  recomputed: ["✓", "recomputed here"],
  partly: ["◐", "recomputed in part"],
  wrong: ["✗", "does not hold"],
  missing: ["?", "cannot be had"],
  unchecked: ["–", "not checked here"],
  waiting: ["…", "being recomputed"],
};

export function mark(kind: Mark | "waiting", { words = false } = {}): TemplateResult {
  const [sign, says] = SIGNS[kind];
  return html`<span class="mark ${kind}" title=${says}><span aria-hidden="true">${sign}</span><span class=${words ? "" : "unseen"}> ${says}</span></span>`;
}

export function checkList(checks: Check[], job: Job): TemplateResult {
  return html`<ul class="checks">
      ${checks.map((each) => html`<li data-check=${each.name}>${mark(each.mark)} <b>${each.name}</b> ${each.mark === "wrong" ? nothing : each.says}${each.findings.map((finding) => found(finding, job))}</li>`)}
    </ul>
    ${checks.some((each) => each.mark === "unchecked" || each.mark === "partly") ? html`<p class="quiet">What is not checked here, the audit does: <code>deepledger audit ${job.id} --task task.py</code></p>` : nothing}`;
}

/** Names claim, derivation and transaction. */
function found(finding: Finding, job: Job): TemplateResult {
  return html`<dl class="finding" role="group" aria-label="A claim that does not hold">
    <dt>what</dt><dd>${finding.what}</dd>
    <dt>claimed</dt><dd>${finding.claimed}</dd>
    <dt>derived</dt><dd>${finding.derived}</dd>
    <dt>where</dt><dd>${finding.round === null ? nothing : html`round ${finding.round}, `}block ${finding.at.block}, transaction <a class="hash" href=${href({ view: "trail", job: job.id, query: finding.at.transaction })}>${finding.at.transaction}</a></dd>
  </dl>`;
}
