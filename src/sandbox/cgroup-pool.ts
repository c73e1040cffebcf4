/** Groups for sandboxes, made ahead: making one takes a dozen writes that a start need not wait for. */
import type {Cgroup, CgroupLimits, CgroupTree} from '../kernel/cgroup.ts';

/** How many groups wait ready for each set of limits, and for how many sets. */
const readyGroups = 2;
const maxSets = 16;

/** Owns the groups that wait. */
export class CgroupPool {
	readonly #tree: CgroupTree;
	/** By limits; the least recently used set first. */
	readonly #ready = new Map<string, Cgroup[]>();
	#closed = false;

	constructor(tree: CgroupTree) {
		this.#tree = tree;
	}

	/** A group with these limits; the caller removes it. */
	take(limits: CgroupLimits): Cgroup {
		return this.#ready.get(keyOf(limits))?.pop() ?? this.#tree.create(limits);
	}

	/** Makes groups for the next starts with these limits. To be called when a start is over: it takes its time. */
	refill(limits: CgroupLimits): void {
		if (this.#closed) return;
		const key = keyOf(limits);
		const ready = this.#ready.get(key) ?? [];
		this.#ready.delete(key);
		this.#ready.set(key, ready);
		try {
			while (ready.length < readyGroups) ready.push(this.#tree.create(limits));
		} catch {
			return; // the next take() tries again and reports it
		}
		for (const [oldest, groups] of this.#ready) {
			if (this.#ready.size <= maxSets) return;
			this.#ready.delete(oldest);
			for (const group of groups) void group.remove();
		}
	}

	async close(): Promise<void> {
		this.#closed = true;
		const waiting = [...this.#ready.values()].flat();
		this.#ready.clear();
		await Promise.all(waiting.map((group) => group.remove()));
	}
}

function keyOf({memoryMb, swapMb, cpuPercent, processes}: CgroupLimits): string {
	return `${memoryMb} ${swapMb} ${cpuPercent} ${processes}`;
}
