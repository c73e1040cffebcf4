/** Memory as a file system that a sandbox can write to. */

/**
 * Mount options of a tmpfs. An inode costs about a kilobyte that no size limit counts.
 * @param mode of its top folder, in octal digits
 */
export function scratchOptions(megabytes: number, mode: '1777' | '755'): string {
	return `size=${Math.ceil(megabytes * 1024)}k,nr_inodes=${Math.round(megabytes * 256) + 64},mode=${mode}`;
}
