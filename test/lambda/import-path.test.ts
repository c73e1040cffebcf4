import test from 'ava';
import {importPath} from '../../src/lambda/import-path.ts';

for (const [title, files, path] of [
	['nothing', ['f.py'], []],
	['both', ['packages/b.py', 'vendor/a.py'], ['vendor', 'packages']],
	['one that has folders only', ['vendor/a/__init__.py'], ['vendor']],
	['a package is imported as one', ['vendor/__init__.py', 'vendor/a.py', 'packages/b.py'], ['packages']],
	['a file is no folder', ['vendor', 'packages.py', 'vendored/a.py'], []],
	['further down they are nothing', ['lib/vendor/a.py'], []],
] as const) {
	test(title, (t) => {
		t.deepEqual(importPath(files), [...path]);
	});
}
