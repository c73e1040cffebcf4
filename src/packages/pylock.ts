/** Reads the lock file `pylock.toml`, see PEP 751. */
import {posix} from 'node:path';
import type {Interpreter} from '../sandbox/interpreter.ts';
import type {EditableReference} from './editable.ts';
import {holds, type MarkerEnvironment, markerEnvironment} from './marker.ts';
import {
	checkEnvironments,
	fileNameOf,
	type LockedPackages,
	type Pin,
	type PinnedFile,
	requiredText,
	usableFiles,
} from './pin.ts';
import {checkPython} from './python-version.ts';
import {invalidRequirements} from './requirement-lines.ts';
import {parseToml, type TomlTable} from './toml.ts';

export const pylockFile = 'pylock.toml';

/** What a package can come from besides an index and a folder. */
const OTHER_SOURCES = ['vcs', 'archive'] as const;

/**
 * Answers the packages that a lock has for an interpreter, without extras and with the default groups.
 * @throws {ForktreeError} `InvalidRequirements`, also for packages from elsewhere than an index or a folder; `InterpreterMismatch`
 */
export function readPylock(text: string, interpreter: Pick<Interpreter, 'version'>): LockedPackages {
	const lock = parseToml(text, pylockFile);
	const version = requiredText(lock, 'lock-version');
	if (!/^1\.\d{1,9}$/.test(version)) throw invalidRequirements(lock.placeOf('lock-version'), '1.0', version);
	checkPythonOf(lock, interpreter);
	const groups = lock.texts('default-groups')?.map(({content}) => content);
	const environment = markerEnvironment(interpreter, groups);
	checkEnvironments(lock, 'environments', environment, interpreter);
	const pins: Pin[] = [];
	const editables: EditableReference[] = [];
	for (const table of (lock.tables('packages') ?? []).filter((each) => isWanted(each, environment))) {
		const directory = table.table('directory');
		if (directory === undefined) pins.push(pinOf(table, interpreter));
		else editables.push(editableOf(requiredText(table, 'name'), directory));
	}
	return {pins, editables};
}

function isWanted(table: TomlTable, environment: MarkerEnvironment): boolean {
	const marker = table.text('marker');
	if (marker !== undefined && !holds({content: marker, place: table.placeOf('marker')}, environment)) return false;
	// The function itself, whose code is there.
	return !['.', './'].includes(table.table('directory')?.text('path') ?? '');
}

function editableOf(name: string, directory: TomlTable): EditableReference {
	const path = posix.join(requiredText(directory, 'path'), directory.text('subdirectory') ?? '');
	return {name, path, extras: [], place: directory.placeOf('path')};
}

function pinOf(table: TomlTable, interpreter: Pick<Interpreter, 'version'>): Pin {
	const other = OTHER_SOURCES.find((source) => table.has(source));
	if (other !== undefined) throw invalidRequirements(table.placeOf(other), 'wheels or an sdist of an index', other);
	checkPythonOf(table, interpreter);
	const [name, version, {place}] = [requiredText(table, 'name'), requiredText(table, 'version'), table];
	const sdist = table.table('sdist');
	const files = [...(table.tables('wheels') ?? []), ...(sdist === undefined ? [] : [sdist])].map(fileOf);
	return {
		name,
		version,
		place,
		files: usableFiles({name, version, place}, files, interpreter),
	};
}

function fileOf(table: TomlTable): PinnedFile {
	const hashes = table.table('hashes');
	if (hashes === undefined) throw invalidRequirements(table.placeOf('hashes'), 'a table', 'nothing');
	return {file: fileNameOf(table, ['name', 'url', 'path']), hash: `sha256:${requiredText(hashes, 'sha256')}`};
}

function checkPythonOf(table: TomlTable, interpreter: Pick<Interpreter, 'version'>): void {
	const content = table.text('requires-python');
	if (content !== undefined) checkPython({content, place: table.placeOf('requires-python')}, interpreter);
}
