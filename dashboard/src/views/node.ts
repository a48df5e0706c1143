/** Joining with a wallet: it pairs with a node that trains, pays its stake, and brings everything home. */
import { html, nothing, type TemplateResult } from "lit-html";
import type { Job } from "../core/job.ts";
import type { PairedNode } from "../node.ts";
import type { Page } from "../page.ts";
import { href } from "../place.ts";
import { wallets } from "../wallet.ts";
import { eth } from "./format.ts";

export function nodeView(page: Page, job: Job, node: PairedNode): TemplateResult {
  const { status, connected, busy, trouble } = node;
  const spec = page.spec(job);
  const back = html`<p><a href=${href({ view: "job", job: job.id })}>Job ${job.id}${spec ? `: ${spec.name}` : nothing}</a>, with its terms</p>`;
  return html`${back}<h1>Join with a wallet</h1>
    ${trouble ? html`<p role="alert" class="trouble">${trouble}</p>` : nothing}
    ${
      status
        ? html`${node.gone && !status.sent ? html`<p role="alert" class="trouble">The node does not answer. If its command was stopped, run it again, and open the link that it shows then.</p>` : nothing}
    <dl class="facts">
      <dt>node's account</dt><dd class="hash">${status.account}</dd>
      <dt>paid for by</dt><dd class="hash">${status.wallet ?? "nobody yet"}</dd>
      <dt>it says</dt><dd role="status" data-said>${status.said || "it waits for its stake"}</dd>
    </dl>
    <ol class="steps">
      ${step("Connect a wallet", connected !== null, connected ? html`<span class="hash">${connected.account}</span> in ${connected.wallet.name}` : choices(node))}
      ${connected && connected.chainId !== status.chainId ? wrongChain(node) : steps(node)}
    </ol>`
        : trouble
          ? nothing
          : html`<p role="status">Asking the node …</p>`
    }
    <p class="quiet">${busy ? "Waiting for the wallet …" : "Training, and the keys it takes, stay with the node. The wallet signs two sentences at most, and sends one amount."}</p>`;
}

function choices(node: PairedNode): TemplateResult {
  const found = wallets();
  if (!found.length)
    return html`There is no wallet in this browser. Open this link in one that has it, or send ${eth(BigInt(node.status!.need))} to the node's account
      and have its owner run it without <code>--pair</code>.`;
  return html`${found.map((wallet) => html`<button ?disabled=${node.busy} @click=${() => node.connect(wallet)}>${wallet.name}</button> `)}`;
}

function wrongChain(node: PairedNode): TemplateResult {
  const { chainId } = node.connected!;
  const asked = node.status!.chainId;
  return html`<li><p role="alert">The wallet is on chain ${chainId}, and the job on chain ${asked}.</p>
    <button ?disabled=${node.busy} @click=${() => node.switchChain()}>Ask it to switch to chain ${asked}</button></li>`;
}

function steps(node: PairedNode): TemplateResult {
  const { status, connected, busy } = node;
  const { wallet, seated, leaving, sent } = status!;
  const [need, has] = [BigInt(status!.need), BigInt(status!.has)];
  const mine = connected !== null && wallet === connected.account;
  const off = busy || !connected;
  const other = wallet && connected && !mine ? html`The node is paid for by <span class="hash">${wallet}</span>: choose that account in the wallet.` : nothing;
  const pair = html`<button ?disabled=${off} @click=${() => node.order("pair")}>Sign that what it has in the end goes to this wallet</button>`;
  const pay = html`<button ?disabled=${off || !mine || node.paid !== null} @click=${() => node.pay()}>Send ${eth(need - has)} to the node's account</button>
    ${node.paid ? html`sent in <span class="hash">${node.paid}</span>` : html`stake and fees; what is left of them comes back`}`;
  const leave = leaving
    ? html`${sent === null ? "It leaves once nothing is committed, and sends all home." : nothing}`
    : html`<button ?disabled=${off || !mine} @click=${() => node.order("leave")}>Sign that it is to leave, and bring everything home</button>`;
  return html`${step("Pair", wallet !== null, wallet ? other : pair)}
    ${step("Pay stake and fees", seated || sent !== null || (wallet !== null && has >= need), seated || sent !== null || has >= need || !wallet ? nothing : pay)}
    ${step("The node takes its seat, and trains", seated || sent !== null, seated ? html`<a href=${href({ view: "participant", job: BigInt(status!.job), who: status!.account })}>what it did and earned</a>` : nothing)}
    ${step("Stake and earnings come home", sent !== null, sent !== null ? html`<b data-sent>${eth(BigInt(sent))}</b> were sent to the wallet` : wallet ? html`when the job is over, or earlier: ${leave}` : nothing)}`;
}

function step(name: string, done: boolean, what: unknown): TemplateResult {
  return html`<li data-step=${name} data-done=${done}><b>${done ? html`<span class="mark recomputed">✓</span> ` : nothing}${name}</b>${what === nothing ? nothing : html`<div>${what}</div>`}</li>`;
}

/** On a job's page, while there are seats: the one command. */
export function invitation(job: Job): TemplateResult | typeof nothing {
  const { terms } = job.created;
  if (job.outcome !== null || job.disclosureEnd !== null || job.participants.size >= terms.maxParticipants) return nothing;
  return html`<h2>Take part</h2>
    <p>With data of your own, and the job's task, which its sponsor gives you to read:</p>
    <pre><code>deepledger join ${job.id} --data YOUR_DATA --task task.py --pair</code></pre>
    <p class="quiet">It shows a link to open here: your wallet pays the stake of ${eth(terms.stake)} and gets all back, while the node trains where your data are.
      Without <code>--pair</code>, an account that you fund by yourself pays.</p>`;
}
