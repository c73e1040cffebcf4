/** A leaf that was made ahead and waits for what it is for: forked, in its namespaces, and without a sandbox's code or limits. */
import {ForktreeError} from '../errors.ts';
import type {CgroupLimits} from '../kernel/cgroup.ts';
import {closeFd} from '../native.ts';
import {encodeHandOver, type Rehearsal, spareFrame} from './launch-protocol.ts';
import type {Leaf} from './leaf.ts';
import {
	type ExpectedLeaf,
	encodeScratch,
	type LeafBirth,
	type LeafSpec,
	takeMounts,
	waitForBirth,
} from './leaf-birth.ts';

/** What a spare gets before anybody asks for it. */
export type SpareSpec = Pick<LeafSpec, 'takeCgroup' | 'uid' | 'hostname' | 'ownNetwork' | 'filter'> & {
	/** Whether it does what its packages put off until they are used; else only what every start goes through. */
	readonly warmUps: boolean;
};

/** What it gets when somebody does. */
export type HandOver = Pick<
	LeafSpec,
	'mounts' | 'scratchMb' | 'folder' | 'network' | 'openFiles' | 'maxFrame' | 'greet' | 'noNewExecutables'
> & {
	/** What its group is to limit. */
	readonly limits: CgroupLimits;
};

/** Made by `Launcher.forkSpare()`. Whoever has it hands it over, or destroys its leaf. */
export class Spare {
	readonly leaf: Leaf;
	/** What it has gone through ahead. */
	readonly rehearsal: Rehearsal;
	readonly #expect: (maxFrame: number) => ExpectedLeaf;
	#isTaken = false;

	/** @param expect has its birth told once more */
	constructor(leaf: Leaf, rehearsal: Rehearsal, expect: (maxFrame: number) => ExpectedLeaf) {
		this.leaf = leaf;
		this.rehearsal = rehearsal;
		this.#expect = expect;
	}

	/** Whether it can still be handed over, as far as is known. */
	get isUsable(): boolean {
		return !this.#isTaken && !this.leaf.isBroken;
	}

	/**
	 * Has it become a sandbox, by one message, which what it is greeted with follows. It serves this one only: when it can't
	 * become it, it is destroyed.
	 * @throws {ForktreeError} `ZygoteFailed` when it has ended; {SyscallError} when its group takes other limits not
	 */
	async handOver(spec: HandOver): Promise<LeafBirth> {
		const startedMs = performance.now();
		const {leaf} = this;
		if (this.#isTaken) throw new TypeError('expected a spare that was not handed over, got one that was');
		this.#isTaken = true;
		const mounts: number[] = [];
		try {
			if (leaf.isBroken) throw new ForktreeError('ZygoteFailed', 'a spare had ended before it was used');
			leaf.cgroup.setLimits(spec.limits);
			const {openFiles, folder, noNewExecutables} = spec;
			const {left} = leaf.cgroup;
			const targets = spec.mounts.map(({target}) => target);
			const [scratch, network] = [encodeScratch(spec.scratchMb), spec.network?.setUp];
			const payload = encodeHandOver({openFiles, left, folder, network, targets, scratch, noNewExecutables});
			mounts.push(...(await takeMounts(spec.mounts)));
			const expected = this.#expect(spec.maxFrame);
			leaf.giveNetwork(spec.network);
			const askedMs = performance.now();
			leaf.sendTogether(() => {
				leaf.send(spareFrame.handOver, payload, mounts);
				spec.greet(leaf);
			});
			return {leaf, born: async () => waitForBirth(expected, startedMs, askedMs)};
		} catch (error) {
			await leaf.destroy();
			throw error;
		} finally {
			for (const fd of mounts) closeFd(fd);
		}
	}
}
