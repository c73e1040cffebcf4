import test, {type ExecutionContext} from 'ava';
import fc from 'fast-check';
import {ForktreeError} from '../../src/errors.ts';
import {readStated} from '../../src/packages/stated.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';
import {filesOf} from './files-of.ts';

const interpreter = {version: '3.11.2'};

const readAll = (texts: Readonly<Record<string, string>>, lines?: readonly string[]) =>
	readStated(filesOf(texts), {entryFile: 'f.py', interpreter}, lines);
const read = async (texts: Readonly<Record<string, string>>) => (await readAll(texts)).requirements;

async function refused(t: ExecutionContext, texts: Readonly<Record<string, string>>, code: string, message: RegExp) {
	const error = await t.throwsAsync(read(texts), {code});
	t.regex(error?.message ?? '', message);
}

const inline = '# /// script\n# dependencies = ["inline"]\n# ///\n';
const project = (text: string) => `[project]\nname = "f"\nversion = "1"\n${text}`;

test('nothing states nothing', async (t) => {
	t.is((await read({})).text, '');
});

test('pyproject.toml: the dependencies of the project, and nothing else', async (t) => {
	const text = `${project('requires-python = ">=3.9,<4"\ndependencies = ["Six ~= 1.16", "attrs[x] ; os_name == \'nt\'"]')}
[project.optional-dependencies]
more = ["more"]
[dependency-groups]
dev = ["dev"]
[tool.uv]
dev-dependencies = ["old"]
`;
	t.is((await read({'pyproject.toml': text})).text, 'attrs[x] ; os_name == "nt"\nsix~=1.16\n');
});

test('pyproject.toml counts after requirements.txt and before the entry file', async (t) => {
	const files = {'pyproject.toml': project('dependencies = ["project"]'), 'f.py': inline};
	t.is((await read(files)).text, 'project\n');
	t.is((await read({...files, 'requirements.txt': 'six'})).text, 'six\n');
	t.is((await read({...files, 'pyproject.toml': project('')})).text, '', 'a project without dependencies has none');
});

test('a pyproject.toml with settings of tools alone states nothing', async (t) => {
	t.is((await read({'pyproject.toml': '[tool.ruff]\nline-length = 100\n', 'f.py': inline})).text, 'inline\n');
	t.is((await read({'pyproject.toml': ''})).text, '');
});

const everything = {
	'pylock.toml': 'lock-version = "1.0"\ncreated-by = "test"\npackages = []',
	'uv.lock': 'version = 1\n[[package]]\nname = "f"\nsource = {virtual = "."}\n',
	'requirements.txt': '',
	'pyproject.toml': project(''),
	'f.py': inline,
};

test('the first counts, the others are named in the order in which they would count', async (t) => {
	const by = async (texts: Readonly<Record<string, string>>, lines?: readonly string[]) => {
		const {statedBy, ignoredSources} = await readAll(texts, lines);
		return [statedBy, ...ignoredSources];
	};
	t.deepEqual(await by(everything, []), ['options.requirements', ...Object.keys(everything)]);
	const {'pylock.toml': _, ...without} = everything;
	t.deepEqual(await by(everything), ['pylock.toml', 'uv.lock', 'requirements.txt', 'f.py'], 'the project is compared');
	t.deepEqual(await by(without), ['uv.lock', 'requirements.txt', 'f.py']);
	const {'uv.lock': __, ...unlocked} = without;
	t.deepEqual(await by(unlocked), ['requirements.txt', 'pyproject.toml', 'f.py']);
	t.deepEqual(await by({'pyproject.toml': project(''), 'f.py': inline}), ['pyproject.toml', 'f.py']);
	t.deepEqual(await by({'pyproject.toml': '[tool.ruff]', 'f.py': inline}), ['f.py']);
	t.deepEqual(await by({}), [undefined]);
});

test('what does not count need not be right', async (t) => {
	const files = {'requirements.txt': 'six', 'pyproject.toml': 'a = [', 'f.py': '# /// script\n# a = [\n# ///\n'};
	t.is((await read(files)).text, 'six\n');
});

for (const [title, text, code, message] of [
	[
		'dependencies that a build finds',
		project('dynamic = ["version", "dependencies"]'),
		'InvalidRequirements',
		/^pyproject\.toml, project\.dynamic\[1\]: expected dependencies that are written/,
	],
	[
		'another Python',
		project('requires-python = ">=3.12"'),
		'InterpreterMismatch',
		/^pyproject\.toml, project\.requires-python: is for Python >=3\.12; the interpreter is Python 3\.11\.2$/,
	],
	[
		'no versions',
		project('requires-python = "new"'),
		'InvalidRequirements',
		/project\.requires-python: expected a version, as in >=3\.9 .*found "new"$/,
	],
	[
		'a marker after versions',
		project('requires-python = ">=3 ; a"'),
		'InvalidRequirements',
		/requires-python: .*found "; a"$/,
	],
	[
		'an address',
		project('dependencies = ["six", "a @ https://u:p@h/a.whl"]'),
		'InvalidRequirements',
		/^pyproject\.toml, project\.dependencies\[1\]: expected a package name; URLs and paths are not allowed; found "a @ https:\/\/\*\*\*\*@h/,
	],
	[
		'an option',
		project('dependencies = ["--index-url https://h/"]'),
		'InvalidRequirements',
		/dependencies\[0\]: expected a package name/,
	],
	[
		'a hash',
		project('dependencies = ["six==1 --hash=sha256:0"]'),
		'InvalidRequirements',
		/dependencies\[0\]: expected a version.*found "--hash/,
	],
	['a second line', project('dependencies = ["six\\nattrs"]'), 'InvalidRequirements', /dependencies\[0\]: expected /],
	[
		'a number',
		project('dependencies = [1]'),
		'InvalidRequirements',
		/dependencies\[0\]: expected text; found "a number"/,
	],
	[
		'no list',
		project('dependencies = "six"'),
		'InvalidRequirements',
		/project\.dependencies: expected a list; found "a string"/,
	],
	['no table', 'project = 1', 'InvalidRequirements', /^pyproject\.toml, project: expected a table; found "a number"/],
	['a date', 'project = 1979-05-27', 'InvalidRequirements', /expected a table; found "a date"/],
	['no TOML', '[project]\n[', 'InvalidRequirements', /^pyproject\.toml, line 2: expected TOML/],
] as const) {
	test(`pyproject.toml: refused: ${title}`, (t) => refused(t, {'pyproject.toml': text}, code, message));
}

/** Values as TOML has them, of any shape. */
const value: fc.Arbitrary<string> = fc.letrec<{value: string}>((tie) => ({
	value: fc.oneof(
		{maxDepth: 4},
		fc.constantFrom('1', 'true', '1979-05-27', 'nan', '"six"', '"a==1 ; b"', '">=3"', '""', '"=="', '"\\u0000"'),
		fc.string({unit: 'binary'}).map((text) => JSON.stringify(`${Buffer.from(text)}`)),
		fc.array(tie('value'), {maxLength: 3}).map((items) => `[${items.join(',')}]`),
		fc
			.array(fc.tuple(fc.constantFrom('a', 'name', '__proto__', 'constructor', 'version'), tie('value')), {
				maxLength: 3,
			})
			.map((fields) => `{${fields.map(([key, content]) => `${key}=${content}`).join(',')}}`),
	),
})).value;
const key = fc.constantFrom(
	'dependencies',
	'requires-python',
	'dynamic',
	'project',
	'project.dependencies',
	'__proto__',
	'constructor',
);

test('property: whatever a pyproject.toml holds is an answer or a typed error', async (t) => {
	const line = fc.oneof(
		fc.constantFrom('[project]', '[[project]]', '[project.dependencies]', '[a', '"'),
		fc.tuple(key, value).map(([name, content]) => `${name} = ${content}`),
		fc.string({unit: 'binary'}),
	);
	await fc.assert(
		fc.asyncProperty(fc.array(line, {maxLength: 12}), async (lines) => {
			try {
				await read({'pyproject.toml': lines.join('\n')});
			} catch (error) {
				if (!(error instanceof ForktreeError && /^(?:InvalidReq|InterpreterM)/.test(error.code))) throw error;
			}
		}),
		{numRuns: 500, ...fuzzParameters(1)},
	);
	t.pass();
});
