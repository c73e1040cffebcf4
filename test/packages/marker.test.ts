import {execFileSync} from 'node:child_process';
import os from 'node:os';
import test from 'ava';
import fc from 'fast-check';
import {ForktreeError} from '../../src/errors.ts';
import {holds, markerEnvironment} from '../../src/packages/marker.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';
import {python} from '../helpers/runtime.ts';

const place = {file: 'pylock.toml', line: undefined, field: 'packages[0].marker'};
const environment = markerEnvironment({version: '3.11.2'}, ['My_Group']);
const evaluate = (content: string) => holds({content, place}, environment);

for (const [marker, expected] of [
	['python_version >= "3.10"', true],
	['python_version < "3.9"', false],
	['"3.9" <= python_version', true],
	['python_full_version == "3.11.*"', true],
	['python_full_version ~= "3.11.0"', true],
	['sys_platform == "linux"', true],
	["sys_platform == 'win32'", false],
	['os_name != "nt"', true],
	[`platform_machine == "${os.machine()}"`, true],
	['platform_machine in "x86_64 aarch64"', true],
	['"linux" not in sys_platform', false],
	['extra == "x"', false],
	['extra != "x"', true],
	['"x" in extras', false],
	['"my-group" in dependency_groups', true],
	['"other" not in dependency_groups', true],
	['os_name == "nt" or os_name == "posix" and python_version == "3.11"', true],
	['(os_name == "nt" or os_name == "posix") and python_version == "3.9"', false],
	['  ( os_name=="posix" )\n', true],
] as const) {
	test(`holds: ${marker.trim()}`, (t) => t.is(evaluate(marker), expected));
}

for (const [title, marker, message] of [
	['nothing', '', /expected a variable of PEP 508/],
	['an unknown variable', 'host == "a"', /expected a variable .*found "host == /],
	['a comparison of texts', '"a" == "b"', /expected a variable on one side/],
	['an open parenthesis', '(os_name == "a"', /expected and, or, or \)/],
	['something at the end', 'os_name == "a" nor', /expected and, or, or the end/],
	['no operator', 'os_name "a"', /expected a comparison/],
	['not alone', 'os_name not "a"', /expected a comparison/],
	['a set that is compared', 'extras == "a"', /expected in before extras/],
	['a text that is not closed', 'os_name == "a', /expected a variable/],
	['deep parentheses', `${'('.repeat(30_000)}`, /expected at most 50 nested/],
	['a long one', `os_name == "${'a'.repeat(70_000)}"`, /expected at most 65536 characters/],
	['a name of objects', 'constructor == "a"', /expected a variable/],
] as const) {
	test(`refused: ${title}`, (t) => {
		const error = t.throws(() => evaluate(marker), {code: 'InvalidRequirements'});
		t.regex(error?.message ?? '', message);
		t.regex(error?.message ?? '', /^pylock\.toml, packages\[0\]\.marker: /);
	});
}

const PACKAGING = `
import json, sys
from pip._vendor.packaging.markers import Marker
print(json.dumps([Marker(text).evaluate() for text in json.load(sys.stdin)]))
`;
const version = fc.constantFrom('3.9', '3.10', '3.11', '3.11.2', '3.11.7', '3.12.0rc1', '3.13', '4');
const text = fc.constantFrom('linux', 'win32', 'posix', 'nt', 'CPython', 'cpython', 'x86_64', 'Linux', 'a', '');
const comparison = fc.oneof(
	fc
		.tuple(
			fc.constantFrom('python_version', 'python_full_version', 'implementation_version'),
			fc.constantFrom('==', '!=', '<', '<=', '>', '>='),
			version,
		)
		.map(([name, operator, value]) => `${name} ${operator} "${value}"`),
	fc
		.tuple(
			fc.constantFrom('os_name', 'sys_platform', 'platform_machine', 'platform_system', 'implementation_name'),
			fc.constantFrom('==', '!=', 'in', 'not in'),
			text,
		)
		.map(([name, operator, value]) => `${name} ${operator} '${value}'`),
	// Of versions before a release on the left packaging has thought again.
	fc
		.tuple(
			version.filter((each) => !each.includes('rc')),
			fc.constantFrom('<', '>='),
		)
		.map(([value, operator]) => `"${value}" ${operator} python_version`),
);
const marker: fc.Arbitrary<string> = fc.letrec<{marker: string}>((tie) => ({
	marker: fc.oneof(
		{maxDepth: 3},
		comparison,
		fc
			.tuple(tie('marker'), fc.constantFrom('and', 'or'), tie('marker'))
			.map(([left, word, right]) => `(${left}) ${word} ${right}`),
	),
})).marker;

test('property: the answers are those of packaging', (t) => {
	const script = 'import sys; print(".".join(map(str, sys.version_info[:3])))';
	const own = markerEnvironment({version: execFileSync(python, ['-I', '-c', script], {encoding: 'utf8'}).trim()});
	fc.assert(
		fc.property(fc.array(marker, {minLength: 100, maxLength: 200}), (markers) => {
			const output = execFileSync(python, ['-I', '-c', PACKAGING], {input: JSON.stringify(markers), encoding: 'utf8'});
			t.deepEqual(
				markers.map((content) => [content, holds({content, place}, own)]),
				(JSON.parse(output) as boolean[]).map((answer, index) => [markers[index] ?? '', answer]),
			);
		}),
		{numRuns: 3, endOnFailure: true, ...fuzzParameters(2)},
	);
});

test('property: any text is an answer or a typed error', (t) => {
	const piece = fc.oneof(
		fc.constantFrom(
			'(',
			')',
			' and ',
			' or ',
			'os_name',
			'"',
			"'",
			' in ',
			' not ',
			'==',
			'~=',
			'extras',
			'"1.*"',
			'\n',
		),
		fc.string({unit: 'binary', maxLength: 3}),
	);
	fc.assert(
		fc.property(fc.array(piece, {maxLength: 20}), (pieces) => {
			try {
				evaluate(pieces.join(''));
			} catch (error) {
				if (!(error instanceof ForktreeError && error.code === 'InvalidRequirements')) throw error;
			}
		}),
		{numRuns: 1000, ...fuzzParameters(2)},
	);
	t.pass();
});
