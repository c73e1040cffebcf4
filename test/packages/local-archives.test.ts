import test from 'ava';
import fc from 'fast-check';
import {ForktreeError} from '../../src/errors.ts';
import {parseRequirements} from '../../src/packages/requirements.ts';
import {readStated} from '../../src/packages/stated.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';
import {filesOf} from './files-of.ts';

const archives = {
	'wheels/my_lib-1.0-py3-none-any.whl': 'wheel',
	'wheels/native-2.0-cp311-cp311-win_amd64.whl': 'native',
	'wheels/readme.txt': '',
	'wheels/deeper/a-1.0-py3-none-any.whl': 'a',
	'sdists/my-other.thing-3.0.tar.gz': 'sdist',
	'copy/my_lib-1.0-py3-none-any.whl': 'another content',
	'same/my_lib-1.0-py3-none-any.whl': 'wheel',
};

async function read(lines: string, more: Readonly<Record<string, string>> = {}) {
	const files = filesOf({...archives, ...more, 'requirements.txt': lines});
	return (await readStated(files, {entryFile: 'f.py', interpreter: {version: '3.11.2'}})).requirements;
}

for (const [lines, text, paths] of [
	['./wheels/my_lib-1.0-py3-none-any.whl', 'my-lib==1.0\n', ['wheels/my_lib-1.0-py3-none-any.whl']],
	['wheels/my_lib-1.0-py3-none-any.whl', 'my-lib==1.0\n', ['wheels/my_lib-1.0-py3-none-any.whl']],
	['file:wheels/my_lib-1.0-py3-none-any.whl', 'my-lib==1.0\n', ['wheels/my_lib-1.0-py3-none-any.whl']],
	[
		'./wheels/../wheels//my_lib-1.0-py3-none-any.whl[a,B] ; os_name == "posix"',
		'my-lib[a,b]==1.0 ; os_name == "posix"\n',
		['wheels/my_lib-1.0-py3-none-any.whl'],
	],
	['My.Lib @ file:./wheels/my_lib-1.0-py3-none-any.whl', 'my-lib==1.0\n', ['wheels/my_lib-1.0-py3-none-any.whl']],
	['my_lib[a] @ wheels/my_lib-1.0-py3-none-any.whl', 'my-lib[a]==1.0\n', ['wheels/my_lib-1.0-py3-none-any.whl']],
	['./sdists/my-other.thing-3.0.tar.gz', 'my-other-thing==3.0\n', ['sdists/my-other.thing-3.0.tar.gz']],
	['./wheels/native-2.0-cp311-cp311-win_amd64.whl ; os_name == "nt"', '', []],
	[
		'./wheels/my_lib-1.0-py3-none-any.whl\n./same/my_lib-1.0-py3-none-any.whl',
		'my-lib==1.0\n',
		['wheels/my_lib-1.0-py3-none-any.whl'],
	],
	[
		'--find-links ./wheels\na',
		'a\n',
		['wheels/my_lib-1.0-py3-none-any.whl', 'wheels/native-2.0-cp311-cp311-win_amd64.whl'],
	],
	['-r more/list.txt', 'my-lib==1.0\n', ['wheels/my_lib-1.0-py3-none-any.whl']],
] as const) {
	test(`read: ${lines}`, async (t) => {
		const found = await read(lines, {'more/list.txt': './wheels/my_lib-1.0-py3-none-any.whl'});
		t.is(found.text, text);
		t.deepEqual(
			found.local.map(({path}) => path),
			[...paths],
		);
	});
}

test('what is required differs from what may be looked at, and content from content', async (t) => {
	const digests = await Promise.all([
		read('--find-links ./copy\nmy-lib==1.0'),
		read('--find-links ./wheels\nmy-lib==1.0'),
		read('./copy/my_lib-1.0-py3-none-any.whl'),
		read('./wheels/my_lib-1.0-py3-none-any.whl'),
	]);
	t.is(new Set(digests.map(({digest}) => digest)).size, 4);
});

for (const [title, lines, code, message] of [
	[
		'outside',
		'./../a-1.0-py3-none-any.whl',
		'InvalidRequirements',
		/^requirements\.txt, line 1: expected a path inside the folder/,
	],
	[
		'outside, by name',
		'a @ file:../a-1.0-py3-none-any.whl',
		'InvalidRequirements',
		/expected a path inside the folder/,
	],
	[
		'not there',
		'six\n./wheels/six-1.0-py3-none-any.whl',
		'InvalidRequirements',
		/line 2: expected an archive in the folder/,
	],
	['no archive', './wheels/readme.txt', 'InvalidRequirements', /expected an archive in the folder/],
	[
		'a project',
		'./wheels',
		'InvalidRequirements',
		/expected an archive in the folder of the function, or -e before a folder of sources; found "\.\/wheels"$/,
	],
	[
		'of another name',
		'six @ file:wheels/my_lib-1.0-py3-none-any.whl',
		'InvalidRequirements',
		/expected an archive of six/,
	],
	[
		'of others',
		'./wheels/native-2.0-cp311-cp311-win_amd64.whl',
		'InterpreterMismatch',
		/^requirements\.txt, line 1: wheels\/native-2\.0.* is for others; this is CPython 3\.11\.2 on linux/,
	],
	['absolute', '/wheels/my_lib-1.0-py3-none-any.whl', 'InvalidRequirements', /URLs and paths are not allowed/],
	['an absolute address', 'my_lib @ file:///wheels/my_lib-1.0-py3-none-any.whl', 'InvalidRequirements', /not allowed/],
	['an address', 'my_lib @ https://h/my_lib-1.0-py3-none-any.whl', 'InvalidRequirements', /not allowed/],
	[
		'an editable archive',
		'-e ./wheels/my_lib-1.0-py3-none-any.whl',
		'InvalidRequirements',
		/expected a folder of the function; found "\.\/wheels\/my_lib/,
	],
	[
		'another hash',
		`./wheels/my_lib-1.0-py3-none-any.whl --hash=sha256:${'0'.repeat(64)}`,
		'InvalidRequirements',
		/expected --hash=sha256:[0-9a-f]{64}; found "sha256:000/,
	],
	[
		'two contents of one name',
		'./wheels/my_lib-1.0-py3-none-any.whl\n./copy/my_lib-1.0-py3-none-any.whl',
		'InvalidRequirements',
		/expected the same content as that of wheels\/my_lib/,
	],
	[
		'a folder without wheels',
		'--find-links ./sdists',
		'InvalidRequirements',
		/expected a folder of the function with wheels in it/,
	],
	['a folder outside', '--find-links ../wheels', 'InvalidRequirements', /expected a path inside the folder/],
] as const) {
	test(`refused: ${title}`, async (t) => {
		const error = await t.throwsAsync(read(lines), {code});
		t.regex(error?.message ?? '', message);
	});
}

test('lines without a folder can name no archive', (t) => {
	t.throws(() => parseRequirements('./wheels/my_lib-1.0-py3-none-any.whl'), {code: 'InvalidRequirements'});
	t.throws(() => parseRequirements('--find-links ./wheels'), {message: /expected no folder/});
});

test('property: any lines are an answer within the folder or a typed error', async (t) => {
	const piece = fc.oneof(
		fc.constantFrom(
			...Object.keys(archives),
			'./',
			'../',
			'file:',
			'//',
			' @ ',
			'[a]',
			' ; os_name == "nt"',
			'\n',
			'-f ',
			'-e ',
			'%2e%2e/',
			'.whl',
			'-1.0',
		),
		fc.string({unit: 'binary', maxLength: 3}),
	);
	await fc.assert(
		fc.asyncProperty(fc.array(piece, {maxLength: 8}), async (pieces) => {
			try {
				const {local} = await read(pieces.join(''));
				for (const {path} of local) t.true(Object.hasOwn(archives, path), path);
			} catch (error) {
				if (!(error instanceof ForktreeError && /^(?:InvalidReq|InterpreterM)/.test(error.code))) throw error;
			}
		}),
		{numRuns: 1000, ...fuzzParameters(1)},
	);
	t.pass();
});
