/** What the npm package is: what it holds, and that importing it is harmless everywhere. */
import {readdirSync, readFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import path from 'node:path';
import process from 'node:process';
import {fileURLToPath, pathToFileURL} from 'node:url';
import test from 'ava';
import {execa} from 'execa';

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');

/** Runs a program against the built package on what claims to be another system. */
async function runOn(platform: string, body: string) {
	const index = pathToFileURL(path.join(root, 'dist', 'index.js')).href;
	const program = `
		Object.defineProperty(process, 'platform', {value: ${JSON.stringify(platform)}});
		const load = process.dlopen;
		let loads = 0;
		process.dlopen = (...args) => { loads += 1; return load.apply(process, args); };
		const forktree = await import(${JSON.stringify(index)});
		${body}
	`;
	const env = {TEMP: tmpdir()}; // what Windows has
	const {stdout} = await execa(process.execPath, ['--input-type=module', '--eval', program], {env});
	return JSON.parse(stdout) as Record<string, unknown>;
}

for (const platform of ['darwin', 'win32', 'linux']) {
	test(`importing loads no native code on ${platform}`, async (t) => {
		const result = await runOn(platform, 'console.log(JSON.stringify({loads, names: Object.keys(forktree)}))');
		t.is(result.loads, 0);
		t.true((result.names as string[]).includes('createRuntime'));
	});
}

test('another system than Linux is a typed error, not an exception of the loader', async (t) => {
	const body = `
		const error = await forktree.createRuntime().catch((error) => error);
		console.log(JSON.stringify({loads, code: error.code, message: error.message, typed: error instanceof forktree.ForktreeError}));
	`;
	t.deepEqual(await runOn('darwin', body), {
		loads: 0,
		code: 'NotSupported',
		message: 'expected Linux 5.15 or later, got darwin',
		typed: true,
	});
});

test('the package holds what is needed at run time, and no tests', async (t) => {
	const {stdout} = await execa('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {cwd: root});
	const [{files}] = JSON.parse(stdout) as [{files: Array<{path: string}>}];
	const packed = files.map((file) => file.path);
	const guest = readdirSync(path.join(root, 'src', 'guest'), {recursive: true, encoding: 'utf8'}).filter((name) =>
		name.endsWith('.py'),
	);
	const needed = ['dist/index.js', 'dist/index.d.ts', 'dist/native.js', 'LICENSE.md', 'README.md', 'package.json'];
	for (const file of [...needed, ...guest.map((name) => `src/guest/${name}`)]) t.true(packed.includes(file), file);
	t.deepEqual(
		packed.filter((file) =>
			/^(test|bench|examples|docs|build|native\/bench|native\/fuzz|native\/tests|\.)|\.test\.|__pycache__|^src\/(?!guest\/)/.test(
				file,
			),
		),
		[],
	);
});

test('the package ships its prebuilt parts and is never built by an installation', (t) => {
	const {files, gypfile, scripts} = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as {
		files: string[];
		gypfile: boolean;
		scripts: Record<string, string>;
	};
	t.true(files.includes('prebuilds'));
	t.false(gypfile); // else npm would run node-gyp by itself
	for (const name of ['preinstall', 'install', 'postinstall', 'prepare']) t.is(scripts[name], undefined, name);
});
