/** Tries controllers of a host by themselves, for who wants to know what is wrong with it. */
import {mkdirSync, readFileSync, writeFileSync} from 'node:fs';
import path from 'node:path';
import {ForktreeError} from '../errors.ts';
import {optionalFiles, settings, syscallError} from './cgroup.ts';
import {type Controller, findController, hostFacts} from './cgroup-host.ts';
import {handDown, remedy, removeIfThere} from './cgroup-tree.ts';
import {parseMountinfo} from './mountinfo.ts';

/** Controllers that can be tried. Sandboxes use all but the freezer. */
export type TriedController = Controller | 'freezer';

/**
 * Tries a controller of the running host by itself: makes a group, sets what a sandbox has set and reads it back, and
 * removes the group.
 * @param name of the group; must be new
 * @param onFound hears of the group's folder before it is made
 * @returns its parent, for example `v1 at /sys/fs/cgroup/pids`
 * @throws {ForktreeError} `NotSupported` when the host lacks it, or takes a setting without keeping it
 */
export function tryController(controller: TriedController, name: string, onFound: (directory: string) => void): string {
	const facts = hostFacts();
	const parent = findController(controller, parseMountinfo(facts.mountinfo), facts);
	if (parent === undefined) throw new ForktreeError('NotSupported', `there is no cgroup controller ${controller}`);
	const {version} = parent;
	const directory = path.join(parent.directory, name);
	onFound(directory);
	if (version === 2 && controller !== 'freezer') enableToTry(controller, parent.directory);
	mkdirSync(directory, 0o755);
	try {
		const wanted =
			controller === 'freezer'
				? [version === 1 ? (['freezer.state', 'FROZEN'] as const) : (['cgroup.freeze', '1'] as const)]
				: settings(version, controller, {memoryMb: 16, swapMb: 0, cpuPercent: 100, processes: 4});
		for (const [file, value] of wanted) {
			writeSetting(directory, file, value);
			const kept = optionalFiles.has(file) ? value : readFileSync(path.join(directory, file), 'utf8').trim();
			if (kept !== value) throw new ForktreeError('NotSupported', `expected ${file} to be ${value}, got ${kept}`);
		}
	} finally {
		removeIfThere(directory);
	}
	return `v${version} at ${parent.directory}`;
}

function enableToTry(controller: Controller, directory: string): void {
	try {
		handDown({directory, controllers: [controller]});
	} catch (error) {
		const {code} = error as NodeJS.ErrnoException;
		throw new ForktreeError('NotPermitted', `${code}; ${remedy(directory, code)}`, {cause: error});
	}
}

function writeSetting(directory: string, file: string, value: string): void {
	try {
		writeFileSync(path.join(directory, file), value, {flag: 'r+'});
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code === 'ENOENT' && optionalFiles.has(file)) return;
		throw syscallError(`write ${value} to`, error, path.join(directory, file));
	}
}
