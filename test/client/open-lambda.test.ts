/** The Python client, against a real worker and a stub. */
import {once} from 'node:events';
import {rm} from 'node:fs/promises';
import {createServer} from 'node:http';
import type {AddressInfo} from 'node:net';
import path from 'node:path';
import {fileURLToPath} from 'node:url';
import test from 'ava';
import {execa} from 'execa';
import {createWorker} from '../../src/worker/server.ts';
import {writeFiles} from '../cli/forktree.ts';
import {kernelTest} from '../helpers/kernel-test.ts';
import {py, python, temporaryFolder} from '../helpers/runtime.ts';

const client = path.join(path.dirname(fileURLToPath(import.meta.url)), '..', '..', 'src', 'client');

async function runPython(url: string, text: string): Promise<unknown> {
	const preamble = `import json\nfrom open_lambda import OpenLambda, OpenLambdaError\nclient = OpenLambda(${JSON.stringify(new URL(url).host)}, token='secret')\n`;
	const {stdout} = await execa(python, ['-B', '-c', preamble + text], {env: {PYTHONPATH: client}, timeout: 60_000});
	return JSON.parse(stdout);
}

kernelTest('functions are called, and failures are exceptions', async (t) => {
	const registry = await temporaryFolder();
	t.teardown(() => rm(registry, {recursive: true, force: true}));
	await writeFiles(registry, {
		'echo/f.py': 'def f(event):\n\treturn event\n',
		'slow/f.py': 'def f(event):\n\twhile True: pass\n',
		'slow/ol.yaml': 'limits: {timeoutMs: 200}\n',
	});
	const worker = await createWorker({registry, port: 0, python, token: 'secret', log: false});
	t.teardown(() => worker.close());
	const told = await runPython(
		worker.url,
		py`
			told = [client.check_status(), client.run('echo', {'a': [1, 'ü']}), client.run('echo', 1, json=False)]
			for name in ('slow', 'nobody'):
				try:
					client.run(name, {})
				except OpenLambdaError as error:
					told.append([error.status, error.code])
			told.append('web-request.cnt' in client.get_statistics())
			client.token = 'wrong'
			try:
				client.run('echo', 1)
			except OpenLambdaError as error:
				told.append(error.status)
			print(json.dumps(told))
		`,
	);
	t.deepEqual(told, ['ready', {a: [1, 'ü']}, '1', [504, 'Timeout'], [404, 'UnknownFunction'], true, 401]);
});

test('sandboxes are made and ended by the routes of the mode sock', async (t) => {
	const requests: string[] = [];
	const stub = createServer((request, response) => {
		let body = '';
		request.on('data', (chunk) => {
			body += chunk;
		});
		request.on('end', () => {
			requests.push(`${request.method} ${request.url} ${body}`);
			response.end(request.url === '/create' ? '7\n' : '');
		});
	});
	stub.listen(0, '127.0.0.1');
	await once(stub, 'listening');
	t.teardown(() => stub.close());
	const {port} = stub.address() as AddressInfo;
	const told = await runPython(
		`http://127.0.0.1:${port}`,
		py`
			made = client.create({'leaf': True})
			client.pause(made), client.unpause(made), client.destroy(made)
			print(json.dumps(made))
		`,
	);
	t.is(told, '7');
	t.deepEqual(requests, [
		'POST /create {"leaf": true}',
		'POST /pause/7 null',
		'POST /unpause/7 null',
		'POST /destroy/7 null',
	]);
});
