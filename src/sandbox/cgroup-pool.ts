/** Groups for sandboxes, made ahead: making one takes a dozen writes that a start need not wait for. */
import type {Cgroup, CgroupLimits, CgroupTree} from '../kernel/cgroup.ts';

/** How many groups wait ready for each set of limits, and for how many sets. */
const readyGroups = 2;
const maxSets = 16;

/** Groups with the same limits. */
type ReadySet = {readonly groups: Cgroup[]; making: number};

/** Owns the groups that wait. */
export class CgroupPool {
	readonly #tree: CgroupTree;
	/** By limits; the least recently used set first. */
	readonly #sets = new Map<string, ReadySet>();
	readonly #making = new Set<Promise<void>>();
	#closed = false;

	constructor(tree: CgroupTree) {
		this.#tree = tree;
	}

	/** A group with these limits, at once if one is ready; the caller removes it. */
	take(limits: CgroupLimits): Cgroup | Promise<Cgroup> {
		return this.#sets.get(keyOf(limits))?.groups.pop() ?? this.#tree.create(limits);
	}

	/** Makes groups for the next starts with these limits, away from Node's thread. To be called when a start is over. */
	refill(limits: CgroupLimits): void {
		if (this.#closed) return;
		const key = keyOf(limits);
		const set = this.#sets.get(key) ?? {groups: [], making: 0};
		this.#sets.delete(key);
		this.#sets.set(key, set);
		while (set.groups.length + set.making < readyGroups) this.#makeFor(key, set, limits);
		for (const [oldest, {groups}] of this.#sets) {
			if (this.#sets.size <= maxSets) return;
			this.#sets.delete(oldest);
			for (const group of groups.splice(0)) void group.remove();
		}
	}

	#makeFor(key: string, set: ReadySet, limits: CgroupLimits): void {
		set.making += 1;
		const made = this.#tree
			.create(limits)
			.then(
				(group) => {
					if (this.#sets.get(key) === set) set.groups.push(group);
					else void group.remove();
				},
				() => undefined, // the next take() tries again and reports it
			)
			.finally(() => {
				set.making -= 1;
				this.#making.delete(made);
			});
		this.#making.add(made);
	}

	async close(): Promise<void> {
		this.#closed = true;
		await Promise.all(this.#making);
		const waiting = [...this.#sets.values()].flatMap(({groups}) => groups);
		this.#sets.clear();
		await Promise.all(waiting.map((group) => group.remove()));
	}
}

function keyOf({memoryMb, swapMb, cpuPercent, processes}: CgroupLimits): string {
	return `${memoryMb} ${swapMb} ${cpuPercent} ${processes}`;
}
