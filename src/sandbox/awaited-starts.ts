/** Starts that calls wait for. When there is one for each processor, whatever is made ahead takes its time from them. */
import {availableParallelism} from 'node:os';

const processors = availableParallelism();
let count = 0;

/** Counts it until it is over. */
export async function countStart<T>(start: Promise<T>): Promise<T> {
	count += 1;
	try {
		return await start;
	} finally {
		count -= 1;
	}
}

/** Whether they keep all processors of the machine busy. */
export function areProcessorsTaken(): boolean {
	return count >= processors;
}
