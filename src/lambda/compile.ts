/** Compiles deployed Python files, in a sandbox: the compiler, too, sees untrusted text. */
import {chmodSync, mkdirSync, writeFileSync} from 'node:fs';
import path from 'node:path';
import {ForktreeError} from '../errors.ts';
import {withDeadline} from '../kernel/deadline.ts';
import type {FramePayload} from '../kernel/frames.ts';
import type {CgroupPool} from '../sandbox/cgroup-pool.ts';
import type {Leaf} from '../sandbox/leaf.ts';
import {defaultLimits} from '../sandbox/limits.ts';
import type {LockedFolder} from '../sandbox/mounts.ts';
import {frameType} from '../zygote/protocol.ts';
import {pythonLeaf} from '../zygote/python-leaf.ts';
import type {Zygote} from '../zygote/zygote.ts';

const compileDeadlineMs = 60_000;
/** Byte code is a few times the size of its source. */
const maxFrame = 256 * 1024 * 1024;
const limits = {...defaultLimits, memoryMb: 1024, swapMb: 0};

/** Where Python looks for the byte code of a source file. */
function bytecodePath(file: string, cacheTag: string): string {
	const {dir, name} = path.parse(file);
	return path.join(dir, '__pycache__', `${name}.${cacheTag}.pyc`);
}

function syntaxError(payload: FramePayload): ForktreeError {
	const {file, line, message} = JSON.parse(String(payload)) as Record<string, unknown>;
	return new ForktreeError(
		'InvalidSyntax',
		`${String(file)}${typeof line === 'number' ? `:${line}` : ''}: ${String(message)}`,
	);
}

/** What the sandbox answers: the byte code of each file in order. */
async function answers(leaf: Leaf): Promise<Buffer[]> {
	const codes: Buffer[] = [];
	const done = new Promise<void>((resolve, reject) => {
		leaf.listen({
			frame(type, payload) {
				if (type === frameType.chunkBytes && typeof payload !== 'string') codes.push(payload);
				else if (type === frameType.compiled) resolve();
				else if (type === frameType.failed) reject(syntaxError(payload));
				else reject(new ForktreeError('InvalidSyntax', 'compiling the code failed'));
			},
			broken: () =>
				reject(
					new ForktreeError(
						'InvalidSyntax',
						`compiling the code took more than ${limits.memoryMb} MiB, or crashed Python`,
					),
				),
		});
	});
	await withDeadline(
		done,
		compileDeadlineMs,
		() => new ForktreeError('InvalidSyntax', `compiling the code took longer than ${compileDeadlineMs} ms`),
	);
	return codes;
}

/**
 * Writes the byte code of each file beside it.
 * @param directory the staged code, which `code` is the locked folder of
 * @throws {ForktreeError} `InvalidSyntax` naming file and line
 */
export async function compileCode(
	directory: string,
	files: readonly string[],
	cacheTag: string,
	root: Zygote,
	code: LockedFolder,
	cgroups: CgroupPool,
): Promise<void> {
	const {leaf, born} = await root.forkLeaf({
		...pythonLeaf(code, undefined),
		takeCgroup: () => cgroups.take(limits),
		scratchMb: 1,
		noNewExecutables: false,
		openFiles: limits.openFiles,
		maxFrame,
		greet: (made) => made.send(frameType.compile, JSON.stringify(files)),
	});
	try {
		const answered = answers(leaf);
		answered.catch(() => undefined); // what hindered its birth is told instead
		await born();
		const codes = await answered;
		for (const [index, file] of files.entries()) {
			const target = path.join(directory, bytecodePath(file, cacheTag));
			// Synchronous: to leave Node's thread and come back takes longer than each of these.
			mkdirSync(path.dirname(target), {recursive: true});
			writeFileSync(target, codes[index] ?? Buffer.alloc(0));
			// Sandboxes run as another user, and the umask may have been strict.
			chmodSync(path.dirname(target), 0o755);
			chmodSync(target, 0o644);
		}
	} finally {
		await leaf.destroy();
	}
}
