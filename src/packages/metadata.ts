/** What is known of an unpacked distribution. It comes out of a sandbox or from a disk, and so is not trusted. */
import {ForktreeError} from '../errors.ts';
import {isModuleName} from './distributions.ts';

/** What a distribution consists of. */
export type DistributionMetadata = {
	/** Normalised as PEP 503 says. */
	readonly name: string;
	readonly version: string;
	/** Importable top-level names, sorted. */
	readonly modules: readonly string[];
	/** Names of dependencies whose markers hold for the interpreter that it was unpacked for, extras left out; sorted. */
	readonly requires: readonly string[];
	/** Further ones, by extra. */
	readonly extras: Readonly<Record<string, readonly string[]>>;
	/** Everything in the folder, byte code included, sorted by path. */
	readonly files: ReadonlyArray<readonly [path: string, sha256: string, sizeBytes: number]>;
	readonly sizeBytes: number;
	/** ELF files, sorted, and the names of the libraries that they need (DT_NEEDED). */
	readonly nativeLibraries: ReadonlyArray<{readonly file: string; readonly needs: readonly string[]}>;
};

/** What importing costs: medians of several fresh processes. */
export type ImportCost = {
	/** Of its own modules, when a zygote has imported those of the packages that it imports from. */
	readonly exclusiveMs: number;
	/** In a bare interpreter. */
	readonly inclusiveMs: number;
	/** Private memory that its own modules take then. */
	readonly privateMiB: number;
	/** How many processes each median is of. */
	readonly runs: number;
};

/** The most that a folder may hold: a file of byte code for each entry of an archive. */
const maxFiles = 400_000;
const maxPathBytes = 1100;
const maxPartBytes = 255;
const maxNames = 10_000;
const projectName = /^[a-z0-9]+(?:-[a-z0-9]+)*$/;
const sha256Text = /^[0-9a-f]{64}$/;
/** A control character, or half of one that takes two units. */
const controlCharacter = /[\p{Cc}\p{Cs}]/u;

/**
 * Reads metadata. Keys that are not known are left out, lists are sorted.
 * @param json as parsed
 * @param expected which distribution it must be of
 * @throws {ForktreeError} `PackageDamaged` naming what was expected where
 */
export function readMetadata(
	json: unknown,
	expected: {readonly name: string; readonly version: string},
): DistributionMetadata {
	const reader = new Reader(`${expected.name}==${expected.version}: metadata`);
	const value = reader.object(json, '');
	reader.check(value.name === expected.name, 'name', expected.name, value.name);
	reader.check(value.version === expected.version, 'version', expected.version, value.version);
	const files = reader.files(value.files);
	const paths = new Set(files.map(([path]) => path));
	const sizeBytes = files.reduce((sum, [, , size]) => sum + size, 0);
	reader.check(value.sizeBytes === sizeBytes, 'sizeBytes', `the sum of all files, ${sizeBytes}`, value.sizeBytes);
	return {
		name: expected.name,
		version: expected.version,
		modules: reader.names(value.modules, 'modules', isModuleName),
		requires: reader.names(value.requires, 'requires', isProjectName),
		extras: reader.extras(value.extras),
		files,
		sizeBytes,
		nativeLibraries: reader.nativeLibraries(value.nativeLibraries, paths),
	};
}

/**
 * Reads what was measured.
 * @throws {ForktreeError} `PackageDamaged` naming what was expected where
 */
export function readImportCost(json: unknown): ImportCost {
	const reader = new Reader('import cost');
	const value = reader.object(json, '');
	return {
		exclusiveMs: reader.number(value.exclusiveMs, 'exclusiveMs'),
		inclusiveMs: reader.number(value.inclusiveMs, 'inclusiveMs'),
		privateMiB: reader.number(value.privateMiB, 'privateMiB'),
		runs: reader.count(value.runs, 'runs'),
	};
}

function isProjectName(name: string): boolean {
	return name.length <= maxPartBytes && projectName.test(name);
}

/** A path below the folder, as it reads: no part is empty, `.` or `..`. */
function isRelativePath(path: string): boolean {
	const parts = path.split('/');
	return (
		Buffer.byteLength(path) <= maxPathBytes &&
		!controlCharacter.test(path) &&
		parts.every((part) => part !== '' && part !== '.' && part !== '..' && Buffer.byteLength(part) <= maxPartBytes)
	);
}

class Reader {
	readonly #label: string;

	constructor(label: string) {
		this.#label = label;
	}

	check(holds: boolean, where: string, expected: string, got: unknown): void {
		if (holds) return;
		const found = (JSON.stringify(got) ?? String(got)).slice(0, 200);
		throw new ForktreeError(
			'PackageDamaged',
			`${this.#label}: expected ${expected}${where === '' ? '' : ` as ${where}`}, got ${found}`,
		);
	}

	object(value: unknown, where: string): Readonly<Record<string, unknown>> {
		this.check(typeof value === 'object' && value !== null && !Array.isArray(value), where, 'an object', value);
		return value as Readonly<Record<string, unknown>>;
	}

	list(value: unknown, where: string, most: number): readonly unknown[] {
		this.check(Array.isArray(value) && value.length <= most, where, `a list of at most ${most}`, value);
		return value as readonly unknown[];
	}

	number(value: unknown, where: string): number {
		this.check(typeof value === 'number' && value >= 0 && Number.isFinite(value), where, 'a number from 0', value);
		return value as number;
	}

	/** Sorted, each once. */
	count(value: unknown, where: string): number {
		this.check(Number.isSafeInteger(value) && (value as number) >= 0, where, 'a whole number from 0', value);
		return value as number;
	}

	names(value: unknown, where: string, isName: (name: string) => boolean): readonly string[] {
		const names = this.list(value, where, maxNames).map((name) => {
			this.check(typeof name === 'string' && isName(name), where, 'a name', name);
			return name as string;
		});
		this.#checkUnique(names, where);
		return names.sort();
	}

	#checkUnique(names: readonly string[], where: string): void {
		const seen = new Set<string>();
		for (const name of names) {
			this.check(!seen.has(name), where, 'each once', name);
			seen.add(name);
		}
	}

	extras(value: unknown): DistributionMetadata['extras'] {
		const extras = Object.entries(this.object(value, 'extras'));
		this.check(extras.length <= maxNames, 'extras', `at most ${maxNames}`, extras.length);
		return Object.fromEntries(
			extras.map(([extra, names]) => {
				this.check(isProjectName(extra), 'extras', 'a name', extra);
				return [extra, this.names(names, `extras.${extra}`, isProjectName)];
			}),
		);
	}

	files(value: unknown): DistributionMetadata['files'] {
		const files = this.list(value, 'files', maxFiles).map((row) => this.#file(row));
		const paths = files.map(([path]) => path);
		this.#checkUnique(paths, 'files');
		this.#checkNoFileIsAFolder(new Set(paths));
		return files.sort(([a], [b]) => (a < b ? -1 : 1));
	}

	#file(row: unknown): readonly [string, string, number] {
		this.check(Array.isArray(row) && row.length === 3, 'files', 'path, sha256 and size', row);
		const [path, sha256, size] = row as [unknown, unknown, unknown];
		this.check(typeof path === 'string' && isRelativePath(path), 'files', 'a relative path', path);
		this.check(typeof sha256 === 'string' && sha256Text.test(sha256), 'files', `a sha256 of ${path}`, sha256);
		this.check(Number.isSafeInteger(size) && (size as number) >= 0, 'files', `a size of ${path}`, size);
		return [path as string, sha256 as string, size as number];
	}

	#checkNoFileIsAFolder(paths: ReadonlySet<string>): void {
		for (const path of paths) {
			for (let end = path.lastIndexOf('/'); end > 0; end = path.lastIndexOf('/', end - 1)) {
				this.check(!paths.has(path.slice(0, end)), 'files', 'a folder or a file, not both', path);
			}
		}
	}

	nativeLibraries(value: unknown, paths: ReadonlySet<string>): DistributionMetadata['nativeLibraries'] {
		const libraries = this.list(value, 'nativeLibraries', maxFiles).map((row) => {
			const {file, needs} = this.object(row, 'nativeLibraries');
			this.check(typeof file === 'string' && paths.has(file), 'nativeLibraries', 'one of the files', file);
			return {file: file as string, needs: this.#libraryNames(needs)};
		});
		this.#checkUnique(
			libraries.map(({file}) => file),
			'nativeLibraries',
		);
		return libraries.sort((a, b) => (a.file < b.file ? -1 : 1));
	}

	/** In the order in which the linker looks at them. */
	#libraryNames(value: unknown): readonly string[] {
		return this.list(value, 'nativeLibraries', maxNames).map((name) => {
			const isName = typeof name === 'string' && name.length <= maxPathBytes && !controlCharacter.test(name);
			this.check(isName, 'nativeLibraries', 'the name of a library', name);
			return name as string;
		});
	}
}
