/** Packages whose sources lie in a function's folder, and are imported from where they lie: nothing of them is built. */
import {posix} from 'node:path';
import {satisfies} from '@renovatebot/pep440';
import type {Interpreter} from '../sandbox/interpreter.ts';
import {resolveInside} from './local-archives.ts';
import type {Lock} from './lock.ts';
import {holds, type MarkerEnvironment, markerEnvironment} from './marker.ts';
import {requiredText} from './pin.ts';
import {checkStatic, maxPyprojectBytes, pyprojectFile, readProject} from './pyproject.ts';
import {checkPython} from './python-version.ts';
import {formatRequirement, normaliseName, parseName, parseRequirement, type Requirement} from './requirement.ts';
import {invalidRequirements, type LogicalLine, type Place, requirementsLimits} from './requirement-lines.ts';
import type {TomlTable} from './toml.ts';

/** A package that is used as it lies there. */
export type EditablePackage = {
	/** Normalised as PEP 503 says. */
	readonly name: string;
	/** Relative to the function's folder; empty for that folder itself. */
	readonly folder: string;
	/** Where its modules are, likewise. */
	readonly importRoot: string;
	/** Of what names it. */
	readonly place: Place;
};

/** A function's files, by paths relative to its folder. They hold no links. */
export type EditableFiles = {
	/** Of every file. */
	paths(): readonly string[];
	/** @throws {ForktreeError} `InvalidRequirements` for a folder, more than that many bytes, and what is not UTF-8 */
	readText(path: string, maxBytes: number): Promise<string | undefined>;
	readonly interpreter: Pick<Interpreter, 'version'>;
};

/** What names such a package. */
export type EditableReference = {
	/** Of its folder, as it is written. */
	readonly path: string;
	/** Normalised. */
	readonly extras: readonly string[];
	readonly place: Place;
	/** What the package should be called. */
	readonly name?: string;
};

type Project = EditablePackage & {
	readonly version: string | undefined;
	/** What it requires for its extras, by their normalised names. */
	readonly optional: ReadonlyMap<string, readonly LogicalLine[]>;
	readonly wanted: Set<string>;
};

/** Each is a folder more that imports look in. */
const maxEditables = 50;
const STATED = /^(?:file:)?([^[\]]+)(\[[^[\]]*\])?$/;
const MODULE = /\.(?:py|so)$/;

/**
 * Reads what stands after `-e`.
 * @throws {ForktreeError} `InvalidRequirements` when it is no path, with extras or without
 */
export function readEditableOption(text: string, place: Place): EditableReference {
	const [, path, extras = ''] = STATED.exec(text) ?? [];
	if (path === undefined) throw invalidRequirements(place, 'a folder, as in -e ./libs/a or -e ./libs/a[extra]', text);
	return {path, extras: parseRequirement(`a${extras}`, place).extras, place};
}

/** Those of one function. */
export class Editables {
	/** Of the interpreter that they are for. */
	readonly environment: MarkerEnvironment;
	readonly #files: EditableFiles;
	readonly #byFolder = new Map<string, Project>();
	readonly #byName = new Map<string, Project>();
	/** What they and their wanted extras require. */
	readonly #required: LogicalLine[] = [];
	#paths: readonly string[] | undefined;
	#sizeBytes = 0;

	constructor(files: EditableFiles) {
		this.#files = files;
		this.environment = markerEnvironment(files.interpreter);
	}

	/**
	 * Takes one in.
	 * @throws {ForktreeError} `InvalidRequirements` for a path that leads outside, what has no `[project]` that states its dependencies,
	 * no Python modules, or another name; `InterpreterMismatch`
	 */
	async add({path, extras, place, name}: EditableReference): Promise<void> {
		const folder = resolveFolder(path, place);
		const project = this.#byFolder.get(folder) ?? (await this.#read(folder, path, place));
		if (name !== undefined && normaliseName(name) !== project.name) {
			throw invalidRequirements(place, `the folder of ${name}`, `${project.name} in ${path}`);
		}
		for (const extra of extras) this.#want(project, extra, place);
	}

	/** In the order in which they were named, each once. */
	list(): readonly EditablePackage[] {
		return [...this.#byFolder.values()].map(({name, folder, importRoot, place}) => ({name, folder, importRoot, place}));
	}

	/**
	 * Whether a requirement is one of them; the extras that it names are wanted then.
	 * @throws {ForktreeError} `InvalidRequirements` when it is for another version
	 */
	meets(requirement: Omit<Requirement, 'hashes'>, place: Place): boolean {
		const {name, extras, specifier, marker} = requirement;
		const project = this.#byName.get(name);
		if (project === undefined) return false;
		if (marker !== undefined && !holds({content: marker, place}, this.environment)) return true;
		const {version} = project;
		if (version !== undefined && specifier !== '' && !satisfies(version, specifier, {prereleases: true})) {
			throw invalidRequirements(place, `what is in the folder, ${name}==${version}`, formatRequirement(requirement));
		}
		for (const extra of extras) this.#want(project, extra, place);
		return true;
	}

	/** Leaves out what they are themselves. */
	without(lines: Iterable<LogicalLine>): LogicalLine[] {
		const others: LogicalLine[] = [];
		for (const line of lines) {
			if (!this.meets(parseRequirement(line.content, line.place), line.place)) others.push(line);
		}
		return others;
	}

	/** What they and their wanted extras require besides each other. */
	required(): LogicalLine[] {
		// While this goes on, more extras may be wanted, and the list grows.
		return this.without(this.#required);
	}

	async #read(folder: string, path: string, place: Place): Promise<Project> {
		if (this.#byFolder.size >= maxEditables) {
			throw invalidRequirements(place, `at most ${maxEditables} folders of packages`, undefined);
		}
		if (this.#below(folder).length === 0) throw invalidRequirements(place, 'a folder of the function', path);
		const table = await this.#readTable(posix.join(folder, pyprojectFile), place);
		checkStatic(table);
		const python = table.text('requires-python');
		if (python !== undefined) {
			checkPython({content: python, place: table.placeOf('requires-python')}, this.#files.interpreter);
		}
		const name = parseName(requiredText(table, 'name'), table.placeOf('name'));
		if (this.#byName.has(name)) throw invalidRequirements(place, `one folder of ${name}`, path);
		const project = {
			...{name, folder, importRoot: this.#importRoot(folder, place), place},
			version: table.text('version'),
			optional: readOptional(table),
			wanted: new Set<string>(),
		};
		this.#byFolder.set(folder, project);
		this.#byName.set(name, project);
		this.#require(table.texts('dependencies') ?? []);
		return project;
	}

	/** What an installation for development puts on the path, but for what settings of build backends say. */
	#importRoot(folder: string, place: Place): string {
		const src = posix.join(folder, 'src');
		const root = this.#below(src).length > 0 ? src : folder;
		// What only a build could make modules of is of no use.
		const isModule = (path: string) => MODULE.test(path) && path !== posix.join(folder, 'setup.py');
		if (this.#below(root).some(isModule)) return root;
		throw invalidRequirements(place, `Python modules in ${root}, since nothing of a function is built`, 'none');
	}

	/** The paths of the files in a folder. */
	#below(folder: string): readonly string[] {
		this.#paths ??= this.#files.paths();
		return folder === '' ? this.#paths : this.#paths.filter((path) => path.startsWith(`${folder}/`));
	}

	async #readTable(file: string, place: Place): Promise<TomlTable> {
		const text = await this.#files.readText(file, maxPyprojectBytes);
		const {sizeBytes} = requirementsLimits;
		this.#sizeBytes += Buffer.byteLength(text ?? '');
		if (this.#sizeBytes > sizeBytes) {
			throw invalidRequirements(place, `at most ${sizeBytes} bytes in all ${pyprojectFile} together`, undefined);
		}
		const table = text === undefined ? undefined : readProject(text, file);
		if (table !== undefined) return table;
		const found = text === undefined ? 'no such file' : 'no such table';
		throw invalidRequirements(place, `[project] in ${file}, since nothing of a function is built`, found);
	}

	#want(project: Project, extra: string, place: Place): void {
		const lines = project.optional.get(extra);
		if (lines === undefined) throw invalidRequirements(place, `an extra that ${project.name} has`, extra);
		if (project.wanted.has(extra)) return;
		project.wanted.add(extra);
		this.#require(lines);
	}

	#require(lines: readonly LogicalLine[]): void {
		// Not spread into one call: a list may be longer than a call has arguments.
		for (const line of lines) this.#required.push(line);
	}
}

/**
 * Checks that nothing that is to be installed has the name of one of them: it would be there twice, and which one counts would depend
 * on what a zygote has imported.
 * @throws {ForktreeError} `InvalidRequirements`
 */
export function checkApart(editables: readonly EditablePackage[], {distributions}: Pick<Lock, 'distributions'>): void {
	for (const {name, place} of editables) {
		const other = distributions.find((each) => each.name === name);
		if (other === undefined) continue;
		const expected = `an archive of ${name} instead of a folder, as ./${name}-1.0-py3-none-any.whl, since other packages require it too`;
		throw invalidRequirements(place, expected, `${name}==${other.version}`);
	}
}

function resolveFolder(path: string, place: Place): string {
	if (/^[~/]|[\\\p{Cc}]|^[A-Za-z][A-Za-z0-9+.-]*:/u.test(path)) {
		throw invalidRequirements(place, 'a path relative to the folder of the function, and no URL', path);
	}
	return resolveInside(path, place).replace(/\/$/, '').replace(/^\.$/, '');
}

function readOptional(table: TomlTable): ReadonlyMap<string, readonly LogicalLine[]> {
	const extras = new Map<string, LogicalLine[]>();
	const optional = table.table('optional-dependencies');
	for (const spelled of optional?.names() ?? []) {
		const extra = normaliseName(spelled);
		const lines = extras.get(extra) ?? [];
		for (const line of optional?.texts(spelled) ?? []) lines.push(line);
		extras.set(extra, lines);
	}
	return extras;
}
