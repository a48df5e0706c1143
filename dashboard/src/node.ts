/** The node that serves this page with `deepledger join --pair`: what it is at, and orders that a wallet signs to it. */
import type { Address, Hex } from "viem";
import { type Connected, connect, lookForWallets, send, shown, signTyped, switchChain, type Wallet, WalletTrouble } from "./wallet.ts";

export interface NodeStatus {
  job: string;
  account: Address;
  chainId: number;
  contract: Address;
  wallet: Address | null;
  need: string; // wei: stake and fees
  has: string;
  seated: boolean;
  leaving: boolean;
  said: string;
  sent: string | null; // wei, home
}

const POLL = 1_000; // milliseconds

/** Everything that the view of a node shows, and does. */
export class PairedNode {
  readonly code: string;
  status: NodeStatus | null = null;
  connected: Connected | null = null;
  trouble = "";
  busy = false;
  gone = false; // the node does not answer
  paid: Hex | null = null; // the transaction
  readonly #changed: () => void;

  constructor(code: string, changed: () => void) {
    this.code = code;
    this.#changed = changed;
    lookForWallets(changed);
    void this.#follow();
  }

  connect(wallet: Wallet): Promise<void> {
    return this.#doing(async () => {
      this.connected = await connect(wallet);
      wallet.provider.on?.("accountsChanged", () => void this.#again(wallet));
      wallet.provider.on?.("chainChanged", () => void this.#again(wallet));
    });
  }

  switchChain(): Promise<void> {
    return this.#doing(async () => {
      await switchChain(this.connected!.wallet, this.status!.chainId);
      this.connected = await shown(this.connected!.wallet);
    });
  }

  /** Has the wallet sign that it pairs, or wants the node to leave. */
  order(what: "pair" | "leave"): Promise<void> {
    return this.#doing(async () => {
      const who = await this.#same();
      const data = await this.#ask<Record<string, unknown>>(`node/order?what=${what}&wallet=${who.account}`);
      const signature = await signTyped(who, data);
      this.status = await this.#ask("node/order", { what, wallet: who.account, signature });
    });
  }

  pay(): Promise<void> {
    return this.#doing(async () => {
      const { account, need, has } = this.status!;
      this.paid = await send(await this.#same(), account, BigInt(need) - BigInt(has));
    });
  }

  /** What is connected, if it is still what is shown, on the node's chain. */
  async #same(): Promise<Connected> {
    const before = this.connected!;
    this.connected = await shown(before.wallet);
    if (this.connected.account !== before.account)
      throw new WalletTrouble("The wallet has another account now: look at it, then do it again.");
    if (this.connected.chainId !== this.status!.chainId)
      throw new WalletTrouble(`The wallet is on chain ${this.connected.chainId}, the job on ${this.status!.chainId}.`);
    return this.connected;
  }

  async #again(wallet: Wallet): Promise<void> {
    await this.#doing(async () => {
      this.connected = await shown(wallet);
    });
  }

  async #doing(what: () => Promise<void>): Promise<void> {
    [this.busy, this.trouble] = [true, ""];
    this.#changed();
    try {
      await what();
    } catch (error) {
      this.trouble = error instanceof Error ? error.message : String(error);
    }
    this.busy = false;
    this.#changed();
  }

  async #follow(): Promise<void> {
    while (this.status?.sent === undefined || this.status.sent === null) {
      try {
        this.status = await this.#ask<NodeStatus>("node");
        this.gone = false;
      } catch (error) {
        this.gone = true;
        if (!this.status) this.trouble = error instanceof Error ? error.message : String(error);
      }
      this.#changed();
      await new Promise((go) => setTimeout(go, POLL));
    }
  }

  async #ask<T>(path: string, body?: unknown): Promise<T> {
    const headers = { "X-Pairing-Code": this.code, "Content-Type": "application/json" };
    const more = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
    const answer = await fetch(path, { headers, ...more }).catch(() => {
      throw new WalletTrouble("The node does not answer: is its command still running?");
    });
    if (answer.ok) return answer.json() as Promise<T>;
    if (answer.status === 404) throw new WalletTrouble("No node serves this page: open the link that `deepledger join --pair` shows.");
    throw new WalletTrouble(await answer.text());
  }
}
