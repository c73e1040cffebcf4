/** Names and passwords of package indexes: they stay in this process's memory, and in no text that is shown or kept. */

import {type Account, Keyring} from './keyring.ts';

/** What no text that is shown may hold: what stands between `//` and `@` in an address. */
const USER_INFO = /(?<=\/\/)[^/@\s'"]+(?=@)/g;
const MASK = '****';
/** Words that short would be masked where they mean something else. */
const MIN_SECRET = 4;

/** Remembers the credentials in addresses of indexes, for files of the same origin. */
export class Credentials {
	/** Asked for passwords when installers are configured to. */
	readonly #keyring: Keyring;
	readonly #byOrigin = new Map<string, string>();
	readonly #secrets = new Set<string>();
	/** Why there is no password, by origin. */
	readonly #problems = new Map<string, string>();

	constructor(keyring = new Keyring()) {
		this.#keyring = keyring;
	}

	/** Remembers those of an address, if it has any. @returns the address without them */
	learn(text: string): string {
		if (!URL.canParse(text)) return text;
		const url = new URL(text);
		if (url.username === '' && url.password === '') return text;
		this.set(url.origin, percentDecode(url.username), percentDecode(url.password));
		url.username = '';
		url.password = '';
		return url.href;
	}

	/** Remembers those of an index. A name alone takes the place of no password for that name. */
	set(url: string, username: string, password: string): void {
		const {origin} = new URL(url);
		this.addSecret(password === '' ? username : password);
		if (password === '' && this.#byOrigin.get(origin)?.startsWith(`${username}:`)) return;
		this.#byOrigin.set(origin, `${username}:${password}`);
	}

	/**
	 * Asks the keyring of this machine for the password of an index, and remembers it.
	 * @param url without credentials
	 * @param username undefined when it is to be asked for as well
	 */
	async ask(url: string, username: string | undefined, signal: AbortSignal): Promise<Account | undefined> {
		const {origin} = new URL(url);
		const {account, problem} = await this.#keyring.find(url, username, signal);
		if (problem === undefined) this.#problems.delete(origin);
		else this.#problems.set(origin, problem);
		if (account !== undefined) this.set(origin, account.username, account.password);
		return account;
	}

	/** Why passwords that the keyring was asked for are not known: of all indexes, or of that of a file. */
	problems(url?: string): readonly string[] {
		const origin = url === undefined ? undefined : new URL(url).origin;
		return [...this.#problems]
			.filter(([each]) => origin === undefined || each === origin)
			.map(([, problem]) => problem);
	}

	/** Never shows this word from now on. */
	addSecret(secret: string): void {
		for (const word of [secret, percentDecode(secret), encodeURIComponent(secret)])
			if (word.length >= MIN_SECRET) this.#secrets.add(word);
	}

	/** `name:password` for a file, of an index of the same origin; undefined when none is known. */
	for(url: string): string | undefined {
		return this.#byOrigin.get(new URL(url).origin);
	}

	/** The text without what is known to be secret, and without what looks like it. */
	mask(text: string): string {
		const masked = text.replace(USER_INFO, MASK);
		return [...this.#secrets].reduce((rest, secret) => rest.replaceAll(secret, MASK), masked);
	}
}

export function percentDecode(text: string): string {
	try {
		return decodeURIComponent(text);
	} catch {
		return text;
	}
}
