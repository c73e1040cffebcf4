import {existsSync, mkdirSync, rmSync, writeFileSync} from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import test from 'ava';
import {execa} from 'execa';
import {forceCleanup} from '../../src/index.ts';
import {StateDir} from '../../src/sandbox/state-dir.ts';

test('temporary folders are made, given back and swept by many processes at once', async (t) => {
	const module = new URL('../../src/sandbox/state-dir.ts', import.meta.url).href;
	const program = `
		import {mkdirSync, writeFileSync} from 'node:fs';
		import {StateDir} from ${JSON.stringify(module)};
		for (let turn = 0; turn < 300; turn += 1) {
			const state = StateDir.open();
			mkdirSync(state.path('packages'));
			for (const name of ['a', 'b', 'c']) writeFileSync(state.path('packages', name), '');
			state.close();
		}
	`;
	const args = ['--import=tsx', '--input-type=module', '--eval', program];
	await Promise.all(Array.from({length: 4}, () => execa(process.execPath, args, {timeout: 60_000})));
	t.pass();
});

test('a temporary folder without a lock is being made or removed: whoever sweeps adds nothing to it', async (t) => {
	const state = StateDir.open();
	const folder = path.join(path.dirname(state.directory), 'without-a-lock');
	t.teardown(() => {
		state.close();
		rmSync(folder, {recursive: true, force: true});
	});
	mkdirSync(folder);
	writeFileSync(path.join(folder, 'file'), '');
	const {paths} = await forceCleanup();
	t.false(paths.includes(folder));
	t.true(existsSync(path.join(folder, 'file')));
	t.false(existsSync(path.join(folder, 'lock')));
	rmSync(path.join(folder, 'file'));
	await forceCleanup();
	t.false(existsSync(folder));
});
