/** Reads `uv.lock`, uv's lock file of a project, in the form of version 1. */
import type {Interpreter} from '../sandbox/interpreter.ts';
import type {EditableReference} from './editable.ts';
import {holds, type MarkerEnvironment, markerEnvironment} from './marker.ts';
import {checkEnvironments, fileNameOf, type LockedPackages, type Pin, requiredText, usableFiles} from './pin.ts';
import {checkPython} from './python-version.ts';
import {normaliseName, parseRequirement} from './requirement.ts';
import {invalidRequirements, type LogicalLine} from './requirement-lines.ts';
import {parseToml, type TomlTable} from './toml.ts';

export const uvLockFile = 'uv.lock';

/** Forks of one resolution, among which each dependency is looked for once. */
const MAX_FORKS = 100;

type Python = Pick<Interpreter, 'version'>;

/**
 * Answers the packages that a lock has for its project, without extras and groups, for an interpreter.
 * @param dependencies those that the project states, of which the lock must know
 * @throws {ForktreeError} `InvalidRequirements`, also for packages from elsewhere than an index or a folder, and when the lock was made
 * of other dependencies; `InterpreterMismatch`
 */
export function readUvLock(text: string, dependencies: readonly LogicalLine[], interpreter: Python): LockedPackages {
	const lock = parseToml(text, uvLockFile);
	const version = lock.number('version');
	if (version !== 1) throw invalidRequirements(lock.placeOf('version'), '1', `${version ?? 'nothing'}`);
	const python = lock.text('requires-python');
	if (python !== undefined) checkPython({content: python, place: lock.placeOf('requires-python')}, interpreter);
	const environment = markerEnvironment(interpreter);
	checkEnvironments(lock, 'supported-markers', environment, interpreter);
	const graph = new Graph(lock, environment);
	checkDependencies(graph.root, dependencies);
	const pins: Pin[] = [];
	const editables: EditableReference[] = [];
	for (const [table, extras] of graph.reachable()) {
		const editable = editableOf(table, extras);
		if (editable === undefined) pins.push(pinOf(table, interpreter));
		else editables.push(editable);
	}
	return {pins, editables};
}

/** What a lock holds, and who requires whom. */
class Graph {
	/** The project itself. */
	readonly root: TomlTable;
	readonly #environment: MarkerEnvironment;
	readonly #packages = new Map<string, TomlTable[]>();
	/** What dependencies name: many name the same. */
	readonly #found = new Map<string, TomlTable>();

	constructor(lock: TomlTable, environment: MarkerEnvironment) {
		this.#environment = environment;
		const roots: TomlTable[] = [];
		for (const table of lock.tables('package') ?? []) {
			const source = table.table('source');
			if (['virtual', 'editable', 'directory'].some((kind) => source?.text(kind) === '.')) roots.push(table);
			const name = requiredText(table, 'name');
			const forks = this.#packages.get(name) ?? [];
			if (forks.push(table) > MAX_FORKS) {
				throw invalidRequirements(table.place, `at most ${MAX_FORKS} packages of one name`, undefined);
			}
			this.#packages.set(name, forks);
		}
		const [root, second] = roots;
		if (root === undefined || second !== undefined) {
			throw invalidRequirements(lock.placeOf('package'), 'one package from the folder itself', `${roots.length}`);
		}
		this.root = root;
	}

	/** The packages that the root requires, and those that they require, each with the extras that are wanted of it. */
	reachable(): ReadonlyMap<TomlTable, ReadonlySet<string>> {
		const seen = new Map<TomlTable, Set<string>>();
		const queue = this.#wanted(this.root.tables('dependencies'));
		for (let next = queue.pop(); next !== undefined; next = queue.pop()) {
			const table = this.#find(next);
			const extras = next.texts('extra')?.map(({content}) => content) ?? [];
			const before = seen.get(table);
			const known = before ?? new Set();
			seen.set(table, known);
			const lists = before === undefined ? [table.tables('dependencies')] : [];
			for (const extra of extras.filter((each) => !known.has(each))) {
				known.add(extra);
				lists.push(table.table('optional-dependencies')?.tables(extra));
			}
			// Not spread into one call: a list may be longer than a call has arguments.
			for (const list of lists) for (const each of this.#wanted(list)) queue.push(each);
		}
		seen.delete(this.root);
		return seen;
	}

	#wanted(dependencies: readonly TomlTable[] = []): TomlTable[] {
		return dependencies.filter((each) => {
			const content = each.text('marker');
			return content === undefined || holds({content, place: each.placeOf('marker')}, this.#environment);
		});
	}

	/** The package that a dependency names: by its version and source where names are not enough. */
	#find(dependency: TomlTable): TomlTable {
		const name = requiredText(dependency, 'name');
		const version = dependency.text('version');
		const source = sourceOf(dependency);
		const key = JSON.stringify([name, version, source]);
		const known = this.#found.get(key);
		if (known !== undefined) return known;
		const found = (this.#packages.get(name) ?? []).filter((table) => {
			const isVersion = version === undefined || table.text('version') === version;
			return isVersion && (source === undefined || sourceOf(table) === source);
		});
		const [first, ...others] = found.length > 1 ? found.filter((table) => this.#isOfFork(table)) : found;
		if (first === undefined || others.length > 0) {
			const what = first === undefined ? 'none' : 'more';
			throw invalidRequirements(dependency.place, `one package ${name} in the lock`, what);
		}
		this.#found.set(key, first);
		return first;
	}

	#isOfFork(table: TomlTable): boolean {
		const markers = table.texts('resolution-markers');
		return markers === undefined || markers.some((marker) => holds(marker, this.#environment));
	}
}

/** Undefined when it is not from a folder. */
function editableOf(table: TomlTable, extras: ReadonlySet<string>): EditableReference | undefined {
	const source = table.table('source');
	const path = source?.text('editable') ?? source?.text('directory');
	if (source === undefined || path === undefined) return undefined;
	const place = source.placeOf(source.has('editable') ? 'editable' : 'directory');
	return {name: requiredText(table, 'name'), path, extras: [...extras].map(normaliseName), place};
}

/** Where it is from, if it says so and it is an index or a folder. */
function sourceOf(table: TomlTable): string | undefined {
	const source = table.table('source');
	return source?.text('registry') ?? source?.text('editable') ?? source?.text('directory');
}

function pinOf(table: TomlTable, interpreter: Python): Pin {
	const name = requiredText(table, 'name');
	if (table.table('source')?.has('registry') !== true) {
		throw invalidRequirements(table.placeOf('source'), `an index that has ${name}`, 'another source');
	}
	const [version, {place}] = [requiredText(table, 'version'), table];
	const sdist = table.table('sdist');
	const files = [...(table.tables('wheels') ?? []), ...(sdist === undefined ? [] : [sdist])].map((file) => ({
		file: fileNameOf(file, ['filename', 'url', 'path']),
		hash: requiredText(file, 'hash'),
	}));
	return {
		name,
		version,
		place,
		files: usableFiles({name, version, place}, files, interpreter),
	};
}

/** The lock says what it was made of: names are compared, and versions against what it holds elsewhere. */
function checkDependencies(root: TomlTable, dependencies: readonly LogicalLine[]): void {
	const all = root.table('metadata')?.tables('requires-dist') ?? [];
	// Those of extras are told by their markers.
	const requires = all.filter((each) => !/\bextra\b/.test(each.text('marker') ?? ''));
	const locked = new Map(requires.map((each) => [normaliseName(requiredText(each, 'name')), each]));
	const stated = new Map(dependencies.map((each) => [parseRequirement(each.content, each.place).name, each]));
	for (const [name, {content, place}] of stated) {
		if (!locked.has(name))
			throw invalidRequirements(place, `what ${uvLockFile} was made of; lock the project again`, content);
	}
	for (const [name, {place}] of locked) {
		if (!stated.has(name)) throw invalidRequirements(place, 'a dependency of the project; lock it again', name);
	}
}
