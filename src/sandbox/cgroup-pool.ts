/** Groups for sandboxes, made ahead: making one takes a dozen writes that a start need not wait for. */
import type {Cgroup, CgroupLimits} from '../kernel/cgroup.ts';
import type {CgroupTree} from '../kernel/cgroup-tree.ts';
import {Stock} from './stock.ts';

/** How many groups wait ready for each set of limits, and for how many sets. */
const readyGroups = 2;
const maxSets = 16;

/** Owns the groups that wait. */
export class CgroupPool {
	readonly #tree: CgroupTree;
	readonly #stock = new Stock<Cgroup>({
		each: readyGroups,
		kinds: maxSets,
		dispose: (group) => group.remove(),
	});

	constructor(tree: CgroupTree) {
		this.#tree = tree;
	}

	/** A group with these limits, at once if one is ready; the caller removes it. */
	take(limits: CgroupLimits): Cgroup | Promise<Cgroup> {
		return this.#stock.take(keyOf(limits)) ?? this.#tree.create(limits);
	}

	/** As {@link take}, for what nobody waits for: of CPU time it gets little, until the caller weighs it as usual. */
	async takeLow(limits: CgroupLimits): Promise<Cgroup> {
		const group = await this.take(limits);
		try {
			group.weigh('low');
			return group;
		} catch (error) {
			await group.remove();
			throw error;
		}
	}

	/** Makes groups for the next starts with these limits, away from Node's thread. To be called when a start is over. */
	refill(limits: CgroupLimits): void {
		this.#stock.refill(keyOf(limits), () => this.#tree.create(limits));
	}

	async close(): Promise<void> {
		await this.#stock.close();
	}
}

function keyOf({memoryMb, swapMb, cpuPercent, processes}: CgroupLimits): string {
	return `${memoryMb} ${swapMb} ${cpuPercent} ${processes}`;
}
