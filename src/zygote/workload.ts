/** What a tree is fitted to: calls and costs, as numbers instead of names, and equal calls once. */
import {isPinned, nameOf, normalisePackage} from './tree.ts';

/** Calls that need the same packages. */
export type FitCall = {
	/** The whole lock, each package as `name==version`. */
	readonly packages: readonly string[];
	/** How many of them there were: a whole number. */
	readonly count: number;
};

/** What importing a package costs when all that it requires is loaded already. */
export type PackageCost = {
	readonly ms: number;
	/** Private memory. */
	readonly mib: number;
};

/** What is known of calls. */
export type FitInput = {
	readonly calls: readonly FitCall[];
	/** By `name==version`. A package that is not there counts as one that costs nothing. */
	readonly costs: ReadonlyMap<string, PackageCost>;
	/**
	 * By `name==version`, all sets of packages that were seen to come with it: what it requires, with all that these
	 * require, and itself. A package that is not there requires nothing.
	 */
	readonly closures: ReadonlyMap<string, ReadonlyArray<readonly string[]>>;
};

/** Packages are numbers in the order of their names, and sets of them are sorted. */
export class Workload {
	/** Of each package, `name==version`. */
	readonly pins: readonly string[];
	/** Of each package, a number that all its versions share. */
	readonly names: Int32Array;
	readonly ms: Float64Array;
	readonly mib: Float64Array;
	/** Sets of packages that are called. */
	readonly calls: readonly Int32Array[];
	/** How often each is called. */
	readonly counts: Float64Array;
	/** Sets of packages that one node may load together, in the order of the package that they are the closure of. */
	readonly closures: readonly Int32Array[];
	/** Of each closure, the package that it is the closure of. */
	readonly closurePackages: Int32Array;
	/** Of each call, the closures that it holds as a whole. */
	readonly closuresOfCall: readonly Int32Array[];
	/** Of each closure, the calls that hold it as a whole. */
	readonly callsOfClosure: readonly Int32Array[];
	readonly #numbers: ReadonlyMap<string, number>;

	/** @throws {RangeError} when a package of a call is not `name==version`, or a count no whole number above zero */
	constructor({calls, costs, closures}: FitInput) {
		const collapsed = collapse(calls);
		this.pins = [...collapsed.pins].sort();
		this.#numbers = new Map(this.pins.map((pin, number) => [pin, number]));
		const sorted = collapsed.pins.map((pin) => this.#numbers.get(pin) as number);
		this.calls = collapsed.sets.map((set) => set.map((number) => sorted[number] as number).sort());
		this.counts = Float64Array.from(collapsed.counts);
		const names = new Map<string, number>();
		this.names = Int32Array.from(this.pins, (pin) => {
			const name = nameOf(pin);
			const number = names.get(name) ?? names.size;
			names.set(name, number);
			return number;
		});
		this.ms = Float64Array.from(this.pins, (pin) => costOf(costs.get(pin)?.ms));
		this.mib = Float64Array.from(this.pins, (pin) => costOf(costs.get(pin)?.mib));
		const found = this.pins.flatMap((pin, pkg) =>
			this.#closuresOf(pin, closures.get(pin) ?? [[pin]]).map((set) => ({pkg, set})),
		);
		this.closures = found.map(({set}) => set);
		this.closurePackages = Int32Array.from(found, ({pkg}) => pkg);
		[this.closuresOfCall, this.callsOfClosure] = this.#match();
	}

	/** The package's number; undefined when no call needs it. */
	numberOf(pin: string): number | undefined {
		return this.#numbers.get(pin);
	}

	/** Of a package, `name==version`. */
	pinOf(pkg: number): string {
		return this.pins[pkg] as string;
	}

	/** The usable ones: all is called, and no package is there in two versions. */
	#closuresOf(pin: string, listed: ReadonlyArray<readonly string[]>): Int32Array[] {
		const sets = new Map<string, Int32Array>();
		for (const closure of listed) {
			const numbers = [...new Set([pin, ...closure])].map((each) => this.#numbers.get(each) ?? -1);
			if (numbers.includes(-1)) continue;
			if (new Set(numbers.map((number) => this.names[number])).size < numbers.length) continue;
			const set = Int32Array.from(numbers).sort();
			sets.set(keyOf(set), set);
		}
		return [...sets.values()];
	}

	/** Which call holds which closures, both ways. */
	#match(): [Int32Array[], Int32Array[]] {
		const closuresOfPackage: number[][] = this.pins.map(() => []);
		for (const [closure, pkg] of this.closurePackages.entries()) closuresOfPackage[pkg]?.push(closure);
		const callsOfClosure: number[][] = this.closures.map(() => []);
		const isCalled = new Uint8Array(this.pins.length);
		const closuresOfCall = this.calls.map((packages, call) => {
			for (const pkg of packages) isCalled[pkg] = 1;
			const held: number[] = [];
			for (const pkg of packages) {
				for (const closure of closuresOfPackage[pkg] as number[]) {
					if ((this.closures[closure] as Int32Array).some((each) => isCalled[each] === 0)) continue;
					held.push(closure);
					(callsOfClosure[closure] as number[]).push(call);
				}
			}
			for (const pkg of packages) isCalled[pkg] = 0;
			return Int32Array.from(held);
		});
		return [closuresOfCall, callsOfClosure.map((each) => Int32Array.from(each))];
	}
}

type Collapsed = {
	readonly pins: readonly string[];
	/** Of indexes of `pins`. */
	readonly sets: readonly Int32Array[];
	readonly counts: readonly number[];
};

/** Equal calls become one: what follows does not depend on how long the trace is. */
function collapse(calls: readonly FitCall[]): Collapsed {
	const numbers = new Map<string, number>();
	// Most equal calls list their packages in the same order, so that few lists have to be sorted.
	const lists = new Map<string, {readonly list: Int32Array; count: number}>();
	for (const [index, {packages, count}] of calls.entries()) {
		if (!Number.isSafeInteger(count) || count < 1) {
			throw new RangeError(`calls[${index}].count: expected a whole number above zero, got ${count}`);
		}
		const list = new Int32Array(packages.length);
		for (let at = 0; at < packages.length; at++) {
			const pin = packages[at] as string;
			let number = numbers.get(pin);
			if (number === undefined) {
				if (normalisePackage(pin) !== pin || !isPinned(pin)) {
					throw new RangeError(
						`calls[${index}].packages[${at}]: expected name==version with the name as PEP 503 has it, got ${JSON.stringify(pin)}`,
					);
				}
				number = numbers.size;
				numbers.set(pin, number);
			}
			list[at] = number;
		}
		const key = keyOf(list);
		const known = lists.get(key);
		if (known === undefined) lists.set(key, {list, count});
		else known.count += count;
	}
	const sets = new Map<string, {readonly set: Int32Array; count: number}>();
	for (const {list, count} of lists.values()) {
		const set = Int32Array.from(new Set(list)).sort();
		const key = keyOf(set);
		const known = sets.get(key);
		if (known === undefined) sets.set(key, {set, count});
		else known.count += count;
	}
	return {
		pins: [...numbers.keys()],
		sets: [...sets.values()].map(({set}) => set),
		counts: [...sets.values()].map(({count}) => count),
	};
}

/** Of a name, the version that most calls need; of equal ones the first by its text. */
export function mostCalled(calls: FitInput['calls']): (name: string) => string | undefined {
	const counts = new Map<string, number>();
	for (const {packages, count} of calls) {
		for (const pin of new Set(packages)) counts.set(pin, (counts.get(pin) ?? 0) + count);
	}
	const most = new Map<string, string>();
	for (const pin of [...counts.keys()].filter(isPinned).sort()) {
		const other = most.get(nameOf(pin));
		if (other === undefined || (counts.get(pin) ?? 0) > (counts.get(other) ?? 0)) most.set(nameOf(pin), pin);
	}
	return (name) => most.get(name);
}

/** Its bytes: faster than its numbers as text. */
function keyOf(numbers: Int32Array): string {
	return Buffer.from(numbers.buffer, numbers.byteOffset, numbers.byteLength).toString('latin1');
}

/** A cost as it counts: a difference that was measured may be below zero. */
export function costOf(measured: number | undefined): number {
	return measured !== undefined && measured > 0 && measured < Number.POSITIVE_INFINITY ? measured : 0;
}
