/** Archives that lie in a function's folder, and how a requirements file names them. */
import {posix} from 'node:path';
import {ForktreeError} from '../errors.ts';
import type {Interpreter} from '../sandbox/interpreter.ts';
import {readArchiveName} from './lock.ts';
import {holds, markerEnvironment} from './marker.ts';
import {normaliseName} from './requirement.ts';
import {invalidRequirements, type LogicalLine, type Place, placeText} from './requirement-lines.ts';
import {describeHost, fitsRoughly} from './wheel-tags.ts';

/** An archive of a function's folder. */
export type LocalArchive = {
	/** Normalised as PEP 503 says. */
	readonly name: string;
	readonly version: string;
	readonly kind: 'wheel' | 'sdist';
	/** Relative to the folder, which holds no links. */
	readonly path: string;
	/** Hexadecimal. */
	readonly sha256: string;
	/** Whether it is required itself, and so nothing else of that name will do. */
	readonly isRequired: boolean;
};

/** Where they are looked for. */
export type LocalFiles = {
	/** Of every file. */
	paths(): readonly string[];
	/** Of the content of a file, hexadecimal; undefined when there is none. */
	sha256Of(path: string): string | undefined;
	readonly interpreter: Pick<Interpreter, 'version'>;
};

const WHEEL = /^([^-]+)-([^-]+)(?:-[^-]+){3,4}\.whl$/;
const SDIST = /^(.+)-([^-]+)\.(?:tar\.gz|tgz|tar\.bz2|tar\.xz|zip)$/i;
/** `./wheels/a-1.0-py3-none-any.whl[extra] ; marker`, or with `file:` before it. */
const BY_PATH = /^(?:file:)?(\.{1,2}\/[^ \t;[\]]*|[A-Za-z0-9._-]+\/[^ \t;[\]:]*)(\[[^\]]*\])?[ \t]*(;.*)?$/;
/** `a[extra] @ file:./wheels/a-1.0-py3-none-any.whl ; marker`. */
const BY_NAME = /^([A-Za-z0-9._-]+)[ \t]*(\[[^\]]*\])?[ \t]*@[ \t]*(?:file:)?([^ \t;:/][^ \t;:]*)[ \t]*(;.*)?$/;

/** A requirement that is an archive of the folder; without it when its marker does not hold. */
export type LocalRequirement = {
	/** What it comes to, in the words of PEP 508. */
	readonly text: string;
	readonly archive: LocalArchive | undefined;
};

/**
 * Reads a requirement that is an archive of the folder.
 * @returns undefined when it is none
 * @throws {ForktreeError} `InvalidRequirements` for a path that leads outside, to no archive, or to one of another package;
 * `InterpreterMismatch` for a wheel of others
 */
export function readLocalRequirement({content, place}: LogicalLine, files: LocalFiles): LocalRequirement | undefined {
	const [, byPath, pathExtras, pathMarker] = BY_PATH.exec(content) ?? [];
	const [, named, nameExtras, byName, nameMarker] = BY_NAME.exec(content) ?? [];
	const path = byPath ?? byName;
	if (path === undefined) return undefined;
	const archive = findArchive(resolveInside(path, place), files);
	if (archive === undefined) throw invalidRequirements(place, expectedArchive(path, place, files), path);
	if (named !== undefined && normaliseName(named) !== archive.name) {
		throw invalidRequirements(place, `an archive of ${named}`, path);
	}
	const [extras = '', marker = ''] = byPath === undefined ? [nameExtras, nameMarker] : [pathExtras, pathMarker];
	const text = `${archive.name}${extras}==${archive.version} ${marker}`;
	const isMeant = marker === '' || holds({content: marker.slice(1), place}, markerEnvironment(files.interpreter));
	if (!isMeant) return {text, archive: undefined};
	if (archive.kind === 'wheel' && !fitsRoughly(posix.basename(archive.path), files.interpreter)) {
		throw new ForktreeError(
			'InterpreterMismatch',
			`${placeText(place)}: ${archive.path} is for others; this is ${describeHost(files.interpreter)}`,
		);
	}
	return {text, archive: {...archive, isRequired: true}};
}

/**
 * Finds the wheels of a folder, as `--find-links` does.
 * @throws {ForktreeError} `InvalidRequirements` when there are none
 */
export function wheelsIn(folder: string, place: Place, files: LocalFiles): readonly LocalArchive[] {
	const inside = resolveInside(folder, place).replace(/\/$/, '');
	const found = files
		.paths()
		.filter((path) => posix.dirname(path) === inside && path.endsWith('.whl'))
		.map((path) => findArchive(path, files))
		.filter((archive) => archive !== undefined);
	if (found.length === 0) throw invalidRequirements(place, 'a folder of the function with wheels in it', folder);
	return found;
}

function findArchive(path: string, files: LocalFiles): LocalArchive | undefined {
	const sha256 = files.sha256Of(path);
	const file = posix.basename(path);
	const [, spelled = '', spelledVersion = ''] = WHEEL.exec(file) ?? SDIST.exec(file) ?? [];
	const name = normaliseName(spelled);
	const found = readArchiveName(file, name);
	if (sha256 === undefined || found === undefined) return undefined;
	return {name, version: spelledVersion, kind: found.kind, path, sha256, isRequired: false};
}

function expectedArchive(path: string, place: Place, files: LocalFiles): string {
	const inside = `${resolveInside(path, place).replace(/\/$/, '')}/`;
	const isFolder = files.paths().some((each) => each.startsWith(inside));
	return `an archive in the folder of the function${isFolder ? ', or -e before a folder of sources' : ''}`;
}

/** @throws {ForktreeError} `InvalidRequirements` for a path that leads outside */
export function resolveInside(path: string, place: Place): string {
	const resolved = posix.normalize(path);
	if (resolved !== '..' && !resolved.startsWith('../')) return resolved;
	throw invalidRequirements(place, 'a path inside the folder of the function', path);
}
