import test from 'ava';
import {ForktreeError} from '../../src/errors.ts';
import {formatRequirement, isPinned, normaliseName, parseRequirement} from '../../src/packages/requirement.ts';

const place = {file: 'requirements.txt', line: 7};

const accepted: ReadonlyArray<readonly [text: string, normalised: string]> = [
	['numpy', 'numpy'],
	['Foo_Bar.baz == 1.0', 'foo-bar-baz==1.0'],
	['requests[Security, socks_5,security] >= 2.8.1 , == 2.8.*', 'requests[security,socks-5]>=2.8.1,==2.8.*'],
	['a[]', 'a'],
	['a (>=1,<2)', 'a>=1,<2'],
	['a( == 1 )', 'a==1'],
	['a~=1.0', 'a~=1.0'],
	['a~=1.4.5a4', 'a~=1.4.5a4'],
	['a~=1!2.0.post1.dev3', 'a~=1!2.0.post1.dev3'],
	['a===1.0+local', 'a===1.0+local'],
	['a===whatever', 'a===whatever'],
	['a==1!2.0', 'a==1!2.0'],
	['a==1!2.*', 'a==1!2.*'],
	['a!=2.0.*', 'a!=2.0.*'],
	['a==v1.0-1', 'a==v1.0-1'],
	['a==1.0_RC.1', 'a==1.0_RC.1'],
	['a==2023.3.post1', 'a==2023.3.post1'],
	['a==1.0a1.post2.dev3+ubuntu-1_2.x', 'a==1.0a1.post2.dev3+ubuntu-1_2.x'],
	['a!=1+local', 'a!=1+local'],
	['a>=1.0.dev0,<2.0c1,>0,<=9', 'a>=1.0.dev0,<2.0c1,>0,<=9'],
	['a>=1,>=1', 'a>=1'],
	["a;python_version<'3'", 'a ; python_version < "3"'],
	[
		'a;os.name=="b" and sys.platform=="c" or python_implementation=="d"',
		'a ; os_name == "b" and sys_platform == "c" or platform_python_implementation == "d"',
	],
	['a; python_full_version ~= "3.9.1" and extra == "x"', 'a ; python_full_version ~= "3.9.1" and extra == "x"'],
	[
		"a>1;(os_name=='nt' or sys_platform not  in \"linux\") and '3' >= python_version",
		'a>1 ; (os_name == "nt" or sys_platform not in "linux") and "3" >= python_version',
	],
	["a;os_name=='\"'", "a ; os_name == '\"'"],
];

for (const [text, normalised] of accepted) {
	test(`accepts ${text}`, (t) => {
		const requirement = parseRequirement(text, place);
		t.is(formatRequirement(requirement), normalised);
		t.deepEqual(parseRequirement(normalised, place), requirement);
	});
}

const refused: ReadonlyArray<readonly [text: string, message: RegExp]> = [
	['https://example.org/a.whl', /expected a package name; URLs/],
	['git+https://example.org/a', /expected a package name; URLs/],
	['./a', /expected a package name; URLs and paths/],
	['/a', /URLs and paths/],
	['~/a', /URLs and paths/],
	['..', /URLs and paths/],
	['a/b', /URLs and paths/],
	['a\\b', /expected a version as in/],
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
	['a==abc', /expected a version of PEP 440, as in ==1\.0.*found "==abc"/],
	['a==1.*.2', /expected a version of PEP 440/],
	['a==1.0a1.*', /expected a version of PEP 440/],
	['a==1.0.dev1.*', /expected a version of PEP 440/],
	['a==1+local.*', /expected a version of PEP 440/],
	['a==1.0foo', /expected a version of PEP 440/],
	['a==1!', /expected a version of PEP 440/],
	['a>=1.*', /expected a version of PEP 440 without \* and \+, as in >=1\.0; found ">=1\.\*"/],
	['a<1+local', /without \* and \+/],
	['a~=1', /expected a version of at least two numbers, as in ~=1\.0; found "~=1"/],
	['a~=1.*', /at least two numbers/],
	['a~=1.0+local', /at least two numbers/],
	['a==\u0661', /expected a version, as in/],
	['a;', /expected a marker.*found the end of the line/],
	['a;x=="1"', /expected a marker/],
	['a;os_name', /expected a comparison/],
	['a;os_name=="1" x', /expected and, or, or the end/],
	['a;(os_name=="1"', /expected and, or, or \)/],
	['a;os_name=="#"', /expected a marker/],
	[`a;${'('.repeat(100)}`, /at most 50 nested/],
	['==1', /expected a package name, as in/],
	['ä', /expected a package name/],
	['_a', /expected a package name/],
	[`a>=1${',>=1'.repeat(1500)}`, /at most 4096 bytes/],
];

for (const [text, message] of refused) {
	test(`refuses ${text.slice(0, 60)}, ${text.length} characters`, (t) => {
		const error = t.throws(() => parseRequirement(text, place), {instanceOf: ForktreeError, message});
		t.is(error.code, 'InvalidRequirements');
		t.regex(error.message, /^requirements\.txt, line 7: expected .+; found .+/);
	});
}

test('a message does not show the password of a URL', (t) => {
	const error = t.throws(() => parseRequirement('git+https://user:p@ss@example.org/a', place));
	t.regex(error?.message ?? '', /found "git\+https:\/\/\*\*\*\*@example\.org\/a"$/);
});

test('pinned is what allows one version', (t) => {
	const pinned = (text: string) => isPinned({...parseRequirement(text, place), hashes: []});
	t.deepEqual(['a==1', 'a===1', 'a(==1.0+l);os_name=="x"'].map(pinned), [true, true, true]);
	t.deepEqual(['a', 'a==1.*', 'a==1,>0', 'a>=1', 'a!=1', 'a~=1.0'].map(pinned), [
		false,
		false,
		false,
		false,
		false,
		false,
	]);
});

test('normalises names', (t) => {
	t.is(normaliseName('Friendly-._.-Bard'), 'friendly-bard');
});
