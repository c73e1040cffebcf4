/** What a runtime's functions need of zygotes: what their packages cost, and how often each set of packages was started. */
import type {PackageInfo, PackageSet} from '../packages/package-store.ts';

/** What is known of a package's folder. */
export type DescribeFolder = (folder: string) => Pick<PackageInfo, 'requires' | 'cost'> | undefined;

/** Starts by sets of packages, as `forktree tree fit` reads them; packages are `name==version`. */
export type RecordedCalls = {
	readonly calls: ReadonlyArray<{readonly packages: readonly string[]; readonly count: number}>;
	/** Of those that were measured. */
	readonly costs: Readonly<Record<string, {readonly ms: number; readonly mib: number}>>;
	/** Of each package: what it needed to be imported in each of the sets, itself first. */
	readonly closures: Readonly<Record<string, ReadonlyArray<readonly string[]>>>;
};

/** Counts, in memory. */
export class Workload {
	readonly #describe: DescribeFolder;
	readonly #known = new Map<string, ReturnType<DescribeFolder>>();
	readonly #counts = new Map<string, {readonly set: PackageSet; count: number}>();

	constructor(describe: DescribeFolder) {
		this.#describe = describe;
	}

	/** Milliseconds that the import of its own modules takes. */
	costOf(folder: string): number | undefined {
		return this.#of(folder)?.cost?.exclusiveMs;
	}

	/** Something was measured: what had no figures may have some now. */
	forgetUnmeasured(): void {
		for (const [folder, known] of this.#known) if (known?.cost === undefined) this.#known.delete(folder);
	}

	/** A sandbox with this set was started. */
	note(set: PackageSet): void {
		const counted = this.#counts.get(set.key);
		if (counted === undefined) this.#counts.set(set.key, {set, count: 1});
		else counted.count += 1;
	}

	recorded(): RecordedCalls {
		const costs: Record<string, {ms: number; mib: number}> = {};
		const closures: Record<string, string[][]> = {};
		const calls = [...this.#counts.values()].map(({set, count}) => {
			const packages = set.distributions.map(({name, version}) => `${name}==${version}`);
			for (const [index, id] of packages.entries()) {
				const cost = this.#of(set.folders[index] ?? '')?.cost;
				if (cost !== undefined) costs[id] = {ms: cost.exclusiveMs, mib: cost.privateMiB};
				const closure = this.#closure(set, index).map((place) => packages[place] ?? '');
				closures[id] ??= [];
				if (!closures[id].some((known) => known.join() === closure.join())) closures[id].push(closure);
			}
			return {packages, count};
		});
		return {calls, costs, closures};
	}

	/** Places in the set: the package's own, then those of all that it requires. */
	#closure({folders, distributions}: PackageSet, first: number): number[] {
		const found = new Set([first]);
		for (const place of found) {
			for (const name of this.#of(folders[place] ?? '')?.requires ?? []) {
				const next = distributions.findIndex((each) => each.name === name);
				if (next >= 0) found.add(next);
			}
		}
		return [...found];
	}

	#of(folder: string): ReturnType<DescribeFolder> {
		if (!this.#known.has(folder)) this.#known.set(folder, this.#describe(folder));
		return this.#known.get(folder);
	}
}
