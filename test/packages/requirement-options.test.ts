import test from 'ava';
import {ForktreeError} from '../../src/errors.ts';
import {type Option, parseOptions} from '../../src/packages/requirement-options.ts';

const place = {file: 'requirements.txt', line: 7};
const hex = '0123456789abcdef'.repeat(4);

const accepted: ReadonlyArray<readonly [text: string, options: readonly Option[]]> = [
	['', []],
	['-r base.txt', [{kind: 'requirement', path: 'base.txt'}]],
	['-rbase.txt', [{kind: 'requirement', path: 'base.txt'}]],
	['--requirement=a/b.txt', [{kind: 'requirement', path: 'a/b.txt'}]],
	["--requirement 'my file.txt'", [{kind: 'requirement', path: 'my file.txt'}]],
	['-c "my "\'file\'.txt', [{kind: 'constraint', path: 'my file.txt'}]],
	['--constraint=c.txt', [{kind: 'constraint', path: 'c.txt'}]],
	['-e ./libs/a[x]', [{kind: 'editable', path: './libs/a[x]'}]],
	['-e.', [{kind: 'editable', path: '.'}]],
	["--editable 'my lib'", [{kind: 'editable', path: 'my lib'}]],
	['--editable=a', [{kind: 'editable', path: 'a'}]],
	['-i https://example.org/simple', [{kind: 'index-url', url: 'https://example.org/simple'}]],
	['--index-url=HTTP://Example.org', [{kind: 'index-url', url: 'http://example.org/'}]],
	[
		'--extra-index-url\thttps://u:p%40@[::1]:8080/a?b=c',
		[{kind: 'extra-index-url', url: 'https://u:p%40@[::1]:8080/a?b=c'}],
	],
	['-f ./wheels', [{kind: 'find-folder', folder: './wheels'}]],
	['-fhttps://example.org/w.html', [{kind: 'find-links', url: 'https://example.org/w.html'}]],
	['--find-links https://example.org/w', [{kind: 'find-links', url: 'https://example.org/w'}]],
	[
		'--no-binary :all: --only-binary=Foo_Bar,b',
		[
			{kind: 'no-binary', names: [':all:']},
			{kind: 'only-binary', names: ['foo-bar', 'b']},
		],
	],
	['--no-binary=:none:', [{kind: 'no-binary', names: [':none:']}]],
	[
		'--no-index  --pre --prefer-binary --require-hashes',
		[{kind: 'no-index'}, {kind: 'pre'}, {kind: 'prefer-binary'}, {kind: 'require-hashes'}],
	],
	[
		`--hash=sha256:${hex} --hash sha256:${hex.toUpperCase()}`,
		[
			{kind: 'hash', hash: `sha256:${hex}`},
			{kind: 'hash', hash: `sha256:${hex}`},
		],
	],
];

for (const [text, options] of accepted) {
	test(`reads ${text}`, (t) => {
		t.deepEqual(parseOptions(text, place), options);
	});
}

const refused: ReadonlyArray<readonly [text: string, message: RegExp]> = [
	['-e', /expected a value after --editable; found "-e"$/],
	['--editable=', /expected a value after --editable/],
	['--trusted-host example.org', /--trusted-host would leave off the check of certificates/],
	['--trusted-host=example.org', /check of certificates/],
	['--use-feature=x', /expected one of -r, -c, .*found "--use-feature=x"/],
	['--global-option=x', /expected one of/],
	['--config-settings=x', /expected one of/],
	['--index https://example.org', /expected one of/],
	['--no-deps', /expected one of/],
	['-', /expected one of/],
	['--', /expected one of/],
	['-x', /expected one of/],
	['--pre b', /expected an option, or the end of the line; found "b"/],
	['--pre=1', /expected --pre without a value/],
	['-r', /expected a value after --requirement/],
	['-i', /expected a value after --index-url/],
	['--hash=', /expected a value after --hash/],
	['-r "a', /closed quotes and no backslash.*found "\\"a"/],
	['-r a\\ b', /closed quotes and no backslash/],
	[
		'-f wheels',
		/expected a URL that starts with https:\/\/ or http:\/\/ after --find-links, not a path; found "wheels"/,
	],
	['-f /wheels', /not a path/],
	['-i simple', /not a path/],
	['-f file:///wheels', /expected a URL .*found "file:…"/],
	['--extra-index-url=ftp://example.org', /found "ftp:…"/],
	['-i https:example.org', /expected a URL/],
	['-i https://', /expected a URL/],
	['-i https://exa{mple.org', /percent-encoded where needed; found "https:…"/],
	['-i https://user:secret@example.org:port/', /^((?!secret).)*$/],
	['-i https://ex\u00e4mple.org', /percent-encoded/],
	['--no-binary a,', /expected names with commas between them/],
	['--no-binary a;b', /expected names/],
	['--only-binary=*', /expected names/],
	['--hash=md5:0', /expected --hash=sha256: and 64 hexadecimal digits; found "md5:0"/],
	[`--hash=sha512:${hex}${hex}`, /sha256/],
	[`--hash=sha256:${hex}0`, /sha256/],
	['--hash=sha256:0', /sha256/],
];

for (const [text, message] of refused) {
	test(`refuses ${text.slice(0, 60)}`, (t) => {
		const error = t.throws(() => parseOptions(text, place), {instanceOf: ForktreeError, message});
		t.is(error.code, 'InvalidRequirements');
		t.regex(error.message, /^requirements\.txt, line 7: expected .+; found .+/);
	});
}
