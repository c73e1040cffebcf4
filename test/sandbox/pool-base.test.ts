import {execFileSync} from 'node:child_process';
import {existsSync, readdirSync, readFileSync, readlinkSync} from 'node:fs';
import {chmod, copyFile, mkdir, readFile, rename, rm, symlink, writeFile} from 'node:fs/promises';
import {hostname} from 'node:os';
import path from 'node:path';
import test from 'ava';
import {create as createTar} from 'tar';
import {isRoot, serialKernelTest as kernelTest, refusal} from '../helpers/kernel-test.ts';
import {makePool, usePool} from '../helpers/pool.ts';
import {temporaryFolder} from '../helpers/runtime.ts';

const fixture = usePool({defaults: {limits: {memoryMb: 64}}});

/** Prints what files hold and whose names folders hold, or why not: the only program of the roots made here. */
const program = `
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(int count, char** words) {
	for (int i = 1; i < count; i++) {
		char text[256];
		if (strncmp(words[i], "+", 1) == 0) {
			int made = open(words[i] + 1, O_CREAT | O_WRONLY, 0644);
			printf("%s\\n", made < 0 ? strerrorname_np(errno) : "made");
			continue;
		}
		int file = open(words[i], O_RDONLY);
		if (file < 0) {
			printf("%s\\n", strerrorname_np(errno));
			continue;
		}
		ssize_t size = read(file, text, sizeof text);
		if (size >= 0) printf("%.*s\\n", (int)size, text);
		if (size >= 0) continue;
		DIR* folder = fdopendir(file);
		int names = 0;
		for (dirent* entry; (entry = readdir(folder)) != nullptr;) names += entry->d_name[0] != '.';
		printf("%d names\\n", names);
	}
}
`;

let work = '';
/** A root with the program at /bin/look. */
let root = '';

test.serial.before(async () => {
	if (refusal !== undefined) return;
	work = await temporaryFolder();
	await chmod(work, 0o755);
	root = await makeRoot('root', {'etc/name': 'root', 'etc/deep/file': 'deep', 'file-at-top': 'top'});
});
test.after.always(async () => rm(work, {recursive: true, force: true}));

async function makeFolder(name: string, files: Readonly<Record<string, string>>): Promise<string> {
	const folder = path.join(work, name);
	for (const [file, text] of Object.entries(files)) {
		await mkdir(path.dirname(path.join(folder, file)), {recursive: true});
		await writeFile(path.join(folder, file), text);
	}
	return folder;
}

async function makeRoot(name: string, files: Readonly<Record<string, string>>): Promise<string> {
	const look = path.join(work, 'look');
	if (!existsSync(look)) {
		execFileSync('g++', ['-static', '-O1', '-x', 'c++', '-', '-o', look], {
			input: program,
			stdio: ['pipe', 'pipe', 'pipe'],
		});
	}
	const folder = await makeFolder(name, {...files, 'bin/.keep': ''});
	await copyFile(look, path.join(folder, 'bin/look'));
	return folder;
}

async function pack(name: string, folder: string): Promise<string> {
	const file = path.join(work, name);
	await createTar({file, cwd: folder, gzip: /gz$/.test(name), portable: true}, readdirSync(folder));
	return file;
}

async function look(
	paths: readonly string[],
	options: Parameters<ReturnType<typeof fixture>['run']>[1],
): Promise<string[]> {
	const {stdout, error} = await fixture().run(['/bin/look', ...paths], {cwd: '/', ...options});
	return error === undefined ? stdout.trimEnd().split('\n') : [error.message];
}

const bases = () =>
	existsSync(path.join(fixture().stateDir, 'bases')) ? readdirSync(path.join(fixture().stateDir, 'bases')) : [];

kernelTest('host: system folders and few files of /etc, no homes and no secrets', async (t) => {
	const {stdout} = await fixture().run(['sh', '-c', 'ls / /etc; cat /etc/passwd; ls /dev; cat /etc/shadow']);
	t.notRegex(stdout, /^(?:home|root|var|boot|mnt|srv|work|shadow|ssh)$/m);
	t.regex(stdout, /^usr$/m);
	t.regex(stdout, /^root:x:0:0:root:\/:\/bin\/false\nnobody:x:65534:/m);
	t.notRegex(stdout, /^(?:sda|vda|mem|kmsg|kvm|loop0)$/m);
});

kernelTest('a folder is what it sees as /, and only that', async (t) => {
	t.deepEqual(
		await look(['/etc/name', '/etc/deep/file', '/file-at-top', '/usr', '/etc/passwd', '/proc/self/comm'], {base: root}),
		['root', 'deep', 'top', 'ENOENT', 'ENOENT', 'look\n'].flatMap((each) => each.trimEnd()).concat([]),
	);
	t.deepEqual(await look(['+/file', '+/etc/new', '+/tmp/file', '+/tmp/work/file'], {base: root}), [
		'EROFS',
		'EROFS',
		'made',
		'made',
	]);
});

for (const name of ['root.tar', 'root.tar.gz', 'root.tgz']) {
	kernelTest(`an archive ${name} is what it sees as /`, async (t) => {
		t.deepEqual(await look(['/etc/name', '+/etc/new'], {base: await pack(name, root)}), ['root', 'EROFS']);
	});
}

kernelTest('an archive is unpacked once, whatever its name; another content is another base', async (t) => {
	const one = await pack('one.tar', await makeRoot('content', {'etc/name': 'one'}));
	const before = bases();
	await look(['/etc/name'], {base: one});
	const [unpacked, ...others] = bases().filter((each) => !before.includes(each));
	t.deepEqual(others, []);
	// Only the unpacked folder is looked at from now on.
	await writeFile(path.join(fixture().stateDir, 'bases', unpacked ?? '', 'etc/name'), 'kept');
	const copy = path.join(work, 'copy.tar');
	await copyFile(one, copy);
	t.deepEqual(await look(['/etc/name'], {base: one}), ['kept']);
	t.deepEqual(await look(['/etc/name'], {base: copy}), ['kept']);
	await pack('one.tar', await makeRoot('content', {'etc/name': 'two'}));
	t.deepEqual(await look(['/etc/name'], {base: one}), ['two']);
	t.is(bases().length, before.length + 2);
});

kernelTest('several that need one archive at once share what is unpacked', async (t) => {
	const base = await pack('shared.tar.gz', await makeRoot('shared', {'etc/name': 'shared'}));
	const before = bases().length;
	const all = await Promise.all([1, 2, 3, 4].map(async () => look(['/etc/name'], {base})));
	t.deepEqual(all, [['shared'], ['shared'], ['shared'], ['shared']]);
	t.is(bases().length, before + 1);
});

kernelTest('what an owner has unpacked is there for the next one, but not what it had begun', async (t) => {
	const base = await pack('kept.tar', await makeRoot('kept', {'etc/name': 'kept'}));
	const first = await makePool(t);
	t.is((await first.run(['/bin/look', '/etc/name'], {base, cwd: '/'})).stdout, 'kept\n');
	const folder = path.join(first.stateDir, 'bases');
	const unpacked = readdirSync(folder);
	await first.pool.close();
	await mkdir(path.join(folder, '.unpacking-123456/etc'), {recursive: true});
	const second = await makePool(t, {stateDir: first.stateDir});
	t.deepEqual(readdirSync(folder), unpacked);
	t.is((await second.run(['/bin/look', '/etc/name'], {base, cwd: '/'})).stdout, 'kept\n');
	t.deepEqual(readdirSync(folder), unpacked);
});

type Entry = {readonly name: string; readonly type?: string; readonly link?: string; readonly text?: string};

/** A ustar archive with headers as given: no tool makes hostile ones. */
function makeArchive(entries: readonly Entry[]): Buffer {
	const blocks = entries.map(({name, type = '0', link = '', text = ''}) => {
		const header = Buffer.alloc(512);
		header.write(name, 0);
		for (const [value, at] of [
			['0000755\0', 100],
			['0000000\0', 108],
			['0000000\0', 116],
			[`${text.length.toString(8).padStart(11, '0')}\0`, 124],
			['00000000000\0', 136],
			['        ', 148],
			[type, 156],
			[link, 157],
			['ustar\x0000', 257],
			['0000001\0', 329],
			['0000003\0', 337],
		] as const) {
			header.write(value, at);
		}
		const sum = header.reduce((total, byte) => total + byte, 0);
		header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
		const content = Buffer.alloc(Math.ceil(text.length / 512) * 512);
		content.write(text);
		return Buffer.concat([header, content]);
	});
	return Buffer.concat([...blocks, Buffer.alloc(1024)]);
}

const escapes = () => path.join(work, 'escaped');
for (const [title, entries] of [
	['a name with ..', () => [{name: '../../../escaped', text: 'x'}]],
	['an absolute name', () => [{name: escapes(), text: 'x'}]],
	[
		'a name below a link outwards',
		() => [
			{name: 'out', type: '2', link: work},
			{name: 'out/escaped', text: 'x'},
		],
	],
	[
		'a link below a link outwards',
		() => [
			{name: 'out', type: '2', link: work},
			{name: 'out/escaped', type: '2', link: '/etc/passwd'},
		],
	],
	['a hard link outwards', () => [{name: 'out', type: '1', link: '../../../../../../etc/passwd'}]],
	['an absolute hard link', () => [{name: 'out', type: '1', link: '/etc/passwd'}]],
	[
		'a hard link to a link outwards',
		() => [
			{name: 'a', type: '2', link: '/etc/passwd'},
			{name: 'b', type: '1', link: 'c/../a'},
		],
	],
] as const) {
	kernelTest(`InvalidSource: ${title}`, async (t) => {
		const file = path.join(work, 'hostile.tar');
		await writeFile(file, makeArchive(entries() as Entry[]));
		const before = bases();
		const passwd = readFileSync('/etc/passwd', 'utf8');
		await t.throwsAsync(fixture().pool.create({base: file}), {code: 'InvalidSource', message: /hostile\.tar/});
		t.deepEqual(bases(), before);
		t.false(existsSync(escapes()));
		t.is(readFileSync('/etc/passwd', 'utf8'), passwd);
	});
}

for (const [title, change] of [
	['cut within a file', (archive: Buffer) => archive.subarray(0, 700)],
	['cut within a header', (archive: Buffer) => archive.subarray(0, 300)],
	['with a wrong checksum', (archive: Buffer) => Buffer.concat([Buffer.from('X'), archive.subarray(1)])],
	[
		'with a wrong checksum later on',
		(archive: Buffer) =>
			Buffer.concat([
				archive.subarray(0, 1536),
				Buffer.from(archive.subarray(0, 512)).fill('X', 0, 3),
				Buffer.alloc(1024),
			]),
	],
	['that is none', () => Buffer.from('#!/bin/sh\n'.repeat(200))],
] as const) {
	for (const ending of ['tar', 'tar.gz']) {
		kernelTest(`InvalidSource: an archive ${title} (.${ending})`, async (t) => {
			const file = path.join(work, `broken.${ending}`);
			await writeFile(file, change(makeArchive([{name: 'file', text: 'x'.repeat(600)}])));
			const before = bases();
			await t.throwsAsync(fixture().pool.create({base: file}), {code: 'InvalidSource'});
			t.deepEqual(bases(), before);
		});
	}
}

kernelTest('device nodes and pipes of an archive are left out, links lead no further than its root', async (t) => {
	const file = path.join(work, 'special.tar');
	const content = [
		{name: 'bin/', type: '5'},
		{name: 'etc/', type: '5'},
		{name: 'etc/memory', type: '3'},
		{name: 'etc/disk', type: '4'},
		{name: 'etc/pipe', type: '6'},
		{name: 'etc/passwd', type: '2', link: '/etc/shadow'},
		{name: 'etc/up', type: '2', link: '../../../../etc/name'},
		{name: 'etc/name', text: 'its own'},
		{name: 'etc/hard', type: '1', link: 'etc/name'},
		{name: 'top', type: '2', link: '/etc/hostname'},
	];
	await writeFile(file, makeArchive(content));
	const layer = await makeRoot('only-look', {});
	const seen = await look(['/etc/memory', '/etc/disk', '/etc/pipe', '/etc/passwd', '/etc/up', '/etc/hard', '/top'], {
		base: file,
		layers: [layer],
	});
	t.deepEqual(seen, ['ENOENT', 'ENOENT', 'ENOENT', 'ENOENT', 'its own', 'its own', 'ENOENT']);
});

kernelTest('InvalidSource: what is not there, or neither a folder nor an archive', async (t) => {
	const file = path.join(await makeFolder('other', {'base.zip': 'x'}), 'base.zip');
	for (const options of [{base: '/no/such/base'}, {base: file}, {layers: [file]}, {layers: ['/no/such/layer.tar']}]) {
		await t.throwsAsync(fixture().pool.create(options), {
			code: 'InvalidSource',
			message: /^(?:base|layers): expected a folder/,
		});
	}
});

kernelTest('layers lie over the base, later ones over earlier ones', async (t) => {
	const one = await makeFolder('layer-1', {'etc/name': 'one', 'etc/one': 'one', 'opt/both': 'one'});
	const two = await pack('layer-2.tar', await makeFolder('layer-2', {'etc/name': 'two', 'opt/both': 'two'}));
	const paths = ['/etc/name', '/etc/one', '/etc/deep/file', '/opt/both', '/file-at-top'];
	t.deepEqual(await look(paths, {base: root, layers: [one, two]}), ['two', 'one', 'deep', 'two', 'top']);
	t.deepEqual(await look(paths, {base: root, layers: [two, one]}), ['one', 'one', 'deep', 'one', 'top']);
	t.deepEqual(await look(['+/etc/new', '+/opt/new'], {base: root, layers: [one, two]}), ['EROFS', 'EROFS']);
	t.is(await readFile(path.join(one, 'etc/name'), 'utf8'), 'one');
});

kernelTest('layers over the host, whose names may have colons, commas and backslashes', async (t) => {
	const layer = await makeFolder('odd:name,with\\all', {'usr/share/forktree-test/file': 'over the host'});
	const {stdout} = await fixture().run(['cat', '/usr/share/forktree-test/file'], {layers: [layer]});
	t.is(stdout, 'over the host');
});

kernelTest('mounts: read-only by default, else writable for what the modes let everybody write', async (t) => {
	const folder = await makeFolder('mounted', {file: 'mounted'});
	await mkdir(path.join(folder, 'open'));
	await chmod(path.join(folder, 'open'), 0o777);
	const targets = ['/data/file', '+/data/new', '+/data/open/new'];
	t.deepEqual(await look(targets, {base: root, mounts: [{source: folder, target: '/data'}]}), [
		'mounted',
		'EROFS',
		'EROFS',
	]);
	const writable = [{source: folder, target: '/data', readonly: false}];
	t.deepEqual(await look(targets, {base: root, mounts: writable}), [
		'mounted',
		isRoot ? 'EACCES' : 'made', // an ordinary user's sandboxes write as that user
		'made',
	]);
	t.true(existsSync(path.join(folder, 'open/new')));
});

kernelTest('a mount’s source is resolved once: a link that is changed later leads nobody elsewhere', async (t) => {
	const [one, two] = [await makeFolder('swap-1', {file: 'one'}), await makeFolder('swap-2', {file: 'two'})];
	const link = path.join(work, 'swapped');
	await symlink(one, link);
	const mounts = [{source: link, target: '/data'}];
	const sandbox = await fixture().create(t, {base: root, cwd: '/', mounts});
	await rm(link);
	await symlink(two, link);
	const seen = async () => (await sandbox.exec(['/bin/look', '/data/file'])).stdout;
	t.is(await seen(), 'one\n');
	t.deepEqual(await look(['/data/file'], {base: root, mounts}), ['one']);
	await rename(one, path.join(work, 'moved'));
	t.is(await seen(), 'one\n');
});

kernelTest('a mount at a path that the base has nothing of: the folders above it are made', async (t) => {
	const folder = await makeFolder('deep', {file: 'deep'});
	const mounts = [{source: folder, target: '/not/in/the/base'}];
	t.deepEqual(await look(['/not/in/the/base/file', '+/not/in/new'], {base: root, mounts}), ['deep', 'EROFS']);
});

kernelTest('a mount’s source that was forgotten is resolved anew; who has the folder keeps it', async (t) => {
	const folder = await makeFolder('forgotten', {file: 'one'});
	const mounts = [{source: folder, target: '/data'}];
	const sandbox = await fixture().create(t, {base: root, cwd: '/', mounts});
	await rm(folder, {recursive: true});
	await makeFolder('forgotten', {file: 'two'});
	await fixture().pool.forgetMount(folder);
	t.deepEqual(await look(['/data/file'], {base: root, mounts}), ['two']);
	t.is((await sandbox.exec(['/bin/look', '/data/file'])).stdout, 'ENOENT\n');
	await fixture().pool.forgetMount('/never/mounted');
});

kernelTest('mounts: several folders are seen as one, which can be forgotten', async (t) => {
	const folder = (name: string) => makeFolder(name, {same: name, [name]: name});
	const sources = [await folder('layer-1'), await folder('layer-2')];
	const mounts = [{source: sources, target: '/data'}];
	const files = ['/data/same', '/data/layer-1', '/data/layer-2', '+/data/new'];
	t.deepEqual(await look(files, {base: root, mounts}), ['layer-1', 'layer-1', 'layer-2', 'EROFS']);
	await rm(path.join(work, 'layer-1'), {recursive: true});
	await makeFolder('layer-1', {same: 'new'});
	await fixture().pool.forgetMount(sources);
	t.deepEqual(await look(['/data/same'], {base: root, mounts}), ['new']);
});

kernelTest('mounts that can’t be: InvalidSource, or an error that names the step', async (t) => {
	const {pool} = fixture();
	const file = path.join(await makeFolder('no-folder', {file: 'x'}), 'file');
	for (const source of ['/no/such/source', file]) {
		await t.throwsAsync(pool.create({mounts: [{source, target: '/data'}]}), {
			code: 'InvalidSource',
			message: new RegExp(`^mounts: expected a folder, got ${source}: `),
		});
	}
	await t.throwsAsync(pool.create({mounts: [{source: '/usr', target: '/usr/no/such/target'}]}), {
		code: 'Syscall',
		message: /attach/,
	});
});

for (const [title, mount, message] of [
	[
		'a relative source',
		{source: 'usr', target: '/data'},
		/^mounts\[0\]\.source: expected an absolute path, got "usr"$/,
	],
	[
		'a relative source among several',
		{source: ['/usr', 'usr'], target: '/data'},
		/^mounts\[0\]\.source\[1\]: expected an/,
	],
	['no source', {source: [], target: '/data'}, /^mounts\[0\]\.source: expected at least one folder$/],
	[
		'several that can be written',
		{source: ['/usr'], target: '/data', readonly: false},
		/^mounts\[0\]\.readonly: expected true for several folders/,
	],
	['a relative target', {source: '/usr', target: 'data'}, /^mounts\[0\]\.target: expected an absolute path/],
	['a target with ..', {source: '/usr', target: '/data/../etc'}, /^mounts\[0\]\.target: expected an absolute path/],
	['/', {source: '/usr', target: '/'}, /^mounts\[0\]\.target: expected a path outside/],
	['/proc', {source: '/usr', target: '/proc/sys'}, /^mounts\[0\]\.target: expected a path outside/],
	['/forktree', {source: '/usr', target: '/forktree'}, /^mounts\[0\]\.target: expected a path outside/],
	[
		'a word for readonly',
		{source: '/usr', target: '/data', readonly: 'no'},
		/^mounts\[0\]\.readonly: expected true or false/,
	],
	[
		'an unknown option',
		{source: '/usr', target: '/data', rw: true},
		/^mounts\[0\]: expected source, target, readonly, got "rw"$/,
	],
] as const) {
	kernelTest(`mounts are checked: ${title}`, async (t) => {
		await t.throwsAsync(fixture().pool.create({mounts: [mount as never]}), {any: true, message});
	});
}

kernelTest('writable none: nothing can be written, and it begins at /', async (t) => {
	const sandbox = await fixture().create(t, {writable: 'none'});
	t.is((await sandbox.exec(['pwd'])).stdout, '/\n');
	t.not((await sandbox.exec(['touch', '/tmp/file'])).exitCode, 0);
});

kernelTest('writable scratch: a /tmp of its own, new for each sandbox', async (t) => {
	const [one, two] = [await fixture().create(t), await fixture().create(t)];
	t.is(
		(await one.exec(['sh', '-c', 'echo x > /tmp/file; echo y > file; ls /tmp /tmp/work'])).stdout,
		'/tmp:\nfile\nwork\n\n/tmp/work:\nfile\n',
	);
	t.is((await two.exec(['ls', '-A', '/tmp', '/tmp/work'])).stdout, '/tmp:\nwork\n\n/tmp/work:\n');
});

kernelTest('network none: loopback alone; host: the machine’s', async (t) => {
	const devices = ['sh', '-c', 'tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d " " | sort'];
	t.is((await fixture().run(devices)).stdout, 'lo\n');
	const own = readFileSync('/proc/self/net/dev', 'utf8').split('\n').slice(2).filter(Boolean);
	const names = own.map((line) => line.split(':')[0]?.trim()).sort();
	const {stdout} = await fixture().run(devices, {network: 'host'});
	t.deepEqual(stdout.trimEnd().split('\n'), names);
	const namespace = await fixture().run(['readlink', '/proc/self/ns/net'], {network: 'host'});
	t.is(namespace.stdout.trim(), readlinkSync('/proc/self/ns/net'));
});

kernelTest('the host name: sandbox, or as given, and the host’s stays', async (t) => {
	const before = hostname();
	t.is((await fixture().run(['uname', '-n'])).stdout, 'sandbox\n');
	t.is((await fixture().run(['uname', '-n'], {hostname: 'of-the-test.example'})).stdout, 'of-the-test.example\n');
	t.is(hostname(), before);
	await t.throwsAsync(fixture().pool.create({hostname: 'x'.repeat(65)}), {
		instanceOf: RangeError,
		message: /^hostname/,
	});
});

kernelTest('options of a sandbox are checked', async (t) => {
	const {pool} = fixture();
	for (const [options, message] of [
		[{bases: 'host'}, /^sandbox options: expected base, .*, got "bases"$/],
		[{base: ''}, /^base: expected a non-empty string/],
		[{layers: '/usr'}, /^layers: expected an array, got "\/usr"$/],
		[{writable: 'all'}, /^writable: expected none or scratch/],
		[{network: 'bridge'}, /^network: expected none or host, got "bridge"$/],
		[{cwd: 'work'}, /^cwd: expected an absolute path/],
		[{waitMs: -1}, /^waitMs/],
		[{limits: {memoryMb: '64'}}, /^limits\.memoryMb: expected a number, got "64"$/],
		[{limits: {processes: 1.5}}, /^limits\.processes: expected a whole number, got 1\.5$/],
		[
			{mounts: Array.from({length: 9}, () => ({source: '/usr', target: '/data'}))},
			/^mounts: expected at most 8, got 9$/,
		],
		[null, /^sandbox options: expected an object, got null$/],
	] as const) {
		await t.throwsAsync(pool.create(options as never), {any: true, message});
	}
});
