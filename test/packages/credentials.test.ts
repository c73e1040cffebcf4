import test from 'ava';
import {Credentials} from '../../src/packages/credentials.ts';

test('are kept by origin, and not in the address', (t) => {
	const credentials = new Credentials();
	t.is(credentials.learn('https://some%40body:p%2Fss@example.org:8443/simple/'), 'https://example.org:8443/simple/');
	t.is(credentials.learn('https://example.com/simple'), 'https://example.com/simple');
	t.is(credentials.learn('not an address'), 'not an address');
	t.is(credentials.for('https://example.org:8443/files/six.whl'), 'some@body:p/ss');
	t.is(credentials.for('https://example.org/files/six.whl'), undefined);
	t.is(credentials.for('http://example.org:8443/files/six.whl'), undefined);
	t.is(credentials.for('https://example.com/six.whl'), undefined);
});

test('are in no text that is shown', (t) => {
	const credentials = new Credentials();
	t.is(credentials.mask('at http://user:secret@host/, "//token@host"'), 'at http://****@host/, "//****@host"');
	t.is(credentials.mask('a mail to me@host'), 'a mail to me@host');
	credentials.learn('https://user:p%2Fssword@example.org/');
	credentials.learn('https://onlytoken@example.net/');
	credentials.addSecret('abc');
	t.is(credentials.mask('p/ssword p%2Fssword onlytoken abc user'), '**** **** **** abc user');
});

test('a name alone does not take the place of its password', (t) => {
	const credentials = new Credentials();
	credentials.set('https://example.org/simple/', 'me', '100%25 p@ss');
	t.is(credentials.for('https://example.org/a.whl'), 'me:100%25 p@ss');
	t.is(credentials.learn('https://me@example.org/simple/'), 'https://example.org/simple/');
	t.is(credentials.for('https://example.org/a.whl'), 'me:100%25 p@ss');
	credentials.learn('https://other@example.org/simple/');
	t.is(credentials.for('https://example.org/a.whl'), 'other:');
	credentials.set('https://example.org/', 'other', 'new pass');
	t.is(credentials.for('https://example.org/a.whl'), 'other:new pass');
	t.is(credentials.mask('100%25 p@ss, 100%2525%20p%40ss, new pass'), '****, ****, ****');
});
