/** A promise with a deadline: every wait has one. */

/**
 * Waits for `promise` at most `ms` milliseconds.
 * @throws what `onTimeout` makes, when the deadline passes first.
 */
export async function withDeadline<T>(promise: Promise<T>, ms: number, onTimeout: () => Error): Promise<T> {
	let timer: NodeJS.Timeout | undefined;
	const deadline = new Promise<never>((_resolve, reject) => {
		timer = setTimeout(() => reject(onTimeout()), ms);
	});
	try {
		return await Promise.race([promise, deadline]);
	} finally {
		clearTimeout(timer);
	}
}
