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
  return rootOf(chunksOf(data).map((chunk) => node(sha256(framed(chunk)), chunk.length)));
}

/** The same with the browser's own SHA-256, several times as fast, where the page's origin is one that may have it. */
export async function digestSoon(data: Uint8Array): Promise<Hex> {
  const { subtle } = globalThis.crypto;
  if (!subtle) return digestOf(data);
  const leaves: Node[] = [];
  for (const chunk of chunksOf(data)) {
    leaves.push(node(new Uint8Array(await subtle.digest("SHA-256", framed(chunk))), chunk.length));
  }
  return rootOf(leaves);
}

function chunksOf(data: Uint8Array): Uint8Array[] {
  return Array.from({ length: Math.ceil(data.length / CHUNK) || 1 }, (_, i) =>
    data.subarray(i * CHUNK, (i + 1) * CHUNK),
  );
}

function rootOf(leaves: Node[]): Hex {
  let level = leaves;
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

/** A leaf of `size` bytes of data. */
function node(hash: Uint8Array, size: number): Node {
  const [head, tail] = frame(size);
  return { hash, fileSize: size, dagSize: head.length + size + tail.length };
}

/** A leaf as it is hashed. */
function framed(chunk: Uint8Array): Uint8Array<ArrayBuffer> {
  const [head, tail] = frame(chunk.length);
  const whole = new Uint8Array(head.length + chunk.length + tail.length);
  whole.set(head);
  whole.set(chunk, head.length);
  whole.set(tail, head.length + chunk.length);
  return whole;
}

/** What stands before and after the data of a leaf: PBNode { Data: UnixFS { Type, Data, filesize } }. */
function frame(size: number): [Uint8Array, Uint8Array] {
  const before = size ? concatBytes(Uint8Array.of(0x12), varint(size)) : new Uint8Array();
  const after = concatBytes(Uint8Array.of(0x18), varint(size));
  const length = varint(FILE.length + before.length + size + after.length);
  return [concatBytes(Uint8Array.of(0x0a), length, FILE, before), after];
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

export async function blockHash(block: Uint8Array): Promise<Hex> {
  const { subtle } = globalThis.crypto;
  const hash = subtle ? new Uint8Array(await subtle.digest("SHA-256", block as Uint8Array<ArrayBuffer>)) : sha256(block);
  return `0x${bytesToHex(hash)}`;
}

/** What a block of such a file has: links to others, and data. Whatever it is else, its bytes have another digest. */
export function parseBlock(block: Uint8Array): { links: Hex[]; data: Uint8Array } {
  const links = fields(block, 0x12).map((link): Hex => {
    const [cid = new Uint8Array()] = fields(link, 0x0a);
    return `0x${bytesToHex(cid.subarray(CID_PREFIX.length))}`;
  });
  const [file = new Uint8Array()] = fields(block, 0x0a);
  const [data = new Uint8Array()] = fields(file, 0x12);
  return { links: links.filter((link) => link.length === 66), data };
}

/** The contents of a message's fields with this tag, which have a length; those of others are passed over. */
function fields(message: Uint8Array, tag: number): Uint8Array[] {
  const found: Uint8Array[] = [];
  let place = 0;
  const number = (): number => {
    let value = 0;
    for (let factor = 1; place < message.length; factor *= 128) {
      const byte = message[place++];
      value += (byte & 0x7f) * factor;
      if (byte < 0x80) break;
    }
    return value;
  };
  while (place < message.length) {
    const name = message[place++];
    const value = number();
    if ((name & 7) !== 2) continue; // a number, which is read
    if (name === tag) found.push(message.subarray(place, place + value));
    place += value;
  }
  return found;
}
