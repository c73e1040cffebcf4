/** The worker's log: one JSON document a line. */
import process from 'node:process';
import {destination, type Logger, type LoggerOptions, pino, stdTimeFunctions} from 'pino';

/** What a line is called that says what a handler printed. */
export const outputMessage = 'output';

const withoutOutput: LoggerOptions = {
	hooks: {
		logMethod(args, method) {
			if (args[1] !== outputMessage) method.apply(this, args);
		},
	},
};

/** A log on stderr, so that stdout is for what was asked. @param hasOutput whether it has what handlers print; by default true */
export function createLog({hasOutput = true}: {readonly hasOutput?: boolean} = {}): Logger {
	return pino(
		{base: null, timestamp: stdTimeFunctions.isoTime, level: 'info', ...(hasOutput ? {} : withoutOutput)},
		destination({dest: process.stderr.fd, sync: false}),
	);
}
