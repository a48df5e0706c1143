/** Chunk roots of large vectors on all cores. */
import type { Node, Piece } from "./hasher.ts";
import { chunkRoot, piecesOf, type RootOf, rootFrom } from "./core/roots.ts";

const MOST = 8; // workers

const waiting = new Map<number, (node: Uint8Array) => void>();
const workers: Worker[] = [];
let asked = 0;

export const rootSoon: RootOf = async (data, bits) => {
  const pieces = piecesOf(data, bits);
  if (pieces.length < 2) return chunkRoot(data, bits);
  if (!workers.length) start();
  return rootFrom(await Promise.all(pieces.map((piece) => nodeSoon(piece, bits))));
};

function nodeSoon(piece: Uint8Array, bits: number): Promise<Uint8Array> {
  const id = asked++;
  const data = piece.slice(); // it is handed over
  return new Promise((done) => {
    waiting.set(id, done);
    workers[id % workers.length].postMessage({ id, data, bits } satisfies Piece, [data.buffer]);
  });
}

function start(): void {
  for (let i = 0; i < Math.min(MOST, navigator.hardwareConcurrency || 1); i++) {
    const worker = new Worker(new URL("./hasher.ts", import.meta.url), { type: "module" });
    worker.onmessage = ({ data: { id, node } }: MessageEvent<Node>) => {
      waiting.get(id)!(node);
      waiting.delete(id);
    };
    workers.push(worker);
  }
}
