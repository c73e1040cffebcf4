/** The path of a call: the function's name, and what is the function's own business. */

/** A URL below `/run`, taken apart. What is percent-encoded stays so, but in the name. */
export type CallPath = {
	/** Empty when there is none. */
	readonly name: string;
	/** Where the function is mounted: `/run/NAME`. */
	readonly root: string;
	/** The rest: empty, or beginning with a slash. */
	readonly path: string;
	/** Without the question mark. */
	readonly query: string;
};

/** @param mount the path below which names are, for example `/run/` */
export function parseCallPath(url: string, mount: string): CallPath {
	const mark = url.indexOf('?');
	const pathname = mark < 0 ? url : url.slice(0, mark);
	const slash = pathname.indexOf('/', mount.length);
	const encoded = pathname.slice(mount.length, slash < 0 ? undefined : slash);
	const name = encoded.includes('%') ? decode(encoded) : encoded;
	return {
		name,
		root: mount + name,
		path: slash < 0 ? '' : pathname.slice(slash),
		query: mark < 0 ? '' : url.slice(mark + 1),
	};
}

/** What can't be decoded is no function's name as it stands. */
function decode(text: string): string {
	try {
		return decodeURIComponent(text);
	} catch {
		return text;
	}
}
