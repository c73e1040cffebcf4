/** Stores beneath the one that is written to, such as those of an image: their packages are used, and nothing of them is written. */
import {realpath} from 'node:fs/promises';
import {resolve} from 'node:path';
import {ForktreeError} from '../errors.ts';
import {isFolder, statusOf} from './disk.ts';
import {type Installed, isUsable, readCostOf, readInstalled, readStore, type Usable} from './installed.ts';
import {Layout, type PackageId} from './layout.ts';
import type {MeasuredCost} from './records.ts';
import {checkFormat} from './store-format.ts';

/** What users of sandboxes, who are others, need of a folder: to list it, and to go on from there. */
const OPEN_TO_ALL = 0o005;

/** The shared stores of one store, which nobody changes while they are used. */
export class SharedStores {
	readonly layouts: readonly Layout[];
	/** What was measured here, since it can't be noted there. */
	readonly #costs = new Map<string, MeasuredCost>();

	private constructor(layouts: readonly Layout[]) {
		this.layouts = layouts;
	}

	/**
	 * Opens stores for reading.
	 * @param own the folder of the store that is written to
	 * @throws {ForktreeError} `InvalidStore` naming a folder that is no store, is of another format, or is `own`
	 */
	static async open(folders: readonly string[], own: string): Promise<SharedStores> {
		const ownDir = await realpath(own).catch(() => resolve(own));
		const layouts: Layout[] = [];
		for (const folder of folders) layouts.push(await openShared(resolve(folder), ownDir));
		return new SharedStores(layouts);
	}

	/** Where they keep what packages were made from. */
	get archives(): readonly string[] {
		return this.layouts.map((layout) => layout.folder('archives')).filter(isFolder);
	}

	/** A package that can be given to somebody, of the first store that has it. */
	find(id: PackageId): Usable | undefined {
		for (const layout of this.layouts) {
			const found = readInstalled(layout, id);
			const seen = found && unlessClosed(found);
			if (isUsable(seen)) return seen;
		}
		return undefined;
	}

	/** What the stores have for an interpreter, the first one's first. */
	async read(abi: string): Promise<Installed[]> {
		const all: Installed[] = [];
		for (const layout of this.layouts) {
			const {packages} = await readStore(layout);
			all.push(...packages.filter(({id}) => id.abi === abi).map(unlessClosed));
		}
		return all;
	}

	/** What importing a package takes with that build of the interpreter: as measured here, or else as noted there. */
	costOf(installed: Usable, build: string): MeasuredCost | undefined {
		const cost = this.#costs.get(installed.layout.package(installed.id)) ?? readCostOf(installed);
		return cost?.interpreter === build ? cost : undefined;
	}

	/** Keeps what importing a package takes, for as long as this process has the store. */
	setCost({layout, id}: Usable, cost: MeasuredCost): void {
		this.#costs.set(layout.package(id), cost);
	}
}

async function openShared(folder: string, own: string): Promise<Layout> {
	const dir = await realpath(folder).catch(() => undefined);
	if (dir === undefined || !isFolder(dir)) throw invalid(folder, dir === undefined ? 'nothing there' : 'no folder');
	if (dir === own) throw invalid(folder, 'the one that packages are installed in');
	const layout = new Layout(dir);
	if (!checkFormat(layout)) throw invalid(folder, 'a folder without store.json');
	return layout;
}

/** A package that users of sandboxes can't read is of no use to them. */
function unlessClosed(installed: Installed): Installed {
	const {mode = 0} = statusOf(installed.layout.files(installed.id)) ?? {};
	return (mode & OPEN_TO_ALL) === OPEN_TO_ALL ? installed : {...installed, summary: undefined};
}

function invalid(folder: string, got: string): ForktreeError {
	return new ForktreeError('InvalidStore', `expected a shared package store at ${folder}, got ${got}`);
}
