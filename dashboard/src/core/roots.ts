/**
 * Chunk roots, as `protocol/formats/roots.py`: RFC 9162 Merkle tree hashes over chunks of 256 coordinates. A vector falls
 * into pieces, whole subtrees but for the last, which may be hashed apart.
 */
import { sha256 } from "@noble/hashes/sha2";
import { bytesToHex } from "@noble/hashes/utils";
import type { Hex } from "viem";

/** The root over a vector of so many bits a coordinate. */
export type RootOf = (data: Uint8Array, bits: number) => Promise<Hex>;

const CHUNK_COORDINATES = 256;
const PIECE_CHUNKS = 1 << 12;

/** Root over a vector of `bits` bits a coordinate, which is not empty. */
export function chunkRoot(data: Uint8Array, bits: number): Hex {
  return rootFrom(piecesOf(data, bits).map((piece) => nodeOf(piece, bits)));
}

export function piecesOf(data: Uint8Array, bits: number): Uint8Array[] {
  const size = PIECE_CHUNKS * chunkBytes(bits);
  return Array.from({ length: Math.ceil(data.length / size) }, (_, i) => data.subarray(i * size, (i + 1) * size));
}

/** The root over a piece. */
export function nodeOf(piece: Uint8Array, bits: number): Uint8Array {
  const size = chunkBytes(bits);
  const leaf = new Uint8Array(1 + size); // 0x00 ‖ chunk
  const leaves: Uint8Array[] = [];
  for (let start = 0; start < piece.length; start += size) {
    const chunk = piece.subarray(start, start + size);
    leaf.set(chunk, 1);
    leaves.push(sha256(leaf.subarray(0, 1 + chunk.length)));
  }
  return above(leaves);
}

export function rootFrom(nodes: Uint8Array[]): Hex {
  return `0x${bytesToHex(above(nodes))}`;
}

function above(nodes: Uint8Array[]): Uint8Array {
  const pair = Uint8Array.of(0x01, ...new Uint8Array(64)); // 0x01 ‖ left ‖ right
  let level = nodes;
  while (level.length > 1) {
    const next: Uint8Array[] = [];
    for (let i = 0; i + 1 < level.length; i += 2) {
      pair.set(level[i], 1);
      pair.set(level[i + 1], 33);
      next.push(sha256(pair));
    }
    if (level.length % 2) next.push(level[level.length - 1]); // an odd last node moves up unchanged
    level = next;
  }
  return level[0];
}

function chunkBytes(bits: number): number {
  return (CHUNK_COORDINATES * bits) / 8;
}
