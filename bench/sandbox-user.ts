/** What a start takes in a user namespace of our own, as ordinary users' sandboxes are made, against one with root's rights. */
import type {SandboxOptions} from 'forktree';
import {resolvePoolOptions} from '../src/sandbox/sandbox-options.ts';
import {SandboxPool} from '../src/sandbox/sandbox-pool.ts';
import {alternate, paces} from './alternate.ts';
import {mark, type Part, Results} from './report.ts';

/** Without spares: what is compared is the making. */
const poolOptions = {spares: 0};

async function runMs(pool: SandboxPool, program: string, options: SandboxOptions): Promise<number> {
	const started = performance.now();
	const {exitCode} = await pool.run([program], {sandbox: options});
	const ms = performance.now() - started;
	if (exitCode === undefined) throw new Error('expected a program that ends');
	return ms;
}

/** @param options of every sandbox, in which the program is */
export async function measureUser(
	program: string,
	options: SandboxOptions,
	runs: {readonly warmUps: number; readonly runs: number; readonly gapRuns: number},
): Promise<Part> {
	const results = new Results();
	const root = await SandboxPool.open(resolvePoolOptions(poolOptions), {kind: 'root'});
	const user = await SandboxPool.open(resolvePoolOptions(poolOptions), {kind: 'own'});
	try {
		const contestants = [async () => runMs(user, program, options), async () => runMs(root, program, options)] as const;
		await alternate(runs.warmUps, 0, ...contestants);
		for (const {name, gapMs} of paces) {
			const [mine, theirs] = await alternate(gapMs > 0 ? runs.gapRuns : runs.runs, gapMs, ...contestants);
			const a = results.series(`create and run as an ordinary user, no spare/${name}`, mine);
			const b = results.series(`create and run as root, no spare/${name}`, theirs);
			results.marks.push(mark(`start as an ordinary user / as root/${name}`, a / b, '<=', 1.3, '×'));
		}
	} finally {
		await Promise.all([root.close(), user.close()]);
	}
	return results;
}
