/**
 * Fetching from whatever is put before a CID: a coordinator's or dashboard's /blobs/, an IPFS gateway's /ipfs/, or a
 * trustless gateway, which only serves blocks (https://specs.ipfs.tech/http-gateways/trustless-gateway/). Who reads hashes it.
 */
import type { Hex } from "viem";
import { BlobMissing } from "./core/claims.ts";
import { blockHash, CHUNK, cidOf, LINKS, parseBlock } from "./core/digest.ts";

const AT_ONCE = 6;
const PATIENCE = 10; // times that a server which is too busy is asked again
const ONLY_BLOCKS = [400, 406, 415, 501]; // what those answer that want a format to be named
const MOST_BLOCK = 1 << 21; // bytes
const TIME = 150; // seconds that a blob has to come: a server may itself look for it that long
const SLOWEST = 1 << 16; // bytes that give it a second more

let running = 0;
const waiting: (() => void)[] = [];

export async function served(base: string, digest: Hex, limit: number, seconds = TIME): Promise<Uint8Array> {
  const time = { left: seconds * 1000 };
  const { status, data } = await exchange(base, cidOf(digest), limit, time);
  if (status === 200 && data) return data;
  if (status === 200) throw new BlobMissing(`what ${base} serves as blob ${cidOf(digest)} has more than ${limit} bytes`);
  if (ONLY_BLOCKS.includes(status)) return assembled(base, digest, limit, time);
  throw new BlobMissing(`${base} does not serve blob ${cidOf(digest)} (HTTP status ${status})`);
}

/** Block by block, each of which has the digest by which another names it, so that nobody can make it endless. */
async function assembled(base: string, digest: Hex, limit: number, time: Time): Promise<Uint8Array> {
  const most = Math.ceil(limit / CHUNK) + 1;
  let left = most + Math.ceil(most / (LINKS - 1)) + 1;
  const parts: Uint8Array[] = [];
  let size = 0;
  const fetched = async (digest: Hex): Promise<ReturnType<typeof parseBlock>> => {
    if (--left < 0) throw new BlobMissing(`blob ${cidOf(digest)} has more blocks than ${limit} bytes take`);
    const { status, data } = await exchange(base, `${cidOf(digest)}?format=raw`, MOST_BLOCK, time);
    if (status !== 200)
      throw new BlobMissing(`${base} does not serve block ${cidOf(digest)} (HTTP status ${status})`);
    if (!data || (await blockHash(data)) !== digest)
      throw new BlobMissing(`what ${base} serves as block ${cidOf(digest)} has another digest: it serves other bytes`);
    return parseBlock(data);
  };
  const walk = async (digest: Hex): Promise<void> => {
    const { links, data } = await fetched(digest);
    size += data.length;
    if (size > limit) throw new BlobMissing(`blob ${cidOf(digest)} has more than ${limit} bytes`);
    parts.push(data);
    for (const link of links) await walk(link);
  };
  await walk(digest);
  return joined(parts, size);
}

interface Time {
  left: number; // milliseconds, of waiting for answers: that it waits for its turn does not count
}

interface Exchanged {
  status: number;
  data: Uint8Array | null; // null: more than was to be taken, or nothing that was asked for
}

/** Some at a time, from question to last byte; asked again where too many ask. */
async function exchange(base: string, path: string, limit: number, time: Time): Promise<Exchanged> {
  for (let turn = 0; ; turn++) {
    while (running >= AT_ONCE) await new Promise<void>((go) => waiting.push(go));
    running += 1;
    const stop = new AbortController();
    const began = performance.now();
    const wait = () => setTimeout(() => stop.abort(), time.left - (performance.now() - began));
    let waited = wait();
    const come = (bytes: number) => {
      clearTimeout(waited);
      time.left += (bytes / SLOWEST) * 1000;
      waited = wait();
    };
    try {
      const answer = await fetch(base + path, { signal: stop.signal });
      if (answer.ok) return { status: 200, data: await bounded(answer, limit, come) };
      await answer.body?.cancel();
      if ((answer.status !== 503 && answer.status !== 429) || turn === PATIENCE)
        return { status: answer.status, data: null };
    } catch {
      if (stop.signal.aborted) throw new BlobMissing(`${path} did not come from ${base} in time`);
      throw new BlobMissing(`nobody answers at ${base}, where ${path} was looked for, or the answer broke off`);
    } finally {
      clearTimeout(waited);
      time.left -= performance.now() - began;
      running -= 1;
      waiting.shift()?.();
    }
    await new Promise((go) => setTimeout(go, 500 * (turn + 1)));
  }
}

/** Null: there is more than `limit`. `come` hears how many bytes came. */
async function bounded(answer: Response, limit: number, come: (bytes: number) => void): Promise<Uint8Array | null> {
  const told = Number(answer.headers.get("Content-Length") ?? Number.NaN);
  if (told > limit) {
    await answer.body?.cancel();
    return null;
  }
  const parts: Uint8Array[] = [];
  let size = 0;
  const body = answer.body!.getReader();
  for (let part = await body.read(); !part.done; part = await body.read()) {
    come(part.value.length);
    size += part.value.length;
    if (size > limit) {
      await body.cancel();
      return null;
    }
    parts.push(part.value);
  }
  return joined(parts, size);
}

function joined(parts: Uint8Array[], size: number): Uint8Array {
  const data = new Uint8Array(size);
  let place = 0;
  for (const part of parts) {
    data.set(part, place);
    place += part.length;
  }
  return data;
}
