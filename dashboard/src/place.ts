/** Where the page is: what is read from, in the query, and what is looked at, behind the hash. */
import { type Address, getAddress, isAddress } from "viem";

/** What the page reads from; it believes none of them. */
export interface Source {
  rpc: string;
  contract: Address;
  blobs: string; // a URL that a CID is put behind
}

export type Place =
  | { view: "jobs" }
  | { view: "job"; job: bigint }
  | { view: "round"; job: bigint; round: number }
  | { view: "participant"; job: bigint; who: string }
  | { view: "node"; job: bigint; code: string }
  | { view: "trail"; job: bigint; query: string };

export function href(place: Place): string {
  if (place.view === "jobs") return "#/";
  const job = `#/job/${place.job}`;
  if (place.view === "node") return `${job}/node/${place.code}`;
  if (place.view === "round") return `${job}/round/${place.round}`;
  if (place.view === "participant") return `${job}/participant/${place.who}`;
  return place.view === "trail" ? `${job}/trail/${encodeURIComponent(place.query)}` : job;
}

export function placeOf(hash: string): Place {
  const [, kind, number, view, rest = ""] = hash.split("/");
  if (kind !== "job" || !/^\d{1,30}$/.test(number ?? "")) return { view: "jobs" };
  const job = BigInt(number);
  if (view === "round" && /^\d{1,8}$/.test(rest)) return { view, job, round: Number(rest) };
  if (view === "participant") return { view, job, who: rest };
  if (view === "node") return { view, job, code: rest };
  if (view === "trail") return { view, job, query: decoded(rest) };
  return { view: "job", job };
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** From the page's query, else from whoever serves the page; null where no contract is named. */
export async function sourceOf(query: string): Promise<Source | null> {
  const given = new URLSearchParams(query);
  const served: Partial<Record<keyof Source, unknown>> = await fetch("source.json")
    .then((answer) => (answer.ok ? answer.json() : {}))
    .catch(() => ({}));
  const get = (key: keyof Source) => given.get(key) || (typeof served[key] === "string" ? (served[key] as string) : "");
  const contract = get("contract");
  if (!isAddress(contract, { strict: false })) return null;
  const absolute = (url: string) => new URL(url, document.baseURI).href;
  return {
    rpc: absolute(get("rpc") || "http://127.0.0.1:8545"),
    contract: getAddress(contract),
    blobs: absolute(get("blobs") || "blobs/"),
  };
}
