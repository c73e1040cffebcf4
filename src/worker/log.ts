/** The worker's log: one JSON document a line. */
import process from 'node:process';
import {destination, type Logger, pino, stdTimeFunctions} from 'pino';

/** How much is kept before it is written, in bytes, and for how long, in milliseconds: a write for each line took 7 % of a busy worker's time. */
const buffered = {minLength: 4096, periodicFlush: 200};

/** A log on stderr, so that stdout is for what was asked. */
export function createLog(): Logger {
	return pino(
		{base: null, timestamp: stdTimeFunctions.isoTime, level: 'info'},
		destination({dest: process.stderr.fd, sync: false, ...buffered}),
	);
}
