/** `forktree force-cleanup`: removes what dead owners left, and says what that was. */
import process from 'node:process';
import {type CleanupReport, ForktreeError, forceCleanup} from '../index.ts';
import {exitCodes, failed, print} from './terminal.ts';

/** Answers the exit code. @throws what forktree itself fails at */
export async function printCleanup({json, state}: {readonly json?: boolean; readonly state?: string}): Promise<number> {
	let report: CleanupReport;
	try {
		report = await forceCleanup(state === undefined ? {} : {stateDir: state});
	} catch (error) {
		const code = failed(error);
		return error instanceof ForktreeError && error.code === 'StateDirInUse' ? exitCodes.refused : code;
	}
	await print(process.stdout, json === true ? `${JSON.stringify(report)}\n` : listCleanup(report));
	return exitCodes.ok;
}

/** What was removed and what was left, a line each. */
export function listCleanup({processes, cgroups, paths, inUse}: CleanupReport): string {
	const removed = [
		...processes.map((pid) => `killed process ${pid}`),
		...cgroups.map((group) => `removed cgroup ${group}`),
		...paths.map((path) => `removed ${path}`),
	];
	const left = inUse.map(({stateDir, pid}) => `left ${stateDir}, which process ${pid ?? '(unknown)'} owns`);
	return `${[...(removed.length === 0 ? ['nothing to remove'] : removed), ...left].join('\n')}\n`;
}
