/** Children that a zygote forks ahead, for whichever of its functions is called next. */
import type {CgroupPool} from '../sandbox/cgroup-pool.ts';
import {defaultLimits} from '../sandbox/limits.ts';
import type {MemoryBudget} from '../sandbox/memory-budget.ts';
import type {Spare} from '../sandbox/spare.ts';
import {Spares} from '../sandbox/spares.ts';
import {SharedWorkingSet} from '../sandbox/working-set.ts';
import {pythonSpare} from './python-leaf.ts';
import type {Zygote} from './zygote.ts';

/** MiB that one counts with until it is handed over. */
export const spareMb = 2;
/** Until it is handed over; then it gets those of its function. */
const spareLimits = {...defaultLimits, swapMb: 0};

/** One of them. */
export type NodeSpare = {
	readonly spare: Spare;
	/** To be told what its sandbox's first call took, in milliseconds. */
	readonly noteFirstCall: (durationMs: number) => void;
	/** Gives the memory for it back. */
	readonly release: () => void;
};

export type NodeSpares = Spares<NodeSpare>;

export type NodeSparesOptions = {
	/** So many at the most. */
	readonly most: number;
	readonly budget: MemoryBudget;
	readonly cgroups: CgroupPool;
};

/**
 * The first one rehearses; the others have the pages that this wrote to, which takes half as long and comes to the same. As long as that
 * pays, by the first calls of whatever functions they serve.
 */
export function makeNodeSpares(zygote: Zygote, {most, budget, cgroups}: NodeSparesOptions): NodeSpares {
	const rehearsed = new SharedWorkingSet();
	const make = async () => {
		const takeCgroup = () => cgroups.takeLow(spareLimits);
		const spare = await zygote.forkSpare({...pythonSpare, warmUps: !rehearsed.isKnown, takeCgroup});
		cgroups.refill(spareLimits);
		try {
			await (rehearsed.isKnown ? rehearsed.populate(spare.leaf) : rehearsed.look(spare.leaf));
			spare.leaf.cgroup.weigh('usual');
			return spare;
		} catch (error) {
			await spare.leaf.destroy();
			throw error;
		}
	};
	return new Spares({
		most,
		reserve: () => (budget.hasRoom(spareMb) ? budget.charge(spareMb) : undefined),
		make: async (release) => {
			const spare = await make().catch(() => undefined);
			if (spare !== undefined) {
				return {spare, release, noteFirstCall: (durationMs) => rehearsed.noteFirstCall(spare.leaf, durationMs)};
			}
			release();
			return undefined;
		},
		isUsable: ({spare}) => spare.isUsable,
		dispose: async ({spare, release}) => {
			rehearsed.noteUnused(spare.leaf);
			await spare.leaf.destroy();
			release();
		},
	});
}
