/** The documents' examples run, and print what they say; their tables are what the code has. */
import {spawn} from 'node:child_process';
import {existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync} from 'node:fs';
import {rm, writeFile} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import test from 'ava';
import {defaultSandboxLimits} from '../src/sandbox/sandbox-options.ts';
import {serialKernelTest as kernelTest} from './helpers/kernel-test.ts';
import {temporaryFolder} from './helpers/runtime.ts';

const root = path.join(import.meta.dirname, '..');
const folder = path.join(root, 'docs');
const exampleDeadlineMs = 20_000;

type Example = {
	readonly title: string;
	readonly code: string;
	/** What it says that it prints; undefined: nothing is said. */
	readonly prints: string | undefined;
};

/** The ```js blocks of a document, each with the ```text block that follows it. */
function examplesOf(document: string): Example[] {
	const text = readFileSync(path.join(folder, document), 'utf8');
	const blocks = text.matchAll(/^```js\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?/gms);
	return [...blocks].map((block) => {
		const [, code = '', output] = block;
		const before = text.slice(0, block.index);
		const heading = before.slice(before.lastIndexOf('\n#')).trim().split('\n')[0] ?? '';
		const line = before.split('\n').length;
		const words = [...code.matchAll(/\/\/ prints: (.*)$/gm)].map(([, said]) => `${said}\n`);
		return {
			title: `${document}:${line} ${heading.replaceAll('#', '').trim()}`,
			code,
			prints: output ?? (words.length === 0 ? undefined : words.join('')),
		};
	});
}

type Ran = {readonly code: number | null; readonly stdout: string; readonly stderr: string};

/** Runs an example as a user of the package would, in an empty folder. */
async function run(code: string): Promise<Ran> {
	const place = await temporaryFolder();
	try {
		mkdirSync(path.join(place, 'node_modules'));
		symlinkSync(root, path.join(place, 'node_modules', 'forktree'));
		const file = path.join(place, 'example.mjs');
		await writeFile(file, code);
		const child = spawn(process.execPath, [file], {
			cwd: place,
			stdio: ['ignore', 'pipe', 'pipe'],
			timeout: exampleDeadlineMs,
			killSignal: 'SIGKILL',
		});
		let [stdout, stderr] = ['', ''];
		child.stdout.setEncoding('utf8').on('data', (text: string) => {
			stdout += text;
		});
		child.stderr.setEncoding('utf8').on('data', (text: string) => {
			stderr += text;
		});
		const exit = await new Promise<number | null>((resolve) => child.once('close', resolve));
		return {code: exit, stdout, stderr};
	} finally {
		await rm(place, {recursive: true, force: true});
	}
}

const documents = readdirSync(folder).filter((name) => name.endsWith('.md'));

test('the package is built: examples use it as users do', (t) => {
	t.true(existsSync(path.join(root, 'dist', 'index.js')), 'run npm run build first');
});

const examples = documents.flatMap(examplesOf);

test('examples are short', (t) => {
	t.true(examples.length > 20);
	for (const {title, code} of examples) t.true(code.trimEnd().split('\n').length <= 15, title);
});

for (const {title, code, prints} of examples) {
	kernelTest(title, async (t) => {
		const ran = await run(code);
		t.is(ran.stderr, '');
		if (prints !== undefined) t.is(ran.stdout, prints);
		t.is(ran.code, 0);
	});
}

test('sandbox.md has every limit with its default', (t) => {
	const text = readFileSync(path.join(folder, 'sandbox.md'), 'utf8');
	const [, limits = ''] = text.split('\n### limits\n');
	const rows = [...limits.matchAll(/^\| `(\w+)` \| (\w+) \|/gm)].map(([, name, value]) => [name, Number(value)]);
	t.deepEqual(Object.fromEntries(rows), {...defaultSandboxLimits});
});

test('sandbox.md has an example of every word of a run', (t) => {
	const text = readFileSync(path.join(folder, 'sandbox.md'), 'utf8');
	const source = readFileSync(path.join(root, 'src/sandbox/run.ts'), 'utf8');
	const [, codes = ''] = /type ExecErrorCode =([^;]*);/.exec(source) ?? [];
	const words = [...codes.matchAll(/'(\w+)'/g)].map(([, word]) => word);
	t.true(words.length > 5);
	for (const word of words) t.true(text.includes(`\n### ${word}\n`), word);
});
