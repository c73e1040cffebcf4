/** Bodies that are kept in memory. */
import {once} from 'node:events';
import {createServer, type IncomingMessage, request, type ServerResponse} from 'node:http';
import type {AddressInfo} from 'node:net';
import test, {type ExecutionContext} from 'ava';
import {Bodies, ClientLeft} from '../../src/worker/body.ts';

/** What arrives when this is sent; `part` alone: the client sends no more, and leaves when told. */
async function receive(t: ExecutionContext, part: string, isAll = true) {
	const server = createServer();
	server.listen(0, '127.0.0.1');
	await once(server, 'listening');
	const {port} = server.address() as AddressInfo;
	const sending = request({port, host: '127.0.0.1', method: 'POST'});
	sending.on('error', () => undefined);
	sending.write(part);
	if (isAll) sending.end();
	const [message, response] = (await once(server, 'request')) as [IncomingMessage, ServerResponse];
	t.teardown(() => {
		response.destroy();
		server.close();
	});
	return {message, leave: () => sending.destroy()};
}

test('a body is read whole', async (t) => {
	const bodies = new Bodies();
	for (const text of ['abc', 'x'.repeat(200_000)]) {
		const {message} = await receive(t, text);
		t.is((await bodies.open(message).read(200_000)).toString(), text);
	}
});

test('all bodies together are bounded, until they are released', async (t) => {
	const bodies = new Bodies(10);
	const first = bodies.open((await receive(t, '123456')).message);
	await first.read(100);
	const tooMuch = bodies.open((await receive(t, '12345')).message);
	await t.throwsAsync(tooMuch.read(100), {message: /too many bodies/});
	tooMuch.release();
	first.release();
	first.release();
	const third = bodies.open((await receive(t, '1234567890')).message);
	t.is((await third.read(100)).length, 10);
});

test('a client that leaves ends the reading', async (t) => {
	const {message, leave} = await receive(t, 'abc', false);
	const reading = t.throwsAsync(new Bodies().open(message).read(100), {instanceOf: ClientLeft});
	leave();
	await reading;
});
