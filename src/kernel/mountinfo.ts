/** Reads /proc/self/mountinfo, see proc(5). */

/** One line of it. */
export type Mount = {
	readonly root: string;
	readonly mountPoint: string;
	readonly type: string;
	readonly superOptions: readonly string[];
};

/** Undoes the octal escapes of blanks and backslashes. */
function unescapePath(text: string): string {
	return text.replaceAll(/\\([0-7]{3})/g, (_match, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}

/** Parses the whole file; lines that do not have the documented shape are left out. */
export function parseMountinfo(text: string): Mount[] {
	const mounts: Mount[] = [];
	for (const line of text.split('\n')) {
		const [before, after] = line.split(' - ', 2);
		const [, , , root, mountPoint] = before?.split(' ') ?? [];
		const [type, , superOptions] = after?.split(' ') ?? [];
		if (root === undefined || mountPoint === undefined || type === undefined || superOptions === undefined) continue;
		mounts.push({
			root: unescapePath(root),
			mountPoint: unescapePath(mountPoint),
			type,
			superOptions: superOptions.split(','),
		});
	}
	return mounts;
}
