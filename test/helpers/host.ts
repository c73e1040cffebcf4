/**
 * Hosts a runtime whose handler spins, beside a paused instance, as a process that tests kill: node --import=tsx host.ts STATE_DIR PYTHON.
 * Writes the pids of all its sandboxes and zygotes, as JSON, once the handler runs.
 */
import process from 'node:process';
import {createRuntime} from '../../src/index.ts';
import {cgroupsOf, processesIn} from './leak-check.ts';

const [, , stateDir = '', python = ''] = process.argv;
const runtime = await createRuntime({stateDir, python, instancePauseMs: 1});
const code = `
import os, signal
def f(event):
	for number in range(1, 65):
		try:
			signal.signal(number, signal.SIG_IGN)
		except (OSError, ValueError):
			pass
	for _ in range(2):
		os.fork()
	print('spinning', flush=True)
	while True:
		pass
`;
await runtime.deploy('spin', {'f.py': code}, {limits: {timeoutMs: 60_000}});
await runtime.deploy('idle', {'f.py': 'def f(event):\n\treturn event\n'});
await runtime.invoke('idle', null);
while ((await runtime.stats()).functions.every(({paused}) => paused === 0)) await new Promise(setImmediate);
let printed = 0;
await runtime.invoke('spin', null, {
	onStdout(text) {
		printed += text.split('\n').length - 1;
		if (printed === 4) process.stdout.write(`${JSON.stringify(processesIn(cgroupsOf(stateDir)))}\n`);
	},
});
