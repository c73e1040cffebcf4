/** Asks the `keyring` program of this machine for passwords of package indexes, as installers do whose sandboxes don't have it. */
import {spawn} from 'node:child_process';
import process from 'node:process';

/** What an index is opened with. */
export type Account = {readonly username: string; readonly password: string};

/** What came of asking. */
export type KeyringAnswer = {
	/** Undefined: it has none. */
	readonly account: Account | undefined;
	/** Why not, without anything that the program has said. */
	readonly problem: string | undefined;
};

export type KeyringOptions = {
	/** How long the program may take, in milliseconds. */
	readonly timeoutMs?: number;
	/** For how long an answer is not asked for again, in milliseconds: it may be a token that expires. */
	readonly keepMs?: number;
};

const DEFAULT_TIMEOUT_MS = 20_000;
const DEFAULT_KEEP_MS = 60_000;
const MAX_BYTES = 16 * 1024;
/** No password is of several lines, or has a byte that no terminal shows. */
const LINE = /^[^\p{Cc}\uFFFD]+$/u;

/** The keyring program that `PATH` leads to, and what it has said lately. */
export class Keyring {
	readonly #timeoutMs: number;
	readonly #keepMs: number;
	readonly #kept = new Map<string, {readonly untilMs: number; readonly answer: KeyringAnswer}>();

	constructor({timeoutMs = DEFAULT_TIMEOUT_MS, keepMs = DEFAULT_KEEP_MS}: KeyringOptions = {}) {
		this.#timeoutMs = timeoutMs;
		this.#keepMs = keepMs;
	}

	/**
	 * Looks for the password of an index, by its address, and else by its host.
	 * @param url without a name and a password
	 * @param username undefined: the program is asked for it as well, which it knows how to answer from version 25.2.1 on
	 */
	async find(url: string, username: string | undefined, signal: AbortSignal): Promise<KeyringAnswer> {
		const key = JSON.stringify([url, username]);
		const kept = this.#kept.get(key);
		if (kept !== undefined && performance.now() < kept.untilMs) return kept.answer;
		const answer = await this.#ask([url, new URL(url).host], username, signal);
		if (!signal.aborted) this.#kept.set(key, {untilMs: performance.now() + this.#keepMs, answer});
		return answer;
	}

	async #ask(services: readonly string[], username: string | undefined, signal: AbortSignal): Promise<KeyringAnswer> {
		let problem: string | undefined;
		for (const service of services) {
			const words = username === undefined ? ['--mode', 'creds'] : [username];
			const ended = await run(['get', service, ...words], this.#timeoutMs, signal);
			const account = ended.stdout === undefined ? undefined : readAccount(ended.stdout, username);
			if (account !== undefined) return {account, problem: undefined};
			const why = ended.problem ?? 'did not answer with a password';
			problem = `the program keyring, asked for ${service}${username === undefined ? ' and a name' : ''}, ${why}`;
			if (ended.isFinal) break;
		}
		return {account: undefined, problem};
	}
}

/** What the program prints: a password, or a name and a password. */
function readAccount(stdout: string, username: string | undefined): Account | undefined {
	const lines = stdout.trimEnd().split(/\r?\n/);
	const [name, password, ...more] = username === undefined ? lines : [username, ...lines];
	if (name === undefined || password === undefined || more.length > 0) return undefined;
	return LINE.test(name) && LINE.test(password) ? {username: name, password} : undefined;
}

type Ended = {
	readonly stdout: string | undefined;
	readonly problem: string | undefined;
	/** Whether asking for something else would come to the same. */
	readonly isFinal: boolean;
};

/** Runs the program with our environment, which is where it finds its backend, and ends all that it has begun if it takes too long. */
async function run(argv: readonly string[], timeoutMs: number, signal: AbortSignal): Promise<Ended> {
	if (signal.aborted) return {stdout: undefined, problem: 'was not waited for', isFinal: true};
	const child = spawn('keyring', argv, {
		stdio: ['ignore', 'pipe', 'ignore'],
		detached: true, // a group of its own, which can be ended as a whole
		env: {...process.env, PYTHONIOENCODING: 'utf-8'},
	});
	const chunks: Buffer[] = [];
	let size = 0;
	return new Promise((resolve) => {
		const settle = (ended: Partial<Ended>): void => {
			clearTimeout(timer);
			signal.removeEventListener('abort', onAbort);
			child.stdout.destroy();
			resolve({stdout: undefined, problem: undefined, isFinal: false, ...ended});
		};
		const giveUp = (problem: string): void => {
			killGroup(child.pid);
			settle({problem, isFinal: true});
		};
		const onAbort = (): void => giveUp('was not waited for');
		const timer = setTimeout(() => giveUp(`took more than ${timeoutMs / 1000} seconds`), timeoutMs);
		signal.addEventListener('abort', onAbort, {once: true});
		child.on('error', ({message}) => settle({problem: `can not be run: ${message}`, isFinal: true}));
		child.stdout.on('data', (chunk: Buffer) => {
			size += chunk.length;
			if (size > MAX_BYTES) giveUp(`said more than ${MAX_BYTES} bytes`);
			else chunks.push(chunk);
		});
		child.on('close', (code, by) => {
			if (code === 0) settle({stdout: Buffer.concat(chunks).toString('utf8')});
			else settle({problem: `ended with ${by ?? `exit code ${code}`}`});
		});
	});
}

function killGroup(pid: number | undefined): void {
	if (pid === undefined) return;
	try {
		process.kill(-pid, 'SIGKILL');
	} catch {
		// it has ended
	}
}
