/** How things look: amounts in ETH, addresses short, moments in UTC. */
import { formatEther } from "viem";
import { DEPARTURES, OUTCOMES } from "../core/events.ts";

export function eth(wei: bigint): string {
  if (wei && wei < 10n ** 9n) return `${wei} wei`;
  const text = formatEther(wei);
  const [whole, part = ""] = text.split(".");
  return part.length > 6 ? `${whole}.${part.slice(0, 6)}… ETH` : `${text} ETH`;
}

export function short(hex: string): string {
  return hex.length > 14 ? `${hex.slice(0, 6)}…${hex.slice(-4)}` : hex;
}

export function moment(seconds: number): string {
  return `${new Date(seconds * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

export function duration(seconds: number): string {
  if (seconds < 120) return `${Math.max(0, Math.round(seconds))} s`;
  const parts: [number, string][] = [
    [Math.floor(seconds / 86_400), "d"],
    [Math.floor(seconds / 3600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "min"],
  ];
  return parts
    .filter(([count]) => count)
    .map(([count, unit]) => `${count} ${unit}`)
    .join(" ");
}

export function figure(name: string, value: number | null): string {
  if (value === null) return "not finite";
  return name === "accuracy" ? `${(100 * value).toFixed(1)}%` : value.toPrecision(4);
}

export function percent(millionths: number): string {
  return `${Math.round(millionths / 10_000)}%`;
}

/** An event's value in words. */
export function told(name: string, value: unknown): string {
  if (name === "outcome") return OUTCOMES[value as number] ?? String(value);
  if (name === "departure") return DEPARTURES[value as number] ?? String(value);
  if (/^(amount|stake|pot|penalty|share|refund|reward|bond|revealPenalty|settlePenalty)$/.test(name))
    return eth(value as bigint);
  if (/(End|^deadline)$/.test(name)) return value ? moment(value as number) : "none";
  if (name === "seats" || name === "accepted" || name === "counted") return `seats ${(value as bigint).toString(2)}b`;
  if (Array.isArray(value)) return value.map((each) => told("", each)).join(", ");
  if (value !== null && typeof value === "object") {
    return Object.entries(value)
      .map(([key, each]) => `${key} ${told(key, each)}`)
      .join(", ");
  }
  return String(value);
}

export function count(number: number, noun: string): string {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}
