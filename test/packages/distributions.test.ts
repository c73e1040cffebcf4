import test from 'ava';
import {modulesOfFiles} from '../../src/packages/distributions.ts';

const cases: ReadonlyArray<readonly [paths: readonly string[], modules: readonly string[]]> = [
	[[], []],
	[
		['b/x.py', 'c.py', 'a/__init__.py', 'a/__init__.py'],
		['a', 'c'],
	],
	[
		['d.so', 'e.abi3.so', 'f.cpython-311-x86_64-linux-gnu.so'],
		['d', 'e', 'f'],
	],
	[['_i.py', 'j-k.py', 'tests/__init__.py', 'bin/__init__.py', 'l.pth', 'g,h', 'x.txt'], []],
	[['ü.py'], ['ü']],
	[['../c.py', '/c.py', './c.py', '../__init__.py', 'a/../c.py', 'a/../__init__.py', '/__init__.py'], []],
	[
		[
			'a/b/__init__.py',
			'a/b/c/__init__.py',
			'a/d/e.py',
			'a/_f/__init__.py',
			'a/tests/g/__init__.py',
			'h/i/j/__init__.py',
		],
		['a.b', 'h.i.j'],
	],
	[['a/b/__init__.py', 'c.py'], ['c']],
	[['a/b/c/d/e/__init__.py'], []],
	[
		Array.from({length: 20}, (_, index) => `a/b${index + 10}/__init__.py`),
		Array.from({length: 16}, (_, index) => `a.b${index + 10}`),
	],
];

for (const [paths, modules] of cases) {
	test(`the modules of ${JSON.stringify(paths)}`, (t) => {
		t.deepEqual(modulesOfFiles('any', paths), modules);
	});
}

test('tools have none that anybody wants preloaded', (t) => {
	t.deepEqual(modulesOfFiles('setuptools', ['setuptools/__init__.py']), []);
});
