/** A name of a file or a device as /proc/self/mountinfo holds it. */
export function escapeName(name: string): string {
	return name.replaceAll(/[ \t\n\\#]/g, (each) => `\\${each.charCodeAt(0).toString(8).padStart(3, '0')}`);
}
