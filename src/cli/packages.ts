/** `forktree packages`: what is installed, and what is to be. */
import {readFile} from 'node:fs/promises';
import process from 'node:process';
import ora, {type Ora} from 'ora';
import {
	ForktreeError,
	openPackages,
	type PackageCache,
	type PackageCacheEvents,
	type PackageDetails,
	type PackageInfo,
} from '../index.ts';
import {packagesFolder} from './packages-folder.ts';
import {exitCodes, Interrupts, print} from './terminal.ts';

/** What every one of its commands takes. */
export type PackagesFlags = {
	readonly dir?: string;
	readonly shared: readonly string[];
	readonly python?: string;
	readonly offline?: boolean;
	readonly bestEffort?: boolean;
	readonly json?: boolean;
};

const mebibyte = 1024 * 1024;
const gibibyte = 1024 * mebibyte;
const dayMs = 24 * 60 * 60_000;

/** Answers the exit code. @throws what forktree itself fails at */
export async function add(
	requirements: readonly string[],
	files: readonly string[],
	flags: PackagesFlags,
): Promise<number> {
	if (requirements.length === 0 && files.length === 0) throw new TypeError('expected requirements, or -r FILE');
	const texts = await Promise.all(files.map(async (file) => readFile(file, 'utf8')));
	return withPackages(flags, async (packages, signal) => {
		const progress = new Progress(packages, flags.json === true);
		try {
			const report = await packages.add([...requirements, ...texts], {signal});
			await unlessAborted(signal, packages.measured());
			progress.stop();
			if (flags.json === true) await print(process.stdout, `${JSON.stringify(report)}\n`);
			else {
				const fresh = new Set(report.installed);
				const lines = report.packages.map((each) => `${each}${fresh.has(each) ? '' : ' (was there)'}\n`);
				await print(process.stdout, lines.join(''));
			}
			return exitCodes.ok;
		} finally {
			progress.stop();
		}
	});
}

export async function list(flags: PackagesFlags): Promise<number> {
	return withPackages(flags, async (packages) => {
		const found = await packages.list();
		if (flags.json === true) {
			await print(process.stdout, `${JSON.stringify(found)}\n`);
			return exitCodes.ok;
		}
		const isShared = found.some(({shared}) => shared !== undefined);
		const rows = found.map((each) => [
			each.name,
			each.version,
			`${(each.sizeBytes / mebibyte).toFixed(1)} MiB`,
			each.cost === undefined ? '-' : `${each.cost.exclusiveMs.toFixed(1)} ms`,
			each.lastUsed.toISOString().slice(0, 10),
			each.users.length === 0 ? '-' : String(each.users.length),
			...(isShared ? [each.shared ?? '-'] : []),
		]);
		const titles = ['package', 'version', 'size', 'importing', 'used', 'functions', ...(isShared ? ['shared'] : [])];
		await print(process.stdout, table([titles, ...rows]));
		return exitCodes.ok;
	});
}

export async function info(name: string, flags: PackagesFlags): Promise<number> {
	return withPackages(flags, async (packages) => {
		const [wanted = '', version] = name.split('==');
		const found = await packages.info(wanted, version);
		if (flags.json === true) await print(process.stdout, `${JSON.stringify(found)}\n`);
		else await print(process.stdout, found.map(describe).join('\n'));
		if (found.length > 0) return exitCodes.ok;
		process.stderr.write(`forktree: ${name} is not installed\n`);
		return exitCodes.refused;
	});
}

export async function verify(names: readonly string[], flags: PackagesFlags): Promise<number> {
	return withPackages(flags, async (packages, signal) => {
		const report = await packages.verify({signal, ...(names.length === 0 ? {} : {names})});
		if (flags.json === true) await print(process.stdout, `${JSON.stringify(report, replaceErrors)}\n`);
		else {
			const lines = report.damaged.map(({id, shared, damage, remedy, error}) => {
				const first = damage[0];
				const what = first === undefined ? 'damaged' : `${first.problem}: ${first.path || 'its records'}`;
				const more = damage.length > 1 ? ` and ${damage.length - 1} more` : '';
				const where = shared === undefined ? '' : ` in ${shared}`;
				return `${id.name}==${id.version}${where}: ${what}${more}; ${remedy}${error === undefined ? '' : `: ${error.message}`}\n`;
			});
			const foreign = report.foreign.map((each) => `not of the store: ${each}\n`);
			await print(process.stdout, [...lines, ...foreign, `${report.checked} checked\n`].join(''));
		}
		return report.damaged.every(({remedy}) => remedy === 'reinstalled') ? exitCodes.ok : exitCodes.refused;
	});
}

export async function gc(
	keepGb: number | undefined,
	keepDays: number | undefined,
	flags: PackagesFlags,
): Promise<number> {
	const packagesGb = keepGb ?? (keepDays === undefined ? 0 : undefined);
	const packagesIdleMs = keepDays === undefined ? undefined : keepDays * dayMs;
	return withPackages(flags, async (packages) => {
		const report = await packages.gc({packagesGb, packagesIdleMs});
		if (flags.json === true) await print(process.stdout, `${JSON.stringify(report)}\n`);
		else await print(process.stdout, `${(report.freedBytes / gibibyte).toFixed(2)} GiB freed\n`);
		return exitCodes.ok;
	});
}

export async function exportTo(file: string | undefined, flags: PackagesFlags): Promise<number> {
	const isPiped = file === undefined || file === '-';
	if (isPiped && process.stdout.isTTY) throw new TypeError('expected a file, or a stdout that is no terminal');
	return withPackages(flags, async (packages, signal) => {
		const report = await packages.export(isPiped ? process.stdout : file, {signal});
		const lines = report.withoutArchive.map((each) => `${each}: what it was made from is no longer there\n`);
		const text = [...lines, `${report.packages.length} exported\n`].join('');
		const output = isPiped ? process.stderr : process.stdout;
		await print(output, flags.json === true ? `${JSON.stringify(report)}\n` : text);
		return exitCodes.ok;
	});
}

export async function importFrom(file: string, flags: PackagesFlags): Promise<number> {
	return withPackages(flags, async (packages, signal) => {
		const report = await packages.import(file === '-' ? process.stdin : file, {signal});
		if (flags.json === true) await print(process.stdout, `${JSON.stringify(report)}\n`);
		else {
			const found = report.found.map((each) => `${each} (was there)\n`);
			await print(process.stdout, [...report.imported.map((each) => `${each}\n`), ...found].join(''));
		}
		return exitCodes.ok;
	});
}

async function withPackages(
	{dir = packagesFolder(), shared, python, offline = false, bestEffort = false}: PackagesFlags,
	work: (packages: PackageCache, signal: AbortSignal) => Promise<number>,
): Promise<number> {
	const interrupts = new Interrupts();
	try {
		const packages = await openPackages({dir, shared, offline, bestEffort, ...(python === undefined ? {} : {python})});
		try {
			return await work(packages, interrupts.signal);
		} finally {
			await packages.close();
		}
	} catch (error) {
		if (interrupts.code === undefined) throw error;
		return interrupts.code;
	} finally {
		interrupts.close();
	}
}

/** Measuring goes on until the packages are closed. */
async function unlessAborted(signal: AbortSignal, work: Promise<void>): Promise<void> {
	const aborted = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), {once: true}));
	if (!signal.aborted) await Promise.race([work, aborted]);
	signal.throwIfAborted();
}

/** On a terminal one line that changes; else a line for each thing that begins, once. All on stderr. */
class Progress {
	readonly #spinner: Ora | undefined;
	readonly #stop: () => void;

	constructor(packages: PackageCache, isQuiet: boolean) {
		if (!isQuiet && process.stderr.isTTY) this.#spinner = ora({text: 'looking', stream: process.stderr}).start();
		const said = new Set<string>();
		const onProgress = (...[{phase, name, version}]: PackageCacheEvents['progress']) => {
			const text = name === undefined ? phase : `${phase} ${name} ${version ?? ''}`.trimEnd();
			if (this.#spinner !== undefined) this.#spinner.text = text;
			else if (!isQuiet && !said.has(text)) process.stderr.write(`${text}\n`);
			said.add(text);
		};
		packages.on('progress', onProgress);
		this.#stop = () => {
			packages.off('progress', onProgress);
			this.#spinner?.stop();
		};
	}

	stop(): void {
		this.#stop();
	}
}

/** What JSON would leave out of an error is what it says. */
function replaceErrors(_key: string, value: unknown): unknown {
	return value instanceof ForktreeError ? {code: value.code, message: value.message} : value;
}

function describe(found: PackageDetails): string {
	const rows = [
		['package', `${found.name} ${found.version}`],
		['archive', `${found.archive.file} (sha256 ${found.archive.sha256})`],
		['address', found.archive.url],
		['folder', found.folder],
		['modules', found.modules.join(', ') || 'none'],
		['requires', found.requires.join(', ') || 'nothing'],
		['size', `${(found.sizeBytes / mebibyte).toFixed(1)} MiB in ${found.files.length} files`],
		['native', `${found.nativeLibraries.length} libraries`],
		['importing', describeCost(found)],
		['last used', found.lastUsed.toISOString()],
		...(found.shared === undefined ? [['functions', String(found.users.length)]] : [['shared', found.shared]]),
	];
	return table(rows);
}

function describeCost({cost}: PackageInfo): string {
	if (cost === undefined) return 'not measured';
	const {exclusiveMs, inclusiveMs, privateMiB, runs} = cost;
	return `${exclusiveMs.toFixed(1)} ms by itself, ${inclusiveMs.toFixed(1)} ms with what it requires, ${privateMiB.toFixed(1)} MiB (median of ${runs})`;
}

function table(rows: readonly (readonly string[])[]): string {
	const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? [];
	const line = (row: readonly string[]) =>
		row
			.map((cell, column) => cell.padEnd(widths[column] ?? 0))
			.join('  ')
			.trimEnd();
	return `${rows.map(line).join('\n')}\n`;
}
