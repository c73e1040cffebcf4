/** Requests of commands to a worker that runs. */
import {existsSync} from 'node:fs';
import {type IncomingMessage, request} from 'node:http';
import {exitCodes, note, oneLine} from './terminal.ts';
import {readSettings} from './worker-config.ts';
import {WorkerFolder} from './worker-folder.ts';

/** What a worker may say in an answer that is shown. */
const maxShownLength = 64 * 1024;
const statusDeadlineMs = 10_000;

/** Where requests go. */
export type Address = {
	/** Such as `http://localhost:5000`. */
	readonly url: string;
	/** What they must bring; undefined: nothing. */
	readonly token: string | undefined;
};

/** Where a command finds its worker. */
export type WorkerPlace = Address & {
	/** The folder of its functions. */
	readonly registry: string;
};

/**
 * Finds the worker of a folder: where it serves, or else where its configuration says.
 * @param directory by default `default-ol`, and where a worker serves by default when that is not there
 * @throws {TypeError} when it is named and no worker's folder
 */
export async function findWorker(directory: string | undefined): Promise<WorkerPlace> {
	const folder = new WorkerFolder(directory);
	if (directory !== undefined && !existsSync(folder.config)) {
		throw new TypeError(`expected a worker’s folder, got ${folder.directory}, which has no config.json`);
	}
	const settings = existsSync(folder.config)
		? await folder.settings()
		: readSettings(folder.defaultConfig(), folder.directory).settings;
	const {host, port, token, registry, workerDir} = settings;
	const url = (await folder.url(workerDir)) ?? `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
	return {url, token, registry};
}

/** What a worker answered. */
export type Answer = {readonly status: number; readonly body: IncomingMessage};
export type Question = {
	readonly method?: 'GET' | 'POST';
	readonly type?: string;
	readonly body?: Uint8Array;
	readonly signal: AbortSignal;
};

/** @throws {Error} when no worker answers that it is ready */
export async function checkReady(place: WorkerPlace): Promise<void> {
	const answer = await ask(place, '/status', {signal: AbortSignal.timeout(statusDeadlineMs)});
	if (answer.status !== 200)
		throw new Error(`expected a worker that is ready at ${place.url}, got ${await complaint(answer)}`);
	answer.body.destroy();
}

/** Not by `fetch`, to which some ports that a worker can have are forbidden. @throws {Error} naming the address, or the signal's reason */
export async function ask(
	{url, token}: Address,
	where: string,
	{method = 'GET', type, body, signal}: Question,
): Promise<Answer> {
	signal.throwIfAborted();
	const headers = {
		...authorization(token),
		...(type === undefined ? {} : {'content-type': type}),
		...(body === undefined ? {} : {'content-length': body.byteLength}),
	};
	try {
		return await new Promise((resolve, reject) => {
			const asking = request(`${url}${where}`, {method, headers, signal, agent: false});
			asking.once('response', (response) => resolve({status: response.statusCode ?? 0, body: response}));
			asking.once('error', reject);
			asking.end(body);
		});
	} catch (cause) {
		const reason = (signal.aborted ? signal.reason : cause) as Error;
		if (signal.aborted && reason.name !== 'TimeoutError') throw reason;
		throw new Error(`expected a worker at ${url}: ${reason.message}`, {cause});
	}
}

/** The header that a worker with a token wants. */
export function authorization(token: string | undefined): Readonly<Record<string, string>> {
	return token === undefined ? {} : {authorization: `Bearer ${token}`};
}

/** Reports an answer that is no success; answers the exit code. */
export async function refused(answer: Answer): Promise<number> {
	note(`the worker answered ${await complaint(answer)}`);
	return exitCodes.refused;
}

async function complaint({status, body}: Answer): Promise<string> {
	let text = '';
	for await (const chunk of body.setEncoding('utf8')) {
		text += chunk;
		if (text.length > maxShownLength) break;
	}
	return `${status}: ${oneLine(text.slice(0, maxShownLength))}`;
}
