/** Whether the interpreter is one that a function is written for. */
import {satisfies} from '@renovatebot/pep440';
import {ForktreeError} from '../errors.ts';
import type {Interpreter} from '../sandbox/interpreter.ts';
import {parseSpecifier} from './requirement.ts';
import {type LogicalLine, placeText} from './requirement-lines.ts';

/**
 * Checks a `requires-python`.
 * @throws {ForktreeError} `InvalidRequirements` when it is none of PEP 440, `InterpreterMismatch` when the interpreter is another.
 */
export function checkPython({content, place}: LogicalLine, {version}: Pick<Interpreter, 'version'>): void {
	const specifier = parseSpecifier(content, place);
	if (specifier === '' || satisfies(version, specifier, {prereleases: true})) return;
	throw new ForktreeError(
		'InterpreterMismatch',
		`${placeText(place)}: is for Python ${specifier}; the interpreter is Python ${version}`,
	);
}
