/** Hashes of files, made on another thread than Node's own. */
import {once} from 'node:events';
import {Worker} from 'node:worker_threads';

/** As built, also when we are not: whatever loads our TypeScript does not do so on other threads. */
const script = new URL('../../dist/packages/hash-worker.js', import.meta.url);

/** What is below a path. A path that leads to a file has it under the empty name. */
export type HashedTree = {
	/** By path relative to the root. */
	readonly files: Map<string, readonly [sha256: string, sizeBytes: number]>;
	/** What is neither a file nor a folder. */
	readonly others: string[];
};

type Answer = {readonly id: number; readonly tree?: HashedTree; readonly error?: string};

/** Runs work with a function that hashes, one path at a time; its thread starts when first needed, and ends with the work. */
export async function withHashes<Result>(
	work: (hash: (path: string, signal?: AbortSignal) => Promise<HashedTree>) => Promise<Result>,
): Promise<Result> {
	let worker: Worker | undefined;
	let last = 0;
	const hash = async (path: string, signal?: AbortSignal): Promise<HashedTree> => {
		signal?.throwIfAborted();
		worker ??= new Worker(script, {execArgv: []});
		last += 1;
		const id = last;
		worker.postMessage({id, path});
		let answer: Answer;
		do [answer] = (await once(worker, 'message', signal === undefined ? {} : {signal})) as [Answer];
		while (answer.id !== id); // of one that nobody waits for any more
		if (answer.tree === undefined) throw new Error(`could not hash ${path}: ${answer.error}`);
		return answer.tree;
	};
	try {
		return await work(hash);
	} finally {
		await worker?.terminate();
	}
}
