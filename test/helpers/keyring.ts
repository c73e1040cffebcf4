/** A `keyring` program for tests. */
import {chmodSync, writeFileSync} from 'node:fs';
import path from 'node:path';

/**
 * Puts a program into a folder, for `PATH`.
 * @param body shell commands; `$1` and so on are what it is asked
 */
export function writeKeyring(folder: string, body: string): void {
	const file = path.join(folder, 'keyring');
	writeFileSync(file, `#!/bin/sh\n${body}\n`);
	chmodSync(file, 0o755);
}

/** One that answers with a password, for a service and a name. */
export function answering(service: string, username: string, password: string): string {
	return `[ "$*" = 'get ${service} ${username}' ] && exec printf '%s\\n' '${password}'\nexit 1`;
}
