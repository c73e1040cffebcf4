/** A fresh interpreter in bubblewrap that imports and calls a handler: a fresh sandbox as one has it without zygotes. */
import path from 'node:path';
import {execa} from 'execa';
import type {Interpreter} from '../src/sandbox/interpreter.ts';
import type {FloorOptions} from './floors.ts';
import {bwrapRoot, findProgram} from './rivals.ts';

/** The handler's file, and what it is run with. */
export type BwrapPythonOptions = Pick<FloorOptions, 'folders'> & {
	readonly interpreter: Interpreter;
	readonly script: string;
};

/** Undefined when bubblewrap is not installed; `runMs` is from the start of bwrap until its end. */
export async function openBwrapPython(options: BwrapPythonOptions): Promise<{runMs(): Promise<number>} | undefined> {
	const {interpreter, folders, script} = options;
	const bwrap = await findProgram('bwrap');
	if (bwrap === undefined) return undefined;
	const outside = interpreter.directories.filter((folder) => !folder.startsWith('/usr/'));
	const binds = [...outside, ...folders, path.dirname(script)].flatMap((folder) => ['--ro-bind', folder, folder]);
	const variables = {
		PYTHONPATH: [...folders, path.dirname(script)].join(':'),
		PYTHONDONTWRITEBYTECODE: '1',
		OPENBLAS_NUM_THREADS: '1',
	};
	const set = Object.entries(variables).flatMap(([name, value]) => ['--setenv', name, value]);
	const program = `import ${path.basename(script, '.py')} as handler; handler.f(None)`;
	const args = [...bwrapRoot(), ...binds, ...set, interpreter.executable, '-S', '-c', program];
	return {
		async runMs() {
			const started = performance.now();
			await execa(bwrap, args);
			return performance.now() - started;
		},
	};
}
