import test from 'ava';
import fc from 'fast-check';
import {decodeReport, frameType} from '../../src/zygote/protocol.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';

const parameters = fuzzParameters(2);

test('every frame type has a number of its own', (t) => {
	const numbers = Object.values(frameType);
	t.is(new Set(numbers).size, numbers.length);
});

const failed = [{module: 'm', traceback: 't'}];
const report = {failed, warmUpsFailed: failed, threaded: ['x'], refused: null, loadMs: 0, importMs: 1.5};

test('a report is read', (t) => t.deepEqual(decodeReport(JSON.stringify(report)), report));

for (const [title, words] of [
	['no JSON', '{'],
	['null', 'null'],
	['one of wrong fields', JSON.stringify({...report, threaded: [1]})],
	['one of wrong warm-ups', JSON.stringify({...report, warmUpsFailed: [{module: 'm'}]})],
	['one of null failures', JSON.stringify({...report, failed: [null]})],
	['one refused without a reason', JSON.stringify({...report, refused: true})],
	['one without a time', JSON.stringify({...report, importMs: '1'})],
] as const) {
	test(`${title} is no report`, (t) => t.is(decodeReport(words), undefined));
}

test('any text is a report or none', (t) => {
	fc.assert(
		fc.property(fc.string(), (words) => ['object', 'undefined'].includes(typeof decodeReport(words))),
		parameters,
	);
	t.pass();
});

test('any JSON is a report or none', (t) => {
	const mostly = <T>(usual: fc.Arbitrary<T>) => fc.oneof({weight: 8, arbitrary: usual}, fc.jsonValue());
	const failure = fc.record({module: mostly(fc.string()), traceback: mostly(fc.string())}, {requiredKeys: []});
	const anyReport = fc.record(
		{
			failed: mostly(fc.array(mostly(failure), {maxLength: 3})),
			warmUpsFailed: mostly(fc.array(mostly(failure), {maxLength: 3})),
			refused: mostly(fc.option(fc.string())),
			loadMs: mostly(fc.double({noNaN: true, noDefaultInfinity: true})),
			threaded: mostly(fc.array(mostly(fc.string()), {maxLength: 3})),
			importMs: mostly(fc.double({noNaN: true, noDefaultInfinity: true})),
		},
		{requiredKeys: []},
	);
	fc.assert(
		fc.property(mostly(anyReport), (value) => {
			const decoded = decodeReport(JSON.stringify(value));
			if (decoded === undefined) return true;
			const {failed: imports, warmUpsFailed, threaded, importMs} = decoded;
			const texts = [
				...threaded,
				...[...imports, ...warmUpsFailed].flatMap(({module, traceback}) => [module, traceback]),
			];
			return typeof importMs === 'number' && texts.every((text) => typeof text === 'string');
		}),
		parameters,
	);
	t.pass();
});
