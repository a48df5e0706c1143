/** Hashes pieces of vectors beside others of its kind. */
import { nodeOf } from "./core/roots.ts";

export interface Piece {
  id: number;
  data: Uint8Array;
  bits: number;
}

export interface Node {
  id: number;
  node: Uint8Array;
}

self.onmessage = ({ data: { id, data, bits } }: MessageEvent<Piece>) => {
  self.postMessage({ id, node: nodeOf(data, bits) } satisfies Node);
};
