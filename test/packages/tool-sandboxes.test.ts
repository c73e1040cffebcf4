import {chmod, mkdir, readFile, rm, writeFile} from 'node:fs/promises';
import path from 'node:path';
import test from 'ava';
import {dir as temporaryDirectory} from 'tmp-promise';
import {ToolSandboxes} from '../../src/packages/tool-sandboxes.ts';
import {findInterpreter} from '../../src/sandbox/interpreter.ts';
import {kernelTest} from '../helpers/kernel-test.ts';

const interpreter = await findInterpreter();
const limits = {timeoutMs: 20_000, memoryMb: 256, scratchMb: 64, network: 'none'} as const;

kernelTest('tools see the interpreter where it is on the host, and run as nobody of the host', async (t) => {
	const tools = new ToolSandboxes(interpreter);
	try {
		const script = 'import os, sys; print(sys.executable, os.getuid() >= 1000)';
		const {stdout, stderr} = await tools.run([interpreter.executable, '-I', '-S', '-c', script], limits);
		t.is(stdout, `${interpreter.executable} True\n`, stderr);
	} finally {
		await tools.close();
	}
});

kernelTest('a folder that was made anew in the place of another is seen by the next run', async (t) => {
	const {path: work} = await temporaryDirectory({unsafeCleanup: true});
	const tools = new ToolSandboxes(interpreter);
	const source = path.join(work, 'folder');
	const mounts = [{source, target: '/folder'}];
	try {
		for (const text of ['one', 'two']) {
			await mkdir(source);
			await writeFile(path.join(source, 'file'), text);
			const both = [1, 2].map(() => tools.run(['cat', '/folder/file'], {...limits, mounts}));
			t.deepEqual(
				(await Promise.all(both)).map(({stdout}) => stdout),
				[text, text],
			);
			await rm(source, {recursive: true});
		}
	} finally {
		await tools.close();
		await rm(work, {recursive: true, force: true});
	}
});

kernelTest('what a tool writes to a folder of the host belongs to its own user', async (t) => {
	const {path: work} = await temporaryDirectory({unsafeCleanup: true});
	await chmod(work, 0o777);
	const tools = new ToolSandboxes(interpreter);
	try {
		const mounts = [{source: work, target: '/folder', readonly: false}];
		await tools.run(['sh', '-c', 'id -u > /folder/file'], {...limits, mounts});
		t.not((await readFile(path.join(work, 'file'), 'utf8')).trim(), '0');
	} finally {
		await tools.close();
		await rm(work, {recursive: true, force: true});
	}
});

test('a closed one runs nothing', async (t) => {
	const tools = new ToolSandboxes(interpreter);
	await tools.close();
	await t.throwsAsync(tools.run(['true'], limits), {code: 'RuntimeClosed'});
});
