/** Names and passwords of package indexes: they stay in this process's memory, and in no text that is shown or kept. */

/** What no text that is shown may hold: what stands between `//` and `@` in an address. */
const USER_INFO = /(?<=\/\/)[^/@\s'"]+(?=@)/g;
const MASK = '****';
/** Words that short would be masked where they mean something else. */
const MIN_SECRET = 4;

/** Remembers the credentials in addresses of indexes, for files of the same origin. */
export class Credentials {
	readonly #byOrigin = new Map<string, string>();
	readonly #secrets = new Set<string>();

	/** Remembers those of an address, if it has any. @returns the address without them */
	learn(text: string): string {
		if (!URL.canParse(text)) return text;
		const url = new URL(text);
		if (url.username === '' && url.password === '') return text;
		this.#byOrigin.set(url.origin, `${decode(url.username)}:${decode(url.password)}`);
		this.addSecret(url.password === '' ? url.username : url.password);
		url.username = '';
		url.password = '';
		return url.href;
	}

	/** Never shows this word from now on. */
	addSecret(secret: string): void {
		for (const word of [secret, decode(secret)]) if (word.length >= MIN_SECRET) this.#secrets.add(word);
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

function decode(text: string): string {
	try {
		return decodeURIComponent(text);
	} catch {
		return text;
	}
}
