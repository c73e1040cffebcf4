import test from 'ava';
import fc from 'fast-check';
import {parseAddress} from '../../../src/sandbox/network/addresses.ts';
import {
	isAddressListed,
	isNameListed,
	parseRules,
	readDestination,
	readName,
	refusalOfAddress,
} from '../../../src/sandbox/network/rules.ts';
import {fuzzParameters} from '../../helpers/fuzz.ts';

const parameters = fuzzParameters(3);

function hostOf(rule: string) {
	const [parsed] = parseRules([rule], 'allow');
	return parsed?.host;
}

function address(text: string) {
	return parseAddress(text) as NonNullable<ReturnType<typeof parseAddress>>;
}

for (const [rule, name] of [
	['example.com:443', 'example.com'],
	['EXAMPLE.com:443', 'example.com'],
	['example.com.:443', 'example.com'],
	['db:5432', 'db'],
	['my_db.internal:5432', 'my_db.internal'],
	['bücher.example:80', 'xn--bcher-kva.example'],
	['1and1.de:80', '1and1.de'],
] as const) {
	test(`${rule} lists a name`, (t) => t.deepEqual(hostOf(rule), {kind: 'name', name}));
}

test('a star lists the names below one', (t) => {
	t.deepEqual(hostOf('*.example.com:443'), {kind: 'below', suffix: '.example.com'});
	t.deepEqual(hostOf('*.bücher.example:443'), {kind: 'below', suffix: '.xn--bcher-kva.example'});
});

for (const [rule, first, prefix] of [
	['10.1.2.3:80', '10.1.2.3', 32],
	['10.1.2.0/24:5432', '10.1.2.0', 24],
	['0.0.0.0/0:443', '0.0.0.0', 0],
	['[::1]:80', '::1', 128],
	['[2001:db8::/32]:443', '2001:db8::', 32],
] as const) {
	test(`${rule} lists addresses`, (t) => {
		const {family, value} = address(first);
		t.deepEqual(hostOf(rule), {kind: 'network', network: {family, first: value, prefix}});
	});
}

for (const [rule, expected] of [
	['', /'host:port'/],
	['example.com', /'host:port'/],
	['example.com:', /a port from 1 to 65535/],
	['example.com:0', /a port from 1 to 65535/],
	['example.com:65536', /a port from 1 to 65535/],
	['example.com:080', /a port from 1 to 65535/],
	['example.com:*', /a port from 1 to 65535/],
	['example.com:80-90', /a port from 1 to 65535/],
	['http://example.com:80', /'host:port'/],
	['user@example.com:80', /the name of a host/],
	['::1:80', /'host:port'/],
	['[10.0.0.1]:80', /an IPv6 address/],
	['[::1/129]:80', /a prefix from 0 to 128/],
	['[fe80::1%eth0]:80', /an IPv6 address/],
	['10.1.2.0/33:80', /a prefix from 0 to 32/],
	['10.1.2.0/:80', /a prefix from 0 to 32/],
	['10.1.2.0/024:80', /a prefix from 0 to 32/],
	['10.1.2.3/24:80', /whose bits behind the first 24 are 0/],
	['10.1.2/24:80', /an IPv4 address/],
	['10.1.2.3/24/8:80', /an IPv4 address/],
	['127.1:80', /an IPv4 address/],
	['2130706433:80', /an IPv4 address/],
	['0x7f000001:80', /the name of a host/],
	['example.com/24:80', /the name of a host/],
	['*:80', /'\*' only as the first label/],
	['*.:80', /'\*' only as the first label/],
	['a.*.com:80', /'\*' only as the first label/],
	['*a.com:80', /'\*' only as the first label/],
	['*.*.com:80', /'\*' only as the first label/],
	['-a.com:80', /the name of a host/],
	['a..com:80', /the name of a host/],
	[`${'a'.repeat(64)}.com:80`, /the name of a host/],
	['a b.com:80', /the name of a host/],
	['a\n.com:80', /the name of a host/],
	['localhost:80', /loopback by its address/],
	['*.localhost:80', /loopback by its address/],
] as const) {
	test(`${JSON.stringify(rule)} is no rule`, (t) => {
		t.throws(() => parseRules(['ok.example:1', rule], 'allow'), {
			instanceOf: RangeError,
			message: new RegExp(`^allow\\[1\\]: expected .*${expected.source}.*, got `),
		});
	});
}

test('what is no text is no rule', (t) => {
	for (const rule of [80, null, undefined, ['a:1'], {}]) {
		t.throws(() => parseRules([rule], 'allow'), {instanceOf: TypeError, message: /^allow\[0\]: expected 'host:port'/});
	}
	for (const list of ['a:1', undefined, null, {}]) {
		t.throws(() => parseRules(list, 'allow'), {instanceOf: TypeError, message: /^allow: expected an array of rules/});
	}
	t.throws(() => parseRules(Array(257).fill('a:1'), 'allow'), {instanceOf: RangeError, message: /at most 256 rules/});
});

test('any text is a rule or a RangeError, and what is listed by it is not what it does not name', (t) => {
	const letters = fc.constantFrom(...'a1.*:/[]-_ %@é0xf'.split(''));
	fc.assert(
		fc.property(fc.string({unit: letters, maxLength: 24}), (text) => {
			try {
				const rules = parseRules([text], 'allow');
				t.false(isNameListed(rules, 'other.example', 1));
				t.false(isAddressListed(rules, address('169.254.169.254'), 80));
			} catch (error) {
				t.true(error instanceof RangeError);
			}
		}),
		parameters,
	);
});

const rules = parseRules(
	['example.com:443', '*.example.org:443', '10.1.2.0/24:5432', '0.0.0.0/0:8080', '[fd00::/8]:80'],
	'allow',
);

for (const [name, port, expected] of [
	['example.com', 443, true],
	['example.com', 80, false],
	['www.example.com', 443, false],
	['notexample.com', 443, false],
	['example.org', 443, false],
	['a.example.org', 443, true],
	['a.b.example.org', 443, true],
	['aexample.org', 443, false],
	['a.example.org', 8080, false],
	['example.com.evil.net', 443, false],
] as const) {
	test(`the name ${name} with port ${port} is listed: ${expected}`, (t) =>
		t.is(isNameListed(rules, name, port), expected));
}

for (const [text, port, listed, reached] of [
	['10.1.2.3', 5432, true, true],
	['10.1.2.3', 443, false, false],
	['10.1.3.3', 5432, false, false],
	['8.8.8.8', 8080, true, true],
	['8.8.8.8', 443, false, true],
	['10.1.2.3', 8080, false, false],
	['169.254.169.254', 8080, false, false],
	['fd00::1', 80, true, true],
	['fd00::1', 443, false, false],
	['::ffff:10.1.2.3', 5432, false, false],
] as const) {
	test(`the address ${text} with port ${port} is listed: ${listed}; a name may lead there: ${reached}`, (t) => {
		t.is(isAddressListed(rules, address(text), port), listed);
		t.is(refusalOfAddress(rules, address(text), port) === undefined, reached);
	});
}

for (const [text, expected] of [
	['example.com:443', {host: {name: 'example.com'}, port: 443, text: 'example.com:443'}],
	['Example.COM.:443', {host: {name: 'example.com'}, port: 443, text: 'Example.COM.:443'}],
	['10.1.2.3:80', {host: {address: address('10.1.2.3')}, port: 80, text: '10.1.2.3:80'}],
	['[::1]:80', {host: {address: address('::1')}, port: 80, text: '[::1]:80'}],
	['example.com', undefined],
	['example.com:0', undefined],
	['[10.1.2.3]:80', undefined],
	['::1:80', undefined],
	['[example.com]:80', undefined],
	['127.1:80', undefined],
	['2130706433:80', undefined],
	['0x7f000001:80', undefined],
	['0177.0.0.1:80', undefined],
	['user@example.com:80', undefined],
	['example.com:80/path', undefined],
	['example.com:80 ', undefined],
	['exa\0mple.com:80', undefined],
	['', undefined],
] as const) {
	test(`${JSON.stringify(text)} is asked of a proxy`, (t) => t.deepEqual(readDestination(text), expected));
}

test('a port can be left out where there is a usual one', (t) => {
	t.deepEqual(readDestination('a.b', 80), {host: {name: 'a.b'}, port: 80, text: 'a.b:80'});
	t.deepEqual(readDestination('[::1]', 80)?.text, '[::1]:80');
	t.is(readDestination('a.b:', 80), undefined);
});

test('any text is a destination or none, and a name is never what resolvers take for an address', (t) => {
	fc.assert(
		fc.property(
			fc.oneof(fc.string({maxLength: 40}), fc.string({unit: fc.constantFrom(...'0123xaf.:[]'.split(''))})),
			(text) => {
				const found = readDestination(text, 80);
				if (found === undefined) return;
				t.true(found.port >= 1 && found.port <= 65_535);
				if ('name' in found.host) t.notRegex(found.host.name, /(?:^|\.)(?:\d+|0x[\da-f]*)$/);
			},
		),
		parameters,
	);
	fc.assert(
		fc.property(fc.string({unit: fc.constantFrom(...'aB1.-_é'.split('')), maxLength: 20}), (text) => {
			const name = readName(text);
			if (name !== undefined) t.is(readName(name), name, 'it is as it is compared');
		}),
		parameters,
	);
});

test('a hole in the list, and values that JSON has no words for, are refused by name', (t) => {
	const holes = new Array<string>(1);
	const loop: unknown[] = [];
	loop.push(loop);
	for (const value of [holes, [5n], [loop]]) {
		t.throws(() => parseRules(value, 'allow'), {instanceOf: TypeError, message: /^allow\[0\]: expected 'host:port'/});
	}
	t.throws(() => parseRules(5n, 'allow'), {
		instanceOf: TypeError,
		message: /^allow: expected an array of rules, got "5n"$/,
	});
});
