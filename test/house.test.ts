/** The rules of the house that no tool checks: who may import whom, and that documents say what the code says. */
import {readdirSync, readFileSync} from 'node:fs';
import {builtinModules} from 'node:module';
import path from 'node:path';
import test from 'ava';
import {errorCodes, outcomeCodes} from '../src/errors.ts';

const root = path.join(import.meta.dirname, '..');

/** Every source file imports only from its own floor and those below. */
const floors: Readonly<Record<string, number>> = {
	'errors.ts': 0,
	'undo.ts': 0,
	'native.ts': 0,
	kernel: 1,
	sandbox: 2,
	packages: 3,
	zygote: 4,
	lambda: 5,
	'index.ts': 6,
	cli: 7,
	worker: 7,
};

function filesBelow(folder: string, extensions: readonly string[]): string[] {
	return readdirSync(path.join(root, folder), {recursive: true, encoding: 'utf8'})
		.filter((file) => extensions.includes(path.extname(file)))
		.map((file) => path.join(folder, file))
		.sort();
}

function read(file: string): string {
	return readFileSync(path.join(root, file), 'utf8');
}

/** The folder or file of src that a path lies in. */
function room(file: string): string {
	return path.relative('src', file).split(path.sep)[0] ?? '';
}

function importsOf(file: string): string[] {
	return [...read(file).matchAll(/(?<!')(?:\bfrom\s*|\bimport\s*\(?\s*|\bimport\.meta\.resolve\()'([^']+)'/g)].map(
		(match) => match[1] ?? '',
	);
}

const sources = filesBelow('src', ['.ts']);
const dependencies = Object.keys((JSON.parse(read('package.json')) as {dependencies: object}).dependencies);

test('every file of src is on a floor', (t) => {
	t.true(sources.length > 20);
	t.deepEqual(
		sources.filter((file) => floors[room(file)] === undefined),
		[],
	);
});

test('nobody imports from a floor above', (t) => {
	const upward = sources.flatMap((file) =>
		importsOf(file)
			.filter((target) => target.startsWith('.'))
			.map((target) => path.join(path.dirname(file), target))
			.filter((target) => (floors[room(target)] ?? Number.POSITIVE_INFINITY) > (floors[room(file)] ?? -1))
			.map((target) => `${file} imports ${target}`),
	);
	t.deepEqual(upward, []);
});

test('the cli and the worker use what a user of the package has; besides, the cli starts the worker', (t) => {
	const others = sources
		.filter((file) => floors[room(file)] === 7)
		.flatMap((file) =>
			importsOf(file)
				.filter((target) => target.startsWith('.'))
				.map((target) => path.join(path.dirname(file), target))
				.filter((target) => room(target) !== room(file) && target !== path.join('src', 'index.ts'))
				.filter((target) => !(room(file) === 'cli' && room(target) === 'worker'))
				.map((target) => `${file} imports ${target}`),
		);
	t.deepEqual(others, []);
});

test('every import is relative with its extension, of Node, or a dependency', (t) => {
	const odd = sources.flatMap((file) =>
		importsOf(file)
			.filter((target) => {
				if (target.startsWith('.')) return !target.endsWith('.ts');
				if (target.startsWith('node:'))
					return !builtinModules.includes(target.slice('node:'.length)) && target !== 'node:sqlite';
				return !dependencies.some((name) => target === name || target.startsWith(`${name}/`));
			})
			.map((target) => `${file} imports ${target}`),
	);
	t.deepEqual(odd, []);
});

test('every dependency is used', (t) => {
	const used = new Set(sources.flatMap(importsOf));
	t.deepEqual(
		dependencies.filter((name) => ![...used].some((target) => target === name || target.startsWith(`${name}/`))),
		[],
	);
});

test('only the addon includes Node’s headers', (t) => {
	const files = filesBelow('native', ['.cc', '.h']).filter((file) =>
		/^\s*#\s*include\s*[<"](napi|node_api|node|uv|v8)\.h/m.test(read(file)),
	);
	t.true(files.length > 0);
	t.deepEqual(
		files.filter((file) => path.dirname(file) !== path.join('native', 'addon')),
		[],
	);
});

test('README lists every error code and every outcome code, with the meaning that the code has', (t) => {
	const rows = [...read('README.md').matchAll(/^\| `([A-Z][A-Za-z]+)` \| (.+?) \|$/gm)].map(
		(match) => [match[1], match[2]] as const,
	);
	t.true(rows.length > 0, 'README.md has no table with rows like | `Code` | meaning |');
	t.deepEqual(Object.fromEntries(rows), {...errorCodes, ...outcomeCodes});
	t.is(rows.length, Object.keys({...errorCodes, ...outcomeCodes}).length);
});

test('host and guest agree on the numbers of frame types', async (t) => {
	const {frameType} = await import('../src/zygote/protocol.ts');
	const guest = read('src/guest/leaf.py') + read('src/guest/web.py');
	const numbers: Record<string, number> = {};
	for (const [, names = '', values = ''] of guest.matchAll(/^([A-Z_]+(?:, [A-Z_]+)*) = (\d+(?:, \d+)*)$/gm)) {
		const list = values.split(', ').map(Number);
		for (const [index, name] of names.split(', ').entries()) numbers[name] = list[index] ?? -1;
	}
	const named = (name: string) => name.replaceAll(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase();
	for (const [name, number] of Object.entries(frameType)) t.is(numbers[named(name)], number, name);
});
