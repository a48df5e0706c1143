/** Commitments, as `protocol/formats/commitment.py`: the first 30 bytes of a keccak256 over eight words. */
import { concatHex, type Hex, keccak256, numberToHex, pad, slice } from "viem";
import type { Address, Opening } from "./events.ts";

/** What a commitment is good for: it cannot be copied by others or replayed elsewhere. */
export interface Slot {
  chainId: number;
  contract: Address;
  job: bigint;
  round: number;
  participant: Address;
}

export function commitmentFor(slot: Slot, opening: Opening): Hex {
  const words = [
    numberToHex(slot.chainId, { size: 32 }),
    pad(slot.contract),
    numberToHex(slot.job, { size: 32 }),
    numberToHex(slot.round, { size: 32 }),
    pad(slot.participant),
    opening.digest,
    opening.root,
    opening.salt,
  ];
  return slice(keccak256(concatHex(words)), 0, 30);
}
