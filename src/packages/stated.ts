/** Where a function's files state its packages, and what they say. */
import type {Interpreter} from '../sandbox/interpreter.ts';
import {type EditableFiles, Editables} from './editable.ts';
import {readInlineMetadata} from './inline-metadata.ts';
import {checkAgreement, type LockedPackages} from './pin.ts';
import {pylockFile, readPylock} from './pylock.ts';
import {checkStatic, maxPyprojectBytes, pyprojectFile, readProject} from './pyproject.ts';
import {checkPython} from './python-version.ts';
import {invalidRequirements, type LogicalLine, requirementsLimits} from './requirement-lines.ts';
import {
	noRequirements,
	parseRequirements,
	type Requirements,
	readRequirements,
	requirementsOf,
	requirementsOfLock,
} from './requirements.ts';
import {type TomlTable, tomlLimits} from './toml.ts';
import {readUvLock, uvLockFile} from './uv-lock.ts';

/** A function's files, by paths relative to its folder. They hold no links. */
export type CodeFiles = {
	has(path: string): boolean;
	/** @throws {ForktreeError} `InvalidRequirements` for a folder, more than that many bytes, and what is not UTF-8 */
	readText(path: string, maxBytes: number): Promise<string | undefined>;
	/** Of every file. */
	paths(): readonly string[];
	/** Of the content of a file, hexadecimal; undefined when there is none. */
	sha256Of(path: string): string | undefined;
	/** The first bytes of a file, at most that many. */
	readStart(path: string, maxBytes: number): Promise<Buffer>;
};

/** For whom the packages are. */
export type StatedFor = {
	/** The file with the handler; it is there. */
	readonly entryFile: string;
	readonly interpreter: Pick<Interpreter, 'version'>;
};

/** What a function's packages are, and by whose word. */
export type StatedPackages = {
	readonly requirements: Requirements;
	/** The file that states them, or `options.requirements`; undefined when nothing does. */
	readonly statedBy: string | undefined;
	/** Files that state packages as well, and are passed over: in the order in which they would count. */
	readonly ignoredSources: readonly string[];
};

/** One way to state packages. */
type Stated = {
	/** The file that does. */
	readonly file: string;
	/** Another one that is read besides, and so is not passed over. */
	readonly comparedWith?: string;
	readonly read: () => Promise<Requirements>;
};
/** Answers `undefined` when the files do not use a way. It never throws: what can't be read is an error only if it counts. */
type Way = (files: CodeFiles, whom: StatedFor) => Promise<Stated | undefined>;

const requirementsFile = 'requirements.txt';
/** How much of a file is looked through for inline metadata, which belongs to its beginning. */
const maxInlineBytes = 1024 * 1024;

const ofPylock: Way = async (files, {interpreter}) => {
	if (!files.has(pylockFile)) return undefined;
	const read = async () => {
		const locked = readPylock(await readLockFile(files, pylockFile), interpreter);
		const project = await findProject(files);
		return requirementsOfLocked(
			locked,
			project?.texts('dependencies') ?? [],
			pylockFile,
			editableFiles(files, interpreter),
		);
	};
	return {file: pylockFile, comparedWith: pyprojectFile, read};
};

const ofUvLock: Way = async (files, {interpreter}) => {
	if (!files.has(uvLockFile)) return undefined;
	const read = async () => {
		const project = await findProject(files);
		if (project === undefined) {
			throw invalidRequirements(
				{file: uvLockFile, line: undefined},
				`${pyprojectFile} with [project] beside it`,
				'none',
			);
		}
		checkStatic(project);
		const dependencies = project.texts('dependencies') ?? [];
		const locked = readUvLock(await readLockFile(files, uvLockFile), dependencies, interpreter);
		return requirementsOfLocked(locked, dependencies, uvLockFile, editableFiles(files, interpreter));
	};
	return {file: uvLockFile, comparedWith: pyprojectFile, read};
};

const ofRequirementsFile: Way = async (files, {interpreter}) => {
	const readText = (path: string) => files.readText(path, requirementsLimits.sizeBytes);
	const local = {...editableFiles(files, interpreter), sha256Of: (path: string) => files.sha256Of(path)};
	const read = () => readRequirements(requirementsFile, readText, local);
	return files.has(requirementsFile) ? {file: requirementsFile, read} : undefined;
};

const ofProject: Way = (files, {interpreter}) =>
	ofTable(pyprojectFile, interpreter, async () => {
		const project = await findProject(files);
		if (project !== undefined) checkStatic(project);
		return project;
	});

const ofEntryFile: Way = (files, {entryFile, interpreter}) =>
	ofTable(entryFile, interpreter, async () =>
		readInlineMetadata(await files.readStart(entryFile, maxInlineBytes), entryFile),
	);

/** The first that the files use counts. */
const ways: readonly Way[] = [ofPylock, ofUvLock, ofRequirementsFile, ofProject, ofEntryFile];

/**
 * Reads what a function's files state: `pylock.toml`, else `uv.lock` with `pyproject.toml`, else `requirements.txt`, else `[project]` of
 * `pyproject.toml`, else the inline metadata of its entry file.
 * @param lines of requirements, which count before all of them
 * @throws {ForktreeError} `InvalidRequirements`, naming file and place; `InterpreterMismatch`
 */
export async function readStated(
	files: CodeFiles,
	whom: StatedFor,
	lines?: readonly string[],
): Promise<StatedPackages> {
	const found: Stated[] = [];
	if (lines !== undefined) {
		found.push({file: 'options.requirements', read: async () => parseRequirements(lines.join('\n'))});
	}
	for (const way of ways) {
		const stated = await way(files, whom);
		if (stated !== undefined) found.push(stated);
	}
	const [first, ...others] = found;
	const requirements = (await first?.read()) ?? noRequirements;
	const isOwn = requirements.editables.some(({folder}) => folder === '');
	const read = [first?.comparedWith, isOwn ? pyprojectFile : undefined];
	return {
		requirements,
		statedBy: first?.file,
		ignoredSources: others.map(({file}) => file).filter((file) => !read.includes(file)),
	};
}

/** @param dependencies of the function's project, which the lock is compared with */
async function requirementsOfLocked(
	{pins, editables: references}: LockedPackages,
	dependencies: readonly LogicalLine[],
	lock: string,
	files: EditableFiles,
): Promise<Requirements> {
	const editables = new Editables(files);
	for (const reference of references) await editables.add(reference);
	const stated = [...editables.without(dependencies), ...editables.required()];
	checkAgreement(stated, pins, lock, editables.environment);
	return requirementsOfLock(pins, editables);
}

function editableFiles(files: CodeFiles, interpreter: StatedFor['interpreter']): EditableFiles {
	return {
		paths: () => files.paths(),
		readText: (path, maxBytes) => files.readText(path, maxBytes),
		interpreter,
	};
}

async function readLockFile(files: CodeFiles, file: string): Promise<string> {
	return (await files.readText(file, tomlLimits.sizeBytes)) ?? '';
}

async function findProject(files: CodeFiles): Promise<TomlTable | undefined> {
	const text = await files.readText(pyprojectFile, maxPyprojectBytes);
	return text === undefined ? undefined : readProject(text);
}

/** Of a table with the fields that PEP 723 has from `[project]`. */
async function ofTable(
	file: string,
	interpreter: StatedFor['interpreter'],
	find: () => Promise<TomlTable | undefined>,
): Promise<Stated | undefined> {
	const finding = find();
	const isThere = await finding.then(
		(table) => table !== undefined,
		() => true,
	);
	if (!isThere) return undefined;
	return {
		file,
		read: async () => {
			const table = await finding;
			const python = table?.text('requires-python');
			if (table !== undefined && python !== undefined) {
				checkPython({content: python, place: table.placeOf('requires-python')}, interpreter);
			}
			return requirementsOf(table?.texts('dependencies') ?? []);
		},
	};
}
