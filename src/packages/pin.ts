/** What a lock file names: a package in one version, in files of which each has a hash. */
import {satisfies} from '@renovatebot/pep440';
import {ForktreeError} from '../errors.ts';
import type {Interpreter} from '../sandbox/interpreter.ts';
import type {EditableReference} from './editable.ts';
import {holds, type MarkerEnvironment} from './marker.ts';
import {normaliseName, parseRequirement} from './requirement.ts';
import {invalidRequirements, type LogicalLine, type Place, placeText} from './requirement-lines.ts';
import type {TomlTable} from './toml.ts';
import {describeHost, fitsRoughly} from './wheel-tags.ts';

/** A file that a package comes in. */
export type PinnedFile = {readonly file: string /** `sha256:` and hexadecimal digits. */; readonly hash: string};

/** A package in one version. */
export type Pin = {
	readonly name: string;
	readonly version: string;
	/** Those of its files that this machine could use, at least one. */
	readonly files: readonly PinnedFile[];
	readonly place: Place;
};

/** What a lock file comes to. */
export type LockedPackages = {
	readonly pins: readonly Pin[];
	/** Packages that lie in the function's folder. */
	readonly editables: readonly EditableReference[];
};

/**
 * Leaves what the interpreter can use of the files of a package.
 * @throws {ForktreeError} `InterpreterMismatch` when that is nothing
 */
export function usableFiles(
	{name, version, place}: Omit<Pin, 'files'>,
	files: readonly PinnedFile[],
	interpreter: Pick<Interpreter, 'version'>,
): readonly PinnedFile[] {
	if (files.length === 0) throw invalidRequirements(place, `wheels or an sdist of ${name}`, 'none');
	const usable = files.filter(({file}) => !file.endsWith('.whl') || fitsRoughly(file, interpreter));
	if (usable.length > 0) return usable;
	const [first, ...others] = files;
	const more = others.length > 0 ? ` and ${others.length} more` : '';
	throw new ForktreeError(
		'InterpreterMismatch',
		`${placeText(place)}: ${name} ${version} is locked as ${first?.file}${more}; this is ${describeHost(interpreter)}`,
	);
}

/** The name of the file that a table of a lock is about. */
export function fileNameOf(table: TomlTable, fields: readonly string[]): string {
	const address = fields.map((field) => table.text(field)).find((text) => text !== undefined);
	if (address === undefined) throw invalidRequirements(table.place, `one of ${fields.join(', ')}`, 'none');
	const last =
		address
			.replace(/[?#].*$/s, '')
			.split('/')
			.at(-1) ?? '';
	try {
		return decodeURIComponent(last);
	} catch {
		return last;
	}
}

/**
 * Checks that a lock is for this machine.
 * @param field of a list of markers of which one must hold
 * @throws {ForktreeError} `InterpreterMismatch`
 */
export function checkEnvironments(
	lock: TomlTable,
	field: string,
	environment: MarkerEnvironment,
	interpreter: Pick<Interpreter, 'version'>,
): void {
	const markers = lock.texts(field);
	if (markers === undefined || markers.some((marker) => holds(marker, environment))) return;
	const [first] = markers;
	const more = markers.length > 1 ? ` and ${markers.length - 1} more` : '';
	throw new ForktreeError(
		'InterpreterMismatch',
		`${placeText(lock.placeOf(field))}: is for ${JSON.stringify(first?.content.slice(0, 200) ?? 'nothing')}${more}; this is ${describeHost(interpreter)}`,
	);
}

/**
 * Checks that what a project states is what is locked, as far as it is for this machine.
 * @param lock the name of the lock's file
 * @throws {ForktreeError} `InvalidRequirements` naming what the project states and the lock does not have in such a version
 */
export function checkAgreement(
	dependencies: readonly LogicalLine[],
	pins: ReadonlyArray<Pick<Pin, 'name' | 'version'>>,
	lock: string,
	environment: MarkerEnvironment,
): void {
	const locked = new Map(pins.map((pin) => [normaliseName(pin.name), pin]));
	for (const {content, place} of dependencies) {
		const {name, specifier, marker} = parseRequirement(content, place);
		if (marker !== undefined && !holds({content: marker, place}, environment)) continue;
		const pin = locked.get(name);
		const isMet = pin !== undefined && (specifier === '' || satisfies(pin.version, specifier, {prereleases: true}));
		if (isMet) continue;
		const what =
			pin === undefined ? `what ${lock} has, which is not ${name}` : `what ${lock} has, ${name}==${pin.version}`;
		throw invalidRequirements(place, `${what}; lock the project again`, content);
	}
}

/** A field that must be there. */
export function requiredText(table: TomlTable, field: string): string {
	const text = table.text(field);
	if (text === undefined) throw invalidRequirements(table.placeOf(field), 'text', 'nothing');
	return text;
}
