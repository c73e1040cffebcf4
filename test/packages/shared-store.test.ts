import {execFile} from 'node:child_process';
import {existsSync, lstatSync, readdirSync} from 'node:fs';
import {chmod, cp, mkdir, rename, rm, symlink, writeFile} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import {PassThrough} from 'node:stream';
import {buffer} from 'node:stream/consumers';
import {promisify} from 'node:util';
import test, {type ExecutionContext} from 'ava';
import {openPackages, type PackagesOptions} from '../../src/packages/package-cache.ts';
import {PackageStore, type PackageStoreOptions} from '../../src/packages/package-store.ts';
import {type ArchiveSpec, PackageIndex} from '../helpers/archives.ts';
import {kernelTest, rootTest, serialKernelTest} from '../helpers/kernel-test.ts';
import {python, temporaryFolder} from '../helpers/runtime.ts';
import {abi, distribution, type FakeSteps, fakeSteps, interpreter, lockOf} from './fake-steps.ts';

type Fixture = {readonly dir: string; readonly store: PackageStore; readonly steps: FakeSteps};

const never = new AbortController().signal;
const cost = {exclusiveMs: 1, inclusiveMs: 2, privateMiB: 3, runs: 5};

async function folder(t: ExecutionContext): Promise<string> {
	const made = await temporaryFolder();
	t.teardown(() => rm(made, {recursive: true, force: true}));
	return made;
}

async function open(t: ExecutionContext, options: Partial<PackageStoreOptions> = {}): Promise<Fixture> {
	const dir = options.dir ?? path.join(await folder(t), 'store');
	const steps = fakeSteps();
	return {dir, steps, store: await PackageStore.open({dir, interpreter, steps, ...options})};
}

/** A store as an image has it; answers its folder. */
async function image(t: ExecutionContext, ...packages: readonly string[]): Promise<string> {
	const {dir, store} = await open(t);
	await store.install(lockOf(...packages));
	return dir;
}

/** Everything of a folder that writing to it would change; the resolver's copy of itself gets more names elsewhere. */
function stateOf(dir: string): string[] {
	const names = readdirSync(dir, {recursive: true, encoding: 'utf8'}).filter((name) => !/^cache\/uv-/.test(name));
	return ['.', ...names].sort().map((name) => {
		const {ino, mode, uid, size, mtimeMs, ctimeMs} = lstatSync(path.join(dir, name));
		return [name, ino, mode, uid, size, mtimeMs, ctimeMs].join(' ');
	});
}

/** Where a package is, or would be. */
function placeOf(dir: string, text: string): string {
	const {name, version, archive} = distribution(text);
	return path.join(dir, abi, `${name}==${version}`, archive.sha256.slice(0, 16));
}

function filesOf(dir: string, ...packages: readonly string[]): string[] {
	return packages.map((each) => path.join(placeOf(dir, each), 'files'));
}

kernelTest(
	'what is shared is used from there, what is missing is installed; nothing is written for the former',
	async (t) => {
		const shared = await image(t, 'a==1.0', 'b==1.0');
		const before = stateOf(shared);
		const {dir, store, steps} = await open(t, {shared: [shared]});
		const lock = lockOf('a==1.0', 'c==1.0', 'b==1.0');
		const {set, release} = await store.acquire(lock);
		const [a = '', b = ''] = filesOf(shared, 'a==1.0', 'b==1.0');
		const [c = ''] = filesOf(dir, 'c==1.0');
		t.deepEqual(set, {
			key: lock.key,
			folders: [a, c, b],
			distributions: ['a', 'c', 'b'].map((name) => ({name, version: '1.0', modules: [name]})),
		});
		t.deepEqual(steps.log, ['fetch c-1.0-py3-none-any.whl', 'unpack c']);
		t.deepEqual(readdirSync(path.join(dir, abi)), ['c==1.0']);
		t.deepEqual(readdirSync(path.join(dir, 'archives')).length, 1);

		t.deepEqual(
			(await store.list()).map(({name, folder: at, shared: from}) => [name, at, from]),
			[
				['a', a, shared],
				['b', b, shared],
				['c', c, undefined],
			],
		);
		const [info] = await store.info('a');
		t.like(info, {shared, folder: a, users: [], files: {length: 3}});
		t.is(store.find('a', '1.0', distribution('a==1.0').archive.sha256)?.version, '1.0');
		t.is(store.find('a', '1.0', '0'.repeat(64)), undefined);
		t.deepEqual(store.describe(a)?.requires, ['something']);
		t.deepEqual(store.describe(c)?.requires, ['something']);
		t.throws(() => store.describe(filesOf(shared, 'a==1.0')[0]?.replace('/files', '') ?? ''), {instanceOf: TypeError});
		(await store.hold(set))();

		const manifest = path.join(await folder(t), 'function.json');
		await writeFile(manifest, '');
		await store.setUser('f', manifest, set);
		t.deepEqual(
			(await store.list()).map(({users}) => users),
			[[], [], ['f']],
		);
		release();
		t.deepEqual((await store.gc({maxBytes: 0})).removed, []);
		await store.removeUser('f');
		t.deepEqual(
			(await store.gc({maxBytes: 0})).removed.map(({name}) => name),
			['c'],
		);
		t.deepEqual(await store.verify(), {checked: 2, damaged: [], foreign: []});
		t.deepEqual(stateOf(shared), before);
	},
);

kernelTest('a lock of which all is shared needs nothing of the writable store', async (t) => {
	const shared = await image(t, 'a==1.0', 'b==1.0 sdist');
	const {dir, store, steps} = await open(t, {shared: [shared], offline: true});
	const before = stateOf(dir);
	const {folders} = await store.install(lockOf('a==1.0', 'b==1.0 sdist'));
	t.deepEqual(folders, filesOf(shared, 'a==1.0', 'b==1.0 sdist'));
	t.deepEqual(steps.log, []);
	t.deepEqual(stateOf(dir), before);
});

kernelTest('the first shared store that has a package counts, and the writable one last', async (t) => {
	const first = await image(t, 'b==1.0');
	const second = await image(t, 'a==1.0', 'b==1.0');
	const {dir, store} = await open(t);
	await store.install(lockOf('a==1.0', 'c==1.0'));
	const {store: layered} = await open(t, {dir, shared: [first, second]});
	const {set, release} = await layered.acquire(lockOf('a==1.0', 'b==1.0', 'c==1.0'));
	t.deepEqual(set.folders, [...filesOf(second, 'a==1.0'), ...filesOf(first, 'b==1.0'), ...filesOf(dir, 'c==1.0')]);
	t.deepEqual(
		(await layered.list()).map(({name, shared}) => [name, shared]),
		[
			['a', second],
			['b', first],
			['c', undefined],
		],
	);
	const manifest = path.join(await folder(t), 'function.json');
	await writeFile(manifest, '');
	await layered.setUser('f', manifest, set);
	// What the writable store has of it besides is used by nobody.
	t.deepEqual(
		(await layered.gc({maxBytes: 0})).removed.map(({name}) => name),
		['a'],
	);
	release();
});

kernelTest('another archive of the same version, and another interpreter’s, are other packages', async (t) => {
	const shared = await image(t, 'a==1.0');
	const {dir, store, steps} = await open(t, {shared: [shared]});
	const {folders} = await store.install(lockOf('a==1.0 sdist'));
	t.deepEqual(folders, filesOf(dir, 'a==1.0 sdist'));
	t.deepEqual(steps.log, ['fetch a-1.0.tar.gz', 'build a', 'unpack a']);
	const newer = await open(t, {shared: [shared], interpreter: {...interpreter, cacheTag: 'cpython-312'}});
	t.deepEqual(await newer.store.list(), []);
});

const damages: Readonly<Record<string, (at: string) => Promise<unknown>>> = {
	'no record': (at) => rm(path.join(at, 'metadata.json')),
	'a record that is not understood': (at) => writeFile(path.join(at, 'metadata.json'), '{'),
	'no files': (at) => rm(path.join(at, 'files'), {recursive: true}),
	'a link in place of its files': async (at) => {
		await rename(path.join(at, 'files'), path.join(at, 'other'));
		await symlink('other', path.join(at, 'files'));
	},
	'a mark that it is damaged': (at) => rename(path.join(at, 'metadata.json'), path.join(at, 'damaged.json')),
	'files that nobody but root can read': (at) => chmod(path.join(at, 'files'), 0o700),
};
for (const [what, damage] of Object.entries(damages)) {
	kernelTest(`a shared package with ${what} is passed over`, async (t) => {
		const shared = await image(t, 'a==1.0', 'b==1.0');
		const second = path.join(await folder(t), 'second');
		await cp(shared, second, {recursive: true});
		await damage(placeOf(shared, 'a==1.0'));
		const before = stateOf(shared);
		const {store} = await open(t, {shared: [shared, second]});
		t.deepEqual((await store.install(lockOf('a==1.0'))).folders, filesOf(second, 'a==1.0'));
		const {dir, store: alone} = await open(t, {shared: [shared]});
		t.deepEqual((await alone.install(lockOf('a==1.0', 'b==1.0'))).folders, [
			...filesOf(dir, 'a==1.0'),
			...filesOf(shared, 'b==1.0'),
		]);
		t.deepEqual(
			(await alone.list()).map(({name, shared: from}) => [name, from]),
			[
				['a', undefined],
				['b', shared],
			],
		);
		const {checked, damaged} = await alone.verify();
		t.is(checked, 3);
		t.deepEqual(
			damaged.map((each) => [each.id.name, each.shared, each.remedy]),
			[['a', shared, 'left']],
		);
		t.deepEqual(stateOf(shared), before);
	});
}

kernelTest('verify tells of changed files in a shared store, and mends only its own', async (t) => {
	const shared = await image(t, 'a==1.0');
	const {dir, store} = await open(t, {shared: [shared]});
	await store.install(lockOf('a==1.0', 'b==1.0'));
	for (const at of [...filesOf(shared, 'a==1.0'), ...filesOf(dir, 'b==1.0')]) {
		await writeFile(path.join(at, path.basename(path.dirname(path.dirname(at)))[0] ?? '', '__init__.py'), 'changed');
	}
	await writeFile(path.join(shared, 'of-somebody-else'), '');
	const before = stateOf(shared);
	const {damaged, ...rest} = await store.verify();
	t.deepEqual(rest, {checked: 2, foreign: []});
	t.deepEqual(
		damaged.map(({id, damage, remedy, shared: from}) => [id.name, damage, remedy, from]),
		[
			['b', [{path: 'b/__init__.py', problem: 'changed'}], 'reinstalled', undefined],
			['a', [{path: 'a/__init__.py', problem: 'changed'}], 'left', shared],
		],
	);
	t.deepEqual((await store.verify({names: ['b']})).damaged, []);
	t.deepEqual(stateOf(shared), before);
});

kernelTest(
	'costs that a shared store has count for the same build; others are measured, and kept in memory',
	async (t) => {
		const {dir: shared, store: maker} = await open(t);
		await maker.install(lockOf('a==1.0', 'b==1.0'));
		await maker.setCost(distribution('a==1.0'), cost);
		const before = stateOf(shared);
		const sha256 = distribution('a==1.0').archive.sha256;
		const {dir, store} = await open(t, {shared: [shared]});
		const [files = ''] = filesOf(shared, 'a==1.0');
		t.deepEqual(store.find('a', '1.0', sha256)?.cost, {...cost, interpreter: interpreter.build});
		t.is(store.find('b', '1.0', distribution('b==1.0').archive.sha256)?.cost, undefined);

		const build = 'another build';
		const {store: other} = await open(t, {dir, shared: [shared], interpreter: {...interpreter, build}});
		t.is(other.find('a', '1.0', sha256)?.cost, undefined);
		t.is((await other.info('a'))[0]?.cost, undefined);
		await other.setCost(distribution('a==1.0'), {...cost, exclusiveMs: 9});
		const measured = {...cost, exclusiveMs: 9, interpreter: build};
		t.deepEqual(other.find('a', '1.0', sha256)?.cost, measured);
		t.deepEqual((await other.list())[0]?.cost, measured);
		t.deepEqual(other.describe(files)?.cost, measured);
		t.deepEqual(store.describe(files)?.cost, {...cost, interpreter: interpreter.build});
		t.deepEqual(stateOf(shared), before);
		t.false(existsSync(placeOf(dir, 'a==1.0')));
	},
);

kernelTest('offline: what a shared store keeps is enough to make packages of, in the writable one', async (t) => {
	const shared = await image(t, 'a==1.0', 'b==1.0 sdist', 'c==1.0 sdist');
	for (const each of ['a==1.0', 'b==1.0 sdist', 'c==1.0 sdist']) await rm(placeOf(shared, each), {recursive: true});
	// Of this one there is no wheel that was built.
	await rm(path.join(shared, 'archives', distribution('c==1.0 sdist').archive.sha256, abi), {recursive: true});
	const before = stateOf(shared);
	const {dir, store, steps} = await open(t, {shared: [shared], offline: true});
	const {folders} = await store.install(lockOf('a==1.0', 'b==1.0 sdist', 'c==1.0 sdist'));
	t.deepEqual(folders, filesOf(dir, 'a==1.0', 'b==1.0 sdist', 'c==1.0 sdist'));
	t.deepEqual([...steps.log].sort(), ['build c', 'unpack a', 'unpack b', 'unpack c']);
	await t.throwsAsync(store.install(lockOf('d==1.0')), {code: 'Offline', message: /d 1\.0/});
	t.deepEqual(stateOf(shared), before);
	await rm(placeOf(dir, 'c==1.0 sdist'), {recursive: true});
	await store.install(lockOf('c==1.0 sdist'));
	t.is(steps.log.filter((step) => step === 'build c').length, 1, 'the wheel is kept');
});

kernelTest('an export and an import are of the writable store alone', async (t) => {
	const shared = await image(t, 'a==1.0');
	const {dir, store} = await open(t, {shared: [shared]});
	await store.install(lockOf('a==1.0', 'b==1.0'));
	const output = new PassThrough();
	const [report, bytes] = await Promise.all([store.export(output, never), buffer(output)]);
	t.deepEqual(report.packages, ['b==1.0']);
	const {store: all} = await open(t, {dir: shared});
	await all.install(lockOf('b==1.0'));
	const before = stateOf(shared);
	const other = await open(t, {shared: [shared]});
	const source = new PassThrough();
	source.end(bytes);
	t.deepEqual(await other.store.import(source, never), {imported: ['b==1.0'], found: []});
	t.true(existsSync(placeOf(other.dir, 'b==1.0')));
	t.deepEqual((await other.store.install(lockOf('b==1.0'))).folders, filesOf(shared, 'b==1.0'));
	t.deepEqual(stateOf(shared), before);
	t.false(existsSync(placeOf(dir, 'a==1.0')));
});

kernelTest('everybody may read what others need of a store, also of an imported package', async (t) => {
	const {dir, store} = await open(t);
	await store.install(lockOf('a==1.0'));
	await store.setCost(distribution('a==1.0'), cost);
	const output = new PassThrough();
	const [, bytes] = await Promise.all([store.export(output, never), buffer(output)]);
	const other = await open(t);
	const source = new PassThrough();
	source.end(bytes);
	await other.store.import(source, never);
	for (const each of [dir, other.dir]) {
		const at = placeOf(each, 'a==1.0');
		const records = ['metadata.json', 'files.json', 'cost.json'].map((name) => path.join(at, name));
		for (const file of [path.join(each, 'store.json'), ...records]) t.is(lstatSync(file).mode & 0o777, 0o644, file);
		t.is(lstatSync(at).mode & 0o777, 0o755);
	}
});

kernelTest('a set of which a shared package has gone is not held any more', async (t) => {
	const shared = await image(t, 'a==1.0');
	const {store} = await open(t, {shared: [shared]});
	const set = await store.install(lockOf('a==1.0'));
	await rename(shared, `${shared}-gone`);
	await t.throwsAsync(store.hold(set), {code: 'PackageDamaged', message: /a 1\.0/});
});

const noStores: Readonly<Record<string, readonly [(at: string) => Promise<unknown>, RegExp]>> = {
	'a folder that is not there': [async () => undefined, /got nothing there$/],
	'a file': [(at) => writeFile(at, ''), /got no folder$/],
	'an empty folder': [(at) => mkdir(at), /got a folder without store\.json$/],
	'a folder of something else': [
		async (at) => {
			await mkdir(at);
			await writeFile(path.join(at, 'store.json'), '{}');
		},
		/got one of format "\{\}"/,
	],
	'a store of another format': [
		async (at) => {
			await mkdir(at);
			await writeFile(path.join(at, 'store.json'), '{"format": 2}');
		},
		/got one of format 2/,
	],
};
for (const [what, [make, message]] of Object.entries(noStores)) {
	kernelTest(`${what} is no shared store: the error names it, and nothing is made`, async (t) => {
		const home = await folder(t);
		const [dir, shared] = [path.join(home, 'store'), path.join(home, 'shared')];
		await make(shared);
		const error = await t.throwsAsync(open(t, {dir, shared: [shared]}), {code: 'InvalidStore', message});
		t.true(error?.message.includes(shared));
		t.false(existsSync(dir));
	});
}

kernelTest('the writable store is none of its own shared ones, by whatever name', async (t) => {
	const dir = await image(t, 'a==1.0');
	const link = `${dir}-link`;
	await symlink(dir, link);
	for (const shared of [dir, link, path.relative(process.cwd(), dir)]) {
		await t.throwsAsync(open(t, {dir, shared: [shared]}), {code: 'InvalidStore', message: /installed in/});
	}
	const {store} = await open(t, {shared: [link]});
	t.deepEqual((await store.install(lockOf('a==1.0'))).folders, filesOf(dir, 'a==1.0'));
});

rootTest('a shared store on a read-only mount does', async (t) => {
	const shared = await image(t, 'a==1.0', 'b==1.0');
	const home = await folder(t);
	// In a mount namespace of its own, so that no mount of ours is seen or left.
	const script = `mount --bind ${shared} ${shared} && mount -o remount,bind,ro ${shared} && exec "$@"`;
	const code = `
		import {writeFileSync} from 'node:fs';
		import {PackageStore} from '${path.join(import.meta.dirname, '../../src/packages/package-store.ts')}';
		import {distribution, fakeSteps, interpreter, lockOf} from '${path.join(import.meta.dirname, 'fake-steps.ts')}';
		try {
			writeFileSync('${shared}/file', '');
		} catch ({code}) {
			console.log(code);
		}
		const store = await PackageStore.open({dir: '${home}/store', shared: ['${shared}'], interpreter, steps: fakeSteps()});
		const {set, release} = await store.acquire(lockOf('a==1.0', 'b==1.0', 'c==1.0'));
		console.log(set.folders.filter((folder) => folder.startsWith('${shared}/')).length);
		await store.setUser('f', '/etc/passwd', set);
		await store.setCost(distribution('a==1.0'), ${JSON.stringify(cost)});
		(await store.hold(set))();
		release();
		const {checked, damaged, foreign} = await store.verify();
		console.log(checked, damaged.length, foreign.length);
		console.log((await store.list()).map(({name, cost}) => name + (cost === undefined ? '' : '*')).join());
		await store.removeUser('f');
		console.log((await store.gc({maxBytes: 0})).removed.map(({name}) => name).join());
	`;
	const file = path.join(home, 'read-only.mts');
	await writeFile(file, code);
	const argv = ['--mount', 'sh', '-ec', script, 'sh', process.execPath, '--import=tsx', file];
	const {stdout} = await promisify(execFile)('unshare', argv, {cwd: path.join(import.meta.dirname, '../..')});
	t.is(stdout, 'EROFS\n2\n3 0 0\na*,b,c\nc\n');
});

const one = {name: 'one', version: '1.0', text: 'VALUE = 1\n'} as const;
const two: ArchiveSpec = {name: 'two', version: '2.0', requires: ['one'], text: 'import one\n'};
const three: ArchiveSpec = {name: 'three', version: '3.0', text: 'VALUE = 3\n'};

async function openReal(t: ExecutionContext, options: PackagesOptions) {
	const packages = await openPackages({python, ...options});
	t.teardown(() => packages.close());
	return packages;
}

serialKernelTest('offline, requirements are resolved among what all stores keep, and measured once', async (t) => {
	t.timeout(180_000);
	await using index = await PackageIndex.start([one, two, three], {json: true});
	const requirements = (...lines: readonly string[]) => [`--index-url ${index.url}`, ...lines];
	const [first, second, dir] = [await folder(t), await folder(t), await folder(t)];
	for (const [at, line] of [
		[first, 'one'],
		[second, 'three'],
	] as const) {
		const packages = await openReal(t, {dir: at});
		await packages.add(requirements(line));
		await packages.measured();
		await packages.close();
	}
	const before = [stateOf(first), stateOf(second)];
	const packages = await openReal(t, {dir, shared: [first, second]});
	const measured: string[] = [];
	packages.on('measured', ({name}) => measured.push(name));
	const report = await packages.add(requirements('two'));
	t.deepEqual([report.packages, report.installed], [['one==1.0', 'two==2.0'], ['two==2.0']]);
	await packages.measured();
	t.deepEqual(measured, ['two']);
	await packages.close();

	index.requests.length = 0;
	const offline = await openReal(t, {dir, shared: [first, second], offline: true});
	const again = await offline.add(requirements('two', 'three'));
	t.deepEqual([again.packages, again.installed], [['one==1.0', 'three==3.0', 'two==2.0'], []]);
	await t.throwsAsync(offline.add(requirements('four')), {code: 'Offline', message: /four/});
	t.deepEqual(index.requests, []);
	t.deepEqual([stateOf(first), stateOf(second)], before);
	const alone = await openReal(t, {dir, offline: true});
	await t.throwsAsync(alone.add(requirements('three')), {code: 'Offline', message: /three/});
});

test('what is no list of folders is TypeError', async (t) => {
	for (const shared of ['/a', [''], [1], {}, null]) {
		await t.throwsAsync(openPackages({dir: '/nowhere', shared} as never), {
			instanceOf: TypeError,
			message: /^shared: /,
		});
	}
});
