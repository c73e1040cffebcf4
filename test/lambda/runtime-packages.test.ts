import {once} from 'node:events';
import {readdirSync, readFileSync} from 'node:fs';
import {mkdir, rm} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import test, {type ExecutionContext} from 'ava';
import {createRuntime, type DeployOptions, type DeployReport, type RuntimeEvents} from '../../src/index.ts';
import {resolveRuntimeOptions} from '../../src/lambda/options.ts';
import {Runtime} from '../../src/lambda/runtime.ts';
import {type ArchiveSpec, PackageIndex} from '../helpers/archives.ts';
import {refusal, serialKernelTest} from '../helpers/kernel-test.ts';
import {answering, writeKeyring} from '../helpers/keyring.ts';
import {LeakCheck} from '../helpers/leak-check.ts';
import {makeRuntime, py, python, temporaryFolder, value} from '../helpers/runtime.ts';

// What the machine is configured to would be looked at besides the index of a test.
for (const name of Object.keys(process.env)) if (/^(?:PIP|UV)_.*(?:INDEX|LINKS)/.test(name)) delete process.env[name];

const leaks = refusal === undefined ? new LeakCheck() : undefined;
test.after.always('nothing is left when the runtimes are closed', (t) => leaks?.verify(t));

const helper: ArchiveSpec = {name: 'helper', version: '1.0', text: 'VALUE = "helper"\n'};
const versions = ['1.0', '2.0'].map(
	(version): ArchiveSpec => ({name: 'lib', version, requires: ['helper'], text: `VERSION = "${version}"\n`}),
);
const [lib1, lib2] = versions as [ArchiveSpec, ArchiveSpec];
const code = py`
	import os, lib

	def f(event):
		return [lib.VERSION, sorted(name for name in os.listdir('/packages') if name.endswith('.py'))]
`;
const seen = (version: string) => [version, ['helper.py', 'lib.py']];

/** An index that has the second version only once it is told to. */
async function startIndex(): Promise<{readonly index: PackageIndex; publish(): void}> {
	let isNew = false;
	const index = await PackageIndex.start([helper, lib1, lib2], {
		interrupt: (request, response) => {
			if (isNew || request.url !== '/simple/lib/') return false;
			response.setHeader('Content-Type', 'text/html');
			response.end('<a href="../../files/lib-1.0-py3-none-any.whl">lib-1.0-py3-none-any.whl</a>');
			return true;
		},
	});
	return {
		index,
		publish: () => {
			isNew = true;
		},
	};
}

async function deploy(
	runtime: Runtime,
	name: string,
	index: {readonly url: string},
	lines: readonly string[],
	text = code,
	options: DeployOptions = {},
): Promise<DeployReport> {
	return runtime.deploy(name, {'f.py': text}, {...options, requirements: [`--index-url ${index.url}`, ...lines]});
}

async function call(t: ExecutionContext, runtime: Runtime, name: string) {
	return value(t, await runtime.invoke(name, null));
}

serialKernelTest(
	'a deploy reports; the same code keeps its lock, also in the next runtime, without an index',
	async (t) => {
		t.timeout(180_000);
		const {index, publish} = await startIndex();
		const {runtime, stateDir} = await makeRuntime(t);
		const installed: unknown[] = [];
		runtime.on('installed', ({packages, durationMs}) => installed.push([packages, durationMs > 0]));

		const first = await deploy(runtime, 'same', index, ['lib']);
		t.regex(first.version, /^[0-9a-f]{16}$/);
		t.deepEqual(first.packages, ['helper==1.0', 'lib==1.0']);
		t.deepEqual(first.installed, ['helper==1.0', 'lib==1.0']);
		t.true(first.resolver === 'uv' || first.resolver === 'pip');
		for (const name of ['stageMs', 'resolveMs', 'installMs', 'compileMs'] as const) {
			t.true(Number.isFinite(first[name]) && first[name] >= 0, name);
		}
		t.deepEqual(installed, [[['helper==1.0', 'lib==1.0'], true]]);
		t.deepEqual(await call(t, runtime, 'same'), seen('1.0'));

		publish();
		index.requests.length = 0;
		const again = await deploy(runtime, 'same', index, ['lib']);
		t.like(again, {version: first.version, packages: first.packages, installed: [], resolver: undefined});
		t.deepEqual(index.requests, []);
		t.is(installed.length, 1);
		t.deepEqual(await call(t, runtime, 'same'), seen('1.0'));
		await runtime.packages.measured();
		t.true((await runtime.packages.list()).every(({cost, users}) => cost !== undefined && users.length === 1));
		await runtime.close();

		const gone = {url: index.url};
		await index.close();
		const {runtime: second} = await makeRuntime(t, {stateDir, offline: true});
		t.deepEqual(await call(t, second, 'same'), seen('1.0'));
		t.deepEqual(second.list()[0]?.packages, ['helper==1.0', 'lib==1.0']);
		const known = await deploy(second, 'same', gone, ['lib']);
		t.like(known, {version: first.version, packages: first.packages, installed: [], resolver: undefined});
		await second.close();
	},
);

serialKernelTest('changed code resolves anew; two versions at once; what can’t be met changes nothing', async (t) => {
	t.timeout(180_000);
	const {index, publish} = await startIndex();
	await using _ = index;
	const {runtime} = await makeRuntime(t);
	await deploy(runtime, 'old', index, ['lib']);
	await deploy(runtime, 'changing', index, ['lib']);
	publish();
	const changed = await deploy(runtime, 'changing', index, ['lib'], `${code}# changed\n`);
	t.deepEqual(changed.packages, ['helper==1.0', 'lib==2.0']);
	t.deepEqual(changed.installed, ['lib==2.0']);
	t.not(changed.resolver, undefined);
	t.deepEqual(await Promise.all(['old', 'changing', 'old'].map((name) => call(t, runtime, name))), [
		seen('1.0'),
		seen('2.0'),
		seen('1.0'),
	]);
	const second = await deploy(runtime, 'second', index, ['lib'], `${code}# second\n`);
	t.deepEqual([second.packages, second.resolver], [changed.packages, undefined], 'as it was resolved just now');
	await runtime.remove('second');
	const lone = await deploy(runtime, 'lone', index, ['helper'], code.replace(', lib', '').replace('lib.VERSION', '0'));
	t.deepEqual([lone.packages, lone.installed], [['helper==1.0'], []]);
	t.deepEqual(await call(t, runtime, 'lone'), [0, ['helper.py']]);

	const listed = runtime.list();
	await t.throwsAsync(deploy(runtime, 'changing', index, ['lib==3.0']), {
		code: 'NoMatchingDistribution',
		message: /lib/,
	});
	await t.throwsAsync(deploy(runtime, 'changing', index, ['lib', 'lib<1']), {message: /lib/});
	await t.throwsAsync(deploy(runtime, 'new', index, ['nowhere-at-all']), {code: 'NoMatchingDistribution'});
	t.deepEqual(runtime.list(), listed);
	t.deepEqual(await call(t, runtime, 'changing'), seen('2.0'));

	// The version that nobody has deployed any more can go, once its instances have.
	const names = async () => (await runtime.packages.list()).map((each) => `${each.name}==${each.version}`);
	await runtime.packages.measured();
	t.deepEqual((await runtime.packages.gc({packagesGb: 0})).removed, []);
	await runtime.remove('old');
	t.deepEqual(
		(await runtime.packages.gc({packagesGb: 0})).removed.map(({version}) => version),
		['1.0'],
	);
	t.deepEqual(await names(), ['helper==1.0', 'lib==2.0']);
	t.deepEqual(await call(t, runtime, 'changing'), seen('2.0'));
	await runtime.remove('changing');
	await runtime.packages.gc({packagesGb: 0});
	t.deepEqual(await names(), ['helper==1.0']);
	t.deepEqual(await call(t, runtime, 'lone'), [0, ['helper.py']]);
});

serialKernelTest('each function gets the file of its own index', async (t) => {
	await using index = await PackageIndex.start([helper]);
	await using other = await PackageIndex.start([{...helper, text: 'VALUE = "of somebody else"\n'}]);
	const {runtime} = await makeRuntime(t);
	const text = 'import helper\ndef f(event):\n\treturn helper.VALUE\n';
	await deploy(runtime, 'ours', index, ['helper==1.0'], text);
	await deploy(runtime, 'theirs', other, ['helper==1.0'], text);
	await deploy(runtime, 'ours-too', index, ['helper==1.0'], `${text}#\n`);
	t.deepEqual(await Promise.all(['ours', 'theirs', 'ours-too'].map((name) => call(t, runtime, name))), [
		'helper',
		'of somebody else',
		'helper',
	]);
});

serialKernelTest(
	'offline: what a store has is deployed; another store gets what deployed functions need',
	async (t) => {
		t.timeout(180_000);
		const {index, publish} = await startIndex();
		publish();
		await using _ = index;
		const packagesDir = await temporaryFolder();
		const elsewhere = await temporaryFolder();
		t.teardown(async () => {
			for (const dir of [packagesDir, elsewhere]) await rm(dir, {recursive: true, force: true});
		});
		const {runtime: online, stateDir} = await makeRuntime(t, {packagesDir});
		await deploy(online, 'kept', index, ['lib']);
		await online.close();
		index.requests.length = 0;

		const {runtime: offline} = await makeRuntime(t, {packagesDir, offline: true});
		const report = await deploy(offline, 'here', index, ['lib']);
		t.deepEqual([report.packages, report.installed], [['helper==1.0', 'lib==2.0'], []]);
		t.deepEqual(await call(t, offline, 'here'), seen('2.0'));
		await t.throwsAsync(deploy(offline, 'absent', index, ['lib==1.0']), {code: 'Offline', message: /lib/});
		t.deepEqual(
			offline.list().map(({name}) => name),
			['here'],
		);
		t.deepEqual(index.requests, []);
		await offline.close();

		const {runtime: moved} = await makeRuntime(t, {stateDir, packagesDir: elsewhere});
		t.deepEqual(await call(t, moved, 'kept'), seen('2.0'));
		await moved.close();
		// Nobody has them in use now, but the function is deployed.
		const {runtime: collector} = await makeRuntime(t, {packagesDir: elsewhere});
		t.deepEqual((await collector.packages.gc({packagesGb: 0})).removed, []);
		t.is((await collector.packages.list()).length, 2);
		await collector.close();

		// Without its packages, and without a way to get them, it has to be deployed again.
		const none = await temporaryFolder();
		t.teardown(() => rm(none, {recursive: true, force: true}));
		const {runtime: bare} = await makeRuntime(t, {stateDir, packagesDir: none, offline: true});
		t.deepEqual(bare.list(), []);
		await t.throwsAsync(bare.invoke('kept', null), {code: 'UnknownFunction'});
		t.deepEqual(readdirSync(path.join(stateDir, 'functions')), ['kept']);
		await bare.close();
	},
);

serialKernelTest('a wrong option of packages is TypeError', async (t) => {
	await t.throwsAsync(createRuntime({python, offline: 'yes'} as never), {instanceOf: TypeError, message: /offline/});
	await t.throwsAsync(createRuntime({python, packagesDir: ''}), {message: /packagesDir/});
});

serialKernelTest(
	'a runtime removes by itself what no function needs, tells it, and goes on after a failure',
	async (t) => {
		await using index = await PackageIndex.start([helper, lib1, lib2]);
		const stateDir = await temporaryFolder();
		t.teardown(() => rm(stateDir, {recursive: true, force: true}));
		const options = resolveRuntimeOptions({stateDir, python, packagesGb: 0});
		await using runtime = await Runtime.create({...options, gc: {packagesGb: 0, everyMs: 100}});
		await deploy(runtime, 'kept', index, ['lib==1.0']);
		const collected = once(runtime, 'collected');
		await runtime.packages.add([`--index-url ${index.url}`, 'lib==2.0']);
		const [{packages, freedBytes}] = (await collected) as RuntimeEvents['collected'];
		t.deepEqual(packages, ['lib==2.0']);
		t.true(freedBytes > 0);
		t.deepEqual(value(t, await runtime.invoke('kept', null)), seen('1.0'));

		const users = path.join(stateDir, 'packages', 'locks', 'users');
		await rm(users);
		await mkdir(users);
		const [{error}] = (await once(runtime, 'collectFailed')) as RuntimeEvents['collectFailed'];
		t.regex(error.message, /EISDIR/);
		await rm(users, {recursive: true});
		const again = once(runtime, 'collected');
		await runtime.packages.add([`--index-url ${index.url}`, 'lib==2.0']);
		t.deepEqual((await again)[0].packages, ['lib==2.0']);
	},
);

serialKernelTest('a password of the keyring is nowhere in a function, nor in what is left of the deploy', async (t) => {
	t.timeout(180_000);
	const secret = 'open-sesame-4711';
	await using index = await PackageIndex.start([helper, lib1], {authorization: `somebody:${secret}`});
	const programs = await temporaryFolder();
	writeKeyring(programs, answering(index.url, 'somebody', secret));
	const withName = index.url.replace('//', '//somebody@');
	const variables: Record<string, string> = {
		...{UV_DEFAULT_INDEX: withName, PIP_INDEX_URL: withName},
		...{UV_KEYRING_PROVIDER: 'subprocess', PIP_KEYRING_PROVIDER: 'subprocess'},
		PATH: `${programs}:${process.env.PATH}`,
	};
	const before = {...process.env};
	Object.assign(process.env, variables);
	t.teardown(async () => {
		for (const name of Object.keys(variables)) delete process.env[name];
		Object.assign(process.env, before);
		await rm(programs, {recursive: true, force: true});
	});
	const {runtime, stateDir} = await makeRuntime(t);
	const told: unknown[] = [];
	for (const event of ['installed', 'deployed', 'zygoteCreated', 'created', 'importFailed'] as const) {
		runtime.on(event, (detail: unknown) => told.push(detail));
	}
	const text = py`
		import glob, os, lib

		def f(event):
			word = event['word'][::-1].encode()
			seen, unread = [], []
			if any(word in part.encode() for item in os.environ.items() for part in item):
				seen.append('environ')
			files = glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline')
			looked = len(files)
			for top in ('/tmp', '/packages', '/handler', '/config'):
				for folder, _, names in os.walk(top):
					files += [os.path.join(folder, name) for name in names]
					seen += [name for name in [folder, *names] if word.decode() in name]
			for file in files:
				try:
					with open(file, 'rb') as opened:
						if word in opened.read():
							seen.append(file)
				except OSError as error:
					unread.append(f'{file}: {error}')
			return {'seen': seen, 'unread': unread, 'processes': looked, 'files': len(files), 'lib': lib.VERSION}
	`;
	const report = await runtime.deploy('f', {'f.py': text}, {requirements: ['lib'], reuse: false});
	t.deepEqual(report.installed, ['helper==1.0', 'lib==1.0']);
	// Backwards, since it would else see what it looks for.
	const event = {word: [...secret].reverse().join('')};
	const cold = value(t, await runtime.invoke('f', event)) as Record<string, unknown>;
	await runtime.prewarm('f');
	const forked = value(t, await runtime.invoke('f', event)) as Record<string, unknown>;
	for (const found of [cold, forked]) {
		t.deepEqual([found.seen, found.unread, found.lib], [[], [], '1.0']);
		t.true((found.processes as number) >= 2 && (found.files as number) > 6, JSON.stringify(found));
	}
	await runtime.packages.measured();
	t.false(JSON.stringify([report, told, runtime.list(), await runtime.packages.list()]).includes(secret));
	const holding = readdirSync(stateDir, {recursive: true, encoding: 'utf8', withFileTypes: true})
		.filter((entry) => entry.isFile())
		.map((entry) => path.join(entry.parentPath, entry.name))
		.filter((file) => readFileSync(file).includes(secret));
	t.deepEqual(holding, []);
	const processes = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
	const knowing = processes.filter((pid) =>
		['environ', 'cmdline'].some((file) => {
			try {
				return readFileSync(`/proc/${pid}/${file}`).includes(secret);
			} catch {
				return false; // it has ended
			}
		}),
	);
	t.deepEqual(knowing, []);
});
