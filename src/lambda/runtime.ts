/** The object a user creates: deploys functions, calls them, and leaves nothing behind when it is closed. */

import {createHash, randomBytes} from 'node:crypto';
import {EventEmitter} from 'node:events';
import {mkdir, readdir, rm, writeFile} from 'node:fs/promises';
import path from 'node:path';
import {ForktreeError, MethodNotAllowedError} from '../errors.ts';
import {Collector} from '../packages/collector.ts';
import {abiOf, type Lock} from '../packages/lock.ts';
import {PackageCache, type PackagesReport, type ProvidedPackages} from '../packages/package-cache.ts';
import type {HeldSet, PackageSet} from '../packages/package-store.ts';
import {Ageing} from '../sandbox/ageing.ts';
import {openSandboxHost, type SandboxHost} from '../sandbox/host.ts';
import {findInterpreter, type Interpreter} from '../sandbox/interpreter.ts';
import type {Isolation} from '../sandbox/isolation.ts';
import {LockedFolder} from '../sandbox/mounts.ts';
import type {Lookup} from '../sandbox/network/dial.ts';
import type {NetworkEvents} from '../sandbox/network/gateway.ts';
import {SandboxNetwork} from '../sandbox/network/sandbox-network.ts';
import {Undo} from '../undo.ts';
import {ImportCache} from '../zygote/import-cache.ts';
import {compileCode} from './compile.ts';
import type {FunctionConfig} from './config.ts';
import {type EncodedEvent, encodeEvent} from './event.ts';
import {fetchFrom} from './fetch.ts';
import {LambdaFunction} from './function.ts';
import {encodeRequest, type HttpListener, type HttpRequest} from './http.ts';
import type {CallListener} from './instance.ts';
import {type Manifest, manifestFile, publish, readManifest, removeOtherVersions} from './manifest.ts';
import {checkName} from './name.ts';
import {
	checkDeployOptions,
	type DeployOptions,
	type ResolvedRuntimeOptions,
	type RuntimeOptions,
	resolveRuntimeOptions,
	resolveSettings,
} from './options.ts';
import type {JsonValue, Outcome, StartKind} from './outcome.ts';
import {type DeploySource, type StagedSource, stageSource} from './source.ts';
import type {FunctionHost, FunctionSettings} from './starter.ts';
import {ChunkStream} from './stream.ts';
import {type RecordedCalls, Workload} from './workload.ts';

/** How long `close()` and `remove()` wait for running calls before they end them. */
const drainDeadlineMs = 10_000;
/** How often what is idle for too long is looked for, at the least. */
const maxSweepMs = 10_000;
/** A zygote that was not used for so long is paused. */
const pauseZygoteMs = 10_000;

/** Options of one call. */
export type InvokeOptions = {
	/** Deadline from asking to outcome; by default the function's `limits.timeoutMs`. */
	readonly timeoutMs?: number;
	/** Ends the call; it then rejects with {@link ForktreeError} `Aborted`. */
	readonly signal?: AbortSignal;
	/** Hears what the handler prints, as it comes. */
	readonly onStdout?: (text: string) => void;
	readonly onStderr?: (text: string) => void;
	/** Also counts private and shared pages, which takes about a millisecond. */
	readonly memoryDetails?: boolean;
};

/** A deployed function, described. */
export type FunctionDescription = {
	readonly name: string;
	readonly version: string;
	readonly reuse: boolean;
	readonly concurrency: number;
	readonly maxQueue: number;
	readonly zygote: boolean;
	readonly ownZygote: boolean;
	readonly warmup: string | undefined;
	readonly network: FunctionSettings['network'];
	readonly triggers: FunctionSettings['triggers'];
	readonly environment: Readonly<Record<string, string>>;
	readonly noNewExecutables: boolean;
	readonly limits: FunctionSettings['limits'];
	/** Distributions that it can import, as `name==version`. */
	readonly packages: readonly string[];
	/** Modules that no zygote imports for it, and why: their import failed there, or left a thread behind. */
	readonly importedInSandbox: Readonly<Record<string, 'failed' | 'threaded'>>;
};

/** What a source says of itself, before it is deployed. */
export type SourceDescription = Pick<FunctionConfig, 'environment' | 'triggers' | 'limits'> & {
	/** SHA-256 in hex of all its files. */
	readonly digest: string;
	readonly reuse: boolean;
};

/** What a runtime is doing. */
export type RuntimeStats = {
	readonly functions: ReadonlyArray<{
		readonly name: string;
		readonly running: number;
		readonly idle: number;
		/** Of those: what runs in them is stopped until the next call. */
		readonly paused: number;
		/** Of those: what they may use beyond that which they do has been given back until then. */
		readonly parked: number;
		/** Instances that were started ahead, or are being started. */
		readonly spares: number;
		readonly waiting: number;
	}>;
	readonly zygotes: ReadonlyArray<{
		readonly packages: string;
		readonly modules: readonly string[];
		readonly pid: number | undefined;
	}>;
	/** `reservedMb`: of instances, whether they use it or not; `zygotesMb`: in use by zygotes, and what those that ended have left. */
	readonly memory: {readonly budgetMb: number; readonly reservedMb: number; readonly zygotesMb: number};
	readonly isolation: Isolation;
	readonly python: {readonly executable: string; readonly version: string};
};

/** Events of a runtime: `created` before `destroyed` for each sandbox, in the order in which things happened. */
export type RuntimeEvents = {
	created: [{function: string; sandbox: string; start: StartKind}];
	/** A sandbox was forked from a zygote (after `created`). */
	forked: [{function: string; sandbox: string}];
	destroyed: [{function: string; sandbox: string}];
	/** Of a function with a `network`: a sandbox reached somebody, that ended, or it did not get there. */
	connected: [{function: string; sandbox: string} & NetworkEvents['connected'][0]];
	disconnected: [{function: string; sandbox: string} & NetworkEvents['disconnected'][0]];
	connectionRefused: [{function: string; sandbox: string} & NetworkEvents['connectionRefused'][0]];
	deployed: [{function: string; version: string}];
	removed: [{function: string}];
	installed: [{packages: readonly string[]; durationMs: number}];
	zygoteCreated: [{packages: string; modules: readonly string[]; importMs: number}];
	zygoteDestroyed: [{packages: string; reason: string}];
	importFailed: [{packages: string; module: string; traceback: string}];
	/** Packages were removed that nothing needs; each is `name==version`. */
	collected: [{packages: readonly string[]; freedBytes: number}];
	/** What nothing needs could not be removed; it is tried again. */
	collectFailed: [{error: ForktreeError}];
	/** The tree was fitted anew to what was called lately; `nodes` counts all that it has now, without the root. */
	treeChanged: [{nodes: number; added: number; removed: number}];
};

/** What a deploy came to. */
export type DeployReport = PackagesReport & {
	readonly version: string;
	/** What states the packages: the name of a file, or `options.requirements`; undefined when nothing does. */
	readonly statedBy: string | undefined;
	/** Files of the function that state packages as well, and were passed over; docs/packages.md has the order. */
	readonly ignoredSources: readonly string[];
	/** Folders of the function, relative to it, that imports look in after its own and before packages; in that order. */
	readonly path: readonly string[];
	/** Reading, unpacking and checking the code. */
	readonly stageMs: number;
	/** Compiling it. */
	readonly compileMs: number;
};

/** The parts that live as long as the runtime. */
type Parts = SandboxHost & {
	readonly interpreter: Interpreter;
	readonly imports: ImportCache;
	readonly packages: PackageCache;
	readonly gc: ResolvedRuntimeOptions['gc'];
	readonly functions: ResolvedRuntimeOptions['functions'];
	readonly restore: boolean;
	readonly workload: Workload;
	readonly ageing: Ageing;
	readonly lookup: Lookup;
	readonly idle: Pick<ResolvedRuntimeOptions, 'instancePauseMs' | 'instanceIdleMs' | 'zygoteIdleMs'>;
};

/**
 * Runs Python functions in sandboxes. Made by {@link createRuntime}; every method after `close()` rejects with
 * {@link ForktreeError} `RuntimeClosed`.
 */
export class Runtime extends EventEmitter<RuntimeEvents> implements AsyncDisposable {
	readonly #parts: Parts;
	readonly #undo: Undo;
	readonly #host: FunctionHost;
	readonly #functions = new Map<string, LambdaFunction>();
	/** What functions that are not closed yet hold of the install cache. */
	readonly #held = new Map<LambdaFunction, HeldSet>();
	/** Names in the state folder that were not restored. */
	readonly #dormant = new Set<string>();
	/** Deploys and removals of one name happen one after the other. */
	readonly #changes = new Map<string, Promise<unknown>>();
	/** Closings of replaced versions. */
	readonly #closings = new Set<Promise<void>>();
	/** Ends installations, which may take minutes, when it closes. */
	readonly #installing = new AbortController();
	readonly #sweeping: NodeJS.Timeout;
	readonly #collector: Collector | undefined;
	#closed: Promise<void> | undefined;

	private constructor(parts: Parts, undo: Undo) {
		super();
		this.#parts = parts;
		this.#undo = undo;
		this.#host = {
			budget: parts.budget,
			ageing: parts.ageing,
			cgroups: parts.cgroups,
			imports: parts.imports,
			instancePauseMs: parts.cgroupTree.canFreeze ? parts.idle.instancePauseMs : Number.POSITIVE_INFINITY,
			makeRoom: () => this.#makeRoom(),
			onCreated: (event) => {
				this.emit('created', event);
				if (event.start === 'forked') this.emit('forked', {function: event.function, sandbox: event.sandbox});
			},
			onStart: (packages) => parts.workload.note(packages),
			onDestroyed: (event) => {
				this.#recheckMemory();
				this.emit('destroyed', event);
			},
			onNetwork: (name, event) => void this.emit(name as 'connected', event as RuntimeEvents['connected'][0]),
		};
		const {instanceIdleMs, zygoteIdleMs} = parts.idle;
		const sweepMs = Math.min(maxSweepMs, instanceIdleMs, zygoteIdleMs);
		this.#sweeping = setInterval(() => this.#evictIdle(), sweepMs).unref();
		this.#collector = this.#collect(parts);
	}

	/** The install cache. */
	get packages(): PackageCache {
		return this.#parts.packages;
	}

	/** Used by {@link createRuntime}. */
	static async create(options: ResolvedRuntimeOptions): Promise<Runtime> {
		const undo = new Undo();
		let runtime: Runtime | undefined;
		try {
			const parts = await buildParts(options, undo, (event, detail) => {
				const made = runtime;
				if (made === undefined) return;
				made.emit(event, detail as never);
				// Zygotes come and go with memory. A new one is not to go before whoever waits for it has been told.
				setImmediate(() => made.#recheckMemory());
			});
			runtime = new Runtime(parts, undo);
			await runtime.#loadFunctions();
			return runtime;
		} catch (error) {
			await undo.run().catch((failure: unknown) => {
				throw new AggregateError([error, failure], error instanceof Error ? error.message : String(error));
			});
			throw error;
		}
	}

	/**
	 * Makes a function callable, or replaces it: calls that run go on with the version they began with.
	 * @param source a folder, a `.tar.gz`, a single `.py` file, or `{'f.py': '…'}`
	 * @returns the version, what its requirements came to, and how long each part took
	 * @throws {ForktreeError} naming what is wrong; then nothing has changed
	 */
	async deploy(name: string, source: DeploySource, options: DeployOptions = {}): Promise<DeployReport> {
		this.#checkOpen();
		checkName(name);
		const entryFile = checkDeployOptions(options);
		return this.#change(name, () => this.#deploy(name, source, options, entryFile));
	}

	/**
	 * Reads and checks what could be deployed, and changes nothing: no code runs, no package is looked for.
	 * @throws {ForktreeError} as {@link deploy} when the source can't be used
	 */
	async inspect(source: DeploySource): Promise<SourceDescription> {
		this.#checkOpen();
		const {state, interpreter} = this.#parts;
		const staging = state.path('staging', randomBytes(8).toString('hex'));
		// As a change of a name that nobody has: it is waited for when the runtime closes.
		return this.#change(staging, async () => {
			const {config, digest} = await stageSource(source, staging, interpreter);
			await rm(staging, {recursive: true, force: true});
			const {environment, triggers, reuse = true, limits} = config;
			return {digest, environment, triggers, reuse, limits};
		});
	}

	/**
	 * Calls a function.
	 * @param event JSON, or a Uint8Array, which the handler gets as bytes
	 * @returns what became of the call; a handler that fails is an outcome with `ok: false`
	 * @throws {ForktreeError} `UnknownFunction`, `Aborted`, `QueueFull`, `BudgetExceeded`, or what forktree itself failed at
	 * @throws {RangeError} when the event is too large
	 */
	invoke(name: string, event: JsonValue | Uint8Array, options: InvokeOptions = {}): Promise<Outcome> {
		// Not an async function: each of them on the way takes another round of the microtask queue.
		try {
			const lambda = this.#find(name);
			return this.#call(lambda, encodeEvent(event, lambda.settings.limits.eventMb), options, {});
		} catch (error) {
			return Promise.reject(error);
		}
	}

	/**
	 * Calls a generator and gives its chunks as they come; the handler waits while they are not taken.
	 * Leaving the loop early ends the call.
	 * @returns an async iterator that also has the outcome; an iteration ends without an error when the call fails, the outcome says why
	 */
	stream(name: string, event: JsonValue | Uint8Array, options: InvokeOptions = {}): ChunkStream {
		return new ChunkStream(options.signal, async (onChunk, signal) => {
			const lambda = this.#find(name);
			return this.#call(lambda, encodeEvent(event, lambda.settings.limits.eventMb), {...options, signal}, {onChunk});
		});
	}

	/**
	 * Has a function answer an HTTP request: a web application (WSGI, ASGI) itself; a handler that takes events gets the body, and its
	 * value is the body of the answer.
	 * @param listener hears the answer, whatever its status; of a call that failed only what came before
	 * @returns what became of the call; the value of one that went well is null
	 * @throws {ForktreeError} as `invoke`, and `MethodNotAllowed`; {TypeError} when it is no request
	 * @throws {RangeError} when the body is too large
	 */
	request(name: string, request: HttpRequest, listener: HttpListener, options: InvokeOptions = {}): Promise<Outcome> {
		try {
			const lambda = this.#find(name);
			const {method} = request;
			const {triggers, limits} = lambda.settings;
			if (!triggers.http.includes('*') && !triggers.http.includes(method)) {
				throw new MethodNotAllowedError(name, method, triggers.http);
			}
			const event = encodeRequest(request, limits.eventMb);
			return this.#call(lambda, event, options, {http: listener, isHead: method === 'HEAD'});
		} catch (error) {
			return Promise.reject(error);
		}
	}

	/**
	 * As {@link request}, with the web's own types. The path of the URL is all the function's.
	 * @returns when the head of the answer is there. A call that fails before that has one as well: 500 and the traceback, or 502, 504, 507
	 * @throws {ForktreeError} as `request`
	 */
	async fetch(name: string, request: Request, options: InvokeOptions = {}): Promise<Response> {
		const {limits} = this.#find(name).settings;
		const signals = options.signal === undefined ? [] : [options.signal];
		return fetchFrom(
			(asked, listener, signal) => this.request(name, asked, listener, {...options, signal}),
			request,
			limits.eventMb * 1024 * 1024,
			signals,
		);
	}

	/**
	 * Makes the zygote that the function's starts fork from, so that the next start is as fast as the later ones.
	 * @param name by default all zygotes that deployed functions can be forked from are made, one after the other
	 */
	async prewarm(name?: string): Promise<void> {
		this.#checkOpen();
		await (name === undefined ? this.#parts.imports.prewarm() : this.#find(name).prewarm());
	}

	/**
	 * Which sets of packages were started how often by this runtime, with what their imports cost: what a tree is fitted to.
	 * With a state folder it is kept there as `calls.json` when the runtime is closed.
	 */
	recordedCalls(): RecordedCalls {
		this.#checkOpen();
		return this.#parts.workload.recorded();
	}

	/** Deployed functions, by name. */
	list(): FunctionDescription[] {
		this.#checkOpen();
		return [...this.#functions.values()].map((lambda) => this.#describe(lambda));
	}

	/** One deployed function. @throws {ForktreeError} `UnknownFunction` */
	describe(name: string): FunctionDescription {
		return this.#describe(this.#find(name));
	}

	#describe({settings}: LambdaFunction): FunctionDescription {
		return {
			name: settings.name,
			version: settings.version,
			reuse: settings.reuse,
			concurrency: settings.concurrency,
			maxQueue: settings.maxQueue,
			zygote: settings.zygote,
			ownZygote: settings.ownZygote,
			warmup: settings.warmup,
			network: settings.network,
			triggers: settings.triggers,
			environment: settings.environment,
			noNewExecutables: settings.noNewExecutables,
			limits: settings.limits,
			packages: settings.packages.distributions.map(({name, version}) => `${name}==${version}`),
			importedInSandbox: Object.fromEntries(this.#parts.imports.importedInSandbox(settings.packages)),
		};
	}

	/** With `restore: false`: names of functions that an earlier runtime deployed, and that were neither deployed again nor removed. */
	dormant(): string[] {
		this.#checkOpen();
		return [...this.#dormant];
	}

	/** Takes a function away, a dormant one too. Its running calls get ten seconds. @throws {ForktreeError} `UnknownFunction` */
	async remove(name: string): Promise<void> {
		this.#findAny(name);
		await this.#change(name, async () => {
			const lambda = this.#findAny(name);
			this.#functions.delete(name);
			this.#dormant.delete(name);
			if (lambda !== undefined) await this.#closeFunction(lambda, drainDeadlineMs);
			const home = this.#home(name);
			await rm(home, {recursive: true, force: true});
			await this.#parts.packages.removeUser(manifestFile(home));
			this.emit('removed', {function: name});
		});
	}

	/** What it is doing now. */
	async stats(): Promise<RuntimeStats> {
		this.#checkOpen();
		const {imports, budget, isolation, interpreter} = this.#parts;
		return {
			functions: [...this.#functions.values()].map((lambda) => ({name: lambda.settings.name, ...lambda.counts})),
			zygotes: await imports.list(),
			memory: {budgetMb: budget.totalMb, reservedMb: budget.reservedMb, zygotesMb: budget.besidesMb},
			isolation,
			python: {executable: interpreter.executable, version: interpreter.version},
		};
	}

	/** Lets running calls finish for ten seconds, ends everything, and removes what it made on the host. */
	async close(): Promise<void> {
		this.#closed ??= this.#close();
		return this.#closed;
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.close();
	}

	async #close(): Promise<void> {
		clearInterval(this.#sweeping);
		this.#collector?.close();
		this.#installing.abort();
		await Promise.allSettled(this.#changes.values());
		const closing = [...this.#functions.values()].map((lambda) => this.#closeFunction(lambda, drainDeadlineMs));
		this.#functions.clear();
		// Whatever fails here, the rest is given back as well.
		this.#undo.push(() => Promise.all([...closing, ...this.#closings]));
		await this.#undo.run();
	}

	#collect({packages, gc}: Parts): Collector | undefined {
		if (gc === undefined) return undefined;
		const {everyMs, ...allowance} = gc;
		return new Collector({
			everyMs,
			collect: () => packages.gc(allowance),
			onCollected: ({removed, freedBytes}) => {
				if (freedBytes === 0) return;
				this.emit('collected', {packages: removed.map(({name, version}) => `${name}==${version}`), freedBytes});
			},
			onFailed: (error) => void this.emit('collectFailed', {error}),
		});
	}

	#checkOpen(): void {
		if (this.#closed !== undefined) throw new ForktreeError('RuntimeClosed', 'the runtime was closed');
	}

	#find(name: string): LambdaFunction {
		this.#checkOpen();
		const lambda = this.#functions.get(name);
		if (lambda === undefined) {
			throw new ForktreeError(
				'UnknownFunction',
				`expected a deployed function, got ${JSON.stringify(name)}; deployed: ${[...this.#functions.keys()].join(', ') || 'none'}`,
			);
		}
		return lambda;
	}

	/** @returns undefined: it is dormant */
	#findAny(name: string): LambdaFunction | undefined {
		return this.#dormant.has(name) ? undefined : this.#find(name);
	}

	async #change<T>(name: string, action: () => Promise<T>): Promise<T> {
		const before = this.#changes.get(name);
		const change = (async () => {
			await before?.catch(() => undefined);
			this.#checkOpen();
			return action();
		})();
		this.#changes.set(name, change);
		try {
			return await change;
		} finally {
			if (this.#changes.get(name) === change) this.#changes.delete(name);
		}
	}

	#call(
		lambda: LambdaFunction,
		event: EncodedEvent,
		options: Omit<InvokeOptions, 'signal'> & {readonly signal?: AbortSignal | undefined},
		listener: CallListener,
	): Promise<Outcome> {
		const timeoutMs = options.timeoutMs ?? lambda.settings.limits.timeoutMs;
		if (!(timeoutMs > 0 && timeoutMs < 2 ** 31))
			throw new RangeError(`timeoutMs: expected milliseconds above 0 and below 2^31, got ${timeoutMs}`);
		return lambda.invoke(event, {
			...listener,
			timeoutMs,
			signal: options.signal,
			memoryDetails: options.memoryDetails ?? false,
			onStdout: options.onStdout,
			onStderr: options.onStderr,
		});
	}

	async #deploy(
		name: string,
		source: DeploySource,
		options: DeployOptions,
		entryFile: string | undefined,
	): Promise<DeployReport> {
		const {state, packages, interpreter} = this.#parts;
		const undo = new Undo();
		try {
			const began = performance.now();
			const staging = state.path('staging', randomBytes(8).toString('hex'));
			const staged = await stageSource(source, staging, interpreter, {entryFile, requirements: options.requirements});
			undo.push(() => rm(staging, {recursive: true, force: true}));
			const settings = {...resolveSettings(options, staged.config, this.#parts.functions), path: staged.path};
			const stageMs = performance.now() - began;
			const {requirements, statedBy, ignoredSources} = staged.packages;
			const digests = {source: staged.digest, requirements: requirements.digest};
			const known = await this.#knownLock(name, digests);
			const {signal} = this.#installing;
			// Who deploys a function again may have published a package for it.
			const mayBeRecent = !this.#functions.has(name);
			const provided = await packages.provide(requirements, {folder: staging, signal, known, mayBeRecent});
			undo.push(() => provided.release());
			const installed = performance.now();
			const code = await this.#compile(staging, staged);
			undo.push(() => code.close());
			const network = await this.#openNetwork(settings);
			undo.push(() => network?.close());
			const compileMs = performance.now() - installed;
			const version = versionOf(staged, settings, provided.set);
			const manifest = {
				version,
				directory: `${version}-${randomBytes(4).toString('hex')}`,
				digests,
				lock: provided.lock,
				settings: {...settings, entryFile: entryFile ?? settings.entryFile},
			};
			await this.#publish(name, manifest, {staging, code, network}, provided);
			undo.release();
			this.#tellInstalled(provided);
			this.emit('deployed', {function: name, version});
			return {version, statedBy, ignoredSources, path: staged.path, ...provided.report, stageMs, compileMs};
		} catch (error) {
			await undo.run();
			throw error;
		}
	}

	async #openNetwork({network}: Pick<FunctionSettings, 'network'>): Promise<SandboxNetwork | undefined> {
		if (network === 'none') return undefined;
		const {keeper, state, lookup} = this.#parts;
		const id = `hosts-${randomBytes(8).toString('hex')}`;
		return SandboxNetwork.open(keeper, state.path('staging', id), network, lookup);
	}

	/** The locked folder stays one of the same folder when that is moved to its place. */
	async #compile(staging: string, {pythonFiles}: StagedSource): Promise<LockedFolder> {
		const {keeper, interpreter, imports, cgroups} = this.#parts;
		const code = await LockedFolder.create(keeper, `code-${path.basename(staging)}`, staging);
		try {
			await compileCode(staging, pythonFiles, interpreter.cacheTag, await imports.root(), code, cgroups);
			return code;
		} catch (error) {
			await code.close();
			throw error;
		}
	}

	#tellInstalled({report: {installed, installMs}}: ProvidedPackages): void {
		if (installed.length > 0) this.emit('installed', {packages: installed, durationMs: installMs});
	}

	/** What the same code with the same requirements was resolved to when it was deployed last. */
	async #knownLock(name: string, {source, requirements}: Manifest['digests']): Promise<Lock | undefined> {
		const known = await readManifest(this.#home(name));
		if (known?.digests.source !== source || known.digests.requirements !== requirements) return undefined;
		return known.lock.abi === abiOf(this.#parts.interpreter) ? known.lock : undefined;
	}

	#home(name: string): string {
		return this.#parts.state.path('functions', name);
	}

	/** Moves staged code to its place and switches to it. */
	async #publish(
		name: string,
		manifest: Manifest,
		{
			staging,
			code,
			network,
		}: {
			readonly staging: string;
			readonly code: LockedFolder;
			readonly network: SandboxNetwork | undefined;
		},
		held: HeldSet,
	): Promise<void> {
		const home = this.#home(name);
		publish(home, manifest, staging);
		await this.#parts.packages.setUser(manifestFile(home), held.set);
		const replaced = this.#functions.get(name);
		this.#add(name, manifest, {code, network}, held);
		if (this.#dormant.delete(name)) await removeOtherVersions(home, manifest.directory);
		if (replaced === undefined) return;
		const closing = this.#closeFunction(replaced, replaced.settings.limits.timeoutMs)
			.then(() => removeOtherVersions(home, manifest.directory))
			.finally(() => this.#closings.delete(closing));
		this.#closings.add(closing);
	}

	/** The function holds its code, its network and its packages from now on. */
	#add(
		name: string,
		manifest: Manifest,
		{code, network}: {readonly code: LockedFolder; readonly network: SandboxNetwork | undefined},
		held: HeldSet,
	): void {
		const settings = {...manifest.settings, name, version: manifest.version, packages: held.set};
		const lambda = new LambdaFunction(settings, code, network, this.#host);
		this.#held.set(lambda, held);
		this.#functions.set(name, lambda);
		if (settings.zygote) this.#parts.imports.use(held.set);
	}

	/** Lets its running calls finish, and then its packages go. */
	async #closeFunction(lambda: LambdaFunction, deadlineMs: number): Promise<void> {
		await lambda.close(deadlineMs);
		const held = this.#held.get(lambda);
		this.#held.delete(lambda);
		if (held === undefined) return;
		const isShared = [...this.#held.values()].some(({set}) => set.key === held.set.key);
		if (!isShared) await this.#parts.imports.forget(held.set);
		held.release();
	}

	/** Functions that an earlier runtime deployed in this state folder. */
	async #loadFunctions(): Promise<void> {
		const {state, packages, keeper} = this.#parts;
		const homes = state.path('functions');
		await mkdir(homes, {recursive: true, mode: 0o755});
		const names = await readdir(homes);
		if (!this.#parts.restore) {
			for (const name of names) this.#dormant.add(name);
			return;
		}
		for (const name of names) {
			const home = this.#home(name);
			const manifest = await readManifest(home);
			if (manifest === undefined) {
				await rm(home, {recursive: true, force: true}); // a deploy that did not get to its end
				continue;
			}
			// What is gone of its packages is installed again; if that can't be, it must be deployed again.
			const held = await packages.hold(manifest.lock).catch(() => undefined);
			if (held === undefined) continue;
			// It may be another store than that of the last time.
			await packages.setUser(manifestFile(home), held.set);
			await removeOtherVersions(home, manifest.directory);
			const folder = path.join(home, manifest.directory);
			const code = await LockedFolder.create(keeper, `code-${manifest.directory}`, folder);
			this.#add(name, manifest, {code, network: await this.#openNetwork(manifest.settings)}, held);
		}
	}

	/** More or less is in use than when those who wait for memory were told to wait. */
	#recheckMemory(): void {
		const {budget} = this.#parts;
		if (!budget.isShort) return;
		budget.recheck();
		if (budget.isShort) this.#makeRoom();
	}

	/**
	 * Ends spares, then idle instances and zygotes in the order of {@link Ageing}, until all that wait have room once these have ended, or
	 * nothing is left. It can be asked for again and again.
	 */
	#makeRoom(): void {
		const functions = [...this.#functions.values()];
		let missing = functions.reduce((left, {endingMb}) => left - endingMb, this.#parts.budget.missingMb);
		for (const lambda of functions) {
			while (missing > 0 && lambda.evictSpare()) missing -= lambda.settings.limits.memoryMb;
		}
		for (let freed = 1; missing > 0 && freed > 0; missing -= freed) freed = this.#parts.imports.evictSpare();
		while (missing > 0) {
			const idle = functions.filter(({evictable}) => evictable !== undefined);
			const [first] = idle.sort((a, b) => (a.evictable ?? 0) - (b.evictable ?? 0));
			const node = this.#parts.imports.evictable;
			if (first?.evictable !== undefined && first.evictable <= (node ?? first.evictable)) {
				missing -= first.evictIdle() ?? 0;
			} else {
				const freed = this.#parts.imports.evictOne();
				if (freed === undefined) return;
				missing -= freed;
			}
		}
	}

	#evictIdle(): void {
		const {instanceIdleMs, zygoteIdleMs} = this.#parts.idle;
		const nowMs = performance.now();
		for (const lambda of this.#functions.values()) lambda.evictIdleSince(nowMs - instanceIdleMs);
		this.#parts.imports.evictIdle(nowMs - zygoteIdleMs);
		this.#parts.imports.calmDown(nowMs, pauseZygoteMs);
		this.#recheckMemory();
	}
}

async function keepCalls(file: string, recorded: RecordedCalls): Promise<void> {
	if (recorded.calls.length > 0) await writeFile(file, JSON.stringify(recorded));
}

function versionOf(staged: StagedSource, settings: object, packages: PackageSet): string {
	const identity = [staged.digest, JSON.stringify(settings), packages.key].join('\0');
	return createHash('sha256').update(identity).digest('hex').slice(0, 16);
}

/** Builds in order; `undo` takes down in reverse. */
async function buildParts(
	options: ResolvedRuntimeOptions,
	undo: Undo,
	emit: (event: keyof RuntimeEvents, detail: unknown) => void,
): Promise<Parts> {
	const interpreter = await findInterpreter(options.python);
	const {stateDir, memoryBudgetMb, bestEffort, tree, promote, spares} = options;
	const host = await openSandboxHost(
		{stateDir, memoryBudgetMb, bestEffort, groups: 'pausable', countsLaunchers: true},
		undo,
	);
	const {packagesDir: dir = host.state.path('packages'), sharedPackages: shared, offline} = options;
	const packages = await PackageCache.open({dir, shared, offline, bestEffort}, interpreter);
	undo.push(() => packages.close());
	const ageing = new Ageing();
	const workload = new Workload((folder) => packages.describe(folder));
	const imports = new ImportCache({
		keeper: host.keeper,
		interpreter,
		ids: host.ids,
		liveness: host.liveness,
		budget: host.budget,
		cgroups: host.cgroups,
		spares,
		ageing,
		tree,
		promote: promote && tree !== undefined,
		costOf: (folder) => workload.costOf(folder),
		takeRecent: (isMeant) => workload.takeRecent(isMeant),
		events: {
			zygoteCreated: (detail) => emit('zygoteCreated', detail),
			zygoteDestroyed: (detail) => emit('zygoteDestroyed', detail),
			importFailed: (detail) => emit('importFailed', detail),
			treeChanged: (detail) => emit('treeChanged', detail),
		},
	});
	undo.push(() => imports.close());
	packages.on('measured', () => {
		workload.forgetCosts();
		imports.reweigh();
	});
	undo.push(() => keepCalls(host.state.path('calls.json'), workload.recorded()));
	return {
		...host,
		interpreter,
		imports,
		packages,
		gc: options.gc,
		functions: options.functions,
		restore: options.restore,
		workload,
		ageing,
		lookup: options.lookup,
		idle: options,
	};
}

/**
 * Creates a runtime. Needs Linux 5.15 or later; what it needs besides root's rights or an ordinary user's, docs/levels.md says.
 * @throws {TypeError} or {RangeError} for a wrong option; {ForktreeError} when the machine lacks what is needed
 * @example
 * const runtime = await createRuntime({stateDir: '/var/lib/forktree'});
 * try {
 * 	await runtime.deploy('hello', {'f.py': 'def f(event):\n\treturn "hello " + event["name"]'});
 * 	const outcome = await runtime.invoke('hello', {name: 'world'});
 * } finally {
 * 	await runtime.close();
 * }
 */
export async function createRuntime(options: RuntimeOptions = {}): Promise<Runtime> {
	const resolved = resolveRuntimeOptions(options);
	return Runtime.create(resolved);
}
