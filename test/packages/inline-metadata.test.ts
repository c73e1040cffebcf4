import test from 'ava';
import fc from 'fast-check';
import {ForktreeError} from '../../src/errors.ts';
import {readInlineMetadata} from '../../src/packages/inline-metadata.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';

const read = (text: string) => readInlineMetadata(Buffer.from(text), 'f.py');
const dependencies = (text: string) =>
	read(text)
		?.texts('dependencies')
		?.map(({content}) => content);

/** The reference implementation's expression, of the section "Reference Implementation" of PEP 723, as JavaScript has it. */
const OF_THE_PEP = /^# \/\/\/ ([a-zA-Z0-9-]+)$\s((?:^#(?:| .*)$\s)+)^# \/\/\/$/gm;

for (const [title, text, expected] of [
	[
		'the example of the PEP',
		'# /// script\n# requires-python = ">=3.11"\n# dependencies = [\n#   "requests<3",\n#   "rich",\n# ]\n# ///\n\nimport requests\n',
		['requests<3', 'rich'],
	],
	[
		'below a line for the shell, and an empty comment',
		'#!/usr/bin/env python3\n\n# /// script\n#\n# dependencies = ["six"]\n#\n# ///',
		['six'],
	],
	['line ends of Windows', '# /// script\r\n# dependencies = ["six"]\r\n# ///\r\n', ['six']],
	['names that are not ASCII', '# /// script\n# dependencies = ["ä"]\n# ///\n', ['ä']],
	[
		'what other tools say',
		'# /// script\n# dependencies = ["six"]\n# [tool.uv]\n# exclude-newer = "2023"\n# ///\n',
		['six'],
	],
	['a block of another type', '# /// other\n# dependencies = ["six"]\n# ///\n', undefined],
	['a block that does not end', '# /// script\n# dependencies = ["six"]\n\n# ///\n', undefined],
	['a block that is no comment', '/// script\ndependencies = ["six"]\n///\n', undefined],
	['a block without content', '# /// script\n# ///\n', undefined],
	['a comment without its space', '# /// script\n#dependencies = ["six"]\n# ///\n', undefined],
	['an end further down is the end', '# /// script\n# dependencies = ["""\n# ///\n# """]\n# ///\n', ['///\n']],
	['nothing', '', undefined],
] as const) {
	test(title, (t) => t.deepEqual(dependencies(text), expected as readonly string[] | undefined));
}

for (const [title, bytes, message] of [
	[
		'two blocks',
		'# /// script\n# a = 1\n# ///\n\n# /// script\n# a = 1\n# ///\n',
		/^f\.py, line 5: expected one block/,
	],
	['no TOML', '#\n# /// script\n# a = 1\n# b = \n# ///\n', /^f\.py, line 4: expected TOML \(.*\); found "b = "/],
	['not UTF-8', Buffer.from('# /// script\n# a = "\xff"\n# ///\n', 'latin1'), /^f\.py, line 2: expected UTF-8/],
	['nested deeply', `# /// script\n# a = ${'['.repeat(30_000)}\n# ///\n`, /^f\.py, line 2: expected TOML/],
	['a long line', `# /// script\n# a = "${'x'.repeat(70_000)}"\n# ///\n`, /^f\.py: expected at most 65536 characters/],
] as const) {
	test(`refused: ${title}`, (t) => {
		const error = t.throws(() => readInlineMetadata(Buffer.from(bytes as string), 'f.py'), {
			code: 'InvalidRequirements',
		});
		t.regex(error?.message ?? '', message);
	});
}

test('a file in another encoding than UTF-8 is nobody’s business', (t) => {
	const source = Buffer.from(
		'# coding: latin-1\n# /// script\n# dependencies = ["six"]\n# ///\nx = "\xff"\n',
		'latin1',
	);
	t.deepEqual(readInlineMetadata(source, 'f.py')?.texts('dependencies')?.length, 1);
});

test('starts without an end, for which the expression of the PEP takes minutes', (t) => {
	t.is(read('# /// script\n'.repeat(80_000)), undefined);
});

test('property: finds what the expression of the PEP finds', (t) => {
	const line = fc.constantFrom(
		'# /// script',
		'# /// a',
		'# ///',
		'#',
		'# ',
		'# a = 1',
		'#a',
		'',
		'x',
		'# /// script ',
		'## ///',
	);
	fc.assert(
		fc.property(fc.array(line, {maxLength: 12}), (lines) => {
			const text = lines.join('\n');
			const expected = [...text.matchAll(OF_THE_PEP)]
				.filter(([, type]) => type === 'script')
				.map(([, , content = '']) => content);
			const table = (() => {
				try {
					return read(text) === undefined ? 0 : 1;
				} catch (error) {
					return /expected one block/.test((error as Error).message) ? 2 : 1;
				}
			})();
			t.is(table, Math.min(expected.length, 2), JSON.stringify(text));
		}),
		{numRuns: 2000, ...fuzzParameters(2)},
	);
	t.pass();
});

test('property: any text is an answer or a typed error', (t) => {
	const piece = fc.oneof(
		fc.constantFrom(
			'# /// script\n',
			'# ///\n',
			'# ',
			'\n# dependencies = [',
			'"six"',
			']',
			'= ',
			'{',
			'\r',
			'\u2028',
			'\ud800',
			'"""',
		),
		fc.string({unit: 'binary'}),
	);
	fc.assert(
		fc.property(fc.array(piece, {maxLength: 30}), (pieces) => {
			try {
				dependencies(`# /// script\n# ${pieces.join('')}\n# ///\n`);
			} catch (error) {
				if (!(error instanceof ForktreeError && error.code === 'InvalidRequirements')) throw error;
			}
		}),
		fuzzParameters(2),
	);
	t.pass();
});
