/** `forktree run`: one function, one call. */
import {readFile} from 'node:fs/promises';
import process from 'node:process';
import {buffer} from 'node:stream/consumers';
import {createRuntime, type JsonValue, type Outcome, type OutcomeCode} from '../index.ts';
import {describeFailure, encodeValue, replaceBytes} from './answer.ts';
import {packagesFolder} from './packages-folder.ts';
import {exitCodes, Interrupts, note, print} from './terminal.ts';

export type RunOptions = {
	readonly event: string;
	readonly requirement: readonly string[];
	readonly env: readonly (readonly [string, string])[];
	readonly json?: boolean;
	readonly timeout?: number;
	readonly shared: readonly string[];
	readonly python?: string;
	readonly bestEffort?: boolean;
};

const failureCodes: Readonly<Record<OutcomeCode, number>> = {
	Evicted: exitCodes.forktree,
	Exited: exitCodes.handler,
	HandlerError: exitCodes.handler,
	ImportFailed: exitCodes.handler,
	Killed: exitCodes.killed,
	OutOfMemory: exitCodes.killed,
	ProtocolError: exitCodes.handler,
	ResultNotSerializable: exitCodes.handler,
	ResultTooLarge: exitCodes.handler,
	StartFailed: exitCodes.forktree,
	Timeout: exitCodes.timeout,
};
const name = 'run';

/** Answers the exit code. @throws what forktree itself fails at */
export async function run(source: string, options: RunOptions): Promise<number> {
	const event = await readEvent(options.event);
	const interrupts = new Interrupts();
	try {
		const outcome = await call(source, event, options, interrupts.signal);
		return outcome.ok ? exitCodes.ok : failureCodes[outcome.error.code];
	} catch (error) {
		if (interrupts.code === undefined) throw error;
		return interrupts.code;
	} finally {
		interrupts.close();
	}
}

async function call(source: string, event: JsonValue, options: RunOptions, signal: AbortSignal): Promise<Outcome> {
	const {requirement, env, timeout, shared, python, bestEffort = false} = options;
	const own = python === undefined ? {} : {python};
	const runtime = await createRuntime({packagesDir: packagesFolder(), sharedPackages: shared, bestEffort, ...own});
	// Ends an installation; whatever it fails with is reported by the close below.
	const giveUp = () => void runtime.close().catch(() => undefined);
	try {
		signal.addEventListener('abort', giveUp);
		signal.throwIfAborted();
		const {statedBy, ignoredSources} = await runtime.deploy(name, source, {
			env: Object.fromEntries(env),
			...(requirement.length === 0 ? {} : {requirements: requirement}),
		});
		if (ignoredSources.length > 0) note(`packages are those of ${statedBy}, not of ${ignoredSources.join(', ')}`);
		const log = (text: string) => void process.stderr.write(text);
		const outcome = await runtime.invoke(name, event, {
			signal,
			onStdout: log,
			onStderr: log,
			...(timeout === undefined ? {} : {timeoutMs: timeout}),
		});
		await printOutcome(outcome, options.json === true);
		return outcome;
	} finally {
		signal.removeEventListener('abort', giveUp);
		await runtime.close();
	}
}

async function printOutcome(outcome: Outcome, asJson: boolean): Promise<void> {
	if (!outcome.ok) await print(process.stderr, describeFailure(outcome.error));
	if (asJson) {
		await print(process.stdout, `${JSON.stringify(outcome, replaceBytes)}\n`);
	} else if (outcome.ok) {
		const {type, body} = encodeValue(outcome.value);
		await print(process.stdout, type === 'application/json' ? Buffer.concat([body, Buffer.from('\n')]) : body);
	}
}

async function readEvent(text: string): Promise<JsonValue> {
	const [origin, json] = await readText(text);
	try {
		return JSON.parse(json) as JsonValue;
	} catch (error) {
		throw new TypeError(`${origin}: expected JSON: ${error instanceof Error ? error.message : error}`);
	}
}

async function readText(text: string): Promise<readonly [origin: string, text: string]> {
	if (text === '-') return ['stdin', decode('stdin', await buffer(process.stdin))];
	if (!text.startsWith('@')) return ['--event', text];
	const file = text.slice(1);
	return [file, decode(file, await readFile(file))];
}

function decode(origin: string, bytes: Uint8Array): string {
	try {
		return new TextDecoder('utf-8', {fatal: true}).decode(bytes);
	} catch {
		throw new TypeError(`${origin}: expected UTF-8`);
	}
}
