import test from 'ava';
import {ForktreeError} from '../../src/errors.ts';
import {invalidRequirements, logicalLines, requirementsLimits} from '../../src/packages/requirement-lines.ts';

const cases: ReadonlyArray<readonly [text: string, lines: ReadonlyArray<readonly [line: number, content: string]>]> = [
	['', []],
	['\n \n# only a comment\n\t# another', []],
	[
		'\uFEFFa\r\nb\rc\n\nd',
		[
			[1, 'a'],
			[2, 'b'],
			[3, 'c'],
			[5, 'd'],
		],
	],
	['a # why', [[1, 'a']]],
	['a#b\t#c', [[1, 'a#b']]],
	[
		'a \\\n  >= 1 \\\n  , < 2\nb',
		[
			[1, 'a   >= 1   , < 2'],
			[4, 'b'],
		],
	],
	['\n\\\n\\\na', [[2, 'a']]],
	['a==1\\', [[1, 'a==1']]],
	['a\\\\\nb', [[1, 'ab']]],
	[
		'a==1 \\\n# a comment ends the line\nb',
		[
			[1, 'a==1'],
			[3, 'b'],
		],
	],
	['a # \\\nb', [[1, 'a']]],
	['a\\\n#b', [[1, 'a']]],
	['# a comment goes on \\\nb', [[2, 'b']]],
	['# $' + '{HOME}\na==$1', [[2, 'a==$1']]],
	['# ünïcödé 🐍', []],
];

for (const [text, lines] of cases) {
	test(`reads ${JSON.stringify(text)}`, (t) => {
		t.deepEqual(
			logicalLines(text, 'a.txt'),
			lines.map(([line, content]) => ({place: {file: 'a.txt', line}, content})),
		);
	});
}

const {lines, lineBytes, joinedBytes, sizeBytes} = requirementsLimits;
const refused: ReadonlyArray<readonly [text: string, message: RegExp]> = [
	['\n\na\0b', /^a\.txt, line 3: expected text without control characters; found "\\u0000"$/],
	['# a comment\u2028b', /line 1: expected text without control/],
	['# a comment\u000bb', /control/],
	['# a comment\u0085b', /control/],
	['a\u001b[0m', /control/],
	['# \ud800', /line 1: expected well-formed Unicode/],
	['a\n--index-url=https://$' + '{TOKEN}@x', /line 2: expected .*variables of the environment.*found "\$\{TOKEN\}"/],
	['a;os_name=="$' + '{HOME}"', /variables of the environment/],
	['a\n'.repeat(lines + 1), /^a\.txt: expected at most 50000 lines; found more$/],
	[`#${'a'.repeat(lineBytes)}`, /line 1: expected at most 4096 bytes a line/],
	[`a${' \\\n--hash=b'.repeat(joinedBytes / 8)}`, /line 1: expected at most 65536 bytes in a continued line/],
	[`${'#'.repeat(1023)}\n`.repeat(sizeBytes / 1024 + 1), /at most 4194304 bytes/],
];

for (const [text, message] of refused) {
	test(`refuses ${JSON.stringify(text.slice(0, 60))}, ${text.length} characters`, (t) => {
		t.throws(() => logicalLines(text, 'a.txt'), {instanceOf: ForktreeError, code: 'InvalidRequirements', message});
	});
}

test('exactly the limits are read', (t) => {
	t.is(logicalLines('a\n'.repeat(lines), undefined).length, lines);
	t.is(logicalLines('a'.repeat(lineBytes), undefined).length, 1);
});

test('a message names the place, what was expected and the beginning of what was found, without passwords', (t) => {
	const message = (found: string | undefined) => invalidRequirements({file: undefined, line: 2}, 'b', found).message;
	t.is(message('a"'), 'requirements, line 2: expected b; found "a\\""');
	t.is(message(''), 'requirements, line 2: expected b; found the end of the line');
	t.is(message(undefined), 'requirements, line 2: expected b; found more');
	t.is(message('x'.repeat(100)), `requirements, line 2: expected b; found "${'x'.repeat(60)}"`);
	t.is(message(`x${'y'.repeat(50)} //user:${'Q'.repeat(100)}@host`).includes('Q'), false);
});
