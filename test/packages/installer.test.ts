import {mkdir, readdir, rm, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import test from 'ava';
import {dir as temporaryDirectory} from 'tmp-promise';
import {ForktreeError} from '../../src/errors.ts';
import {findInstaller} from '../../src/packages/installer.ts';
import {parseRequirements} from '../../src/packages/requirements.ts';
import {PackageStore} from '../../src/packages/store.ts';
import {findInterpreter} from '../../src/sandbox/interpreter.ts';

const interpreter = await findInterpreter('/usr/bin/python3');
// Set where there is no package index; everything else about the store is tested without one.
const online = process.env.FORKTREE_TEST_OFFLINE === undefined ? test.serial : test.serial.skip;

online('installs a package of the index', async (t) => {
	const {path} = await temporaryDirectory({unsafeCleanup: true});
	t.teardown(() => rm(path, {recursive: true, force: true}));
	const set = await new PackageStore({dir: path, interpreter}).install(parseRequirements('six==1.16.0'));
	t.deepEqual(set.distributions, [{name: 'six', version: '1.16.0', modules: ['six']}]);
	t.deepEqual(await readdir(join(set.folders[0] ?? '', '__pycache__')), [`six.${interpreter.cacheTag}.pyc`]);
});

test.serial('says what to do when there is no installer', async (t) => {
	const path = process.env.PATH;
	process.env.PATH = '/nonexistent';
	try {
		await t.throwsAsync(findInstaller({...interpreter, executable: '/bin/false'}), {
			instanceOf: ForktreeError,
			code: 'InstallFailed',
			message: /install uv, or .*apt-get install python3-pip/,
		});
	} finally {
		process.env.PATH = path;
	}
});

test.serial('keeps only the end of what a failing installer says, without passwords', async (t) => {
	const {path} = await temporaryDirectory({unsafeCleanup: true});
	t.teardown(() => rm(path, {recursive: true, force: true}));
	const targetDir = join(path, 'site');
	const requirementsFile = join(path, 'requirements.txt');
	const uv = join(path, 'uv');
	await mkdir(targetDir);
	await writeFile(requirementsFile, 'fine-name==1\nother==2\n');
	const script = `#!/bin/sh
[ "$1" = --version ] && exit 0
head -c 300000 /dev/zero | tr '\\0' x >&2
echo >&2
echo "no Fine_Name at http://user:secret@localhost/; another is well" >&2
exit 3
`;
	await writeFile(uv, script, {mode: 0o755});
	const before = process.env.PATH;
	process.env.PATH = `${path}:${before}`;
	t.teardown(() => {
		process.env.PATH = before;
	});
	const installer = await findInstaller(interpreter);
	t.is(installer.name, 'uv');
	const error = await t.throwsAsync(installer.install({requirementsFile, targetDir}), {code: 'InstallFailed'});
	t.regex(error?.message ?? '', /^could not install fine-name==1: uv ended with exit code 3\nx+\nno Fine_Name/);
	t.true((error?.message.length ?? 0) < 4096 + 100);
	t.false(error?.message.includes('secret'));
	t.deepEqual((await readdir(path)).sort(), ['requirements.txt', 'site', 'uv']);
});
