/** The contract's ABI, of the build that is deployed. */
import { abi as build } from "../../contracts/deepledger/contracts/artifacts/TrainingLedger.json";
import type { Abi } from "viem";

export const abi = build as Abi;
