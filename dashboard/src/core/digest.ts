/**
 * A blob's digest, as `protocol/blobs/digest.py` has it: the SHA-256 of the root node of the UnixFS file that IPFS makes
 * of it with CIDv1, dag-pb leaves of 256 KiB and at most 174 links a node. Whoever served the bytes is not believed.
 */
import { sha256 } from "@noble/hashes/sha2";
import { bytesToHex, concatBytes, hexToBytes } from "@noble/hashes/utils";
import type { Hex } from "viem";

export const CHUNK = 262_144;
export const LINKS = 174;

const CID_PREFIX = Uint8Array.of(0x01, 0x70, 0x12, 0x20); // CIDv1, dag-pb, sha2-256, 32 bytes
const FILE = Uint8Array.of(0x08, 0x02); // UnixFS Type = File
const BASE32 = "abcdefghijklmnopqrstuvwxyz234567";

interface Node {
  hash: Uint8Array;
  fileSize: number; // bytes of the blob below it
  dagSize: number; // bytes of all nodes below it and its own
}

export function digestOf(data: Uint8Array): Hex {
  let level: Node[] = [];
  for (let start = 0; start === 0 || start < data.length; start += CHUNK) {
    level.push(leaf(data.subarray(start, start + CHUNK)));
  }
  while (level.length > 1) {
    const above: Node[] = [];
    for (let start = 0; start < level.length; start += LINKS) above.push(parent(level.slice(start, start + LINKS)));
    level = above;
  }
  return `0x${bytesToHex(level[0].hash)}`;
}

/** The blob's CID as IPFS writes it, "bafybei…". */
export function cidOf(digest: Hex): string {
  const bytes = concatBytes(CID_PREFIX, hexToBytes(digest.slice(2)));
  let text = "b";
  let held = 0;
  let bits = 0;
  for (const byte of bytes) {
    held = (held << 8) | byte;
    bits += 8;
    while (bits >= 5) {
      bits -= 5;
      text += BASE32[(held >> bits) & 31];
    }
    held &= (1 << bits) - 1;
  }
  return bits ? text + BASE32[(held << (5 - bits)) & 31] : text;
}

/** PBNode { Data: UnixFS { Type, Data, filesize } }. */
function leaf(chunk: Uint8Array): Node {
  const size = chunk.length;
  const before = size ? concatBytes(Uint8Array.of(0x12), varint(size)) : new Uint8Array();
  const after = concatBytes(Uint8Array.of(0x18), varint(size));
  const length = FILE.length + before.length + size + after.length;
  const head = concatBytes(Uint8Array.of(0x0a), varint(length), FILE, before);
  const hash = sha256.create().update(head).update(chunk).update(after).digest();
  return { hash, fileSize: size, dagSize: head.length + size + after.length };
}

/** PBNode { Links: [PBLink { Hash, Name: "", Tsize }], Data: UnixFS { Type, filesize, blocksizes } }. */
function parent(children: Node[]): Node {
  const fileSize = children.reduce((sum, child) => sum + child.fileSize, 0);
  const links = children.map((child) =>
    field(
      0x12,
      concatBytes(
        field(0x0a, concatBytes(CID_PREFIX, child.hash)),
        Uint8Array.of(0x12, 0x00, 0x18),
        varint(child.dagSize),
      ),
    ),
  );
  const sizes = children.map((child) => concatBytes(Uint8Array.of(0x20), varint(child.fileSize)));
  const file = concatBytes(FILE, Uint8Array.of(0x18), varint(fileSize), ...sizes);
  const node = concatBytes(...links, field(0x0a, file));
  return {
    hash: sha256(node),
    fileSize,
    dagSize: node.length + children.reduce((sum, child) => sum + child.dagSize, 0),
  };
}

function field(tag: number, content: Uint8Array): Uint8Array {
  return concatBytes(Uint8Array.of(tag), varint(content.length), content);
}

/** Sizes pass 2^31, so that nothing is shifted here. */
function varint(number: number): Uint8Array {
  const out: number[] = [];
  while (number > 0x7f) {
    out.push((number % 128) | 0x80);
    number = Math.floor(number / 128);
  }
  return Uint8Array.from([...out, number]);
}
