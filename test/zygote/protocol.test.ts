import test from 'ava';
import fc from 'fast-check';
import {decodeReport, frameType} from '../../src/zygote/protocol.ts';

test('every frame type has a number of its own', (t) => {
	const numbers = Object.values(frameType);
	t.is(new Set(numbers).size, numbers.length);
});

const report = {failed: [{module: 'm', traceback: 't'}], threaded: ['x'], importMs: 1.5};

test('a report is read', (t) => t.deepEqual(decodeReport(JSON.stringify(report)), report));

for (const [title, words] of [
	['no JSON', '{'],
	['null', 'null'],
	['one of wrong fields', JSON.stringify({...report, threaded: [1]})],
	['one of null failures', JSON.stringify({...report, failed: [null]})],
	['one without a time', JSON.stringify({...report, importMs: '1'})],
] as const) {
	test(`${title} is no report`, (t) => t.is(decodeReport(words), undefined));
}

test('any JSON is a report or none', (t) => {
	fc.assert(fc.property(fc.json(), (words) => ['object', 'undefined'].includes(typeof decodeReport(words))));
	t.pass();
});
