/** Sandboxes for the steps of an installation that the tests of one file share, and folders as the store gives them. */
import {chmod, mkdir, rm} from 'node:fs/promises';
import path from 'node:path';
import test, {type ExecutionContext} from 'ava';
import type {Workshop} from '../../src/packages/guest-script.ts';
import type {LockedDistribution} from '../../src/packages/lock.ts';
import {ToolSandboxes} from '../../src/packages/tool-sandboxes.ts';
import {findInterpreter} from '../../src/sandbox/interpreter.ts';
import {refusal} from './kernel-test.ts';
import {LeakCheck} from './leak-check.ts';
import {python, temporaryFolder} from './runtime.ts';

/** Opened before the tests of this file, closed after them. */
export function useWorkshop(): () => Workshop {
	let workshop: (Workshop & {readonly tools: ToolSandboxes}) | undefined;
	let leaks: LeakCheck | undefined;
	test.serial.before(async () => {
		if (refusal !== undefined) return;
		leaks = new LeakCheck();
		const interpreter = await findInterpreter(python);
		workshop = {interpreter, tools: new ToolSandboxes(interpreter)};
	});
	test.after.always('nothing is left when the sandboxes are closed', async (t) => {
		await workshop?.tools.close();
		leaks?.verify(t);
	});
	return () => {
		if (workshop === undefined) throw new Error('expected a workshop: it is opened before the first test');
		return workshop;
	};
}

/** Folders of one test. */
export type Bench = {
	/** Readable for everybody: archives. */
	readonly archives: string;
	/** Empty and writable for everybody, in a folder that is only for root. */
	readonly folder: string;
};

export async function makeBench(t: ExecutionContext): Promise<Bench> {
	const root = await temporaryFolder();
	t.teardown(() => rm(root, {recursive: true, force: true}));
	const [archives, folder] = [path.join(root, 'archives'), path.join(root, 'files')];
	await mkdir(archives);
	await mkdir(folder);
	await chmod(folder, 0o777);
	return {archives, folder};
}

/** What a lock says of an archive that nobody downloads. */
export function locked(name: string, version: string, file: string): LockedDistribution {
	const kind = file.endsWith('.whl') ? 'wheel' : 'sdist';
	const archive = {kind, file: path.basename(file), url: 'file:', sha256: '', sizeBytes: undefined} as const;
	return {name, version, archive};
}
