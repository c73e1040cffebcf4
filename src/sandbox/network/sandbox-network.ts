/** The allow-list of one or more sandboxes: what each of them gets of it, and how its connections are served. */
import {chmodSync, rmSync, writeFileSync} from 'node:fs';
import path from 'node:path';
import {closeFd, localAddress} from '../../native.ts';
import type {Keeper} from '../keeper.ts';
import {LockedFolder} from '../mounts.ts';
import {Acceptor} from './acceptor.ts';
import {parseAddress, unmapped} from './addresses.ts';
import type {Lookup} from './dial.ts';
import {defaultDeadlines, Gateway, type TellNetwork} from './gateway.ts';
import {layOut, type NetworkLayout} from './layout.ts';
import {parseRules, type Rule} from './rules.ts';
import type {ResolvedNetwork} from './settings.ts';

/** Serves the connections of a sandbox; to be closed when that ends, which settles when the last event was told. */
export type NetworkService = {close(): Promise<void>};

/** What a leaf gets of an allow-list. */
export type LeafNetwork = {
	/** As native/guest/network.h has it. */
	readonly setUp: string;
	/** How many sockets come with its birth. */
	readonly listeners: number;
	/** Its `/etc/hosts`, where there is one to attach it to. */
	readonly hosts: LockedFolder;
	/** Serves what comes by these sockets, which it takes over. */
	readonly serve: (fds: readonly number[], tell: TellNetwork) => NetworkService;
};

/** Where a sandbox looks names up. */
export const hostsFile = '/etc/hosts';

/** Made for all sandboxes that have the same. Whoever made it closes it. */
export class SandboxNetwork implements LeafNetwork {
	readonly hosts: LockedFolder;
	readonly #file: string;
	readonly #settings: ResolvedNetwork;
	readonly #rules: readonly Rule[];
	readonly #layout: NetworkLayout;
	readonly #lookup: Lookup;

	private constructor(file: string, settings: ResolvedNetwork, hosts: LockedFolder, lookup: Lookup) {
		this.#file = file;
		this.#settings = settings;
		this.#rules = parseRules(settings.allow, 'network.allow');
		this.#layout = layOut(this.#rules, 'network.allow');
		this.#lookup = lookup;
		this.hosts = hosts;
	}

	/**
	 * @param file where the text for `/etc/hosts` is kept; its name is unique among the keeper's folders
	 * @throws {SyscallError} when that can't be locked
	 */
	static async open(keeper: Keeper, file: string, settings: ResolvedNetwork, lookup: Lookup): Promise<SandboxNetwork> {
		const {hosts} = layOut(parseRules(settings.allow, 'network.allow'), 'network.allow');
		writeFileSync(file, hosts);
		chmodSync(file, 0o644); // sandboxes run as another user, and the umask may have been strict
		try {
			const locked = await LockedFolder.createFile(keeper, path.basename(file), file);
			return new SandboxNetwork(file, settings, locked, lookup);
		} catch (error) {
			rmSync(file);
			throw error;
		}
	}

	get setUp(): string {
		return this.#layout.setUp;
	}

	get listeners(): number {
		return this.#layout.listeners;
	}

	serve(fds: readonly number[], tell: TellNetwork): NetworkService {
		const {connectionsPerSecond, ...limits} = this.#settings;
		const gateway = new Gateway({
			rules: this.#rules,
			limits,
			lookup: this.#lookup,
			deadlines: defaultDeadlines,
			tell,
		});
		const acceptor = new Acceptor(fds, {
			perSecond: connectionsPerSecond,
			serve: (fd) => {
				const local = localAddress(fd);
				const address = parseAddress(local?.address ?? '');
				if (local === undefined || address === undefined) closeFd(fd);
				else gateway.serve(fd, this.#layout.find(unmapped(address), local.port));
			},
		});
		return {
			close: async () => {
				acceptor.close();
				await gateway.close();
			},
		};
	}

	async close(): Promise<void> {
		await this.hosts.close();
		rmSync(this.#file);
	}
}
