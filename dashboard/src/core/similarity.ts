/** How much the updates of a round point the same way: cosines, of what is trained. They decide nothing here. */
import type { Update } from "./vectors.ts";

export interface Similarity {
  seats: number[]; // of the updates, ascending
  cosines: (number | null)[][]; // null: an update that moves nothing has no direction
  stride: number; // every so many coordinates were looked at
}

const MOST_PRODUCTS = 2 ** 30; // so that many large updates do not keep the page

/** Each update with each other, where there are two; of every so many coordinates where all would take long. */
export function similarityOf(vectors: Map<number, Update>, trained: number): Similarity | null {
  if (vectors.size < 2) return null;
  const seats = [...vectors.keys()].sort((a, b) => a - b);
  const pairs = (seats.length * (seats.length + 1)) / 2;
  const stride = Math.max(1, Math.ceil((pairs * trained) / MOST_PRODUCTS));
  const rows = seats.map((seat) => vectors.get(seat)!);
  const products = rows.map((row, i) => rows.slice(0, i + 1).map((other) => product(row, other, trained, stride)));
  const of = (i: number, j: number) => products[Math.max(i, j)][Math.min(i, j)];
  const cosines = rows.map((_, i) =>
    rows.map((_, j) => {
      const lengths = Math.sqrt(of(i, i)) * Math.sqrt(of(j, j));
      return lengths ? of(i, j) / lengths : null;
    }),
  );
  return { seats, cosines, stride };
}

function product(a: Update, b: Update, trained: number, stride: number): number {
  let sum = 0;
  for (let i = 0; i < trained; i += stride) sum += a[i] * b[i];
  return sum;
}
