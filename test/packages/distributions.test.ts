import {mkdir, symlink, writeFile} from 'node:fs/promises';
import {dirname, join} from 'node:path';
import test from 'ava';
import {dir as temporaryDirectory} from 'tmp-promise';
import {listDistributions, modulesOfRecord} from '../../src/packages/distributions.ts';

const entries = new Set([
	'a',
	'b',
	'c.py',
	'd.so',
	'e.abi3.so',
	'f.cpython-311-x86_64-linux-gnu.so',
	'g,h',
	'_i.py',
	'j-k.py',
	'tests',
	'bin',
	'l.pth',
	'..',
	'ü.py',
]);

const records: ReadonlyArray<readonly [record: string, modules: readonly string[]]> = [
	['', []],
	['a/__init__.py,sha256=x,1\r\na/__init__.py,,\r\nb/x.py,,\nc.py,,', ['a', 'c']],
	['d.so,,\ne.abi3.so,,\nf.cpython-311-x86_64-linux-gnu.so,,\n', ['d', 'e', 'f']],
	['_i.py,,\nj-k.py,,\ntests/__init__.py,,\nbin/__init__.py,,\nl.pth,,\n', []],
	['ü.py,,', ['ü']],
	['missing.py,,\nmissing/__init__.py,,\n', []],
	['../c.py,,\n/c.py,,\n./c.py,,\n../__init__.py,,\na/b/__init__.py,,\na/../c.py,,\n', []],
	['"c.py",,\n"a/__init__.py","x,y",1\n', ['a', 'c']],
	['"g,h",,\n"x""y",,\n"line\nc.py",,\na/__init__.py,,\n', ['a']],
	['c.py,,\n"never closed\na/__init__.py,,\n', ['c']],
	[`"${'x'.repeat(4_000_000)}",,\nc.py,,\n`, ['c']],
];

for (const [record, modules] of records) {
	test(`reads the modules of ${JSON.stringify(record.slice(0, 70))}`, (t) => {
		t.deepEqual(modulesOfRecord(record, entries), modules);
	});
}

test('lists distributions, with top_level.txt for want of RECORD, and never follows links', async (t) => {
	const {path} = await temporaryDirectory({unsafeCleanup: true});
	const put = async (file: string, text: string): Promise<void> => {
		await mkdir(dirname(join(path, file)), {recursive: true});
		await writeFile(join(path, file), text);
	};
	await put('one/__init__.py', '');
	await put('two.py', '');
	await put('Some_Thing-1.0+x.dist-info/top_level.txt', 'one\ntwo\nthree\n../one\n');
	await put('linked-2.dist-info/METADATA', '');
	await put('record', 'two.py,,\n');
	await symlink('../record', join(path, 'linked-2.dist-info', 'RECORD'));
	await put('setuptools-70.dist-info/RECORD', 'two.py,,\n');
	await put('nonsense.dist-info/RECORD', 'two.py,,\n');
	t.deepEqual(await listDistributions(path), [
		{name: 'some-thing', version: '1.0+x', modules: ['one', 'two']},
		{name: 'linked', version: '2', modules: []},
		{name: 'setuptools', version: '70', modules: []},
	]);
});
