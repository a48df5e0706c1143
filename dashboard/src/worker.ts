/** Derives rounds again, away from the page, so that it stays quick. */
import { blobsAt } from "./blobs.ts";
import { rootSoon } from "./hashing.ts";
import { type CheckedRound, verifyRound } from "./core/verify.ts";
import type { RoundInput } from "./core/claims.ts";

export interface Order {
  id: string;
  blobs: string;
  input: RoundInput;
}

export interface Answer {
  id: string;
  found: CheckedRound | null;
  trouble: string;
}

const readers = new Map<string, ReturnType<typeof blobsAt>>();

self.onmessage = async ({ data }: MessageEvent<Order>) => {
  const read = readers.get(data.blobs) ?? blobsAt(data.blobs);
  readers.set(data.blobs, read);
  let answer: Answer;
  try {
    answer = { id: data.id, found: await verifyRound(data.input, read, rootSoon), trouble: "" };
  } catch (error) {
    answer = { id: data.id, found: null, trouble: String(error) };
  }
  self.postMessage(answer);
};
