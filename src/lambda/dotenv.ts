/** A function's `.env`: variables of its environment, below those of `ol.yaml`. */
import {parse} from 'dotenv';
import {ForktreeError} from '../errors.ts';
import {checkEnvironment} from './config.ts';

/** The name of the file. */
export const dotenvFile = '.env';

/**
 * Reads the text of a `.env`; no text means no variables.
 * @throws {ForktreeError} `InvalidConfig`
 */
export function readDotenv(text: string | undefined): Readonly<Record<string, string>> {
	if (text === undefined) return {};
	return checkEnvironment(parse(text), dotenvFile, (message) => new ForktreeError('InvalidConfig', message));
}
