import {existsSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync} from 'node:fs';
import {rm} from 'node:fs/promises';
import type {ServerResponse} from 'node:http';
import path from 'node:path';
import process from 'node:process';
import {pathToFileURL} from 'node:url';
import test, {type ExecutionContext} from 'ava';
import fc from 'fast-check';
import {ForktreeError} from '../../src/errors.ts';
import {Credentials} from '../../src/packages/credentials.ts';
import {Fetcher, type FetcherOptions, readNews} from '../../src/packages/fetch.ts';
import type {Archive} from '../../src/packages/lock.ts';
import {ToolSandboxes} from '../../src/packages/tool-sandboxes.ts';
import {findInterpreter} from '../../src/sandbox/interpreter.ts';
import {type ArchiveSpec, fileName, PackageIndex, sha256Of} from '../helpers/archives.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';
import {kernelTest} from '../helpers/kernel-test.ts';
import {python, temporaryFolder} from '../helpers/runtime.ts';

const interpreter = await findInterpreter(python);
const folder = await temporaryFolder();
const scratch = path.join(folder, 'scratch');
const tools = new ToolSandboxes(interpreter);
const fetchers: Fetcher[] = [];
const six: ArchiveSpec = {name: 'six', version: '1.0'};

test.after.always('nothing is left on the way', async (t) => {
	await Promise.all(fetchers.map(async (each) => each.close()));
	await tools.close();
	t.deepEqual(existsSync(scratch) ? readdirSync(scratch) : [], []);
	await rm(folder, {recursive: true, force: true});
});

function fetcherWith(more: Partial<FetcherOptions> = {}): Fetcher {
	const fetcher = new Fetcher({tools, interpreter, folder: scratch, credentials: new Credentials(), ...more});
	fetchers.push(fetcher);
	return fetcher;
}

let lastFile = 0;
function newFile(): string {
	lastFile += 1;
	return path.join(folder, `archive-${lastFile}`);
}

function archiveOf(index: PackageIndex, more: Partial<Archive> = {}): Archive {
	const file = fileName(six);
	const {length} = index.bytes(six);
	return {
		kind: 'wheel',
		file,
		url: `${index.origin}/files/${file}`,
		sha256: index.sha256(six),
		sizeBytes: length,
		...more,
	};
}

const step = (signal = new AbortController().signal) => ({signal});

async function failing(t: ExecutionContext, promise: Promise<unknown>, code: string, message: RegExp): Promise<void> {
	const error = await t.throwsAsync(promise, {instanceOf: ForktreeError, code, message});
	t.regex(error?.message ?? '', /six-1\.0/);
	t.regex(error?.message ?? '', /download/);
}

/** Answers requests for files in its own way. */
function answering(answer: (response: ServerResponse, attempt: number, url: string) => void): Promise<PackageIndex> {
	let attempts = 0;
	return PackageIndex.start([six], {
		interrupt: (request, response) => {
			if (!request.url?.startsWith('/files/')) return false;
			attempts += 1;
			answer(response, attempts, request.url);
			return true;
		},
	});
}

kernelTest('brings a file, which then belongs to the host', async (t) => {
	await using index = await PackageIndex.start([six]);
	const file = newFile();
	const details: string[] = [];
	await fetcherWith().fetch(archiveOf(index), file, {
		...step(),
		onProgress: (phase, detail) => details.push(`${phase} ${detail}`),
	});
	t.is(sha256Of(readFileSync(file)), index.sha256(six));
	t.is(statSync(file).uid, process.getuid?.() ?? 0);
	t.is(statSync(file).mode & 0o777, 0o644);
	t.deepEqual(details, [`downloading ${fileName(six)}`]);
});

kernelTest('files that are wanted at one time share a sandbox', async (t) => {
	const specs = Array.from({length: 20}, (_, index) => ({name: 'six', version: `1.${index}`}));
	await using index = await PackageIndex.start(specs);
	let runs = 0;
	const counting = {
		run: async (...args: Parameters<ToolSandboxes['run']>) => {
			runs += 1;
			return tools.run(...args);
		},
	};
	const fetcher = fetcherWith({tools: counting as ToolSandboxes});
	const files = await Promise.all(
		specs.map(async (spec) => {
			const file = newFile();
			const url = `${index.origin}/files/${fileName(spec)}`;
			await fetcher.fetch(archiveOf(index, {url, sizeBytes: undefined, sha256: index.sha256(spec)}), file, step());
			return sha256Of(readFileSync(file));
		}),
	);
	t.deepEqual(
		files,
		specs.map((spec) => index.sha256(spec)),
	);
	t.is(runs, 1);
	await fetcher.fetch(archiveOf(index, {sha256: index.sha256({...six, version: '1.0'})}), newFile(), step());
	t.is(runs, 2);
});

kernelTest('another hash is refused, and the file is not there', async (t) => {
	await using index = await PackageIndex.start([six]);
	const file = newFile();
	const archive = archiveOf(index, {sha256: '1'.repeat(64)});
	await failing(t, fetcherWith().fetch(archive, file, step()), 'HashMismatch', /expected sha256 1111.*, got/);
	t.false(existsSync(file));
});

kernelTest('a file that is there already is left alone', async (t) => {
	await using index = await PackageIndex.start([six]);
	const file = newFile();
	writeFileSync(file, 'mine');
	await t.throwsAsync(fetcherWith().fetch(archiveOf(index), file, step()));
	t.is(readFileSync(file, 'utf8'), 'mine');
});

kernelTest('more than was promised is not waited for', async (t) => {
	await using index = await answering((response) => {
		const more = setInterval(() => response.write(Buffer.alloc(64 * 1024)), 1);
		response.on('close', () => clearInterval(more));
	});
	await failing(t, fetcherWith().fetch(archiveOf(index), newFile(), step()), 'InstallFailed', /more than \d+ bytes/);
	t.is(index.requests.length, 1);
});

kernelTest('what breaks off is tried again', async (t) => {
	await using index = await answering((response, attempt) => {
		const bytes = index.bytes(six);
		if (attempt === 1) response.writeHead(503).end();
		else if (attempt === 2) {
			response.writeHead(200, {'Content-Length': bytes.length});
			response.write(bytes.subarray(0, 100), () => response.destroy());
		} else response.end(bytes);
	});
	await fetcherWith().fetch(archiveOf(index), newFile(), step());
	t.is(index.requests.length, 3);
});

kernelTest('what always breaks off is given up', async (t) => {
	await using index = await answering((response) => response.end(index.bytes(six).subarray(0, 100)));
	const failed = fetcherWith().fetch(archiveOf(index), newFile(), step());
	await failing(t, failed, 'InstallFailed', /ended after 100 of \d+ bytes \(tried 3 times\)/);
	t.is(index.requests.length, 3);
});

kernelTest('a server that is not there', async (t) => {
	const index = await PackageIndex.start([six]);
	const archive = archiveOf(index);
	await index.close();
	await failing(t, fetcherWith().fetch(archive, newFile(), step()), 'InstallFailed', /refused.*tried 3 times/);
});

kernelTest('a file that the server does not have is asked for once', async (t) => {
	await using index = await answering((response) => response.writeHead(404).end());
	await failing(t, fetcherWith().fetch(archiveOf(index), newFile(), step()), 'InstallFailed', /answered 404/);
	t.is(index.requests.length, 1);
});

kernelTest('a redirect is followed, not to a file and without a password', async (t) => {
	const seen: Array<string | undefined> = [];
	await using target = await PackageIndex.start([six], {
		interrupt: (request) => {
			seen.push(request.headers.authorization);
			return false;
		},
	});
	await using index = await answering((response) =>
		response.writeHead(302, {Location: `${target.origin}/files/${fileName(six)}`}).end(),
	);
	const credentials = new Credentials();
	credentials.learn(index.url.replace('//', '//somebody:secret@'));
	await fetcherWith({credentials}).fetch(archiveOf(index), newFile(), step());
	t.deepEqual(seen, [undefined]);
	await using bad = await answering((response) => response.writeHead(302, {Location: 'file:///etc/passwd'}).end());
	await failing(t, fetcherWith().fetch(archiveOf(bad), newFile(), step()), 'InstallFailed', /./);
});

kernelTest('a password that is refused, or missing: the error names the server, not the password', async (t) => {
	await using index = await PackageIndex.start([six], {authorization: 'somebody:else'});
	const credentials = new Credentials();
	credentials.learn(index.url.replace('//', '//somebody:secret@'));
	for (const each of [fetcherWith({credentials}), fetcherWith()]) {
		const error = await t.throwsAsync(each.fetch(archiveOf(index), newFile(), step()), {instanceOf: ForktreeError});
		t.is(error.code, 'NotAuthorized');
		t.regex(error.message, /^six-1\.0.*: 127\.0\.0\.1:\d+ does not let us download it: the server answered 401/);
		t.false(error.message.includes('secret'));
	}
});

kernelTest('a server that is silent is given up, and so is one that is slow', async (t) => {
	await using silent = await answering(() => undefined);
	const impatient = fetcherWith({stallMs: 200});
	await failing(t, impatient.fetch(archiveOf(silent), newFile(), step()), 'InstallFailed', /timed out.*tried 3 times/);
	await using slow = await answering((response) => {
		const drip = setInterval(() => response.write('x'), 50);
		response.on('close', () => clearInterval(drip));
	});
	const failed = fetcherWith({timeoutMs: 1000}).fetch(archiveOf(slow, {sizeBytes: undefined}), newFile(), step());
	await failing(t, failed, 'InstallTimeout', /more than 1 seconds/);
});

kernelTest('a caller who goes does not end what others wait for', async (t) => {
	let release: () => void = () => undefined;
	const held = new Promise<void>((resolve) => (release = resolve));
	await using index = await answering((response) => void held.then(() => response.end(index.bytes(six))));
	const fetcher = fetcherWith();
	const controller = new AbortController();
	const aborted = fetcher.fetch(archiveOf(index), newFile(), step(controller.signal));
	const other = fetcher.fetch(archiveOf(index), newFile(), step());
	controller.abort();
	await failing(t, aborted, 'Aborted', /./);
	release();
	await other;
	await failing(t, fetcher.fetch(archiveOf(index), newFile(), step(AbortSignal.abort())), 'Aborted', /./);
});

kernelTest('a program that cannot run is told with its words', async (t) => {
	await using index = await PackageIndex.start([six]);
	const broken = fetcherWith({interpreter: {...interpreter, executable: '/bin/false'}});
	await failing(t, broken.fetch(archiveOf(index), newFile(), step()), 'InstallFailed', /exit code 1/);
	const nowhere = fetcherWith({folder: path.join(import.meta.filename, 'folder')});
	await failing(t, nowhere.fetch(archiveOf(index), newFile(), step()), 'InstallFailed', /ENOTDIR/);
});

kernelTest('closing ends what is under way', async (t) => {
	await using index = await answering(() => undefined);
	const fetcher = fetcherWith();
	const waiting = fetcher.fetch(archiveOf(index), newFile(), step());
	waiting.catch(() => undefined);
	await fetcher.close();
	await failing(t, waiting, 'InstallFailed', /abort/);
});

test('a file of this machine is copied, not through a link', async (t) => {
	await using index = await PackageIndex.start([six]);
	const here = await temporaryFolder();
	t.teardown(() => rm(here, {recursive: true, force: true}));
	const source = path.join(index.folder, fileName(six));
	const file = newFile();
	const url = pathToFileURL(source).href;
	await fetcherWith().fetch(archiveOf(index, {url}), file, step());
	t.is(sha256Of(readFileSync(file)), index.sha256(six));
	const link = path.join(here, 'six-1.0.whl');
	symlinkSync(source, link);
	mkdirSync(path.join(here, 'folder'));
	for (const other of [link, path.join(here, 'folder'), path.join(here, 'missing')]) {
		const archive = archiveOf(index, {url: pathToFileURL(other).href});
		await failing(t, fetcherWith().fetch(archive, newFile(), step()), 'InstallFailed', /./);
	}
	await failing(
		t,
		fetcherWith().fetch(archiveOf(index, {url, sizeBytes: 10}), newFile(), step()),
		'InstallFailed',
		/larger than 10 bytes/,
	);
});

test('whatever the program says is news or nothing', (t) => {
	t.deepEqual(readNews('{"id": 1, "bytes": 5}'), {id: 1, bytes: 5, done: false, failure: undefined});
	for (const line of [
		'',
		'x',
		'1',
		'null',
		'[]',
		'{}',
		'{"id": "1"}',
		'{"id": 1, "bytes": -1}',
		'{"id": 1, "done": 1}',
	]) {
		t.is(readNews(line), undefined);
	}
	const news = fc.record(
		{id: fc.jsonValue(), bytes: fc.jsonValue(), done: fc.jsonValue(), failed: fc.jsonValue()},
		{requiredKeys: []},
	);
	fc.assert(
		fc.property(
			fc.oneof(
				fc.string(),
				fc.json(),
				news.map((value) => JSON.stringify(value)),
			),
			(line) => {
				const found = readNews(line);
				return (
					found === undefined ||
					(Number.isSafeInteger(found.id) && found.bytes >= 0 && (found.failure?.length ?? 0) <= 500)
				);
			},
		),
		fuzzParameters(1),
	);
	t.pass();
});
