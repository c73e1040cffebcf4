/** The mode sock: sandboxes over HTTP. */
import {rm} from 'node:fs/promises';
import test, {type ExecutionContext} from 'ava';
import {createWorker} from '../../src/worker/server.ts';
import {kernelTest} from '../helpers/kernel-test.ts';
import {temporaryFolder} from '../helpers/runtime.ts';

async function start(t: ExecutionContext, token?: string) {
	const code = await temporaryFolder();
	t.teardown(() => rm(code, {recursive: true, force: true}));
	const access = token === undefined ? {} : {token};
	const worker = await createWorker({mode: 'sock', registry: '/nowhere', port: 0, log: false, ...access});
	t.teardown(() => worker.close());
	const post = async (path: string, body?: unknown, headers: Record<string, string> = {}) => {
		const init = body === undefined ? {} : {body: JSON.stringify(body)};
		const response = await fetch(`${worker.url}${path}`, {method: 'POST', headers, ...init});
		return {status: response.status, text: await response.text()};
	};
	return {code, post, url: worker.url};
}

kernelTest('sandboxes are created, paused, let go on, and destroyed', async (t) => {
	const {code, post, url} = await start(t);
	t.is((await fetch(`${url}/status`)).status, 200);
	const {status, text} = await post('/create', {code, leaf: true, parent: '', pkgs: [], runtime: 'python'});
	t.is(status, 200, text);
	t.regex(text, /^\S+\n$/);
	const id = text.trim();
	t.is((await post('/debug')).text, `sandboxes: 1\n${id}: running\n`);
	t.deepEqual(await post(`/pause/${id}`, null), {status: 200, text: ''});
	t.is((await post('/debug')).text, `sandboxes: 1\n${id}: paused\n`);
	t.deepEqual(await post(`/unpause/${id}`), {status: 200, text: ''});
	t.deepEqual(await post(`/destroy/${id}`), {status: 200, text: ''});
	for (const verb of ['pause', 'unpause', 'destroy']) t.is((await post(`/${verb}/${id}`)).status, 404);
	t.is((await post('/debug')).text, 'sandboxes: 0\n', 'one that has ended is forgotten');
});

kernelTest('what a sandbox of this mode can’t be is refused, and nothing is made', async (t) => {
	const {code, post} = await start(t);
	for (const [body, words] of [
		[{code: 'relative'}, /^code: expected the absolute path/],
		[{code, leaf: false}, /^leaf: /],
		[{code, parent: '1'}, /^parent: /],
		[{code, pkgs: ['numpy']}, /^pkgs: /],
		[5, /^expected a body that is a JSON object/],
		[undefined, /^expected a body that is a JSON object/],
	] as const) {
		const {status, text} = await post('/create', body);
		t.is(status, 400);
		t.regex(text, words);
	}
	t.is((await post('/create', {code: '/nowhere/at/all'})).status, 500);
	t.is((await post('/debug')).text, 'sandboxes: 0\n');
});

kernelTest('with a token sandboxes want it', async (t) => {
	const {code, post} = await start(t, 'secret');
	t.is((await post('/create', {code})).status, 401);
	t.is((await post('/create', {code}, {authorization: 'Bearer secret'})).status, 200);
});

test('another mode is refused', async (t) => {
	const options = {mode: 'docker' as never, registry: '/nowhere', log: false} as const;
	await t.throwsAsync(createWorker(options), {
		instanceOf: TypeError,
		message: 'mode: expected lambda or sock, got "docker"',
	});
});
