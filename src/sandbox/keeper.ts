/**
 * The keeper process, seen from here: it holds forktree's private mount namespace, so that nothing is ever mounted in
 * the host's. It answers one request after the other.
 */
import {getSystemErrorName} from 'node:util';
import {ForktreeError, SyscallError} from '../errors.ts';
import {withDeadline} from '../kernel/deadline.ts';
import {Process} from '../kernel/process.ts';
import {closeFd, type NativeEndpoint, socketPair, spawnProgram, watch} from '../native.ts';
import {type Identity, mapGivenIds} from './identity.ts';
import type {IdRange} from './uid-range.ts';

const answerDeadlineMs = 10_000;

type Answer = {readonly words: readonly string[]; readonly fds: readonly number[]};
type Waiter = {resolve(answer: Answer): void; reject(error: Error): void};

/** A root zygote's first process. */
/** What may be done with a folder of the host; `data`: writable, and nothing in it can be executed. */
export const folderAccesses = ['readonly', 'writable', 'data'] as const;
export type FolderAccess = (typeof folderAccesses)[number];

export type SpawnedRoot = {readonly init: Process};

/** What a root zygote is made of: operations that assemble its root, and the program that runs in it. */
export type RootPlan = {
	/**
	 * `bind`, `copy` or `program` (an executable copy) SOURCE TARGET, `overlay` LOWERS TARGET, `file` or `link` TEXT TARGET,
	 * `dir` '' TARGET, `device` '' PATH.
	 */
	readonly operations: ReadonlyArray<
		readonly ['bind' | 'copy' | 'program' | 'overlay' | 'file' | 'link' | 'dir' | 'device', string, string]
	>;
	readonly argv: readonly string[];
	readonly environment: Readonly<Record<string, string>>;
	/** Whether it has the host's network instead of one of its own. */
	readonly sharedNetwork: boolean;
	/** Where writes to anything in it go: a tmpfs with these mount options, or a folder. Undefined: it is read-only. */
	readonly writable: {readonly kind: 'tmpfs' | 'folder'; readonly where: string} | undefined;
};

/** Of every machine, without effect beyond the sandbox. */
export const defaultDevices = ['null', 'zero', 'full', 'random', 'urandom', 'tty'] as const;

/** Operations for devices, by their names below /dev. */
export function planDevices(names: readonly string[]): Array<RootPlan['operations'][number]> {
	return names.map((name) => ['device', '', `/dev/${name}`]);
}

/** What a root zygote is handed: its control socket, the read end of the liveness pipe, and its stderr. */
export type RootFds = {readonly control: number; readonly liveness: number; readonly errors: number};

/** What the keeper is told of the user namespace that it is to make. */
const userNamespaceOf = {root: [], own: ['one'], subordinate: ['mapped']} as const;

/** Owns the keeper process. */
export class Keeper {
	readonly #process: Process;
	readonly #socket: NativeEndpoint;
	readonly #waiters: Waiter[] = [];
	/** A folder that it covers in its own mount namespace. */
	readonly #mountPoint: string;
	#reason: Error | undefined;

	/** @param mountPoint an empty folder that the keeper covers in its own mount namespace */
	private constructor(mountPoint: string, {kind}: Identity) {
		this.#mountPoint = mountPoint;
		const [ours, theirs] = socketPair(true);
		try {
			const {pidfd} = spawnProgram(
				'keeper',
				['forktree-keeper', mountPoint, ...userNamespaceOf[kind]],
				[0, 2, 2, theirs],
			);
			this.#process = new Process(pidfd);
		} catch (error) {
			closeFd(ours);
			throw error;
		} finally {
			closeFd(theirs);
		}
		this.#socket = watch(ours, 'packets', (event, data, fds) => this.#receive(event, data, fds));
		void this.#process.ended.then(() => this.#process.reap());
	}

	/**
	 * Starts a keeper and moves it to its cgroup.
	 * @param identity as whom: who is not root has a user namespace made for it
	 * @param groups open `tasks` or `cgroup.procs` files of the group that it and the zygotes belong to
	 * @param freezer a folder whose groups it thaws in the end, since what is frozen in them could not end
	 * @throws {SyscallError} for example EPERM without root.
	 */
	static async start(
		mountPoint: string,
		identity: Identity,
		groups: readonly number[],
		freezer?: string,
	): Promise<Keeper> {
		const keeper = new Keeper(mountPoint, identity);
		try {
			await keeper.#answer();
			if (identity.kind === 'subordinate') await keeper.#map(identity);
			await keeper.#ask(freezer === undefined ? ['join'] : ['join', freezer], groups);
			return keeper;
		} catch (error) {
			await keeper.close();
			throw error;
		}
	}

	async #map(identity: Identity & {kind: 'subordinate'}): Promise<void> {
		const pid = this.#process.pid();
		if (pid === undefined) throw new ForktreeError('SandboxDead', 'the keeper process ended');
		await mapGivenIds(pid, identity);
		await this.#ask(['mapped']);
	}

	/**
	 * Makes a copy of a folder's mount, whose flags nobody below a user namespace can clear: read-only, writable, or of data,
	 * which is writable and can't be executed.
	 * @returns where it is in the keeper's mount namespace, for roots that it makes
	 */
	async lock(id: string, directory: string, access: FolderAccess = 'readonly'): Promise<string> {
		await this.#ask([access === 'readonly' ? 'lock' : `lock-${access}`, id, directory]);
		return `${this.#mountPoint}/${id}`;
	}

	/** As {@link lock}, of a file, which no link leads to. */
	async lockFile(id: string, file: string): Promise<void> {
		await this.#ask(['lock-file', id, file]);
	}

	/** As {@link lock}, of several folders seen as one, read-only; of what more than one of them has, the first one's is seen. */
	async lockLayers(id: string, directories: readonly string[]): Promise<string> {
		const [only, ...others] = directories;
		if (only !== undefined && others.length === 0) return this.lock(id, only);
		await this.#ask(['lock-layers', id, ...directories]);
		return `${this.#mountPoint}/${id}`;
	}

	/** Forgets a locked folder or file. Clones that were handed out live on. */
	async unlock(id: string): Promise<void> {
		if (this.#reason !== undefined) return; // with the keeper its mounts have gone
		await this.#ask(['unlock', id]);
	}

	/** A detached mount of a locked folder, as an fd for one sandbox; the caller closes it. */
	async clone(id: string): Promise<number> {
		const {fds} = await this.#ask(['clone', id]);
		return expectFd(fds);
	}

	/**
	 * Tries something in a throw-away child, see native/keeper/probe.cc.
	 * @returns what was found, if there is more to say than that it works
	 * @throws {SyscallError} naming the step that the kernel refused
	 */
	async probe(name: string, ...parameters: ReadonlyArray<string | number>): Promise<readonly string[]> {
		const {words} = await this.#ask(['probe', name, ...parameters.map(String)]);
		return words;
	}

	/** Makes a root zygote in namespaces of its own. The fds stay the caller's. */
	async spawnRoot(plan: RootPlan, ids: IdRange, fds: RootFds): Promise<SpawnedRoot> {
		const environment = Object.entries(plan.environment).map(([name, value]) => `${name}=${value}`);
		const words = ['spawn', String(ids.start), String(ids.count)];
		if (plan.sharedNetwork) words.push('share', 'network', '/');
		if (plan.writable !== undefined) words.push('writable', plan.writable.kind, plan.writable.where);
		for (const operation of plan.operations) words.push(...operation);
		words.push('exec', String(plan.argv.length), ...plan.argv, ...environment);
		const answer = await this.#ask(words, [fds.control, fds.liveness, fds.errors]);
		return {init: new Process(expectFd(answer.fds))};
	}

	/** Lets the keeper end, and waits for it. */
	async close(): Promise<void> {
		this.#fail(new ForktreeError('RuntimeClosed', 'the keeper was closed'));
		this.#socket.close();
		await withDeadline(this.#process.ended, answerDeadlineMs, () => {
			this.#process.signal('SIGKILL');
			return new ForktreeError('SandboxDead', 'the keeper did not end in time and was killed');
		});
		this.#process.close();
	}

	async #ask(words: readonly string[], fds: readonly number[] = []): Promise<Answer> {
		if (this.#reason !== undefined) throw this.#reason;
		for (const word of words) {
			if (word.includes('\0')) throw new TypeError(`expected text without NUL, got ${JSON.stringify(word)}`);
		}
		const sent = this.#socket.send(Buffer.from(`${words.join('\0')}\0`), fds);
		if (sent < 0) throw new SyscallError(`ask the keeper to ${words[0]}`, sent, getSystemErrorName(sent));
		return this.#answer();
	}

	async #answer(): Promise<Answer> {
		const answer = new Promise<Answer>((resolve, reject) => {
			this.#waiters.push({resolve, reject});
		});
		// A late answer would be taken for the next request's: so a keeper that is late is a keeper that is gone.
		return withDeadline(answer, answerDeadlineMs, () => {
			const error = new ForktreeError('SandboxDead', `the keeper did not answer within ${answerDeadlineMs} ms`);
			this.#process.signal('SIGKILL');
			this.#fail(error);
			return error;
		});
	}

	#receive(event: 0 | 1 | 2 | 3, data: Buffer | string | number | undefined, fds: number[] = []): void {
		if (event !== 0 || !Buffer.isBuffer(data)) {
			this.#fail(new ForktreeError('SandboxDead', 'the keeper process ended'));
			return;
		}
		const [verdict, ...words] = data.toString('utf8').replace(/\0$/, '').split('\0');
		const waiter = this.#waiters.shift();
		if (waiter === undefined || verdict !== 'ok') for (const fd of fds) closeFd(fd);
		if (verdict === 'ok') {
			waiter?.resolve({words, fds});
			return;
		}
		const [step = 'unknown step', errno = '0', where = ''] = words;
		const number = -Number(errno);
		const hint =
			number === -1 ? 'it takes root’s rights (CAP_SYS_ADMIN), or a user namespace that gives them' : undefined;
		waiter?.reject(
			new SyscallError(
				step,
				number,
				number === 0 ? 'unknown' : getSystemErrorName(number),
				where === '' ? undefined : where,
				hint,
			),
		);
	}

	#fail(error: Error): void {
		this.#reason ??= error;
		for (const waiter of this.#waiters.splice(0)) waiter.reject(error);
	}
}

function expectFd(fds: readonly number[]): number {
	const [fd] = fds;
	if (fd === undefined) throw new ForktreeError('SandboxDead', 'the keeper answered without an fd');
	return fd;
}
