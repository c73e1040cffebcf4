import test from 'ava';
import fc from 'fast-check';
import {Layout, readPackageId} from '../../src/packages/layout.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';

const layout = new Layout('/store');
const text = (unit: string, length: number) =>
	fc.string({unit: fc.constantFrom(...unit), minLength: 1, maxLength: length});
const names = fc.oneof(fc.string(), text('ab1-', 4), text('a1-./_=@\0\n A', 4));
const versions = fc.oneof(fc.string(), text('1.', 5), text('1.!+-ab/=@\0\n ', 6));
const hashes = fc.oneof(fc.string(), text('0123456789abcdef/.', 17), {
	arbitrary: fc.constant('0123456789abcdef'),
	weight: 4,
});
const abis = fc.oneof(fc.string(), text('a1-_./', 7), {arbitrary: fc.constant('cpython-311-x86_64'), weight: 4});

test('whatever is read as a package has a path three folders below the store', (t) => {
	let accepted = 0;
	fc.assert(
		fc.property(abis, names, versions, hashes, (abi, name, version, hash) => {
			const id = readPackageId(abi, `${name}==${version}`, hash);
			if (id === undefined) return;
			accepted += 1;
			t.is(layout.package(id), `/store/${abi}/${name}==${version}/${hash}`);
			t.is(layout.package(id).split('/').length, 5);
			t.false(/[\s\0@]|(^|\/)\.\.?(\/|$)/.test(layout.package(id)));
		}),
		{numRuns: 5000, ...fuzzParameters(1)},
	);
	t.true(accepted > 10, String(accepted));
});

const good: ReadonlyArray<readonly [string, string]> = [
	['a', '1'],
	['zope-interface', '5.4.0'],
	['a1-2b', '1!2.0.post3.dev4+ubuntu.1-2_3'],
	['a', '1.0a1'],
	['a', '1.0.0-rc.1'],
	['a', '2023c'],
	['a', '1.0-1'],
];
for (const [name, version] of good) {
	test(`${name} ${version}`, (t) => {
		const id = readPackageId('cpython-311-x86_64', `${name}==${version}`, '0123456789abcdef');
		t.deepEqual(id, {abi: 'cpython-311-x86_64', name, version, hash: '0123456789abcdef'});
	});
}

for (const abi of ['cpython-311-x86_64', 'cpython-313t-aarch64', 'cpython-39-armv7l']) {
	test(`abi ${abi}`, (t) => t.not(readPackageId(abi, 'a==1', '0123456789abcdef'), undefined));
}
for (const abi of ['archives', 'cpython', 'cpython-311', 'cpython-311-x86_64/..', '.cpython-311-x', '']) {
	test(`abi '${abi}' is none`, (t) => t.is(readPackageId(abi, 'a==1', '0123456789abcdef'), undefined));
}
