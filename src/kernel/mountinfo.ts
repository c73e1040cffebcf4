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
		// The first one: the name of a device may be a dash as well.
		const dash = line.indexOf(' - ');
		if (dash === -1) continue;
		const [, , , root, mountPoint] = line.slice(0, dash).split(' ');
		const [type, , superOptions] = line.slice(dash + 3).split(' ');
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
