/** Functions whose packages come from a store beneath the runtime's own. */
import {execFile} from 'node:child_process';
import {readdirSync} from 'node:fs';
import {rm, writeFile} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import {promisify} from 'node:util';
import test from 'ava';
import {createRuntime, openPackages} from '../../src/index.ts';
import {type ArchiveSpec, PackageIndex} from '../helpers/archives.ts';
import {refusal, rootTest, serialKernelTest} from '../helpers/kernel-test.ts';
import {LeakCheck} from '../helpers/leak-check.ts';
import {py, python, temporaryFolder} from '../helpers/runtime.ts';

// What the machine is configured to would be looked at besides the index of a test.
for (const name of Object.keys(process.env)) if (/^(?:PIP|UV)_.*(?:INDEX|LINKS)/.test(name)) delete process.env[name];

const leaks = refusal === undefined ? new LeakCheck() : undefined;
test.after.always('nothing is left when the runtimes are closed', (t) => leaks?.verify(t));

const helper: ArchiveSpec = {name: 'helper', version: '1.0', text: 'VALUE = "helper"\n'};
const lib: ArchiveSpec = {name: 'lib', version: '1.0', requires: ['helper'], text: 'import helper\nVERSION = "1.0"\n'};

rootTest('a function’s packages come partly from a shared store on a read-only mount', async (t) => {
	t.timeout(180_000);
	await using index = await PackageIndex.start([helper, lib]);
	const home = await temporaryFolder();
	t.teardown(() => rm(home, {recursive: true, force: true}));
	const [shared, stateDir] = [path.join(home, 'image'), path.join(home, 'state')];
	const image = await openPackages({dir: shared, python});
	await image.add([`--index-url ${index.url}`, 'helper']);
	await image.measured();
	await image.close();

	const code = py`
		import os, lib, helper

		def f(event):
			try:
				open(helper.__file__, 'a')
			except OSError as error:
				refused = error.errno
			return [lib.VERSION, helper.VALUE, lib.__file__, helper.__file__, refused]
	`;
	const program = `
		import {createRuntime} from '${path.join(import.meta.dirname, '../../src/index.ts')}';
		const runtime = await createRuntime({stateDir: '${stateDir}', sharedPackages: ['${shared}'], python: '${python}'});
		try {
			const files = {'f.py': ${JSON.stringify(code)}};
			const requirements = ['--index-url ${index.url}', 'lib'];
			const {packages, installed} = await runtime.deploy('f', files, {requirements});
			await runtime.deploy('cold', files, {requirements, zygote: false});
			const calls = [];
			for (const name of ['f', 'cold']) calls.push(await runtime.invoke(name, null));
			await runtime.packages.measured();
			const listed = (await runtime.packages.list()).map(({name, shared, cost, users}) => [name, shared, cost?.runs, users.length]);
			console.log(JSON.stringify({packages, installed, calls: calls.map(({value, start}) => [value, start]), listed}));
		} finally {
			await runtime.close();
		}
	`;
	const file = path.join(home, 'program.mts');
	await writeFile(file, program);
	// In a mount namespace of its own, so that no mount of ours is seen or left.
	const script = `mount --bind ${shared} ${shared} && mount -o remount,bind,ro ${shared} && ! touch ${shared}/file 2>&- && exec "$@"`;
	const argv = ['--mount', 'sh', '-ec', script, 'sh', process.execPath, '--import=tsx', file];
	const {stdout} = await promisify(execFile)('unshare', argv, {cwd: path.join(import.meta.dirname, '../..')});
	const {calls, listed, ...report} = JSON.parse(stdout);
	t.deepEqual(report, {packages: ['helper==1.0', 'lib==1.0'], installed: ['lib==1.0']});
	const seen = ['1.0', 'helper', '/packages/lib.py', '/packages/helper.py', 30]; // EROFS
	t.deepEqual(calls, [
		[seen, 'forked'],
		[seen, 'cold'],
	]);
	t.deepEqual(listed, [
		['helper', shared, 5, 0],
		['lib', null, 5, 2],
	]);
	const own = readdirSync(path.join(stateDir, 'packages'));
	const abi = own.find((name) => name.startsWith('cpython-')) ?? '';
	t.deepEqual(readdirSync(path.join(stateDir, 'packages', abi)), ['lib==1.0']);
});

serialKernelTest('what is no shared store, or no list of folders, ends the start', async (t) => {
	await t.throwsAsync(createRuntime({python, sharedPackages: ['/nowhere']}), {
		code: 'InvalidStore',
		message: /\/nowhere/,
	});
	await t.throwsAsync(createRuntime({python, sharedPackages: '/nowhere'} as never), {
		instanceOf: TypeError,
		message: /^sharedPackages: /,
	});
});
