import {once} from 'node:events';
import {closeSync, lstatSync, openSync, readdirSync, readFileSync, readlinkSync, statSync} from 'node:fs';
import {cp, mkdir, readFile, rename, rm, symlink, utimes, writeFile} from 'node:fs/promises';
import path from 'node:path';
import type {ExecutionContext} from 'ava';
import {ForktreeError} from '../../src/errors.ts';
import type {Lock, LockedDistribution} from '../../src/packages/lock.ts';
import {ownerPrefix} from '../../src/packages/owner.ts';
import {PackageStore, type PackageStoreOptions} from '../../src/packages/package-store.ts';
import {kernelTest} from '../helpers/kernel-test.ts';
import {temporaryFolder} from '../helpers/runtime.ts';
import {
	abi,
	type Before,
	distribution,
	type FakeSteps,
	fakeSteps,
	filesOf,
	interpreter,
	lockOf,
	sha256,
} from './fake-steps.ts';

type Fixture = {readonly dir: string; readonly store: PackageStore; readonly steps: FakeSteps};

async function folder(t: ExecutionContext): Promise<string> {
	const made = await temporaryFolder();
	t.teardown(() => rm(made, {recursive: true, force: true}));
	return made;
}

async function open(
	t: ExecutionContext,
	before?: Before,
	options: Partial<PackageStoreOptions> = {},
): Promise<Fixture> {
	const dir = options.dir ?? path.join(await folder(t), 'store');
	const steps = fakeSteps(before);
	return {dir, steps, store: await PackageStore.open({dir, interpreter, steps, ...options})};
}

/** Everything below a folder, without what is kept to make packages from. */
function contentOf(dir: string): string[] {
	return readdirSync(dir, {recursive: true, encoding: 'utf8'})
		.filter((name) => !name.startsWith('archives/'))
		.sort();
}

function namesOf(list: ReadonlyArray<{readonly name: string}>): string[] {
	return list.map(({name}) => name);
}

/** Lets a package seem to have been used then. */
async function setUsed(files: string, seconds: number): Promise<void> {
	await utimes(path.dirname(files), seconds, seconds);
}

/** A promise that is settled from outside. */
function gate(): {readonly passed: Promise<void>; open: () => void} {
	let pass = (): void => undefined;
	const passed = new Promise<void>((resolve) => {
		pass = resolve;
	});
	return {passed, open: () => pass()};
}

kernelTest(
	'installs wheels and source distributions: folders in the order of the lock, sealed, described',
	async (t) => {
		const {dir, store, steps} = await open(t);
		const lock = lockOf('zeta-one==1.0', 'alpha==2!2.0rc1+local sdist');
		const set = await store.install(lock);
		const hashes = lock.distributions.map(({archive}) => archive.sha256.slice(0, 16));
		t.deepEqual(set, {
			key: lock.key,
			folders: [
				path.join(dir, abi, 'zeta-one==1.0', hashes[0] ?? '', 'files'),
				path.join(dir, abi, 'alpha==2!2.0rc1+local', hashes[1] ?? '', 'files'),
			],
			distributions: [
				{name: 'zeta-one', version: '1.0', modules: ['zeta_one']},
				{name: 'alpha', version: '2!2.0rc1+local', modules: ['alpha']},
			],
		});
		t.deepEqual([...steps.log].sort(), [
			'build alpha',
			'fetch alpha-2!2.0rc1+local.tar.gz',
			'fetch zeta-one-1.0-py3-none-any.whl',
			'unpack alpha',
			'unpack zeta-one',
		]);
		const [files = ''] = set.folders;
		for (const name of ['.', ...readdirSync(files, {recursive: true, encoding: 'utf8'})]) {
			const status = lstatSync(path.join(files, name));
			const mode = status.isDirectory() || name.endsWith('-tool') ? 0o755 : 0o644;
			t.deepEqual([status.mode & 0o7777, status.uid, status.gid], [mode, 0, 0], name);
		}
		t.deepEqual(readdirSync(path.join(dir, 'scratch')), []);
		t.deepEqual(readdirSync(path.join(dir, 'locks')), []);

		const [info] = await store.info('zeta-one');
		const contents = Object.entries(filesOf('zeta-one', 'the content of zeta-one-1.0-py3-none-any.whl\n'));
		t.deepEqual(info, {
			id: {abi, name: 'zeta-one', version: '1.0', hash: hashes[0] ?? ''},
			name: 'zeta-one',
			version: '1.0',
			archive: distribution('zeta-one==1.0').archive,
			folder: files,
			modules: ['zeta_one'],
			requires: ['something'],
			extras: {more: ['else']},
			sizeBytes: contents.reduce((sum, [, text]) => sum + text.length, 0),
			files: contents.map(([name, text]) => [name, sha256(text), text.length] as const).sort(),
			nativeLibraries: [],
			cost: undefined,
			lastUsed: info?.lastUsed ?? new Date(0),
			users: [],
		});
		t.true(Math.abs(Date.now() - (info?.lastUsed.getTime() ?? 0)) < 60_000);
		t.deepEqual(namesOf(await store.list()), ['alpha', 'zeta-one']);
		t.deepEqual(await store.info('zeta-one', '2.0'), []);
		t.deepEqual(await store.verify(), {checked: 2, damaged: [], foreign: []});
	},
);

kernelTest('what is there is found by another store without a step; a part of it serves other locks', async (t) => {
	const {dir, store} = await open(t);
	const set = await store.install(lockOf('a==1.0', 'b==1.0'));
	const before = contentOf(dir);
	const second = await open(t, () => t.fail(), {dir, offline: true});
	t.deepEqual(await second.store.install(lockOf('a==1.0', 'b==1.0')), set);
	t.deepEqual((await second.store.install(lockOf('b==1.0'))).folders, set.folders.slice(1));
	t.deepEqual(contentOf(dir), before);
	t.deepEqual(second.steps.log, []);
});

kernelTest('no distributions are the empty set', async (t) => {
	const {store} = await open(t);
	t.deepEqual(await store.install(lockOf()), {key: 'none', folders: [], distributions: []});
});

kernelTest('one name and version from other content is another package', async (t) => {
	const {store} = await open(t);
	const lock = lockOf('a==1.0');
	const other = lockOf('a==1.0 sdist');
	const sets = [await store.install(lock), await store.install(other)];
	t.is(new Set(sets.flatMap(({folders}) => folders)).size, 2);
	t.is((await store.info('a', '1.0')).length, 2);
});

kernelTest('interpreters are side by side, each with its own', async (t) => {
	const {dir, store} = await open(t);
	await store.install(lockOf('a==1.0 sdist'));
	const other = {...interpreter, cacheTag: 'cpython-312'};
	const newer = await open(t, undefined, {dir, interpreter: other});
	t.deepEqual(await newer.store.list(), []);
	await t.throwsAsync(newer.store.install(lockOf('a==1.0 sdist')), {code: 'InstallFailed', message: /cpython-312/});
	await newer.store.install({...lockOf('a==1.0 sdist'), abi: abi.replace('311', '312')});
	t.deepEqual(newer.steps.log, ['build a', 'unpack a'], 'the archive is the same, the wheel is not');
	t.is((await newer.store.list()).length, 1);
	t.is((await store.list()).length, 1);
	t.deepEqual((await store.verify()).foreign, []);
});

kernelTest('a store that was moved works', async (t) => {
	const {dir, store} = await open(t);
	const set = await store.install(lockOf('a==1.0'));
	const manifest = path.join(dir, '..', 'functions', 'f.json');
	await mkdir(path.dirname(manifest));
	await writeFile(manifest, '');
	await store.setUser('f', manifest, set);
	const home = path.join(await folder(t), 'moved');
	await rename(path.dirname(dir), home);
	const moved = await open(t, () => t.fail(), {dir: path.join(home, 'store')});
	const [files] = (await moved.store.install(lockOf('a==1.0'))).folders;
	t.true(files?.startsWith(home));
	t.deepEqual(
		(await moved.store.list()).map(({users}) => users),
		[['f']],
	);
	t.deepEqual((await moved.store.verify()).damaged, []);
});

kernelTest('concurrent calls share the installation of a package, and are all told of it', async (t) => {
	const {store, steps} = await open(t);
	const told: string[][] = [[], [], []];
	await Promise.all(
		[lockOf('a==1.0'), lockOf('a==1.0', 'b==1.0'), lockOf('a==1.0')].map((lock, index) =>
			store.install(lock, {onProgress: ({name, phase}) => told[index]?.push(`${name} ${phase}`)}),
		),
	);
	t.is(steps.log.filter((each) => each === 'unpack a').length, 1);
	t.is(steps.log.length, 4);
	for (const each of told)
		t.deepEqual(
			each.filter((line) => line.startsWith('a ')),
			['a downloading', 'a compiling'],
		);
});

kernelTest('one of two callers aborts: the other gets its set; both abort: nothing is left', async (t) => {
	const reached = gate();
	const going = gate();
	const {dir, store, steps} = await open(t, async (step, _name, {signal}) => {
		if (step !== 'unpack') return;
		reached.open();
		await Promise.race([
			going.passed,
			new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
		]);
	});
	const before = contentOf(dir);
	const controllers = [new AbortController(), new AbortController(), new AbortController()];
	const calls = controllers.map(({signal}) => store.install(lockOf('a==1.0'), {signal}));
	const ends = calls.map((call) =>
		call.then(
			({folders}) => folders.length,
			(error: ForktreeError) => error.code,
		),
	);
	await reached.passed;
	controllers[0]?.abort();
	t.is(await ends[0], 'Aborted');
	t.not(readdirSync(path.join(dir, 'scratch')).length, 0);
	controllers[1]?.abort();
	controllers[2]?.abort();
	t.deepEqual(await Promise.all(ends.slice(1)), ['Aborted', 'Aborted']);
	t.deepEqual(contentOf(dir), before);

	const again = [new AbortController(), new AbortController()];
	const pair = again.map(({signal}) => store.install(lockOf('a==1.0'), {signal}));
	const aborted = t.throwsAsync(pair[0] as Promise<unknown>, {code: 'Aborted'});
	again[0]?.abort();
	await aborted;
	going.open();
	t.is((await pair[1])?.folders.length, 1);
	t.deepEqual(steps.log, ['fetch a-1.0-py3-none-any.whl', 'unpack a', 'unpack a']);
	await t.throwsAsync(store.install(lockOf('b==1.0'), {signal: AbortSignal.abort()}), {code: 'Aborted'});
});

for (const failing of ['fetch', 'build', 'unpack'] as const) {
	kernelTest(`${failing} fails: the store is as before, the others end, and the next time it works`, async (t) => {
		let fail = true;
		const ended: string[] = [];
		const begun = gate();
		const {dir, store} = await open(t, async (step, name, {signal}) => {
			if (name.startsWith('other')) {
				begun.open();
				await once(signal, 'abort');
				ended.push(name);
				throw new Error('ended');
			}
			await begun.passed;
			if (step === failing && fail) throw new ForktreeError('InstallTimeout', 'the words of the step');
		});
		const before = contentOf(dir);
		const lock = lockOf('a==1.0 sdist', 'other==1.0');
		const message = 'the words of the step';
		await t.throwsAsync(store.install(lock), {instanceOf: ForktreeError, code: 'InstallTimeout', message});
		t.deepEqual(contentOf(dir), before);
		t.deepEqual(ended, ['other-1.0-py3-none-any.whl']);
		fail = false;
		await store.install(lockOf('a==1.0 sdist'));
		t.deepEqual(namesOf(await store.list()), ['a']);
	});

	kernelTest(`${failing} throws something else: the error says of what, and where`, async (t) => {
		const {store} = await open(t, (step) => {
			if (step === failing) throw new TypeError('oops');
		});
		const doing = {fetch: 'downloading', build: 'building', unpack: 'unpacking'}[failing];
		const message = `could not install a 1.0, ${doing}: oops`;
		await t.throwsAsync(store.install(lockOf('a==1.0 sdist')), {code: 'InstallFailed', message});
	});
}

kernelTest('packages that were complete when another failed stay', async (t) => {
	const first = gate();
	const {store} = await open(t, async (step, name) => {
		if (name !== 'b' || step !== 'unpack') return;
		await first.passed;
		throw new Error('no');
	});
	const failing = t.throwsAsync(store.install(lockOf('a==1.0', 'b==1.0')), {message: /b 1\.0, unpacking: no/});
	await store.install(lockOf('a==1.0'));
	first.open();
	await failing;
	t.deepEqual(namesOf(await store.list()), ['a']);
});

const unsafe: ReadonlyArray<readonly [string, (files: string) => Promise<unknown>]> = [
	['a symbolic link', (files) => symlink('/etc/passwd', path.join(files, 'link'))],
	['a link to a folder', (files) => symlink('/etc', path.join(files, 'link'))],
];
for (const [what, make] of unsafe) {
	kernelTest(`${what} in an unpacked package is refused, and nothing is left`, async (t) => {
		const {dir, steps} = await open(t);
		const unpack: FakeSteps['unpack'] = async (each, wheel, files, options) => {
			await make(files);
			return steps.unpack(each, wheel, files, options);
		};
		const store = await PackageStore.open({dir, interpreter, steps: {...steps, unpack}});
		const before = contentOf(dir);
		const passwords = statSync('/etc/passwd');
		const error = await t.throwsAsync(store.install(lockOf('a==1.0')), {code: 'UnsafeArchive'});
		t.regex(error?.message ?? '', /^could not install a 1\.0, taking over its files: .* got a symbolic link at/);
		t.deepEqual(contentOf(dir), before);
		t.deepEqual(statSync('/etc/passwd').ctimeMs, passwords.ctimeMs);
	});
}

kernelTest('a folder that holds more, less or else than was said of it is refused', async (t) => {
	const {dir, steps} = await open(t);
	for (const wrong of [{sizeBytes: 1}, {files: []}]) {
		const unpack: FakeSteps['unpack'] = async (...args) => ({...(await steps.unpack(...args)), ...wrong});
		const store = await PackageStore.open({dir, interpreter, steps: {...steps, unpack}});
		await t.throwsAsync(store.install(lockOf('a==1.0')), {
			code: 'InstallFailed',
			message: /expected .* files of .* bytes/,
		});
		t.deepEqual(await store.list(), []);
	}
});

kernelTest('a wheel that a build says is elsewhere, or is a link, is refused', async (t) => {
	const {dir, steps} = await open(t);
	const outside = path.join(await folder(t), 'outside.whl');
	await writeFile(outside, '');
	const builds: ReadonlyArray<FakeSteps['build']> = [
		async () => outside,
		async (_each, _sdist, building) => path.join(building, 'missing.whl'),
		async (_each, _sdist, building) => {
			await symlink(outside, path.join(building, 'a.whl'));
			return path.join(building, 'a.whl');
		},
	];
	for (const build of builds) {
		const store = await PackageStore.open({dir, interpreter, steps: {...steps, build}});
		await t.throwsAsync(store.install(lockOf('a==1.0 sdist')), {
			code: 'InstallFailed',
			message: /building: expected a wheel/,
		});
	}
	t.true(statSync(outside).isFile());
});

const hostile: ReadonlyArray<Partial<LockedDistribution> & {readonly file?: string; readonly sha256?: string}> = [
	...['', '.', '..', '../x', 'a/b', 'A', 'a_b', 'a.b', 'a--b', '-a', 'a-', 'a==1', 'a\0', 'é', 'a'.repeat(300)].map(
		(name) => ({name}),
	),
	...['', '.', '..', '1/2', '../1', 'x', '1..2', '1\0', '1 ', '1=2', '1@2', '1+', '1'.repeat(300), '1.0\n'].map(
		(version) => ({version}),
	),
	...['', 'z'.repeat(64), 'A'.repeat(64), 'a'.repeat(63), `../${'a'.repeat(61)}`].map((hash) => ({sha256: hash})),
	...[
		'',
		'.',
		'..',
		'../x.whl',
		'a/b.whl',
		'/etc/passwd',
		'a\0.whl',
		'.hidden',
		'-x.whl',
		`${'a'.repeat(300)}.whl`,
	].map((file) => ({file})),
];
kernelTest('names, versions, hashes and files that are none never become paths', async (t) => {
	const {dir, store, steps} = await open(t);
	const before = contentOf(dir);
	const {name, version, archive} = distribution('a==1.0');
	for (const {file = archive.file, sha256: hash = archive.sha256, ...rest} of hostile) {
		const wrong = {name, version, ...rest, archive: {...archive, file, sha256: hash}};
		const lock: Lock = {key: 'x', abi, distributions: [wrong]};
		await t.throwsAsync(store.install(lock), {code: 'InstallFailed', message: /^expected /}, JSON.stringify(wrong));
	}
	t.deepEqual(steps.log, []);
	t.deepEqual(contentOf(dir), before);
	for (const good of ['1', '1.0.post1', '2!1.0a1', '1.0.dev3', '1.0-1', '1.0+cu118.x', '2023c', '1.0.RC1']) {
		await store.install(lockOf(`a==${good}`));
	}
	t.is((await store.list()).length, 8);
});

kernelTest('offline: what is installed or can be made from what is kept works, the rest says so', async (t) => {
	const {dir, store} = await open(t);
	const lock = lockOf('a==1.0', 'b==1.0 sdist');
	const {folders} = await store.install(lock);
	for (const each of folders) await rm(path.dirname(each), {recursive: true});
	const {store: offline, steps} = await open(t, undefined, {dir, offline: true});
	t.deepEqual((await offline.install(lock)).folders, folders);
	t.deepEqual([...steps.log].sort(), ['unpack a', 'unpack b'], 'also the wheel that was built is kept');
	const before = contentOf(dir);
	await t.throwsAsync(offline.install(lockOf('c==1.0')), {code: 'Offline', message: /^c 1\.0 /});
	t.deepEqual(contentOf(dir), before);
});

kernelTest(
	'an archive that is damaged is downloaded again, a built wheel built again; links are not followed',
	async (t) => {
		const {dir, store, steps} = await open(t);
		const lock = lockOf('a==1.0 sdist');
		const [files = ''] = (await store.install(lock)).folders;
		const archives = path.join(dir, 'archives', lock.distributions[0]?.archive.sha256 ?? '');
		const sdist = path.join(archives, 'a-1.0.tar.gz');
		const again = async (): Promise<string[]> => {
			await rm(path.dirname(files), {recursive: true});
			steps.log.length = 0;
			await store.install(lock);
			return [...steps.log];
		};
		t.deepEqual(await again(), ['unpack a']);
		const [wheel = ''] = readdirSync(archives, {recursive: true, encoding: 'utf8'}).filter((name) =>
			name.endsWith('.whl'),
		);
		await writeFile(path.join(archives, wheel), 'damaged');
		t.deepEqual(await again(), ['build a', 'unpack a']);
		await writeFile(sdist, 'damaged');
		t.deepEqual(await again(), ['fetch a-1.0.tar.gz', 'build a', 'unpack a']);
		const elsewhere = path.join(await folder(t), 'elsewhere');
		await rename(archives, elsewhere);
		await symlink(elsewhere, archives);
		t.deepEqual(await again(), ['fetch a-1.0.tar.gz', 'build a', 'unpack a']);
		t.true(lstatSync(archives).isDirectory());
		t.true(statSync(path.join(elsewhere, 'a-1.0.tar.gz')).isFile());
		await rm(sdist);
		await symlink(path.join(elsewhere, 'a-1.0.tar.gz'), sdist);
		t.deepEqual(await again(), ['fetch a-1.0.tar.gz', 'build a', 'unpack a']);
		t.true(statSync(path.join(elsewhere, 'a-1.0.tar.gz')).isFile());
	},
);

kernelTest('records and folders that are links are not read', async (t) => {
	const {dir, store, steps} = await open(t);
	const elsewhere = await folder(t);
	const lock = lockOf('a==1.0 sdist');
	const set = await store.install(lock);
	const manifest = path.join(elsewhere, 'manifest');
	await writeFile(manifest, '');
	await store.setUser('f', manifest, set);
	const replaceByLink = async (file: string): Promise<void> => {
		const target = path.join(elsewhere, path.basename(file));
		await rename(file, target);
		await symlink(target, file);
	};
	const [user = ''] = readdirSync(path.join(dir, 'users'));
	await replaceByLink(path.join(dir, 'users', user));
	t.deepEqual((await store.list())[0]?.users, []);
	t.deepEqual((await store.verify()).foreign, [`users/${user}`]);

	await replaceByLink(path.join(set.folders[0] ?? '', '../metadata.json'));
	t.deepEqual(await store.list(), []);
	await replaceByLink(path.join(dir, 'archives', lock.distributions[0]?.archive.sha256 ?? '', abi));
	steps.log.length = 0;
	await store.install(lock);
	t.deepEqual(steps.log, ['build a', 'unpack a']);
	await replaceByLink(set.folders[0] ?? '');
	t.deepEqual(await store.list(), []);
	await store.install(lock);
	t.true(lstatSync(set.folders[0] ?? '').isDirectory());
});

const damages: ReadonlyArray<
	readonly [string, (files: string) => Promise<unknown>, ReadonlyArray<readonly [string, string]>]
> = [
	[
		'a flipped bit',
		async (files) => {
			const file = path.join(files, 'a/data/table.bin');
			const bytes = await readFile(file);
			bytes[1000] = 1;
			await writeFile(file, bytes);
		},
		[['a/data/table.bin', 'changed']],
	],
	['a missing file', (files) => rm(path.join(files, 'a/__init__.py')), [['a/__init__.py', 'missing']]],
	['a file more', (files) => writeFile(path.join(files, 'a/data/more.py'), ''), [['a/data/more.py', 'added']]],
	[
		'a link in place of a file with the same content',
		async (files) => {
			await rename(path.join(files, 'a-tool'), path.join(files, '../tool'));
			await symlink('../tool', path.join(files, 'a-tool'));
		},
		[['a-tool', 'not a file']],
	],
	['a link to a folder', (files) => symlink('/', path.join(files, 'root')), [['root', 'not a file']]],
	[
		'a folder in place of a file',
		async (files) => {
			await rm(path.join(files, 'a-tool'));
			await mkdir(path.join(files, 'a-tool'));
		},
		[['a-tool', 'missing']],
	],
	[
		'a damaged list of files',
		(files) => writeFile(path.join(files, '../files.json'), '{"format":1,"files":[],"nativeLibraries":[]}'),
		[['', 'unreadable']],
	],
];
for (const [what, damage, expected] of damages) {
	kernelTest(`verify finds ${what}, and makes the package anew from its archive`, async (t) => {
		const {dir, store, steps} = await open(t);
		const {folders} = await store.install(lockOf('a==1.0', 'b==1.0'));
		const [files = ''] = folders;
		const whole = readFileSync(path.join(files, 'a/__init__.py'), 'utf8');
		await damage(files);
		steps.log.length = 0;
		const told: number[] = [];
		const report = await store.verify({onProgress: ({done, total}) => told.push(done, total)});
		t.deepEqual(told, [0, 2, 1, 2, 2, 2]);
		t.is(report.checked, 2);
		t.deepEqual(report.foreign, []);
		t.deepEqual(
			report.damaged.map((each) => [each.id.name, each.remedy, each.error]),
			[['a', 'reinstalled', undefined]],
		);
		t.deepEqual(
			report.damaged[0]?.damage.map((each) => [each.path, each.problem]),
			expected.map((each) => [...each]),
		);
		t.deepEqual(steps.log, ['unpack a']);
		t.is(readFileSync(path.join(files, 'a/__init__.py'), 'utf8'), whole);
		t.is(readdirSync(path.join(dir, 'quarantine')).length, 1);
		t.deepEqual(await store.verify(), {checked: 2, damaged: [], foreign: []});
	});
}

kernelTest(
	'verify: only what is named; what can not be made anew is out of use, and installed again when asked for',
	async (t) => {
		const {dir, store} = await open(t);
		const lock = lockOf('a==1.0', 'b==1.0');
		const {folders} = await store.install(lock);
		for (const files of folders) await writeFile(path.join(files, 'more'), '');
		t.is((await store.verify({names: ['b']})).checked, 1);
		t.true(readdirSync(folders[0] ?? '').includes('more'));
		await rm(path.join(dir, 'archives'), {recursive: true});
		await mkdir(path.join(dir, 'archives'));
		const {store: offline} = await open(t, undefined, {dir, offline: true});
		const {damaged} = await offline.verify();
		t.deepEqual(
			damaged.map(({remedy, error}) => [remedy, error?.code]),
			[['quarantined', 'Offline']],
		);
		t.deepEqual(namesOf(await offline.list()), ['b']);
		t.is(readdirSync(path.join(dir, 'quarantine')).length, 2);
		await store.install(lock);
		t.deepEqual(namesOf(await store.list()), ['a', 'b']);
		t.deepEqual((await store.verify()).damaged, []);
		await t.throwsAsync(store.verify({signal: AbortSignal.abort()}), {code: 'Aborted'});
	},
);

kernelTest(
	'a package whose own record can not be read is not used, and replaced by the next installation',
	async (t) => {
		const {dir, store} = await open(t);
		const lock = lockOf('a==1.0', 'b==1.0');
		const {folders} = await store.install(lock);
		await writeFile(path.join(folders[0] ?? '', '../metadata.json'), '{');
		t.deepEqual(namesOf(await store.list()), ['b']);
		await store.install(lock);
		t.deepEqual(namesOf(await store.list()), ['a', 'b']);
		await writeFile(path.join(folders[1] ?? '', '../metadata.json'), '{');
		const {damaged} = await store.verify();
		t.deepEqual(
			damaged.map(({id, remedy}) => [id.name, remedy]),
			[['b', 'quarantined']],
		);
		t.false(readdirSync(path.join(dir, abi)).includes('b==1.0'));
	},
);

kernelTest('what was opened in a damaged package before it was replaced stays as it was', async (t) => {
	const {store} = await open(t);
	const {set, release} = await store.acquire(lockOf('a==1.0'));
	const [files = ''] = set.folders;
	await writeFile(path.join(files, 'more'), 'more');
	const before = openSync(files, 'r');
	t.teardown(() => closeSync(before));
	const {damaged} = await store.verify();
	t.is(damaged[0]?.remedy, 'reinstalled');
	await store.gc({maxBytes: 0});
	t.is(readFileSync(`/proc/self/fd/${before}/more`, 'utf8'), 'more');
	t.false(readdirSync(files).includes('more'));
	release();
	await store.gc({maxBytes: 0});
	t.throws(() => readFileSync(`/proc/self/fd/${before}/more`), {code: 'ENOENT'});
});

kernelTest('foreign content is reported, not touched, not followed', async (t) => {
	const {dir, store} = await open(t);
	const outside = path.join(await folder(t), 'outside');
	await cp((await store.install(lockOf('a==1.0'))).folders[0] ?? '', outside, {recursive: true});
	const foreign = [
		'.hidden',
		'cpython-312-x86_64',
		'notes.txt',
		`${abi}/A==1.0`,
		`${abi}/b==1.0`,
		`${abi}/c==1.0/0000000000000000`,
		`${abi}/c==1.0/notes`,
		`${abi}/nothing`,
		'users/0123.json',
		`users/${'0'.repeat(32)}.json`,
	];
	await mkdir(path.join(dir, abi, 'c==1.0'));
	for (const each of foreign) await symlink(outside, path.join(dir, each));
	await store.gc({maxBytes: 1e9});
	const {store: again} = await open(t, undefined, {dir});
	t.deepEqual([...(await again.verify()).foreign].sort(), [...foreign].sort());
	t.deepEqual(namesOf(await again.list()), ['a']);
	await t.throwsAsync(again.install(lockOf('b==1.0')), {
		code: 'InstallFailed',
		message: /expected a folder at .*b==1\.0/,
	});
	await again.gc({maxBytes: 0});
	for (const each of foreign) t.true(lstatSync(path.join(dir, each)).isSymbolicLink(), each);
	t.is(readdirSync(outside).length, 2);

	const link = lockOf('d==1.0');
	const place = path.join(dir, abi, 'd==1.0', link.distributions[0]?.archive.sha256.slice(0, 16) ?? '');
	await mkdir(path.dirname(place));
	await symlink(outside, place);
	await again.install(link);
	t.true(lstatSync(place).isDirectory(), 'where a package belongs, it makes room');
	t.is(readdirSync(outside).length, 2);
});

kernelTest('a link or file in place of a folder of the store is refused when it is opened', async (t) => {
	for (const name of ['archives', 'scratch', 'locks', 'users', 'quarantine', 'cache', abi]) {
		const dir = await folder(t);
		await symlink('/etc', path.join(dir, name));
		await t.throwsAsync(open(t, undefined, {dir}), {code: 'InstallFailed', message: new RegExp(`at .*/${name}$`)});
	}
	const link = path.join(await folder(t), 'link');
	const {dir} = await open(t);
	await symlink(dir, link);
	const {store} = await open(t, undefined, {dir: link});
	t.true((await store.install(lockOf('a==1.0'))).folders[0]?.startsWith(dir), 'its own folder may be a link');
});

kernelTest('opening sweeps scratch of dead owners, and empty folders of versions', async (t) => {
	const {dir, store} = await open(t);
	await store.install(lockOf('a==1.0'));
	const own = await ownerPrefix();
	const [, pid = '', start = '', namespace = ''] = own.split('-');
	const dead = [`tmp-${pid}-1-${namespace}-00000000-x`, `tmp-4194304-${start}-${namespace}-${own.split('-')[4]}-x`];
	const kept = [`${own}x`, 'mine'];
	for (const name of [...dead, ...kept]) await mkdir(path.join(dir, 'scratch', name));
	await mkdir(path.join(dir, abi, 'b==1.0'));
	await open(t, undefined, {dir});
	t.deepEqual(readdirSync(path.join(dir, 'scratch')).sort(), kept.sort());
	t.deepEqual(readdirSync(path.join(dir, abi)), ['a==1.0']);
});

kernelTest('gc: oldest use first, down to the size; not what a function needs or somebody holds', async (t) => {
	const {dir, store} = await open(t);
	const home = await folder(t);
	const all = ['a==1.0', 'b==1.0', 'c==1.0', 'd==1.0', 'e==1.0'];
	const {folders} = await store.install(lockOf(...all));
	for (const [index, files] of folders.entries()) await setUsed(files, 1000 * (index + 1));
	const manifest = path.join(home, 'f.json');
	await writeFile(manifest, '');
	await store.setUser('f', manifest, await store.install(lockOf('a==1.0')));
	await setUsed(folders[0] ?? '', 1000);
	const held = await store.acquire(lockOf('b==1.0'));
	await setUsed(folders[1] ?? '', 2000);
	t.deepEqual((await store.info('a'))[0]?.users, ['f']);

	const before = await store.gc({maxBytes: 1e9});
	t.deepEqual(before.removed, []);
	t.is(before.freedBytes, 0);
	const one = before.sizeBytes / 5;
	const {removed, sizeBytes, freedBytes} = await store.gc({maxBytes: Math.ceil(one * 4)});
	t.deepEqual(namesOf(removed), ['c']);
	t.is(sizeBytes + freedBytes, before.sizeBytes);
	t.deepEqual(namesOf(await store.list()), ['a', 'b', 'd', 'e']);
	t.is(readdirSync(path.join(dir, 'archives')).length, 4, 'its archive went with it');
	const rest = await store.gc({maxBytes: 0});
	t.deepEqual(namesOf(rest.removed), ['d', 'e']);
	t.true(rest.sizeBytes > 0, 'more is left than was asked for: it is needed');
	t.deepEqual(readdirSync(path.join(dir, 'archives')), []);
	t.deepEqual(readdirSync(path.join(dir, 'scratch')), []);

	held.release();
	held.release();
	t.deepEqual(namesOf((await store.gc({maxBytes: 0})).removed), ['b']);
	await rm(manifest);
	t.deepEqual((await store.list())[0]?.users, []);
	t.deepEqual(namesOf((await store.gc({maxBytes: 0})).removed), ['a']);
	t.deepEqual(readdirSync(path.join(dir, abi)), []);
});

kernelTest(
	'gc by age: what was not used for that long, and is not needed; archives go with their packages',
	async (t) => {
		const {dir, store} = await open(t);
		const now = Date.now() / 1000;
		const manifest = path.join(path.dirname(dir), 'manifest.json');
		await writeFile(manifest, '');
		for (const [name, age] of [
			['old', 1000],
			['needed', 1000],
			['young', 100],
		] as const) {
			const set = await store.install(lockOf(`${name}==1.0`));
			if (name === 'needed') await store.setUser('user', manifest, set);
			await setUsed(set.folders[0] ?? '', now - age);
		}
		for (const name of readdirSync(path.join(dir, 'archives'))) {
			await utimes(path.join(dir, 'archives', name), now - 2000, now - 2000);
		}
		const report = await store.gc({maxIdleMs: 500_000});
		t.deepEqual(namesOf(report.removed), ['old']);
		t.deepEqual(namesOf(await store.list()), ['needed', 'young']);
		const kept = ['needed==1.0', 'young==1.0'].map((each) => distribution(each).archive.sha256);
		t.deepEqual(readdirSync(path.join(dir, 'archives')).sort(), kept.sort());
		t.deepEqual(namesOf((await store.gc({maxIdleMs: 50_000})).removed), ['young']);
		t.deepEqual((await store.gc({maxIdleMs: 0})).removed, []);
	},
);

kernelTest('gc: quarantine and archives without a package go before packages', async (t) => {
	const {dir, store} = await open(t);
	const {folders} = await store.install(lockOf('a==1.0', 'b==1.0'));
	await writeFile(path.join(folders[0] ?? '', 'more'), 'x'.repeat(10_000));
	await store.verify();
	const {sizeBytes} = await store.gc({maxBytes: 1e9});
	t.true(sizeBytes > 14_000);
	await rm(path.dirname(folders[1] ?? ''), {recursive: true});
	await store.gc({maxBytes: sizeBytes - 10_000});
	t.deepEqual(readdirSync(path.join(dir, 'quarantine')), []);
	t.is(readdirSync(path.join(dir, 'archives')).length, 2);
	await store.gc({maxBytes: (await store.gc({maxBytes: 1e9})).sizeBytes - 1});
	t.deepEqual(readdirSync(path.join(dir, 'archives')), [lockOf('a==1.0').distributions[0]?.archive.sha256]);
	t.deepEqual(namesOf(await store.list()), ['a']);
});

kernelTest('users survive the store, are replaced by id and forgotten', async (t) => {
	const {dir, store} = await open(t);
	const manifest = path.join(dir, 'manifest');
	await writeFile(manifest, '');
	const [a, b] = [await store.install(lockOf('a==1.0')), await store.install(lockOf('b==1.0'))];
	const id = '../../\0 any text';
	await store.setUser(id, manifest, a);
	await store.setUser(id, manifest, b);
	await store.setUser('g', manifest, b);
	const {store: again} = await open(t, undefined, {dir});
	const users = async () => Object.fromEntries((await again.list()).map((each) => [each.name, [...each.users].sort()]));
	t.deepEqual(await users(), {a: [], b: [id, 'g']});
	await again.removeUser(id);
	await again.removeUser('never known');
	t.deepEqual(await users(), {a: [], b: ['g']});
	t.deepEqual(namesOf((await again.gc({maxBytes: 0})).removed), ['a']);
	await t.throwsAsync(store.setUser('h', manifest, {key: '', folders: ['/etc'], distributions: []}), {
		instanceOf: TypeError,
	});
});

kernelTest(
	'hold: a set that is no longer whole is said to be damaged; gc while a deploy goes on removes nothing of it',
	async (t) => {
		const {store} = await open(t);
		const set = await store.install(lockOf('a==1.0', 'b==1.0'));
		const release = await store.hold(set);
		t.deepEqual((await store.gc({maxBytes: 0})).removed, []);
		release();
		release();
		const going = gate();
		const reached = gate();
		const {store: other} = await open(
			t,
			async (step) => {
				if (step === 'fetch') reached.open();
				await going.passed;
			},
			{dir: path.dirname(path.dirname(path.dirname(path.dirname(set.folders[0] ?? ''))))},
		);
		const deploy = other.acquire(lockOf('a==1.0', 'b==1.0', 'c==1.0'));
		await reached.passed;
		t.deepEqual((await store.gc({maxBytes: 0})).removed, []);
		going.open();
		const held = await deploy;
		t.deepEqual((await store.gc({maxBytes: 0})).removed, []);
		held.release();
		t.is((await store.gc({maxBytes: 0})).removed.length, 3);
		await t.throwsAsync(store.hold(set), {code: 'PackageDamaged', message: /^a 1\.0 /});
	},
);

kernelTest('import costs are kept beside the package, and last', async (t) => {
	const {dir, store} = await open(t);
	await store.install(lockOf('a==1.0'));
	const cost = {exclusiveMs: 1.5, inclusiveMs: 20, privateMiB: 3.25, runs: 5};
	await store.setCost(distribution('a==1.0'), cost);
	const {store: again} = await open(t, undefined, {dir});
	t.deepEqual((await again.list())[0]?.cost, {...cost, interpreter: interpreter.build});
	await again.setCost(distribution('a==1.0'), {...cost, runs: 6});
	t.is((await again.info('a'))[0]?.cost?.runs, 6);
	t.deepEqual((await again.verify()).damaged, []);
	t.deepEqual(readdirSync(path.join(dir, 'scratch')), []);
	await t.throwsAsync(store.setCost(distribution('b==1.0'), cost), {code: 'PackageDamaged'});
	t.deepEqual(namesOf(await store.list()), ['a']);
});

kernelTest('no file stays open', async (t) => {
	const {dir, store} = await open(t);
	const held = await store.acquire(lockOf('a==1.0', 'b==1.0'));
	const opened = (): string[] =>
		readdirSync('/proc/self/fd').flatMap((fd) => {
			try {
				const target = readlinkSync(`/proc/self/fd/${fd}`);
				return target.startsWith(dir) ? [path.relative(dir, target)] : [];
			} catch {
				return []; // the folder that was just listed
			}
		});
	t.deepEqual(opened().sort(), [`${abi}/a==1.0`, `${abi}/b==1.0`]);
	held.release();
	await store.verify();
	await store.gc({maxBytes: 0});
	t.deepEqual(opened(), []);
});

kernelTest(
	'a store of a format that we do not know is refused, and both are named; one from before formats gets ours',
	async (t) => {
		const {dir, store} = await open(t);
		await store.install(lockOf('a==1.0'));
		const stamp = path.join(dir, 'store.json');
		t.is(await readFile(stamp, 'utf8'), '{"format":1}\n');
		for (const [text, got] of [
			['{"format":2}\n', '2'],
			['{"format":"new"}', '"new"'],
			['', '""'],
			['null', '"null"'],
		] as const) {
			await writeFile(stamp, text);
			const before = contentOf(dir);
			await t.throwsAsync(open(t, undefined, {dir}), {
				code: 'InvalidStore',
				message: `expected a package store of format 1 at ${dir}, got one of format ${got}; a later forktree may have made it`,
			} as never);
			t.deepEqual(contentOf(dir), before);
			t.is(await readFile(stamp, 'utf8'), text);
		}
		await rm(stamp);
		const again = await open(t, undefined, {dir});
		t.deepEqual(namesOf(await again.store.list()), ['a']);
		t.deepEqual((await again.store.verify()).foreign, []);
		t.is(await readFile(stamp, 'utf8'), '{"format":1}\n');
	},
);
