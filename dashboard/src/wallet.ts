/** Wallets in the browser: found as EIP-6963 has it, spoken to as EIP-1193 has it, and not believed about who they are. */
import { type Address, getAddress, type Hex, numberToHex, recoverTypedDataAddress } from "viem";

export interface Provider {
  request(asked: { method: string; params?: unknown[] }): Promise<unknown>;
  on?(event: string, hear: (value: unknown) => void): void;
}

export interface Wallet {
  id: string;
  name: string;
  provider: Provider;
}

/** What it shows of itself now. */
export interface Connected {
  wallet: Wallet;
  account: Address;
  chainId: number;
}

/** What went wrong, in words for whoever holds the wallet. */
export class WalletTrouble extends Error {}

const REFUSED = 4001;
const UNKNOWN_CHAIN = 4902;

const found = new Map<string, Wallet>();

/** All that announce themselves, and the one that only stands in `window.ethereum`. */
export function wallets(): Wallet[] {
  const alone = (window as { ethereum?: Provider }).ethereum;
  if (found.size || !alone) return [...found.values()];
  return [{ id: "ethereum", name: "This browser's wallet", provider: alone }];
}

export function lookForWallets(changed: () => void): void {
  window.addEventListener("eip6963:announceProvider", (event) => {
    const { info, provider } = (event as CustomEvent<{ info: { uuid: string; name: string }; provider: Provider }>).detail;
    found.set(info.uuid, { id: info.uuid, name: String(info.name), provider });
    changed();
  });
  window.dispatchEvent(new Event("eip6963:requestProvider"));
}

/** Asks it for an account. */
export async function connect(wallet: Wallet): Promise<Connected> {
  const accounts = await ask(wallet, "eth_requestAccounts");
  return shown(wallet, accounts);
}

/** Its account and chain, of what it said itself or gave just now. */
export async function shown(wallet: Wallet, accounts?: unknown): Promise<Connected> {
  const [first] = (accounts ?? (await ask(wallet, "eth_accounts"))) as unknown[];
  if (typeof first !== "string" || !/^0x[0-9a-f]{40}$/i.test(first))
    throw new WalletTrouble(`${wallet.name} shows no account: unlock it, and let this page see one`);
  const chainId = Number(await ask(wallet, "eth_chainId"));
  return { wallet, account: getAddress(first.toLowerCase()), chainId };
}

export async function switchChain(wallet: Wallet, chainId: number): Promise<void> {
  await ask(wallet, "wallet_switchEthereumChain", [{ chainId: numberToHex(chainId) }]);
}

/** Signs typed data; throws where somebody else's key signed. */
export async function signTyped({ wallet, account }: Connected, data: Record<string, unknown>): Promise<Hex> {
  const signature = (await ask(wallet, "eth_signTypedData_v4", [account, JSON.stringify(data)])) as Hex;
  if (typeof signature !== "string" || !/^0x[0-9a-f]{130}$/i.test(signature))
    throw new WalletTrouble(`${wallet.name} gave no signature of 65 bytes: one that is a contract cannot pay for a node`);
  const signer = await recoverTypedDataAddress({ ...data, signature } as never).catch(() => null);
  if (signer !== account)
    throw new WalletTrouble(
      `${wallet.name} signed as ${signer ?? "nobody"}, and says that it is ${account}: nothing was done with it`,
    );
  return signature;
}

/** Has it send ether; gives the transaction. */
export async function send({ wallet, account }: Connected, to: Address, value: bigint): Promise<Hex> {
  const sent = await ask(wallet, "eth_sendTransaction", [{ from: account, to, value: numberToHex(value) }]);
  if (typeof sent === "string" && /^0x[0-9a-f]{64}$/i.test(sent)) return sent as Hex;
  throw new WalletTrouble(`${wallet.name} named no transaction: look in it whether something was sent`);
}

async function ask(wallet: Wallet, method: string, params: unknown[] = []): Promise<unknown> {
  try {
    return await wallet.provider.request({ method, params });
  } catch (error) {
    const { code, message } = (error ?? {}) as { code?: number; message?: string };
    if (code === REFUSED) throw new WalletTrouble(`You refused in ${wallet.name}: nothing was signed or sent.`);
    if (code === UNKNOWN_CHAIN) throw new WalletTrouble(`${wallet.name} does not know that chain: add it there first.`);
    throw new WalletTrouble(`${wallet.name} says: ${String(message ?? error).slice(0, 300)}`);
  }
}
