/** `npm run bench -- NAME [--json] [--short] [--plot FILE]`: runs one bench and prints its tables, or one JSON document. */
import path from 'node:path';
import process from 'node:process';
import {fileURLToPath} from 'node:url';
import {parseArgs} from 'node:util';
import {setGracefulCleanup} from 'tmp-promise';
import {benchFit} from './fit.ts';
import {benchInstall} from './install.ts';
import {type BenchResult, describeHost, markTable, rowTable, summaryTable} from './report.ts';
import {benchReqBench} from './reqbench.ts';
import {benchSandbox} from './sandbox.ts';
import {benchStarts} from './starts.ts';
import {benchWorker} from './worker.ts';
import {benchZygote} from './zygote.ts';

// Who interrupts a bench does not want its temporary folders. What a pool leaves, the next run removes.
setGracefulCleanup();
for (const [signal, code] of [
	['SIGINT', 130],
	['SIGTERM', 143],
] as const) {
	process.once(signal, () => process.exit(code));
}

type Bench = (stateDir: string, isShort: boolean, plotFile?: string) => Promise<BenchResult>;
const benches: Readonly<Record<string, Bench>> = {
	fit: async (_stateDir, isShort) => ({bench: 'fit', host: describeHost('none', {}), ...benchFit(isShort)}),
	install: benchInstall,
	reqbench: benchReqBench,
	sandbox: benchSandbox,
	starts: benchStarts,
	worker: benchWorker,
	zygote: benchZygote,
};
/** Those that draw pictures. */
const plotting: readonly Bench[] = [benchReqBench];
const stateDir = path.join(path.dirname(fileURLToPath(import.meta.url)), '..', '.state', 'bench');

function usage(): never {
	process.stderr.write(`usage: npm run bench -- ${Object.keys(benches).join('|')} [--json] [--short] [--plot FILE]\n`);
	process.exit(2);
}

function readArguments() {
	try {
		return parseArgs({
			allowPositionals: true,
			options: {json: {type: 'boolean'}, short: {type: 'boolean'}, plot: {type: 'string'}},
		});
	} catch {
		return usage();
	}
}

const {
	positionals: [name = '', ...more],
	values: {json, short, plot},
} = readArguments();
const bench = Object.hasOwn(benches, name) ? benches[name] : undefined;
if (bench === undefined || more.length > 0 || (plot !== undefined && !plotting.includes(bench))) usage();
const result = await bench(stateDir, short === true, plot);
if (json === true) {
	process.stdout.write(`${JSON.stringify(result)}\n`);
} else {
	const host = Object.entries(result.host)
		.map(([key, value]) => `${key} ${value}`)
		.join(', ');
	process.stdout.write(`${host}\n\n${markTable(result.marks)}\n\n${summaryTable(result.samples)}\n`);
	if (result.rows !== undefined) process.stdout.write(`\n${rowTable(result.rows)}\n`);
	if (result.notes !== undefined) process.stdout.write(`\n${result.notes.map((note) => `- ${note}`).join('\n')}\n`);
}
