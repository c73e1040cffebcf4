/** What a request is called in the log, in its answer, and to the function. */
import {randomUUID} from 'node:crypto';
import type {IncomingHttpHeaders} from 'node:http';

export const requestIdHeader = 'x-request-id';

const usable = /^[A-Za-z0-9._:=+/@-]{1,128}$/;

/** The client's own id if it is short and plain, else another one, by default a new one. */
export function requestIdOf(headers: IncomingHttpHeaders, otherwise?: string): string {
	const given = headers[requestIdHeader];
	return typeof given === 'string' && usable.test(given) ? given : (otherwise ?? randomUUID());
}
