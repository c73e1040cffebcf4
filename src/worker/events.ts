/** Listening to a runtime that others listen to as well. */
import type {Runtime, RuntimeEvents} from '../index.ts';

type Listeners = {readonly [Name in keyof RuntimeEvents]?: (detail: RuntimeEvents[Name][0]) => void};

/** Listens until the function that it answers is called. */
export function hear(runtime: Runtime, listeners: Listeners): () => void {
	// Each name has the listener of its own details, which the compiler does not follow through a list of names.
	const entries = Object.entries(listeners) as Array<[keyof RuntimeEvents, () => void]>;
	for (const [name, listener] of entries) runtime.on(name, listener);
	return () => {
		for (const [name, listener] of entries) runtime.off(name, listener);
	};
}
