import test from 'ava';
import fc from 'fast-check';
import {
	bitsOf,
	contains,
	isMeant,
	networkOf,
	parseAddress,
	specialWords,
	unmapped,
	writeAddress,
} from '../../../src/sandbox/network/addresses.ts';
import {fuzzParameters} from '../../helpers/fuzz.ts';

const parameters = fuzzParameters(3);

function parsed(text: string) {
	const address = parseAddress(text);
	if (address === undefined) throw new Error(`expected an address, got ${text}`);
	return address;
}

const anyAddress = fc.oneof(
	fc.bigInt({min: 0n, max: 2n ** 32n - 1n}).map((value) => ({family: 4 as const, value})),
	fc.bigInt({min: 0n, max: 2n ** 128n - 1n}).map((value) => ({family: 6 as const, value})),
);

for (const [text, family, value] of [
	['0.0.0.0', 4, 0n],
	['10.1.2.3', 4, 0x0a_01_02_03n],
	['255.255.255.255', 4, 2n ** 32n - 1n],
	['::', 6, 0n],
	['::1', 6, 1n],
	['1::', 6, 1n << 112n],
	['fe80::1', 6, (0xfe80n << 112n) + 1n],
	['1:2:3:4:5:6:7:8', 6, 0x0001_0002_0003_0004_0005_0006_0007_0008n],
	['::ffff:10.1.2.3', 6, (0xffffn << 32n) + 0x0a_01_02_03n],
	['2001:DB8::a', 6, (0x2001_0db8n << 96n) + 10n],
] as const) {
	test(`${text} is an address`, (t) => t.deepEqual(parseAddress(text), {family, value}));
}

for (const text of [
	'',
	'1',
	'10.1',
	'10.1.2.3.4',
	'010.1.2.3',
	'0x7f.0.0.1',
	'256.1.1.1',
	'10.1.2.3/8',
	':',
	':::',
	'[::1]',
	'fe80::1%lo',
	'1::2::3',
]) {
	test(`${JSON.stringify(text)} is none`, (t) => t.is(parseAddress(text), undefined));
}

test('an address that was written is read again', (t) => {
	fc.assert(
		fc.property(anyAddress, (address) => t.deepEqual(parseAddress(writeAddress(address)), address)),
		parameters,
	);
});

test('an address is in the network of each of its prefixes, and its neighbour beyond the prefix is not', (t) => {
	fc.assert(
		fc.property(anyAddress, fc.nat(128), (address, some) => {
			const prefix = some % (bitsOf(address.family) + 1);
			const network = networkOf(address, prefix);
			t.true(contains(network, address));
			if (prefix === 0) return;
			const value = address.value ^ (1n << BigInt(bitsOf(address.family) - prefix));
			t.false(contains(network, {family: address.family, value}));
		}),
		parameters,
	);
});

test('a network has no address of the other family', (t) => {
	t.false(contains(networkOf(parsed('0.0.0.0'), 0), parsed('::1')));
	t.false(contains(networkOf(parsed('::'), 0), parsed('127.0.0.1')));
});

for (const text of [
	...['0.0.0.0', '0.1.2.3', '10.0.0.1', '10.255.255.255', '100.64.0.1', '100.100.100.200', '127.0.0.1', '127.200.0.1'],
	...['168.63.129.16', '169.254.0.1', '169.254.169.254', '172.16.0.1', '172.31.255.255', '192.0.0.1', '192.168.1.1'],
	...['198.18.0.1', '224.0.0.1', '239.255.255.250', '240.0.0.1', '255.255.255.255', '::', '::1', '::7f00:1'],
	...['::ffff:10.0.0.1', '::ffff:8.8.8.8', '64:ff9b::a00:1', '2002:a00:1::', '2001::1', 'fc00::1', 'fd00:ec2::254'],
	...['fe80::1', 'febf::1', 'fec0::1', 'ff02::1'],
]) {
	test(`${text} is special`, (t) => t.is(typeof specialWords(parsed(text)), 'string'));
}

for (const text of [
	'1.1.1.1',
	'8.8.8.8',
	'11.0.0.0',
	'100.63.255.255',
	'100.128.0.0',
	'172.15.0.1',
	'172.32.0.1',
	'223.255.255.255',
	'2606:4700::1111',
	'2a00::1',
	'fbff::1',
]) {
	test(`${text} is the internet’s`, (t) => t.is(specialWords(parsed(text)), undefined));
}

for (const [network, prefix, text, expected] of [
	['0.0.0.0', 0, '8.8.8.8', true],
	['0.0.0.0', 0, '10.0.0.1', false],
	['0.0.0.0', 0, '169.254.169.254', false],
	['10.0.0.0', 7, '10.0.0.1', false],
	['10.0.0.0', 8, '10.0.0.1', true],
	['10.1.0.0', 16, '10.1.0.1', true],
	['10.1.0.0', 16, '10.2.0.1', false],
	['127.0.0.1', 32, '127.0.0.1', true],
	['::', 0, '::1', false],
	['::1', 128, '::1', true],
	['::', 0, '::ffff:127.0.0.1', false],
	['::', 0, '2606:4700::1', true],
] as const) {
	test(`whoever lists ${network}/${prefix} means ${text}: ${expected}`, (t) => {
		t.is(isMeant(networkOf(parsed(network), prefix), parsed(text)), expected);
	});
}

test('an IPv4 address that a socket of both families tells is one', (t) => {
	t.deepEqual(unmapped(parsed('::ffff:10.1.2.3')), parsed('10.1.2.3'));
	fc.assert(
		fc.property(anyAddress, (address) => {
			const isMapped = address.family === 6 && address.value >> 32n === 0xffffn;
			t.is(unmapped(address) === address, !isMapped);
		}),
		parameters,
	);
});
