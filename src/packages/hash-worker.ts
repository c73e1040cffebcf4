/** Hashes what is below a path, on a thread of its own: a message holds the path, and so does the answer. See hashes.ts. */
import {createHash} from 'node:crypto';
import {closeSync, constants, fstatSync, lstatSync, openSync, readdirSync, readSync} from 'node:fs';
import {join} from 'node:path';
import {parentPort} from 'node:worker_threads';
import type {HashedTree} from './hashes.ts';

const buffer = Buffer.allocUnsafe(1024 * 1024);

function hashFile(path: string): {readonly sha256: string; readonly sizeBytes: number} {
	const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
	try {
		if (!fstatSync(fd).isFile()) throw new Error(`expected a file at ${path}`);
		const hash = createHash('sha256');
		let sizeBytes = 0;
		for (let size = readSync(fd, buffer); size > 0; size = readSync(fd, buffer)) {
			hash.update(buffer.subarray(0, size));
			sizeBytes += size;
		}
		return {sha256: hash.digest('hex'), sizeBytes};
	} finally {
		closeSync(fd);
	}
}

/** @param name of the file, relative to the root; empty for the root itself */
function hashTree(root: string, name: string, tree: HashedTree): void {
	const path = join(root, name);
	const status = lstatSync(path);
	if (status.isDirectory()) {
		for (const entry of readdirSync(path)) hashTree(root, name === '' ? entry : `${name}/${entry}`, tree);
	} else if (status.isFile()) {
		const {sha256, sizeBytes} = hashFile(path);
		tree.files.set(name, [sha256, sizeBytes]);
	} else {
		tree.others.push(name);
	}
}

parentPort?.on('message', ({id, path}: {readonly id: number; readonly path: string}) => {
	const tree: HashedTree = {files: new Map(), others: []};
	try {
		hashTree(path, '', tree);
		parentPort?.postMessage({id, tree});
	} catch (error) {
		parentPort?.postMessage({id, error: (error as Error).message});
	}
});
