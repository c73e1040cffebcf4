import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {existsSync} from 'node:fs';
import {rm} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import {forceCleanup} from '../../src/sandbox/state-dir.ts';
import {isAlive} from '../helpers/host-process.ts';
import {kernelTest} from '../helpers/kernel-test.ts';
import {cgroupsOf, processesIn} from '../helpers/leak-check.ts';
import {until} from '../helpers/pool.ts';
import {temporaryFolder} from '../helpers/runtime.ts';

const owner = path.join(import.meta.dirname, 'fixtures', 'paused-owner.ts');

kernelTest('of a killed owner’s sandboxes, paused ones included, nothing is left by the next start', async (t) => {
	const stateDir = await temporaryFolder();
	t.teardown(() => rm(stateDir, {recursive: true, force: true}));
	const host = spawn(process.execPath, ['--import=tsx', owner, stateDir], {stdio: ['ignore', 'pipe', 'inherit']});
	t.teardown(() => host.kill('SIGKILL'));
	await once(host.stdout, 'data');
	const groups = cgroupsOf(stateDir);
	const pids = processesIn(groups);
	t.true(pids.length > 3);
	host.kill('SIGKILL');
	await once(host, 'exit');
	await forceCleanup({stateDir});
	await until(() => !pids.some(isAlive), 'the end of every process');
	for (const group of groups) t.false(existsSync(group), group);
});
