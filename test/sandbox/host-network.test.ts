import {readlinkSync} from 'node:fs';
import {createSandboxPool} from '../../src/index.ts';
import {kernelTest} from '../helpers/kernel-test.ts';

kernelTest("network: 'host' is the machine's network, also of the second sandbox and those after it", async (t) => {
	const pool = await createSandboxPool();
	t.teardown(() => pool.close());
	const seen: string[] = [];
	for (let i = 0; i < 3; i += 1) {
		const sandbox = await pool.create({network: 'host'});
		seen.push((await sandbox.exec(['readlink', '/proc/self/ns/net'])).stdout.trim());
		await sandbox.destroy();
	}
	t.deepEqual([...new Set(seen)], [readlinkSync('/proc/self/ns/net')]);
});
