/** What does it take to have packages, against the installer by itself and an ordinary virtual environment? */
import {cp, rm, writeFile} from 'node:fs/promises';
import path from 'node:path';
import {execa} from 'execa';
import {createRuntime, openPackages, type Runtime} from 'forktree';
import {dir as temporaryDirectory} from 'tmp-promise';
import {ToolSandboxes} from '../src/packages/tool-sandboxes.ts';
import {findInterpreter} from '../src/sandbox/interpreter.ts';
import {alternate} from './alternate.ts';
import {
	type Bench,
	made,
	measureCollection,
	measureScan,
	measureTransfer,
	type Sizes,
	series,
	timed,
} from './install-store.ts';
import {type BenchResult, describeHost, mark} from './report.ts';

const requirements = {long: ['pandas', 'scipy', 'matplotlib'], short: ['six', 'packaging', 'idna']};
// Nothing that makes matplotlib look for the machine's fonts: that takes a second, and is no import.
const imported = {
	long: 'import pandas, scipy.stats, matplotlib.colors',
	short: 'import six, packaging.version, idna',
};
const handler = 'def f(event):\n    return event\n';
const firstFunction = 'bench-1';

const long: Sizes = {deploys: 30, installs: 3, imports: 15, scans: 20, transfers: 5, transferMb: 1024, collected: 1000};
const short: Sizes = {deploys: 3, installs: 1, imports: 2, scans: 3, transfers: 1, transferMb: 16, collected: 20};

/** @param stateDir keeps packages and what indexes said between runs */
export async function benchInstall(stateDir: string, isShort: boolean): Promise<BenchResult> {
	const {path: work} = await temporaryDirectory({tmpdir: await made(stateDir), unsafeCleanup: true});
	const which = isShort ? 'short' : 'long';
	const bench: Bench = {
		work,
		python: await findInterpreter(),
		uv: await findUv(),
		sizes: isShort ? short : long,
		requirements: requirements[which],
		statement: imported[which],
		marks: [],
		samples: {},
	};
	const runtime = await createRuntime({stateDir});
	try {
		await measureDeploys(bench, runtime);
		await measureScripts(bench, runtime);
		await measureInstalls(bench, path.join(stateDir, 'packages'));
		await measureImports(bench, runtime);
		await measureScan(bench);
		await measureTransfer(bench);
		await measureCollection(bench);
		const {isolation, python} = await runtime.stats();
		const {stdout} = await execa(bench.uv, ['--version']);
		const host = describeHost(isolation.cgroup, {python: python.version, uv: stdout.split(' ')[1] ?? ''});
		return {bench: 'install', host, marks: bench.marks, samples: bench.samples};
	} finally {
		await runtime.close();
		await rm(work, {recursive: true, force: true, maxRetries: 3});
	}
}

/** The program itself: a shim of a version manager would be timed as well. */
async function findUv(): Promise<string> {
	const {stdout} = await execa('python3', ['-c', 'import uv; print(uv.find_uv_bin())'], {reject: false});
	return stdout || 'uv';
}

/** Of the function that this bench keeps; the state folder has those of other benches as well. */
function packagesOf(runtime: Runtime): ReadonlySet<string> {
	const packages = runtime.list().find(({name}) => name === firstFunction)?.packages ?? [];
	if (packages.length === 0) throw new Error(`expected packages of ${firstFunction}`);
	return new Set(packages);
}

async function measureDeploys(bench: Bench, runtime: Runtime): Promise<void> {
	const {sizes, work, uv, python} = bench;
	const input = path.join(work, 'requirements.in');
	await writeFile(input, bench.requirements.join('\n'));
	let count = 0;
	const made = new Set<string>();
	const deploy = async (lines: readonly string[], isResolved: boolean) => {
		count += 1;
		// Code that was never there before: what it was resolved to is not known.
		const code = {'f.py': `${handler}# ${count} of ${Date.now()}\n`};
		// A function that is new gets what others were given within the last minute.
		const name = isResolved ? firstFunction : `bench-${count}`;
		if (name !== firstFunction) made.add(name);
		const {resolver, installed} = await runtime.deploy(name, code, {requirements: lines});
		if ((resolver !== undefined) !== isResolved)
			throw new Error(`expected ${isResolved ? 'a' : 'no'} resolver to be asked`);
		if (count > 1 && installed.length > 0)
			throw new Error(`expected everything to be there, ${installed.join()} was not`);
	};
	await deploy(bench.requirements, true);
	await runtime.packages.measured();
	const pins = (await runtime.packages.list())
		.filter((each) => packagesOf(runtime).has(`${each.name}==${each.version}`))
		.map((each) => `${each.name}==${each.version} --hash=sha256:${each.archive.sha256}`);
	const locked = async () => timed(() => deploy(pins, false));
	const resolving = async () => timed(() => deploy(bench.requirements, true));
	const floor = async () =>
		timed(() => execa(uv, ['pip', 'compile', '--quiet', '--python', python.executable, input], {stdout: 'ignore'}));
	await alternate(2, 0, locked, resolving, floor);
	const [lockedMs, resolvingMs, floorMs] = await alternate(sizes.deploys, 0, locked, resolving, floor);
	const a = series(bench, 'deploy, locked', lockedMs);
	const b = series(bench, 'deploy, to be resolved', resolvingMs);
	const c = series(bench, 'uv pip compile', floorMs);
	bench.marks.push(mark('deploy of a locked function, all in the store', a, '<=', 30, 'ms'));
	bench.marks.push(mark('deploy that must resolve, all in the store / uv pip compile', b / c, '<=', 1.3, '×'));
	for (const name of made) await runtime.remove(name);
}

/** One file that says itself what it requires, which another one did within the last minute. */
async function measureScripts(bench: Bench, runtime: Runtime): Promise<void> {
	const dependencies = JSON.stringify(bench.requirements);
	let count = 0;
	const script = async () => {
		count += 1;
		const name = `script-${count}`;
		const code = {
			'f.py': `# /// script\n# dependencies = ${dependencies}\n# ///\n${handler}# ${count} of ${Date.now()}\n`,
		};
		const ms = await timed(async () => {
			await runtime.deploy(name, code);
			const outcome = await runtime.invoke(name, null);
			if (!outcome.ok) throw new Error(`${outcome.error.code}: ${outcome.error.message}`);
		});
		await runtime.remove(name);
		return ms;
	};
	await alternate(2, 0, script);
	const [ms] = await alternate(bench.sizes.deploys, 0, script);
	const a = series(bench, 'script, deployed and called', ms);
	bench.marks.push(mark('one file with inline metadata, all in the store: deploy and first call', a, '<=', 60, 'ms'));
}

/** From kept archives; both have read the index before. */
async function measureInstalls(bench: Bench, warm: string): Promise<void> {
	const {work, uv, python, sizes} = bench;
	let count = 0;
	const ours = async () => {
		count += 1;
		const dir = await made(path.join(work, `store-${count}`));
		for (const kept of ['archives', 'cache']) await cp(path.join(warm, kept), path.join(dir, kept), {recursive: true});
		const packages = await openPackages({dir, python: python.executable});
		try {
			return await timed(() => packages.add(bench.requirements));
		} finally {
			await packages.close();
			await rm(dir, {recursive: true, force: true, maxRetries: 3});
		}
	};
	const floor = async () => {
		const target = path.join(work, 'target');
		const options = ['--quiet', '--python', python.executable, '--target', target, '--compile-bytecode'];
		const ms = await timed(() => execa(uv, ['pip', 'install', ...options, ...bench.requirements]));
		await rm(target, {recursive: true, force: true});
		return ms;
	};
	await alternate(1, 0, floor);
	const [oursMs, floorMs] = await alternate(sizes.installs, 0, ours, floor);
	const a = series(bench, 'fresh install', oursMs);
	const b = series(bench, 'uv pip install --target --compile-bytecode', floorMs);
	bench.marks.push(mark('fresh install, downloads there / uv', a / b, '<=', 1.5, '×'));
}

/** In the same kind of sandbox, files in the page cache. */
async function measureImports(bench: Bench, runtime: Runtime): Promise<void> {
	const {work, uv, python, sizes} = bench;
	const venv = path.join(work, 'venv');
	await execa(uv, ['venv', '--quiet', '--python', python.executable, venv]);
	const options = ['--quiet', '--python', path.join(venv, 'bin', 'python'), '--compile-bytecode'];
	await execa(uv, ['pip', 'install', ...options, ...bench.requirements]);
	const minor = python.version.split('.').slice(0, 2).join('.');
	const own = packagesOf(runtime);
	const folders = (await runtime.packages.list()).filter((each) => own.has(`${each.name}==${each.version}`));
	const program = `import sys, time\nsys.path.insert(0, '/packages')\nstarted = time.perf_counter()\n${bench.statement}\nprint((time.perf_counter() - started) * 1000)`;
	const tools = new ToolSandboxes(python);
	const importMs = async (source: string | readonly string[]) => {
		const {stdout, stderr, exitCode, error} = await tools.run([python.executable, '-I', '-S', '-c', program], {
			network: 'none',
			mounts: [{source, target: '/packages'}],
			env: {MPLCONFIGDIR: '/tmp'},
			timeoutMs: 120_000,
			memoryMb: 1024,
			scratchMb: 64,
		});
		if (exitCode !== 0) throw new Error(error?.message ?? stderr);
		return Number(stdout);
	};
	try {
		const ours = async () => importMs(folders.map((each) => each.folder));
		const floor = async () => importMs(path.join(venv, 'lib', `python${minor}`, 'site-packages'));
		await alternate(2, 0, ours, floor);
		const [oursMs, floorMs] = await alternate(sizes.imports, 0, ours, floor);
		const a = series(bench, 'import from the store', oursMs);
		const b = series(bench, 'import from a virtual environment', floorMs);
		bench.marks.push(mark('import from the store / from a virtual environment', a / b, '<=', 1.05, '×'));
	} finally {
		await tools.close();
	}
}
