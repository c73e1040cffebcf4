/** What is read is what pip reads, by its own parser, where there is a pip. */
import {readFile} from 'node:fs/promises';
import {join} from 'node:path';
import test, {type ExecutionContext} from 'ava';
import {execa} from 'execa';
import fc from 'fast-check';
import {ForktreeError} from '../../src/errors.ts';
import {type Requirements, readRequirements} from '../../src/packages/requirements.ts';
import {fuzzSeconds} from '../helpers/fuzz.ts';

type Files = Readonly<Record<string, string>>;

const script = await readFile(join(import.meta.dirname, 'fixtures', 'pip-parser.py'), 'utf8');
const cases = fuzzSeconds === undefined ? 150 : 150 + fuzzSeconds * 5;

/** What pip makes of each; an object with `error` if it refuses. */
async function readWithPip(input: readonly Files[]): Promise<ReadonlyArray<Record<string, unknown>>> {
	const {stdout} = await execa('/usr/bin/python3', ['-c', script], {input: JSON.stringify(input), timeout: 100_000});
	return JSON.parse(stdout) as ReadonlyArray<Record<string, unknown>>;
}

const missing = await readWithPip([]).then(
	() => undefined,
	(error: unknown) => (error instanceof Error ? (error.message.split('\n').at(-1) ?? '') : String(error)),
);

function pipTest(title: string, run: (t: ExecutionContext) => Promise<void>): void {
	if (missing === undefined) test(title, run);
	else test.skip(`${title} [skipped: ${missing}]`, run);
}

function read(files: Files): Promise<Requirements> {
	return readRequirements('requirements.txt', async (path) => files[path]);
}

/** What a resolver is given instead of the files. */
function rewritten({text, constraintsText, index, ...rest}: Requirements): Files {
	const options = [
		...(index.indexUrl === undefined ? [] : [`--index-url ${index.indexUrl}`]),
		...index.extraIndexUrls.map((url) => `--extra-index-url ${url}`),
		...index.findLinks.map((url) => `--find-links ${url}`),
		...(index.noIndex ? ['--no-index'] : []),
		...(rest.prereleases ? ['--pre'] : []),
		...(rest.preferBinary ? ['--prefer-binary'] : []),
		...rest.noBinary.map((name) => `--no-binary=${name}`),
		...rest.onlyBinary.map((name) => `--only-binary=${name}`),
	].sort((left, right) => Number(right.includes(':all:')) - Number(left.includes(':all:')));
	return {'requirements.txt': `${options.join('\n')}\n-c c.txt\n${text}`, 'c.txt': constraintsText};
}

const digits = (max: number) =>
	fc.array(fc.integer({min: 0, max: 30}), {minLength: 1, maxLength: max}).map((parts) => parts.join('.'));
const maybe = <T>(value: fc.Arbitrary<T>) => fc.oneof(fc.constant(''), value);
const space = fc.constantFrom('', '', ' ', '  ');
const suffix = fc
	.tuple(
		maybe(fc.constantFrom('a1', 'rc2', '.b.3', '_c', 'PRE4')),
		maybe(fc.constantFrom('.post1', '-2', 'rev', 'R3')),
		maybe(fc.constantFrom('.dev1', '-dev', 'DEV2')),
	)
	.map((parts) => parts.join(''));
const release = fc.tuple(maybe(fc.constant('v')), maybe(fc.constant('1!')), digits(4)).map((parts) => parts.join(''));
const local = fc.constantFrom('+local', '+ubuntu.1', '+1-A_2');
const clause = fc
	.oneof(
		fc.tuple(fc.constantFrom('==', '!='), space, release, fc.oneof(fc.constant('.*'), fc.tuple(suffix, maybe(local)))),
		fc.tuple(fc.constantFrom('<', '<=', '>', '>='), space, release, suffix),
		fc.tuple(fc.constant('~='), space, release, fc.constant('.1'), suffix),
	)
	.map((parts) => parts.flat().join(''));
const clauses = fc
	.tuple(fc.array(clause, {maxLength: 3}), space, space)
	.map(([all, before, after]) => all.join(`${before},${after}`));
// Older ones of pip take all up to the next space for the version after ===, and one space only in "not in", and stop at the b of beta.
const specifier = fc.oneof(
	clauses,
	fc.constantFrom('===1.0 ', '=== what.ever ', '===1.* '),
	clauses.map((text) => (text === '' ? '' : `(${text})`)),
);
const operand = fc.constantFrom(
	'python_version',
	'sys_platform',
	'os_name',
	'platform_machine',
	"'3.9'",
	'"linux"',
	'"a b"',
	'"3.7, 3.8"',
	"'\"'",
	'sys.platform',
);
const comparison = fc
	.tuple(operand, fc.constantFrom('==', '!=', '<', '>=', '~=', ' in ', ' not in '), operand, space)
	.map(([left, operator, right, blank]) => `${left}${blank}${operator}${blank}${right}`)
	.filter((text) => /[a-z]_|\./.test(text));
const {marker} = fc.letrec<{marker: string; term: string}>((tie) => ({
	term: fc.oneof(
		{maxDepth: 3},
		comparison,
		tie('marker').map((text) => `(${text})`),
	),
	marker: fc.oneof(
		{maxDepth: 3},
		tie('term'),
		fc.tuple(tie('term'), fc.constantFrom(' and ', ' or '), tie('term')).map((parts) => parts.join('')),
	),
}));
const name = fc.constantFrom('a', 'B-c', 'd_E.f', 'g--h', 'i9', '3j');
const extras = fc.constantFrom('', '', '[x]', '[ y_Z , x ]', '[]');
const hash = fc
	.array(fc.constantFrom(...'0aF'), {minLength: 1, maxLength: 3})
	.map((parts) => `--hash=sha256:${parts.join('').padEnd(64, '0').toLowerCase()}`);
const comment = fc.constantFrom('', '', ' # why', '\t#x');
const constraintLine = fc
	.tuple(name, space, specifier, maybe(marker.map((text) => ` ; ${text}`)), comment)
	.map((parts) => parts.join(''));
const requirementLine = fc
	.tuple(name, extras, space, specifier, maybe(marker.map((text) => `;${text}`)), comment)
	.map((parts) => parts.join(''));
const hashedLine = fc
	.tuple(
		name,
		digits(3),
		fc.array(hash, {minLength: 1, maxLength: 3}),
		fc.constantFrom(' ', ' \\\n    ', ' \\\r\n '),
		comment,
	)
	.map(([subject, version, hashes, blank, end]) => `${[`${subject}==${version}`, ...hashes].join(blank)}${end}`);
const optionLine = fc.constantFrom(
	'--pre',
	'--prefer-binary',
	'--no-index',
	'--extra-index-url https://b.example/simple',
	'--extra-index-url="https://c.example/simple" --pre',
	"-f 'https://d.example/w.html'",
	'--find-links=https://e.example/w.html',
	'--no-binary a,B_c',
	'--no-binary=:all:',
	'--no-binary :none:',
	'--only-binary=:all:,:none:,d.e',
	'--only-binary=a',
	'--only-binary :all:',
	'--no-binary=d--e,:all:,a',
	'# a comment \\',
	'   ',
	'-r more/base.txt',
	"--constraint 'more/versions.txt'",
);
const file = (lines: fc.Arbitrary<string>) =>
	fc.tuple(fc.array(lines, {maxLength: 6}), fc.constantFrom('\n', '\r\n', '\n\n')).map(([all, end]) => all.join(end));
/** pip takes further lines of one requirement each for itself; here they become one. */
const once = (text: string) => {
	let count = 0;
	return text.replaceAll(/^(?=[aBdgi3])/gm, () => {
		count += 1;
		return `p${count}-`;
	});
};
/** Files of what pip documents. */
const projects = fc
	.tuple(
		fc.constantFrom('', '', '-i https://a.example/simple\n'),
		file(fc.oneof(requirementLine, requirementLine, optionLine)),
		file(requirementLine),
		file(constraintLine),
	)
	.map(([index, main, base, versions]) => ({
		'requirements.txt': index + once(main),
		'more/base.txt': once(base).replaceAll(/^p/gm, 'q'),
		'more/versions.txt': once(versions).replaceAll(/^p/gm, 'r'),
	}));
const hashed = file(hashedLine).map((text) => ({'requirements.txt': once(text)}));

pipTest('files of what pip documents are read as pip reads them', async (t) => {
	const inputs: readonly Files[] = fc.sample(fc.oneof(projects, projects, hashed), cases);
	const [before, after] = await Promise.all([
		readWithPip(inputs),
		Promise.all(inputs.map(async (files) => rewritten(await read(files)))).then(readWithPip),
	]);
	for (const [index, files] of inputs.entries()) {
		t.is(before[index]?.error, undefined, JSON.stringify(files));
		t.deepEqual(after[index], before[index], JSON.stringify(files));
	}
});

pipTest('what is accepted of nearly such files means the same to pip', async (t) => {
	const inputs = fc
		.sample(
			fc.tuple(
				requirementLine,
				fc.nat(),
				fc.constantFrom(
					'',
					' ',
					',',
					'=',
					'==',
					'-',
					' -',
					'*',
					'.',
					'+',
					'!',
					'[',
					')',
					';',
					'#',
					' #',
					'"',
					"'",
					'\\',
					'\\\n',
					'~',
					'@',
					'1',
					'a',
					'or',
				),
			),
			cases * 4,
		)
		.map(([line, at, inserted]) => {
			const place = at % (line.length + 1);
			return {'requirements.txt': line.slice(0, place) + inserted + line.slice(inserted === '' ? place + 1 : place)};
		});
	const accepted: Array<readonly [Files, Files]> = [];
	for (const files of inputs) {
		if (/===[ \t]*[^ \t]*[,;)]|not[ \t]{2}/.test(files['requirements.txt'])) continue;
		try {
			accepted.push([files, rewritten(await read(files))]);
		} catch (error) {
			t.true(error instanceof ForktreeError, String(error));
		}
	}
	t.true(accepted.length > inputs.length / 10, `${accepted.length} of ${inputs.length}`);
	const said = await readWithPip(accepted.flat());
	for (const [index, pair] of accepted.entries()) {
		const [before, after] = said.slice(2 * index);
		t.is(before?.error, undefined, JSON.stringify(pair));
		t.deepEqual(after, before, JSON.stringify(pair));
	}
});

const library = (folder: string) => ({
	[`${folder}/pyproject.toml`]: `[project]\nname = "${folder.replaceAll(/[/ ]/g, '-')}"\n[project.optional-dependencies]\nx = ["x-of-${folder.replaceAll(/[/ ]/g, '-')}"]\nY_z = ["y-z-of-${folder.replaceAll(/[/ ]/g, '-')}"]\n`,
	[`${folder}/a.py`]: '',
});
const libraries = ['a', 'libs/b', 'libs/b/c', 'my lib'];
const editableLine = fc
	.tuple(
		fc.constantFrom('-e ', '-e', '--editable ', '--editable=', '-e\t', '--editable  '),
		fc.constantFrom('', '', './', './/', 'a/../', 'libs/../'),
		fc.constantFrom(...libraries),
		fc.constantFrom('', '', '/', '//', '/.'),
		fc.constantFrom('', '', '[x]', '[Y.z]', '[x,y_Z]'),
		comment,
	)
	.map(([option, before, folder, after, wanted, end]) => {
		const value = `${before}${folder}${after}${wanted}`;
		return `${option}${value.includes(' ') ? `'${value}'` : value}${end}`;
	});

pipTest('-e names the folder and the extras that it names for pip', async (t) => {
	const files = Object.assign({}, ...libraries.map(library)) as Files;
	const inputs = fc
		.sample(fc.array(editableLine, {minLength: 1, maxLength: 4}), cases)
		.map((lines) => ({...files, 'requirements.txt': lines.join('\n')}));
	const said = await readWithPip(inputs);
	for (const [index, input] of inputs.entries()) {
		const texts = (path: string) =>
			Promise.resolve(Object.hasOwn(input, path) ? input[path as keyof typeof input] : undefined);
		const folder = {
			paths: () => Object.keys(input),
			sha256Of: () => undefined,
			readText: texts,
			interpreter: {version: '3.11.2'},
		};
		const found = await readRequirements('requirements.txt', texts, folder);
		const all = ((said[index]?.requirements ?? []) as string[]).map(
			(text) => JSON.parse(text) as {readonly editable: string; readonly extras: readonly string[]},
		);
		const told = JSON.stringify([input['requirements.txt'], said[index]]);
		t.deepEqual(
			found.editables.map((each) => each.folder).sort(),
			[...new Set(all.map(({editable}) => editable))].sort(),
			told,
		);
		const wanted = all.flatMap(({editable, extras: names}) =>
			names.map((name) => `${name}-of-${editable.replaceAll(/[/ ]/g, '-')}`),
		);
		t.deepEqual(
			found.requirements.map((each) => each.name),
			[...new Set(wanted)].sort(),
			told,
		);
	}
});
