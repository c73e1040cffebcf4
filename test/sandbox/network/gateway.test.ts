/** A gateway between connections of this process and servers of it, with names that a test decides on. */
import {randomBytes} from 'node:crypto';
import {createServer as createHttpServer, type IncomingMessage} from 'node:http';
import {connect, createServer, type Server, type Socket} from 'node:net';
import test, {type ExecutionContext} from 'ava';
import fc from 'fast-check';
import {socketPair, watch} from '../../../src/native.ts';
import {Gateway, type GatewayDeadlines, type NetworkEvents} from '../../../src/sandbox/network/gateway.ts';
import {parseRules, readDestination} from '../../../src/sandbox/network/rules.ts';
import {fuzzSeconds} from '../../helpers/fuzz.ts';
import {until, within} from '../../helpers/pool.ts';
import {listen, listenEcho} from '../../helpers/servers.ts';

type Told = {[Name in keyof NetworkEvents]: {name: Name; detail: NetworkEvents[Name][0]}}[keyof NetworkEvents];

type Setting = {
	readonly allow?: readonly string[];
	readonly names?: Readonly<Record<string, readonly string[]>>;
	readonly deadlines?: Partial<GatewayDeadlines>;
	readonly connections?: number;
	readonly transferMb?: number;
	/** Whom connections want; by default the proxy. */
	readonly wanted?: string;
};

const usual = {dialMs: 5000, headMs: 5000, idleMs: 5000};

/** Gives descriptors of what it accepts, as they come from a sandbox's listener: copies, since Node.js keeps its own. */
function acceptInto(take: (fd: number) => void): Server {
	return createServer({pauseOnConnect: true}, (socket) => {
		const [ours, theirs] = socketPair(true);
		const receiver = watch(theirs, 'packets', (_event, _data, fds = []) => {
			receiver.close();
			for (const fd of fds) take(fd);
		});
		const sender = watch(ours, 'packets', () => undefined);
		sender.send(Buffer.from('x'), [(socket as unknown as {_handle: {fd: number}})._handle.fd]);
		sender.close();
		socket.destroy();
	});
}

/** What a gateway was asked for, and told. */
class Subject {
	readonly told: Told[] = [];
	readonly lookedUp: string[] = [];
	readonly gateway: Gateway;
	readonly #port: number;

	constructor(gateway: Gateway, port: number) {
		this.gateway = gateway;
		this.#port = port;
	}

	static async make(t: ExecutionContext, setting: Setting): Promise<Subject> {
		const {allow = [], names = {}, deadlines = {}, connections = 8, transferMb = 64, wanted} = setting;
		const server = acceptInto((fd) =>
			gateway.serve(fd, wanted === undefined ? 'proxy' : (readDestination(wanted) ?? 'proxy')),
		);
		const subject: Subject = new Subject(
			new Gateway({
				rules: parseRules(allow, 'allow'),
				limits: {connections, transferMb},
				deadlines: {...usual, ...deadlines},
				lookup: async (name) => {
					subject.lookedUp.push(name);
					const found = names[name];
					if (found === undefined) throw new Error('no such name');
					return found;
				},
				tell: (name, detail) => void subject.told.push({name, detail} as Told),
			}),
			await listen(t, server),
		);
		const {gateway} = subject;
		t.teardown(() => gateway.close());
		return subject;
	}

	connect(): Socket {
		return connect({port: this.#port, host: '127.0.0.1', allowHalfOpen: true}).on('error', () => undefined);
	}

	/** What comes until the other side has closed, of a connection that has sent that, and says no more. */
	async talk(text: string | Buffer): Promise<string> {
		const socket = this.connect();
		socket.write(text);
		return readAll(socket);
	}

	refusals(): string[] {
		return this.told.flatMap(({name, detail}) =>
			name === 'connectionRefused' ? [`${detail.code} ${detail.destination}`] : [],
		);
	}

	async disconnected(): Promise<NetworkEvents['disconnected'][0]> {
		const find = () => this.told.find((each) => each.name === 'disconnected');
		await until(() => find() !== undefined, 'the end of a connection');
		return find()?.detail as NetworkEvents['disconnected'][0];
	}
}

/** Settles when it is closed, with whether it was broken off. */
async function closed(socket: Socket): Promise<boolean> {
	if (socket.closed) return socket.errored !== null;
	const end = new Promise<boolean>((resolve) => socket.once('close', resolve));
	return within(end, 'the end of a connection');
}

async function readAll(socket: Socket): Promise<string> {
	let text = '';
	socket.on('data', (data) => {
		text += data.toString('latin1');
	});
	socket.once('end', () => socket.end());
	await closed(socket);
	return text;
}

function statusOf(answer: string): number {
	return Number(/^HTTP\/1\.1 (\d{3}) /.exec(answer)?.[1]);
}

test('CONNECT reaches a listed name by an address that was checked, and what went both ways is counted', async (t) => {
	const port = await listenEcho(t);
	const names = {'db.example': ['10.9.9.9', '127.0.0.1']};
	const subject = await Subject.make(t, {allow: [`db.example:${port}`, `127.0.0.1:${port}`], names});
	const socket = subject.connect();
	// What follows the head at once is the first of the tunnel.
	socket.end(`CONNECT db.example:${port} HTTP/1.1\r\nHost: other\r\n\r\nearly`);
	t.is(await readAll(socket), 'HTTP/1.1 200 Connection established\r\n\r\nearly');
	const reached = {destination: `db.example:${port}`, address: '127.0.0.1', via: 'proxy'};
	t.like(await subject.disconnected(), {...reached, sentBytes: 5, receivedBytes: 5});
	t.deepEqual(subject.told[0], {name: 'connected', detail: reached} as Told);
	t.is(subject.told.length, 2);
	t.deepEqual(subject.lookedUp, ['db.example'], 'it is looked up once');
	t.is(subject.gateway.size, 0);
});

test('what is not listed is not looked up', async (t) => {
	const subject = await Subject.make(t, {allow: ['a.example:443', '*.b.example:443', '127.0.0.1:443']});
	for (const target of [
		'a.example:80',
		'b.example:443',
		'evil.example:443',
		'127.0.0.2:443',
		'[::1]:443',
		'169.254.169.254:443',
	]) {
		t.is(statusOf(await subject.talk(`CONNECT ${target} HTTP/1.1\r\n\r\n`)), 403, target);
	}
	t.is(statusOf(await subject.talk('GET http://evil.example:443/ HTTP/1.1\r\nHost: a.example:443\r\n\r\n')), 403);
	t.deepEqual(subject.lookedUp, []);
	t.is(subject.refusals().length, 7);
	t.true(subject.refusals().every((each) => each.startsWith('NotListed ')));
});

for (const address of [
	'127.0.0.1',
	'10.0.0.1',
	'169.254.169.254',
	'::1',
	'::ffff:127.0.0.1',
	'fe80::1%lo',
	'0.0.0.0',
	'100.64.0.1',
	'nonsense',
]) {
	test(`a listed name that leads to ${address} is refused`, async (t) => {
		const port = await listenEcho(t);
		const subject = await Subject.make(t, {
			allow: [`rebound.example:${port}`, '0.0.0.0/0:1', `[::/0]:${port}`],
			names: {'rebound.example': [address]},
		});
		const answer = await subject.talk(`CONNECT rebound.example:${port} HTTP/1.1\r\n\r\n`);
		t.is(statusOf(answer), 403);
		t.true(answer.includes(address));
		t.deepEqual(subject.refusals(), [`SpecialAddress rebound.example:${port}`]);
	});
}

test('a name whose addresses change is refused when they do', async (t) => {
	const port = await listenEcho(t);
	const names: Record<string, string[]> = {'a.example': ['127.0.0.1']};
	const subject = await Subject.make(t, {
		allow: [`a.example:${port}`, `127.0.0.1:${port}`],
		names,
		wanted: `a.example:${port}`,
	});
	const first = subject.connect();
	first.end('x');
	t.is(await readAll(first), 'x');
	names['a.example'] = ['127.0.0.2'];
	t.is(await subject.talk('x'), '');
	t.deepEqual(subject.refusals(), [`SpecialAddress a.example:${port}`]);
});

test('a name without an address, one that is not found, and one that nobody answers for are told apart from the unlisted', async (t) => {
	const subject = await Subject.make(t, {
		allow: ['none.example:80', 'unknown.example:80', 'closed.example:1', '127.0.0.1:1'],
		names: {'none.example': [], 'closed.example': ['127.0.0.1']},
	});
	for (const target of ['none.example:80', 'unknown.example:80', 'closed.example:1']) {
		t.is(statusOf(await subject.talk(`CONNECT ${target} HTTP/1.1\r\n\r\n`)), 502, target);
	}
	t.deepEqual(subject.refusals(), [
		'NotResolved none.example:80',
		'NotResolved unknown.example:80',
		'NotReached closed.example:1',
	]);
});

test('a lookup has a deadline', async (t) => {
	const subject = await Subject.make(t, {allow: ['slow.example:80'], deadlines: {dialMs: 20}});
	const gateway = new Gateway({
		rules: parseRules(['slow.example:80'], 'allow'),
		limits: {connections: 1, transferMb: 1},
		deadlines: {...usual, dialMs: 20},
		lookup: () => new Promise(() => undefined),
		tell: (name, detail) => void subject.told.push({name, detail} as Told),
	});
	const server = acceptInto((fd) => gateway.serve(fd, readDestination('slow.example:80') ?? 'proxy'));
	const socket = connect(await listen(t, server), '127.0.0.1').on('error', () => undefined);
	await closed(socket);
	t.deepEqual(subject.refusals(), ['NotResolved slow.example:80']);
});

/** Answers with what it was asked. */
async function mirror(t: ExecutionContext, seen: IncomingMessage[] = []): Promise<number> {
	return listen(
		t,
		createHttpServer((asked, response) => {
			seen.push(asked);
			let body = '';
			asked.on('data', (data) => {
				body += data;
			});
			asked.on('end', () => {
				response.setHeader('x-own', ['1', '2']);
				response.end(`${asked.method} ${asked.url} ${asked.headers.host} ${body}`);
			});
		}),
	);
}

test('a request for an http:// address is passed on by name, in a form made anew', async (t) => {
	const seen: IncomingMessage[] = [];
	const port = await mirror(t, seen);
	const subject = await Subject.make(t, {
		allow: [`*.example:${port}`, `127.0.0.1:${port}`],
		names: {'web.example': ['127.0.0.1']},
	});
	const head = [
		`POST http://web.example:${port}/a/../b?c=d HTTP/1.1`,
		'Host: elsewhere',
		'Proxy-Authorization: Basic x',
		'Proxy-Connection: keep-alive',
		'Connection: keep-alive, X-Hop',
		'X-Hop: secret',
		'X-Kept: yes',
		'Content-Length: 4',
	];
	const answer = await subject.talk(`${head.join('\r\n')}\r\n\r\nbody`);
	t.is(statusOf(answer), 200);
	t.true(answer.endsWith(`POST /a/../b?c=d web.example:${port} body`));
	t.regex(answer, /x-own: 1\r\nx-own: 2\r\n/i);
	t.regex(answer, /connection: close\r\n/i);
	const headers = seen[0]?.headers ?? {};
	t.is(headers['x-kept'], 'yes');
	for (const gone of ['x-hop', 'proxy-authorization', 'proxy-connection']) t.is(headers[gone], undefined, gone);
	const {sentBytes, receivedBytes} = await subject.disconnected();
	t.true(sentBytes > 60 && receivedBytes > 60);
});

test('a body in chunks is passed on, and one without an end is not', async (t) => {
	const port = await mirror(t);
	const allow = [`127.0.0.1:${port}`];
	const subject = await Subject.make(t, {allow});
	const head = `PUT http://127.0.0.1:${port}/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n`;
	t.regex(await subject.talk(`${head}3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n`), / abcde$/);
	const broken = await subject.talk(`${head}3\r\nabcnonsense`);
	t.not(statusOf(broken), 200);
	await until(() => subject.gateway.size === 0, 'no connection');
});

for (const [title, text, status] of [
	['a request to a server, not to a proxy', 'GET / HTTP/1.1\r\nHost: a.example\r\n\r\n', 400],
	['an https:// address', 'GET https://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n', 400],
	['a file: address', 'GET file:///etc/passwd HTTP/1.1\r\nHost: a.example\r\n\r\n', 400],
	['an address with a user', 'GET http://a.example@evil.example/ HTTP/1.1\r\nHost: a\r\n\r\n', 400],
	['CONNECT without a port', 'CONNECT a.example HTTP/1.1\r\n\r\n', 400],
	['CONNECT to what resolvers take for loopback', 'CONNECT 0x7f000001:80 HTTP/1.1\r\n\r\n', 400],
	['CONNECT to a path', 'CONNECT /etc/passwd HTTP/1.1\r\n\r\n', 400],
	['no HTTP', 'SSH-2.0-OpenSSH_9.0\r\n\r\n', 400],
	['TLS', Buffer.from('16030100a5010000a1', 'hex'), 400],
	['HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 400],
	['a head beyond 16 KiB', `GET http://a.example/ HTTP/1.1\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`, 400],
	['an address beyond 16 KiB', `GET http://a.example/${'x'.repeat(20_000)} HTTP/1.1\r\n\r\n`, 400],
	['a length said twice', 'POST http://a.example/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab', 400],
	[
		'a length and chunks',
		'POST http://a.example/ HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
		400,
	],
	['a header over two lines', 'GET http://a.example/ HTTP/1.1\r\nHost: a\r\nX: 1\r\n\t2\r\nY\r\n\r\n', 400],
	['a header with a bare line feed', 'GET http://a.example/ HTTP/1.1\nHost: a\nX : 1\n\n', 400],
] as const) {
	test(`what is no request to a proxy is refused: ${title}`, async (t) => {
		const subject = await Subject.make(t, {allow: ['a.example:80']});
		t.is(statusOf(await subject.talk(text)), status);
		t.deepEqual(subject.refusals(), ['BadRequest ']);
		t.deepEqual(subject.lookedUp, []);
		await until(() => subject.gateway.size === 0, 'no connection');
	});
}

test('a second request on a connection gets nowhere', async (t) => {
	const seen: IncomingMessage[] = [];
	const port = await mirror(t, seen);
	const subject = await Subject.make(t, {allow: [`127.0.0.1:${port}`]});
	const one = `GET http://127.0.0.1:${port}/1 HTTP/1.1\r\nHost: a\r\n\r\n`;
	await subject.talk(one + one.replace('/1 ', '/2 '));
	await until(() => subject.gateway.size === 0, 'no connection');
	t.true(seen.every(({url}) => url === '/1'));
	const tunnelled = await subject.talk(`${one}CONNECT 127.0.0.1:${port} HTTP/1.1\r\n\r\n`);
	t.false(tunnelled.includes('established'));
});

test('a head that does not come in time is the end of its connection', async (t) => {
	const subject = await Subject.make(t, {allow: [], deadlines: {headMs: 30}});
	for (const half of ['', 'GET http://a.exa', 'GET http://a.example/ HTTP/1.1\r\nX: ']) {
		t.is(statusOf(await subject.talk(half)), 400);
	}
	t.deepEqual(subject.refusals(), Array(3).fill('BadRequest '));
});

test('a connection on which nothing goes either way is ended', async (t) => {
	const port = await listenEcho(t);
	const destination = `127.0.0.1:${port}`;
	const subject = await Subject.make(t, {allow: [destination], wanted: destination, deadlines: {idleMs: 50}});
	t.true(await closed(subject.connect().resume()));
	t.is((await subject.disconnected()).reason, 'nothing went either way for 50 ms');
});

test('one connection beyond the limit is refused, and taken when one has ended', async (t) => {
	const port = await listenEcho(t);
	const subject = await Subject.make(t, {allow: [`127.0.0.1:${port}`], wanted: `127.0.0.1:${port}`, connections: 2});
	const open = [subject.connect(), subject.connect()];
	await until(() => subject.told.length === 2, 'two connections');
	t.is(await subject.talk('x'), '');
	t.deepEqual(subject.refusals(), [`TooMany 127.0.0.1:${port}`]);
	for (const socket of open) socket.destroy();
	await until(() => subject.gateway.size === 0, 'no connection');
	const last = subject.connect();
	last.end('x');
	t.is(await readAll(last), 'x');
});

test('beyond its bytes a sandbox has no connections any more', async (t) => {
	const port = await listenEcho(t);
	const subject = await Subject.make(t, {allow: [`127.0.0.1:${port}`], wanted: `127.0.0.1:${port}`, transferMb: 1});
	const idle = subject.connect();
	await until(() => subject.told.length === 1, 'a connection');
	const answer = await subject.talk(Buffer.alloc(4 * 1024 * 1024));
	t.true(answer.length < 2 * 1024 * 1024);
	t.true(await closed(idle.resume()));
	const {reason, sentBytes} = await subject.disconnected();
	t.regex(reason, /has transferred 1 MiB \(network\.transferMb\)/);
	t.true(sentBytes < 3 * 1024 * 1024);
	t.is(await subject.talk('x'), '');
	t.deepEqual(subject.refusals(), [`TooMany 127.0.0.1:${port}`]);
});

test('however much goes, and however slowly it is taken, it comes as it was sent', async (t) => {
	const port = await listenEcho(t);
	const subject = await Subject.make(t, {allow: [`127.0.0.1:${port}`], wanted: `127.0.0.1:${port}`});
	const bytes = randomBytes(24 * 1024 * 1024);
	const socket = subject.connect();
	socket.end(bytes);
	// Until all buffers on the way are full.
	for (let before = -1; before < socket.bytesWritten - socket.writableLength; ) {
		before = socket.bytesWritten - socket.writableLength;
		for (let turn = 0; turn < 50; turn += 1) await new Promise((resolve) => setImmediate(resolve));
	}
	const received: Buffer[] = [];
	for await (const data of socket) received.push(data as Buffer);
	t.true(Buffer.concat(received).equals(bytes), 'other bytes came');
	t.like(await subject.disconnected(), {sentBytes: bytes.length, receivedBytes: bytes.length});
});

test('each side can end what it sends and still receive', async (t) => {
	const port = await listen(
		t,
		createServer({allowHalfOpen: true}, (socket) => void socket.on('end', () => socket.end('late')).resume()),
	);
	const subject = await Subject.make(t, {allow: [`127.0.0.1:${port}`], wanted: `127.0.0.1:${port}`});
	const socket = subject.connect();
	socket.end('x');
	t.is(await readAll(socket), 'late');
	t.like(await subject.disconnected(), {sentBytes: 1, receivedBytes: 4});
});

test('when the other side breaks off, so does the sandbox’s', async (t) => {
	const port = await listen(
		t,
		createServer((socket) => void socket.once('data', () => socket.resetAndDestroy())),
	);
	const subject = await Subject.make(t, {allow: [`127.0.0.1:${port}`], wanted: `127.0.0.1:${port}`});
	const socket = subject.connect();
	socket.write('x');
	t.true(await closed(socket.resume()));
});

test('a closed gateway has ended every connection and told of it', async (t) => {
	const port = await listenEcho(t);
	const subject = await Subject.make(t, {allow: [`127.0.0.1:${port}`], wanted: `127.0.0.1:${port}`});
	const sockets = [subject.connect(), subject.connect()];
	await until(() => subject.told.length === 2, 'two connections');
	await subject.gateway.close();
	const ended = subject.told.filter(({name}) => name === 'disconnected');
	t.is(ended.length, 2);
	t.is(subject.gateway.size, 0);
	for (const socket of sockets) t.true(await closed(socket.resume()));
	t.is(await subject.talk('x'), '');
});

test('a server that answers what is no HTTP does no harm', async (t) => {
	for (const answer of [
		'nonsense\r\n\r\n',
		'HTTP/1.1 999999 x\r\n\r\n',
		'HTTP/1.1 099 x\r\n\r\n',
		'HTTP/1.1 200 a\x01b\r\nX: \x02\r\n\r\n',
		'HTTP/1.1 101 x\r\nUpgrade: y\r\nConnection: upgrade\r\n\r\n',
		'',
	]) {
		const port = await listen(
			t,
			createServer((socket) => void socket.on('error', () => undefined).end(answer)),
		);
		const subject = await Subject.make(t, {allow: [`127.0.0.1:${port}`]});
		const got = await subject.talk(`GET http://127.0.0.1:${port}/ HTTP/1.1\r\n\r\n`);
		t.not(statusOf(got), 0, answer);
		await until(() => subject.gateway.size === 0, 'no connection');
	}
});

test('any bytes at the proxy are a request or refused, and leave nothing', async (t) => {
	const port = await mirror(t);
	const subject = await Subject.make(t, {allow: [`127.0.0.1:${port}`], deadlines: {headMs: 50}, connections: 64});
	const pieces = [
		...['GET ', 'POST ', 'CONNECT ', 'http://', `127.0.0.1:${port}`, '/', ' HTTP/1.1', ' HTTP/1.0', '\r\n', '\n', '\0'],
		...[
			'Host: x',
			'Content-Length: 5',
			'Transfer-Encoding: chunked',
			'5\r\nabcde\r\n',
			'0\r\n\r\n',
			' ',
			'\t',
			'@',
			'[::1]:80',
		],
		...['Connection: upgrade', 'Upgrade: h2c', 'Expect: 100-continue', '\r\n\r\n', '\xff', 'a.example:80'],
	];
	const request = fc.oneof(
		{
			weight: 4,
			arbitrary: fc
				.array(fc.constantFrom(...pieces), {maxLength: 14})
				.map((parts) => Buffer.from(parts.join(''), 'latin1')),
		},
		{weight: 1, arbitrary: fc.uint8Array({maxLength: 64}).map((bytes) => Buffer.from(bytes))},
	);
	const ends = fc.constantFrom('end', 'reset', 'wait');
	await fc.assert(
		fc.asyncProperty(fc.array(fc.tuple(request, ends), {minLength: 1, maxLength: 8}), async (requests) => {
			await Promise.all(
				requests.map(async ([bytes, end]) => {
					const socket = subject.connect();
					if (end === 'end') socket.end(bytes);
					else socket.write(bytes, () => (end === 'reset' ? socket.resetAndDestroy() : undefined));
					// A tunnel, or a body that does not come, would stay open.
					const late = setTimeout(() => socket.destroy(), 150);
					await readAll(socket);
					clearTimeout(late);
				}),
			);
			await until(() => subject.gateway.size === 0, 'no connection');
			t.true(subject.told.every(({name, detail}) => name === 'connectionRefused' || detail.address === '127.0.0.1'));
			subject.told.length = 0;
		}),
		fuzzSeconds === undefined
			? {numRuns: 20}
			: {numRuns: Number.MAX_SAFE_INTEGER, interruptAfterTimeLimit: fuzzSeconds * 1000},
	);
	t.deepEqual(subject.lookedUp, []);
});
