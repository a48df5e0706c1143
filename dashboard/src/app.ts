/** The page: follows one contract, and shows what is asked for behind the hash. */
import { html, nothing, render, type TemplateResult } from "lit-html";
import { blobsAt } from "./blobs.ts";
import { type Ledger, open, update } from "./chain.ts";
import { type Check, check } from "./core/findings.ts";
import type { Money } from "./core/money.ts";
import { MAX_SPEC_BYTES, readSpec, type Spec } from "./core/spec.ts";
import type { Job } from "./core/job.ts";
import { Receipts } from "./gas.ts";
import { PairedNode } from "./node.ts";
import type { Page } from "./page.ts";
import { href, placeOf, type Source, sourceOf } from "./place.ts";
import { checkState } from "./state.ts";
import { Verifier } from "./verifier.ts";
import { moment } from "./views/format.ts";
import { jobView } from "./views/job.ts";
import { jobsView } from "./views/jobs.ts";
import { nodeView } from "./views/node.ts";
import { participantView } from "./views/participant.ts";
import { roundView } from "./views/round.ts";
import { trailView } from "./views/trail.ts";
import "./style.css";

const POLL = 2_000; // milliseconds

let source: Source | null = null;
let ledger: Ledger | null = null;
let seenAt = 0; // `performance.now()` when the newest block was new here
let trouble = "";
let waiting = false;
let node: PairedNode | null = null;
const verifier = new Verifier(redraw);
const receipts = new Receipts(redraw);
const states = new Map<bigint, { head: number; checks: Check[] }>();
const specs = new Map<bigint, Spec | null>();

function redraw(): void {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    render(shell(), document.getElementById("app")!);
  });
}

function pageOf(known: Ledger, blobs: string): Page {
  return {
    ledger: known,
    now: known.head.timestamp + (performance.now() - seenAt) / 1000,
    verified: (job, round, first) => verifier.of(known, job, round, blobs, first),
    state: (job, money) => stateOf(known, job, money),
    spec: (job) => specOf(job, blobs),
    cost: (transaction) => receipts.of(transaction),
    costs: (transactions) => receipts.ask(known.client, transactions),
    lookAgain: () => {
      verifier.lookAgain();
      redraw();
    },
    go: (place) => {
      history.replaceState(null, "", href(place));
      redraw();
    },
  };
}

/** The contract's own state, asked for once a block. */
function stateOf(known: Ledger, job: Job, money: Money): Check[] {
  const before = states.get(job.id);
  if (before?.head === known.head.number) return before.checks;
  const checks = before?.checks ?? [check("state", "is being asked for", [], "unchecked")];
  states.set(job.id, { head: known.head.number, checks });
  const head = known.head.number;
  void checkState(known, job, money).then((found) => {
    if (known.head.number !== head) return; // it went on meanwhile
    states.set(job.id, { head, checks: found });
    redraw();
  });
  return checks;
}

function specOf(job: Job, blobs: string): Spec | null {
  if (!specs.has(job.id)) {
    specs.set(job.id, null);
    blobsAt(blobs)(job.created.terms.specDigest, MAX_SPEC_BYTES).then(
      (data) => {
        specs.set(job.id, readSpec(data));
        redraw();
      },
      () => undefined, // the rounds say what is missing
    );
  }
  return specs.get(job.id) ?? null;
}

function shell(): TemplateResult {
  return html`<a class="skip" href="#main">Skip to content</a>
    <header>
      <a class="brand" href=${href({ view: "jobs" })}>deepledger</a>
      ${ledger ? html`<span>chain ${ledger.chainId}, block ${ledger.head.number}, ${moment(ledger.head.timestamp)}</span>` : nothing}
      ${sources()}
    </header>
    ${trouble ? html`<p role="alert" class="trouble">${trouble}</p>` : nothing}
    <main id="main" tabindex="-1">${source && ledger ? view(pageOf(ledger, source.blobs)) : source ? html`<p role="status">Reading the trail from ${source.rpc} …</p>` : html`<p>Name a contract above, and where to read it.</p>`}</main>
    <footer>${legend()}</footer>`;
}

function view(page: Page): TemplateResult {
  const place = placeOf(location.hash);
  document.title = place.view === "jobs" ? "deepledger" : `${place.view} · job ${place.job} · deepledger`;
  if (place.view === "jobs") return jobsView(page);
  const job = page.ledger.jobs.get(place.job)?.job;
  if (!job) return html`<h1>Job ${place.job}</h1><p>There is no such job in contract ${page.ledger.contract}.</p>`;
  if (place.view === "node") {
    if (node?.code !== place.code) node = new PairedNode(place.code, redraw);
    return nodeView(page, job, node);
  }
  if (place.view === "round") return roundView(page, job, place.round);
  if (place.view === "participant") return participantView(page, job, place.who);
  return place.view === "trail" ? trailView(page, job, place.query) : jobView(page, job);
}

function sources(): TemplateResult {
  return html`<details ?open=${!source}><summary>Read from</summary>
    <form method="get">
      <label>RPC node <input name="rpc" type="text" .value=${source?.rpc ?? ""} placeholder="http://127.0.0.1:8545" /></label>
      <label>Contract <input name="contract" type="text" .value=${source?.contract ?? ""} placeholder="0x…" /></label>
      <label>Blobs, before the CID <input name="blobs" type="text" .value=${source?.blobs ?? ""} placeholder="http://127.0.0.1:8080/ipfs/" /></label>
      <button>Read</button>
    </form></details>`;
}

function legend(): TemplateResult {
  return html`<p>✓ was recomputed in this page, from blobs whose digests were computed here, too; ◐ in part. ✗ does not hold. ?
    could not be had, which accuses nobody. – is not checked here. Events come from one RPC node: what it leaves out shows in the contract's
    own state, which it tells as well. <code>deepledger audit</code> asks several, and redoes evaluations.</p>`;
}

async function follow(from: Source): Promise<never> {
  for (;;) {
    try {
      const before = ledger?.head.number;
      ledger = ledger ? await update(ledger, from.rpc) : await open(from.rpc, from.contract);
      if (ledger.head.number !== before) seenAt = performance.now();
      trouble = "";
    } catch (error) {
      const why = error instanceof Error ? error.message.split("\n")[0] : String(error);
      const asOf = ledger ? ` What is shown is as of block ${ledger.head.number}.` : "";
      trouble = `Nothing new can be had from ${from.rpc}: ${why}${asOf} It is asked again.`;
    }
    redraw();
    await new Promise((resolve) => setTimeout(resolve, POLL));
  }
}

window.addEventListener("hashchange", () => {
  redraw();
  document.getElementById("main")?.focus();
});
source = await sourceOf(location.search);
redraw();
if (source) await follow(source);
