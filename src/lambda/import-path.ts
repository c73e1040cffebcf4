/** Which folders of a function's code imports look in, besides the code's own: code that others wrote, or that is a package. */
import type {EditablePackage} from '../packages/editable.ts';

/** For code that is brought along. */
const vendored = ['vendor', 'packages'] as const;

/**
 * Answers them in the order in which they are looked in, each once, relative to the code's folder, which is not among them. A vendored
 * folder that is a package is imported as one.
 * @param files the paths of all files
 */
export function importPath(files: readonly string[], editables: readonly EditablePackage[]): string[] {
	const folders = vendored.filter((folder) => {
		return files.some((file) => file.startsWith(`${folder}/`)) && !files.includes(`${folder}/__init__.py`);
	});
	const roots = editables.map(({importRoot}) => importRoot).filter((root) => root !== '');
	return [...new Set([...folders, ...roots])];
}
