/** `npm run bench -- NAME [--json] [--short]`: runs one bench and prints its tables, or one JSON document. */
import path from 'node:path';
import process from 'node:process';
import {fileURLToPath} from 'node:url';
import {setGracefulCleanup} from 'tmp-promise';
import {benchFit} from './fit.ts';
import {benchInstall} from './install.ts';
import {type BenchResult, describeHost, markTable, summaryTable} from './report.ts';
import {benchSandbox} from './sandbox.ts';
import {benchStarts} from './starts.ts';
import {benchZygote} from './zygote.ts';

// Who interrupts a bench does not want its temporary folders. What a pool leaves, the next run removes.
setGracefulCleanup();
for (const [signal, code] of [
	['SIGINT', 130],
	['SIGTERM', 143],
] as const) {
	process.once(signal, () => process.exit(code));
}

const benches = {
	fit: (_stateDir: string, isShort: boolean) => ({bench: 'fit', host: describeHost('none', {}), ...benchFit(isShort)}),
	install: benchInstall,
	sandbox: benchSandbox,
	starts: benchStarts,
	zygote: benchZygote,
};
const stateDir = path.join(path.dirname(fileURLToPath(import.meta.url)), '..', '.state', 'bench');

const [name, ...flags] = process.argv.slice(2);
const unknown = flags.filter((flag) => !['--json', '--short'].includes(flag));
if (name === undefined || !Object.hasOwn(benches, name) || unknown.length > 0) {
	process.stderr.write(`usage: npm run bench -- ${Object.keys(benches).join('|')} [--json] [--short]\n`);
	process.exit(2);
}
const result: BenchResult = await benches[name as keyof typeof benches](stateDir, flags.includes('--short'));
if (flags.includes('--json')) {
	process.stdout.write(`${JSON.stringify(result)}\n`);
} else {
	const host = Object.entries(result.host)
		.map(([key, value]) => `${key} ${value}`)
		.join(', ');
	process.stdout.write(`${host}\n\n${markTable(result.marks)}\n\n${summaryTable(result.samples)}\n`);
	if (result.notes !== undefined) process.stdout.write(`\n${result.notes.map((note) => `- ${note}`).join('\n')}\n`);
}
