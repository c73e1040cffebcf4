/** Checks that an `ol.yaml` and options given in code share. */
import {ForktreeError} from '../errors.ts';
import {quote} from './name.ts';

/** Makes the error for a value of the wrong type, or of the right type and out of range. */
export type Fail = (message: string, kind: 'type' | 'range') => Error;

/** For what a file says: {@link ForktreeError} `InvalidConfig`. */
export const configError: Fail = (message) => new ForktreeError('InvalidConfig', `ol.yaml: ${message}`);

/** For what code passes: `TypeError` or `RangeError`. */
export const optionError: Fail = (message, kind) =>
	kind === 'type' ? new TypeError(message) : new RangeError(message);

/** Checks a mapping. */
export function checkRecord(value: unknown, label: string, fail: Fail): object {
	if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value;
	throw fail(`${label} is ${quote(value)}, expected a mapping`, 'type');
}

/** Checks that a mapping has no keys but those. @param prefix of what is named in the error */
export function checkKeys(keys: Iterable<string>, known: readonly string[], prefix: string, fail: Fail): void {
	for (const key of keys) {
		if (known.includes(key)) continue;
		throw fail(`unknown key ${quote(prefix + key)}, expected one of ${known.join(', ')}`, 'type');
	}
}
