import {chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync} from 'node:fs';
import {rm} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import {pathToFileURL} from 'node:url';
import test, {type ExecutionContext} from 'ava';
import {ForktreeError} from '../../src/errors.ts';
import {Credentials} from '../../src/packages/credentials.ts';
import {Fetcher} from '../../src/packages/fetch.ts';
import {type Archive, type Lock, lockAsText, writeLock} from '../../src/packages/lock.ts';
import {parseRequirements, type Requirements, readRequirements} from '../../src/packages/requirements.ts';
import {findResolver, type ResolveOptions, type Resolver} from '../../src/packages/resolver.ts';
import {ToolSandboxes} from '../../src/packages/tool-sandboxes.ts';
import {findInterpreter} from '../../src/sandbox/interpreter.ts';
import {type ArchiveSpec, fileName, makeArchives, PackageIndex, sha256Of} from '../helpers/archives.ts';
import {refusal, serialKernelTest} from '../helpers/kernel-test.ts';
import {writeKeyring} from '../helpers/keyring.ts';
import {python, temporaryFolder} from '../helpers/runtime.ts';

const interpreter = await findInterpreter(python);
const tag = `cp3${interpreter.version.split('.')[1]}`;
const folder = await temporaryFolder();
const cacheDir = path.join(folder, 'cache');
const tools = new ToolSandboxes(interpreter);
/** Those that programs were given. */
const networks: string[] = [];
const run = tools.run.bind(tools);
tools.run = async (argv, toolOptions) => {
	networks.push(toolOptions.network);
	return run(argv, toolOptions);
};
const credentials = new Credentials();
const fetcher = new Fetcher({tools, interpreter, folder: path.join(folder, 'scratch'), credentials});
const online =
	process.env.FORKTREE_TEST_OFFLINE === undefined
		? serialKernelTest
		: (title: string) => test.skip(title, () => undefined);

// What the machine is configured to would be looked at besides the index of a test.
for (const name of Object.keys(process.env)) if (/^(?:PIP|UV)_.*(?:INDEX|LINKS)/.test(name)) delete process.env[name];

/** Finds the one resolver or the other. */
async function find(name: 'uv' | 'pip', its = fetcher): Promise<Resolver> {
	const before = process.env.PATH;
	if (name === 'pip') process.env.PATH = '/nonexistent';
	try {
		return await findResolver({interpreter, tools, fetcher: its, cacheDir});
	} finally {
		process.env.PATH = before;
	}
}

const resolvers = refusal === undefined ? [await find('uv'), await find('pip')] : [];
if (resolvers[0]?.name === 'pip') resolvers.pop(); // there is no uv

test.after.always('nothing is left on the way', async (t) => {
	await fetcher.close();
	await tools.close();
	t.deepEqual(
		readdirSync(cacheDir).filter((name) => name.startsWith('tmp-')),
		[],
	);
	await rm(folder, {recursive: true, force: true});
});

const six: ArchiveSpec = {name: 'six', version: '1.0'};
const six2: ArchiveSpec = {name: 'six', version: '2.0'};
const lib: ArchiveSpec = {
	name: 'my-lib',
	version: '1.5',
	requires: ['six<2', 'extra-lib>=1; extra == "more"'],
	extras: ['more'],
};
const extra: ArchiveSpec = {name: 'extra-lib', version: '1.0'};
const native: ArchiveSpec = {name: 'native', version: '1.0', tag: `${tag}-${tag}-linux_x86_64`};
const pure: ArchiveSpec = {name: 'native', version: '1.0'};
const other: ArchiveSpec = {name: 'native', version: '1.0', tag: 'cp27-cp27m-linux_x86_64'};
const source: ArchiveSpec = {name: 'only-source', version: '1.0', sdist: true, requires: ['six<2']};
const unusable: ArchiveSpec = {...source, sdist: false, tag: 'cp27-cp27m-linux_x86_64'};
const source2: ArchiveSpec = {name: 'only-source', version: '2.0', sdist: true};
const user: ArchiveSpec = {name: 'source-user', version: '1.0', requires: ['only-source<2']};
const both: ArchiveSpec = {name: 'both', version: '1.0'};
const bothSource: ArchiveSpec = {name: 'both', version: '1.0', sdist: true};
const specs = [six, six2, lib, extra, native, pure, other, source, unusable, source2, user, both, bothSource];

/** Lines of a file; constraints begin with `-c`. */
function requirementsOf(
	index: PackageIndex | undefined,
	lines: readonly string[],
	more: Partial<Requirements> = {},
): Requirements {
	const constraints = lines.filter((line) => line.startsWith('-c ')).map((line) => line.slice('-c '.length));
	const constrained = parseRequirements(constraints.join('\n'));
	const options = index === undefined ? [] : [`--index-url ${index.url}`];
	return {
		...parseRequirements([...options, ...lines.filter((line) => !line.startsWith('-c '))].join('\n')),
		constraints: constrained.requirements,
		constraintsText: constrained.text,
		...more,
	};
}

/** In place of the step that builds: it makes the wheel of the same name. */
const buildSdist: ResolveOptions['buildSdist'] = async (distribution, sdist, target) => {
	const spec = specs.find((each) => each.sdist && fileName(each) === path.basename(sdist));
	if (spec === undefined || !existsSync(sdist)) throw new Error(`unexpected ${distribution.name}`);
	const wheel = {...spec, sdist: false};
	makeArchives(target, [wheel]);
	return path.join(target, fileName(wheel));
};

const options = (more: Partial<ResolveOptions> = {}): ResolveOptions => ({
	signal: new AbortController().signal,
	buildSdist,
	...more,
});

function pins({distributions}: Lock): string[] {
	return distributions.map(({name, version}) => `${name}==${version}`);
}

function failing(t: ExecutionContext, promise: Promise<unknown>, code: string, message: RegExp): Promise<unknown> {
	return t.throwsAsync(promise, {instanceOf: ForktreeError, code, message});
}

for (const resolver of resolvers) {
	const {name} = resolver;
	serialKernelTest(
		`${name}: archives of the function’s folder, rather than the same versions of an index`,
		async (t) => {
			await using index = await PackageIndex.start([six, six2, {...lib, requires: ['native']}, native]);
			const code = path.join(folder, `code-${name}`);
			mkdirSync(code);
			makeArchives(code, [lib]);
			const wheel = readFileSync(path.join(code, fileName(lib)));
			const files = {
				paths: () => [fileName(lib)],
				sha256Of: (file: string) => (file === fileName(lib) ? sha256Of(wheel) : undefined),
				readText: async () => undefined,
				interpreter,
			};
			const resolve = async (text: string) => {
				const requirements = await readRequirements('a.txt', async () => `--index-url ${index.url}\n${text}`, files);
				return resolver.resolve(requirements, options({folder: code}));
			};
			const lock = await resolve(`./${fileName(lib)}`);
			t.deepEqual(pins(lock), ['my-lib==1.5', 'six==1.0']);
			t.is(lock.distributions[0]?.archive.sha256, sha256Of(wheel));
			const hashed = `./${fileName(lib)} --hash=sha256:${sha256Of(wheel)}\nsix==1.0 --hash=sha256:${index.sha256(six)}`;
			t.is((await resolve(hashed)).key, lock.key);
			writeFileSync(path.join(code, fileName(lib)), 'something else');
			await t.throwsAsync(resolve(`./${fileName(lib)}`), {code: 'HashMismatch'});
		},
	);

	serialKernelTest(`${name}: what is complete is all that there is, by hash, from whatever index`, async (t) => {
		await using first = await PackageIndex.start([six2, source]);
		await using second = await PackageIndex.start([six, lib]);
		const resolve = async (...wanted: readonly (readonly [spec: ArchiveSpec, index: PackageIndex])[]) => {
			const lines = wanted.map(([spec, index]) => `${spec.name}==${spec.version} --hash=sha256:${index.sha256(spec)}`);
			lines.push(`--extra-index-url ${second.url}`);
			return pins(await resolver.resolve(requirementsOf(first, lines, {isComplete: true}), options()));
		};
		t.deepEqual(await resolve([lib, second]), ['my-lib==1.5']);
		t.deepEqual(await resolve([six, second], [lib, second]), ['my-lib==1.5', 'six==1.0']);
		t.deepEqual(await resolve([source, first]), ['only-source==1.0'], 'built, to know that it can be');
	});

	for (const json of name === 'uv' ? [true, false] : [true]) {
		serialKernelTest(
			`${name}: pins, ranges, extras, markers and constraints, by an index in ${json ? 'JSON' : 'HTML'}`,
			async (t) => {
				await using index = await PackageIndex.start(specs, {json});
				const resolve = async (...lines: string[]) => resolver.resolve(requirementsOf(index, lines), options());
				t.deepEqual(pins(await resolve('six==1.0')), ['six==1.0']);
				t.deepEqual(pins(await resolve('six')), ['six==2.0']);
				t.deepEqual(pins(await resolve('six>=1,<2')), ['six==1.0']);
				t.deepEqual(pins(await resolve('My_Lib')), ['my-lib==1.5', 'six==1.0']);
				t.deepEqual(pins(await resolve('my-lib[more]')), ['extra-lib==1.0', 'my-lib==1.5', 'six==1.0']);
				t.deepEqual(pins(await resolve('six', 'native; python_version < "3"')), ['six==2.0']);
				t.deepEqual(pins(await resolve('six', '-c six<2', '-c nothing==1')), ['six==1.0']);
				const lock = await resolve('six==1.0');
				const archive = lock.distributions[0]?.archive;
				t.deepEqual(archive, {
					kind: 'wheel',
					file: fileName(six),
					url: `${index.origin}/files/${fileName(six)}`,
					sha256: index.sha256(six),
					sizeBytes: json && name === 'uv' ? index.bytes(six).length : undefined,
				});
				t.is((await resolve('six==1.0')).key, lock.key);
			},
		);
	}

	serialKernelTest(`${name}: nothing to resolve is an empty lock`, async (t) => {
		t.deepEqual((await resolver.resolve(requirementsOf(undefined, []), options())).distributions, []);
	});

	serialKernelTest(`${name}: of several wheels the one that the interpreter prefers`, async (t) => {
		await using index = await PackageIndex.start([pure, other, native]);
		const lock = await resolver.resolve(requirementsOf(index, ['native']), options());
		t.is(lock.distributions[0]?.archive.file, fileName(native));
	});

	serialKernelTest(`${name}: an archive that the hashes in the requirements allow`, async (t) => {
		await using index = await PackageIndex.start([pure, native], {json: true});
		const allowing = async (...hashes: string[]) =>
			resolver.resolve(
				requirementsOf(index, [`native==1.0${hashes.map((hash) => ` --hash=sha256:${hash}`).join('')}`]),
				options(),
			);
		t.is((await allowing(index.sha256(pure))).distributions[0]?.archive.file, fileName(pure));
		t.is((await allowing(index.sha256(pure), index.sha256(native))).distributions[0]?.archive.file, fileName(native));
		await failing(t, allowing('1'.repeat(64)), 'HashMismatch', /resolving native: /);
	});

	serialKernelTest(`${name}: what is required by others needs a hash too, when hashes are required`, async (t) => {
		await using index = await PackageIndex.start(specs);
		const line = `my-lib==1.5 --hash=sha256:${index.sha256(lib)}`;
		await failing(t, resolver.resolve(requirementsOf(index, [line]), options()), 'HashMismatch', /six/);
		const lock = await resolver.resolve(
			requirementsOf(index, [line, `six==1.0 --hash=sha256:${index.sha256(six)}`]),
			options(),
		);
		t.deepEqual(pins(lock), ['my-lib==1.5', 'six==1.0']);
	});

	serialKernelTest(`${name}: one version with other content is another lock`, async (t) => {
		await using first = await PackageIndex.start([six]);
		await using second = await PackageIndex.start([{...six, text: 'other = 1'}]);
		const locks = [first, second].map(async (index) => resolver.resolve(requirementsOf(index, ['six']), options()));
		const [one, two] = await Promise.all(locks);
		t.not(one?.key, two?.key);
		t.deepEqual(one && pins(one), two && pins(two));
	});

	serialKernelTest(`${name}: further indexes, pages and folders of archives`, async (t) => {
		await using main = await PackageIndex.start([six]);
		await using second = await PackageIndex.start([extra]);
		await using third = await PackageIndex.start([native]);
		await using page = await PackageIndex.start([pure], {
			interrupt: (request, response) => {
				if (request.url !== '/page') return false;
				response.setHeader('Content-Type', 'text/html');
				response.end(`<a href="/files/${fileName(pure)}">it</a>`);
				return true;
			},
		});
		const links = pathToFileURL(third.folder).href;
		const resolve = async (lines: readonly string[], index: Partial<Requirements['index']>) => {
			const all = {indexUrl: main.url, extraIndexUrls: [], findLinks: [], noIndex: false, ...index};
			return resolver.resolve(requirementsOf(undefined, lines, {index: all}), options());
		};
		t.deepEqual(pins(await resolve(['six', 'extra-lib'], {extraIndexUrls: [second.url]})), [
			'extra-lib==1.0',
			'six==1.0',
		]);
		const lock = await resolve(['six', 'native'], {findLinks: [links]});
		t.is(lock.distributions[0]?.archive.url, pathToFileURL(path.join(third.folder, fileName(native))).href);
		const alone = await resolve(['native'], {indexUrl: undefined, noIndex: true, findLinks: [`${page.origin}/page`]});
		t.is(alone.distributions[0]?.archive.sha256, page.sha256(pure));
		const file = path.join(await temporaryFolder(), 'native.whl');
		await fetcher.fetch((lock.distributions[0] as Lock['distributions'][0]).archive, file, options());
		t.is(sha256Of(readFileSync(file)), third.sha256(native));
	});

	serialKernelTest(`${name}: an index that its user has configured`, async (t) => {
		await using index = await PackageIndex.start(specs, {authorization: 'somebody:secret'});
		const home = await temporaryFolder();
		const before = process.env.HOME;
		process.env.HOME = home;
		t.teardown(() => {
			process.env.HOME = before;
		});
		for (const file of ['.config/pip/pip.conf', '.config/uv/uv.toml']) {
			mkdirSync(path.dirname(path.join(home, file)), {recursive: true});
		}
		const url = index.url.replace('//', '//somebody:secret@');
		writeFileSync(path.join(home, '.config/pip/pip.conf'), `[global]\nindex-url = ${url}\n`);
		writeFileSync(path.join(home, '.config/uv/uv.toml'), `index-url = "${url}"\n`);
		const lock = await resolver.resolve(requirementsOf(undefined, ['six', 'only-source<2']), options());
		t.deepEqual(pins(lock), ['only-source==1.0', 'six==1.0']);
		t.notRegex(writeLock(lock), /secret/);
		// Another process, which has resolved nothing.
		const later = new Fetcher({
			tools,
			interpreter,
			folder: path.join(folder, 'scratch'),
			credentials: new Credentials(),
		});
		await later.fetch(lock.distributions[1]?.archive as Archive, path.join(home, 'six.whl'), options());
		t.is(sha256Of(readFileSync(path.join(home, 'six.whl'))), index.sha256(six));
		await later.close();
	});

	serialKernelTest(`${name}: an index of which the keyring of this machine has the password`, async (t) => {
		const password = `top/sec"ret'%41 &$(id)`;
		await using index = await PackageIndex.start(specs, {authorization: `some+body:${password}`});
		const home = await temporaryFolder();
		const {HOME, PATH} = process.env;
		Object.assign(process.env, {HOME: home, PATH: `${home}:${PATH}`});
		t.teardown(() => Object.assign(process.env, {HOME, PATH}));
		for (const file of ['.config/pip/pip.conf', '.config/uv/uv.toml']) {
			mkdirSync(path.dirname(path.join(home, file)), {recursive: true});
		}
		const url = index.url.replace('//', '//some%2Bbody@');
		const files = {pip: `[global]\nindex-url = ${url}\n`, uv: `index-url = "${url}"\n`};
		const configure = (provider: string) => {
			writeFileSync(path.join(home, '.config/pip/pip.conf'), `${files.pip}keyring-provider = ${provider}\n`);
			writeFileSync(path.join(home, '.config/uv/uv.toml'), `${files.uv}keyring-provider = "${provider}"\n`);
		};
		writeFileSync(path.join(home, 'password'), password);
		writeKeyring(
			home,
			`echo "$*" >> ${home}/asked; [ "$2" = ${new URL(url).host} ] && exec cat ${home}/password; exit 1`,
		);
		const asked = () => (existsSync(path.join(home, 'asked')) ? readFileSync(path.join(home, 'asked'), 'utf8') : '');
		const own = new Fetcher({tools, interpreter, folder: path.join(folder, 'scratch'), credentials: new Credentials()});
		t.teardown(() => own.close());
		const resolve = async (...lines: string[]) => {
			const fresh = await find(name, own);
			return fresh.resolve(requirementsOf(undefined, lines), options());
		};

		configure('disabled');
		const refusedWith = name === 'uv' ? 'NotAuthorized' : 'NoMatchingDistribution';
		await failing(t, resolve('six'), refusedWith, /six/);
		t.is(asked(), '');
		configure('subprocess');
		const lock = await resolve('six', 'only-source<2');
		t.deepEqual(pins(lock), ['only-source==1.0', 'six==1.0']);
		t.is(asked(), `get ${index.url} some+body\nget ${new URL(url).host} some+body\n`, 'and not again');
		t.notRegex(writeLock(lock), /sec|some/);
		const error = await t.throwsAsync(resolve('six==9'));
		t.notRegex(`${error?.message}`, /sec/);
		for (const entry of readdirSync(cacheDir, {recursive: true, encoding: 'utf8', withFileTypes: true})) {
			if (!entry.isFile() || entry.name === 'uv') continue;
			const text = readFileSync(path.join(entry.parentPath, entry.name), 'latin1');
			t.false(text.includes(password) || text.includes(encodeURIComponent(password)), entry.name);
		}
		// Another process, which has resolved nothing.
		const later = new Fetcher({
			tools,
			interpreter,
			folder: path.join(folder, 'scratch'),
			credentials: new Credentials(),
		});
		await later.fetch(lock.distributions[1]?.archive as Archive, path.join(home, 'six.whl'), options());
		t.is(sha256Of(readFileSync(path.join(home, 'six.whl'))), index.sha256(six));
		await later.close();
	});

	if (name === 'uv') {
		serialKernelTest(
			'uv: the keyring has name and password of an index that is always to be authenticated',
			async (t) => {
				await using index = await PackageIndex.start(specs, {authorization: 'somebody:secret'});
				const home = await temporaryFolder();
				const {HOME, PATH} = process.env;
				Object.assign(process.env, {HOME: home, PATH: `${home}:${PATH}`});
				t.teardown(() => Object.assign(process.env, {HOME, PATH}));
				mkdirSync(path.join(home, '.config/uv'), {recursive: true});
				writeFileSync(
					path.join(home, '.config/uv/uv.toml'),
					`keyring-provider = "subprocess"\n[[index]]\nurl = "${index.url}"\ndefault = true\nauthenticate = "always"\n`,
				);
				writeKeyring(home, `[ "$*" = 'get ${index.url} --mode creds' ] && printf 'somebody\\nsecret\\n'`);
				const lock = await resolver.resolve(requirementsOf(undefined, ['six', 'only-source<2']), options());
				t.deepEqual(pins(lock), ['only-source==1.0', 'six==1.0']);
			},
		);
	}

	serialKernelTest(`${name}: a keyring without the password is told of when the index refuses`, async (t) => {
		await using index = await PackageIndex.start(specs, {authorization: 'somebody:else'});
		const home = await temporaryFolder();
		const {HOME, PATH} = process.env;
		const url = index.url.replace('//', '//somebody@');
		const variables = {
			UV_DEFAULT_INDEX: url,
			PIP_INDEX_URL: url,
			UV_KEYRING_PROVIDER: 'subprocess',
			PIP_KEYRING_PROVIDER: 'subprocess',
		};
		Object.assign(process.env, {HOME: home, PATH: `${home}:${PATH}`, ...variables});
		t.teardown(() => {
			for (const each of Object.keys(variables)) delete process.env[each];
			Object.assign(process.env, {HOME, PATH});
		});
		writeKeyring(home, 'echo hush-hush; echo hush-hush >&2; exit 3');
		const error = await t.throwsAsync(resolver.resolve(requirementsOf(undefined, ['six']), options()), {
			instanceOf: ForktreeError,
		});
		t.is(error.code, name === 'uv' ? 'NotAuthorized' : 'NoMatchingDistribution', error.message);
		t.regex(error.message, /the program keyring, asked for 127\.0\.0\.1:\d+, ended with exit code 3$/);
		t.notRegex(error.message, /hush/);
		const own = new Fetcher({
			tools,
			interpreter,
			folder: path.join(folder, 'scratch'),
			credentials: new Credentials(),
		});
		t.teardown(() => own.close());
		const fresh = await find(name, own);
		const offline = options({offline: {archives: []}});
		writeKeyring(home, `touch ${home}/asked`);
		await failing(t, fresh.resolve(requirementsOf(undefined, ['six']), offline), 'Offline', /six/);
		t.false(existsSync(path.join(home, 'asked')), 'without a network nobody is asked');
	});

	serialKernelTest(`${name}: what does not exist, and what contradicts itself`, async (t) => {
		await using index = await PackageIndex.start(specs);
		const resolve = async (...lines: string[]) => resolver.resolve(requirementsOf(index, lines), options());
		await failing(
			t,
			resolve('no-such-thing'),
			'NoMatchingDistribution',
			/resolving no-such-thing: [\s\S]*no-such-thing/,
		);
		await failing(t, resolve('six==9'), 'NoMatchingDistribution', /resolving six: /);
		await failing(t, resolve('six>=2', 'my-lib'), 'ResolveFailed', /resolving [\s\S]*my-lib/);
		await using old = await PackageIndex.start([other]);
		await failing(t, resolver.resolve(requirementsOf(old, ['native']), options()), 'NoMatchingDistribution', /native/);
	});

	serialKernelTest(`${name}: a source distribution is built where there is no wheel, also for others`, async (t) => {
		for (const json of name === 'uv' ? [true, false] : [false]) {
			await using index = await PackageIndex.start(specs, {json});
			const lock = await resolver.resolve(requirementsOf(index, ['only-source<2']), options());
			t.deepEqual(pins(lock), ['only-source==1.0', 'six==1.0']);
			t.like(lock.distributions[0]?.archive, {kind: 'sdist', sha256: index.sha256(source), file: fileName(source)});
			const newest = await resolver.resolve(requirementsOf(index, ['only-source']), options());
			t.deepEqual(pins(newest), ['only-source==2.0']);
			const transitive = await resolver.resolve(requirementsOf(index, ['source-user']), options());
			t.deepEqual(pins(transitive), ['only-source==1.0', 'six==1.0', 'source-user==1.0']);
		}
	});

	serialKernelTest(`${name}: hashes of source distributions, and which are wanted`, async (t) => {
		await using index = await PackageIndex.start(specs);
		const hash = `sha256:${index.sha256(source2)}`;
		const lock = await resolver.resolve(requirementsOf(index, [`only-source==2.0 --hash=${hash}`]), options());
		t.is(lock.distributions[0]?.archive.sha256, index.sha256(source2));
		const wrong = requirementsOf(index, [`only-source==2.0 --hash=sha256:${'1'.repeat(64)}`]);
		await failing(t, resolver.resolve(wrong, options()), 'HashMismatch', /only-source/);
		const unwanted = requirementsOf(index, ['only-source'], {onlyBinary: [':all:']});
		await failing(t, resolver.resolve(unwanted, options()), 'NoMatchingDistribution', /only-source/);
		const built = await resolver.resolve(requirementsOf(index, ['both', 'six'], {noBinary: ['both']}), options());
		t.deepEqual(
			built.distributions.map(({archive}) => archive.kind),
			['sdist', 'wheel'],
		);
		const none = requirementsOf(index, ['six'], {noBinary: [':all:']});
		await failing(
			t,
			resolver.resolve(none, options()),
			'NoMatchingDistribution',
			/six==2.0 has no source distribution/,
		);
	});

	serialKernelTest(`${name}: a build that fails is told as it is`, async (t) => {
		await using index = await PackageIndex.start(specs);
		const broken = options({
			buildSdist: async () => Promise.reject(new ForktreeError('BuildFailed' as 'InstallFailed', 'no compiler')),
		});
		await failing(t, resolver.resolve(requirementsOf(index, ['only-source']), broken), 'BuildFailed', /no compiler/);
	});

	serialKernelTest(`${name}: offline, of archives that are there`, async (t) => {
		const archives = path.join(await temporaryFolder(), 'archives');
		const add = (sha256: string, ...all: readonly ArchiveSpec[]) => {
			mkdirSync(path.join(archives, sha256), {recursive: true});
			makeArchives(path.join(archives, sha256), all);
		};
		await using index = await PackageIndex.start(specs);
		add(index.sha256(six), six);
		add(index.sha256(lib), lib);
		add(index.sha256(source), source, {...source, sdist: false});
		chmodSync(path.dirname(archives), 0o755);
		const offline = options({offline: {archives: [archives]}});
		const before = index.requests.length;
		networks.length = 0;
		const lock = await resolver.resolve(requirementsOf(index, ['my-lib', 'only-source']), offline);
		t.deepEqual(pins(lock), ['my-lib==1.5', 'only-source==1.0', 'six==1.0']);
		t.like(lock.distributions[1]?.archive, {kind: 'sdist', sha256: index.sha256(source), file: fileName(source)});
		await failing(t, resolver.resolve(requirementsOf(index, ['extra-lib']), offline), 'Offline', /extra-lib/);
		t.is(index.requests.length, before);
		t.deepEqual([...new Set(networks)], ['none']);
		const online = await resolver.resolve(requirementsOf(index, ['my-lib', 'only-source==1.0']), options());
		t.is(online.key, lock.key);
	});

	serialKernelTest(`${name}: passwords are used, and are in no lock and no message`, async (t) => {
		await using index = await PackageIndex.start(specs, {authorization: 'somebody:top/secret'});
		const url = index.url.replace('//', '//somebody:top%2Fsecret@');
		const resolve = async (...lines: string[]) =>
			resolver.resolve(
				requirementsOf(index, lines, {index: {indexUrl: url, extraIndexUrls: [], findLinks: [], noIndex: false}}),
				options(),
			);
		const lock = await resolve('six', 'only-source<2');
		t.notRegex(writeLock(lock) + lockAsText(lock), /secret|somebody/);
		const file = path.join(await temporaryFolder(), 'archive');
		const archive = lock.distributions[0]?.archive as Lock['distributions'][0]['archive'];
		await fetcher.fetch(archive, file, options());
		t.is(sha256Of(readFileSync(file)), archive.sha256);
		const error = await t.throwsAsync(resolve('six==9'));
		t.notRegex(`${error?.message}`, /secret/);
		// Wherever a resolver says it.
		credentials.addSecret('unspeakable');
		await failing(t, resolve('unspeakable'), 'NoMatchingDistribution', /\*{4}/);
	});

	serialKernelTest(`${name}: a password that is refused is told with the index, and without it`, async (t) => {
		await using index = await PackageIndex.start(specs, {authorization: 'somebody:else'});
		const indexUrl = index.url.replace('//', '//somebody:hush-hush@');
		const given = {index: {indexUrl, extraIndexUrls: [], findLinks: [], noIndex: false}};
		const error = await t.throwsAsync(resolver.resolve(requirementsOf(index, ['six'], given), options()), {
			instanceOf: ForktreeError,
		});
		// pip does not say why it found nothing.
		t.is(error.code, name === 'uv' ? 'NotAuthorized' : 'NoMatchingDistribution', error.message);
		t.true(error.message.includes(new URL(index.url).host), error.message);
		t.notRegex(error.message, /hush/);
	});

	serialKernelTest(
		`${name}: an index that is silent ends with the deadline, and so does a caller who goes`,
		async (t) => {
			await using index = await PackageIndex.start(specs, {
				interrupt: () => true,
			});
			const resolve = async (more: Partial<ResolveOptions>) =>
				resolver.resolve(requirementsOf(index, ['six']), options(more));
			await failing(t, resolve({timeoutMs: 3000}), 'InstallTimeout', /resolving six: took more than 3 seconds/);
			const controller = new AbortController();
			const aborted = resolve({signal: controller.signal});
			setTimeout(() => controller.abort(), 500);
			await failing(t, aborted, 'Aborted', /./);
		},
	);

	serialKernelTest(`${name}: a certificate of its user’s, and a cache for all that come after`, async (t) => {
		await using index = await PackageIndex.start(specs, {json: true, tls: true});
		const resolve = async () => resolver.resolve(requirementsOf(index, ['my-lib']), options());
		if (name === 'uv') await failing(t, resolve(), 'InstallFailed', /certificate/i); // pip takes half a minute
		const before = {...process.env};
		process.env[name === 'uv' ? 'SSL_CERT_FILE' : 'REQUESTS_CA_BUNDLE'] = index.certificate;
		t.teardown(() => Object.assign(process.env, before));
		const lock = await resolve();
		await fetcher.fetch(
			lock.distributions[1]?.archive as Archive,
			path.join(await temporaryFolder(), 'six'),
			options(),
		);
		t.is(statSync(cacheDir).mode & 0o777, 0o700);
		const all = readdirSync(path.join(cacheDir, name), {recursive: true, encoding: 'utf8'});
		const closed = all.filter((file) => (statSync(path.join(cacheDir, name, file)).mode & 0o006) !== 0o006);
		t.true(all.length > 0);
		t.deepEqual(closed, []);
		index.requests.length = 0;
		await resolve();
		// pip asks for pages each time.
		t.deepEqual(
			index.requests.filter((url) => name === 'uv' || url.startsWith('/files/')),
			[],
		);
	});

	online(`${name}: the public index`, async (t) => {
		const lock = await resolver.resolve(requirementsOf(undefined, ['six==1.16.0']), options());
		t.like(lock.distributions[0], {name: 'six', version: '1.16.0'});
		t.is(lock.distributions[0]?.archive.sha256, '8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254');
	});
}

serialKernelTest('says what to do when there is nothing to resolve with', async (t) => {
	const bin = await temporaryFolder();
	for (const name of ['uv', 'python3']) writeFileSync(path.join(bin, name), '#!/bin/sh\nexit 1\n', {mode: 0o755});
	const before = process.env.PATH;
	process.env.PATH = bin;
	try {
		const none = {...interpreter, executable: '/bin/false'};
		await failing(
			t,
			findResolver({interpreter: none, tools, fetcher, cacheDir}),
			'InstallFailed',
			/install uv, or .*apt-get install python3-pip/,
		);
	} finally {
		process.env.PATH = before;
	}
});
