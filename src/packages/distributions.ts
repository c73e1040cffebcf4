/** The modules of a distribution, by the names of its files. */

// Tools, which nobody wants preloaded.
const TOOLS = new Set(['pip', 'setuptools', 'wheel']);
const NOT_MODULES = new Set(['bin', 'test', 'tests']);
// Unlike Python's, without a leading underscore: such modules are private.
const MODULE_NAME = /^\p{XID_Start}\p{XID_Continue}*$/u;
const EXTENSION = /^([^.]+)(?:\.(?:cpython-[\w-]+|abi3))?\.so$/;

const INIT = '/__init__.py';
const NAMESPACE_DEPTH = 4;
const MAX_IN_NAMESPACES = 16;

/**
 * What is imported of a distribution that is alone in its folder, sorted: its top-level names, or where there are none the packages in
 * namespaces that it shares with others, as `google.cloud.storage`.
 * @param name normalised as PEP 503 says
 * @param paths of all its files
 */
export function modulesOfFiles(name: string, paths: readonly string[]): readonly string[] {
	if (TOOLS.has(name)) return [];
	const topLevel = unique(paths.map(moduleOfPath).filter((found) => found !== undefined));
	return topLevel.length > 0 ? topLevel : packagesInNamespaces(paths);
}

/** The outermost ones below folders that are no packages themselves, see PEP 420. */
function packagesInNamespaces(paths: readonly string[]): readonly string[] {
	const folders = new Set(paths.filter((path) => path.endsWith(INIT)).map((path) => path.slice(0, -INIT.length)));
	const isInner = (parts: readonly string[]) => parts.some((_, depth) => folders.has(parts.slice(0, depth).join('/')));
	const found = [...folders].map((folder) => folder.split('/')).filter((parts) => !isInner(parts));
	const names = found.filter(({length}) => length <= NAMESPACE_DEPTH).map((parts) => parts.join('.'));
	return unique(names.filter(isModuleName)).slice(0, MAX_IN_NAMESPACES);
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

/** Whether a name is one to import: public, and not one that everybody has. */
export function isModuleName(name: string): boolean {
	return name.split('.').every((part) => MODULE_NAME.test(part) && !NOT_MODULES.has(part));
}

function unique(names: readonly string[]): readonly string[] {
	return [...new Set(names)].sort();
}
