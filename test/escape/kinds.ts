/** The kinds of sandboxes that every attempt is made in. */
import {randomBytes} from 'node:crypto';
import path from 'node:path';
import {
	createSandboxPool,
	type DeployOptions,
	type ExecResult,
	type JsonValue,
	type Outcome,
	type Sandbox,
	type SandboxOptions,
	type SandboxPool,
	type StartKind,
} from '../../src/index.ts';
import {isRoot} from '../helpers/kernel-test.ts';
import {type Fixture, python} from '../helpers/runtime.ts';
import {provideWheels} from '../helpers/wheels.ts';
import type {Answers} from './attempts.ts';
import type {HostFacts} from './host.ts';

/** The attempts, as a function's code. */
export const attemptsFolder = path.join(import.meta.dirname, 'attempts');

/** What the functions of a node require. */
export const packageName = 'forktree_fixture_escape';
provideWheels({[packageName]: {[`${packageName}.py`]: 'import os\nIMPORTED_BY = os.getpid()\n'}});

/** Small, so that bombs go off soon. */
const limits = {
	memoryMb: 96,
	processes: 16,
	openFiles: 64,
	scratchMb: 4,
	outputMb: 1,
	resultMb: 1,
	timeoutMs: 20_000,
};

const {resultMb: _, ...others} = limits;
const programLimits = {...others, timeoutMs: 5000};

/** Keeps secrets wherever a function can, and says how often it was called. */
const siblingCode = `
import ctypes, fcntl, os, socket
calls = 0
def keep(secret):
	global kept
	with open('/tmp/secret', 'w') as file:
		file.write(secret)
	lock = open('/tmp/lock', 'w')
	fcntl.lockf(lock, fcntl.LOCK_EX)
	abstract, server = socket.socket(socket.AF_UNIX), socket.create_server(('127.0.0.1', 4711))
	abstract.bind('\\0forktree-sibling')
	abstract.listen()
	libc = ctypes.CDLL(None)
	segment = libc.shmget(4711, 4096, 0o1666)
	assert segment >= 0
	kept = [secret.encode(), lock, abstract, server]
def f(event):
	global calls
	if calls == 0:
		keep(os.environ['SECRET'])
	calls += 1
	return calls
`;

export function makeSecret(): string {
	return `escape-secret-${randomBytes(16).toString('hex')}`;
}

export type Kind = {
	readonly title: string;
	/** Sandboxes that run when attempts are made, beside those of the attempts. */
	prepare(fixture: Fixture): Promise<void>;
	/** Makes attempts that leave their sandbox as it was, one after the other in one; answers the word of each. */
	runTogether(attempts: readonly string[], host: HostFacts): Promise<unknown>;
	/** Makes one that may end its sandbox; answers its word, or the code of what became of the call. */
	runAlone(attempt: string, host: HostFacts): Promise<string>;
	/** Of these answers those that apply to this kind, as they are here. */
	adapt(answers: Answers): Answers;
	/** Gives back what {@link prepare} made besides the fixture's. */
	close(): Promise<void>;
	/** Whether the sibling is the one it was, with the memory it had. */
	siblingIsWell(): Promise<boolean>;
};

/** An answer as the table has it: the attempt's word, or the code of how its sandbox ended. */
function describe(outcome: Outcome): string {
	if (!outcome.ok) return outcome.error.code;
	const {value, limitsHit} = outcome;
	const text = typeof value === 'string' ? value : Array.isArray(value) ? `${value.length} values` : `${typeof value}`;
	return [text, ...limitsHit.map((limit) => `${limit} was cut`)].join(', ');
}

/** Where an ordinary user's sandboxes answer otherwise: their id owns what the user does, and is the only one that they can name. */
const ofOwnUser: Answers = isRoot
	? {}
	: {
			'descriptors: the credentials of process 1 claimed on the channel': 'EINVAL',
			'set-uid: a file given to root': 'EINVAL',
			'write: /handler/f.py': 'EROFS',
		};

function pick(answers: Answers, from: Answers): Answers {
	return Object.fromEntries(Object.entries({...answers}).filter(([name]) => name in from));
}

/** Lists names that lead to the host, which so are refused. */
const network = {allow: ['listed.example:4712', '*.listed.example:4712']};

/** What names lead to. */
export async function lookUp(): Promise<readonly string[]> {
	return ['127.0.0.1'];
}

/** Somebody is there, who refuses. */
const ofNetwork: Answers = {
	'allow-list: the proxy asked for the host': '403',
	'allow-list: the proxy asked for the host, written otherwise': '400',
	'allow-list: the proxy asked for the host as IPv6': '403',
	'allow-list: the proxy asked for a page of the host': '403',
	'allow-list: the proxy asked for a metadata service': '403',
	'allow-list: the proxy asked for a listed name that leads to the host': '403',
	'allow-list: the proxy asked for a listed name with the host’s port': '403',
	'allow-list: the proxy asked twice in one breath': '403',
	'allow-list: a listed name’s address that leads to the host': 'ECONNRESET',
	'allow-list: a listed name’s port on loopback': 'ECONNRESET',
};

class FunctionKind implements Kind {
	readonly title: string;
	readonly #options: DeployOptions;
	readonly #start: StartKind;
	readonly #answers: Answers;
	#fixture: Fixture | undefined;
	#name = '';
	#sibling = '';
	#siblingCalls = 0;

	/**
	 * @param start how every sandbox of this kind starts, or goes on
	 * @param answers where they are not those of other functions
	 */
	constructor(title: string, start: StartKind, options: DeployOptions, answers: Answers = {}) {
		this.#answers = answers;
		this.title = title;
		this.#start = start;
		this.#options = {ownZygote: false, ...options, limits, reuse: start === 'warm'};
	}

	async prepare(fixture: Fixture): Promise<void> {
		this.#fixture = fixture;
		const id = this.title.replaceAll(/[^a-z]+/gi, '-');
		this.#name = `attempts-${id}`;
		this.#sibling = `sibling-${id}`;
		const secret = makeSecret();
		await fixture.runtime.deploy(this.#name, attemptsFolder, this.#options);
		await fixture.runtime.deploy(
			this.#sibling,
			{'f.py': siblingCode, 'secret.py': `SECRET = '${secret}'\n`},
			{...this.#options, reuse: true, env: {SECRET: secret}},
		);
		await this.siblingIsWell();
	}

	async runTogether(attempts: readonly string[], host: HostFacts): Promise<unknown> {
		const outcome = await this.#run({attempts, host});
		return outcome.ok ? outcome.value : outcome.error;
	}

	async runAlone(attempt: string, host: HostFacts): Promise<string> {
		return describe(await this.#run({alone: attempt, host}));
	}

	async siblingIsWell(): Promise<boolean> {
		this.#siblingCalls += 1;
		const outcome = await this.#runtime.invoke(this.#sibling, null);
		return outcome.ok && outcome.value === this.#siblingCalls;
	}

	adapt(answers: Answers): Answers {
		return {...answers, ...pick(ofOwnUser, answers), ...pick(this.#answers, answers)};
	}

	async close(): Promise<void> {}

	async #run(event: JsonValue): Promise<Outcome> {
		const runtime = this.#runtime;
		// What lies idle may be about to end, by an attempt before: then the next one is made, and lies idle.
		for (let calls = 0; this.#start === 'warm' && calls < 2; calls += 1) {
			if ((await runtime.invoke(this.#name, {attempts: []})).ok) break;
		}
		let outcome = await runtime.invoke(this.#name, event);
		for (let calls = 0; this.#options.ownZygote === true && !outcome.ownZygote && calls < 200; calls += 1) {
			outcome = await runtime.invoke(this.#name, event);
		}
		if (outcome.ownZygote !== this.#options.ownZygote) throw new Error('expected a zygote of its own, or none');
		// The next spare is made while nobody asks for one; what is attempted meanwhile is attempted again.
		for (let calls = 0; this.#options.spares === 0 && outcome.spare !== 'node' && calls < 50; calls += 1) {
			await new Promise(setImmediate);
			outcome = await runtime.invoke(this.#name, event);
		}
		if (this.#options.spares === 0 && outcome.spare !== 'node') throw new Error('expected a spare of the node');
		if (outcome.start !== this.#start) throw new Error(`expected a ${this.#start} start, got ${outcome.start}`);
		return outcome;
	}

	get #runtime(): Fixture['runtime'] {
		if (this.#fixture === undefined) throw new Error('expected a kind that was prepared');
		return this.#fixture.runtime;
	}
}

const program = `
import json, os, sys
sys.path.insert(0, '/attempts')
import f
event = json.load(sys.stdin)
answer = f.f(event)
os.write(2, bytes(1) + json.dumps(answer).encode())
`;

/** What has no meaning for a program: it has no channel, no handler, and answers nobody. */
const notOfPrograms = /^frames: |handler|leaf\.py|forktree_guest|\/packages|bomb: (?:the|an) answer|what the four are/;

/** Process 1 is not the program but ours, with the same user and closed to it; descriptor 3 is not open. */
const ofPrograms: Answers = {
	'paths: the host’s files through the root of process 1': 'EACCES',
	'paths: the root of every process': 'EACCES',
	'paths: up from the folder of process 1': 'EACCES',
	'setns: mount of process 1': 'EACCES',
	'/proc: other processes': '1',
	'signal: by the owner of the channel': 'EBADF',
	'signal: every low pid': 'reached',
	'signal: the parent': 'done',
	'descriptors: a folder above the open ones': 'EBADF, ENOTDIR',
	'descriptors: a pidfd of who is at the other end': 'EBADF',
	'descriptors: one passed to the host': 'ENOTSOCK',
	'descriptors: one received on the channel': 'EBADF',
	'descriptors: the channel opened again': 'ENOENT',
	'descriptors: the credentials of process 1 claimed on the channel': 'EBADF',
	'descriptors: who is at the other end of the channel': 'EBADF',
	'bomb: output of every child': 'no answer, stderr was cut',
	'bomb: stop itself': 'Timeout',
};

/** Who is root, though without capabilities, gives a file to nobody else. */
const ofRoot: Answers = {'set-uid: a file given to root': 'done'};

/** Whoever has a writable root writes to what only it sees. */
const ofWritable: Answers = {
	...ofRoot,
	'chmod: a file of the host': 'done',
	'chown: a file of the host': 'done',
	'set-uid: a file of one’s own': 'ENOEXEC',
	'times: of a file of the host': 'done',
	'truncate: a file of the host': 'done',
	'write: /etc/passwd': 'opened',
	'write: /usr/bin/env': 'opened',
	'write: a file in /': 'opened',
	'write: a file in /etc': 'opened',
	'write: a file in /usr': 'opened',
	'write: a file in /usr/bin': 'opened',
	'xattr: on a file of the host': 'done',
};

/** A program in a sandbox of a pool; what it answers is the end of its stderr. */
class ProgramKind implements Kind {
	readonly title: string;
	readonly #options: SandboxOptions;
	readonly #answers: Answers;
	#pool: SandboxPool | undefined;
	#sibling: Sandbox | undefined;

	/** @param answers where they are not those of other programs */
	constructor(title: string, options: SandboxOptions, answers: Answers) {
		this.title = title;
		this.#options = options;
		this.#answers = {...ofOwnUser, ...ofPrograms, ...answers};
	}

	async prepare(): Promise<void> {
		this.#pool = await createSandboxPool({
			lookup: lookUp,
			defaults: {limits: programLimits, mounts: [{source: attemptsFolder, target: '/attempts'}], ...this.#options},
		});
		this.#sibling = await this.#pool.create();
	}

	async close(): Promise<void> {
		await this.#pool?.close();
	}

	adapt(answers: Answers): Answers {
		const entries = Object.entries({...answers}).filter(([name]) => !notOfPrograms.test(name));
		return Object.fromEntries(entries.map(([name, answer]) => [name, this.#answers[name] ?? answer]));
	}

	async runTogether(attempts: readonly string[], host: HostFacts): Promise<unknown> {
		const result = await this.#run({attempts, host});
		return readAnswer(result) ?? result;
	}

	async runAlone(attempt: string, host: HostFacts): Promise<string> {
		const result = await this.#run({alone: attempt, host});
		if (result.error !== undefined) return result.error.code;
		const cut = result.limitsHit.filter((limit) => limit.startsWith('std')).map((limit) => `${limit} was cut`);
		return [String(readAnswer(result) ?? 'no answer'), ...cut].join(', ');
	}

	async siblingIsWell(): Promise<boolean> {
		const result = await this.#sibling?.exec(['true']);
		return result?.exitCode === 0;
	}

	async #run(event: JsonValue): Promise<ExecResult> {
		if (this.#pool === undefined) throw new Error('expected a kind that was prepared');
		const sandbox = await this.#pool.create();
		try {
			return await sandbox.exec([python, '-B', '-c', program], {stdin: JSON.stringify(event)});
		} finally {
			await sandbox.destroy();
		}
	}
}

function readAnswer({stderr}: ExecResult): unknown {
	const at = stderr.lastIndexOf('\0');
	return at < 0 ? undefined : JSON.parse(stderr.slice(at + 1));
}

/** Whoever adds a kind of sandbox adds it here; the attempts stay the same. */
export const kinds: readonly Kind[] = [
	new FunctionKind('fresh Python', 'cold', {zygote: false}),
	new FunctionKind('forked from the root zygote', 'forked', {}),
	new FunctionKind('forked from a node', 'forked', {requirements: [packageName]}),
	new FunctionKind('handed over by a node', 'forked', {requirements: [packageName], spares: 0}),
	new FunctionKind('forked from its own zygote', 'forked', {requirements: [packageName], ownZygote: true}),
	new FunctionKind('long parked', 'warm', {}),
	new FunctionKind(
		'handed over by a node, with an allow-list',
		'forked',
		{requirements: [packageName], spares: 0, network},
		ofNetwork,
	),
	new ProgramKind('fresh program', {}, {}),
	new ProgramKind('fresh program as root', {uid: 0}, ofRoot),
	new ProgramKind('fresh program with an allow-list', {network}, ofNetwork),
	...(isRoot ? [new ProgramKind('fresh program with a writable root', {writable: 'overlay'}, ofWritable)] : []),
];
