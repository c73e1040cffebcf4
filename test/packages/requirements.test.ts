import {readFile} from 'node:fs/promises';
import {join} from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import {ForktreeError} from '../../src/errors.ts';
import {
	noRequirements,
	parseRequirements,
	type Requirements,
	readRequirements,
} from '../../src/packages/requirements.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';

const parameters = fuzzParameters(3);
const hash = (digit: string) => `sha256:${digit.repeat(64)}`;

function read(files: Readonly<Record<string, string>>): Promise<Requirements> {
	return readRequirements('requirements.txt', async (path) => files[path]);
}

const accepted: ReadonlyArray<readonly [text: string, normalised: string]> = [
	['', ''],
	['\n \n# only a comment\n\t# another', ''],
	['numpy', 'numpy\n'],
	['\uFEFFnumpy\r\nsix\rattrs', 'attrs\nnumpy\nsix\n'],
	['Foo_Bar.baz == 1.0', 'foo-bar-baz==1.0\n'],
	['a~=1.0 # why', 'a~=1.0\n'],
	['a \\\n  >= 1 \\\n  , < 2', 'a>=1,<2\n'],
	['a==1 \\\n# a comment ends the line\nb', 'a==1\nb\n'],
	['b\na\nA\n a ', 'a\nb\n'],
	['a==1\na==1;os_name=="b"', 'a==1\na==1 ; os_name == "b"\n'],
	[`a==1 --hash=${hash('b')} --hash ${hash('A')}`, `a==1 \\\n    --hash=${hash('a')} \\\n    --hash=${hash('b')}\n`],
	[
		`a==1 ; os_name == "b" \\\n    --hash=${hash('a')} \\\n    --hash=${hash('a')} # twice`,
		`a==1 ; os_name == "b" \\\n    --hash=${hash('a')}\n`,
	],
	[`a==1\t--hash=${hash('a')}`, `a==1 \\\n    --hash=${hash('a')}\n`],
	// Hashes of one requirement in two places: what both allow.
	[`a==1\nA == 1 --hash=${hash('a')}`, `a==1 \\\n    --hash=${hash('a')}\n`],
	[
		`a==1 --hash=${hash('a')} --hash=${hash('b')}\na==1 --hash=${hash('b')} --hash=${hash('c')}`,
		`a==1 \\\n    --hash=${hash('b')}\n`,
	],
];

for (const [text, normalised] of accepted) {
	test(`accepts ${JSON.stringify(text)}`, (t) => {
		const requirements = parseRequirements(text);
		t.is(requirements.text, normalised);
		t.deepEqual(parseRequirements(normalised), requirements);
	});
}

const refused: ReadonlyArray<readonly [text: string, message: RegExp]> = [
	['a\n-e .', /^requirements, line 2: expected no -r, -c and -e, which need the folder of a function; found "-e \."$/],
	['\\\n-r other.txt', /line 1: expected no -r, -c and -e, which need the folder of a function; found "-r other\.txt"/],
	['--constraint=other.txt', /no -r, -c and -e/],
	['a==1 --hash=sha256:0', /line 1: expected --hash=sha256: and 64/],
	['a==1 --pre', /expected --hash=sha256:… or the end of the line after a requirement; found "--pre"/],
	['a==1 -r b', /expected --hash=.*found "--requirement"/],
	["a;os_name=='b' --pre", /expected --hash/],
	["a;os_name=='b --pre'", /closed quotes/],
	['a -', /expected one of -r, -c/],
	['a==1 - b', /expected one of -r, -c/],
	[`--hash=${hash('a')}`, /expected a requirement before --hash/],
	['-', /expected one of -r/],
	['https://user:secret@example.org/a.whl', /found "https:\/\/\*\*\*\*@example\.org\/a\.whl"/],
	['a @ https://example.org/a.whl', /URLs and paths are not allowed/],
	['./a', /URLs and paths/],
	['-i https://example.org/a\n-i https://example.org/b', /line 2: expected one --index-url/],
	[`a==1 --hash=${hash('a')}\n\na==1 --hash=${hash('b')}`, /line 3: expected a hash that line 1 has/],
	[
		`a==1 --hash=${hash('a')}\nb==1`,
		/line 2: expected --hash=sha256:… here too, since hashes are required; found "b==1"/,
	],
	[`a>=1 --hash=${hash('a')}`, /line 1: expected one version with == here, since hashes are required/],
	[`a==1.* --hash=${hash('a')}`, /expected one version/],
	['--require-hashes\na==1', /line 2: expected --hash/],
	['a\0', /control/],
];

for (const [text, message] of refused) {
	test(`refuses ${JSON.stringify(text.slice(0, 60))}, ${text.length} characters`, (t) => {
		t.throws(() => parseRequirements(text), {instanceOf: ForktreeError, code: 'InvalidRequirements', message});
	});
}

test('answers the parts of a requirement', (t) => {
	t.deepEqual(parseRequirements('Zope.Interface[B,a]>=5;python_version<"3.9"\nsix').requirements, [
		{name: 'six', extras: [], specifier: '', marker: undefined, hashes: []},
		{name: 'zope-interface', extras: ['a', 'b'], specifier: '>=5', marker: 'python_version < "3.9"', hashes: []},
	]);
});

test('no requirements have nothing', async (t) => {
	const {digest, ...rest} = noRequirements;
	t.deepEqual(rest, {
		requirements: [],
		constraints: [],
		index: {indexUrl: undefined, extraIndexUrls: [], findLinks: [], noIndex: false},
		prereleases: false,
		isComplete: false,
		local: [],
		editables: [],
		preferBinary: false,
		noBinary: [],
		onlyBinary: [],
		requireHashes: false,
		text: '',
		constraintsText: '',
	});
	t.regex(digest, /^[0-9a-f]{64}$/);
	t.deepEqual(await read({}), noRequirements);
	t.deepEqual(await read({'requirements.txt': '# none'}), noRequirements);
});

test('options are read, the order of further URLs kept', (t) => {
	const {index, prereleases, preferBinary} = parseRequirements(
		'--pre\n-i https://a.example/simple\n--extra-index-url https://c.example/ --extra-index-url=https://b.example/\n' +
			'-f https://d.example/w\n--extra-index-url https://c.example\n--index-url=https://a.example/simple\n--prefer-binary',
	);
	t.deepEqual(index, {
		indexUrl: 'https://a.example/simple',
		extraIndexUrls: ['https://c.example/', 'https://b.example/'],
		findLinks: ['https://d.example/w'],
		noIndex: false,
	});
	t.true(prereleases);
	t.true(preferBinary);
});

test('--no-index leaves out the indexes, wherever it stands', (t) => {
	const {index} = parseRequirements(
		'-i https://a.example\n--no-index\n--extra-index-url https://b.example\n-f https://c.example',
	);
	t.deepEqual(index, {indexUrl: undefined, extraIndexUrls: [], findLinks: ['https://c.example/'], noIndex: true});
});

const formats: ReadonlyArray<readonly [text: string, noBinary: readonly string[], onlyBinary: readonly string[]]> = [
	['--no-binary b,A_a', ['a-a', 'b'], []],
	['--only-binary=:all:', [], [':all:']],
	['--no-binary=a\n--only-binary=a', [], ['a']],
	['--no-binary=a\n--only-binary=:all:', [], [':all:']],
	['--only-binary=:all:\n--no-binary=a', ['a'], [':all:']],
	['--no-binary=a,:all:,b', [':all:'], []],
	['--no-binary=a\n--no-binary=:none:', [], []],
	['--no-binary=:all:,:none:,b', ['b'], []],
	['--no-binary=a --only-binary=:all: --no-binary=b', ['b'], [':all:']],
	['--no-binary=a,b\n--only-binary=:all:,:none:\n--no-binary=:all:\n--only-binary=a\n--no-binary=a,c', [':all:'], []],
];
for (const [text, noBinary, onlyBinary] of formats) {
	test(`the last word wins in ${JSON.stringify(text)}`, (t) => {
		const requirements = parseRequirements(text);
		t.deepEqual([requirements.noBinary, requirements.onlyBinary], [noBinary, onlyBinary]);
	});
}

test('files include others, found from where they lie', async (t) => {
	const {text, constraintsText, index, requirements, constraints} = await read({
		'requirements.txt': 'a\n-r sub/dev.txt\n-c ./constraints.txt # versions\n--requirement sub/../sub//dev.txt',
		'sub/dev.txt': '\uFEFFb\n-r ../base.txt\n-c more.txt',
		'base.txt': 'c==1\n-i https://a.example',
		'constraints.txt': 'd<2\n-r sub/more.txt',
		'sub/more.txt': 'e<3',
	});
	t.is(text, 'a\nb\nc==1\n');
	t.is(constraintsText, 'd<2\ne<3\n');
	t.is(index.indexUrl, 'https://a.example/');
	t.deepEqual(
		requirements.map(({name}) => name),
		['a', 'b', 'c'],
	);
	t.deepEqual(
		constraints.map(({name}) => name),
		['d', 'e'],
	);
});

test('a constraint can have the hash of a requirement', async (t) => {
	const files = {'requirements.txt': 'a==1\n-c c.txt', 'c.txt': `a==1 --hash=${hash('a')}\nb==2`};
	const {requireHashes, constraintsText} = await read(files);
	t.true(requireHashes);
	t.is(constraintsText, `a==1 \\\n    --hash=${hash('a')}\nb==2\n`);
});

const many = (count: number) =>
	Object.fromEntries(Array.from({length: count}, (_, number) => [`${number}.txt`, `-r ${number + 1}.txt`]));
const refusedFiles: ReadonlyArray<readonly [label: string, files: Record<string, string>, message: RegExp]> = [
	[
		'a missing file',
		{'requirements.txt': '\n-r a.txt'},
		/^requirements\.txt, line 2: expected a file in the folder of the function; found "a\.txt"$/,
	],
	[
		'an error in an included file',
		{'requirements.txt': '-r a/b.txt', 'a/b.txt': 'c\nd='},
		/^a\/b\.txt, line 2: expected a version/,
	],
	[
		'an absolute path',
		{'requirements.txt': '-r /etc/passwd'},
		/line 1: expected a path relative to this file; absolute/,
	],
	['a path of a home', {'requirements.txt': '-c ~/a.txt'}, /expected a path relative/],
	[
		'a URL',
		{'requirements.txt': '-r https://user:secret@example.org/a.txt'},
		/expected a path relative.*\/\/\*\*\*\*@example/,
	],
	['a file URL', {'requirements.txt': '-r file:a.txt'}, /expected a path relative/],
	['a path with a backslash', {'requirements.txt': "-r 'a\\b.txt'"}, /expected a path relative/],
	[
		'a way out',
		{'requirements.txt': '-r ../a.txt', '../a.txt': 'a'},
		/expected a path inside the folder.*found "\.\.\/a\.txt"/,
	],
	['a roundabout way out', {'requirements.txt': '-c a/../b/../../c.txt'}, /expected a path inside the folder/],
	[
		'a way out of a folder',
		{'requirements.txt': '-r a/b.txt', 'a/b.txt': '-r ../../c.txt'},
		/^a\/b\.txt, line 1: expected a path inside/,
	],
	['a folder', {'requirements.txt': '-r .'}, /expected a file in the folder/],
	['itself', {'requirements.txt': '-r ./requirements.txt'}, /expected another file than those that lead here/],
	[
		'a circle',
		{'requirements.txt': '-r a.txt', 'a.txt': '-c b.txt', 'b.txt': '-r a.txt'},
		/^b\.txt, line 1: expected another file/,
	],
	[
		'a long way',
		{'requirements.txt': '-r 0.txt', ...many(20)},
		/^8\.txt, line 1: expected files that include one another at most 10 deep/,
	],
	['many files', {'requirements.txt': '-r a.txt\n'.repeat(50), 'a.txt': 'a'}, /^a\.txt: expected at most 50 files/],
	[
		'much text',
		{'requirements.txt': '-r a.txt\n'.repeat(5), 'a.txt': `${'#'.repeat(1023)}\n`.repeat(1024)},
		/^a\.txt: expected at most 4194304 bytes in all files together/,
	],
	['two files in a line', {'requirements.txt': '-r a.txt -r b.txt'}, /expected -r, -c or -e alone in a line/],
	['an option beside a file', {'requirements.txt': '-r a.txt --pre'}, /expected -r, -c or -e alone/],
	[
		'extras in a constraint',
		{'requirements.txt': '-c c.txt', 'c.txt': 'a[b]'},
		/^c\.txt, line 1: expected no extras in a constraint/,
	],
	['a variable in a path', {'requirements.txt': '-r $' + '{HOME}/a.txt'}, /variables of the environment/],
	[
		'one hash in a constraint only',
		{'requirements.txt': 'a==1\nb==1\n-c c.txt', 'c.txt': `a==1 --hash=${hash('a')}`},
		/^requirements\.txt, line 2: expected --hash/,
	],
];
for (const [label, files, message] of refusedFiles) {
	test(`refuses ${label}`, async (t) => {
		await t.throwsAsync(read(files), {instanceOf: ForktreeError, code: 'InvalidRequirements', message});
	});
}

test('exactly the limits are read', async (t) => {
	const {text} = await read({'requirements.txt': '-r 0.txt', ...many(8), '8.txt': 'a'});
	t.is(text, 'a\n');
	t.is((await read({'requirements.txt': '-r a.txt\n'.repeat(49), 'a.txt': 'a'})).text, 'a\n');
});

test('what cannot be read is the error of who reads', async (t) => {
	const error = new ForktreeError('InvalidRequirements', 'a.txt: is not UTF-8');
	const reading = readRequirements('requirements.txt', async (path) => {
		if (path === 'a.txt') throw error;
		return '-r a.txt';
	});
	t.is(await t.throwsAsync(reading), error);
});

test('the digest tells apart what differs, and nothing else', async (t) => {
	const same = ['a\nb', 'b # c\nA', '\uFEFFa\r\n\r\nb', 'a\nb\nb'].map((text) => parseRequirements(text).digest);
	same.push((await read({'requirements.txt': '-r x/y.txt\na', 'x/y.txt': 'b'})).digest);
	t.is(new Set(same).size, 1);
	const texts = [
		'a',
		'b',
		'a\nb',
		'a;os_name=="b"',
		'--pre\na',
		'--prefer-binary\na',
		'--no-index\na',
		'-i https://a.example\na',
		'--extra-index-url https://a.example\na',
		'-f https://a.example\na',
		'--extra-index-url https://a.example\n--extra-index-url https://b.example\na',
		'--extra-index-url https://b.example\n--extra-index-url https://a.example\na',
		'--no-binary=a\na',
		'--only-binary=a\na',
		'a==1',
		`a==1 --hash=${hash('a')}`,
		`a==1 --hash=${hash('b')}`,
	];
	const digests = texts.map((text) => parseRequirements(text).digest);
	digests.push(
		(await read({'requirements.txt': 'a\n-c c', c: 'b'})).digest,
		parseRequirements('--require-hashes').digest,
	);
	t.is(new Set([...digests, noRequirements.digest]).size, texts.length + 3);
});

test('the requirements files of a benchmark are read, pin by pin', async (t) => {
	const text = await readFile(join(import.meta.dirname, 'fixtures', 'reqbench.json'), 'utf8');
	const {packages, lists} = JSON.parse(text) as {packages: string[]; lists: number[][]};
	t.true(lists.length > 500);
	for (const list of lists) {
		const pins = list.map((index) => packages[index] ?? '');
		const requirements = parseRequirements(pins.join('\n'));
		t.is(
			requirements.text,
			[...pins]
				.sort()
				.map((pin) => `${pin}\n`)
				.join(''),
		);
		t.deepEqual(
			requirements.requirements.map(({name, specifier}) => name + specifier),
			[...pins].sort(),
		);
	}
});

const fragments = [
	'a',
	'B_c',
	'==',
	'1.0',
	'>=',
	'~=',
	'.*',
	',',
	';',
	'[',
	']',
	'(',
	')',
	"'",
	'"',
	' ',
	'\t',
	'\n',
	'\r',
].concat(
	[
		'\\',
		'#',
		'-',
		'@',
		'python_version',
		'and',
		'or',
		'not in',
		'in',
		'$',
		'{',
		'://',
		'/',
		'.',
		'*',
		'!',
		'+',
		'\0',
		'é',
	],
	[
		'\u2028',
		' --hash=',
		hash('0'),
		'-r ',
		'--constraint=',
		'a.txt',
		'..',
		'-i',
		' https://b.example',
		'--pre',
		'--no-binary',
	],
);
const texts = fc.oneof(
	fc.string({unit: 'binary'}),
	fc.array(fc.constantFrom(...fragments), {maxLength: 30}).map((parts) => parts.join('')),
	fc
		.array(fc.constantFrom('a', 'b==1', `c==1 --hash=${hash('1')}`, '-r a.txt', '-c b.txt', '--pre'), {maxLength: 5})
		.map((lines) => lines.join('\n')),
);

// Alone, since those that do not wait would take the time that it is given.
test.serial('throws nothing but ForktreeError, and what it accepts is stable and harmless', async (t) => {
	let hits = 0;
	await fc.assert(
		fc.asyncProperty(texts, texts, texts, async (text, first, second) => {
			let found: Requirements;
			try {
				found = await read({'requirements.txt': text, 'a.txt': first, 'b.txt': second});
			} catch (error) {
				t.true(error instanceof ForktreeError && error.code === 'InvalidRequirements', String(error));
				return;
			}
			if (found.text !== '') hits += 1;
			const again = await read({'requirements.txt': `${found.text}-c c.txt`, 'c.txt': found.constraintsText});
			t.deepEqual([again.requirements, again.constraints], [found.requirements, found.constraints]);
			t.deepEqual([again.text, again.constraintsText], [found.text, found.constraintsText]);
			for (const normalised of [found.text, found.constraintsText]) {
				t.notRegex(
					normalised.replace(/ \\\n {4}--hash=sha256:[0-9a-f]{64}(?=\n| \\\n)/g, ''),
					/[^\n -~]|[$#@\\]|(?:^|\s)-/m,
				);
			}
		}),
		{numRuns: 20_000, ...parameters},
	);
	t.true(hits > 100, `${hits} texts were accepted`);
});

test('any order and repetition of lines answers the same', (t) => {
	const lines = fc.array(
		fc.constantFrom('a', 'B>=1', 'c[d]', 'e;os_name=="f"', '-f https://a.example', '--pre', '--no-binary=g', '# h', ''),
	);
	fc.assert(
		fc.property(lines, fc.infiniteStream(fc.nat()), (given, random) => {
			const shuffled = [...given, ...given]
				.map((line) => [random.next().value ?? 0, line] as const)
				.sort(([left], [right]) => left - right);
			t.deepEqual(parseRequirements(shuffled.map(([, line]) => line).join('\n')), parseRequirements(given.join('\n')));
		}),
		parameters,
	);
});

/** A megabyte of a pattern, in lines as long as they may be, or in one. */
function megabyteOf(pattern: string, lineLength: number): string {
	const line = pattern.repeat(Math.ceil(lineLength / pattern.length)).slice(0, lineLength - 1);
	return `${line}\n`.repeat(Math.ceil(2 ** 20 / lineLength));
}

test('a megabyte of anything ends soon, in an error or a result', (t) => {
	// Each of the patterns on its own takes tens of milliseconds; one whose time is quadratic takes minutes.
	const deadlineMs = 20_000;
	const patterns = fc.oneof(
		fc.array(fc.constantFrom(...fragments), {minLength: 1, maxLength: 6}).map((parts) => parts.join('')),
		fc.constantFrom(
			'\\',
			'\\\\x',
			'${',
			'//',
			'//@',
			'=',
			'a_',
			'1.',
			'1.0.',
			"'",
			'" ',
			' #',
			' -',
			' --hash=',
			'.tar.',
			'-r a ',
			"''",
		),
		fc.string({unit: 'binary', minLength: 1, maxLength: 4}),
	);
	const starts = fc.constantFrom(
		'',
		'a==',
		'a~=1',
		'a[',
		'a;',
		"a;os_name=='",
		'a;(',
		'a --hash=',
		'-r ',
		'-i https://',
		'#',
		'a==1+',
	);
	fc.assert(
		fc.property(
			starts,
			patterns,
			fc.constantFrom(80, 4096, 2 ** 21),
			fc.boolean(),
			(start, pattern, length, continued) => {
				const body = megabyteOf(pattern, length);
				const text = continued ? body.replaceAll('\n', '\\\n') : body.replaceAll('\n', `\n${start}`);
				const started = performance.now();
				try {
					parseRequirements(start + text);
				} catch (error) {
					t.true(error instanceof ForktreeError && error.code === 'InvalidRequirements', String(error));
				}
				t.true(performance.now() - started < deadlineMs, JSON.stringify({start, pattern, length, continued}));
			},
		),
		{numRuns: 60, ...parameters},
	);
});

test('many lines that are all fine are read soon', (t) => {
	const started = performance.now();
	const lines = Array.from({length: 40_000}, (_, index) => `package-${index}[extra]>=1.0,<2;os_name=="posix"`);
	t.is(parseRequirements(lines.join('\n')).requirements.length, lines.length);
	const hashes = Array.from({length: 700}, (_, index) => `--hash=sha256:${index.toString(16).padStart(64, '0')}`);
	t.is(parseRequirements(`a==1 \\\n${hashes.join(' \\\n')}\n`.repeat(60)).requirements[0]?.hashes.length, 700);
	t.true(performance.now() - started < 20_000);
});
