/** Which folders of a function's code imports look in, besides the code's own: code that others wrote. */

/** For code that is brought along. */
const vendored = ['vendor', 'packages'] as const;

/**
 * Answers them in the order in which they are looked in, relative to the code's folder, which is not among them. A vendored folder
 * that is a package is imported as one.
 * @param files the paths of all files
 */
export function importPath(files: readonly string[]): string[] {
	return vendored.filter((folder) => {
		return files.some((file) => file.startsWith(`${folder}/`)) && !files.includes(`${folder}/__init__.py`);
	});
}
