import {readdirSync} from 'node:fs';
import {rm, writeFile} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import {PassThrough, Readable} from 'node:stream';
import type {Sandbox} from '../../src/index.ts';
import {isAlive} from '../helpers/host-process.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {seenByHost, startReady, until, usePool, waitMs, within} from '../helpers/pool.ts';
import {python, temporaryFolder} from '../helpers/runtime.ts';

process.env.FORKTREE_TEST_SECRET = 'of the host';
const fixture = usePool(
	{defaults: {env: {FROM_POOL: 'pool', BOTH: 'pool'}}},
	{env: {FROM_SANDBOX: 'sandbox', BOTH: 'sandbox'}},
);
const mebibyte = 1024 * 1024;

/** Of the tests that leave it as it was. */
function sandbox(): Sandbox {
	return fixture().shared;
}

kernelTest('stdout, stderr and the exit code', async (t) => {
	const result = await sandbox().exec(['sh', '-c', 'echo out; echo err >&2; exit 3']);
	t.like(result, {exitCode: 3, signal: undefined, stdout: 'out\n', stderr: 'err\n', error: undefined});
	t.deepEqual(result.limitsHit, []);
	t.true(result.peakMiB > 0 && result.cpuMs > 0 && result.durationMs > 0);
});

kernelTest('a signal that ends it has its name, and the word is Killed', async (t) => {
	const result = await sandbox().exec(['sh', '-c', 'kill -TERM $$']);
	t.like(result, {
		exitCode: undefined,
		signal: 'SIGTERM',
		error: {code: 'Killed', phase: 'run', sandbox: sandbox().id},
	});
	t.regex(result.error?.message ?? '', /SIGTERM/);
});

kernelTest('what it prints comes while it runs, each stream to its own callback', async (t) => {
	const input = new PassThrough();
	const heard: string[] = [];
	let out = '';
	const result = sandbox().exec(['sh', '-c', 'echo one; read line; echo two $line; echo three >&2'], {
		stdin: input,
		onStdout(text) {
			out += text;
			// Were it told only in the end, this would never be written.
			if (out === 'one\n') input.end('said\n');
		},
		onStderr: (text) => heard.push(text),
	});
	t.is((await within(result, 'the end of the program')).stdout, 'one\ntwo said\n');
	t.is(out, 'one\ntwo said\n');
	t.is(heard.join(''), 'three\n');
});

for (const [title, input] of [
	['text', 'wörds'],
	['bytes', Buffer.from('wörds')],
	['a view on bytes', new Uint8Array(Buffer.from('-wörds-')).subarray(1, 7)],
	['a stream', () => Readable.from(['w', Buffer.from('ö'), 'rds'])],
	['no text', ''],
] as const) {
	kernelTest(`stdin: ${title}`, async (t) => {
		const stdin = typeof input === 'function' ? input() : input;
		const result = await within(sandbox().exec(['cat'], {stdin}), 'the end of its input');
		t.like(result, {exitCode: 0, stdout: input === '' ? '' : 'wörds'});
	});
}

kernelTest('stdin is empty when nothing is given, and can be opened by name', async (t) => {
	t.is((await sandbox().exec(['cat'])).exitCode, 0);
	t.is((await sandbox().exec(['cat', '/dev/stdin'], {stdin: 'by name'})).stdout, 'by name');
});

for (const [title, make] of [
	['text', () => 'x'.repeat(mebibyte)],
	['a stream', () => Readable.from(Array.from({length: 64}, () => 'x'.repeat(mebibyte / 64)))],
] as const) {
	kernelTest(`stdin: a MiB as ${title} arrives whole`, async (t) => {
		const result = await within(sandbox().exec(['wc', '-c'], {stdin: make()}), 'the end of its input');
		t.is(Number(result.stdout), mebibyte);
	});

	kernelTest(`stdin: a MiB as ${title} to a program that does not read it is no failure`, async (t) => {
		const result = await within(sandbox().exec(['true'], {stdin: make()}), 'the end of the program');
		t.like(result, {exitCode: 0, error: undefined});
	});
}

kernelTest('a stream that goes on after the program has ended is let go', async (t) => {
	const files = () => readdirSync('/proc/self/fd').length;
	await sandbox().exec(['true']);
	const before = files();
	const input = new PassThrough();
	t.is((await within(sandbox().exec(['true'], {stdin: input}), 'the end of the program')).exitCode, 0);
	await until(() => input.destroyed, 'an input that was let go');
	await until(() => files() <= before, 'a closed pipe');
});

kernelTest('input for a program of a sandbox that has just ended is no failure of ours', async (t) => {
	const own = await fixture().create(t);
	const {first} = await seenByHost(fixture().stateDir, own);
	process.kill(first, 'SIGKILL');
	// Nothing of ours hears of it before this turn of the loop is over.
	const deadline = performance.now() + waitMs;
	while (isAlive(first) && performance.now() < deadline);
	const result = await within(own.exec(['cat'], {stdin: 'input'}), 'the end of the run');
	t.like(result, {exitCode: undefined, error: {code: 'Killed'}});
	t.true(own.isIdle);
});

kernelTest('the environment is what was given, and nothing else', async (t) => {
	const {stdout} = await sandbox().exec(['env'], {env: {FROM_CALL: 'call', WITH: 'a=b\nc', EMPTY: ''}});
	t.deepEqual(stdout.trimEnd().split('\n').sort(), [
		'BOTH=sandbox',
		'EMPTY=',
		'FROM_CALL=call',
		'FROM_POOL=pool',
		'FROM_SANDBOX=sandbox',
		'WITH=a=b',
		'c',
	]);
});

kernelTest('the working folder: of its own by default, or as given', async (t) => {
	t.is((await sandbox().exec(['pwd'])).stdout, '/tmp/work\n');
	t.is((await sandbox().exec(['pwd'], {cwd: '/usr'})).stdout, '/usr\n');
	t.like(await sandbox().exec(['pwd'], {cwd: '/no/such'}), {
		exitCode: undefined,
		error: {code: 'StartFailed', phase: 'start', message: 'change the folder: ENOENT'},
	});
	await t.throwsAsync(() => sandbox().exec(['pwd'], {cwd: '../usr'}), {instanceOf: RangeError, message: /cwd/});
});

kernelTest('a name without a slash is looked for in PATH, the first that can be executed', async (t) => {
	const own = await fixture().create(t);
	const script = 'mkdir a b; echo text > a/tool; printf "#!/bin/sh\\necho found\\n" > b/tool; chmod +x b/tool';
	t.is((await own.exec(['sh', '-c', script])).exitCode, 0);
	t.is((await own.exec(['tool'], {env: {PATH: '/tmp/work/a::/no/such:/tmp/work/b'}})).stdout, 'found\n');
	t.is((await own.exec(['./b/tool'], {env: {PATH: ''}})).stdout, 'found\n');
	t.like(await own.exec(['tool']), {error: {code: 'StartFailed', phase: 'start', message: 'execute: ENOENT'}});
	// The one that is there explains more than those that are not.
	t.is((await own.exec(['tool'], {env: {PATH: '/tmp/work/a:/no/such'}})).error?.message, 'execute: EACCES');
});

for (const [title, argv, errno] of [
	['a name that is nowhere', ['no-such-program'], 'ENOENT'],
	['a path that is not there', ['/no/such/program'], 'ENOENT'],
	['a file that is not executable', ['/etc/passwd'], 'EACCES'],
	['a folder', ['/usr'], 'EACCES'],
] as const) {
	kernelTest(`StartFailed: ${title}`, async (t) => {
		const result = await sandbox().exec(argv);
		t.like(result, {exitCode: undefined, signal: undefined, stdout: ''});
		t.deepEqual(result.error, {
			code: 'StartFailed',
			message: `execute: ${errno}`,
			sandbox: sandbox().id,
			phase: 'start',
		});
	});
}

kernelTest('Aborted: before it begins nothing runs; while it runs it is killed with all that it started', async (t) => {
	const reason = new Error('enough');
	const before = await t.throwsAsync(sandbox().exec(['touch', '/tmp/work/ran'], {signal: AbortSignal.abort(reason)}), {
		code: 'Aborted',
	});
	t.is(before.cause, reason);
	t.is((await sandbox().exec(['test', '-e', '/tmp/work/ran'])).exitCode, 1);
	const controller = new AbortController();
	const during = await startReady(sandbox(), 'sleep 600 & setsid sleep 600 & echo ready; wait', {
		signal: controller.signal,
	});
	controller.abort(reason);
	t.is((await t.throwsAsync(within(during.result, 'its end'), {code: 'Aborted'})).cause, reason);
	await until(() => sandbox().stats().processes === 0, 'the end of what left its session');
	t.is((await sandbox().exec(['true'])).exitCode, 0);
});

kernelTest('Aborted: while a paused sandbox is resumed nothing runs', async (t) => {
	const own = await fixture().create(t);
	await own.pause();
	const controller = new AbortController();
	const result = own.exec(['sleep', '600'], {signal: controller.signal});
	controller.abort();
	await t.throwsAsync(within(result, 'its end'), {code: 'Aborted'});
	t.is((await own.exec(['true'])).exitCode, 0);
	t.is(own.stats().processes, 0);
});

kernelTest('an abort ends one run, not those beside it', async (t) => {
	const controller = new AbortController();
	const input = new PassThrough();
	const other = await startReady(sandbox(), 'echo ready; read line; echo $line', {stdin: input});
	const one = await startReady(sandbox(), 'echo ready; exec sleep 600', {signal: controller.signal});
	controller.abort();
	await t.throwsAsync(within(one.result, 'its end'), {code: 'Aborted'});
	input.end('alive\n');
	t.is((await within(other.result, 'its end')).stdout, 'ready\nalive\n');
});

kernelTest('twenty at once in one sandbox keep their streams apart', async (t) => {
	const runs = Array.from({length: 20}, async (_, number) =>
		sandbox().exec(['sh', '-c', 'cat; echo $NUMBER >&2; exit $NUMBER'], {
			stdin: `input ${number}`,
			env: {NUMBER: String(number)},
		}),
	);
	const results = await within(Promise.all(runs), 'the end of all');
	t.deepEqual(
		results.map(({exitCode, stdout, stderr}) => [exitCode, stdout, stderr]),
		results.map((_, number) => [number, `input ${number}`, `${number}\n`]),
	);
	t.true(sandbox().isIdle);
});

for (const [title, argv, error] of [
	['no array', 'true', TypeError],
	['empty', [], TypeError],
	['an empty name', [''], TypeError],
	['no strings', ['echo', 5], TypeError],
	['NUL', ['echo', 'a\0b'], RangeError],
	['too long', ['echo', 'x'.repeat(1024 * 1024)], RangeError],
] as const) {
	kernelTest(`argv is checked: ${title}`, async (t) => {
		await t.throwsAsync(sandbox().exec(argv as unknown as string[]), {
			instanceOf: error,
			message: /^(?:argv|expected arg)/,
		});
		t.true(sandbox().isIdle);
	});
}

for (const [title, options, message] of [
	['a variable’s name', {env: {'A=B': ''}}, /^env: expected a variable/],
	['a variable’s value', {env: {A: 5}}, /^env\.A: expected a string/],
	['a deadline', {timeoutMs: 0}, /^exec options\.timeoutMs/],
	['CPU time', {cpuMs: -1}, /^exec options\.cpuMs/],
	['output', {outputMb: Number.NaN}, /^exec options\.outputMb/],
	['stdin', {stdin: 5}, /^stdin: expected text, bytes or a stream/],
	['an unknown one', {timeout: 5}, /^exec options: expected .*timeoutMs.*, got "timeout"/],
] as const) {
	kernelTest(`options of exec are checked: ${title}`, async (t) => {
		await t.throwsAsync(sandbox().exec(['true'], options as object), {any: true, message});
	});
}

kernelTest('arguments arrive as they are', async (t) => {
	const words = ['', ' ', '$HOME', '*', 'a\nb', '"\'', 'ünï', '--', '\u0001'];
	const {stdout} = await sandbox().exec(['printf', '%s\\0', ...words]);
	t.deepEqual(stdout.split('\0').slice(0, -1), words);
});

kernelTest('what it prints may be any bytes: what is no UTF-8 is U+FFFD', async (t) => {
	const heard: string[] = [];
	const print = "printf '\\342\\202\\254\\377\\0|\\342\\202'";
	const {stdout} = await sandbox().exec(['sh', '-c', print], {onStdout: (text) => heard.push(text)});
	t.is(stdout, '€\ufffd\0|\ufffd');
	t.is(heard.join(''), stdout);
});

kernelTest('a whole MiB of output is kept, one byte more is cut', async (t) => {
	const whole = await sandbox().exec(['head', '-c', String(mebibyte), '/dev/zero']);
	t.is(whole.stdout.length, mebibyte);
	t.deepEqual(whole.limitsHit, []);
	const more = await sandbox().exec(['head', '-c', String(mebibyte + 1), '/dev/zero']);
	t.like(more, {exitCode: 0, error: undefined});
	t.is(more.stdout, `${'\0'.repeat(mebibyte)}\n[output cut after ${mebibyte} bytes]\n`);
	t.deepEqual(more.limitsHit, ['stdout']);
});

kernelTest(
	'what runs has descriptors 0, 1 and 2, default signals, a session of its own, and no way to our process',
	async (t) => {
		const program = `
import json, os, signal
status = dict((line.rstrip() + '\\t').split(':\\t', 1) for line in open('/proc/self/status'))
kinds = [os.readlink(f'/proc/self/fd/{fd}') .split(':')[0] for fd in range(3)]
fds = sorted(int(fd) for fd in os.listdir('/proc/self/fd'))
try:
	os.readlink('/proc/1/fd/3')
	first = 'open'
except OSError as error:
	first = error.strerror
print(json.dumps([kinds, fds[:4], status['SigBlk'].strip(), os.getsid(0) == os.getpid(), first, status['NoNewPrivs'].strip(), status['CapBnd'].strip()]))
`;
		const {stdout, stderr} = await sandbox().exec([python, '-c', program], {stdin: ''});
		t.is(stderr, '');
		const [kinds, fds, blocked, session, first, ...privileges] = JSON.parse(stdout) as unknown[];
		// The fourth is the listing's own.
		t.deepEqual(
			[kinds, fds],
			[
				['pipe', 'pipe', 'pipe'],
				[0, 1, 2, 3],
			],
		);
		t.deepEqual([blocked, session, first], ['0000000000000000', true, 'Permission denied']);
		t.deepEqual(privileges, ['1', '0000000000000000']);
	},
);

kernelTest('the host’s files are not there, and its root can’t be written to', async (t) => {
	const folder = await temporaryFolder();
	t.teardown(() => rm(folder, {recursive: true}));
	await writeFile(path.join(folder, 'file'), 'secret');
	t.is((await sandbox().exec(['cat', path.join(folder, 'file')])).exitCode, 1);
	for (const file of ['/file', '/usr/file', '/etc/file', '/dev/file']) {
		t.not((await sandbox().exec(['touch', file])).exitCode, 0, file);
	}
});
