/** One program that runs in a sandbox: its streams, its limits, and how it ended. */

import {writeSync} from 'node:fs';
import net from 'node:net';
import {constants} from 'node:os';
import type {Readable} from 'node:stream';
import {readWaitStatus} from '../kernel/process.ts';
import {closeFd, pipe} from '../native.ts';
import {OutputPipe, OutputSink, openByName} from './output.ts';
import type {RunEnd} from './supervisor-protocol.ts';

const mebibyte = 1024 * 1024;
/** What fits into a pipe at once, see pipe(7). */
const pipeCapacity = 64 * 1024;

/** What a program reads. A stream is destroyed when the program has ended before it. */
export type ExecInput = string | Uint8Array | Readable;

/** Options of `sandbox.exec()`. */
export type ExecOptions = {
	/** Variables besides the sandbox's own. */
	readonly env?: Readonly<Record<string, string>>;
	/** Working folder; by default the sandbox's. */
	readonly cwd?: string;
	/** What it reads; by default nothing. */
	readonly stdin?: ExecInput;
	/** Deadline in milliseconds; by default the sandbox's `limits.timeoutMs`. */
	readonly timeoutMs?: number;
	/** CPU time in milliseconds; by default the sandbox's `limits.cpuMs`. */
	readonly cpuMs?: number;
	/** What it may print on each stream, in MiB; by default the sandbox's `limits.outputMb`. */
	readonly outputMb?: number;
	/** Ends it; the call then rejects with {@link ForktreeError} `Aborted`. */
	readonly signal?: AbortSignal;
	/** Called with what it prints, as it comes. */
	readonly onStdout?: (text: string) => void;
	readonly onStderr?: (text: string) => void;
};

/** Which limit or whose hand ended a run. */
export type ExecErrorCode = 'Timeout' | 'OutOfMemory' | 'CpuLimit' | 'Killed' | 'Evicted' | 'StartFailed';

/** Why a run did not end by itself. */
export type ExecError = {
	readonly code: ExecErrorCode;
	/** Names the limit and what was used. */
	readonly message: string;
	/** Which sandbox. */
	readonly sandbox: string;
	/** `start`: it never ran; `run`: it ran. */
	readonly phase: 'start' | 'run';
};

/** Limits that a run reached without being ended by them; `scratch`: what it could write to was full when it ended. */
export type ExecLimitHit = 'stdout' | 'stderr' | 'memory' | 'processes' | 'scratch';

/** How a run ended, and what it used. */
export type ExecResult = {
	/** Undefined when a signal ended it, or when it never ran. */
	readonly exitCode: number | undefined;
	/** The name of the signal that ended it. */
	readonly signal: string | undefined;
	readonly stdout: string;
	readonly stderr: string;
	/** Of its largest process, in MiB. */
	readonly peakMiB: number;
	/** CPU time of it and of the processes it waited for, in milliseconds. */
	readonly cpuMs: number;
	/** From asking until it had ended, in milliseconds. */
	readonly durationMs: number;
	/** Undefined when it ended by itself, however that was. */
	readonly error: ExecError | undefined;
	readonly limitsHit: readonly ExecLimitHit[];
};

/** The ends of the streams: ours, and what the program gets as 0, 1 and 2. */
export type RunStreams = {
	readonly stdin: number | undefined;
	readonly stdout: OutputPipe;
	readonly stderr: OutputPipe;
	readonly theirs: readonly number[];
};

/** @param nothing an fd to read nothing from; stays the caller's */
export function openStreams(hasInput: boolean, nothing: number): RunStreams {
	const open: number[] = [];
	try {
		const [stdoutRead, stdoutWrite] = pipe();
		open.push(stdoutRead, stdoutWrite);
		const [stderrRead, stderrWrite] = pipe();
		open.push(stderrRead, stderrWrite);
		const [inputRead, inputWrite] = hasInput ? pipe(true) : [nothing, undefined];
		if (inputWrite !== undefined) open.push(inputRead, inputWrite);
		for (const fd of [stdoutWrite, stderrWrite, ...(hasInput ? [inputRead] : [])]) openByName(fd);
		return {
			stdin: inputWrite,
			stdout: new OutputPipe(stdoutRead),
			stderr: new OutputPipe(stderrRead),
			theirs: [inputRead, stdoutWrite, stderrWrite],
		};
	} catch (error) {
		for (const fd of open) closeFd(fd);
		throw error;
	}
}

/**
 * Writes all of the input and closes the pipe. A program that does not read it is no failure.
 * @returns lets go what is not written yet, and a stream with it; to be called when the run has ended
 */
export function feed(fd: number, input: ExecInput): () => void {
	const isStream = typeof input !== 'string' && !(input instanceof Uint8Array);
	if (!isStream) {
		const bytes = Buffer.from(input as Uint8Array);
		if (bytes.length <= pipeCapacity) {
			try {
				if (bytes.length > 0) writeSync(fd, bytes);
			} catch (error) {
				if ((error as NodeJS.ErrnoException).code !== 'EPIPE') throw error; // it has ended already
			} finally {
				closeFd(fd);
			}
			return () => {};
		}
	}
	const socket = new net.Socket({fd, readable: false, writable: true});
	socket.on('error', () => undefined);
	if (!isStream) {
		socket.end(input);
		return () => socket.destroy();
	}
	input.once('error', () => socket.destroy());
	input.pipe(socket);
	return () => {
		socket.destroy();
		input.destroy();
	};
}

/** What had happened in a sandbox by then. */
export type RunCounts = {
	/** Processes that the kernel killed for want of memory. */
	readonly oomKills: number;
	/** Processes that were not started for the limit of them. */
	readonly refusals: number;
};

/** A run in progress. */
export class Run {
	readonly id: number;
	/** When it began. */
	readonly before: RunCounts;
	readonly result: Promise<ExecResult>;
	readonly #sandbox: string;
	readonly #streams: RunStreams;
	readonly #stdout: OutputSink;
	readonly #stderr: OutputSink;
	readonly #startedMs = performance.now();
	#settle!: (result: ExecResult) => void;
	#error: ExecError | undefined;
	#ended = false;

	constructor(
		id: number,
		sandbox: string,
		streams: RunStreams,
		outputMb: number,
		options: ExecOptions,
		before: RunCounts,
	) {
		this.id = id;
		this.before = before;
		this.#sandbox = sandbox;
		this.#streams = streams;
		this.#stdout = new OutputSink(outputMb * mebibyte, options.onStdout);
		this.#stderr = new OutputSink(outputMb * mebibyte, options.onStderr);
		streams.stdout.direct(this.#stdout);
		streams.stderr.direct(this.#stderr);
		this.result = new Promise((resolve) => {
			this.#settle = resolve;
		});
	}

	/** Notes why it is about to end; the first word counts. */
	blame(code: ExecErrorCode, message: string, phase: ExecError['phase'] = 'run'): void {
		this.#error ??= {code, message, sandbox: this.#sandbox, phase};
	}

	get isBlamed(): boolean {
		return this.#error !== undefined;
	}

	/** It has ended, or never began: `end` undefined. Answers the result the first time. */
	finish(end: RunEnd | undefined, limitsHit: readonly ExecLimitHit[] = []): ExecResult | undefined {
		if (this.#ended) return undefined;
		this.#ended = true;
		const {stdout, stderr} = this.#streams;
		for (const stream of [stdout, stderr]) {
			stream.drain();
			stream.close();
		}
		this.#stdout.end();
		this.#stderr.end();
		const ended = readWaitStatus(end?.status);
		if (ended.type === 'killed') this.blame('Killed', `it was killed by ${ended.signal}`);
		const hits = [...limitsHit];
		if (this.#stdout.cut) hits.push('stdout');
		if (this.#stderr.cut) hits.push('stderr');
		const result = {
			exitCode: ended.type === 'exited' ? ended.code : undefined,
			signal: ended.type === 'killed' ? ended.signal : undefined,
			stdout: this.#stdout.text,
			stderr: this.#stderr.text,
			peakMiB: (end?.peakKiB ?? 0) / 1024,
			cpuMs: (end?.userMs ?? 0) + (end?.systemMs ?? 0),
			durationMs: performance.now() - this.#startedMs,
			error: this.#error,
			limitsHit: hits,
		};
		this.#settle(result);
		return result;
	}
}

/** Whether a wait status is that of SIGKILL, by which the kernel also ends what exceeds its memory. */
export function isKilled(status: number): boolean {
	return (status & 0x7f) === constants.signals.SIGKILL;
}
