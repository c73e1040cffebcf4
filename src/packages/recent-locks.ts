/** What requirements were resolved to lately, so that who wants the same next need not wait for the resolver again. */
import process from 'node:process';
import type {Lock} from './lock.ts';
import type {Requirements} from './requirements.ts';

/** A version that was published since then is not seen; long enough for a program that deploys function after function. */
const freshMs = 60_000;
const maxLocks = 256;
/** Variables that say where packages are. */
const settings = /^(?:UV_|PIP_|NETRC$)/;

/** Of one interpreter and store, in memory. */
export class RecentLocks {
	readonly #locks = new Map<string, {readonly lock: Lock; readonly untilMs: number}>();

	/** Undefined: they were not resolved lately, or under other settings, or they name what lies in a folder. */
	find(requirements: Requirements): Lock | undefined {
		const found = this.#locks.get(keyOf(requirements));
		return found !== undefined && found.untilMs > performance.now() ? found.lock : undefined;
	}

	note(requirements: Requirements, lock: Lock): void {
		if (requirements.local.length > 0 || requirements.index.findLinks.length > 0) return;
		const key = keyOf(requirements);
		this.#locks.delete(key);
		this.#locks.set(key, {lock, untilMs: performance.now() + freshMs});
		const [oldest] = this.#locks.keys();
		if (this.#locks.size > maxLocks && oldest !== undefined) this.#locks.delete(oldest);
	}
}

function keyOf({digest}: Requirements): string {
	return JSON.stringify([
		digest,
		...Object.entries(process.env)
			.filter(([name]) => settings.test(name))
			.sort(),
	]);
}
