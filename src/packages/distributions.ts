/** The modules of a distribution, by the names of its files. */

// Tools, which nobody wants preloaded.
const TOOLS = new Set(['pip', 'setuptools', 'wheel']);
const NOT_MODULES = new Set(['bin', 'test', 'tests']);
// Unlike Python's, without a leading underscore: such modules are private.
const MODULE_NAME = /^\p{XID_Start}\p{XID_Continue}*$/u;
const EXTENSION = /^([^.]+)(?:\.(?:cpython-[\w-]+|abi3))?\.so$/;

/**
 * Importable top-level names of a distribution that is alone in its folder, sorted.
 * @param name normalised as PEP 503 says
 * @param paths of all its files
 */
export function modulesOfFiles(name: string, paths: readonly string[]): readonly string[] {
	return TOOLS.has(name) ? [] : unique(paths.map(moduleOfPath).filter((found) => found !== undefined));
}

function moduleOfPath(path: string): string | undefined {
	const [first = '', second, ...rest] = path.split('/');
	if (rest.length > 0) return undefined;
	const name = second === undefined ? moduleOfFile(first) : second === '__init__.py' ? first : undefined;
	return name !== undefined && isModuleName(name) ? name : undefined;
}

function moduleOfFile(file: string): string | undefined {
	return file.endsWith('.py') ? file.slice(0, -'.py'.length) : EXTENSION.exec(file)?.[1];
}

/** Whether a top-level name is one to import: public, and not one that everybody has. */
export function isModuleName(name: string): boolean {
	return MODULE_NAME.test(name) && !NOT_MODULES.has(name);
}

function unique(names: readonly string[]): readonly string[] {
	return [...new Set(names)].sort();
}
