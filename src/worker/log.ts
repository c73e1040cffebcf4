/** The worker's log: one JSON document a line. */
import process from 'node:process';
import {destination, type Logger, pino, stdTimeFunctions} from 'pino';

/** A log on stderr, so that stdout is for what was asked. */
export function createLog(): Logger {
	return pino(
		{base: null, timestamp: stdTimeFunctions.isoTime, level: 'info'},
		destination({dest: process.stderr.fd, sync: false}),
	);
}
