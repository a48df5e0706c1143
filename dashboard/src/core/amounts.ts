/** Amounts in words. */
import { formatEther } from "viem";

const LEAST = 10n ** 9n; // below it wei are easier to read

/** To the last wei: two that differ look different. */
export function exactly(wei: bigint): string {
  const small = wei > -LEAST && wei < LEAST && wei !== 0n;
  return small ? `${wei} wei` : `${formatEther(wei)} ETH`;
}
