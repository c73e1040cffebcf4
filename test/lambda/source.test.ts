import {execFileSync, spawn} from 'node:child_process';
import {createHash} from 'node:crypto';
import {chmod, lstat, mkdir, mkdtemp, readdir, readFile, realpath, rm, symlink, writeFile} from 'node:fs/promises';
import {createServer} from 'node:net';
import {tmpdir} from 'node:os';
import {dirname, join} from 'node:path';
import {gzipSync} from 'node:zlib';
import test, {type ExecutionContext} from 'ava';
import fc from 'fast-check';
import {create, Header, type HeaderData, Pax} from 'tar';
import {type ErrorCode, ForktreeError, SyscallError} from '../../src/errors.ts';
import {type DeploySource, type StageOptions, stageSource as stageFor} from '../../src/lambda/source.ts';
import {noRequirements} from '../../src/packages/requirements.ts';

function stageSource(source: DeploySource, targetDir: string, options?: StageOptions) {
	return stageFor(source, targetDir, {version: '3.11.2'}, options);
}

/** Two folders that end with the test: one for sources, and one that only ever holds the target. */
type Area = {readonly source: string; readonly parent: string; readonly target: string};

async function makeArea(t: ExecutionContext): Promise<Area> {
	const folder = await realpath(await mkdtemp(join(tmpdir(), 'forktree-source-')));
	t.teardown(() => rm(folder, {recursive: true, force: true}));
	const area = {source: join(folder, 'source'), parent: join(folder, 'parent'), target: join(folder, 'parent', 'code')};
	await mkdir(area.source);
	await mkdir(area.parent);
	return area;
}

async function writeTree(folder: string, files: Readonly<Record<string, string | Uint8Array>>): Promise<void> {
	for (const [path, content] of Object.entries(files)) {
		await mkdir(dirname(join(folder, path)), {recursive: true});
		await writeFile(join(folder, path), content);
	}
}

/** Every path below a folder with its mode, and every file's content. */
async function readTree(folder: string): Promise<Record<string, string>> {
	const tree: Record<string, string> = {};
	for (const entry of (await readdir(folder, {recursive: true})).sort()) {
		const stats = await lstat(join(folder, entry));
		const mode = stats.mode.toString(8);
		tree[entry] = stats.isFile() ? `${mode} ${await readFile(join(folder, entry), 'latin1')}` : mode;
	}
	return tree;
}

type Refusal = {readonly code: ErrorCode; readonly message?: RegExp};

async function refused(
	t: ExecutionContext,
	area: Area,
	source: DeploySource,
	expected: Refusal,
	options?: StageOptions,
) {
	const error = await t.throwsAsync(stageSource(source, area.target, options), {instanceOf: ForktreeError});
	t.is(error?.code, expected.code, error?.message);
	if (expected.message !== undefined) t.regex(error?.message ?? '', expected.message);
	t.deepEqual(await readdir(area.parent), [], 'nothing is left behind');
}

type Entry = HeaderData & {readonly content?: string; readonly pax?: Record<string, unknown>};

/** A tar file as anyone could write it, with whatever its headers claim. */
function tarOf(entries: readonly Entry[]): Buffer {
	const blocks = entries.flatMap(({content = '', pax, ...data}) => {
		const body = Buffer.from(content);
		const header = new Header({mode: 0o644, size: body.length, type: 'File', mtime: new Date(0), ...data});
		header.encode();
		const extended = pax === undefined ? [] : [new Pax(pax).encode()];
		return [...extended, header.block ?? Buffer.alloc(0), body, Buffer.alloc((512 - (body.length % 512)) % 512)];
	});
	return Buffer.concat([...blocks, Buffer.alloc(1024)]);
}

async function writeArchive(area: Area, content: Uint8Array, name = 'code.tar.gz'): Promise<string> {
	const path = join(area.source, name);
	await writeFile(path, content);
	return path;
}

const F: Entry = {path: 'f.py', content: 'pass'};

// Serial tests run first and alone, which the process-wide umask needs.
for (const kind of ['folder', 'archive', 'script', 'object'] as const) {
	test.serial(`modes do not depend on the umask: ${kind}`, async (t) => {
		const area = await makeArea(t);
		await writeTree(area.source, {'f.py': 'pass', 'a/b/run.sh': 'x'});
		await chmod(join(area.source, 'f.py'), 0o600);
		await chmod(join(area.source, 'a'), 0o700);
		await chmod(join(area.source, 'a/b/run.sh'), 0o4700);
		const archive = tarOf([F, {path: 'a/b/run.sh', content: 'x', mode: 0o4700}]);
		const source = {
			folder: area.source,
			archive: await writeArchive({...area, source: area.parent}, gzipSync(archive)),
			script: join(area.source, 'f.py'),
			object: {'f.py': 'pass', 'a/b/run.sh': 'x'},
		}[kind];
		const old = process.umask(0o077);
		try {
			await stageSource(source, area.target);
		} finally {
			process.umask(old);
		}
		t.is((await lstat(area.target)).mode, 0o40755);
		const files = {a: '40755', 'a/b': '40755', 'a/b/run.sh': `${kind === 'object' ? '100644' : '100755'} x`};
		t.deepEqual(await readTree(area.target), {...(kind === 'script' ? {} : files), 'f.py': '100644 pass'});
	});
}

test('a folder is described', async (t) => {
	const area = await makeArea(t);
	await writeTree(area.source, {
		'app.py': 'pass',
		'pkg/b.py': '',
		'pkg/a.py': '',
		'data.txt': '',
		'requirements.txt': '\ufeffsix\n',
		'ol.yaml': 'environment: {OL_ENTRY_FILE: app.py}\nlimits: {memoryMb: 64}',
	});
	const staged = await stageSource(area.source, area.target);
	t.is(staged.dir, area.target);
	t.is(staged.packages.requirements.text, 'six\n');
	t.is(staged.config.entryFile, 'app.py');
	t.deepEqual(staged.config.limits, {memoryMb: 64});
	t.deepEqual(staged.pythonFiles, ['app.py', 'pkg/a.py', 'pkg/b.py']);
	t.regex(staged.digest, /^[0-9a-f]{64}$/);
});

test('the option names the entry file before ol.yaml does', async (t) => {
	const area = await makeArea(t);
	const files = {'g.py': '', 'ol.yaml': 'environment: {OL_ENTRY_FILE: h.py}'};
	await refused(t, area, files, {code: 'EntryFileMissing', message: /"h\.py"/});
	t.is((await stageSource(files, area.target, {entryFile: 'g.py'})).config.entryFile, 'g.py');
	await t.throwsAsync(stageSource(files, join(area.parent, 'other'), {entryFile: '../g.py'}), {instanceOf: RangeError});
	t.deepEqual(await readdir(area.parent), ['code']);
});

test('requirements include files of the code, as links lead to them within it', async (t) => {
	const area = await makeArea(t);
	await writeTree(area.source, {
		'f.py': '',
		'requirements.txt': '-r more/dev.txt\n-c link.txt',
		'more/dev.txt': 'six\n-r ../base.txt',
		'base.txt': 'attrs',
		'versions.txt': 'six<2',
	});
	await symlink('versions.txt', join(area.source, 'link.txt'));
	const {requirements} = (await stageSource(area.source, area.target)).packages;
	t.is(requirements.text, 'attrs\nsix\n');
	t.is(requirements.constraintsText, 'six<2\n');
});

test('a script states its packages in a comment, and a folder’s entry file when nothing else does', async (t) => {
	const area = await makeArea(t);
	const inline = (name: string) => `# /// script\n# dependencies = ["${name}"]\n# ///\n`;
	await writeTree(area.source, {'one.py': inline('six')});
	const script = await stageSource(join(area.source, 'one.py'), area.target);
	t.is(script.packages.requirements.text, 'six\n');
	const files = {'f.py': inline('six'), 'g.py': inline('attrs'), 'ol.yaml': 'environment: {OL_ENTRY_FILE: g.py}'};
	t.is((await stageSource(files, `${area.target}-2`)).packages.requirements.text, 'attrs\n');
	t.is((await stageSource({...files, 'requirements.txt': ''}, `${area.target}-3`)).packages.requirements.text, '');
	const later = {'f.py': `${'#\n'.repeat(2 ** 20)}${inline('six')}`};
	t.is(
		(await stageSource(later, `${area.target}-4`)).packages.requirements.text,
		'',
		'far down in a file is no beginning',
	);
});

test('lines given as an option take the place of requirements.txt, which is not read then', async (t) => {
	const area = await makeArea(t);
	const files = {'f.py': '', 'requirements.txt': Buffer.from([0xff])};
	const {requirements, ...by} = (await stageSource(files, area.target, {requirements: ['six', 'attrs']})).packages;
	t.is(requirements.text, 'attrs\nsix\n');
	t.deepEqual(by, {statedBy: 'options.requirements', ignoredSources: ['requirements.txt']});
	const other = join(area.parent, 'other');
	await t.throwsAsync(stageSource(files, other, {requirements: ['-r a.txt']}), {code: 'InvalidRequirements'});
	t.deepEqual(await readdir(area.parent), ['code']);
});

test('Python files are sorted whatever the order of an object', async (t) => {
	const area = await makeArea(t);
	const staged = await stageSource({'z.py': '', 'a/b.py': '', 'f.py': '', 'a.py': ''}, area.target);
	t.deepEqual(staged.pythonFiles, ['a.py', 'a/b.py', 'f.py', 'z.py']);
});

test('folders of the path: by links within as well, in folders that hold files, and not by a file or a link to one', async (t) => {
	const area = await makeArea(t);
	await writeTree(area.source, {
		'f.py': '',
		'real/a.py': '',
		'real/pyproject.toml': '[project]\nname = "a"',
		'one.py': '',
	});
	await writeTree(area.source, {'requirements.txt': '-e ./linked'});
	await symlink('real', join(area.source, 'vendor'));
	await symlink('real', join(area.source, 'linked'));
	await symlink('one.py', join(area.source, 'packages'));
	const {path, pythonFiles} = await stageSource(area.source, area.target);
	t.deepEqual(path, ['vendor', 'linked']);
	t.deepEqual(pythonFiles, ['f.py', 'linked/a.py', 'one.py', 'real/a.py', 'vendor/a.py']);
	await rm(join(area.source, 'vendor'));
	await mkdir(join(area.source, 'vendor'));
	await writeTree(area.source, {'requirements.txt': ''});
	t.deepEqual(
		(await stageSource(area.source, `${area.target}-2`)).path,
		[],
		'an empty folder is not part of the digest',
	);
});

test('folders of the path that are links which lead elsewhere are refused', async (t) => {
	const area = await makeArea(t);
	await writeTree(area.source, {'f.py': '', 'vendor/a.py': ''});
	await symlink('..', join(area.source, 'vendor', 'out'));
	await refused(t, area, area.source, {
		code: 'InvalidSource',
		message: /"vendor\/out" leads to a folder that holds it/,
	});
	await rm(join(area.source, 'vendor'), {recursive: true});
	await symlink(area.parent, join(area.source, 'vendor'));
	await refused(t, area, area.source, {code: 'InvalidSource', message: /the link "vendor" leads outside/});
});

test('what packages of the folder hold is part of the digest', async (t) => {
	const area = await makeArea(t);
	const files = {'f.py': '', 'requirements.txt': '-e libs/a', 'libs/a/pyproject.toml': '[project]\nname = "a"'};
	const [one, other] = await Promise.all(
		['1', '2'].map((text) => stageSource({...files, 'libs/a/a.py': text}, `${area.target}-${text}`)),
	);
	t.deepEqual([one?.path, other?.path], [['libs/a'], ['libs/a']]);
	t.not(one?.digest, other?.digest);
});

test('a script becomes f.py', async (t) => {
	const area = await makeArea(t);
	await writeTree(area.source, {'hello.py': 'pass', 'ol.yaml': 'unknown: 1'});
	const staged = await stageSource(join(area.source, 'hello.py'), area.target);
	t.deepEqual(await readTree(area.target), {'f.py': '100644 pass'});
	t.deepEqual(staged.pythonFiles, ['f.py']);
	t.deepEqual(staged.packages, {requirements: noRequirements, statedBy: undefined, ignoredSources: []});
});

test('a folder loses what tools left in it, and keeps links within it as copies', async (t) => {
	const area = await makeArea(t);
	await writeTree(area.source, {
		'f.py': 'pass',
		'.git/config': '',
		'a/__pycache__/f.pyc': '',
		'a/node_modules/x/index.js': '',
		'real/b.py': 'b',
		'sub/.git': 'a file',
	});
	await mkdir(join(area.source, 'empty'));
	await symlink('/usr', join(area.source, '.venv'));
	await symlink('real', join(area.source, 'linked'));
	await symlink(join(area.source, 'real/b.py'), join(area.source, 'a/b.py'));
	await stageSource(area.source, area.target);
	t.deepEqual(await readTree(area.target), {
		a: '40755',
		'a/b.py': '100644 b',
		empty: '40755',
		'f.py': '100644 pass',
		linked: '40755',
		'linked/b.py': '100644 b',
		real: '40755',
		'real/b.py': '100644 b',
		sub: '40755',
		'sub/.git': '100644 a file',
	});
});

const badLinks: ReadonlyArray<readonly [target: string, message: RegExp]> = [
	['/etc/passwd', /the link "a\/link" leads outside, to "\/etc\/passwd"/],
	['/etc', /leads outside/],
	['../../parent', /leads outside/],
	['../../source-2/f.py', /the link "a\/link" leads outside/],
	['/dev/null', /leads outside/],
	['nowhere', /cannot read "a\/link".*ENOENT/],
	['link', /cannot read "a\/link".*ELOOP/],
	['.', /leads to a folder that holds it/],
	['..', /leads to a folder that holds it/],
];
for (const [target, message] of badLinks) {
	test(`a link to ${target} in a folder is refused`, async (t) => {
		const area = await makeArea(t);
		await writeTree(area.source, {'f.py': '', 'a/b.py': '', '../source-2/f.py': ''});
		await symlink(target, join(area.source, 'a/link'));
		await refused(t, area, area.source, {code: 'InvalidSource', message});
	});
}

test('links that lead to each other are refused', async (t) => {
	const area = await makeArea(t);
	await writeTree(area.source, {'f.py': '', 'a/x': '', 'b/x': ''});
	await symlink('../b', join(area.source, 'a/link'));
	await symlink('../a', join(area.source, 'b/link'));
	await refused(t, area, area.source, {code: 'InvalidSource', message: /the link ".*link" leads to a folder/});
});

test('pipes and sockets in a folder are refused', async (t) => {
	const area = await makeArea(t);
	await writeTree(area.source, {'f.py': ''});
	execFileSync('mkfifo', [join(area.source, 'pipe')]);
	await refused(t, area, area.source, {code: 'InvalidSource', message: /"pipe" is neither a file nor a folder/});
	await symlink('pipe', join(area.source, 'link'));
	await refused(t, area, area.source, {code: 'InvalidSource', message: /"link" is neither a file nor a folder/});
	await rm(join(area.source, 'pipe'));
	await rm(join(area.source, 'link'));
	const server = createServer().listen(join(area.source, 'socket'));
	await new Promise((done) => server.once('listening', done));
	await refused(t, area, area.source, {code: 'InvalidSource', message: /"socket" is neither a file nor a folder/});
	server.close();
});

test('a folder that is swapped for a link meanwhile never lets outside files in', async (t) => {
	const area = await makeArea(t);
	const folder = join(area.source, 'a');
	const outside = join(area.source, '..', 'outside');
	const link = join(area.source, '..', 'link');
	await writeTree(area.source, {'f.py': '', 'a/b.py': 'inside'});
	await writeTree(outside, {'b.py': 'outside'});
	await symlink(outside, link);
	// In a process of its own, so that swaps fall between any two system calls here; neither name is ever missing.
	const program = [
		'import ctypes, os, random, sys, time',
		'libc = ctypes.CDLL(None)',
		'folder, link = map(os.fsencode, sys.argv[1:])',
		'while os.getppid() != 1 and libc.renameat2(-100, folder, -100, link, 2) == 0: time.sleep(random.random() / 2000)',
	];
	const swapping = spawn('python3', ['-c', program.join('\n'), folder, link], {stdio: 'ignore'});
	t.teardown(() => swapping.kill('SIGKILL'));
	for (let round = 0; round < 300; round++) {
		await stageSource(area.source, area.target).catch((error: unknown) => t.true(error instanceof ForktreeError));
		const staged = await readTree(area.parent);
		t.false(Object.values(staged).some((text) => text.endsWith('outside')));
		await rm(area.target, {recursive: true, force: true});
	}
});

test('a name that is not UTF-8 is refused', async (t) => {
	const area = await makeArea(t);
	await writeTree(area.source, {'f.py': ''});
	await writeFile(Buffer.concat([Buffer.from(`${area.source}/`), Buffer.from([0xff])]), '');
	await refused(t, area, area.source, {code: 'InvalidSource', message: /is not UTF-8/});
});

test('a tree deeper than 100 levels is refused', async (t) => {
	const area = await makeArea(t);
	const deep = `${'d/'.repeat(100)}f.py`;
	await writeTree(area.source, {'f.py': '', [deep]: ''});
	await refused(t, area, area.source, {code: 'InvalidSource', message: /more than 100 levels deep/});
	await refused(t, area, {'f.py': '', [deep]: ''}, {code: 'InvalidSource', message: /more than 100 levels deep/});
});

test('a folder cannot be deployed into itself', async (t) => {
	const area = await makeArea(t);
	await writeTree(area.source, {'f.py': ''});
	await symlink(area.source, join(area.parent, 'alias'));
	for (const target of ['code', 'f.py']) {
		const path = join(area.parent, 'alias', target);
		const error = await t.throwsAsync(stageSource(area.source, path), {instanceOf: ForktreeError});
		t.is(error?.code, 'InvalidSource', target);
		t.regex(error?.message ?? '', /one lies inside the other/);
	}
	// A target that holds the source exists, and must survive.
	const error = await t.throwsAsync(stageSource(join(area.source, 'f.py'), area.source), {instanceOf: ForktreeError});
	t.regex(error?.message ?? '', /one lies inside the other/);
	t.deepEqual(await readdir(area.source), ['f.py']);
});

test('a target that exists, or that cannot be made, is refused and kept', async (t) => {
	const area = await makeArea(t);
	await writeTree(area.target, {'mine.txt': 'mine'});
	const exists = await t.throwsAsync(stageSource({'f.py': ''}, area.target), {instanceOf: SyscallError});
	t.is(exists?.errnoName, 'EEXIST');
	t.deepEqual(await readdir(area.target), ['mine.txt']);
	const missing = join(area.parent, 'missing', 'code');
	t.is((await t.throwsAsync(stageSource({'f.py': ''}, missing), {instanceOf: SyscallError}))?.errnoName, 'ENOENT');
});

const badSources: ReadonlyArray<readonly [label: string, source: unknown, message: RegExp]> = [
	['undefined', undefined, /expected a folder/],
	['null', null, /expected a folder/],
	['a number', 5, /cannot deploy 5/],
	['an array', ['f.py'], /cannot deploy an array/],
	['an empty path', '', /cannot deploy ""/],
	['a missing path', '/nowhere/at/all', /ENOENT/],
	['a path with NUL', '/a\0b', /cannot read/],
	['another kind of file', '/etc/passwd', /cannot deploy "\/etc\/passwd"/],
	['a device', '/dev/null', /cannot deploy "\/dev\/null"/],
	['an absolute key', {'f.py': '', '/etc/x': ''}, /"\/etc\/x" is absolute/],
	['a key with ..', {'f.py': '', 'a/../../x': ''}, /has the part "\.\."/],
	['a key with .', {'f.py': '', './x': ''}, /has the part "\."/],
	['an empty key', {'f.py': '', '': ''}, /is empty/],
	['a key of a folder', {'f.py': '', 'a/': ''}, /has the part ""/],
	['a key with NUL', {'f.py': '', 'a\0': ''}, /NUL/],
	['a long name', {'f.py': '', ['a'.repeat(256)]: ''}, /longer than 255/],
	[
		'a long path',
		{'f.py': '', ['abcdefg/'.repeat(90) + 'a'.repeat(255)]: '', ['é/'.repeat(99) + 'é'.repeat(500)]: ''},
		/longer than/,
	],
	['a file as folder', {'f.py': '', 'f.py/a': ''}, /needs "f\.py" to be a folder/],
	['a folder as file', {'f.py': '', 'a/b': '', a: ''}, /"a" is there twice, before as a folder/],
	['content of a wrong type', {'f.py': 5}, /the content of "f\.py" is 5/],
	['missing content', {'f.py': undefined}, /the content of "f\.py" is of type undefined/],
];
for (const [label, source, message] of badSources) {
	test(`${label} is refused`, async (t) => {
		await refused(t, await makeArea(t), source as DeploySource, {code: 'InvalidSource', message});
	});
}

const badCode: ReadonlyArray<readonly [label: string, files: Record<string, string | Uint8Array>, refusal: Refusal]> = [
	['no file', {}, {code: 'EntryFileMissing', message: /"f\.py"/}],
	['no entry file', {'g.py': ''}, {code: 'EntryFileMissing', message: /"f\.py"/}],
	['a folder as entry file', {'f.py/a': ''}, {code: 'EntryFileMissing'}],
	['a bad ol.yaml', {'f.py': '', 'ol.yaml': 'x: 1'}, {code: 'InvalidConfig', message: /"x"/}],
	['a huge ol.yaml', {'f.py': '', 'ol.yaml': ' '.repeat(65_537)}, {code: 'InvalidConfig', message: /65536/}],
	['a binary ol.yaml', {'f.py': '', 'ol.yaml': Buffer.from([0xff])}, {code: 'InvalidConfig', message: /UTF-8/}],
	['a folder as ol.yaml', {'f.py': '', 'ol.yaml/a': ''}, {code: 'InvalidConfig', message: /folder/}],
	['binary requirements', {'f.py': '', 'requirements.txt': Buffer.from([0xff])}, {code: 'InvalidRequirements'}],
	[
		'unclear requirements',
		{'f.py': '', 'requirements.txt': 'a='},
		{code: 'InvalidRequirements', message: /^requirements\.txt, line 1/},
	],
	[
		'requirements outside',
		{'f.py': '', 'requirements.txt': '-r ../../etc/passwd'},
		{code: 'InvalidRequirements', message: /inside the folder/},
	],
	[
		'requirements that are not there',
		{'f.py': '', 'requirements.txt': '-r .git/a'},
		{code: 'InvalidRequirements', message: /a file in the folder/},
	],
	[
		'binary included requirements',
		{'f.py': '', 'requirements.txt': '-r a', a: Buffer.from([0xff])},
		{code: 'InvalidRequirements', message: /^a: is not UTF-8/},
	],
	[
		'a folder as included requirements',
		{'f.py': '', 'requirements.txt': '-r a', 'a/b': ''},
		{code: 'InvalidRequirements', message: /^a: is a folder/},
	],
	[
		'a script for another Python',
		{'f.py': '# /// script\n# requires-python = ">=3.12"\n# ///\n'},
		{
			code: 'InterpreterMismatch',
			message: /^f\.py, requires-python: is for Python >=3\.12; the interpreter is Python 3\.11\.2$/,
		},
	],
	[
		'a huge project of a package',
		{'f.py': '', 'requirements.txt': '-e a', 'a/a.py': '', 'a/pyproject.toml': '#'.repeat(2 ** 20 + 1)},
		{code: 'InvalidRequirements', message: /^a\/pyproject\.toml: is larger than 1048576 bytes/},
	],
	[
		'a folder as the project of a package',
		{'f.py': '', 'requirements.txt': '-e a', 'a/a.py': '', 'a/pyproject.toml/b': ''},
		{code: 'InvalidRequirements', message: /^a\/pyproject\.toml: is a folder/},
	],
	[
		'a package outside',
		{'f.py': '', 'requirements.txt': '-e ../a', 'a/a.py': '', 'a/pyproject.toml': '[project]\nname = "a"'},
		{code: 'InvalidRequirements', message: /^requirements\.txt, line 1: expected a path inside the folder/},
	],
	['huge requirements', {'f.py': '', 'requirements.txt': '#'.repeat(2 ** 22 + 1)}, {code: 'InvalidRequirements'}],
];
for (const [label, files, refusal] of badCode) {
	test(`code with ${label} is refused`, async (t) => {
		await refused(t, await makeArea(t), files, refusal);
	});
}

test('an archive is unpacked, with or without ./', async (t) => {
	const area = await makeArea(t);
	const archive = tarOf([
		{path: './', type: 'Directory', mode: 0o700},
		{path: './f.py', content: 'pass'},
		{path: './empty/', type: 'Directory'},
		{path: 'a//b/./c.py', content: 'c'.repeat(513)},
		{path: 'zero', content: ''},
		{path: 'short', content: 'long name', pax: {path: `l/${'ö'.repeat(120)}`}},
	]);
	// Bytes after the end of an archive are padding.
	const path = await writeArchive(area, gzipSync(Buffer.concat([archive, Buffer.alloc(20_000, 'x')])), 'code.tgz');
	await stageSource(path, area.target);
	t.deepEqual(await readTree(area.target), {
		a: '40755',
		'a/b': '40755',
		'a/b/c.py': `100644 ${'c'.repeat(513)}`,
		empty: '40755',
		'f.py': '100644 pass',
		l: '40755',
		[`l/${'ö'.repeat(120)}`]: '100644 long name',
		zero: '100644 ',
	});
});

const TYPE_FILE: Entry = {path: 'PaxHeader/l', type: 'ExtendedHeader', content: '13 type=File\n'};
const link = (path: string, linkpath: string): Entry => ({path, linkpath, type: 'SymbolicLink'});
const badArchives: ReadonlyArray<readonly [label: string, entries: readonly Entry[], message: RegExp]> = [
	['an absolute path', [F, {path: '/etc/forktree', content: 'x'}], /"\/etc\/forktree" is absolute/],
	['an absolute folder', [F, {path: '/tmp/', type: 'Directory'}], /"\/tmp\/" is absolute/],
	['an absolute path behind pax', [F, {path: 'a', pax: {path: '/etc/x'}}], /"\/etc\/x" is absolute/],
	['..', [F, {path: '../x', content: 'x'}], /"\.\.\/x" has the part/],
	['.. in the middle', [F, {path: 'a/../../x', content: 'x'}], /has the part "\.\."/],
	['.. at the end', [F, {path: 'a/..', type: 'Directory'}], /has the part "\.\."/],
	['.. behind pax', [F, {path: 'a', pax: {path: './../x'}}], /"\.\.\/x" has the part/],
	['no path but .', [F, {path: './', type: 'Directory'}, {path: '.', content: 'x'}], /the path "" is empty/],
	['a link outside', [F, link('link', '/etc')], /"link" is a SymbolicLink to "\/etc"/],
	['a link inside', [F, link('link', 'f.py')], /"link" is a SymbolicLink to "f\.py"/],
	['a file through a link', [F, link('a', '/tmp'), {path: 'a/x', content: 'x'}], /"a" is a SymbolicLink/],
	['a hard link', [F, {path: 'l', linkpath: '/etc/passwd', type: 'Link'}], /"l" is a Link to "\/etc\/passwd"/],
	['a link called a file by pax', [F, TYPE_FILE, link('l', '/etc')], /"l" is a SymbolicLink/],
	[
		'a character device',
		[F, {path: 'null', type: 'CharacterDevice', devmaj: 1, devmin: 3}],
		/"null" is a CharacterDevice/,
	],
	['a block device', [F, {path: 'sda', type: 'BlockDevice', devmaj: 8}], /"sda" is a BlockDevice/],
	['a pipe', [F, {path: 'pipe', type: 'FIFO'}], /"pipe" is a FIFO/],
	['a sparse file', [F, {path: 'sparse', type: 'SparseFile'}], /"sparse" is a SparseFile/],
	['a file twice', [F, F], /"f\.py" is there twice/],
	['a file as folder', [F, {path: 'f.py/a', content: ''}], /needs "f\.py" to be a folder/],
	['a folder as file', [F, {path: 'a/b'}, {path: 'a'}], /"a" is there twice, before as a folder/],
	['a long name', [F, {path: 'a', pax: {path: 'a'.repeat(256)}}], /longer than 255/],
	['a deep path', [F, {path: 'a', pax: {path: `${'d/'.repeat(100)}x`}}], /100 levels/],
	['a huge claim', [F, {path: 'big', size: 513 * 1024 * 1024}], /"big" is too large/],
	['a huge claim by pax', [F, {path: 'big', pax: {path: 'big', size: 2 ** 52}}], /"big" is too large/],
	['half a byte', [F, {...TYPE_FILE, content: '12 size=0.5\n'}, {path: 'half'}], /"half" is too large/],
	['a huge header', [F, {path: 'a', pax: {path: 'a', comment: 'x'.repeat(2 ** 21)}}], /ExtendedHeader/],
];
for (const [label, entries, message] of badArchives) {
	test(`an archive with ${label} is refused`, async (t) => {
		const area = await makeArea(t);
		const path = await writeArchive(area, gzipSync(tarOf(entries)));
		await refused(t, area, path, {code: 'UnsafeArchive', message});
	});
}

test('an archive that unpacks to too much is refused while it is unpacked', async (t) => {
	const area = await makeArea(t);
	// Members of a gzip file may simply follow each other: 640 MiB in 640 KiB.
	const zeros = gzipSync(Buffer.alloc(64 * 1024 * 1024));
	const padding = new Array(10).fill(zeros);
	const afterEnd = await writeArchive(area, Buffer.concat([gzipSync(tarOf([F])), ...padding]));
	await refused(t, area, afterEnd, {code: 'UnsafeArchive', message: /unpacks to more than/});
	const header = new Header({path: 'big', size: 500 * 1024 * 1024, type: 'File', mode: 0o644});
	header.encode();
	const twice = Buffer.concat([gzipSync(header.block ?? ''), ...padding.slice(0, 9)]);
	await refused(
		t,
		area,
		await writeArchive(area, twice),
		{code: 'UnsafeArchive', message: /"big" is too large/},
		{limits: {bytes: 499 * 1024 * 1024}},
	);
});

const unsound: ReadonlyArray<readonly [label: string, content: Uint8Array]> = [
	['empty', Buffer.alloc(0)],
	['not zipped', tarOf([F])],
	['text', Buffer.from('hello')],
	['zipped text', gzipSync('hello')],
	['zipped noise', gzipSync(Buffer.alloc(5000, 'noise'))],
	['without entries', gzipSync(Buffer.alloc(1024))],
	['zipped twice', gzipSync(gzipSync(tarOf([F])))],
	['cut in the zip', gzipSync(tarOf([F])).subarray(0, -12)],
	['cut in the tar', gzipSync(tarOf([{path: 'f.py', content: 'x'.repeat(5000)}]).subarray(0, 3000))],
	['damaged', gzipSync(Buffer.concat([tarOf([F]).subarray(0, 1024), Buffer.alloc(512, 'x'), tarOf([{path: 'g.py'}])]))],
];
for (const [label, content] of unsound) {
	test(`an archive that is ${label} is refused`, async (t) => {
		const area = await makeArea(t);
		await refused(t, area, await writeArchive(area, content), {
			code: 'InvalidSource',
			message: /code\.tar\.gz" is not a sound \.tar\.gz file/,
		});
	});
}

for (const kind of ['folder', 'archive', 'object'] as const) {
	test(`limits hold for every kind of source: ${kind}`, async (t) => {
		const area = await makeArea(t);
		const files = {'f.py': 'pass', 'a/b': '12345', 'a/c': '1'};
		await writeTree(area.source, files);
		const entries = Object.entries(files).map(([path, content]) => ({path, content}));
		const archive = join(area.source, '..', 'code.tgz');
		await writeFile(archive, gzipSync(tarOf(entries)));
		const source = {folder: area.source, archive, object: files}[kind];
		const code = kind === 'archive' ? 'UnsafeArchive' : 'InvalidSource';
		await refused(t, area, source, {code, message: /one too many: expected at most 3/}, {limits: {files: 3}});
		await refused(t, area, source, {code, message: /too large: expected at most 9/}, {limits: {bytes: 9}});
		await t.notThrowsAsync(stageSource(source, area.target, {limits: {files: 4, bytes: 10}}));
	});
}

test('more than 20,000 files are refused', async (t) => {
	const area = await makeArea(t);
	const entries = Array.from({length: 20_001}, (_, index) => ({path: `d${index}/`, type: 'Directory'}) as const);
	const path = await writeArchive(area, gzipSync(tarOf(entries)));
	await refused(t, area, path, {code: 'UnsafeArchive', message: /"d20000" is one too many: expected at most 20000/});
});

test('the digest tells content, paths and executable bits apart, and nothing else', async (t) => {
	const area = await makeArea(t);
	let count = 0;
	const digest = async (source: DeploySource) => (await stageSource(source, `${area.target}-${count++}`)).digest;
	const files = {'f.py': 'pass', 'a/b': '1', c: ''};
	const first = await digest(files);
	const digests = [
		first,
		await digest({...files, 'f.py': 'pass '}),
		await digest({...files, d: ''}),
		await digest({'f.py': 'pass', 'a/c': '1', c: ''}),
		await digest({'f.py': 'pass', 'a/b': '', c: '1'}),
	];
	await writeTree(area.source, files);
	t.is(await digest(area.source), first, 'a folder');
	t.is(await digest({c: '', 'a/b': Buffer.from('1'), 'f.py': 'pass'}), first, 'another order');
	await chmod(join(area.source, 'c'), 0o755);
	digests.push(await digest(area.source));
	t.is(new Set(digests).size, digests.length);
});

const part = fc
	.stringMatching(/^[a-z0-9_. é-]{1,6}$/)
	.filter((name) => !['.', '..', '.git', '.venv', 'f.py'].includes(name));
const path = fc.array(part, {minLength: 1, maxLength: 4}).map((parts) => parts.join('/'));
const contents = fc.oneof(fc.uint8Array({maxLength: 40}), fc.uint8Array({minLength: 500, maxLength: 3000}));
const fileMaps = fc.dictionary(path, contents, {maxKeys: 12}).map((files) => {
	const paths = Object.keys(files);
	const clashes = (path: string) => paths.some((other) => other.startsWith(`${path}/`));
	const kept = Object.entries(files).filter(([path]) => !clashes(path));
	return {...Object.fromEntries(kept), 'f.py': new Uint8Array([1])};
});

test('any files come back the same as object, folder and archive', async (t) => {
	const area = await makeArea(t);
	await fc.assert(
		fc.asyncProperty(fileMaps, async (files) => {
			const object = join(area.parent, 'object');
			const folder = join(area.parent, 'folder');
			const archive = join(area.parent, 'archive');
			const tarball = join(area.source, 'code.tgz');
			try {
				const first = await stageSource(files, object);
				const tree = await readTree(object);
				await create({gzip: true, file: tarball, cwd: object}, ['.']);
				for (const [source, target] of [
					[object, folder],
					[tarball, archive],
				] as const) {
					t.deepEqual({...(await stageSource(source, target)), dir: object}, first);
					t.deepEqual(await readTree(target), tree);
				}
				const found = Object.entries(tree).filter(([, text]) => text.startsWith('100644 '));
				const given = Object.entries(files).map(([path, bytes]) => [
					path,
					`100644 ${Buffer.from(bytes).toString('latin1')}`,
				]);
				t.deepEqual(Object.fromEntries(found), Object.fromEntries(given));
			} finally {
				for (const target of [object, folder, archive]) await rm(target, {recursive: true, force: true});
			}
		}),
		{numRuns: 60},
	);
});

test('a large archive of many sizes is unpacked whole', async (t) => {
	const area = await makeArea(t);
	const files = Object.fromEntries(
		Array.from({length: 400}, (_, index) => [
			`d${index % 7}/${index}`,
			Buffer.alloc((index * 7919) % 70_000, `${index} `),
		]),
	);
	const entries = Object.entries(files).map(([path, bytes]) => ({path, content: bytes.toString()}));
	await stageSource(await writeArchive(area, gzipSync(tarOf([F, ...entries]))), area.target);
	const hash = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
	for (const [path, bytes] of Object.entries(files)) {
		t.is(hash(await readFile(join(area.target, path))), hash(bytes), path);
	}
});

test('variables of a .env come below those of ol.yaml', async (t) => {
	const area = await makeArea(t);
	const source = {
		'f.py': '',
		'.env': 'A=1\nexport B="two # words"\n# C=3\nD=\'x\'\n',
		'ol.yaml': 'environment: {A: 2}\n',
	};
	const {config} = await stageSource(source, area.target);
	t.deepEqual(config.environment, {A: '2', B: 'two # words', D: 'x'});
	await t.throwsAsync(stageSource({'f.py': '', '.env': 'a.b=1\n'}, `${area.target}-2`), {
		code: 'InvalidConfig',
		message: /^\.env has the name "a\.b"/,
	});
});
