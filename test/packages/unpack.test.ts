import {createHash} from 'node:crypto';
import {lstat, readdir, readFile, writeFile} from 'node:fs/promises';
import path from 'node:path';
import test, {type ExecutionContext} from 'ava';
import {execa} from 'execa';
import {ForktreeError} from '../../src/errors.ts';
import {guestDirectory} from '../../src/native.ts';
import type {DistributionMetadata} from '../../src/packages/metadata.ts';
import {createUnpack, type UnpackOptions} from '../../src/packages/unpack.ts';
import {kernelTest} from '../helpers/kernel-test.ts';
import {py, python} from '../helpers/runtime.ts';
import {makeWheel, type WheelSpec} from '../helpers/wheels.ts';
import {type Bench, locked, makeBench, useWorkshop} from '../helpers/workshop.ts';

const workshop = useWorkshop();

type Unpacked = Bench & {readonly metadata: DistributionMetadata; readonly paths: readonly string[]};

async function unpack(t: ExecutionContext, spec: WheelSpec, options?: UnpackOptions): Promise<Unpacked> {
	const bench = await makeBench(t);
	const wheel = makeWheel(bench.archives, spec);
	const {signal} = new AbortController();
	const distribution = locked('pkg', '1.0', wheel);
	const metadata = await createUnpack(workshop(), options)(distribution, wheel, bench.folder, {signal});
	return {...bench, metadata, paths: metadata.files.map(([file]) => file)};
}

async function filesBelow(folder: string): Promise<string[]> {
	const entries = await readdir(folder, {recursive: true, withFileTypes: true});
	return entries
		.filter((entry) => !entry.isDirectory())
		.map((entry) => path.relative(folder, path.join(entry.parentPath, entry.name)))
		.sort();
}

const isByteCode = (file: string) => file.endsWith('.pyc');

kernelTest('a wheel is unpacked, spread, compiled and described', async (t) => {
	const {metadata, paths, folder} = await unpack(t, {
		metadata: [
			'Requires-Dist: Foo_Bar[extra]>=1.0',
			'Requires-Dist: never; python_version < "3.0"',
			'Requires-Dist: tests.only ; extra == "Test_Ing"',
			'Requires-Dist: both; extra == "test-ing" or sys_platform == "linux"',
			'Provides-Extra: test_ing',
		],
		files: {
			'pkg/__init__.py': 'VALUE = 1\n',
			'pkg/template.py': 'print "this does not compile"\n',
			'pkg/data.bin': 'data',
			'pkg/__pycache__/__init__.cpython-311.pyc': 'of somebody else',
			'space/inner/__init__.py': '',
			'single.py': '',
			'_private.py': '',
			'pkg.pth': 'import os; os._exit(1)\n',
			'pkg-1.0.data/purelib/pure.py': '',
			'pkg-1.0.data/platlib/plat/__init__.py': '',
			'pkg-1.0.data/data/share/doc.txt': 'doc',
			'pkg-1.0.data/headers/pkg.h': '',
			'pkg-1.0.data/scripts/tool': '#!python\nimport pkg\n',
			'pkg-1.0.data/scripts/shell': '#!/bin/sh\n',
			'pkg-1.0.dist-info/entry_points.txt': '[console_scripts]\nMain=pkg.cli:main\nbad/name=pkg:main\nbad=pkg:1+1\n',
		},
	});
	t.deepEqual(metadata.modules, ['pkg', 'plat', 'pure', 'single']);
	t.deepEqual(metadata.requires, ['both', 'foo-bar']);
	t.deepEqual(metadata.extras, {'test-ing': ['tests-only']});
	t.deepEqual(
		paths.filter((file) => !isByteCode(file) && !file.startsWith('pkg-1.0.dist-info/')),
		[
			'_private.py',
			'bin/Main',
			'bin/shell',
			'bin/tool',
			'include/pkg/pkg.h',
			'pkg.pth',
			'pkg/__init__.py',
			'pkg/data.bin',
			'pkg/template.py',
			'plat/__init__.py',
			'pure.py',
			'share/doc.txt',
			'single.py',
			'space/inner/__init__.py',
		].sort(),
	);
	t.deepEqual(paths.filter(isByteCode).length, 6);
	t.deepEqual(await filesBelow(folder), [...paths]);
	t.is(await readFile(path.join(folder, 'bin/tool'), 'utf8'), '#!/usr/bin/env python3\nimport pkg\n');
	t.is(await readFile(path.join(folder, 'bin/shell'), 'utf8'), '#!/bin/sh\n');
	t.is((await lstat(path.join(folder, 'bin/Main'))).mode & 0o777, 0o755);
	t.is((await lstat(path.join(folder, 'pkg/__init__.py'))).mode & 0o777, 0o644);
	for (const [file, sha256, size] of metadata.files) {
		const content = await readFile(path.join(folder, file));
		t.deepEqual([createHash('sha256').update(content).digest('hex'), content.length], [sha256, size], file);
	}
});

kernelTest('byte code is used as it is, and says where it will be seen', async (t) => {
	const {folder} = await unpack(t, {files: {'pkg.py': 'def where():\n    return where.__code__.co_filename\n'}});
	await writeFile(path.join(folder, 'pkg.py'), 'raise RuntimeError\n');
	const script = py`
		import marshal, os, sys
		sys.path.insert(0, '/packages')
		import pkg
		with open(pkg.__cached__, 'rb') as file:
		    content = file.read()
		print(pkg.where(), marshal.loads(content[16:]).co_filename, content[4:8], os.path.dirname(pkg.__cached__))
	`;
	const {tools, interpreter} = workshop();
	const {stdout, stderr} = await tools.run([interpreter.executable, '-I', '-S', '-v', '-c', script], {
		...{network: 'none', timeoutMs: 20_000, memoryMb: 256, scratchMb: 8},
		mounts: [{source: folder, target: '/packages'}],
	});
	t.is(stdout, "/packages/pkg.py /packages/pkg.py b'\\x01\\x00\\x00\\x00' /packages/__pycache__\n");
	t.notRegex(stderr, /# wrote .*pkg/);
});

kernelTest('native libraries are found, with what they need', async (t) => {
	const write = py`
		import glob
		for name, pattern in [('pkg/a.so', '/lib/x86_64-linux-gnu/libm.so.6'), ('pkg/b.so', '/lib/x86_64-linux-gnu/libc.so.6')]:
		    wheel.write(pattern, name)
		content = open('/lib/x86_64-linux-gnu/libm.so.6', 'rb').read()
		wheel.writestr('pkg/cut.so', content[:2000])
		wheel.writestr('pkg/tiny.so', content[:5])
		wheel.writestr('pkg/lies.so', content[:32] + b'\xff' * 8 + content[40:])
		wheel.writestr('pkg/many.so', content[:54] + b'\xff' * 4 + content[58:])
	`;
	const {metadata} = await unpack(t, {files: {'pkg/__init__.py': ''}, write});
	t.deepEqual(metadata.nativeLibraries, [
		{file: 'pkg/a.so', needs: ['libc.so.6', 'ld-linux-x86-64.so.2']},
		{file: 'pkg/b.so', needs: ['ld-linux-x86-64.so.2']},
		{file: 'pkg/cut.so', needs: []},
		{file: 'pkg/lies.so', needs: []},
		{file: 'pkg/many.so', needs: []},
		{file: 'pkg/tiny.so', needs: []},
	]);
});

kernelTest('what RECORD says is believed by nobody', async (t) => {
	const record = '../../etc/passwd,,\nother.py,sha256=AAAA,1\npkg.py,sha256=AAAA,99999\n';
	const {metadata, folder, paths} = await unpack(t, {files: {'pkg.py': '', 'pkg-1.0.dist-info/RECORD': record}});
	t.deepEqual(metadata.modules, ['pkg']);
	t.deepEqual(await filesBelow(folder), [...paths]);
});

kernelTest('names that are no ASCII, long, or odd are kept', async (t) => {
	const names = ['pkg/ü😀.txt', `pkg/${'n'.repeat(255)}`, 'pkg/with space,comma"quote', 'pkg/-rf', 'pkg/…', '.hidden'];
	const {paths, folder} = await unpack(t, {files: Object.fromEntries(names.map((name) => [name, '']))});
	t.true(names.every((name) => paths.includes(name)));
	t.deepEqual((await filesBelow(folder)).sort(), [...paths]);
});

const link = (target: string) => `
entry = zipfile.ZipInfo('pkg/link')
entry.external_attr = (stat.S_IFLNK | 0o777) << 16
wheel.writestr(entry, ${JSON.stringify(target)})
`;
const entry = (name: string) => `wheel.writestr(zipfile.ZipInfo(${JSON.stringify(name)}), 'x')`;
/** A name that zipfile itself would not write: it is put into the finished archive, in both places. */
const renamed = (name: string) => ({
	write: `wheel.writestr('${'N'.repeat(Buffer.byteLength(name))}', 'x')`,
	patch: `data = data.replace(b'${'N'.repeat(Buffer.byteLength(name))}', ${JSON.stringify(name)}.encode())`,
});
/** Patches fields of the last entry of the directory. */
const lastHeader = (offset: number, bytes: string) =>
	`at = data.rindex(b'PK\\x01\\x02') + ${offset}\ndata[at:at + len(${bytes})] = ${bytes}`;

const unsafe: Readonly<Record<string, WheelSpec>> = {
	'an absolute path': {write: entry('/etc/cron.d/x')},
	'a path that leads outside': {write: entry('pkg/../../x')},
	'a path that begins outside': {write: entry('../x')},
	'a path with a dot': {write: entry('./x')},
	'an empty part of a path': {write: entry('pkg//x')},
	'a folder that leads outside': {write: entry('../pkg/')},
	'a backslash': renamed('pkg\\..\\..\\x'),
	'a drive letter': {write: entry('C:/x')},
	'a NUL': renamed('pkg/x\0/../../y'),
	'a control character': {write: entry('pkg/x\ny')},
	'too long a name': {write: entry(`pkg/${'n'.repeat(256)}`)},
	'too long a path': {write: entry('d/'.repeat(600))},
	'a link that leads outside': {write: link('/etc/passwd')},
	'a link that stays inside': {write: link('__init__.py')},
	'a device': {
		write:
			"entry = zipfile.ZipInfo('pkg/device'); entry.external_attr = (stat.S_IFCHR | 0o666) << 16; wheel.writestr(entry, '')",
	},
	'two entries of one name': {write: `${entry('pkg/x')}\n${entry('pkg/x')}`},
	'two files for one path': {write: `${entry('x.py')}\n${entry('pkg-1.0.data/purelib/x.py')}`},
	'a file in the place of a folder': {write: `${entry('x/y')}\n${entry('x')}`},
	'an encrypted entry': {write: entry('pkg/x'), patch: lastHeader(8, "b'\\x01'")},
	'more than it may unpack to': {write: "wheel.writestr('pkg/zeros', b'\\0' * (9 << 20))"},
	'more entries than there may be': {
		write: "for number in range(300_000): wheel.writestr(zipfile.ZipInfo(f'pkg/{number}'), '')",
	},
	'a file that claims to be huge': {write: entry('pkg/x'), patch: lastHeader(24, "b'\\xfe\\xff\\xff\\xff'")},
	'byte code beyond the limit': {
		write: "wheel.writestr('pkg/big.py', '\\n'.join(f'v{n} = {n}' for n in range(300_000)))",
	},
};

for (const [what, spec] of Object.entries(unsafe)) {
	kernelTest(`a wheel is refused for ${what}`, async (t) => {
		const error = await t.throwsAsync(unpack(t, spec, {maxInstalledMb: 8}), {instanceOf: ForktreeError});
		t.is(error.code, 'UnsafeArchive', error.message);
		t.regex(error.message, /^unpacking pkg==1\.0: /);
	});
}

const failing: Readonly<Record<string, readonly [WheelSpec, RegExp]>> = {
	'another name': [{name: 'other'}, /is not pkg 1\.0: the folder other-1\.0\.dist-info says other 1\.0/],
	'another version': [{version: '1.1'}, /is not pkg 1\.0/],
	'another name in METADATA': [
		{files: {'pkg-1.0.dist-info/METADATA': 'Name: x\nVersion: 1.0\n'}},
		/METADATA says x 1\.0/,
	],
	'no METADATA': [{patch: "data = data.replace(b'METADATA', b'METADATE')"}, /has no pkg-1\.0\.dist-info\/METADATA/],
	'two of them': [{files: {'other-1.0.dist-info/METADATA': ''}}, /has 2 \.dist-info folders/],
	'another format': [
		{files: {'pkg-1.0.dist-info/WHEEL': 'Wheel-Version: 2.0\n'}},
		/of a version that is not known: '2\.0'/,
	],
	'no archive at all': [{patch: "data = b'x' * 1000"}, /is no zip archive/],
	'an archive that is cut': [{patch: 'del data[len(data) // 2:]'}, /is no zip archive/],
	'content with another sum': [
		{
			write: "wheel.writestr(zipfile.ZipInfo('pkg/x'), b'content')",
			patch: "data = data.replace(b'content', b'CONTENT')",
		},
		/damaged file 'pkg\/x'/,
	],
	'a file that is longer than it says': [
		{write: "wheel.writestr('pkg/x', b'\\0' * 5_000_000)", patch: lastHeader(24, "b'\\x10\\0\\0\\0'")},
		/damaged file 'pkg\/x'/,
	],
	'a file of which the archive ends before': [
		{write: "wheel.writestr(zipfile.ZipInfo('pkg/x'), b'x')", patch: lastHeader(42, "b'\\xff\\xff\\xff\\x7f'")},
		/damaged file|is no zip archive/,
	],
	'another compression': [{write: "wheel.writestr('pkg/x', b'x', zipfile.ZIP_BZIP2)"}, /neither stored nor deflated/],
	'a file that belongs nowhere': [{files: {'pkg-1.0.data/nowhere/x': ''}}, /belongs nowhere/],
};

for (const [what, [spec, message]] of Object.entries(failing)) {
	kernelTest(`a wheel fails for ${what}`, async (t) => {
		const error = await t.throwsAsync(unpack(t, spec), {instanceOf: ForktreeError});
		t.is(error.code, 'InstallFailed', error.message);
		t.regex(error.message, message);
	});
}

kernelTest('a version is the same when only its spelling differs', async (t) => {
	const {metadata} = await unpack(t, {name: 'PKG', version: '1'});
	t.is(metadata.version, '1.0');
});

kernelTest('an unpacking that was given up, or that takes too long, ends', async (t) => {
	const {archives, folder} = await makeBench(t);
	const wheel = makeWheel(archives, {});
	const controller = new AbortController();
	const options = {signal: controller.signal, onProgress: () => controller.abort()};
	const aborted = createUnpack(workshop())(locked('pkg', '1.0', wheel), wheel, folder, options);
	await t.throwsAsync(aborted, {instanceOf: ForktreeError, message: /aborted/});
	const late = unpack(t, {write: "wheel.writestr('big.py', 'x = 1\\n' * 500_000)"}, {timeoutMs: 50});
	const error = await t.throwsAsync(late, {instanceOf: ForktreeError});
	t.is(error.code, 'InstallTimeout');
});

test('markers and versions mean what they mean to pip', async (t) => {
	const program = path.join(import.meta.dirname, '..', 'guest', 'markers.py');
	const {exitCode, stderr} = await execa(python, ['-I', '-B', program, path.join(guestDirectory, 'packages')], {
		reject: false,
	});
	if (/No module named 'pip'/.test(stderr)) t.pass('this interpreter has no pip to compare with');
	else t.is(exitCode, 0, stderr);
});
