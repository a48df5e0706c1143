/** Whether the settled model is the aggregate of the accepted updates, bit for bit. */
import { advance, isDerivable } from "./aggregate.ts";
import { BlobMissing, finding, leftOut, missing, type Read, type RoundInput } from "./claims.ts";
import { cidOf, digestOf, digestSoon } from "./digest.ts";
import { type Check, check, type Finding } from "./findings.ts";
import type { Judgement } from "./judging.ts";
import type { RootOf } from "./roots.ts";
import type { Spec } from "./spec.ts";
import { asModel } from "./vectors.ts";

export async function checkModel(input: RoundInput, spec: Spec, judged: Judgement, read: Read, rootOf: RootOf): Promise<Check> {
  const { over } = input;
  const { settled } = over;
  if (!judged.readable) return leftOut("model", "the aggregate of sealed updates, which the job's readers can open");
  if (!isDerivable(spec))
    return leftOut("model", `the aggregate by ${spec.rule}${spec.bucketSize > 1 ? " over buckets" : ""}`);
  if (judged.incomplete) return missing("model", judged.incomplete);
  const size = spec.coordinates * 4;
  let before: Uint8Array;
  try {
    before = await read(over.modelDigest, size);
  } catch (error) {
    if (error instanceof BlobMissing) return missing("model", `the model before cannot be had: ${error.message}`);
    throw error;
  }
  if (before.length !== size)
    return missing(
      "model",
      `the model before has ${before.length} bytes and not ${size}, so that nothing follows from it`,
    );
  const after = asModel(before.slice());
  const saturated = advance(after, [...judged.rows.values()], spec);
  const bytes = new Uint8Array(after.buffer);
  const findings: Finding[] = [];
  if ((await digestSoon(bytes)) !== settled.modelDigest) findings.push(await compared(input, after, read));
  else {
    const root = await rootOf(bytes, 32);
    const what = "the settled chunk root is not that of the settled model";
    if (root !== settled.modelRoot) findings.push(finding(over, { what, claimed: settled.modelRoot, derived: root }));
  }
  const held = saturated ? `, ${saturated} of them held at the ends of int32` : "";
  const aside = judged.believed ? `, ${judged.believed} of which were put aside as the report says` : "";
  return check(
    "model",
    `${after.length.toLocaleString("en")} coordinates${held} by ${spec.rule} from ${over.contributions.length} updates${aside}`,
    findings,
  );
}

/** Where the settled model is another one. */
async function compared({ over }: RoundInput, derived: Int32Array, read: Read): Promise<Finding> {
  const claim = {
    what: "the settled model is not the aggregate of the accepted updates",
    claimed: cidOf(over.settled.modelDigest),
  };
  try {
    const served = await read(over.settled.modelDigest, derived.byteLength);
    if (served.length !== derived.byteLength) {
      const what = "what was settled cannot be a model of this job";
      return finding(over, {
        ...claim,
        what,
        derived: `it has ${served.length} bytes, and a model ${derived.byteLength}`,
      });
    }
    const claimed = asModel(served);
    const first = claimed.findIndex((value, i) => value !== derived[i]);
    const count = claimed.reduce((sum, value, i) => sum + Number(value !== derived[i]), 0);
    const what = `${claim.what}: ${count} of ${derived.length} coordinates differ, the first is coordinate ${first}`;
    return finding(over, { what, claimed: String(claimed[first]), derived: String(derived[first]) });
  } catch (error) {
    if (!(error instanceof BlobMissing)) throw error;
    return finding(over, { ...claim, derived: cidOf(digestOf(new Uint8Array(derived.buffer as ArrayBuffer))) });
  }
}
