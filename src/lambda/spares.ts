/** Instances of a function that were started ahead, module loaded, and wait for the calls that need a fresh one. */
import {performance} from 'node:perf_hooks';
import {CallLimit} from './call-limit.ts';
import {coolMs, Demand} from './demand.ts';
import {Call, type Instance} from './instance.ts';
import type {FunctionSettings, Started} from './starter.ts';

export type SparesOptions = {
	readonly settings: FunctionSettings;
	/** Takes the memory for one into account; undefined when it has no place now. */
	readonly reserve: () => (() => void) | undefined;
	readonly start: (call: Call, limit: CallLimit, release: () => void) => Promise<Started>;
};

/** One, perhaps still in the making. It serves one call, or none. */
export type Spare = {
	/** What its module printed is there. */
	readonly call: Call;
	/** Undefined: it could not be started, or its module could not be loaded. */
	readonly made: Promise<Instance | undefined>;
	/** Once it is made. */
	instance: Instance | undefined;
};

/** Owns them until they are taken. */
export class Spares {
	readonly #options: SparesOptions;
	readonly #demand: Demand;
	/** Oldest first. */
	readonly #spares: Spare[] = [];
	#cooling: NodeJS.Timeout | undefined;
	#closed = false;

	constructor(options: SparesOptions) {
		this.#options = options;
		this.#demand = new Demand(options.settings.spares);
	}

	/** How many there are, those in the making included. */
	get size(): number {
		return this.#spares.length;
	}

	/** One that is ready; it is the caller's now. */
	takeReady(): (Spare & {readonly instance: Instance}) | undefined {
		for (const [index, spare] of this.#spares.entries()) {
			if (spare.instance?.usable !== true) continue;
			this.#spares.splice(index, 1);
			return spare as Spare & {readonly instance: Instance};
		}
		return undefined;
	}

	/** One that is ready or in the making; it is the caller's now. */
	take(): Spare | undefined {
		return this.takeReady() ?? this.#spares.shift();
	}

	/** A call needs a fresh sandbox. */
	note(): void {
		if (this.#closed || this.#options.settings.spares === 0) return;
		this.#demand.noteStart(performance.now());
		clearTimeout(this.#cooling);
		this.#cooling = setTimeout(() => this.#dropAll(), coolMs).unref();
	}

	/** Makes what is wanting. To be called when a call is over. */
	refill(): void {
		const wanted = this.#closed ? 0 : this.#demand.wanted(performance.now());
		while (this.#spares.length < wanted) {
			const release = this.#options.reserve();
			if (release === undefined) return;
			this.#spares.push(this.#make(release));
		}
	}

	/** Ends one; false when there is none. */
	evict(): boolean {
		const victim = this.#spares.shift();
		if (victim === undefined) return false;
		void victim.made.then((instance) => instance?.destroy());
		return true;
	}

	/** Ends all, also those that are still in the making. */
	async close(): Promise<void> {
		this.#closed = true;
		clearTimeout(this.#cooling);
		await Promise.all(this.#spares.splice(0).map(async ({made}) => (await made)?.destroy()));
	}

	#dropAll(): void {
		while (this.evict());
	}

	#make(release: () => void): Spare {
		const call = new Call(this.#options.settings.limits, {});
		const began = performance.now();
		const spare: Spare = {call, instance: undefined, made: this.#start(call, release)};
		void spare.made.then((instance) => {
			spare.instance = instance;
			if (instance !== undefined) this.#demand.noteMaking(performance.now() - began);
			const index = instance === undefined ? this.#spares.indexOf(spare) : -1;
			if (index >= 0) this.#spares.splice(index, 1);
		});
		return spare;
	}

	/** What goes wrong here goes wrong again for the next call, which is told. */
	async #start(call: Call, release: () => void): Promise<Instance | undefined> {
		const limit = new CallLimit(this.#options.settings.limits.timeoutMs, undefined);
		try {
			const {instance, loaded} = await this.#options.start(call, limit, release);
			if (loaded.ok) return instance;
			await instance.destroy();
			return undefined;
		} catch {
			return undefined;
		} finally {
			limit.close();
		}
	}
}
