import {readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {rm, writeFile} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import test, {type ExecutionContext} from 'ava';
import {execa} from 'execa';
import {ForktreeError} from '../../src/errors.ts';
import {openPackages, type PackageCache, type PackagesOptions} from '../../src/packages/package-cache.ts';
import {parseRequirements} from '../../src/packages/requirements.ts';
import {type ArchiveSpec, PackageIndex} from '../helpers/archives.ts';
import {refusal, serialKernelTest} from '../helpers/kernel-test.ts';
import {answering, writeKeyring} from '../helpers/keyring.ts';
import {LeakCheck} from '../helpers/leak-check.ts';
import {python, temporaryFolder} from '../helpers/runtime.ts';

// What the machine is configured to would be looked at besides the index of a test.
for (const name of Object.keys(process.env)) if (/^(?:PIP|UV)_.*(?:INDEX|LINKS)/.test(name)) delete process.env[name];

const leaks = refusal === undefined ? new LeakCheck() : undefined;
test.after.always('nothing is left when they are closed', (t) => leaks?.verify(t));

const one = {name: 'one', version: '1.0', text: 'VALUE = 1\n'} as const;
const two: ArchiveSpec = {name: 'two', version: '2.0', requires: ['one'], text: 'import one\n'};
const three: ArchiveSpec = {name: 'three', version: '3.0', text: 'VALUE = 3\n'};

async function open(t: ExecutionContext, options: Partial<PackagesOptions> = {}): Promise<PackageCache> {
	const dir = options.dir ?? (await folder(t));
	const packages = await openPackages({dir, python, ...options});
	t.teardown(() => packages.close());
	return packages;
}

async function folder(t: ExecutionContext): Promise<string> {
	const dir = await temporaryFolder();
	t.teardown(() => rm(dir, {recursive: true, force: true}));
	return dir;
}

/** What the store has of packages and archives, and what is under way. */
function listing(dir: string): string[] {
	const all = readdirSync(dir, {recursive: true, encoding: 'utf8'});
	return all.filter((file) => !/^(?:cache|locks)\//.test(file)).sort();
}

function requirementsOf(index: PackageIndex, ...lines: readonly string[]): string[] {
	return [`--index-url ${index.url}`, ...lines];
}

function provide(packages: PackageCache, index: PackageIndex, ...lines: readonly string[]) {
	return packages.provide(parseRequirements(requirementsOf(index, ...lines).join('\n')));
}

serialKernelTest('add answers what there was and what was not; events come in order; all is measured', async (t) => {
	await using index = await PackageIndex.start([one, two, three], {json: true});
	const packages = await open(t);
	const events: string[] = [];
	packages.on('progress', ({phase, name = '*', version}) => events.push(`${phase} ${name} ${version ?? ''}`.trim()));
	packages.on('installed', ({name, version}) => events.push(`installed ${name} ${version}`));
	packages.on('measured', ({name, version}) => events.push(`measured ${name} ${version}`));

	const first = await packages.add(requirementsOf(index, 'two'));
	t.deepEqual(first.packages, ['one==1.0', 'two==2.0']);
	t.deepEqual(first.installed, ['one==1.0', 'two==2.0']);
	t.true(first.resolver === 'uv' || first.resolver === 'pip');
	t.true(first.resolveMs > 0 && first.installMs > 0);
	await packages.measured();
	t.is(events[0], 'resolving *');
	for (const each of ['one 1.0', 'two 2.0']) {
		const seen = events.filter((event, at) => event.endsWith(each) && events.indexOf(event) === at);
		t.deepEqual(
			seen,
			['downloading', 'compiling', 'installed', 'measuring', 'measured'].map((phase) => `${phase} ${each}`),
		);
	}
	const listed = await packages.list();
	t.deepEqual(
		listed.map(({name, version, modules, users, cost}) => [name, version, modules, users, cost !== undefined]),
		[
			['one', '1.0', ['one'], [], true],
			['two', '2.0', ['two'], [], true],
		],
	);
	t.true(listed.every(({cost}) => (cost?.inclusiveMs ?? 0) >= (cost?.exclusiveMs ?? Number.POSITIVE_INFINITY) * 0.5));
	const [info, ...others] = await packages.info('Two', '2.0');
	t.deepEqual([others.length, info?.requires, info?.archive.sha256], [0, ['one'], index.sha256(two)]);
	t.deepEqual(await packages.info('two', '9'), []);

	events.length = 0;
	const second = await packages.add(requirementsOf(index, 'two', 'three'));
	t.deepEqual(second.packages, ['one==1.0', 'three==3.0', 'two==2.0']);
	t.deepEqual(second.installed, ['three==3.0']);
	await packages.measured();
	t.deepEqual([...new Set(events.map((event) => event.split(' ')[1]))], ['*', 'three']);

	const third = await packages.add(requirementsOf(index, 'two', 'three').join('\n'));
	t.deepEqual(third.installed, []);
	t.deepEqual((await packages.add([])).packages, []);
});

serialKernelTest(
	'exact versions with hashes are met without asking the index, if all is there and listed',
	async (t) => {
		await using index = await PackageIndex.start([one, two], {json: true});
		const packages = await open(t);
		const pin = (spec: ArchiveSpec, hash = index.sha256(spec)) => `${spec.name}==${spec.version} --hash=sha256:${hash}`;
		const all = requirementsOf(index, pin(one), pin(two));
		const first = await packages.add(all);
		t.not(first.resolver, undefined);
		index.requests.length = 0;
		const again = await packages.add(all);
		t.deepEqual([again.packages, again.installed, again.resolver], [['one==1.0', 'two==2.0'], [], undefined]);
		t.deepEqual(index.requests, []);
		// What `two` requires is not in the list, and may not be chosen without a hash.
		await t.throwsAsync(packages.add(requirementsOf(index, pin(two))), {code: 'HashMismatch', message: /one/});
		t.not(index.requests.length, 0);
		index.requests.length = 0;
		await t.throwsAsync(packages.add(requirementsOf(index, pin(one, '1'.repeat(64)))), {code: 'HashMismatch'});
		t.not(index.requests.length, 0);
		// Without hashes another index may mean another file.
		t.not((await packages.add(requirementsOf(index, 'one==1.0', 'two==2.0'))).resolver, undefined);
	},
);

serialKernelTest('two indexes with different files for one version never mix', async (t) => {
	await using index = await PackageIndex.start([one, two], {json: true});
	const foreign = {...one, text: 'VALUE = "of somebody else"\n'};
	await using other = await PackageIndex.start([foreign], {json: true});
	const packages = await open(t);
	const first = await provide(packages, index, 'one==1.0');
	const second = await provide(packages, other, 'one==1.0');
	const third = await provide(packages, index, 'two');
	const textOf = (at = '') => readFileSync(path.join(at, 'one.py'), 'utf8');
	t.is(textOf(first.set.folders[0]), one.text);
	t.is(textOf(second.set.folders[0]), foreign.text);
	t.is(third.set.folders[0], first.set.folders[0]);
	t.deepEqual(second.report.installed, ['one==1.0']);
	t.deepEqual(third.report.installed, ['two==2.0']);
	t.not(first.set.key, second.set.key);
	const hashes = (await packages.info('one')).map(({archive}) => archive.sha256);
	t.deepEqual(hashes.sort(), [index.sha256(one), other.sha256(foreign)].sort());
	for (const held of [first, second, third]) held.release();
});

serialKernelTest('offline: what is there will do, and what is not is Offline with its name', async (t) => {
	await using index = await PackageIndex.start([one, two, three], {json: true});
	const dir = await folder(t);
	const online = await open(t, {dir});
	await online.add(requirementsOf(index, 'two'));
	await online.close();
	const before = listing(dir);
	index.requests.length = 0;
	const packages = await open(t, {dir, offline: true});
	const report = await packages.add(requirementsOf(index, 'two'));
	t.deepEqual([report.packages, report.installed], [['one==1.0', 'two==2.0'], []]);
	await t.throwsAsync(packages.add(requirementsOf(index, 'three')), {code: 'Offline', message: /three/});
	await t.throwsAsync(packages.add(requirementsOf(index, 'two==2.1')), {code: 'Offline', message: /two/});
	t.deepEqual(index.requests, []);
	t.deepEqual(listing(dir), before);
});

serialKernelTest('what fails leaves nothing, and is tried again', async (t) => {
	const unsafe: ArchiveSpec = {name: 'unsafe', version: '1.0', files: {'../outside.py': ''}};
	const broken: ArchiveSpec = {name: 'broken', version: '1.0', sdist: true, build: ['three'], text: ''};
	let isDown = true;
	await using index = await PackageIndex.start([one, two, unsafe, broken], {
		json: true,
		interrupt: (request, response) => {
			if (!isDown || request.url !== '/simple/one/') return false;
			response.writeHead(404).end();
			return true;
		},
	});
	const dir = await folder(t);
	const packages = await open(t, {dir});
	const before = listing(dir);
	const failing = async (line: string, code: string, message: RegExp) => {
		await t.throwsAsync(packages.add(requirementsOf(index, line)), {code, message}, line);
		t.deepEqual(
			listing(dir).filter((file) => !file.startsWith('archives')),
			before.filter((file) => !file.startsWith('archives')),
			line,
		);
	};
	await failing('unsafe', 'UnsafeArchive', /unsafe/);
	await failing('two', 'NoMatchingDistribution', /one/);
	await failing('broken', 'NoMatchingDistribution', /three/);
	await failing('one @ https://example.invalid/', 'InvalidRequirements', /one/);
	const aborted = packages.add(requirementsOf(index, 'two'), {signal: AbortSignal.abort()});
	await t.throwsAsync(aborted, {code: 'Aborted'});
	isDown = false;
	t.deepEqual((await packages.add(requirementsOf(index, 'two'))).installed, ['one==1.0', 'two==2.0']);
});

serialKernelTest('verify repairs a byte that is not as it was', async (t) => {
	await using index = await PackageIndex.start([one, three], {json: true});
	const packages = await open(t);
	await packages.add(requirementsOf(index, 'one', 'three'));
	t.deepEqual(await packages.verify(), {checked: 2, damaged: [], foreign: []});
	const [{folder: files} = {folder: ''}] = await packages.info('one');
	writeFileSync(path.join(files, 'one.py'), 'VALUE = 2\n');
	index.requests.length = 0;
	t.is((await packages.verify({names: ['three']})).damaged.length, 0);
	const seen: number[] = [];
	const {checked, damaged} = await packages.verify({names: ['One'], onProgress: ({done}) => seen.push(done)});
	t.is(checked, 1);
	t.deepEqual(seen, [0, 1]);
	t.like(damaged[0], {damage: [{path: 'one.py', problem: 'changed'}], remedy: 'reinstalled', error: undefined});
	t.is(readFileSync(path.join(files, 'one.py'), 'utf8'), one.text);
	t.is((await packages.verify()).damaged.length, 0);
	t.deepEqual(index.requests, []);
	await t.throwsAsync(packages.verify({signal: AbortSignal.abort()}), {code: 'Aborted'});
});

serialKernelTest('gc removes what no function and no live holder needs', async (t) => {
	await using index = await PackageIndex.start([one, two, three], {json: true});
	const dir = await folder(t);
	const packages = await open(t, {dir});
	const manifest = path.join(await folder(t), 'function.json');
	await writeFile(manifest, '{}');
	const deployed = await provide(packages, index, 'two');
	await packages.setUser(manifest, deployed.set);
	deployed.release();
	const held = await provide(packages, index, 'three');
	await packages.add(requirementsOf(index, 'one'));
	t.deepEqual(
		(await packages.list()).map(({name, users}) => [name, users.length]),
		[
			['one', 1],
			['three', 0],
			['two', 1],
		],
	);
	await packages.measured();
	t.deepEqual((await packages.gc({packagesGb: 1})).removed, []);
	const names = async () => (await packages.list()).map(({name}) => name);
	t.deepEqual((await packages.gc({packagesGb: 0})).removed, []);
	t.deepEqual(await names(), ['one', 'three', 'two']);
	held.release();
	t.deepEqual(
		(await packages.gc({packagesGb: 0})).removed.map(({name}) => name),
		['three'],
	);
	await packages.removeUser(manifest);
	const last = await packages.gc({packagesGb: 0});
	t.deepEqual(last.removed.map(({name}) => name).sort(), ['one', 'two']);
	t.is(last.sizeBytes, 0);
	t.deepEqual(await names(), []);
	t.deepEqual(
		listing(dir).filter((file) => /\.(?:py|whl)$/.test(file)),
		[],
	);
});

serialKernelTest('source distributions whose builds require others, several at once, also from a lock', async (t) => {
	t.timeout(180_000);
	const inner: ArchiveSpec = {name: 'inner', version: '1.0', sdist: true, build: ['one'], text: 'VALUE = "inner"\n'};
	const outers = ['outer-a', 'outer-b', 'outer-c'].map(
		(name): ArchiveSpec => ({name, version: '1.0', sdist: true, build: ['inner'], text: `NAME = "${name}"\n`}),
	);
	await using index = await PackageIndex.start([one, inner, ...outers], {json: true});
	const packages = await open(t);
	const names = outers.map(({name}) => name);
	const first = await provide(packages, index, ...names);
	t.deepEqual(
		first.report.packages,
		names.map((name) => `${name}==1.0`),
	);
	t.is(readFileSync(path.join(first.set.folders[0] ?? '', 'outer_a.py'), 'utf8'), 'NAME = "outer-a"\n');
	t.deepEqual(
		(await packages.list()).map(({name}) => name),
		['inner', 'one', ...names],
	);
	first.release();
	await packages.measured();
	await packages.gc({packagesGb: 0});
	t.deepEqual(await packages.list(), []);
	// All of them wait for what they require, however few processors there are.
	const known = await packages.provide(parseRequirements(requirementsOf(index, ...names).join('\n')), {
		known: first.lock,
	});
	t.deepEqual(known.report.installed, first.report.packages);
	t.is(known.report.resolver, undefined);
	known.release();
});

serialKernelTest('a build that needs itself, also by way of another, or something from elsewhere, fails', async (t) => {
	const loop: ArchiveSpec = {name: 'loop', version: '1.0', sdist: true, build: ['loop']};
	const ping: ArchiveSpec = {name: 'ping', version: '1.0', sdist: true, build: ['pong']};
	const pong: ArchiveSpec = {name: 'pong', version: '1.0', sdist: true, build: ['ping']};
	const elsewhere: ArchiveSpec = {...loop, name: 'elsewhere', build: ['--index-url=https://example.invalid/']};
	await using index = await PackageIndex.start([loop, ping, pong, elsewhere], {json: true});
	const packages = await open(t);
	await t.throwsAsync(packages.add(requirementsOf(index, 'loop')), {
		code: 'BuildFailed',
		message: /building loop: it needs loop/,
	});
	await t.throwsAsync(packages.add(requirementsOf(index, 'ping')), {
		code: 'BuildFailed',
		message: /building ping: it needs pong, which needs ping/,
	});
	await t.throwsAsync(packages.add(requirementsOf(index, 'elsewhere')), {
		code: 'BuildFailed',
		message: /building elsewhere: expected names of packages as what it requires, got "--index-url/,
	});
	t.deepEqual(await packages.list(), []);
});

serialKernelTest(
	'closing ends what is under way and leaves nothing of it; afterwards all is RuntimeClosed',
	async (t) => {
		let asked = (): void => undefined;
		const isAsked = new Promise<void>((resolve) => {
			asked = resolve;
		});
		await using index = await PackageIndex.start([one], {
			interrupt: () => {
				asked();
				return true; // and never answers
			},
		});
		const dir = await folder(t);
		const packages = await open(t, {dir});
		const before = listing(dir);
		const adding = t.throwsAsync(packages.add(requirementsOf(index, 'one')), {code: 'Aborted'});
		await isAsked;
		await packages.close();
		t.deepEqual(listing(dir), before);
		t.deepEqual(
			readdirSync(path.join(dir, 'cache')).filter((name) => name.startsWith('tmp-')),
			[],
		);
		await adding;
		await packages.close();
		const nothing = {key: 'none', folders: [], distributions: []};
		const lock = {key: '', abi: '', distributions: []};
		const calls: Readonly<Record<string, () => Promise<unknown>>> = {
			add: () => packages.add('one'),
			list: () => packages.list(),
			info: () => packages.info('one'),
			verify: () => packages.verify(),
			gc: () => packages.gc({packagesGb: 0}),
			provide: () => packages.provide(parseRequirements('')),
			hold: () => packages.hold(lock),
			setUser: () => packages.setUser('/nowhere', nothing),
			removeUser: () => packages.removeUser('/nowhere'),
			measured: () => packages.measured(),
		};
		for (const [name, call] of Object.entries(calls)) await t.throwsAsync(call, {code: 'RuntimeClosed'}, name);
	},
);

serialKernelTest('what is not an option is TypeError or RangeError', async (t) => {
	const dir = await folder(t);
	for (const [options, message] of [
		[undefined, /options/],
		[{}, /dir/],
		[{dir: ''}, /dir/],
		[{dir: 5}, /dir/],
		[{dir, python: ''}, /python/],
		[{dir, offline: 'yes'}, /offline/],
		[{dir, directory: dir}, /"directory"/],
	] as const) {
		await t.throwsAsync(openPackages(options as never), {instanceOf: TypeError, message}, JSON.stringify(options));
	}
	await t.throwsAsync(openPackages({dir, python: '/bin/false'}), {code: 'PythonNotFound'});
	const packages = await open(t, {dir});
	const type = {instanceOf: TypeError} as const;
	await t.throwsAsync(packages.add(5 as never), {...type, message: /requirements/});
	await t.throwsAsync(packages.add([5] as never), {...type, message: /requirements/});
	await t.throwsAsync(packages.info(undefined as never), {...type, message: /name/});
	await t.throwsAsync(packages.info('one', 1 as never), {...type, message: /version/});
	await t.throwsAsync(packages.verify({names: 'one'} as never), {...type, message: /names/});
	await t.throwsAsync(packages.gc({packagesGb: '1'} as never), {...type, message: /packagesGb/});
	for (const packagesGb of [-1, Number.NaN]) {
		await t.throwsAsync(packages.gc({packagesGb}), {instanceOf: RangeError, message: /packagesGb/});
	}
	await t.throwsAsync(openPackages({dir: '/etc/passwd/packages'}), {code: 'StoreNotWritable'});
	// A relative one is meant from where the process is now.
	await using index = await PackageIndex.start([one]);
	const relative = await open(t, {dir: path.relative(process.cwd(), await folder(t))});
	t.deepEqual((await relative.add(requirementsOf(index, 'one'))).installed, ['one==1.0']);
});

serialKernelTest('what was measured with another build of the interpreter is measured again, once', async (t) => {
	await using index = await PackageIndex.start([one], {json: true});
	const dir = await folder(t);
	const first = await open(t, {dir});
	const {lock, release} = await provide(first, index, 'one');
	release();
	await first.measured();
	const [known] = await first.info('one');
	const file = path.join(known?.folder ?? '', '..', 'cost.json');
	await first.close();

	const other = {...JSON.parse(readFileSync(file, 'utf8')), interpreter: '3.11.0 (another build)', exclusiveMs: 12_345};
	writeFileSync(file, JSON.stringify(other));
	for (const expected of [['one'], []]) {
		const packages = await open(t, {dir});
		const measured: string[] = [];
		packages.on('measured', ({name}) => measured.push(name));
		(await packages.hold(lock)).release();
		await packages.measured();
		t.deepEqual(measured, expected);
		const [{cost} = {cost: undefined}] = await packages.info('one');
		t.not(cost?.exclusiveMs, 12_345);
		t.deepEqual(cost?.interpreter, known?.cost?.interpreter);
		t.regex(cost?.interpreter ?? '', /^3\.\d+\.\d+/);
		await packages.close();
	}
});

/** Files below a folder that hold a text, or have it in their name. What goes while it is looked at holds nothing. */
function holding(dir: string, text: string): string[] {
	return unlessGone(() => readdirSync(dir, {withFileTypes: true}), []).flatMap((entry) => {
		const file = path.join(dir, entry.name);
		const isNamed = entry.name.includes(text);
		if (entry.isDirectory()) return [...(isNamed ? [file] : []), ...holding(file, text)];
		return isNamed || (entry.isFile() && unlessGone(() => readFileSync(file), '').includes(text)) ? [file] : [];
	});
}

function unlessGone<Value, Other>(read: () => Value, other: Other): Value | Other {
	try {
		return read();
	} catch (error) {
		if (['ENOENT', 'ENOTDIR', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return other;
		throw error;
	}
}

/** Runs work with variables of the environment. */
async function withEnvironment<Result>(
	variables: Readonly<Record<string, string>>,
	work: () => Promise<Result>,
): Promise<Result> {
	const before = Object.fromEntries(Object.keys(variables).map((name) => [name, process.env[name]]));
	Object.assign(process.env, variables);
	try {
		return await work();
	} finally {
		for (const [name, value] of Object.entries(before)) {
			if (value === undefined) delete process.env[name];
			else process.env[name] = value;
		}
	}
}

const secret = 'open-sesame-4711';

/** Where a password can be, apart from the requirements themselves. */
async function credentialsIn(
	t: ExecutionContext,
	place: string,
	index: PackageIndex,
	password: string,
): Promise<Record<string, string>> {
	const {host} = new URL(index.url);
	const withPassword = index.url.replace('//', `//somebody:${password}@`);
	switch (place) {
		case 'addresses of the environment':
			return {UV_DEFAULT_INDEX: withPassword, PIP_INDEX_URL: withPassword};
		case 'variables of a named index':
			return {UV_DEFAULT_INDEX: `own=${index.url}`, UV_INDEX_OWN_USERNAME: 'somebody', UV_INDEX_OWN_PASSWORD: password};
		case 'the keyring': {
			const programs = await folder(t);
			writeKeyring(programs, answering(index.url, 'somebody', password));
			const withName = index.url.replace('//', '//somebody@');
			return {
				...{UV_DEFAULT_INDEX: withName, PIP_INDEX_URL: withName},
				...{UV_KEYRING_PROVIDER: 'subprocess', PIP_KEYRING_PROVIDER: 'subprocess'},
				PATH: `${programs}:${process.env.PATH}`,
			};
		}
		default: {
			const file = path.join(await folder(t), 'netrc');
			await writeFile(file, `machine ${host.split(':')[0]} login somebody password ${password}\n`, {mode: 0o600});
			return {UV_DEFAULT_INDEX: index.url, PIP_INDEX_URL: index.url, NETRC: file};
		}
	}
}

for (const place of ['addresses of the environment', 'variables of a named index', 'the keyring', 'netrc']) {
	serialKernelTest(`a password in ${place} opens an index, and is nowhere afterwards`, async (t) => {
		await using index = await PackageIndex.start([one, two], {json: true, authorization: `somebody:${secret}`});
		const dir = await folder(t);
		await withEnvironment(await credentialsIn(t, place, index, secret), async () => {
			const packages = await open(t, {dir});
			const told: string[] = [];
			packages.on('progress', (progress) => told.push(JSON.stringify(progress)));
			const report = await packages.add(['two']);
			t.deepEqual(report.installed, ['one==1.0', 'two==2.0']);
			await packages.measured();
			const file = path.join(await folder(t), 'packages.tar');
			await packages.export(file);
			t.false(readFileSync(file).includes(secret));
			const known = JSON.stringify([report, await packages.list(), await packages.info('two'), told]);
			t.false(known.includes(secret));
			t.deepEqual(holding(dir, secret), []);
			await packages.close();
		});
	});

	serialKernelTest(
		`a password in ${place} that is refused: an error that names the index, not the password`,
		async (t) => {
			await using index = await PackageIndex.start([one], {json: true, authorization: 'somebody:else'});
			const dir = await folder(t);
			await withEnvironment(await credentialsIn(t, place, index, secret), async () => {
				const packages = await open(t, {dir});
				const error = await t.throwsAsync(packages.add(['one']), {instanceOf: ForktreeError});
				t.is(error.code, 'NotAuthorized', error.message);
				t.true(error.message.includes(new URL(index.url).host), error.message);
				for (let each: unknown = error; each instanceof Error; each = each.cause) {
					t.false(`${each.stack} ${JSON.stringify(each)}`.includes(secret));
				}
				t.deepEqual(holding(dir, secret), []);
				await packages.close();
			});
		},
	);
}

serialKernelTest('a store on a full or read-only disk is StoreNotWritable', async (t) => {
	const home = await folder(t);
	const code = `
		import {openPackages} from '${new URL('../../src/packages/package-cache.ts', import.meta.url).href}';
		const [, home, is] = process.argv;
		try {
			const packages = await openPackages({dir: home + '/store'});
			if (is === 'made') console.log(is);
			else await packages.add(['six']).finally(() => packages.close());
		} catch (error) {
			console.log(error.code, /ENOSPC|EROFS/.exec(error.message)?.[0]);
		}
	`;
	// In a mount namespace of its own, so that no mount of ours is seen or left.
	const script = `
		mount -t tmpfs none ${home} && "$@" ${home} made
		mount -o remount,ro ${home} && "$@" ${home} read-only
		umount ${home} && mount -t tmpfs -o size=1m none ${home} && "$@" ${home} full
		umount ${home} && mount -t tmpfs -o ro none ${home} && "$@" ${home} absent
	`;
	const argv = [process.execPath, '--import=tsx', '--input-type=module', '-e', code, '--'];
	const {stdout} = await execa('unshare', ['--mount', 'sh', '-ec', script, 'sh', ...argv], {timeout: 100_000});
	t.regex(stdout, /^made\nStoreNotWritable EROFS\nStoreNotWritable ENOSPC\nStoreNotWritable /);
});

serialKernelTest('a password of the keyring is in no file of the store and no argument list, at no time', async (t) => {
	const dir = await folder(t);
	const seen = new Set<string>();
	const lookAround = (): boolean => {
		for (const file of holding(dir, secret)) seen.add(file);
		for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
			const argv = unlessGone(() => readFileSync(`/proc/${pid}/cmdline`, 'utf8'), '');
			if (argv.includes(secret)) seen.add(argv);
		}
		return false;
	};
	const options = {json: true, authorization: `somebody:${secret}`, interrupt: lookAround} as const;
	await using index = await PackageIndex.start([one, {...two, sdist: true, build: []}], options);
	await withEnvironment(await credentialsIn(t, 'the keyring', index, secret), async () => {
		const packages = await open(t, {dir});
		packages.on('progress', lookAround);
		const {installed} = await packages.add(['two', 'one']);
		t.deepEqual(installed, ['one==1.0', 'two==2.0']);
		t.true(index.requests.length > 3);
		await packages.close();
	});
	t.deepEqual([...seen], []);
});

serialKernelTest('a name in the address, and its password in netrc, open an index', async (t) => {
	await using index = await PackageIndex.start([one], {json: true, authorization: `somebody:${secret}`});
	const variables = await credentialsIn(t, 'netrc', index, secret);
	const withName = index.url.replace('//', '//somebody@');
	await withEnvironment({...variables, UV_DEFAULT_INDEX: withName, PIP_INDEX_URL: withName}, async () => {
		const packages = await open(t);
		t.deepEqual((await packages.add(['one'])).installed, ['one==1.0']);
		await packages.close();
	});
});

serialKernelTest('what is refused to the sandboxes of tools is no fault of the disk', async (t) => {
	const home = await folder(t);
	const code = `
		import {openPackages} from '${new URL('../../src/packages/package-cache.ts', import.meta.url).href}';
		const packages = await openPackages({dir: process.argv[1]});
		const error = await packages.add(['six']).catch((error) => error);
		console.log(error.code, error.message);
		await packages.close();
	`;
	const script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'; // of a user namespace of its own
	const argv = [process.execPath, '--import=tsx', '--input-type=module', '-e', code, '--', home];
	const options = ['--user', '--map-root-user', 'sh', '-ec', script, 'sh'];
	const {stdout} = await execa('unshare', [...options, ...argv], {timeout: 100_000});
	t.regex(stdout, /^Syscall unshare user namespace: ENOSPC/);
});
