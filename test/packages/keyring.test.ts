import {execFileSync} from 'node:child_process';
import {existsSync, readFileSync, writeFileSync} from 'node:fs';
import {rm} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import {setTimeout as sleep} from 'node:timers/promises';
import test, {type ExecutionContext} from 'ava';
import {Keyring, type KeyringOptions} from '../../src/packages/keyring.ts';
import {courierProgram, courierText, courierVariable} from '../../src/packages/keyring-courier.ts';
import {isAlive} from '../helpers/host-process.ts';
import {writeKeyring} from '../helpers/keyring.ts';
import {temporaryFolder} from '../helpers/runtime.ts';

const never = new AbortController().signal;
const url = 'https://pypi.example:8443/simple/';

type Fixture = {
	readonly folder: string;
	readonly keyring: Keyring;
	/** What the program was asked, in turn. */
	asked(): string[];
};

/** A program on `PATH` that notes what it is asked and then runs commands. */
async function fake(t: ExecutionContext, body: string, options: KeyringOptions = {}): Promise<Fixture> {
	const folder = await temporaryFolder();
	const before = process.env.PATH ?? '';
	t.teardown(async () => {
		process.env.PATH = before;
		await rm(folder, {recursive: true, force: true});
	});
	const log = path.join(folder, 'log');
	writeFileSync(log, '');
	writeKeyring(folder, `echo "$*" >> ${log}\n${body}`);
	process.env.PATH = `${folder}:${before}`;
	const asked = () => readFileSync(log, 'utf8').split('\n').slice(0, -1);
	return {folder, keyring: new Keyring(options), asked};
}

test.serial('the address is asked for, then the host; an answer is not asked for again', async (t) => {
	const {keyring, asked} = await fake(t, `[ "$2" = pypi.example:8443 ] || exit 1\necho "of $3"`);
	const account = {username: 'me', password: 'of me'};
	t.deepEqual(await keyring.find(url, 'me', never), {account, problem: undefined});
	t.deepEqual(asked(), [`get ${url} me`, 'get pypi.example:8443 me']);
	t.deepEqual((await keyring.find(url, 'me', never)).account, account);
	t.is(asked().length, 2);
	t.is((await keyring.find(url, 'you', never)).account?.password, 'of you');
	t.is(asked().length, 4);
});

test.serial('an answer counts for a while only', async (t) => {
	const {keyring, asked} = await fake(t, 'echo "password $(wc -l < "$(dirname "$0")/log")"', {keepMs: 1});
	t.is((await keyring.find(url, 'me', never)).account?.password, 'password 1');
	await sleep(5);
	t.is((await keyring.find(url, 'me', never)).account?.password, 'password 2');
	t.deepEqual(asked(), [`get ${url} me`, `get ${url} me`]);
});

test.serial('without a name it is asked for both', async (t) => {
	const {keyring, asked} = await fake(t, String.raw`printf 'me\npass word\n'`);
	t.deepEqual((await keyring.find(url, undefined, never)).account, {username: 'me', password: 'pass word'});
	t.deepEqual(asked(), [`get ${url} --mode creds`]);
});

test.serial('it has our environment, and nothing to ask on', async (t) => {
	process.env.FORKTREE_TEST = 'seen';
	t.teardown(() => delete process.env.FORKTREE_TEST);
	const {keyring} = await fake(t, 'echo "$FORKTREE_TEST $PYTHONIOENCODING $(cat | wc -c)"');
	t.is((await keyring.find(url, 'me', never)).account?.password, 'seen utf-8 0');
});

const secret = 'open-sesame-4711';
const failures: Readonly<Record<string, readonly [body: string, why: RegExp, asked: number]>> = {
	'has no such password': ['exit 1', /asked for pypi\.example:8443, ended with exit code 1$/, 2],
	'fails after it has said something': [`echo ${secret}; echo ${secret} >&2; exit 3`, /ended with exit code 3$/, 2],
	'is killed': ['kill -9 $$', /ended with SIGKILL$/, 2],
	'says nothing': ['exit 0', /did not answer with a password$/, 2],
	'says several lines': [`echo ${secret}; echo ${secret}`, /did not answer with a password$/, 2],
	'says what is no text': [String.raw`printf '${secret}\377\n'`, /did not answer with a password$/, 2],
	'says what no terminal shows': [String.raw`printf '${secret}\033[0m\n'`, /did not answer with a password$/, 2],
	'says too much': [`yes ${secret}`, /said more than 16384 bytes$/, 1],
};
for (const [what, [body, why, times]] of Object.entries(failures)) {
	test.serial(`a program that ${what} is one without the password, and why is told without its words`, async (t) => {
		const {keyring, asked} = await fake(t, body);
		const {account, problem = ''} = await keyring.find(url, 'me', never);
		t.is(account, undefined);
		t.regex(problem, why);
		t.regex(problem, /^the program keyring, asked for /);
		t.false(problem.includes(secret));
		t.is(asked().length, times);
	});
}

test.serial('one line is no name and password', async (t) => {
	const {keyring} = await fake(t, `echo ${secret}`);
	const {account, problem = ''} = await keyring.find(url, undefined, never);
	t.is(account, undefined);
	t.regex(problem, /asked for pypi\.example:8443 and a name, did not answer with a password$/);
});

test.serial('a program that hangs is ended at its deadline, with all that it has begun', async (t) => {
	const {folder, keyring, asked} = await fake(t, 'echo $$ > "$(dirname "$0")/pid"; sleep 600 & sleep 600', {
		timeoutMs: 300,
	});
	const began = performance.now();
	const {account, problem} = await keyring.find(url, 'me', never);
	t.true(performance.now() - began < 10_000);
	t.deepEqual([account, problem], [undefined, `the program keyring, asked for ${url}, took more than 0.3 seconds`]);
	t.is(asked().length, 1, 'the host is not asked for as well');
	const group = readFileSync(path.join(folder, 'pid'), 'utf8').trim();
	await sleep(100);
	t.false(isAlive(Number(group)));
	t.throws(() => execFileSync('pgrep', ['--pgroup', group, '--runstates', 'S,R,D']), {message: /pgrep/});
});

test.serial('a program that nobody waits for any more is ended, and asked again', async (t) => {
	const {folder, keyring} = await fake(t, 'echo $$ > "$(dirname "$0")/pid"; sleep 600');
	const stopping = new AbortController();
	const finding = keyring.find(url, 'me', stopping.signal);
	while (!existsSync(path.join(folder, 'pid'))) await sleep(10);
	stopping.abort();
	t.regex((await finding).problem ?? '', /was not waited for$/);
	writeKeyring(folder, `echo ${secret}`);
	t.is((await keyring.find(url, 'me', AbortSignal.abort())).account, undefined);
	t.is((await keyring.find(url, 'me', never)).account?.password, secret);
});

test.serial('there is none', async (t) => {
	const before = process.env.PATH;
	t.teardown(() => {
		process.env.PATH = before;
	});
	process.env.PATH = '/nowhere';
	const {account, problem} = await new Keyring().find(url, 'me', never);
	t.is(account, undefined);
	t.is(problem, `the program keyring, asked for ${url}, can not be run: spawn keyring ENOENT`);
});

test('the courier answers by address or host what it was given, and nothing else', async (t) => {
	const folder = await temporaryFolder();
	t.teardown(() => rm(folder, {recursive: true, force: true}));
	const password = ` "p'a\\ss" $(id) %s * `;
	const text = courierText([
		[url, {username: 'me', password}],
		['https://other.example/simple', {username: 'me', password: 'second'}],
		['https://other.example/more/', {username: 'you', password: '-n'}],
	]);
	const file = path.join(folder, 'courier');
	writeFileSync(file, courierProgram);
	const ask = (...argv: readonly string[]) => {
		try {
			const env = {PATH: process.env.PATH, [courierVariable]: text};
			return execFileSync('sh', [file, ...argv], {env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe']});
		} catch (error) {
			return (error as {status: number}).status;
		}
	};
	for (const service of [url, url.slice(0, -1), `${url}six/`]) {
		t.is(ask('get', service, 'me'), `${password}\n`);
		t.is(ask('get', service, '--mode', 'creds'), `me\n${password}\n`);
		t.is(ask('get', service, 'you'), 1);
		t.is(ask('set', service, 'me'), 1);
	}
	t.is(ask('get', 'https://other.example/simple/', 'me'), 'second\n');
	t.is(ask('get', 'https://other.example/more', 'you'), '-n\n');
	const others = [
		'pypi.example:8443',
		'https://pypi.example:8443/',
		`${url.slice(0, -1)}-more/`,
		url.replace('s:', ':'),
	];
	for (const service of [...others, '', '/', '*', 'me']) t.is(ask('get', service, 'me'), 1);
	t.is(ask(), 1);
});
