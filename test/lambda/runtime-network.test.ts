/** Functions that may reach some hosts. */
import {createServer} from 'node:net';
import type {ExecutionContext} from 'ava';
import type {DeployOptions, NetworkEvents, Outcome} from '../../src/index.ts';
import {kernelTest, serialKernelTest} from '../helpers/kernel-test.ts';
import {until} from '../helpers/pool.ts';
import {makeRuntime, py, useRuntime, value} from '../helpers/runtime.ts';
import {listen, listenEcho, listenHttp, lookUpInTable, names} from '../helpers/servers.ts';
import {provideWheels} from '../helpers/wheels.ts';

const packageName = 'forktree_fixture_network';
provideWheels({[packageName]: {[`${packageName}.py`]: 'import os\nIMPORTED_BY = os.getpid()\n'}});
const fixture = useRuntime({lookup: lookUpInTable});
names.set('db.test', ['127.0.0.1']);
names.set('www.web.test', ['127.0.0.1']);

const ask = py`
	import socket
	def f(event):
		with socket.create_connection((event['host'], event['port']), 10) as connection:
			connection.sendall(event['text'].encode())
			connection.shutdown(socket.SHUT_WR)
			data = b''
			while part := connection.recv(65536):
				data += part
			return data.decode()
`;

function network(port: number): DeployOptions {
	return {network: {allow: [`db.test:${port}`, `127.0.0.1:${port}`, `*.web.test:${port}`]}};
}

async function askFor(t: ExecutionContext, name: string, port: number): Promise<Outcome> {
	const outcome = await fixture().runtime.invoke(name, {host: 'db.test', port, text: 'ping'});
	t.is(value(t, outcome), 'ping');
	return outcome;
}

kernelTest('a function reaches what is listed, forked from a zygote and warm', async (t) => {
	const port = await listenEcho(t);
	const name = await fixture().deploy(ask, network(port));
	t.is((await askFor(t, name, port)).start, 'forked');
	t.is((await askFor(t, name, port)).start, 'warm');
});

kernelTest('a function reaches what is listed, in a fresh interpreter', async (t) => {
	const port = await listenEcho(t);
	const name = await fixture().deploy(ask, {...network(port), zygote: false});
	t.is((await askFor(t, name, port)).start, 'cold');
});

serialKernelTest('a function reaches what is listed, handed over by a node', async (t) => {
	const port = await listenEcho(t);
	const options = {requirements: [packageName], spares: 0, reuse: false, ownZygote: false};
	const name = await fixture().deploy(ask, {...options, ...network(port)});
	const other = await fixture().deploy(ask, options);
	let outcome = await askFor(t, name, port);
	for (let calls = 0; outcome.spare !== 'node' && calls < 50; calls += 1) {
		await new Promise(setImmediate);
		outcome = await askFor(t, name, port);
	}
	t.is(outcome.spare, 'node');
	// Spares of the node are for functions without a network as well, which so have none.
	for (let calls = 0; calls < 50; calls += 1) {
		await new Promise(setImmediate);
		const refused = await fixture().runtime.invoke(other, {host: '127.0.0.1', port, text: 'ping'});
		t.is(refused.ok ? undefined : refused.error.type, 'ConnectionRefusedError');
		if (refused.spare === 'node') return;
	}
	t.fail('expected a spare of the node');
});

serialKernelTest('a function reaches what is listed, started ahead', async (t) => {
	const port = await listenEcho(t);
	const name = await fixture().deploy(ask, {...network(port), spares: 2, reuse: false, ownZygote: false});
	let outcome = await askFor(t, name, port);
	for (let calls = 0; outcome.spare !== 'function' && calls < 50; calls += 1) {
		await new Promise(setImmediate);
		outcome = await askFor(t, name, port);
	}
	t.is(outcome.spare, 'function');
});

serialKernelTest('a function reaches what is listed, forked from a zygote of its own', async (t) => {
	const port = await listenEcho(t);
	const slow = `${ask}import time\ntime.sleep(0.3)\n`;
	const name = await fixture().deploy(slow, {...network(port), spares: 0, reuse: false});
	let outcome = await askFor(t, name, port);
	for (let calls = 0; !outcome.ownZygote && calls < 50; calls += 1) outcome = await askFor(t, name, port);
	t.true(outcome.ownZygote);
});

kernelTest('what a module connects to as it is loaded is there', async (t) => {
	const port = await listenEcho(t);
	const code = py`
		import os, socket
		connection = socket.create_connection(('db.test', int(os.environ['PORT'])), 10)
		connection.sendall(b'early')
		answer = connection.recv(100).decode()
		def f(event):
			return answer
	`;
	const outcome = await fixture().run(code, null, {...network(port), env: {PORT: String(port)}});
	t.is(value(t, outcome), 'early');
});

kernelTest('a function has the variables of the proxy, and its own instead', async (t) => {
	const port = await listenHttp(t);
	const code = py`
		import os, urllib.request
		def f(event):
			return [os.environ['https_proxy'], os.environ['NO_PROXY'], urllib.request.urlopen(event).read().decode()]
	`;
	const options = {...network(port), env: {NO_PROXY: 'own'}};
	const outcome = await fixture().run(code, `http://www.web.test:${port}/page`, options);
	t.deepEqual(value(t, outcome), ['http://127.200.255.254:3128', 'own', `www.web.test:${port} /page`]);
});

kernelTest('without a network a function reaches nothing', async (t) => {
	const port = await listenEcho(t);
	const outcome = await fixture().run(ask, {host: '127.0.0.1', port, text: 'x'}, {network: 'none'});
	t.is(outcome.ok ? undefined : outcome.error.type, 'ConnectionRefusedError');
});

kernelTest('connections and refusals are events of the runtime, with function and sandbox', async (t) => {
	const port = await listenEcho(t);
	const {runtime} = await makeRuntime(t, {lookup: lookUpInTable});
	const told: Array<{name: string; function: string; sandbox: string; destination: string}> = [];
	let sandbox = '';
	runtime.on('created', (event) => {
		sandbox = event.sandbox;
	});
	for (const name of ['connected', 'disconnected', 'connectionRefused'] as const) {
		runtime.on(name, (event: {function: string; sandbox: string; destination: string}) => told.push({name, ...event}));
	}
	await runtime.deploy(
		'asks',
		{'f.py': ask},
		{network: {allow: [`db.test:${port}`, `127.0.0.1:${port}`, 'rebound.test:80']}},
	);
	names.set('rebound.test', ['10.0.0.1']);
	t.is(value(t, await runtime.invoke('asks', {host: 'db.test', port, text: 'four'})), 'four');
	const refused = await runtime.invoke('asks', {host: 'rebound.test', port: 80, text: 'four'});
	t.is(refused.ok ? undefined : refused.error.type, 'ConnectionResetError');
	await until(() => told.length === 3, 'three events');
	const of = {function: 'asks', sandbox};
	t.like(told[0], {...of, name: 'connected', destination: `db.test:${port}`, via: 'socket', address: '127.0.0.1'});
	t.like(told[1], {...of, name: 'disconnected', sentBytes: 4, receivedBytes: 4});
	t.like(told[2], {...of, name: 'connectionRefused', destination: 'rebound.test:80', code: 'SpecialAddress'});
});

kernelTest('what an instance has open ends with it', async (t) => {
	let open = 0;
	const server = createServer((socket) => {
		open += 1;
		socket.on('close', () => (open -= 1)).resume();
	});
	const port = await listen(t, server);
	const code = py`
		import socket
		kept = []
		def f(event):
			kept.append(socket.create_connection(('127.0.0.1', event)))
			return len(kept)
	`;
	const name = await fixture().deploy(code, {network: {allow: [`127.0.0.1:${port}`]}});
	for (const count of [1, 2]) t.is(value(t, await fixture().runtime.invoke(name, port)), count);
	await until(() => open === 2, 'two connections');
	const reasons: string[] = [];
	const note = ({reason}: NetworkEvents['disconnected'][0]) => void reasons.push(reason);
	fixture().runtime.on('disconnected', note);
	await fixture().runtime.remove(name);
	fixture().runtime.off('disconnected', note);
	await until(() => open === 0, 'no connection');
	t.true(reasons.filter((reason) => reason === 'its sandbox has ended').length >= 2);
});

kernelTest('a network is a setting of ol.yaml, of the version, and of the next runtime', async (t) => {
	const port = await listenEcho(t);
	const {runtime, stateDir} = await makeRuntime(t, {lookup: lookUpInTable});
	const yaml = `network:\n  allow: ['db.test:${port}', '127.0.0.1:${port}']\n  connections: 2\n`;
	const event = {host: 'db.test', port, text: 'x'};
	const {version} = await runtime.deploy('asks', {'f.py': ask, 'ol.yaml': yaml});
	t.is(value(t, await runtime.invoke('asks', event)), 'x');
	await runtime.close();
	const {runtime: next} = await makeRuntime(t, {stateDir, lookup: lookUpInTable});
	t.is(value(t, await next.invoke('asks', event)), 'x');
	const other = await next.deploy('asks', {'f.py': ask, 'ol.yaml': yaml}, {network: 'none'});
	t.not(other.version, version);
	const refused = await next.invoke('asks', event);
	t.is(refused.ok ? undefined : refused.error.type, 'socket.gaierror');
});

kernelTest('a wrong network is told before anything is made', async (t) => {
	const code = {'f.py': 'def f(event): pass\n'};
	const {runtime} = fixture();
	await t.throwsAsync(runtime.deploy('wrong', code, {network: {allow: ['a']}}), {
		instanceOf: RangeError,
		message: /^network\.allow\[0\]: expected 'host:port'/,
	});
	await t.throwsAsync(runtime.deploy('wrong', code, {network: 'host' as never}), {
		instanceOf: TypeError,
		message: /^network: expected an object with the rules as allow/,
	});
	for (const text of ['network: host\n', 'network: {allow: [80]}\n', "network: {allow: ['*:80']}\n"]) {
		await t.throwsAsync(runtime.deploy('wrong', {...code, 'ol.yaml': text}), {
			code: 'InvalidConfig',
			message: /^ol\.yaml: network/,
		});
	}
});
