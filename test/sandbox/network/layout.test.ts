import test from 'ava';
import {parseAddress} from '../../../src/sandbox/network/addresses.ts';
import {layOut} from '../../../src/sandbox/network/layout.ts';
import {parseRules} from '../../../src/sandbox/network/rules.ts';
import {resolveNetwork} from '../../../src/sandbox/network/settings.ts';

function layoutOf(...allow: readonly string[]) {
	return layOut(parseRules(allow, 'allow'), 'allow');
}

function find(layout: ReturnType<typeof layOut>, text: string, port: number) {
	return layout.find(parseAddress(text) as NonNullable<ReturnType<typeof parseAddress>>, port);
}

test('each name leads to an address of loopback, and from there back to the name', (t) => {
	const layout = layoutOf('db.example:5432', 'cache:6379', 'db.example:443', '*.example.org:8443');
	t.is(layout.hosts, '127.0.0.1 localhost sandbox\n::1 localhost\n127.200.0.1 db.example\n127.200.0.2 cache\n');
	const db = {host: {name: 'db.example'}, port: 5432, text: 'db.example:5432'};
	t.deepEqual(find(layout, '127.200.0.1', 5432), db);
	t.deepEqual(find(layout, '127.200.0.2', 5432), {host: {name: 'cache'}, port: 5432, text: 'cache:5432'});
	t.is(find(layout, '127.200.255.254', 3128), 'proxy');
});

test('an address without a name is whom somebody wants himself', (t) => {
	const layout = layoutOf('10.1.2.0/24:80');
	const address = parseAddress('10.1.2.3');
	t.deepEqual(find(layout, '10.1.2.3', 80), {host: {address}, port: 80, text: '10.1.2.3:80'});
	t.deepEqual(find(layout, '127.200.0.1', 80), {
		host: {address: parseAddress('127.200.0.1')},
		port: 80,
		text: '127.200.0.1:80',
	});
	t.like(find(layout, '2001:db8::1', 80), {text: '[2001:db8:0:0:0:0:0:1]:80'});
});

test('every port listens once, that of the proxy first; what is not loopback’s gets a route', (t) => {
	const layout = layoutOf(
		'a:80',
		'b:80',
		'*.c:81',
		'127.0.0.1:82',
		'10.1.2.0/24:83',
		'10.1.2.0/24:84',
		'[2001:db8::/32]:80',
	);
	t.is(layout.setUp, `p3128;p80;p82;p83;p84;r0a010200/24;r20010db8${'0'.repeat(24)}/32;`);
	t.is(layout.listeners, 5);
	t.is(layoutOf('squid:3128').setUp, 'p3128;');
	t.is(layoutOf('[::1]:80', '127.1.0.0/16:80').setUp, 'p3128;p80;');
	t.is(layoutOf().setUp, 'p3128;');
});

test('thirteen different ports can listen', (t) => {
	const ports = (count: number) => Array.from({length: count}, (_each, i) => `a:${i + 1}`);
	t.is(layoutOf(...ports(13)).listeners, 14);
	t.throws(() => layoutOf(...ports(14)), {
		instanceOf: RangeError,
		message: /^allow: expected at most 13 different ports/,
	});
});

test('an allow-list has limits', (t) => {
	const defaults = {connections: 64, connectionsPerSecond: 64, transferMb: 1024};
	t.deepEqual(resolveNetwork({allow: ['a:1']}, 'network'), {allow: ['a:1'], ...defaults});
	t.deepEqual(resolveNetwork({allow: [], connections: 1, transferMb: 0.5}, 'network'), {
		...defaults,
		allow: [],
		connections: 1,
		transferMb: 0.5,
	});
});

for (const [given, error, message] of [
	[[], TypeError, /^network: expected an object with the rules as allow/],
	[null, TypeError, /^network: expected an object/],
	[{}, TypeError, /^network\.allow: expected an array of rules/],
	[{allow: ['a']}, RangeError, /^network\.allow\[0\]: expected 'host:port'/],
	[{allow: [], deny: []}, TypeError, /^network: expected allow, connections, .*, got "deny"/],
	[{allow: [], connections: '5'}, TypeError, /^network\.connections: expected a number, got "5"/],
	[{allow: [], connections: 0}, RangeError, /^network\.connections: expected a whole number above 0/],
	[{allow: [], connections: 1.5}, RangeError, /^network\.connections: expected a whole number above 0/],
	[
		{allow: [], connectionsPerSecond: Number.NaN},
		RangeError,
		/^network\.connectionsPerSecond: expected a whole number/,
	],
	[{allow: [], transferMb: Number.POSITIVE_INFINITY}, RangeError, /^network\.transferMb: expected a number above 0/],
] as const) {
	test(`${JSON.stringify(given)} is no network`, (t) => {
		t.throws(() => resolveNetwork(given, 'network'), {instanceOf: error, message});
	});
}
