/**
 * A `keyring` program for an installer in a sandbox, which has no keyring: it answers what that of the host has answered. What it
 * answers with is in a variable of the installer's environment, so that it is in no file and in no argument list.
 */
import type {Account} from './keyring.ts';

/** The program's variable: lines of services, names and passwords, in turn. */
export const courierVariable = 'FORKTREE_KEYRING';

/** The program: `get SERVICE USERNAME` prints a password, `get SERVICE --mode creds` a name and a password. */
export const courierProgram = `#!/bin/sh
[ "$1" = get ] || exit 1
printf '%s' "$${courierVariable}" | {
	while IFS= read -r service && IFS= read -r username && IFS= read -r password; do
		case "\${2%/}/" in "$service"/*) ;; *) continue ;; esac
		case "$3" in
		"$username") printf '%s\\n' "$password" && exit ;;
		--mode) printf '%s\\n%s\\n' "$username" "$password" && exit ;;
		esac
	done
	exit 1
}
`;

/**
 * What the variable holds. The installer asks by the address of an index, or of a page below it, and then by the host: that is not
 * answered, since it does not say whether what is sent there is encrypted.
 */
export function courierText(answers: ReadonlyArray<readonly [url: string, account: Account]>): string {
	return answers.map(([url, {username, password}]) => `${url.replace(/\/$/, '')}\n${username}\n${password}\n`).join('');
}
