/** README and the code say the same. */
import {existsSync, readdirSync, readFileSync} from 'node:fs';
import path from 'node:path';
import {fileURLToPath} from 'node:url';
import test from 'ava';
import {defaultLimits} from '../src/sandbox/limits.ts';

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');
const readme = readFileSync(path.join(root, 'README.md'), 'utf8');

test('the limits and their defaults', (t) => {
	const [, line = ''] = /^- Limits, with their defaults: ((?:.|\n {2})*)$/m.exec(readme) ?? [];
	const limits = [...line.matchAll(/`(\w+)` (\d+)/g)].map(([, name, value]) => [name, Number(value)]);
	t.deepEqual(Object.fromEntries(limits), {...defaultLimits});
});

test('the folders', (t) => {
	const [, layout = ''] = readme.split('\n## Layout\n');
	const named = [...layout.matchAll(/`((?:src|native)\/\w+)`/g)].map(([, folder = '']) => folder);
	const folders = readdirSync(path.join(root, 'src'), {withFileTypes: true}).flatMap((entry) =>
		entry.isDirectory() ? [`src/${entry.name}`] : [],
	);
	for (const folder of folders) t.true(named.includes(folder), folder);
	for (const folder of named) t.true(existsSync(path.join(root, folder)), folder);
});

test('the links to files', (t) => {
	for (const [, target = ''] of readme.matchAll(/\]\((?!https?:|#)([^)#]+)\)/g))
		t.true(existsSync(path.join(root, target)), target);
});
