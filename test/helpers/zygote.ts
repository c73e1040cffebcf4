/** Sandboxes straight from a zygote, without a runtime above it, that the tests of one file share. */
import {mkdir, rm, writeFile} from 'node:fs/promises';
import path from 'node:path';
import test, {type ExecutionContext} from 'ava';
import type {CgroupLimits} from '../../src/kernel/cgroup.ts';
import type {FramePayload} from '../../src/kernel/frames.ts';
import {compileCode} from '../../src/lambda/compile.ts';
import {Ageing} from '../../src/sandbox/ageing.ts';
import {openSandboxHost, type SandboxHost} from '../../src/sandbox/host.ts';
import {findInterpreter, type Interpreter} from '../../src/sandbox/interpreter.ts';
import type {Leaf} from '../../src/sandbox/leaf.ts';
import type {LeafBirth, LeafSpec} from '../../src/sandbox/leaf-birth.ts';
import {defaultLimits} from '../../src/sandbox/limits.ts';
import {LockedFolder} from '../../src/sandbox/mounts.ts';
import type {HandOver, Spare} from '../../src/sandbox/spare.ts';
import {Undo} from '../../src/undo.ts';
import {ImportCache} from '../../src/zygote/import-cache.ts';
import {encodeLoad, frameType} from '../../src/zygote/protocol.ts';
import {pythonLeaf, pythonSpare} from '../../src/zygote/python-leaf.ts';
import type {Zygote} from '../../src/zygote/zygote.ts';
import {refusal} from './kernel-test.ts';
import {LeakCheck} from './leak-check.ts';
import {within} from './pool.ts';
import {python, temporaryFolder} from './runtime.ts';

export type Frame = {readonly type: number; readonly payload: FramePayload};

/** The other end of a sandbox's channel. */
export class Talk {
	readonly leaf: Leaf;
	readonly #frames: Frame[] = [];
	readonly #waiting: Array<(frame: Frame) => void> = [];

	constructor(leaf: Leaf) {
		this.leaf = leaf;
		const take = (frame: Frame) => {
			const wanted = this.#waiting.shift();
			if (wanted === undefined) this.#frames.push(frame);
			else wanted(frame);
		};
		leaf.listen({
			frame: (type, payload) => take({type, payload}),
			broken: () => take({type: -1, payload: 'the channel broke'}),
		});
	}

	async next(): Promise<Frame> {
		const frame = this.#frames.shift() ?? new Promise<Frame>((resolve) => this.#waiting.push(resolve));
		return within(Promise.resolve(frame), 'a frame');
	}

	/** Has the handler called; answers its JSON. */
	async call(event: unknown): Promise<unknown> {
		this.leaf.send(frameType.eventJson, JSON.stringify(event));
		return this.answer();
	}

	async answer(): Promise<unknown> {
		const {type, payload} = await this.next();
		if (type !== frameType.resultJson) throw new Error(`expected a result, got frame ${type}: ${payload}`);
		return JSON.parse(String(payload));
	}

	async loaded(): Promise<void> {
		const {type, payload} = await this.next();
		if (type !== frameType.loaded) throw new Error(`expected a loaded handler, got frame ${type}: ${payload}`);
	}
}

let lastFolder = 0;

/** What a test file works with. */
export class ZygoteFixture {
	readonly host: SandboxHost;
	readonly imports: ImportCache;
	readonly stateDir: string;
	readonly #interpreter: Interpreter;

	constructor(host: SandboxHost, imports: ImportCache, interpreter: Interpreter, stateDir: string) {
		this.host = host;
		this.imports = imports;
		this.#interpreter = interpreter;
		this.stateDir = stateDir;
	}

	async root(): Promise<Zygote> {
		return this.imports.root();
	}

	/** A handler's code, compiled. */
	async code(t: ExecutionContext, text: string): Promise<LockedFolder> {
		lastFolder += 1;
		const folder = path.join(this.stateDir, `code-${lastFolder}`);
		await mkdir(folder);
		await writeFile(path.join(folder, 'f.py'), text);
		const code = await LockedFolder.create(this.host.keeper, `code-${lastFolder}`, folder);
		t.teardown(async () => {
			await code.close();
			await rm(folder, {recursive: true});
		});
		const {cacheTag} = this.#interpreter;
		await compileCode(folder, ['f.py'], cacheTag, await this.root(), code, this.host.cgroups);
		return code;
	}

	/** What a sandbox with that code gets, greeted with what loads it. */
	spec(code: LockedFolder, limits: Partial<CgroupLimits> = {}): LeafSpec & HandOver {
		const all = {...defaultLimits, swapMb: 0, ...limits};
		return {
			...pythonLeaf(code, undefined),
			limits: all,
			takeCgroup: () => this.host.cgroups.take(all),
			scratchMb: 4,
			openFiles: 128,
			noNewExecutables: false,
			maxFrame: 1024 * 1024,
			greet: (leaf) => leaf.send(frameType.load, encodeLoad('f.py', {WORD: 'given'})),
		};
	}

	/** One that waits; of the zygote, by default the root zygote. */
	async spare(t: ExecutionContext, zygote?: Zygote, {warmUps = true} = {}): Promise<Spare> {
		const spec = {...pythonSpare, warmUps, takeCgroup: () => this.takeCgroup()};
		const spare = await within((zygote ?? (await this.root())).forkSpare(spec), 'a spare');
		t.teardown(async () => spare.leaf.destroy());
		return spare;
	}

	takeCgroup(): ReturnType<SandboxHost['cgroups']['take']> {
		return this.host.cgroups.take({...defaultLimits, swapMb: 0});
	}

	/** A sandbox whose handler is loaded. */
	async talk(t: ExecutionContext, birth: LeafBirth): Promise<Talk> {
		t.teardown(async () => birth.leaf.destroy());
		const talk = new Talk(birth.leaf);
		await within(birth.born(), 'a birth');
		await talk.loaded();
		return talk;
	}
}

/** Made before the tests of this file; after them it is looked for what is left. */
export function useZygote(): () => ZygoteFixture {
	let fixture: ZygoteFixture | undefined;
	let leaks: LeakCheck | undefined;
	const undo = new Undo();
	test.serial.before(async () => {
		if (refusal !== undefined) return;
		leaks = new LeakCheck();
		const stateDir = await temporaryFolder();
		undo.push(() => rm(stateDir, {recursive: true, force: true}));
		const interpreter = await findInterpreter(python);
		const host = await openSandboxHost(
			{stateDir, memoryBudgetMb: 1024, groups: 'pausable', countsLaunchers: true, bestEffort: false},
			undo,
		);
		const events = {zygoteCreated: () => {}, zygoteDestroyed: () => {}, importFailed: () => {}, treeChanged: () => {}};
		const plan = {tree: undefined, promote: false, costOf: () => undefined, ageing: new Ageing(), spares: 0};
		const takeRecent = () => ({calls: [], costs: new Map(), closures: new Map()});
		const imports = new ImportCache({...host, ...plan, interpreter, events, takeRecent});
		undo.push(() => imports.close());
		fixture = new ZygoteFixture(host, imports, interpreter, stateDir);
		leaks.track(stateDir);
	});
	test.after.always('nothing is left', async (t) => {
		await undo.run();
		leaks?.verify(t);
	});
	return () => {
		if (fixture === undefined) throw new Error('expected a zygote: it is made before the first test');
		return fixture;
	};
}
