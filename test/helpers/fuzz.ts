/** How much random input the tests that take some are given: little by default, more with FORKTREE_FUZZ_SECONDS. */
import process from 'node:process';

const text = process.env.FORKTREE_FUZZ_SECONDS;

/** For how long one file of tests may go on making input, if that is said. */
export const fuzzSeconds = text === undefined ? undefined : Number(text);

/** Parameters of each of the `properties` that one file asserts: they share its time. */
export function fuzzParameters(properties: number): {numRuns?: number; interruptAfterTimeLimit?: number} {
	if (fuzzSeconds === undefined) return {};
	return {numRuns: Number.MAX_SAFE_INTEGER, interruptAfterTimeLimit: (fuzzSeconds * 1000) / properties};
}
