/** Reads a requirements file that names one version of everything. */
import {readFile} from 'node:fs/promises';
import {basename, dirname, join} from 'node:path';
import {ForktreeError} from '../errors.ts';
import {formatRequirement, isPinned} from './requirement.ts';
import {readRequirements} from './requirements.ts';

/** What a locked file asks for. */
export type Pins = {
	/** As `name==version`, sorted, each name once. */
	readonly pins: readonly string[];
	/** Lines that hold on some machines only, as in `six==1.16.0 ; os_name == "nt"`. They are among the pins as well. */
	readonly conditional: readonly string[];
};

/**
 * Reads a locked requirements file, with those that it includes from its own folder.
 * @throws {ForktreeError} `InvalidRequirements` for what is not understood, has no exact version, or has two
 */
export async function readPins(path: string): Promise<Pins> {
	const file = basename(path);
	const folder = dirname(path);
	const {requirements} = await readRequirements(file, async (name) => {
		try {
			return await readFile(join(folder, name), 'utf8');
		} catch (error) {
			if (name !== file && (error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
			throw error;
		}
	});
	const versions = new Map<string, string>();
	for (const requirement of requirements) {
		const {name, specifier} = requirement;
		if (!isPinned(requirement)) {
			throw invalid(path, 'name==version, as in a locked file', formatRequirement(requirement));
		}
		const version = specifier.replace(/^=+/, '');
		const other = versions.get(name);
		if (other !== undefined && other !== version) {
			throw invalid(path, `one version of ${name}`, `${other} and ${version}`);
		}
		versions.set(name, version);
	}
	return {
		pins: [...versions].map(([name, version]) => `${name}==${version}`).sort(),
		conditional: requirements.filter(({marker}) => marker !== undefined).map(formatRequirement),
	};
}

function invalid(path: string, expected: string, got: string): ForktreeError {
	return new ForktreeError('InvalidRequirements', `${path}: expected ${expected}, got ${got}`);
}
