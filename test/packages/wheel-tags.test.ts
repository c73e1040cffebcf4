import {execFileSync} from 'node:child_process';
import test from 'ava';
import fc from 'fast-check';
import {preferredWheel} from '../../src/packages/wheel-tags.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';
import {python} from '../helpers/runtime.ts';

const program = `
import json, sys
try:
    from packaging import tags
except ImportError:
    try:
        from pip._vendor.packaging import tags
    except ImportError:
        tags = None
print(json.dumps([sys.version_info[1], [str(tag) for tag in tags.sys_tags()] if tags else []]))
`;
const [minor, tags] = JSON.parse(execFileSync(python, ['-I', '-c', program], {encoding: 'utf8'})) as [number, string[]];

const wheel = (tag: string, build = '') => `six-1.0${build}-${tag}.whl`;

test('the order in which installers prefer wheels', (t) => {
	const order = [
		'cp311-cp311-manylinux_2_28_x86_64',
		'cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64',
		'cp311-cp311-manylinux1_x86_64',
		'cp311-cp311-linux_x86_64',
		'cp311-abi3-manylinux_2_17_x86_64',
		'cp311-none-manylinux_2_17_x86_64',
		'cp39-abi3-manylinux_2_17_x86_64',
		'cp37-abi3-manylinux_2_28_x86_64',
		'py3-none-manylinux_2_17_x86_64',
		'py311-none-any',
		'py2.py3-none-any',
		'py310-none-any',
		'py30-none-any',
	].map((tag) => wheel(tag));
	for (let from = 0; from < order.length; from += 1) {
		t.is(preferredWheel(order.slice(from).reverse(), 11), order[from]);
	}
	t.is(preferredWheel([wheel('py3-none-any', '-1'), wheel('py3-none-any', '-2')], 11), wheel('py3-none-any', '-2'));
	t.is(preferredWheel(['six.tar.gz', 'six-1.0-py2-none-any.whl'], 11), undefined);
	t.is(preferredWheel([], 11), undefined);
});

const compared = tags.length > 0 ? test : test.skip;
compared('is that of the packaging library', (t) => {
	fc.assert(
		fc.property(fc.array(fc.nat(tags.length - 1), {minLength: 1, maxLength: 5}), (indices) => {
			const best = Math.min(...indices);
			const names = indices.map((index) => wheel(tags[index] ?? ''));
			return preferredWheel(names, minor) === wheel(tags[best] ?? '');
		}),
		fuzzParameters(1),
	);
	t.pass();
});
