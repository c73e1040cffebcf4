import test from 'ava';
import fc from 'fast-check';
import {ForktreeError} from '../../src/errors.ts';
import {normaliseName, parseRequirements} from '../../src/packages/requirements.ts';

const accepted: ReadonlyArray<readonly [text: string, normalised: string]> = [
	['', ''],
	['\n \n# only a comment\n\t# another', ''],
	['numpy', 'numpy\n'],
	['\uFEFFnumpy\r\nsix\rattrs', 'attrs\nnumpy\nsix\n'],
	['Foo_Bar.baz == 1.0', 'foo-bar-baz==1.0\n'],
	['requests[Security, socks_5,security] >= 2.8.1 , == 2.8.*', 'requests[security,socks-5]>=2.8.1,==2.8.*\n'],
	['a[]', 'a\n'],
	['a (>=1,<2)', 'a>=1,<2\n'],
	['a~=1.0 # why', 'a~=1.0\n'],
	['a===1.0+local', 'a===1.0+local\n'],
	['a==1!2.0', 'a==1!2.0\n'],
	['a \\\n  >= 1 \\\n  , < 2', 'a>=1,<2\n'],
	['a==1\\', 'a==1\n'],
	['a==1 \\\n# a comment ends the line\nb', 'a==1\nb\n'],
	["a;python_version<'3'", 'a ; python_version < "3"\n'],
	[
		"a>1;(os_name=='nt' or sys_platform not  in \"linux\") and '3' >= python_version",
		'a>1 ; (os_name == "nt" or sys_platform not in "linux") and "3" >= python_version\n',
	],
	['b\na\nA\n a ', 'a\nb\n'],
];

for (const [text, normalised] of accepted) {
	test(`accepts ${JSON.stringify(text)}`, (t) => {
		t.is(parseRequirements(text).text, normalised);
		t.is(parseRequirements(normalised).text, normalised);
	});
}

const refused: ReadonlyArray<readonly [text: string, message: RegExp]> = [
	['a\n--index-url=https://example.org', /line 2: expected a requirement; options/],
	['-e .', /line 1: expected a requirement; options/],
	['\\\n-r other.txt', /line 1: expected a requirement; options/],
	['a==1 --hash=sha256:0', /line 1: expected a version/],
	["a;os_name=='b' --pre", /line 1: expected and, or, or the end/],
	["a;os_name=='b --pre'", /line 1: expected a marker/],
	["a;os_name=='$" + "{HOME}'", /line 1: expected a marker/],
	['https://example.org/a.whl', /line 1: expected a package name; URLs/],
	['git+https://example.org/a', /line 1: expected a package name; URLs/],
	['./a', /line 1: expected a package name; URLs and paths/],
	['/a', /URLs and paths/],
	['~/a', /URLs and paths/],
	['a/b', /URLs and paths/],
	['a-1.0-py3-none-any.whl', /not of a file/],
	['a==1.tar.gz', /not the name of a file/],
	['a @ file:///b', /URLs and paths/],
	['a @ b', /direct references/],
	['a@b', /direct references/],
	['a=1', /expected a version, as in/],
	['a==', /expected a version, as in .*found "=="/],
	['a==1,', /expected a version, as in/],
	['a 1', /expected a version as in/],
	['a(>=1', /expected a comma or \)/],
	['a()', /expected a version/],
	['a[b', /expected a comma or \]/],
	['a[b,]', /expected the name of an extra/],
	['a;', /expected a marker/],
	['a;x=="1"', /expected a marker/],
	['a;os_name', /expected a comparison/],
	['a;(os_name=="1"', /expected and, or, or \)/],
	[`a;${'('.repeat(100)}`, /at most 50 nested/],
	['==1', /expected a package name, as in/],
	['-', /options/],
	['ä', /expected a package name/],
	['\n\na\0b', /line 3: expected text without control/],
	['# a comment\u2028b', /control/],
	['# a comment\u000bb', /control/],
	['# a comment\u0085b', /control/],
	['a\n'.repeat(10_001), /at most 10000 lines/],
	[`#${'a'.repeat(4096)}`, /line 1: expected at most 4096 bytes a line/],
	[`a>=1${',\\\n>=1'.repeat(1500)}`, /line 1: expected at most 4096 bytes a line/],
	[`${'#'.repeat(1023)}\n`.repeat(1025), /at most 1048576 bytes/],
];

for (const [text, message] of refused) {
	test(`refuses ${JSON.stringify(text.slice(0, 60))}, ${text.length} characters`, (t) => {
		t.throws(() => parseRequirements(text), {instanceOf: ForktreeError, code: 'InvalidRequirements', message});
	});
}

test('answers the parts of a requirement', (t) => {
	t.deepEqual(parseRequirements('Zope.Interface[B,a]>=5;python_version<"3.9"\nsix').lines, [
		{name: 'six', extras: [], specifier: '', marker: undefined},
		{name: 'zope-interface', extras: ['a', 'b'], specifier: '>=5', marker: 'python_version < "3.9"'},
	]);
});

test('normalises names', (t) => {
	t.is(normaliseName('Friendly-._.-Bard'), 'friendly-bard');
});

const fragments = [
	'a',
	'B_c',
	'==',
	'1.0',
	'>=',
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
	'\\',
	'#',
	'-',
	'@',
].concat(['python_version', 'and', 'or', 'not in', 'in', '$', '{', '://', '/', '.', '*', '\0', 'é', '\u2028']);

test('throws nothing but ForktreeError, and what it accepts is stable and harmless', (t) => {
	const texts = fc.oneof(
		fc.string({unit: 'binary'}),
		fc.array(fc.constantFrom(...fragments), {maxLength: 30}).map((parts) => parts.join('')),
	);
	let hits = 0;
	fc.assert(
		fc.property(texts, (text) => {
			let normalised: string;
			try {
				normalised = parseRequirements(text).text;
			} catch (error) {
				t.true(error instanceof ForktreeError && error.code === 'InvalidRequirements', String(error));
				return;
			}
			if (normalised !== '') hits += 1;
			t.is(parseRequirements(normalised).text, normalised);
			t.notRegex(normalised, /[^\n -~]|[$#@\\]|(?:^|\s)-/m);
		}),
		{numRuns: 20_000},
	);
	t.true(hits > 100, `${hits} texts were accepted`);
});
