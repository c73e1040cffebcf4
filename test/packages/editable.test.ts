/** Packages that are used as they lie in the function's folder: which folders a requirements file and locks may name, and what they require. */
import test from 'ava';
import fc from 'fast-check';
import {ForktreeError} from '../../src/errors.ts';
import {checkApart} from '../../src/packages/editable.ts';
import {readStated} from '../../src/packages/stated.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';
import {filesOf} from './files-of.ts';

type Texts = Readonly<Record<string, string>>;

const interpreter = {version: '3.11.2'};
const readAll = (texts: Texts) => readStated(filesOf(texts), {entryFile: 'f.py', interpreter});
const project = (name: string, more = '') => `[project]\nname = "${name}"\nversion = "1.0"\n${more}`;

const optional = '[project.optional-dependencies]\nX_y = ["six"]\nall = ["a[x-y,self]"]\nself = ["a[all]", "attrs"]\n';
const libs = {
	'libs/a/pyproject.toml': project('A', `dependencies = ["idna>=3 ; os_name == 'posix'", "b"]\n${optional}`),
	'libs/a/src/a/__init__.py': '',
	'libs/b/pyproject.toml': project('b', 'requires-python = ">=3.9"\ndependencies = ["a[x.y]>=1"]'),
	'libs/b/b.py': '',
};

/** What lines come to: the folders of the path, and the requirements. */
async function read(lines: string, more: Texts = {}) {
	const {requirements} = await readAll({...libs, ...more, 'requirements.txt': lines});
	return [requirements.editables.map(({importRoot}) => importRoot), requirements.text] as const;
}

const [idna, local] = ['idna>=3 ; os_name == "posix"\n', ['libs/a/src', 'libs/b']];

for (const [lines, roots, text] of [
	['-e ./libs/a\n-e libs/b', local, `${idna}six\n`],
	['-e libs/b\n--editable ./libs/a', [...local].reverse(), `${idna}six\n`],
	['-e ./libs/c', ['libs/c'], ''],
	['--editable=libs/c/', ['libs/c'], ''],
	['-e libs/../libs//c', ['libs/c'], ''],
	['-e file:./libs/c', ['libs/c'], ''],
	['-e "./libs/c"\n-elibs/c # twice', ['libs/c'], ''],
	['-e ./libs/a[all]\n-e libs/b', local, `attrs\n${idna}six\n`],
	['-e libs/b\n-e "./libs/a[self, ALL]"', [...local].reverse(), `attrs\n${idna}six\n`],
	['-e ./libs/a\n-e ./libs/b\na[self]==1.*', local, `attrs\n${idna}six\n`],
	['a[self] ; os_name == "nt"\n-e ./libs/a\n-e ./libs/b', local, `${idna}six\n`],
	['-r more/list.txt\nsix', ['libs/c'], 'six\n'],
	['-e .', [''], 'attrs\n'],
	['-e ./[x]', [''], 'attrs\nsix\n'],
	['-e ./libs/spaced\\\n --pre', undefined, undefined],
	['-e ./libs/deep', ['libs/deep/src'], ''],
] as const) {
	test(`read: ${lines}`, async (t) => {
		const more = {
			'libs/c/pyproject.toml': project('c'),
			'libs/c/native.cpython-311-x86_64-linux-gnu.so': '',
			'libs/deep/pyproject.toml': project('deep', 'dynamic = ["version"]').replace('version = "1.0"\n', ''),
			'libs/deep/src/space/of/names.py': '',
			'libs/deep/setup.py': '',
			'more/list.txt': '-e ./libs/c',
			'pyproject.toml': project('f', 'dependencies = ["attrs"]\n[project.optional-dependencies]\nx = ["six"]'),
			'f.py': '',
		};
		if (roots === undefined) {
			await t.throwsAsync(read(lines, more), {message: /expected -r, -c or -e alone in a line/});
			return;
		}
		t.deepEqual(await read(lines, more), [[...roots], text]);
	});
}

test('the project of the function itself is not passed over when -e names it', async (t) => {
	const files = {'requirements.txt': '-e .', 'pyproject.toml': project('f'), 'f.py': ''};
	t.deepEqual((await readAll(files)).ignoredSources, []);
	t.deepEqual((await readAll({...files, 'requirements.txt': ''})).ignoredSources, ['pyproject.toml']);
});

const hash = `--hash=sha256:${'0'.repeat(64)}`;

test('where hashes are required, what a package requires is to be in the list', async (t) => {
	const list = `-e ./libs/a\n-e ./libs/b\nidna==3.4 ${hash}\n`;
	const older = `idna==2.0 ; os_name == "nt" ${hash}`;
	t.deepEqual(await read(`${list}six==1.16.0 ${hash}\n${older}`), [
		local,
		`idna==2.0 ; os_name == "nt" \\\n    ${hash}\nidna==3.4 \\\n    ${hash}\nsix==1.16.0 \\\n    ${hash}\n`,
	]);
	await t.throwsAsync(read(list), {
		message:
			'libs/a/pyproject.toml, project.optional-dependencies.X_y[0]: expected what the list with hashes has, which is not six; lock the project again; found "six"',
	});
	await t.throwsAsync(read(`${list.replace('3.4', '2.0')}six==1.16.0 ${hash}`), {
		message:
			/^libs\/a\/pyproject\.toml, project\.dependencies\[0\]: expected what the list with hashes has, idna==2\.0;/,
	});
});

test('what a package requires is part of the digest', async (t) => {
	const digests = await Promise.all(
		['six', 'attrs'].map(async (name) => {
			const files = {'libs/c/pyproject.toml': project('c', `dependencies = ["${name}"]`), 'libs/c/c.py': ''};
			return (await readAll({...files, 'requirements.txt': '-e libs/c'})).requirements.digest;
		}),
	);
	t.is(new Set(digests).size, 2);
});

for (const [title, lines, more, message] of [
	[
		'outside',
		'\n-e ../a',
		{},
		'requirements.txt, line 2: expected a path inside the folder of the function; found "../a"',
	],
	['outside, by a detour', '-e libs/../../a', {}, /expected a path inside the folder of the function/],
	['outside, with extras', '-e ..[x]', {}, /expected a path inside the folder of the function/],
	['absolute', '-e /libs/a', {}, /line 1: expected a path relative to the folder of the function, and no URL/],
	['an absolute address', '-e file:///libs/a', {}, /expected a path relative to the folder of the function/],
	['a home', '-e ~/libs/a', {}, /expected a path relative to the folder of the function/],
	[
		'a repository',
		'-e git+https://user:secret@example.org/a.git#egg=a',
		{},
		/expected a path relative to the folder of the function, and no URL; found "git\+https:\/\/\*\*\*\*@/,
	],
	['a drive', '-e C:libs', {}, /expected a path relative/],
	['a backslash', '-e libs\\a', {}, /no backslash in an option/],
	['NUL', '-e libs/a\0', {}, /text without control characters/],
	['a variable', '-e $' + '{HOME}/a', {}, /variables of the environment/],
	['encoded', '-e %2e%2e/a', {}, /expected a folder of the function; found "%2e%2e\/a"/],
	['not there', '-e ./libs/x', {}, 'requirements.txt, line 1: expected a folder of the function; found "./libs/x"'],
	['half a name', '-e ./lib', {}, /expected a folder of the function/],
	['a file', '-e libs/b/b.py', {}, /expected a folder of the function/],
	['a marker', '-e ./libs/a ; os_name == "nt"', {}, /expected an option, or the end of the line; found ";"/],
	['a name before it', "-e 'a @ ./libs/a'", {}, /expected a folder of the function/],
	['brackets', '-e ./libs/a[x][y]', {}, /expected a folder, as in -e \.\/libs\/a or -e \.\/libs\/a\[extra\]; found/],
	['extras alone', "-e '[x]'", {}, /expected a folder, as in -e/],
	['no extra', "-e './libs/a[x y]'", {}, /expected a comma or \] after an extra/],
	['an unknown extra', '-e libs/a[z]', {}, 'requirements.txt, line 1: expected an extra that a has; found "z"'],
	['an option beside it', '-e libs/a --pre', {}, /expected -r, -c or -e alone in a line/],
	['two', '-e libs/a -e libs/b', {}, /expected -r, -c or -e alone in a line/],
	['a constraint', '-c c.txt', {'c.txt': '\n-e libs/a'}, /^c\.txt, line 2: expected no -e among constraints/],
	[
		'no project',
		'-e x',
		{'x/x.py': '', 'x/setup.py': ''},
		'requirements.txt, line 1: expected [project] in x/pyproject.toml, since nothing of a function is built; found "no such file"',
	],
	[
		'settings alone',
		'-e x',
		{'x/x.py': '', 'x/pyproject.toml': '[build-system]\nrequires = []'},
		/expected \[project\] in x\/pyproject\.toml, since nothing of a function is built; found "no such table"/,
	],
	['no TOML', '-e x', {'x/x.py': '', 'x/pyproject.toml': '[project'}, /^x\/pyproject\.toml, line 1: expected TOML/],
	[
		'no name',
		'-e x',
		{'x/x.py': '', 'x/pyproject.toml': '[project]'},
		/^x\/pyproject\.toml, project\.name: expected text/,
	],
	[
		'another kind of name',
		'-e x',
		{'x/x.py': '', 'x/pyproject.toml': project('x==1')},
		/^x\/pyproject\.toml, project\.name: expected the name of a package alone; found "x==1"/,
	],
	[
		'dynamic dependencies',
		'-e x',
		{'x/x.py': '', 'x/pyproject.toml': project('x', 'dynamic = ["dependencies"]')},
		'x/pyproject.toml, project.dynamic[0]: expected dependencies that are written in the file, since nothing of a function is built; found "dependencies"',
	],
	[
		'an address',
		'-e x',
		{'x/x.py': '', 'x/pyproject.toml': project('x', 'dependencies = ["a @ file:../libs/a"]')},
		/^x\/pyproject\.toml, project\.dependencies\[0\]: expected name==version; direct references with @ are not/,
	],
	[
		'an archive of the folder as a dependency',
		'-e x',
		{
			'x/x.py': '',
			'x/pyproject.toml': project('x', 'dependencies = ["a @ ./a-1.0-py3-none-any.whl"]'),
			'a-1.0-py3-none-any.whl': '',
		},
		/^x\/pyproject\.toml, project\.dependencies\[0\]: expected name==version; direct references with @ are not/,
	],
	[
		'an option as a dependency',
		'-e x',
		{'x/x.py': '', 'x/pyproject.toml': project('x', 'dependencies = ["six --pre"]')},
		/^x\/pyproject\.toml, project\.dependencies\[0\]: expected a version/,
	],
	[
		'extension modules alone',
		'-e x',
		{'x/setup.py': '', 'x/x.c': '', 'x/pyproject.toml': project('x')},
		'requirements.txt, line 1: expected Python modules in x, since nothing of a function is built; found "none"',
	],
	[
		'extension modules in src',
		'-e x',
		{'x/setup.py': '', 'x/tests/a.py': '', 'x/src/x.c': '', 'x/pyproject.toml': project('x')},
		/expected Python modules in x\/src, since nothing/,
	],
	[
		'two of one name',
		'-e libs/b\n-e x',
		{'x/x.py': '', 'x/pyproject.toml': project('B')},
		'requirements.txt, line 2: expected one folder of b; found "x"',
	],
	[
		'another version',
		'-e libs/b\n-e libs/a\nb>1',
		{},
		'requirements.txt, line 3: expected what is in the folder, b==1.0; found "b>1"',
	],
	[
		'another version for one of them',
		'-e libs/b\n-e x',
		{'x/x.py': '', 'x/pyproject.toml': project('x', 'dependencies = ["B<1"]')},
		'x/pyproject.toml, project.dependencies[0]: expected what is in the folder, b==1.0; found "b<1"',
	],
	['a hash', `b==1.0 ${hash}\n-e libs/b\n-e libs/a`, {}, /line 1: expected no hash of a package that -e names/],
	[
		'an archive besides',
		'./b-1.0-py3-none-any.whl\n-e libs/b\n-e libs/a',
		{'b-1.0-py3-none-any.whl': ''},
		'requirements.txt, line 2: expected one source of b; found "b-1.0-py3-none-any.whl"',
	],
	[
		'many',
		Array.from({length: 51}, (_, index) => `-e ${index}`).join('\n'),
		Object.fromEntries(
			Array.from({length: 51}, (_, index) => [
				[`${index}/pyproject.toml`, project(`p${index}`)],
				[`${index}/a.py`, ''],
			]).flat() as Array<[string, string]>,
		),
		'requirements.txt, line 51: expected at most 50 folders of packages; found more',
	],
	[
		'much text',
		Array.from({length: 5}, (_, index) => `-e ${index}`).join('\n'),
		Object.fromEntries(
			Array.from({length: 5}, (_, index) => [
				[`${index}/pyproject.toml`, `${project(`p${index}`)}\n${`${'#'.repeat(1023)}\n`.repeat(1020)}`],
				[`${index}/a.py`, ''],
			]).flat() as Array<[string, string]>,
		),
		/^requirements\.txt, line 5: expected at most 4194304 bytes in all pyproject\.toml together/,
	],
] as ReadonlyArray<readonly [string, string, Texts, string | RegExp]>) {
	test(`refused: ${title}`, async (t) => {
		const error = await t.throwsAsync(read(lines, more), {code: 'InvalidRequirements'});
		if (typeof message === 'string') t.is(error?.message, message);
		else t.regex(error?.message ?? '', message);
	});
}

test('another Python is InterpreterMismatch', async (t) => {
	const more = {'x/x.py': '', 'x/pyproject.toml': project('x', 'requires-python = ">=3.12"')};
	await t.throwsAsync(read('-e x', more), {
		code: 'InterpreterMismatch',
		message: 'x/pyproject.toml, project.requires-python: is for Python >=3.12; the interpreter is Python 3.11.2',
	});
});

test('the name of a package of the folder is nothing that an index may have for others', async (t) => {
	const {editables} = (await readAll({...libs, 'requirements.txt': '-e libs/a\n-e libs/b'})).requirements;
	const archive = {kind: 'wheel', file: 'b-2-py3-none-any.whl', url: 'https://h/', sha256: '', sizeBytes: 0} as const;
	t.notThrows(() => checkApart(editables, {distributions: [{name: 'six', version: '2', archive}]}));
	t.throws(() => checkApart(editables, {distributions: [{name: 'b', version: '2', archive}]}), {
		code: 'InvalidRequirements',
		message:
			'requirements.txt, line 2: expected an archive of b instead of a folder, as ./b-1.0-py3-none-any.whl, since other packages require it too; found "b==2"',
	});
});

const entry = (name: string, source: string, more = '') =>
	`[[package]]\nname = "${name}"\nversion = "1.0"\nsource = {${source}}\n${more}\n`;
const sdist = (name: string) => `sdist = {url = "${name}-1.0.tar.gz", hash = "sha256:${'0'.repeat(64)}"}`;
const own = entry(
	'f',
	'virtual = "."',
	'dependencies = [{name = "a", extra = ["x-y"]}]\nmetadata = {requires-dist = [{name = "a"}]}',
);
const uvLock = `version = 1\n${own}${entry('a', 'editable = "libs/a"', `dependencies = [{name = "b"}, {name = "idna"}]\noptional-dependencies = {x-y = [{name = "six"}]}`)}
${entry('b', 'directory = "libs/b"', 'dependencies = [{name = "a", extra = ["x-y"]}]')}${['idna', 'six'].map((name) => entry(name, 'registry = "x"', sdist(name))).join('')}`;
const locked = (uv: string, dependencies = '"a[x_y]"') => ({
	...libs,
	'libs/a/pyproject.toml': libs['libs/a/pyproject.toml'].replace('idna>=3', 'idna>=1'),
	'uv.lock': uv,
	'pyproject.toml': `[project]\nname = "f"\ndependencies = [${dependencies}]`,
});
const directory = (name: string, table: string) => `[[packages]]\nname = "${name}"\ndirectory = {${table}}\n`;
const pylock = `lock-version = "1.0"\ncreated-by = "test"\n${['idna', 'six']
	.map(
		(name) =>
			`[[packages]]\nname = "${name}"\nversion = "1.0"\n${sdist(name).replace(/hash = "sha256:(0+)"/, 'hashes = {sha256 = "$1"}')}\n`,
	)
	.join(
		'',
	)}${directory('a', 'path = "./libs/a", editable = true')}${directory('B', 'path = "libs", subdirectory = "b"')}`;

for (const [lock, text] of [
	['uv.lock', uvLock],
	['pylock.toml', pylock],
] as const) {
	test(`${lock}: packages of the folder, and what they require`, async (t) => {
		const {requirements} = await readAll({...locked(uvLock), [lock]: text});
		t.deepEqual(requirements.editables.map(({importRoot}) => importRoot).sort(), local);
		t.deepEqual(
			requirements.requirements.map(({name, specifier}) => name + specifier),
			['idna==1.0', 'six==1.0'],
		);
		t.true(requirements.isComplete);
	});

	for (const [title, from, to, message] of [
		['outside', '"libs/b"', '"../b"', /expected a path inside the folder of the function; found "\.\.\/b"$/],
		[
			'absolute',
			'"libs/b"',
			'"/b"',
			/expected a path relative to the folder of the function, and no URL; found "\/b"$/,
		],
		['an address', '"libs/b"', '"https://h/b"', /expected a path relative to the folder of the function/],
		[
			'NUL',
			'"libs/b"',
			'"libs/b\\u0000"',
			/expected a path relative to the folder of the function.*found "libs\/b\\u0000"$/,
		],
		['not there', '"libs/b"', '"libs/x"', /expected a folder of the function; found "libs\/x"$/],
		['of another name', '"libs/b"', '"libs/a"', /expected the folder of [bB]; found "a in (?:\.\/)?libs\/a"$/],
	] as const) {
		test(`${lock}: refused: ${title}`, async (t) => {
			const changed = text.replace('path = "libs", subdirectory = "b"', 'path = "libs/b"').replace(from, to);
			const error = await t.throwsAsync(readAll({...locked(uvLock), [lock]: changed}), {code: 'InvalidRequirements'});
			t.regex(error?.message ?? '', message);
			t.regex(error?.message ?? '', /^(?:uv\.lock, package\[2\]\.source|pylock\.toml, packages\[3\])\.directory/);
		});
	}

	test(`${lock}: refused: packages that state what it does not have`, async (t) => {
		const files = {...locked(uvLock), [lock]: text};
		const changed = {...files, 'libs/b/pyproject.toml': project('b', 'dependencies = ["attrs"]')};
		await t.throwsAsync(readAll(changed), {
			message: `libs/b/pyproject.toml, project.dependencies[0]: expected what ${lock} has, which is not attrs; lock the project again; found "attrs"`,
		});
		const other = {...files, 'pyproject.toml': files['pyproject.toml'].replace('a[x_y]', 'a>1')};
		await t.throwsAsync(readAll(other), {message: /expected what is in the folder, a==1\.0; found "a>1"$/});
	});
}

test('pylock.toml: refused: a package that is there twice', async (t) => {
	const text = `${pylock}[[packages]]\nname = "a"\nversion = "1.0"\n${pylock.match(/^sdist = .*$/m)?.[0]}\n`;
	await t.throwsAsync(readAll({...locked(uvLock), 'pylock.toml': text}), {
		message: /^pylock\.toml, packages\[4\]: expected each package once; found "a"$/,
	});
});

test('uv.lock: of two packages of one name that one which a dependency names', async (t) => {
	const text = `${uvLock}${entry('a', 'registry = "x"', sdist('a'))}`.replaceAll(
		'{name = "a", extra',
		'{name = "a", source = {editable = "libs/a"}, extra',
	);
	const {requirements} = await readAll(locked(text));
	t.is(requirements.editables.length, 2);
	t.notRegex(requirements.text, /^a==/m);
});

test('property: whatever stands after -e, and in what it names, is an answer within the folder or a typed error', async (t) => {
	const piece = fc.oneof(
		fc.constantFrom(
			...['libs/a', 'libs/b', './', '../', '.', '/', 'file:', '[x-y]', '[', ']', ',', ' ', "'", '"', '\n-e ', '\\'],
			...['#', '%2e', '\0', '~', ':', '\nsix', '\na==1', '\nb[x]>1', hash, '-c ', '-r requirements.txt', 'src'],
		),
		fc.string({unit: 'binary', maxLength: 3}),
	);
	const field = fc
		.tuple(
			fc.constantFrom('name', 'version', 'dependencies', 'dynamic', 'optional-dependencies', 'requires-python'),
			fc.constantFrom(
				'"a"',
				'"1.0"',
				'"x y"',
				'["a"]',
				'["a[x]>0", "b"]',
				'{x = ["a[y]"], "X" = ["six"]}',
				'[1]',
				'">=3"',
				'1',
				'""',
				'"\\u0000"',
			),
		)
		.map((pair) => pair.join(' = '));
	let answers = 0;
	await fc.assert(
		fc.asyncProperty(fc.array(piece, {maxLength: 6}), fc.uniqueArray(field, {maxLength: 5}), async (pieces, fields) => {
			const more = fields.length > 2 ? {'libs/a/pyproject.toml': `[project]\n${fields.join('\n')}`} : {};
			try {
				const [roots] = await read(`-e ${pieces.join('')}`, more);
				for (const root of roots) t.true(['libs/a/src', 'libs/b'].includes(root), root);
				answers += 1;
			} catch (error) {
				if (!(error instanceof ForktreeError && /^(?:InvalidReq|InterpreterM)/.test(error.code))) throw error;
			}
		}),
		{numRuns: 3000, ...fuzzParameters(1)},
	);
	t.true(answers > 0);
});
