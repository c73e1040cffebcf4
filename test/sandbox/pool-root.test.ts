import {existsSync, readFileSync, statSync, symlinkSync, writeFileSync} from 'node:fs';
import {chmod, mkdir, rm} from 'node:fs/promises';
import path from 'node:path';
import type {ExecutionContext} from 'ava';
import {ForktreeError, type SandboxOptions} from '../../src/index.ts';
import {isRoot, serialKernelTest as kernelTest, rootTest, userTest} from '../helpers/kernel-test.ts';
import {usePool, within} from '../helpers/pool.ts';
import {temporaryFolder} from '../helpers/runtime.ts';

const fixture = usePool();

/** What shell text prints, in a sandbox of its own. */
async function say(t: ExecutionContext, text: string, options: SandboxOptions): Promise<string> {
	const {stdout, stderr, exitCode} = await fixture().run(['sh', '-c', text], options);
	t.is(exitCode, 0, stderr);
	return stdout;
}

async function refusal(t: ExecutionContext, options: SandboxOptions): Promise<ForktreeError> {
	const error = await t.throwsAsync(within(fixture().pool.create(options), 'an answer'), {instanceOf: ForktreeError});
	if (error === undefined) throw new Error('expected a refusal');
	return error;
}

async function keptFolder(t: ExecutionContext): Promise<string> {
	const folder = await temporaryFolder();
	await chmod(folder, 0o700);
	t.teardown(() => rm(folder, {recursive: true, force: true}));
	return folder;
}

rootTest(
	'with an overlay everything can be written, and nothing of it reaches the base or another sandbox',
	async (t) => {
		const change = [
			'echo new >/made; echo more >>/etc/passwd; mkdir /usr/made; rm /usr/bin/env; mkdir /usr/bin/env',
			'mv /usr/lib/os-release /usr/moved; ln -s made /usr/link',
			'cat /made; tail -n 1 /etc/passwd; id -u; ls -d /usr/made /usr/bin/env /usr/moved',
		].join(';');
		const wanted = 'new\nmore\n0\n/usr/bin/env\n/usr/made\n/usr/moved\n';
		t.is(await say(t, change, {writable: 'overlay'}), wanted);
		t.false(existsSync('/made') || existsSync('/usr/made') || existsSync('/usr/moved'));
		t.true(statSync('/usr/bin/env').isFile());
		t.is(
			await say(t, 'ls -d /made /usr/made 2>/dev/null; stat -c %F /usr/bin/env', {writable: 'overlay'}),
			'regular file\n',
		);
	},
);

rootTest(
	'what is fixed can’t be written with an overlay either, nor does anything there have an effect on the host',
	async (t) => {
		const attempts =
			'for f in /dev/x /forktree/x /forktree/native/init /proc/sys/kernel/core_pattern; do touch $f || echo $f; done';
		const answer = '/dev/x\n/forktree/x\n/forktree/native/init\n/proc/sys/kernel/core_pattern\n';
		t.is(await say(t, `(${attempts}) 2>/dev/null`, {writable: 'overlay'}), answer);
		t.regex(
			await say(t, 'grep -E "Cap(Prm|Eff|Bnd)" /proc/self/status', {writable: 'overlay'}),
			/^(?:Cap...:\t0+\n){3}$/,
		);
	},
);

rootTest('an overlay in memory is as large as scratchMb, and limitsHit says when it is full', async (t) => {
	const result = await fixture().run(['dd', 'if=/dev/zero', 'of=/usr/big', 'bs=64k'], {
		writable: 'overlay',
		limits: {scratchMb: 2},
	});
	t.regex(result.stderr, /No space left/);
	t.deepEqual(result.limitsHit, ['scratch']);
});

kernelTest('a full /tmp is told, also when it has run out of files', async (t) => {
	const limits = {scratchMb: 1};
	const bytes = await fixture().run(['dd', 'if=/dev/zero', 'of=/tmp/big', 'bs=64k'], {limits});
	t.deepEqual(bytes.limitsHit, ['scratch']);
	const files = await fixture().run(['sh', '-c', 'i=0; while : >/tmp/$i; do i=$((i+1)); done'], {limits});
	t.deepEqual(files.limitsHit, ['scratch']);
	const cleared = await fixture().run(['sh', '-c', 'head -c 500000 /dev/zero >/tmp/x'], {limits});
	t.deepEqual(cleared.limitsHit, []);
});

rootTest('what a sandbox writes is kept in a folder, for the next one', async (t) => {
	const folder = await keptFolder(t);
	const options = {writable: {overlay: folder}};
	await say(t, 'echo kept >/etc/kept; rm -r /usr/share/common-licenses; : >/usr/made', options);
	t.is(
		await say(t, 'cat /etc/kept; ls -d /usr/share/common-licenses /usr/made 2>/dev/null || true', options),
		'kept\n/usr/made\n',
	);
	t.is(statSync(path.join(folder, 'upper/usr/made')).uid, 0, 'it belongs to root, whatever ids the sandbox had');
	t.is(readFileSync(path.join(folder, 'upper/root/etc/kept'), 'utf8'), 'kept\n');
});

rootTest('pool.run: the next program can have the folder at once', async (t) => {
	const options = {sandbox: {writable: {overlay: await keptFolder(t)}}};
	for (const line of ['1', '2', '3']) {
		const {stdout} = await within(
			fixture().pool.run(['sh', '-c', 'echo >>/usr/made; wc -l </usr/made'], options),
			line,
		);
		t.is(stdout, `${line}\n`);
	}
});

rootTest('a folder is written to by one sandbox at a time, and by root alone', async (t) => {
	const folder = await keptFolder(t);
	const sandbox = await fixture().create(t, {writable: {overlay: folder}});
	t.regex((await refusal(t, {writable: {overlay: folder}})).message, /in use/);
	await sandbox.destroy();
	await chmod(folder, 0o755);
	const open = await refusal(t, {writable: {overlay: folder}});
	t.is(open.code, 'InvalidSource');
	t.true(open.message.includes(`chmod 700 ${folder}`), open.message);
	t.is((await refusal(t, {writable: {overlay: path.join(folder, 'missing')}})).code, 'InvalidSource');
});

rootTest('a link that a sandbox has put in the place of a system folder leads nowhere', async (t) => {
	const folder = await keptFolder(t);
	const sandbox = await fixture().create(t, {writable: {overlay: folder}});
	await sandbox.destroy();
	// What was mounted can't be replaced from inside; an earlier sandbox with another base could have.
	await rm(path.join(folder, 'upper/root/proc'), {recursive: true, force: true});
	const host = await temporaryFolder();
	t.teardown(() => rm(host, {recursive: true, force: true}));
	symlinkSync(host, path.join(folder, 'upper/root/proc'));
	const error = await refusal(t, {writable: {overlay: folder}});
	t.is(error.code, 'InvalidSource');
	t.regex(error.message, /\/proc/);
});

rootTest('an overlay over a base folder and layers: what is root’s belongs to the sandbox’s root', async (t) => {
	const layer = await temporaryFolder();
	t.teardown(() => rm(layer, {recursive: true, force: true}));
	await mkdir(path.join(layer, 'data,with:odd\\name'));
	writeFileSync(path.join(layer, 'data,with:odd\\name', 'file'), 'lower');
	await chmod(path.join(layer, 'data,with:odd\\name', 'file'), 0o600);
	const text = 'cd /data*; cat file; echo upper >file; cat file; stat -c %u:%g file';
	t.is(await say(t, text, {layers: [layer], writable: 'overlay'}), 'lowerupper\n0:0\n');
	t.is(readFileSync(path.join(layer, 'data,with:odd\\name', 'file'), 'utf8'), 'lower');
});

kernelTest('a uid of choice, for programs and for what they write', async (t) => {
	t.is(await say(t, 'id -u; id -g; : >/tmp/x; stat -c %u:%g /tmp/x', {uid: 1234}), '1234\n1234\n1234:1234\n');
	if (isRoot) {
		t.is(
			await say(t, 'id -u; touch /usr/x 2>/dev/null || echo refused', {uid: 1234, writable: 'overlay'}),
			'1234\nrefused\n',
		);
	}
	t.is(await say(t, 'id -u', {uid: 0}), '0\n');
});

kernelTest('devices of choice, beside null', async (t) => {
	const {stdout} = await fixture().run(['sh', '-c', 'cd /dev; ls | while read f; do [ -c $f ] && echo $f; done']);
	t.is(stdout, 'full\nnull\nrandom\ntty\nurandom\nzero\n');
	t.is(
		await say(t, 'cd /dev; ls | while read f; do [ -c $f ] && echo $f; done; true', {devices: ['kmsg']}),
		'kmsg\nnull\n',
	);
	const missing = await refusal(t, {devices: ['there-is-none']});
	t.is(missing.code, 'InvalidSource');
	t.regex(missing.message, /\/dev\/there-is-none/);
});

kernelTest('what is no uid, device or folder is refused with words', async (t) => {
	const {pool} = fixture();
	for (const uid of [-1, 1.5, 65_535, Number.NaN])
		await t.throwsAsync(pool.create({uid}), {instanceOf: RangeError, message: /^uid: /});
	for (const device of ['../etc/passwd', '/dev/null', '', 'a//b', '.']) {
		await t.throwsAsync(pool.create({devices: [device]}), {message: /^devices\[0\]: /});
	}
	await t.throwsAsync(pool.create({writable: 'all' as never}), {instanceOf: RangeError, message: /^writable: /});
	await t.throwsAsync(pool.create({writable: {upper: '/x'} as never}), {instanceOf: TypeError, message: /^writable: /});
	await t.throwsAsync(pool.create({writable: 'overlay', limits: {scratchMb: 0}}), {message: /^limits.scratchMb: /});
});

userTest('who is not root can’t have an overlay, and hears why', async (t) => {
	const error = await refusal(t, {writable: 'overlay'});
	t.is(error.code, 'NotSupported');
	t.regex(error.message, /^writable: expected none or scratch, since only root can map the ids of mounts/);
});
