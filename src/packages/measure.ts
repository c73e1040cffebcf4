/** Measures what importing a distribution costs, in fresh interpreters in a sandbox. */
import {ForktreeError} from '../errors.ts';
import {inside} from '../sandbox/rootfs.ts';
import {runGuest, type Workshop} from './guest-script.ts';
import {type ImportCost, readImportCost} from './metadata.ts';
import type {InstallSteps} from './steps.ts';

/** Limits of measuring. */
export type MeasureOptions = {
	/** Of one interpreter with everything imported, in MiB. */
	readonly memoryMb?: number;
	/** Of all runs together, in milliseconds. */
	readonly timeoutMs?: number;
};

const ownFolder = '/own';
/** How many processes each median is of. */
const runs = 5;

/**
 * The step that measures one folder of a set. Code of the packages runs, without network. Other distributions that it imports
 * from count as imported before, as a zygote imports them: with all of `others`, their modules, and nothing below these that they
 * do not import themselves. Modules that can't be imported are left out.
 * @returns which throws {ForktreeError} `InstallFailed`, `InstallTimeout` or `Aborted`
 */
export function createMeasure(
	workshop: Workshop,
	{memoryMb = 2048, timeoutMs = 5 * 60_000}: MeasureOptions = {},
): InstallSteps['measure'] {
	return async ({modules, others, folders, ofIndex}, {signal}): Promise<ImportCost> => {
		const own = folders[ofIndex];
		if (own === undefined) throw new RangeError(`ofIndex: expected the index of a folder, got ${ofIndex}`);
		const {cost} = await runGuest(workshop, {
			script: 'measure.py',
			request: {modules, others, packages: inside.packages, own: ownFolder, runs},
			what: `measuring ${modules.join(', ')}`.slice(0, 200),
			failure: 'InstallFailed',
			options: {
				network: 'none',
				mounts: [
					{source: folders, target: inside.packages},
					{source: own, target: ownFolder},
				],
				cwd: '/tmp',
				timeoutMs,
				memoryMb,
				scratchMb: 64,
				processes: 64,
				outputMb: 1,
				signal,
			},
		});
		return read(cost, modules);
	};
}

function read(cost: unknown, modules: readonly string[]): ImportCost {
	try {
		return readImportCost(cost);
	} catch (error) {
		const message = error instanceof Error ? error.message : String(error);
		throw new ForktreeError('InstallFailed', `measuring ${modules.join(', ')}: ${message}`, {cause: error});
	}
}
