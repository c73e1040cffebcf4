import test from 'ava';
import {importPath} from '../../src/lambda/import-path.ts';
import type {EditablePackage} from '../../src/packages/editable.ts';

const editable = (importRoot: string): EditablePackage => {
	return {name: 'a', folder: importRoot, importRoot, place: {file: undefined, line: undefined}};
};

for (const [title, files, roots, path] of [
	['nothing', ['f.py'], [], []],
	['both', ['packages/b.py', 'vendor/a.py'], [], ['vendor', 'packages']],
	['one that has folders only', ['vendor/a/__init__.py'], [], ['vendor']],
	['a package is imported as one', ['vendor/__init__.py', 'vendor/a.py', 'packages/b.py'], [], ['packages']],
	['a file is no folder', ['vendor', 'packages.py', 'vendored/a.py'], [], []],
	['further down they are nothing', ['lib/vendor/a.py'], [], []],
	['editable packages come after', ['vendor/a.py'], ['libs/b', 'libs/a/src'], ['vendor', 'libs/b', 'libs/a/src']],
	['each once', ['vendor/a.py'], ['libs/a', 'vendor', 'libs/a'], ['vendor', 'libs/a']],
	['the folder itself is there anyway', ['f.py'], [''], []],
] as const) {
	test(title, (t) => {
		t.deepEqual(importPath(files, roots.map(editable)), [...path]);
	});
}
