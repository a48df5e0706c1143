/** Chunk roots, as `protocol/formats/roots.py`: RFC 9162 Merkle tree hashes over chunks of 256 coordinates. */
import { sha256 } from "@noble/hashes/sha2";
import { bytesToHex } from "@noble/hashes/utils";
import type { Hex } from "viem";

const CHUNK_COORDINATES = 256;

/** Root over a vector of `bits` bits a coordinate, which is not empty. */
export function chunkRoot(data: Uint8Array, bits: number): Hex {
  const size = (CHUNK_COORDINATES * bits) / 8;
  const leaf = new Uint8Array(1 + size); // 0x00 ‖ chunk
  let level: Uint8Array[] = [];
  for (let start = 0; start < data.length; start += size) {
    const chunk = data.subarray(start, start + size);
    leaf.set(chunk, 1);
    level.push(sha256(leaf.subarray(0, 1 + chunk.length)));
  }
  const pair = Uint8Array.of(0x01, ...new Uint8Array(64)); // 0x01 ‖ left ‖ right
  while (level.length > 1) {
    const above: Uint8Array[] = [];
    for (let i = 0; i + 1 < level.length; i += 2) {
      pair.set(level[i], 1);
      pair.set(level[i + 1], 33);
      above.push(sha256(pair));
    }
    if (level.length % 2) above.push(level[level.length - 1]); // an odd last node moves up unchanged
    level = above;
  }
  return `0x${bytesToHex(level[0])}`;
}
