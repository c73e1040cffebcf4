/** Reads the table `[project]` of a pyproject.toml, see the specification of pyproject.toml (PEP 621). */
import {invalidRequirements} from './requirement-lines.ts';
import {parseToml, type TomlTable} from './toml.ts';

export const pyprojectFile = 'pyproject.toml';
/** Of what a person writes. */
export const maxPyprojectBytes = 1024 * 1024;

/**
 * Finds the table.
 * @param file where the text is from
 * @returns `undefined` when there is none: then the file holds settings of tools, and states nothing
 * @throws {ForktreeError} `InvalidRequirements` for what is no TOML
 */
export function readProject(text: string, file = pyprojectFile): TomlTable | undefined {
	return parseToml(text, file).table('project');
}

/** @throws {ForktreeError} `InvalidRequirements` for dependencies that only a build would find out */
export function checkStatic(project: TomlTable): void {
	const dynamic = project.texts('dynamic')?.find(({content}) => content === 'dependencies');
	if (dynamic === undefined) return;
	throw invalidRequirements(
		dynamic.place,
		'dependencies that are written in the file, since nothing of a function is built',
		dynamic.content,
	);
}
