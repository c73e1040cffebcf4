import test from 'ava';
import {ForktreeError} from '../../src/errors.ts';
import {checkName, pathFault, quote} from '../../src/lambda/name.ts';

for (const name of ['a', '0', 'Hello', 'my-function_2.0', 'a'.repeat(128)]) {
	test(`the name ${quote(name)} is usable`, (t) => {
		t.notThrows(() => checkName(name));
	});
}

const badNames = ['', ' ', 'a b', '.', '..', '.a', '-a', '_a', 'a..b', 'a/b', '/a', 'a\n', 'a\0', 'é', 'a'.repeat(129)];
for (const name of badNames) {
	test(`the name ${quote(name)} (${name.length}) is refused`, (t) => {
		const error = t.throws(() => checkName(name), {instanceOf: ForktreeError});
		t.is(error?.code, 'InvalidName');
		t.true(error?.message.includes(quote(name)));
		t.regex(error?.message ?? '', /expected 1 to 128/);
	});
}

test('a name that is no string is refused', (t) => {
	for (const name of [undefined, null, 1, 1n, {}, ['a']]) {
		t.is(t.throws(() => checkName(name as string), {instanceOf: ForktreeError})?.code, 'InvalidName');
	}
});

for (const path of [
	'f.py',
	'a/b.py',
	'a\\b',
	'...',
	'.env',
	'a b\n',
	'é'.repeat(127),
	new Array(100).fill('a').join('/'),
]) {
	test(`the path ${quote(path)} is fine`, (t) => {
		t.is(pathFault(path), undefined);
	});
}

const badPaths: ReadonlyArray<readonly [path: string, fault: RegExp]> = [
	['', /empty/],
	['/etc/passwd', /absolute/],
	['..', /the part "\.\."/],
	['a/../b', /the part "\.\."/],
	['./a', /the part "\."/],
	['a//b', /the part ""/],
	['a/', /the part ""/],
	['a\0b', /NUL/],
	['a\ud800', /Unicode/],
	['é'.repeat(128), /part longer than 255/],
	[`${'abcdefgh/'.repeat(113)}abcdefgh`, /longer than 1024/],
	[new Array(101).fill('a').join('/'), /100 levels/],
];
for (const [path, fault] of badPaths) {
	test(`the path ${quote(path)} is refused`, (t) => {
		t.regex(pathFault(path) ?? '', fault);
	});
}
