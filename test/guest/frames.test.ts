import path from 'node:path';
import test from 'ava';
import {execa} from 'execa';
import {fuzzSeconds} from '../helpers/fuzz.ts';
import {python} from '../helpers/runtime.ts';

test('the guest hears the same frames wherever their stream is cut', async (t) => {
	const script = path.join(import.meta.dirname, 'fuzz_frames.py');
	const {exitCode, all} = await execa(python, [script, String(fuzzSeconds ?? 1)], {all: true, reject: false});
	t.log(all);
	t.is(exitCode, 0, all);
});
