/** Export and import of packages: what comes out goes in elsewhere, and nothing else does. */
import {execFile} from 'node:child_process';
import {readdirSync, writeFileSync} from 'node:fs';
import {rm, writeFile} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import {PassThrough, Readable, type Writable} from 'node:stream';
import {buffer} from 'node:stream/consumers';
import {promisify} from 'node:util';
import type {ExecutionContext} from 'ava';
import {Header, type HeaderData, list as listTar, Pax} from 'tar';
import {type ErrorCode, ForktreeError} from '../../src/errors.ts';
import type {ExportReport} from '../../src/packages/export.ts';
import {PackageStore, type PackageStoreOptions} from '../../src/packages/package-store.ts';
import {kernelTest} from '../helpers/kernel-test.ts';
import {temporaryFolder} from '../helpers/runtime.ts';
import {distribution, type FakeSteps, fakeSteps, interpreter, lockOf, sha256} from './fake-steps.ts';

const cost = {exclusiveMs: 1, inclusiveMs: 2, privateMiB: 3, runs: 5};

function never(): AbortSignal {
	return new AbortController().signal;
}

async function folder(t: ExecutionContext): Promise<string> {
	const made = await temporaryFolder();
	t.teardown(() => rm(made, {recursive: true, force: true}));
	return made;
}

type Fixture = {readonly dir: string; readonly store: PackageStore; readonly steps: FakeSteps};

async function open(t: ExecutionContext, options: Partial<PackageStoreOptions> = {}): Promise<Fixture> {
	const dir = options.dir ?? path.join(await folder(t), 'store');
	const steps = fakeSteps();
	return {dir, steps, store: await PackageStore.open({dir, interpreter, steps, ...options})};
}

/** Everything below a store's folder. */
function contentOf(dir: string): string[] {
	return readdirSync(dir, {recursive: true, encoding: 'utf8'}).sort();
}

async function exported(store: PackageStore): Promise<{readonly bytes: Buffer; readonly report: ExportReport}> {
	const through = new PassThrough();
	const [bytes, report] = await Promise.all([buffer(through), store.export(through as Writable, never())]);
	return {bytes, report};
}

function imported(store: PackageStore, bytes: Uint8Array) {
	const chunks: Uint8Array[] = [];
	for (let at = 0; at < bytes.length; at += 700) chunks.push(bytes.subarray(at, at + 700));
	return store.import(Readable.from(chunks), never());
}

type Entry = HeaderData & {readonly path: string; readonly content: Buffer; readonly pax?: Record<string, unknown>};

/** What is in a tar file. */
function entriesOf(bytes: Buffer): Entry[] {
	const entries: Array<Entry & {chunks: Buffer[]}> = [];
	const parser = listTar({
		sync: false,
		onReadEntry: (entry) => {
			const read = {path: entry.path, mode: entry.mode ?? 0, content: Buffer.alloc(0), chunks: [] as Buffer[]};
			entry.on('data', (chunk) => read.chunks.push(Buffer.from(chunk)));
			entries.push(read);
		},
	});
	parser.end(bytes);
	return entries.map(({chunks, ...entry}) => ({...entry, content: Buffer.concat(chunks)}));
}

/** A tar file as anyone could write it, with whatever its headers claim. */
function tarOf(entries: readonly Entry[]): Buffer {
	const blocks = entries.flatMap(({content, pax, ...data}) => {
		const header = new Header({mode: 0o644, size: content.length, type: 'File', mtime: new Date(0), ...data});
		const needed = header.encode() ? {path: data.path, ...pax} : pax;
		const extended = needed === undefined ? [] : [new Pax(needed).encode()];
		return [...extended, header.block ?? Buffer.alloc(0), content, Buffer.alloc((512 - (content.length % 512)) % 512)];
	});
	return Buffer.concat([...blocks, Buffer.alloc(1024)]);
}

kernelTest(
	'what was exported is there after the import: packages, costs, and archives to make them from',
	async (t) => {
		const from = await open(t);
		const names = ['zeta==1.0', 'alpha==2!2.0rc1+local sdist'] as const;
		const lock = lockOf(...names);
		await from.store.install(lock);
		await from.store.setCost(distribution(names[0]), cost);
		const {bytes, report} = await exported(from.store);
		t.deepEqual(report, {packages: ['alpha==2!2.0rc1+local', 'zeta==1.0'], withoutArchive: []});
		t.deepEqual(contentOf(path.join(from.dir, 'scratch')), []);

		const to = await open(t, {offline: true});
		t.deepEqual(await imported(to.store, bytes), {imported: report.packages, found: []});
		t.deepEqual(contentOf(to.dir), contentOf(from.dir));
		t.deepEqual(await to.store.verify(), {checked: 2, damaged: [], foreign: []});
		const [info] = await to.store.info('zeta');
		const [original] = await from.store.info('zeta');
		t.deepEqual({...info, folder: '', lastUsed: 0}, {...original, folder: '', lastUsed: 0} as never);
		t.deepEqual(info?.cost, {...cost, interpreter: interpreter.build});
		await to.store.acquire(lock);
		t.deepEqual(to.steps.log, []);

		// Without the network what is damaged is made anew from what came along, a build included.
		for (const each of await to.store.list()) writeFileSync(path.join(each.folder, 'added'), '');
		const {damaged} = await to.store.verify();
		t.deepEqual(
			damaged.map(({remedy}) => remedy),
			['reinstalled', 'reinstalled'],
		);
		t.deepEqual([...to.steps.log].sort(), ['unpack alpha', 'unpack zeta']);
	},
);

kernelTest('what is there already is passed over; two imports at once do not disturb each other', async (t) => {
	const from = await open(t);
	await from.store.install(lockOf('a==1.0', 'b==1.0', 'c==1.0'));
	const {bytes} = await exported(from.store);
	const to = await open(t);
	await to.store.install(lockOf('b==1.0'));
	const [before] = await to.store.info('b');
	const reports = await Promise.all([imported(to.store, bytes), imported((await open(t, {dir: to.dir})).store, bytes)]);
	t.deepEqual(reports.flatMap((each) => each.imported).sort(), ['a==1.0', 'c==1.0']);
	t.deepEqual(reports.flatMap((each) => each.found).sort(), ['a==1.0', 'b==1.0', 'b==1.0', 'c==1.0']);
	t.deepEqual((await to.store.info('b'))[0]?.lastUsed, before?.lastUsed);
	t.deepEqual(await to.store.verify(), {checked: 3, damaged: [], foreign: []});
	for (const name of ['scratch', 'quarantine', 'locks']) t.deepEqual(readdirSync(path.join(to.dir, name)), [], name);
	t.deepEqual(await imported(to.store, bytes), {imported: [], found: ['a==1.0', 'b==1.0', 'c==1.0']});
});

kernelTest('a package of which the archive is gone is exported without it, and told', async (t) => {
	const from = await open(t);
	await from.store.install(lockOf('a==1.0'));
	await rm(path.join(from.dir, 'archives'), {recursive: true});
	const {bytes, report} = await exported(from.store);
	t.deepEqual(report, {packages: ['a==1.0'], withoutArchive: ['a==1.0']});
	const to = await open(t);
	t.deepEqual((await imported(to.store, bytes)).imported, ['a==1.0']);
});

kernelTest('addresses are exported without what may be for us alone', async (t) => {
	const from = await open(t);
	const lock = lockOf('a==1.0');
	const distributions = lock.distributions.map((each) => ({
		...each,
		archive: {...each.archive, url: `${each.archive.url}?token=sesame#sesame`},
	}));
	await from.store.install({...lock, distributions});
	const {bytes} = await exported(from.store);
	t.false(bytes.includes('sesame'));
	const to = await open(t);
	await imported(to.store, bytes);
	t.is((await to.store.info('a'))[0]?.archive.url, lock.distributions[0]?.archive.url);
});

kernelTest('a damaged package is not exported', async (t) => {
	const {store, dir} = await open(t);
	const {folders} = await store.install(lockOf('a==1.0'));
	writeFileSync(path.join(folders[0] ?? '', 'a', '__init__.py'), 'CHANGED = 1\n');
	await t.throwsAsync(store.export(new PassThrough().resume(), never()), {
		code: 'PackageDamaged',
		message: 'a==1.0 is not as it was installed (changed: a/__init__.py); verify the store first',
	} as never);
	t.deepEqual(contentOf(path.join(dir, 'scratch')), []);
});

kernelTest('an archive for another interpreter is refused, and both are named', async (t) => {
	const other = await open(t, {interpreter: {...interpreter, cacheTag: 'cpython-312'}});
	const {bytes} = await exported(other.store);
	const {store} = await open(t);
	await t.throwsAsync(imported(store, bytes), {
		code: 'InvalidStore',
		message: /^expected an archive of packages for cpython-311-\w+, got one for cpython-312-\w+$/,
	} as never);
});

/** Changes to the entries of an archive of `a==1.0` and `b==1.0`, and what is said of them. */
type Attack = readonly [label: string, change: (entries: Entry[]) => Entry[], code: ErrorCode, message: RegExp];

const places = {summary: 1, contents: 2} as const;
const x = Buffer.from('x');

function changed(place: number, change: (entry: Entry) => Entry): (entries: Entry[]) => Entry[] {
	return (entries) => entries.map((entry, at) => (at === place ? change(entry) : entry));
}

function inserted(place: number, ...added: readonly Entry[]): (entries: Entry[]) => Entry[] {
	return (entries) => [...entries.slice(0, place), ...added, ...entries.slice(place)];
}

type Row = [path: string, sha256: string, sizeBytes: number];
type Records = {
	readonly summary: {name: string; sizeBytes: number; contentsSha256?: string; archive: {[field: string]: string}};
	readonly contents: {readonly files: [Row, Row, Row]};
};

/** Changes what a record says, and what others say of it. */
function lying(change: (records: Records) => void) {
	return (entries: Entry[]): Entry[] => {
		const {contentsSha256: _, ...summary}: Records['summary'] = JSON.parse(String(entries[places.summary]?.content));
		const contents: Records['contents'] = JSON.parse(String(entries[places.contents]?.content));
		change({summary, contents});
		const text = `${JSON.stringify(contents)}\n`;
		const described = {contentsSha256: sha256(text), ...summary};
		return entries.map((entry, at) => {
			if (at === places.summary) return {...entry, content: Buffer.from(JSON.stringify(described))};
			return at === places.contents ? {...entry, content: Buffer.from(text)} : entry;
		});
	};
}

const attacks: readonly Attack[] = [
	['no list', (all) => all.slice(1), 'UnsafeArchive', /^expected forktree-packages\.json next, got ".*metadata\.json"/],
	[
		'another format',
		changed(0, (e) => ({...e, content: Buffer.from('{"format":2}')})),
		'InvalidStore',
		/format 1, got 2/,
	],
	[
		'a list that is none',
		changed(0, (e) => ({...e, content: x})),
		'TransferFailed',
		/^forktree-packages\.json: expected JSON/,
	],
	[
		'a link',
		inserted(3, {path: 'l', type: 'SymbolicLink', linkpath: '/etc/passwd', content: Buffer.alloc(0)}),
		'UnsafeArchive',
		/got a SymbolicLink at "l"/,
	],
	[
		'a hard link',
		changed(3, (e) => ({...e, type: 'Link', linkpath: '/etc/passwd', content: Buffer.alloc(0)})),
		'UnsafeArchive',
		/got a Link at/,
	],
	[
		'a device',
		changed(3, (e) => ({...e, type: 'CharacterDevice', content: Buffer.alloc(0)})),
		'UnsafeArchive',
		/got a CharacterDevice at/,
	],
	['a pipe', inserted(1, {path: 'p', type: 'FIFO', content: Buffer.alloc(0)}), 'UnsafeArchive', /got a FIFO at "p"/],
	[
		'a folder',
		inserted(1, {path: 'd/', type: 'Directory', content: Buffer.alloc(0)}),
		'UnsafeArchive',
		/got a Directory at "d\/"/,
	],
	['an absolute path', changed(3, (e) => ({...e, path: '/etc/forktree'})), 'UnsafeArchive', /got "\/etc\/forktree"/],
	['..', changed(3, (e) => ({...e, path: `../${e.path}`})), 'UnsafeArchive', /got "\.\.\//],
	['a path behind pax', changed(3, (e) => ({...e, pax: {path: '/etc/x'}})), 'UnsafeArchive', /got "\/etc\/x"/],
	['a duplicate', (all) => [...all.slice(0, 4), ...all.slice(3)], 'UnsafeArchive', /^expected .* next, got/],
	[
		'another order',
		(all) => [...all.slice(0, 3), all[4], all[3], ...all.slice(5)] as Entry[],
		'UnsafeArchive',
		/^expected .* next, got/,
	],
	[
		'more than is listed',
		(all) => [...all, {path: 'more', content: x}],
		'UnsafeArchive',
		/^expected nothing next, got "more"$/,
	],
	[
		'a changed file',
		changed(3, (e) => ({...e, content: Buffer.from(e.content).fill('y')})),
		'HashMismatch',
		/: expected sha256 \w{64}, got \w{64}$/,
	],
	[
		'a longer file',
		changed(3, (e) => ({...e, content: Buffer.concat([e.content, x])})),
		'HashMismatch',
		/: expected \d+ bytes, got \d+$/,
	],
	[
		'a size without end',
		changed(1, (e) => ({...e, pax: {size: 2 ** 50}})),
		'UnsafeArchive',
		/metadata\.json: expected at most \d+ bytes, got 1125899906842624$/,
	],
	[
		'a changed archive',
		(all) => all.map((e) => (e.path.startsWith('archives/') ? {...e, content: Buffer.from(e.content).fill('y')} : e)),
		'HashMismatch',
		/^archives\/.*: expected sha256/,
	],
	[
		'a package less',
		(all) => all.slice(0, 7),
		'TransferFailed',
		/^the archive is not complete: expected .*b==1\.0.* next$/,
	],
	[
		'records that are none',
		changed(1, (e) => ({...e, content: x})),
		'TransferFailed',
		/^the records of a 1\.0 can not be read$/,
	],
	[
		'a list of other files',
		lying(({summary}) => {
			summary.contentsSha256 = 'f'.repeat(64);
		}),
		'TransferFailed',
		/the list of files is another one$/,
	],
	[
		'a record of a file outside',
		lying(({contents}) => {
			contents.files[0][0] = '../x';
		}),
		'TransferFailed',
		/expected a relative path/,
	],
	[
		'a file twice',
		lying(({contents}) => {
			contents.files[1] = contents.files[0];
		}),
		'TransferFailed',
		/^the records of a 1\.0 are not valid/,
	],
	[
		'another size of all',
		lying(({summary}) => {
			summary.sizeBytes += 1;
		}),
		'TransferFailed',
		/sum of all files/,
	],
	[
		'more bytes than a package has',
		lying(({summary, contents}) => {
			summary.sizeBytes += 2 ** 40;
			contents.files[0][2] += 2 ** 40;
		}),
		'TransferFailed',
		/they tell of \d+ bytes$/,
	],
	[
		'another package',
		lying(({summary}) => {
			summary.name = 'b';
		}),
		'TransferFailed',
		/can not be read$/,
	],
	[
		'another archive',
		lying(({summary}) => {
			summary.archive.sha256 = 'f'.repeat(64);
		}),
		'TransferFailed',
		/an archive with the hash f{64}$/,
	],
	[
		'an archive outside',
		lying(({summary}) => {
			summary.archive.file = '../x.whl';
		}),
		'TransferFailed',
		/the name of a file/,
	],
	[
		'an address with a password',
		lying(({summary}) => {
			summary.archive.url = 'https://me:sesame@host/a';
		}),
		'TransferFailed',
		/no credentials$/,
	],
];

for (const [label, change, code, message] of attacks) {
	kernelTest(`refused, and the store is as before: ${label}`, async (t) => {
		const from = await open(t);
		await from.store.install(lockOf('a==1.0', 'b==1.0'));
		const entries = entriesOf((await exported(from.store)).bytes);
		t.is(entries.length, 13);
		const to = await open(t);
		const before = contentOf(to.dir);
		const error = await t.throwsAsync(imported(to.store, tarOf(change(entries))), {instanceOf: ForktreeError});
		t.is(error.code, code, error.message);
		t.regex(error.message, message);
		t.deepEqual(contentOf(to.dir), before);
	});
}

kernelTest('what the attacks change is imported when nothing is changed', async (t) => {
	const from = await open(t);
	await from.store.install(lockOf('a==1.0', 'b==1.0'));
	const entries = entriesOf((await exported(from.store)).bytes);
	const to = await open(t);
	t.deepEqual((await imported(to.store, tarOf(entries))).imported, ['a==1.0', 'b==1.0']);
});

kernelTest('wherever it is cut off, and zipped, it is refused and nothing is left', async (t) => {
	const from = await open(t);
	await from.store.install(lockOf('a==1.0'));
	const {bytes} = await exported(from.store);
	const to = await open(t);
	const before = contentOf(to.dir);
	for (const size of [0, 1, 511, 512, 513, 1024, 2000, 5000, bytes.length - 1024 - 512 - 1]) {
		await t.throwsAsync(imported(to.store, bytes.subarray(0, size)), {code: 'TransferFailed'} as never, String(size));
		t.deepEqual(contentOf(to.dir), before, String(size));
	}
	const {gzipSync} = await import('node:zlib');
	await t.throwsAsync(imported(to.store, gzipSync(bytes)), {code: 'TransferFailed'} as never);
	t.deepEqual(contentOf(to.dir), before);
});

kernelTest('an import that is aborted leaves nothing, also when its source says nothing', async (t) => {
	const {store, dir} = await open(t);
	const before = contentOf(dir);
	const abort = new AbortController();
	const source = new PassThrough();
	const importing = store.import(source, abort.signal);
	abort.abort();
	await t.throwsAsync(importing, {code: 'Aborted'} as never);
	t.true(source.destroyed);
	t.deepEqual(contentOf(dir), before);
});

kernelTest('a full or read-only file system: a typed error, and nothing left', async (t) => {
	const from = await open(t);
	await from.store.install(lockOf('a==1.0', 'b==1.0'));
	const home = await folder(t);
	const file = path.join(await folder(t), 'packages.tar');
	await writeFile(file, (await exported(from.store)).bytes);
	// In a mount namespace of its own, so that no mount of ours is seen or left.
	const script = `mount -t tmpfs -o size=96k none ${home} && exec "$@"`;
	const code = `
		import {execFileSync} from 'node:child_process';
		import {createReadStream, readdirSync} from 'node:fs';
		import {PackageStore} from '${path.join(import.meta.dirname, '../../src/packages/package-store.ts')}';
		import {fakeSteps, interpreter} from '${path.join(import.meta.dirname, 'fake-steps.ts')}';
		const signal = new AbortController().signal;
		const store = await PackageStore.open({dir: '${home}/store', interpreter, steps: fakeSteps()});
		const before = readdirSync('${home}/store', {recursive: true}).join();
		const fails = async () => {
			const error = await store.import(createReadStream('${file}'), signal).catch((error) => error);
			console.log(error.code, /ENOSPC|EROFS/.exec(error.message)?.[0]);
			if (readdirSync('${home}/store', {recursive: true}).join() !== before) console.log('something is left');
		};
		execFileSync('mount', ['-o', 'remount,size=32k', '${home}']);
		await fails();
		execFileSync('mount', ['-o', 'remount,size=1m,ro', '${home}']);
		await fails();
		execFileSync('mount', ['-o', 'remount,rw', '${home}']);
		console.log((await store.import(createReadStream('${file}'), signal)).imported.join());
	`;
	const argv = [
		'--mount',
		'sh',
		'-ec',
		script,
		'sh',
		process.execPath,
		'--import=tsx',
		'--input-type=module',
		'-e',
		code,
	];
	const {stdout} = await promisify(execFile)('unshare', argv);
	t.is(stdout, 'TransferFailed ENOSPC\nTransferFailed EROFS\na==1.0,b==1.0\n');
});
