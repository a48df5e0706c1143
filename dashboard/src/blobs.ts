/** Blobs from anywhere: whatever serves them is not believed, their digest is computed here. */
import type { Hex } from "viem";
import { cidOf, digestSoon } from "./core/digest.ts";
import { BlobMissing, type Read } from "./core/claims.ts";
import { served } from "./gateway.ts";

const MOST_KEPT = 1 << 28; // bytes: the model after a round is the one before the next

/** Reads from `base` followed by the blob's CID: a coordinator's or dashboard's /blobs/, or an IPFS gateway's /ipfs/. */
export function blobsAt(base: string): Read {
  const kept = new Map<Hex, Uint8Array>(); // oldest first
  const coming = new Map<Hex, Promise<Uint8Array>>();
  let size = 0;

  async function fetched(digest: Hex, limit: number): Promise<Uint8Array> {
    try {
      const data = await checked(base, digest, limit);
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

async function checked(base: string, digest: Hex, limit: number): Promise<Uint8Array> {
  const data = await served(base, digest, limit);
  if ((await digestSoon(data)) === digest) return data;
  throw new BlobMissing(`what ${base} serves as blob ${cidOf(digest)} has another digest: it serves other bytes`);
}
