/** What deployed functions need: a file each in the store, which outlives the process that wrote it. */
import {createHash} from 'node:crypto';
import {existsSync} from 'node:fs';
import {rm} from 'node:fs/promises';
import path from 'node:path';
import {namesIn, readSmall, syncFolder} from './disk.ts';
import type {Layout} from './layout.ts';
import type {StoreLocks} from './locks.ts';
import {readUser, type UserRecord, writeUser} from './records.ts';
import {replaceFile} from './scratch.ts';

const FILE = /^[0-9a-f]{32}\.json$/;
const MAX_BYTES = 4 * 1024 * 1024;

/** The users of one store. */
export class Users {
	readonly #layout: Layout;
	readonly #locks: StoreLocks;

	constructor(layout: Layout, locks: StoreLocks) {
		this.#layout = layout;
		this.#locks = locks;
	}

	/** Notes which packages (relative to the store) a user needs; one of the same id is forgotten. */
	async set(id: string, manifestPath: string, packages: readonly string[]): Promise<void> {
		const absolute = path.resolve(manifestPath);
		const manifest = [absolute, path.relative(this.#layout.dir, absolute)] as const;
		const text = writeUser({id, manifest, packages});
		await this.#locks.withUsers(() => replaceFile(this.#layout, this.#layout.folder('users'), fileOf(id), text));
	}

	/** Forgets a user, if it is known. */
	async remove(id: string): Promise<void> {
		const folder = this.#layout.folder('users');
		await this.#locks.withUsers(async () => {
			await rm(path.join(folder, fileOf(id)), {force: true});
			await syncFolder(folder);
		});
	}

	/** Ids of users by package. A user whose manifest is gone needs nothing. */
	byPackage(): ReadonlyMap<string, readonly string[]> {
		const users = new Map<string, string[]>();
		for (const user of this.#read()) {
			if (!this.#counts(user)) continue;
			for (const each of user.packages) users.set(each, [...(users.get(each) ?? []), user.id]);
		}
		return users;
	}

	/** Names of what is no user's record. */
	foreign(): string[] {
		return namesIn(this.#layout.folder('users')).filter((name) => this.#readFile(name) === undefined);
	}

	#read(): UserRecord[] {
		return namesIn(this.#layout.folder('users')).flatMap((name) => this.#readFile(name) ?? []);
	}

	#readFile(name: string): UserRecord | undefined {
		if (!FILE.test(name)) return undefined;
		const text = readSmall(this.#layout.folder('users', name), MAX_BYTES);
		const user = text === undefined ? undefined : readUser(text);
		return user !== undefined && fileOf(user.id) === name ? user : undefined;
	}

	/** By either of its paths: the store may have been moved, alone or along with the functions. */
	#counts({manifest: [absolute, relative]}: UserRecord): boolean {
		return existsSync(absolute) || existsSync(path.join(this.#layout.dir, relative));
	}
}

function fileOf(id: string): string {
	return `${createHash('sha256').update(id).digest('hex').slice(0, 32)}.json`;
}
