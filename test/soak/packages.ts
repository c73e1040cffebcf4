/** Installs packages of real projects, each with what it requires, and imports every module of them in a sandbox of its own. */
import {readFileSync} from 'node:fs';
import {mkdtemp, rm} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import path from 'node:path';
import process from 'node:process';
import {createRuntime, type Runtime} from '../../src/index.ts';

type Case = {readonly requirements: readonly string[]; readonly modules: readonly string[]};

/** With the first so many. */
export async function packages(times: number): Promise<void> {
	const text = readFileSync(path.join(import.meta.dirname, 'fixtures', 'reqbench311.json'), 'utf8');
	const cases = (JSON.parse(text) as Case[]).slice(0, times);
	const stateDir = await mkdtemp(path.join(tmpdir(), 'forktree-test-soak-'));
	const runtime = await createRuntime({stateDir});
	const failures: string[] = [];
	try {
		for (const [index, each] of cases.entries()) {
			const failure = await tryOne(runtime, each);
			if (failure !== undefined) failures.push(`${each.requirements.join(' ')}: ${failure}`);
			if (index % 10 === 9) process.stderr.write(`${index + 1} of ${cases.length}\n`);
		}
		const {damaged, foreign} = await runtime.packages.verify();
		if (damaged.length + foreign.length > 0) failures.push(`verify: ${JSON.stringify({damaged, foreign})}`);
	} finally {
		await runtime.close();
		await rm(stateDir, {recursive: true, force: true, maxRetries: 3});
	}
	if (failures.length > 0) throw new Error(`${failures.length} of ${cases.length}:\n${failures.join('\n')}`);
}

async function tryOne(runtime: Runtime, {requirements, modules}: Case): Promise<string | undefined> {
	const code = `import importlib\ndef f(event):\n\treturn [importlib.import_module(name).__name__ for name in event]\n`;
	try {
		await runtime.deploy('one', {'f.py': code}, {requirements, zygote: false, limits: {memoryMb: 1024}});
		const outcome = await runtime.invoke('one', [...modules], {timeoutMs: 120_000});
		return outcome.ok ? undefined : `${outcome.error.code}: ${outcome.error.message}`;
	} catch (error) {
		return error instanceof Error ? error.message : String(error);
	}
}
