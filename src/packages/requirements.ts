/** Reads requirements.txt: requirements, what other files add to it, and the options that say where to find things. */
import {createHash} from 'node:crypto';
import {posix} from 'node:path';
import {type EditableFiles, type EditablePackage, Editables, readEditableOption} from './editable.ts';
import {type LocalArchive, type LocalFiles, readLocalRequirement, wheelsIn} from './local-archives.ts';
import {holds, type MarkerEnvironment} from './marker.ts';
import {checkAgreement, type Pin} from './pin.ts';
import {formatRequirement, isPinned, normaliseName, parseRequirement, type Requirement} from './requirement.ts';
import {
	invalidRequirements,
	type LogicalLine,
	logicalLines,
	type Place,
	requirementsLimits,
} from './requirement-lines.ts';
import {type Option, parseOptions, readHash} from './requirement-options.ts';

export {normaliseName, type Requirement} from './requirement.ts';
export {requirementsLimits} from './requirement-lines.ts';

/** Where packages are looked for. URLs may hold passwords. */
export type IndexOptions = {
	/** In place of the one that is configured. */
	readonly indexUrl: string | undefined;
	/** Further ones, in the order in which they were given, each once. */
	readonly extraIndexUrls: readonly string[];
	/** Pages that link to files, likewise. */
	readonly findLinks: readonly string[];
	/** Only what `findLinks` name. There are no other URLs then. */
	readonly noIndex: boolean;
};

/** The requirements of one function. Files that differ in order, comments or spelling answer the same. */
export type Requirements = {
	/** Sorted, each once. */
	readonly requirements: readonly Requirement[];
	/** Of what is installed only when something requires it; sorted, each once. */
	readonly constraints: readonly Requirement[];
	readonly index: IndexOptions;
	/** Whether versions before a release will do. */
	readonly prereleases: boolean;
	/** Whether an older wheel is better than a newer source distribution. */
	readonly preferBinary: boolean;
	/**
	 * What must be built from source: normalised names, sorted, or `:all:`. Names weigh more than `:all:` in the other
	 * list; pip must be told `:all:` first, which takes back what was said before.
	 */
	readonly noBinary: readonly string[];
	/** What must not be built from source, likewise. No name is in both. */
	readonly onlyBinary: readonly string[];
	/** Whether nothing may be installed without a hash: said so, or implied by one, as with pip. */
	readonly requireHashes: boolean;
	/** Whether they are all that is to be installed, whatever else these packages require: those of a lock are. */
	readonly isComplete: boolean;
	/** Archives of the function's folder, sorted by their paths. */
	readonly local: readonly LocalArchive[];
	/** The requirements with their hashes as one file that has no options and includes no other. */
	readonly text: string;
	/** The constraints, likewise. */
	readonly constraintsText: string;
	/** SHA-256 in hex over all of the above. */
	readonly digest: string;
	/** Packages of the function's folder that are used as they lie there, as they are named; the requirements have what they require. */
	readonly editables: readonly EditablePackage[];
};

/** Answers a file's text by its path relative to the function's folder; `undefined` when it is not there. */
export type ReadText = (path: string) => Promise<string | undefined>;

/** What a file of a function can name. */
export type FolderFiles = LocalFiles & EditableFiles;

const MAX_FILES = 50;
const MAX_DEPTH = 10;

/**
 * Reads a requirements file and those that it includes with `-r` and `-c`. What a file of constraints includes are
 * constraints.
 * @param file its path relative to the function's folder; no file is no requirements.
 * @param files where the archives and packages are that it may name; without it none may be
 * @throws {ForktreeError} `InvalidRequirements` naming the file, the line and what was expected there: for URLs, other paths,
 * direct references (`name @ …`) to elsewhere, other options, variables of the environment, files outside the folder or in a
 * circle, archives and packages that are not in the folder, more than {@link requirementsLimits} or 50 files, and contradictions.
 */
export async function readRequirements(file: string, read: ReadText, files?: FolderFiles): Promise<Requirements> {
	const text = await read(file);
	if (text === undefined) return noRequirements;
	const collection = new Collection(files);
	await new FileReader(collection, read).add(text, {kind: 'requirement', path: file}, []);
	return collection.finish();
}

/**
 * Reads lines that are given in a program, which cannot include files.
 * @throws {ForktreeError} `InvalidRequirements` as {@link readRequirements}.
 */
export function parseRequirements(text: string): Requirements {
	const collection = new Collection();
	for (const line of logicalLines(text, undefined)) {
		const reference = collection.add(line, 'requirement');
		if (reference !== undefined) {
			throw invalidRequirements(line.place, 'no -r, -c and -e, which need the folder of a function', line.content);
		}
	}
	return collection.finish();
}

/**
 * Reads requirements that are stated one by one, as the lists of TOML files do.
 * @throws {ForktreeError} `InvalidRequirements` as {@link readRequirements}.
 */
export function requirementsOf(stated: readonly LogicalLine[]): Requirements {
	const collection = new Collection();
	for (const {content, place} of stated) collection.require(content, place);
	return collection.finish();
}

/**
 * Makes requirements of what a lock names, which is all that there is to install.
 * @param editables that it names besides
 * @throws {ForktreeError} `InvalidRequirements` for names, versions and hashes that are not usable, and a name that is there twice.
 */
export function requirementsOfLock(pins: readonly Pin[], editables: Editables): Requirements {
	const collection = new Collection(undefined, editables);
	const names = new Set(editables.list().map(({name}) => name));
	for (const {name, version, files, place} of pins) {
		if (names.has(normaliseName(name))) throw invalidRequirements(place, 'each package once', name);
		names.add(normaliseName(name));
		collection.pin(
			`${name}==${version}`,
			files.map(({hash}) => hash),
			place,
		);
	}
	return collection.finish({isComplete: true});
}

type Kind = 'requirement' | 'constraint';
/** A line that has something else read. */
type Reference = Extract<Option, {readonly path: string}>;

/** Follows includes, within bounds. */
class FileReader {
	readonly #collection: Collection;
	readonly #read: ReadText;
	#files = 0;
	#sizeBytes = 0;

	constructor(collection: Collection, read: ReadText) {
		this.#collection = collection;
		this.#read = read;
	}

	/** @param above the files that led here. */
	async add(
		text: string,
		{kind, path}: {readonly kind: Kind; readonly path: string},
		above: readonly string[],
	): Promise<void> {
		this.#count(text, path);
		for (const line of logicalLines(text, path)) {
			const reference = this.#collection.add(line, kind);
			if (reference === undefined) continue;
			if (reference.kind === 'editable') {
				await this.#collection.addEditable(reference.path, line.place, kind);
				continue;
			}
			const found = resolveInclude(reference, line, [...above, path]);
			const included = await this.#read(found);
			if (included === undefined) throw invalidRequirements(line.place, 'a file in the folder of the function', found);
			await this.add(included, {kind: kind === 'constraint' ? kind : reference.kind, path: found}, [...above, path]);
		}
	}

	/** Files that are included twice count twice, since they are read twice. */
	#count(text: string, file: string): void {
		const place = {file, line: undefined};
		const {sizeBytes} = requirementsLimits;
		this.#files += 1;
		this.#sizeBytes += Buffer.byteLength(text);
		if (this.#files > MAX_FILES) throw invalidRequirements(place, `at most ${MAX_FILES} files`, undefined);
		if (this.#sizeBytes > sizeBytes) {
			throw invalidRequirements(place, `at most ${sizeBytes} bytes in all files together`, undefined);
		}
	}
}

/** Answers the path of an included file; its folder holds no links, so what the path says is where it leads. */
function resolveInclude({path}: Reference, {place}: LogicalLine, above: readonly string[]): string {
	if (/^[~/\\]|\\|^[A-Za-z][A-Za-z0-9+.-]*:/.test(path)) {
		throw invalidRequirements(place, 'a path relative to this file; absolute ones and URLs are not allowed', path);
	}
	const resolved = posix.join(posix.dirname(above.at(-1) ?? ''), path);
	if (resolved === '..' || resolved.startsWith('../')) {
		throw invalidRequirements(place, 'a path inside the folder of the function', path);
	}
	if (above.includes(resolved)) throw invalidRequirements(place, 'another file than those that lead here', path);
	if (above.length >= MAX_DEPTH) {
		throw invalidRequirements(place, `files that include one another at most ${MAX_DEPTH} deep`, path);
	}
	return resolved;
}

/** What the lines of all files come to. */
class Collection {
	readonly #sets = {requirement: new RequirementSet(), constraint: new RequirementSet()};
	readonly #extraIndexUrls = new Set<string>();
	readonly #findLinks = new Set<string>();
	readonly #flags = new Set<string>();
	readonly #files: FolderFiles | undefined;
	readonly #editables: Editables | undefined;
	readonly #local = new Map<string, LocalArchive>();
	#noBinary = new Set<string>();
	#onlyBinary = new Set<string>();
	#indexUrl: string | undefined;

	/**
	 * @param files where archives and packages may be that lines name
	 * @param editables that are named elsewhere
	 */
	constructor(files?: FolderFiles, editables = files && new Editables(files)) {
		this.#files = files;
		this.#editables = editables;
	}

	/** Takes a line in, unless it is one that has something else read: that is answered. */
	add({content, place}: LogicalLine, kind: Kind): Reference | undefined {
		// Where pip splits as well, even within a marker's quotes.
		const split = content.search(/(?:^|[ \t])-/);
		const options = split === -1 ? [] : parseOptions(content.slice(split), place);
		if (split !== 0) {
			this.#addRequirement(split === -1 ? content : content.slice(0, split).trimEnd(), options, place, kind);
			return undefined;
		}
		const reference = options.find((option) => 'path' in option);
		if (reference === undefined) {
			for (const option of options) this.#apply(option, place);
		} else if (options.length > 1) {
			throw invalidRequirements(place, '-r, -c or -e alone in a line', content);
		}
		return reference;
	}

	/** Takes a package in that is used as it lies in the folder. */
	async addEditable(stated: string, place: Place, kind: Kind): Promise<void> {
		if (this.#editables === undefined) {
			throw invalidRequirements(place, 'no -e, which needs the folder of a function', stated);
		}
		if (kind === 'constraint') throw invalidRequirements(place, 'no -e among constraints', stated);
		await this.#editables.add(readEditableOption(stated, place));
	}

	/** Takes a requirement in that has no options. */
	require(text: string, place: Place): void {
		this.#addRequirement(text, [], place, 'requirement');
	}

	/** Takes one version of a package in, in files of these hashes. */
	pin(text: string, hashes: readonly string[], place: Place): void {
		const requirement = parseRequirement(text, place);
		const isPlain = requirement.extras.length === 0 && requirement.marker === undefined;
		const read = hashes.map((hash) => {
			const known = readHash(hash);
			if (known === undefined) throw invalidRequirements(place, 'sha256: and 64 hexadecimal digits as a hash', hash);
			return known;
		});
		const pinned = {...requirement, hashes: [...new Set(read)].sort()};
		if (!isPlain || !isPinned(pinned)) throw invalidRequirements(place, 'a name and one version', text);
		this.#sets.requirement.add(pinned, place);
	}

	finish({isComplete = false}: {readonly isComplete?: boolean} = {}): Requirements {
		const {requirement: requirements, constraint: constraints} = this.#sets;
		const requireHashes = this.#flags.has('require-hashes') || requirements.haveHashes || constraints.haveHashes;
		if (this.#editables !== undefined && !isComplete) this.#addRequired(this.#editables, requireHashes);
		const local = [...this.#local.values()].sort((left, right) => (left.path < right.path ? -1 : 1));
		if (requireHashes) requirements.checkHashes(constraints, local);
		const noIndex = this.#flags.has('no-index');
		const parts = {
			requirements: requirements.list(),
			constraints: constraints.list(),
			index: {
				indexUrl: noIndex ? undefined : this.#indexUrl,
				extraIndexUrls: noIndex ? [] : [...this.#extraIndexUrls],
				findLinks: [...this.#findLinks],
				noIndex,
			},
			prereleases: this.#flags.has('pre'),
			preferBinary: this.#flags.has('prefer-binary'),
			noBinary: [...this.#noBinary].sort(),
			onlyBinary: [...this.#onlyBinary].sort(),
			requireHashes,
			isComplete,
			local,
		};
		return {
			...parts,
			text: format(parts.requirements),
			constraintsText: format(parts.constraints),
			digest: createHash('sha256').update(JSON.stringify(parts)).digest('hex'),
			editables: this.#editables?.list() ?? [],
		};
	}

	/** What they are themselves is not to be installed, what they require is; where hashes are required, it is to be in the list. */
	#addRequired(editables: Editables, requireHashes: boolean): void {
		const {requirement: requirements} = this.#sets;
		for (const {name, place: named} of editables.list()) {
			const archive = [...this.#local.values()].find((each) => each.isRequired && each.name === name);
			if (archive !== undefined) throw invalidRequirements(named, `one source of ${name}`, archive.path);
			for (const {requirement, place} of requirements.take(name)) {
				const [hash] = requirement.hashes;
				if (hash !== undefined) throw invalidRequirements(place, 'no hash of a package that -e names', hash);
				editables.meets(requirement, place);
			}
		}
		const required = editables.required();
		if (requireHashes) {
			const {environment} = editables;
			checkAgreement(required, requirements.pinned(environment), 'the list with hashes', environment);
			return;
		}
		for (const {content, place} of required) {
			requirements.add({...parseRequirement(content, place), hashes: []}, place);
		}
	}

	#addRequirement(content: string, options: readonly Option[], place: Place, kind: Kind): void {
		const found =
			this.#files && kind === 'requirement' ? readLocalRequirement({content, place}, this.#files) : undefined;
		const text = found?.text ?? content;
		const requirement = parseRequirement(text, place);
		const hashes = options.map((option) => {
			if (option.kind === 'hash') return option.hash;
			throw invalidRequirements(
				place,
				'--hash=sha256:… or the end of the line after a requirement',
				`--${option.kind}`,
			);
		});
		if (found !== undefined) {
			if (found.archive === undefined) return;
			const own = `sha256:${found.archive.sha256}`;
			if (hashes.length > 0 && !hashes.includes(own))
				throw invalidRequirements(place, `--hash=${own}`, hashes.join(' '));
			this.#addLocal(found.archive, place);
		}
		if (kind === 'constraint' && requirement.extras.length > 0) {
			throw invalidRequirements(place, 'no extras in a constraint', text);
		}
		this.#sets[kind].add({...requirement, hashes: [...new Set(hashes)].sort()}, place);
	}

	/** All of them are put into one folder. */
	#addLocal(archive: LocalArchive, place: Place): void {
		const file = posix.basename(archive.path);
		const before = this.#local.get(file);
		if (before !== undefined && before.sha256 !== archive.sha256) {
			throw invalidRequirements(place, `the same content as that of ${before.path}`, archive.path);
		}
		if (before?.isRequired !== true) this.#local.set(file, archive);
	}

	#addFolder(folder: string, place: Place): void {
		if (this.#files === undefined)
			throw invalidRequirements(place, 'no folder, which a file of a function can name', folder);
		for (const archive of wheelsIn(folder, place, this.#files)) this.#addLocal(archive, place);
	}

	#apply(option: Option, place: Place): void {
		switch (option.kind) {
			case 'find-folder':
				this.#addFolder(option.folder, place);
				return;
			case 'index-url':
				// Installers differ in which one wins.
				if (this.#indexUrl !== undefined && this.#indexUrl !== option.url) {
					throw invalidRequirements(place, 'one --index-url; further ones are --extra-index-url', option.url);
				}
				this.#indexUrl = option.url;
				return;
			case 'extra-index-url':
				this.#extraIndexUrls.add(option.url);
				return;
			case 'find-links':
				this.#findLinks.add(option.url);
				return;
			case 'no-binary':
				[this.#noBinary, this.#onlyBinary] = withFormat(option.names, this.#noBinary, this.#onlyBinary);
				return;
			case 'only-binary':
				[this.#onlyBinary, this.#noBinary] = withFormat(option.names, this.#onlyBinary, this.#noBinary);
				return;
			case 'hash':
				throw invalidRequirements(place, 'a requirement before --hash', option.hash);
			default:
				this.#flags.add(option.kind);
		}
	}
}

/** Moves names from one of two sets to the other: the last word wins, `:all:` over all before it, `:none:` clears. */
function withFormat(
	names: readonly string[],
	target: ReadonlySet<string>,
	other: ReadonlySet<string>,
): [target: Set<string>, other: Set<string>] {
	const all = names.lastIndexOf(':all:');
	const moved = all === -1 ? new Set(target) : new Set([':all:']);
	const left = all === -1 ? new Set(other) : new Set<string>();
	const rest = names.slice(all + 1);
	if (all !== -1 && !rest.includes(':none:')) return [moved, left];
	for (const name of rest) {
		if (name === ':none:') {
			moved.clear();
		} else {
			left.delete(name);
			if (!moved.has(':all:')) moved.add(name);
		}
	}
	return [moved, left];
}

/** Requirements or constraints, each once. */
class RequirementSet {
	readonly #entries = new Map<string, {readonly requirement: Requirement; readonly place: Place}>();

	get haveHashes(): boolean {
		return [...this.#entries.values()].some(({requirement}) => requirement.hashes.length > 0);
	}

	/** A requirement that is there already with other hashes keeps those that both allow, as with pip. */
	add(requirement: Requirement, place: Place): void {
		const key = formatRequirement(requirement);
		const before = this.#entries.get(key);
		if (before === undefined) {
			this.#entries.set(key, {requirement, place});
			return;
		}
		const hashes = allowedByBoth(before.requirement.hashes, requirement.hashes);
		if (hashes === undefined) {
			throw invalidRequirements(place, `a hash that line ${before.place.line} has for the same requirement`, key);
		}
		this.#entries.set(key, {requirement: {...requirement, hashes}, place: before.place});
	}

	/** Takes those of a name out. */
	take(name: string): ReadonlyArray<{readonly requirement: Requirement; readonly place: Place}> {
		const found = [...this.#entries].filter(([, {requirement}]) => requirement.name === name);
		for (const [key] of found) this.#entries.delete(key);
		return found.map(([, entry]) => entry);
	}

	/** Those that allow one version only, and are meant for an environment. */
	pinned(environment: MarkerEnvironment): ReadonlyArray<Pick<Pin, 'name' | 'version'>> {
		return [...this.#entries.values()]
			.filter(({requirement}) => isPinned(requirement))
			.filter(({requirement: {marker}, place}) => {
				return marker === undefined || holds({content: marker, place}, environment);
			})
			.map(({requirement: {name, specifier}}) => ({name, version: specifier.replace(/^=+/, '')}));
	}

	/** Refuses what cannot be installed when everything must have a hash. */
	checkHashes(constraints: RequirementSet, local: readonly LocalArchive[]): void {
		const constrained = new Set([
			...constraints.list().flatMap(({name, hashes}) => (hashes.length > 0 ? [name] : [])),
			...local.filter(({isRequired}) => isRequired).map(({name}) => name),
		]);
		for (const [text, {requirement, place}] of this.#entries) {
			if (!isPinned(requirement)) {
				throw invalidRequirements(place, 'one version with == here, since hashes are required', text);
			}
			if (requirement.hashes.length === 0 && !constrained.has(requirement.name)) {
				throw invalidRequirements(place, '--hash=sha256:… here too, since hashes are required', text);
			}
		}
	}

	list(): Requirement[] {
		const sorted = [...this.#entries].sort(([left], [right]) => (left < right ? -1 : 1));
		return sorted.map(([, {requirement}]) => requirement);
	}
}

/** No hashes allow everything; `undefined` means that nothing is left. */
function allowedByBoth(left: readonly string[], right: readonly string[]): readonly string[] | undefined {
	if (left.length === 0 || right.length === 0) return left.length === 0 ? right : left;
	const both = left.filter((hash) => right.includes(hash));
	return both.length === 0 ? undefined : both;
}

function format(requirements: readonly Requirement[]): string {
	return requirements
		.map((requirement) => [formatRequirement(requirement), ...requirement.hashes.map((hash) => `--hash=${hash}`)])
		.map((words) => `${words.join(' \\\n    ')}\n`)
		.join('');
}

/** What a function without requirements has. */
export const noRequirements: Requirements = parseRequirements('');
