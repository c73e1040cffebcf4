/** A process that owns a pool with busy sandboxes, to be killed: `owner.ts STATE_DIR SANDBOXES`. */
import process from 'node:process';
import {createSandboxPool} from '../../src/index.ts';

const [stateDir = '', count = ''] = process.argv.slice(2);
/** What runs in them, in turn. */
const programs = [
	'trap "" TERM INT HUP; while :; do :; done',
	'while :; do sleep 0.01; done',
	'setsid sh -c "while :; do sleep 1; done" & while :; do head -c 100000 /dev/zero > /tmp/file; done',
	'while :; do echo line; done',
];

const pool = await createSandboxPool({stateDir, defaults: {limits: {memoryMb: 32, processes: 16, timeoutMs: 600_000}}});
process.stdout.write('open\n');
for (let i = 0; ; i += 1) {
	const sandbox = await pool.create();
	void sandbox.exec(['sh', '-c', programs[i % programs.length] ?? '']).catch(() => undefined);
	if (i >= Number(count)) {
		const [oldest] = pool.list().values();
		await oldest?.destroy('another takes its place');
	}
	if (i === Number(count)) process.stdout.write('busy\n');
}
