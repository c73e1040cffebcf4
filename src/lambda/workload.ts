/** What a runtime's functions need of zygotes: what their packages cost, and how often each set of packages was started. */
import type {PackageInfo, PackageSet} from '../packages/package-store.ts';
import type {FitInput} from '../zygote/fit.ts';

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

/** A set that was started. */
type Counted = {
	readonly set: PackageSet;
	readonly packages: readonly string[];
	count: number;
	/** As {@link Workload.takeRecent} counts. */
	recent: number;
};

/** Counts, in memory. */
export class Workload {
	readonly #describe: DescribeFolder;
	readonly #known = new Map<string, ReturnType<DescribeFolder>>();
	readonly #counts = new Map<string, Counted>();
	/** Folders that each package was started from. */
	readonly #folders = new Map<string, Set<string>>();
	/** Of each package, by their text. Kept from the first start of a set on, so that nothing long is left to do at once. */
	readonly #closures = new Map<string, Map<string, readonly string[]>>();

	constructor(describe: DescribeFolder) {
		this.#describe = describe;
	}

	/** Milliseconds that the import of its own modules takes. */
	costOf(folder: string): number | undefined {
		return this.#of(folder)?.cost?.exclusiveMs;
	}

	/** Something was measured: there may be other figures now. */
	forgetCosts(): void {
		this.#known.clear();
	}

	/** A sandbox with this set was started. */
	note(set: PackageSet): void {
		const counted = this.#counts.get(set.key) ?? this.#enter(set);
		counted.count += 1;
		counted.recent += 1;
	}

	/** All that was started. */
	recorded(): RecordedCalls {
		return {
			calls: [...this.#counts.values()].map(({packages, count}) => ({packages, count})),
			costs: Object.fromEntries(this.#costs()),
			closures: Object.fromEntries(this.#listedClosures()),
		};
	}

	/** What was started lately of some sets: what earlier ones of these questions were told counts half, from one to the next. */
	takeRecent(isMeant: (set: PackageSet) => boolean): FitInput {
		const counts = [...this.#counts.values()];
		const calls = counts
			.filter(({set, recent}) => recent > 0 && isMeant(set))
			.map(({packages, recent}) => ({packages, count: recent}));
		for (const each of counts) each.recent = Math.floor(each.recent / 2);
		return {calls, costs: new Map(this.#costs()), closures: new Map(this.#listedClosures())};
	}

	#enter(set: PackageSet): Counted {
		const packages = set.distributions.map(({name, version}) => `${name}==${version}`);
		const closures = this.#closuresOf(set);
		for (const [index, id] of packages.entries()) {
			const folders = this.#folders.get(id) ?? new Set();
			this.#folders.set(id, folders.add(set.folders[index] ?? ''));
			const closure = (closures[index] ?? []).map((place) => packages[place] ?? '');
			const known = this.#closures.get(id) ?? new Map();
			this.#closures.set(id, known.set(closure.join(), closure));
		}
		const counted = {set, packages, count: 0, recent: 0};
		this.#counts.set(set.key, counted);
		return counted;
	}

	#costs(): Array<[string, {ms: number; mib: number}]> {
		return [...this.#folders].flatMap(([id, folders]) => {
			const [cost] = [...folders].flatMap((folder) => this.#of(folder)?.cost ?? []);
			return cost === undefined ? [] : [[id, {ms: cost.exclusiveMs, mib: cost.privateMiB}]];
		});
	}

	#listedClosures(): Array<[string, Array<readonly string[]>]> {
		return [...this.#closures].map(([id, known]) => [id, [...known.values()]]);
	}

	/** Of each package of the set, places in it: the package's own, then those of all that it requires. */
	#closuresOf({folders, distributions}: PackageSet): number[][] {
		const places = new Map(distributions.map(({name}, place) => [name, place]));
		const required = folders.map((folder) =>
			(this.#of(folder)?.requires ?? []).flatMap((name) => places.get(name) ?? []),
		);
		return folders.map((_, first) => {
			const found = new Set([first]);
			for (const place of found) for (const next of required[place] ?? []) found.add(next);
			return [...found];
		});
	}

	#of(folder: string): ReturnType<DescribeFolder> {
		if (!this.#known.has(folder)) this.#known.set(folder, this.#describe(folder));
		return this.#known.get(folder);
	}
}
