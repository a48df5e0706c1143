/** Blobs from anywhere: whatever serves them is not believed, their digest is computed here. */
import type { Hex } from "viem";
import { cidOf, digestSoon } from "./core/digest.ts";
import { BlobMissing, type Read } from "./core/claims.ts";

const MOST_KEPT = 1 << 28; // bytes: the model after a round is the one before the next

/** Reads from `base` followed by the blob's CID: a coordinator's or dashboard's /blobs/, or an IPFS gateway's /ipfs/. */
export function blobsAt(base: string): Read {
  const kept = new Map<Hex, Uint8Array>(); // oldest first
  const coming = new Map<Hex, Promise<Uint8Array>>();
  let size = 0;

  async function fetched(digest: Hex, limit: number): Promise<Uint8Array> {
    try {
      const data = await served(base, digest, limit);
      kept.set(digest, data);
      size += data.length;
      for (const [oldest, bytes] of kept) {
        if (size <= MOST_KEPT) break;
        kept.delete(oldest);
        size -= bytes.length;
      }
      return data;
    } finally {
      coming.delete(digest);
    }
  }

  return (digest, limit) => {
    const known = kept.get(digest);
    if (known && known.length <= limit) return Promise.resolve(known);
    const asked = coming.get(digest) ?? fetched(digest, limit);
    coming.set(digest, asked);
    return asked;
  };
}

async function served(base: string, digest: Hex, limit: number): Promise<Uint8Array> {
  const cid = cidOf(digest);
  let answer: Response;
  try {
    answer = await fetch(base + cid);
  } catch {
    throw new BlobMissing(`nobody answers at ${base}, where blob ${cid} was looked for`);
  }
  if (!answer.ok) throw new BlobMissing(`${base} does not serve blob ${cid} (HTTP status ${answer.status})`);
  const data = await bounded(answer, limit);
  if (!data) throw new BlobMissing(`what ${base} serves as blob ${cid} has more than ${limit} bytes`);
  if ((await digestSoon(data)) !== digest)
    throw new BlobMissing(`what ${base} serves as blob ${cid} has another digest: it serves other bytes`);
  return data;
}

/** Null: there is more than `limit`. */
async function bounded(answer: Response, limit: number): Promise<Uint8Array | null> {
  const parts: Uint8Array[] = [];
  let size = 0;
  const body = answer.body!.getReader();
  for (let part = await body.read(); !part.done; part = await body.read()) {
    size += part.value.length;
    if (size > limit) {
      await body.cancel();
      return null;
    }
    parts.push(part.value);
  }
  const data = new Uint8Array(size);
  let place = 0;
  for (const part of parts) {
    data.set(part, place);
    place += part.length;
  }
  return data;
}
