/** Reading a TrainingLedger through one RPC node, which may lie: what its events add up to is held against its own state. */
import {
  type AbiEvent,
  createPublicClient,
  decodeEventLog,
  type Hex,
  http,
  numberToHex,
  type PublicClient,
  toEventSelector,
} from "viem";
import { abi } from "./abi.ts";
import type { Address, Event, Kind, Position } from "./core/events.ts";
import { apply, begin, Nonsense } from "./core/trail.ts";
import type { Job } from "./core/job.ts";

export interface Head {
  number: number;
  hash: Hex;
  timestamp: number;
}

/** A job whose trail was folded as far as it makes sense. */
export interface Tracked {
  job: Job;
  broken: Nonsense | null;
}

/** What one contract's events say up to a block. */
export interface Ledger {
  client: PublicClient;
  contract: Address;
  chainId: number;
  head: Head;
  jobs: Map<bigint, Tracked>;
}

interface RawLog {
  address: Hex;
  topics: [Hex, ...Hex[]];
  data: Hex;
  blockNumber: Hex;
  blockHash: Hex;
  blockTimestamp?: Hex;
  transactionHash: Hex;
  logIndex: Hex;
}

const EVENTS = new Map<Hex, AbiEvent>(
  abi.flatMap((entry) => (entry.type === "event" ? [[toEventSelector(entry), entry] as const] : [])),
);
const LEAST_WIDTH = 1; // blocks asked for at once, where a node refuses more

export function connect(rpc: string): PublicClient {
  return createPublicClient({
    ccipRead: false,
    transport: http(rpc, { batch: { batchSize: 100 }, retryCount: 1, timeout: 20_000 }),
    cacheTime: 0,
  });
}

/** Everything that a contract ever logged. Rejects where the node cannot be reached, or shows what cannot be. */
export async function open(rpc: string, contract: Address): Promise<Ledger> {
  const client = connect(rpc);
  const [chainId, code, head] = await Promise.all([
    client.getChainId(),
    client.getCode({ address: contract }),
    headOf(client),
  ]);
  if (!code) throw new Error(`there is no contract at ${contract} on chain ${chainId}: correct address or node`);
  const ledger: Ledger = { client, contract, chainId, head, jobs: new Map() };
  take(ledger, await eventsOf(ledger, 0, head.number));
  return ledger;
}

/** The ledger with the blocks that came since; another one, read from its beginning, where the chain took blocks back. */
export async function update(ledger: Ledger, rpc: string): Promise<Ledger> {
  const [head, known] = await Promise.all([headOf(ledger.client), headOf(ledger.client, ledger.head.number)]);
  if (known.hash !== ledger.head.hash) return open(rpc, ledger.contract);
  if (head.number === ledger.head.number) return ledger;
  const events = await eventsOf(ledger, ledger.head.number + 1, head.number);
  ledger.head = head;
  take(ledger, events);
  return ledger;
}

function take(ledger: Ledger, events: Event[]): void {
  for (const event of events) {
    const tracked = ledger.jobs.get(event.job);
    if (!tracked) ledger.jobs.set(event.job, { job: begin(event), broken: null });
    else if (!tracked.broken) {
      try {
        apply(tracked.job, event);
      } catch (error) {
        if (!(error instanceof Nonsense)) throw error;
        tracked.broken = error;
      }
    }
  }
}

async function headOf(client: PublicClient, number?: number): Promise<Head> {
  const block = await client
    .getBlock(number === undefined ? { blockTag: "latest" } : { blockNumber: BigInt(number) })
    .catch((error) => {
      if (number === undefined) throw error;
      return null; // taken back
    });
  if (!block) return { number: -1, hash: "0x", timestamp: 0 };
  return { number: Number(block.number), hash: block.hash as Hex, timestamp: Number(block.timestamp) };
}

async function eventsOf({ client, contract }: Ledger, first: number, last: number): Promise<Event[]> {
  const found: Event[] = [];
  let width = last - first + 1;
  for (let start = first; start <= last;) {
    const end = Math.min(start + width - 1, last);
    let logs: RawLog[];
    try {
      const range = { address: contract, fromBlock: numberToHex(start), toBlock: numberToHex(end) };
      logs = (await client.request({ method: "eth_getLogs", params: [range] })) as unknown as RawLog[];
    } catch (error) {
      if (width <= LEAST_WIDTH) throw error;
      await client.getChainId(); // a node that answers nothing at all has no trouble with the range
      width = Math.max(LEAST_WIDTH, Math.floor(width / 8));
      continue;
    }
    const times = await timesOf(client, logs);
    for (const log of logs) found.push(decoded(log, contract, times));
    start = end + 1;
  }
  return found;
}

/** The timestamps of the blocks of logs that do not tell them, by block hash. */
async function timesOf(client: PublicClient, logs: RawLog[]): Promise<Map<Hex, number>> {
  const silent = [...new Set(logs.filter((log) => !log.blockTimestamp).map((log) => log.blockHash))];
  const blocks = await Promise.all(silent.map((blockHash) => client.getBlock({ blockHash })));
  return new Map(blocks.map((block, index) => [silent[index], Number(block.timestamp)]));
}

function decoded(log: RawLog, contract: Address, times: Map<Hex, number>): Event {
  const entry = EVENTS.get(log.topics[0]);
  if (!entry || log.address.toLowerCase() !== contract.toLowerCase()) {
    throw new Error("the node gave a log that the contract cannot emit; use another RPC endpoint");
  }
  const { args } = decodeEventLog({ abi: [entry], data: log.data, topics: log.topics, strict: true });
  const { job, ...rest } = args as unknown as Record<string, unknown> & { job: bigint };
  const at: Position = {
    block: Number(log.blockNumber),
    index: Number(log.logIndex),
    blockHash: log.blockHash,
    transaction: log.transactionHash,
    timestamp: log.blockTimestamp ? Number(log.blockTimestamp) : times.get(log.blockHash)!,
  };
  return { kind: entry.name as Kind, job, at, ...rest } as Event;
}
