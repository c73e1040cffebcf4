/** Tests of what swap does: they run where the machine has some and the kernel accounts for it, and else say why not. */
import {existsSync, readFileSync} from 'node:fs';
import path from 'node:path';
import test from 'ava';
import {findHostCgroups} from '../../src/kernel/cgroup-host.ts';
import {refusal, serialKernelTest} from './kernel-test.ts';

function whyNot(): string | undefined {
	if (refusal !== undefined) return undefined;
	if (readFileSync('/proc/swaps', 'latin1').trim().split('\n').length < 2) return 'the machine has no swap';
	const memory = findHostCgroups().hierarchies.find(({controllers}) => controllers.includes('memory'));
	if (memory === undefined) return 'there is no group that limits memory';
	const {version, directory} = memory;
	const accounts = version === 2 || existsSync(path.join(directory, 'memory.memsw.limit_in_bytes'));
	return accounts ? undefined : 'the kernel does not account for swap';
}

const reason = whyNot();

/** A test that runs alone in its file, where there is swap. */
export const swapTest: typeof serialKernelTest =
	reason === undefined
		? serialKernelTest
		: (title, run) => {
				test.skip(`${title} [skipped: ${reason}]`, run);
			};
