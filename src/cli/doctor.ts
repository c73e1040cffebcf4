/** `forktree doctor`: what this machine offers, as a table or as JSON. */
import process from 'node:process';
import {type DoctorReport, doctor} from '../index.ts';
import {exitCodes, oneLine, print} from './terminal.ts';

/** Answers the exit code. */
export async function printDoctor({
	json,
	python,
}: {
	readonly json?: boolean;
	readonly python?: string;
}): Promise<number> {
	const report = await doctor(python === undefined ? {} : {python});
	await print(process.stdout, json === true ? `${JSON.stringify(report)}\n` : table(report));
	return report.level === 'none' ? exitCodes.refused : exitCodes.ok;
}

function table({level, notEnforced, checks}: DoctorReport): string {
	const width = Math.max(...checks.map(({name}) => name.length)) + 2;
	const lines = checks.flatMap(({name, status, detail, fix}) => [
		`${status.padEnd(10)}${name.padEnd(width)}${oneLine(detail)}`,
		...(fix === undefined ? [] : [`${' '.repeat(10 + width)}fix: ${fix}`]),
	]);
	const missing =
		notEnforced.length === 0 ? '' : `, with nothing that holds ${notEnforced.join(', ')} of a sandbox as a whole`;
	return `${[...lines, '', `level: ${level}${missing}`].join('\n')}\n`;
}
