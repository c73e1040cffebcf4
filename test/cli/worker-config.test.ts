import {mkdir, readdir, readFile, rm, writeFile} from 'node:fs/promises';
import {totalmem} from 'node:os';
import path from 'node:path';
import test, {type ExecutionContext} from 'ava';
import {defaultConfig, override, readConfig, readSettings, writeConfig} from '../../src/cli/worker-config.ts';
import {temporaryFolder} from '../helpers/runtime.ts';

const folder = '/srv/w';

function read(overrides: ReadonlyArray<readonly [string, string]>) {
	return readSettings(override(defaultConfig(folder), overrides), folder);
}

/** With a value in its place, whatever its kind. */
function edited(key: string, value: unknown): Record<string, unknown> {
	const config = structuredClone(defaultConfig(folder)) as Record<string, unknown>;
	const [top = '', below] = key.split('.');
	if (below === undefined) config[top] = value;
	else (config[top] as Record<string, unknown>)[below] = value;
	return config;
}

const standard = {
	workerDir: '/srv/w/worker',
	registry: '/srv/w/registry',
	registryCacheMs: 5000,
	host: 'localhost',
	port: 5000,
	token: undefined,
	logOutput: true,
	mode: 'lambda',
	pipMirror: undefined,
	runtime: {
		stateDir: '/srv/w/state',
		packagesDir: '/srv/w/state/packages',
		memoryBudgetMb: Math.floor((totalmem() / 1024 / 1024) * 0.75),
		limits: {processes: 64, memoryMb: 256, cpuPercent: 100, timeoutMs: 30_000},
		zygote: true,
		bestEffort: false,
		promote: true,
		spares: 4,
		instancePauseMs: 1000,
		instanceIdleMs: 600_000,
		zygoteIdleMs: 3_600_000,
	},
};

test('the default configuration comes to the defaults, without a warning', (t) => {
	t.deepEqual(read([]), {settings: standard, warnings: []});
	t.deepEqual(readSettings({}, folder), {settings: standard, warnings: []});
});

test('the default configuration has every key of OpenLambda’s, and ours', (t) => {
	const config = defaultConfig(folder);
	t.deepEqual(Object.keys(config), [
		...['worker_dir', 'worker_url', 'worker_port', 'log_output', 'sandbox', 'server_mode', 'registry'],
		...['registry_cache_ms', 'Pkgs_dir', 'pip_mirror', 'mem_pool_mb', 'import_cache_tree', 'sock_base_path'],
		...['sandbox_config', 'docker', 'limits', 'installer_limits', 'features', 'trace', 'storage', 'kafka'],
		...['token', 'best_effort', 'promote', 'spares', 'instance_pause_ms', 'instance_idle_ms', 'zygote_idle_ms'],
		...['shared_packages', 'packages_gb', 'packages_idle_ms'],
	]);
	t.like(config, {
		worker_port: '5000',
		registry: 'file:///srv/w/registry',
		limits: {procs: 64, mem_mb: 256, cpu_percent: 100, swappiness: 0, runtime_sec: 30},
		features: {reuse_cgroups: false, import_cache: 'tree', downsize_paused_mem: true, enable_seccomp: true},
		packages_gb: null,
	});
});

for (const [key, value, expected] of [
	['worker_dir', '/elsewhere', {workerDir: '/elsewhere'}],
	['worker_url', '0.0.0.0', {host: '0.0.0.0'}],
	['worker_port', '8080', {port: 8080}],
	['token', 'secret', {token: 'secret'}],
	['log_output', 'False', {logOutput: false}],
	['server_mode', 'sock', {mode: 'sock'}],
	['registry', 'file:///a%20b', {registry: '/a b'}],
	['registry', '/a b', {registry: '/a b'}],
	['registry_cache_ms', '0', {registryCacheMs: 0}],
	['pip_mirror', 'http://mirror/simple', {pipMirror: 'http://mirror/simple'}],
	['Pkgs_dir', '/packages', {runtime: {packagesDir: '/packages'}}],
	['mem_pool_mb', '700', {runtime: {memoryBudgetMb: 700}}],
	['import_cache_tree', 'tree.json', {runtime: {tree: 'tree.json'}}],
	['import_cache_tree', ' {"children": []}', {runtime: {tree: {children: []}}}],
	['limits.procs', '9', {runtime: {limits: {processes: 9}}}],
	['limits.mem_mb', '50', {runtime: {limits: {memoryMb: 50}}}],
	['limits.cpu_percent', '20', {runtime: {limits: {cpuPercent: 20}}}],
	['limits.runtime_sec', '7', {runtime: {limits: {timeoutMs: 7000}}}],
	['features.import_cache', '', {runtime: {zygote: false}}],
	['best_effort', 'true', {runtime: {bestEffort: true}}],
	['promote', 'false', {runtime: {promote: false}}],
	['spares', '0', {runtime: {spares: 0}}],
	['instance_pause_ms', '5', {runtime: {instancePauseMs: 5}}],
	['instance_idle_ms', '6', {runtime: {instanceIdleMs: 6}}],
	['zygote_idle_ms', '7', {runtime: {zygoteIdleMs: 7}}],
	['shared_packages', '/a:/b', {runtime: {sharedPackages: ['/a', '/b']}}],
	['packages_gb', '0', {runtime: {packagesGb: 0}}],
	['packages_idle_ms', '1', {runtime: {packagesIdleMs: 1}}],
] as const) {
	test(`${key}=${value} is honoured`, (t) => {
		const {settings, warnings} = read([[key, value]]);
		t.like(settings, expected);
		t.deepEqual(warnings, []);
	});
}

for (const [key, value] of [
	['sandbox', 'docker'],
	['sock_base_path', '/base'],
	['sandbox_config', {a: 1}],
	['docker.runtime', 'runsc'],
	['docker.base_image', 'mine'],
	['limits.swappiness', 10],
	['installer_limits.procs', 10],
	['installer_limits.mem_mb', 500],
	['installer_limits.cpu_percent', 100],
	['installer_limits.swappiness', 1],
	['installer_limits.runtime_sec', 60],
	['features.reuse_cgroups', true],
	['features.import_cache', 'multitree'],
	['features.downsize_paused_mem', false],
	['features.enable_seccomp', false],
	...['cgroups', 'memory', 'evictor', 'package', 'latency'].map((name) => [`trace.${name}`, true] as const),
	['storage.root', 'memory'],
	['storage.scratch', 'memory'],
	['storage.code', 'private'],
	['kafka.cache_enabled', false],
	['kafka.cache_size', 1],
	['kafka.session_timeout_sec', 1],
	['kafka.heartbeat_interval_sec', 1],
	['kafka.poll_timeout_sec', 2],
] as const) {
	test(`${key} has no effect, and who sets it is told so`, (t) => {
		const {settings, warnings} = readSettings(edited(key, value), folder);
		t.deepEqual(settings, standard);
		t.is(warnings.length, 1);
		t.true(warnings[0]?.startsWith(`${key} is ${JSON.stringify(value)}, which has no effect: `), warnings[0]);
	});
}

test('a file may hold what the command line can’t: a tree as an object, and a port as a number', (t) => {
	t.deepEqual(readSettings(edited('import_cache_tree', {children: []}), folder).settings.runtime.tree, {children: []});
	t.is(readSettings(edited('worker_port', 81), folder).settings.port, 81);
});

test('keys that nobody knows are told of', (t) => {
	const {warnings} = readSettings({...edited('limits.memory_mb', 5), colour: 'red'}, folder);
	t.deepEqual(warnings, [
		'limits.memory_mb is no key of a worker’s config.json, and has no effect',
		'colour is no key of a worker’s config.json, and has no effect',
	]);
	t.deepEqual(read([['limits.memory_mb', '5']]).warnings, [warnings[0]]);
});

for (const [key, value, message] of [
	['port', '1', /^-o: expected worker_dir, .*, packages_idle_ms, got "port"$/],
	['__proto__', '1', /^-o: expected .*, got "__proto__"$/],
	['limits', '5', /^-o: expected limits\.KEY, got "limits"$/],
	['nothing.mem_mb', '5', /^-o: expected .*, got "nothing\.mem_mb"$/],
	['sandbox_config', '{}', /^-o: sandbox_config can only be changed in config\.json$/],
	['worker_dir', 'relative', /^worker_dir: expected an absolute path, got "relative"$/],
	['worker_port', '65536', /^worker_port: expected a whole number from 0 to 65535, got "65536"$/],
	['worker_url', 'http://x/', /^worker_url: expected a host name or address to listen on, got "http:\/\/x\/"$/],
	['server_mode', 'docker', /^server_mode: expected "lambda" or "sock", got "docker"$/],
	['registry', 's3://bucket', /^registry: expected a folder or a file:\/\/ URL of one, got "s3:\/\/bucket"$/],
	['registry', 'file://host/a', /^registry: expected a folder or a file:\/\/ URL of one, got "file:\/\/host\/a"$/],
	['mem_pool_mb', '', /^mem_pool_mb: expected a whole number from 0 to \d+, got ""$/],
	['mem_pool_mb', '0', /^mem_pool_mb: expected a whole number from 1 to \d+, got 0$/],
	['limits.mem_mb', 'much', /^limits\.mem_mb: expected a whole number from 0 to \d+, got "much"$/],
	['limits.runtime_sec', '0', /^limits\.runtime_sec: expected a whole number from 1 to 2147483, got 0$/],
	['promote', 'yes', /^promote: expected true or false, got "yes"$/],
	['spares', '65', /^spares: expected a whole number from 0 to 64, got 65$/],
	['shared_packages', '/a:', /^shared_packages: expected folders with colons between them, got "\/a:"$/],
	['pip_mirror', 'mirror', /^pip_mirror: expected the http or https URL of a package index, got "mirror"$/],
	['import_cache_tree', '{', /^import_cache_tree: expected a path or JSON: /],
	['features.import_cache', 'forest', /^features\.import_cache: expected "tree" or "", got "forest"$/],
] as const) {
	test(`-o ${key}=${value} is refused`, (t) => {
		t.throws(() => read([[key, value]]), {message});
	});
}

for (const [key, value, message] of [
	['worker_port', true, /^config\.json: worker_port: expected text, got true$/],
	['log_output', 'yes', /^config\.json: log_output: expected true or false, got "yes"$/],
	['limits.mem_mb', '50', /^config\.json: limits\.mem_mb: expected a number, got "50"$/],
	['limits.mem_mb', 1.5, /^limits\.mem_mb: expected a whole number from 1 to \d+, got 1\.5$/],
	['limits', 5, /^config\.json: limits: expected an object, got 5$/],
	['sandbox_config', [], /^config\.json: sandbox_config: expected an object, got \[\]$/],
] as const) {
	test(`config.json with ${key} of ${JSON.stringify(value)} is refused`, (t) => {
		t.throws(() => readSettings(edited(key, value), folder), {message});
	});
}

async function emptyFolder(t: ExecutionContext): Promise<string> {
	const directory = await temporaryFolder();
	t.teardown(() => rm(directory, {recursive: true, force: true}));
	return directory;
}

for (const [content, message] of [
	['{', /config\.json: expected JSON: /],
	['[]', /config\.json: expected a JSON object, got an array$/],
	['null', /config\.json: expected a JSON object, got null$/],
	[`"${' '.repeat(2 ** 20)}"`, /config\.json: expected at most 1048576 bytes, got 1048578$/],
] as const) {
	test(`a file that begins with ${content.slice(0, 4)} is no configuration`, async (t) => {
		const file = path.join(await emptyFolder(t), 'config.json');
		await writeFile(file, content);
		await t.throwsAsync(readConfig(file), {message});
	});
}

test('a configuration is written as a whole, and one that can’t be leaves nothing', async (t) => {
	const directory = await emptyFolder(t);
	const file = path.join(directory, 'config.json');
	await writeConfig(file, defaultConfig(folder));
	t.deepEqual(await readConfig(file), defaultConfig(folder));
	t.regex(await readFile(file, 'utf8'), /^\{\n\t"worker_dir": /);
	const taken = path.join(directory, 'taken');
	await mkdir(path.join(taken, 'full'), {recursive: true});
	await t.throwsAsync(writeConfig(taken, {}));
	t.deepEqual((await readdir(directory)).sort(), ['config.json', 'taken']);
});
