/**
 * Tries what many people install: `npm run compatibility [-- NAME…]`. Each package is installed, imported in a zygote where it can be,
 * and does something real in two sandboxes with default settings: no network, a read-only root, the default filter. `--write` puts the
 * table of all of them into docs/compatibility.md; `--packages DIR` keeps what was installed. Ends with 0 when all of those asked for work.
 */
import {once} from 'node:events';
import {readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {mkdtemp, rm} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import path from 'node:path';
import process from 'node:process';
import {parseArgs} from 'node:util';
import {createRuntime, type Outcome, type PackageInfo, type Runtime} from '../../src/index.ts';
import {withDeadline} from '../../src/kernel/deadline.ts';
import {type Row, renderTable} from './table.ts';

const probesFolder = path.join(import.meta.dirname, 'probes');
const document = path.join(import.meta.dirname, '..', '..', 'docs', 'compatibility.md');
/** Longer than measuring one package may take. */
const measureDeadlineMs = 6 * 60_000;

/** The handler of every probe: what its module does, random numbers of each kind that is loaded then, and which warm-ups fail. */
const handler = `
import os, random, secrets, ssl, sys, uuid
import probe

def f(event):
	did = probe.f(event)
	if hasattr(did, '__await__'):
		import asyncio
		did = asyncio.run(did)
	drawn = [random.random(), os.urandom(8).hex(), uuid.uuid4().hex, secrets.token_hex(), ssl.RAND_bytes(8).hex()]
	if 'numpy' in sys.modules:
		drawn.append(sys.modules['numpy'].random.random())
	if 'torch' in sys.modules:
		drawn.append(sys.modules['torch'].rand(1).item())
	if 'cryptography' in sys.modules:
		from cryptography.hazmat.primitives.asymmetric import ec
		drawn.append(str(ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value))
	return {'did': did, 'drawn': drawn, 'failedWarmUps': sys.modules['forktree_guest.warmups'].run()}
`;

type Answer = {readonly did: string; readonly drawn: readonly unknown[]; readonly failedWarmUps: readonly string[]};

async function main(): Promise<void> {
	const {values, positionals} = parseArgs({
		allowPositionals: true,
		options: {write: {type: 'boolean', default: false}, packages: {type: 'string'}},
	});
	const all = readdirSync(probesFolder)
		.map((file) => path.basename(file, '.py'))
		.sort();
	const unknown = positionals.filter((name) => !all.includes(name));
	if (unknown.length > 0) throw new Error(`expected names of ${all.join(', ')}; got ${unknown.join(', ')}`);
	const rows = await tryAll(positionals.length > 0 ? positionals : all, values.packages, values.write);
	if (values.write) writeFileSync(document, renderDocument(readFileSync(document, 'utf8'), rows));
	const failed = rows.filter(({trouble}) => trouble !== undefined);
	if (failed.length > 0)
		throw new Error(`${failed.length} of ${rows.length}: ${failed.map(({name}) => name).join(', ')}`);
}

async function tryAll(names: readonly string[], packagesDir: string | undefined, measure: boolean): Promise<Row[]> {
	const stateDir = await mkdtemp(path.join(tmpdir(), 'forktree-test-compatibility-'));
	const runtime = await createRuntime({stateDir, spares: 0, ...(packagesDir === undefined ? {} : {packagesDir})});
	try {
		const rows: Row[] = [];
		for (const name of names) {
			const row = await tryOne(runtime, name, measure);
			rows.push(row);
			process.stdout.write(`${name}: ${row.trouble ?? [row.did, ...row.importedInSandbox].join('; ')}\n`);
		}
		return rows;
	} finally {
		await runtime.close();
		await rm(stateDir, {recursive: true, force: true, maxRetries: 3});
	}
}

async function tryOne(runtime: Runtime, name: string, measure: boolean): Promise<Row> {
	const probe = readFileSync(path.join(probesFolder, `${name}.py`), 'utf8');
	const metadata = /^# \/\/\/ script$.*?^# \/\/\/$/ms.exec(probe)?.[0] ?? '';
	let version = '';
	let inSandbox: string[] = [];
	try {
		const report = await runtime.deploy(
			name,
			{'f.py': `${metadata}\n${handler}`, 'probe.py': probe},
			{reuse: false, spares: 0},
		);
		version = report.packages.find((each) => each.startsWith(`${name}==`))?.slice(name.length + 2) ?? '';
		await runtime.prewarm(name);
		const answers: Answer[] = [];
		const outcomes: Outcome[] = [];
		for (let turn = 0; turn < 2; turn += 1) {
			const outcome = await runtime.invoke(name, null, {timeoutMs: 120_000});
			if (!outcome.ok) throw new Error(`${outcome.error.code}: ${outcome.error.message}\n${outcome.error.traceback}`);
			answers.push(outcome.value as unknown as Answer);
			outcomes.push(outcome);
		}
		const described = runtime.list().find((each) => each.name === name);
		inSandbox = Object.entries(described?.importedInSandbox ?? {}).map(([module, reason]) => `${module} ${reason}`);
		checkFresh(outcomes, answers);
		const failedWarmUps = answers.flatMap((each) => each.failedWarmUps);
		if (failedWarmUps.length > 0) throw new Error(`warm-ups failed: ${failedWarmUps.join(', ')}`);
		const packages = measure ? await measured(runtime, report.packages) : [];
		const own = packages.find((each) => each.name === name);
		return {
			name,
			version,
			did: answers[0]?.did ?? '',
			distributions: report.packages.length,
			importMs: own?.cost?.inclusiveMs,
			importMiB: packages.reduce((sum, {cost}) => sum + (cost?.privateMiB ?? 0), 0),
			storeMiB: packages.reduce((sum, {sizeBytes}) => sum + sizeBytes, 0) / 2 ** 20,
			startMs: outcomes[1]?.timings.startMs ?? Number.NaN,
			importedInSandbox: inSandbox,
			trouble: undefined,
		};
	} catch (error) {
		const trouble = error instanceof Error ? error.message : String(error);
		return {name, version, importedInSandbox: inSandbox, trouble};
	} finally {
		if (runtime.list().some((each) => each.name === name)) await runtime.remove(name);
	}
}

/** Both are of sandboxes of their own, forked, and as random as two processes. */
function checkFresh(outcomes: readonly Outcome[], answers: readonly Answer[]): void {
	const starts = outcomes.map(({start}) => start);
	if (starts.some((start) => start !== 'forked')) throw new Error(`expected forked starts, got ${starts.join(', ')}`);
	const [one, other] = answers.map(({drawn}) => drawn);
	const same = one?.filter((value, index) => value === other?.[index]) ?? [];
	if (one === undefined || one.length !== other?.length || same.length > 0) {
		throw new Error(`expected other random numbers in each sandbox, got ${JSON.stringify([one, other])}`);
	}
}

/** What is known of packages, when importing them has been measured; of those that can't be it is not known what that takes. */
async function measured(runtime: Runtime, packages: readonly string[]): Promise<PackageInfo[]> {
	for (;;) {
		const seen = new AbortController();
		const next = once(runtime.packages, 'measured', {signal: seen.signal});
		const found = (await runtime.packages.list()).filter(({name, version}) => packages.includes(`${name}==${version}`));
		const isKnown = found.every(({cost, modules}) => cost !== undefined || modules.length === 0);
		const wait = isKnown ? undefined : withDeadline(next, measureDeadlineMs, () => new Error('not measured'));
		const event = await wait?.catch(() => undefined);
		seen.abort();
		await next.catch(() => undefined);
		if (event === undefined) return found;
	}
}

/** Puts the table between the two marks. */
function renderDocument(text: string, rows: readonly Row[]): string {
	const [begin, end] = ['<!-- table -->', '<!-- end of the table -->'];
	const [head, rest] = text.split(begin);
	const tail = rest?.split(end)[1];
	if (tail === undefined) throw new Error(`expected ${document} to have ${begin} and ${end}`);
	return `${head}${begin}\n\n${renderTable(rows)}\n${end}${tail}`;
}

await main();
