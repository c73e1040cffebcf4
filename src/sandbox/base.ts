/** What program sandboxes see as `/`: where the folders come from, and the plan of a launcher's root. */
import {createHash} from 'node:crypto';
import {createReadStream, existsSync, lstatSync, readdirSync, readlinkSync, statSync} from 'node:fs';
import {mkdir, mkdtemp, rename, rm, stat, symlink} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import {pipeline} from 'node:stream/promises';
import {extract, type ReadEntry} from 'tar';
import {nativeDirectory} from '../native.ts';
import {defaultDevices, planDevices, type RootPlan} from './keeper.ts';
import {hostsFile} from './network/sandbox-network.ts';
import {invalidBase, type ResolvedSandboxOptions} from './sandbox-options.ts';
import {scratchOptions} from './scratch.ts';
import {unpackingPrefix} from './state-dir.ts';

type Operation = RootPlan['operations'][number];

/** Made for each root, whatever the base has there. */
const ownFolders: ReadonlySet<string> = new Set(['proc', 'dev', 'sys', 'tmp', 'forktree']);
/** Of the host, what programs need; of /etc only what has no secrets. */
const hostFolders = ['bin', 'sbin', 'lib', 'lib32', 'lib64', 'libx32', 'usr'];
const hostFiles = ['/etc/ld.so.cache', '/etc/mime.types', '/etc/protocols', '/etc/services'];
const hostEtcFolders = ['/etc/alternatives', '/etc/ssl/certs', '/etc/fonts'];
const networkFiles = ['/etc/resolv.conf', '/etc/hosts', '/etc/nsswitch.conf'];

const passwd = 'root:x:0:0:root:/:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n';
const group = 'root:x:0:\nnogroup:x:65534:\n';
const hosts = '127.0.0.1 localhost sandbox\n::1 localhost\n';
const nsswitch = 'passwd: files\ngroup: files\nhosts: files dns\n';

/** The most that an archive may unpack to. */
const maxEntries = 1_000_000;
const maxBytes = 16 * 1024 ** 3;

/** What a launcher's root is made of; sandboxes with the same share a launcher. */
export type RootShape = {
	readonly base: string;
	readonly layers: readonly string[];
	/** Where mounts go. */
	readonly targets: readonly string[];
	readonly network: 'none' | 'host';
	/** Names below /dev. */
	readonly devices: readonly string[];
	/** Whether, and where to, everything in it can be written. */
	readonly writable: RootPlan['writable'];
};

/** @throws {ForktreeError} `InvalidSource` when a folder or archive is not usable */
export async function resolveShape(options: ResolvedSandboxOptions, cache: string): Promise<RootShape> {
	const base = options.base === 'host' ? 'host' : await resolveFolder(options.base, 'base', cache);
	const layers = await Promise.all(options.layers.map(async (layer) => resolveFolder(layer, 'layers', cache)));
	const asked = options.devices.filter((name) => !(defaultDevices as readonly string[]).includes(name));
	const missing = asked.find((name) => !isDevice(`/dev/${name}`));
	if (missing !== undefined) throw invalidBase(`devices: expected a device of this machine, got /dev/${missing}`);
	return {
		base,
		layers,
		targets: options.mounts.map(({target}) => target),
		network: options.network === 'host' ? 'host' : 'none',
		devices: options.devices,
		writable: resolveWritable(options),
	};
}

function isDevice(file: string): boolean {
	const status = statSync(file, {throwIfNoEntry: false});
	return status?.isCharacterDevice() === true || status?.isBlockDevice() === true;
}

function resolveWritable({writable, limits}: ResolvedSandboxOptions): RootShape['writable'] {
	if (typeof writable === 'object') return {kind: 'folder', where: writable.overlay};
	return writable === 'overlay' ? {kind: 'tmpfs', where: scratchOptions(limits.scratchMb, '755')} : undefined;
}

async function resolveFolder(source: string, label: string, cache: string): Promise<string> {
	const status = await stat(source).catch((error: unknown) => {
		throw invalidBase(
			`${label}: expected a folder or a .tar or .tar.gz file, got ${source}, which is not there`,
			error,
		);
	});
	if (status.isDirectory()) return source;
	if (status.isFile() && /\.(?:tar|tar\.gz|tgz)$/.test(source)) return unpackOnce(source, cache);
	throw invalidBase(`${label}: expected a folder or a .tar or .tar.gz file, got ${source}`);
}

async function digestOf(file: string): Promise<string> {
	const hash = createHash('sha256');
	await pipeline(createReadStream(file), hash);
	return hash.digest('hex');
}

/** Unpacks an archive into a folder named by its content, unless it is there; whole or not at all. */
async function unpackOnce(file: string, cache: string): Promise<string> {
	const target = path.join(cache, await digestOf(file));
	if (existsSync(target)) return target;
	await mkdir(cache, {recursive: true, mode: 0o755});
	const staging = await mkdtemp(path.join(cache, unpackingPrefix));
	try {
		await unpack(file, staging);
		await rename(staging, target).catch((error: NodeJS.ErrnoException) => {
			if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error; // somebody else was faster
		});
		return target;
	} finally {
		// A faulty archive can be given up while a file is being written.
		await rm(staging, {recursive: true, force: true, maxRetries: 5});
	}
}

/**
 * Links are made last, when nothing is written any more: so nothing is written through one. Where they lead matters in the
 * sandbox alone, where it is no further than its own root.
 */
class Links {
	readonly #targets = new Map<string, string>();

	/** Takes an entry over if it is a link. @returns whether it was */
	take(name: string, entry: ReadEntry): boolean {
		const link = path.posix.normalize(name);
		const target =
			entry.type === 'SymbolicLink'
				? entry.linkpath
				: entry.type === 'Link' // another name of a link
					? this.#targets.get(path.posix.normalize(entry.linkpath ?? ''))
					: undefined;
		if (target === undefined) return false;
		this.#targets.set(link, target);
		return true;
	}

	/** @returns what is wrong with them, if anything */
	async make(folder: string): Promise<string | undefined> {
		for (const [link, target] of this.#targets) {
			for (let above = path.posix.dirname(link); above !== '.'; above = path.posix.dirname(above)) {
				if (this.#targets.has(above)) return `the path ${JSON.stringify(link)} below a link`;
			}
			const where = path.join(folder, link);
			try {
				await mkdir(path.dirname(where), {recursive: true});
				await symlink(target, where);
			} catch (error) {
				return `the link ${JSON.stringify(link)}: ${(error as NodeJS.ErrnoException).code}`;
			}
		}
		return undefined;
	}
}

async function unpack(file: string, folder: string): Promise<void> {
	let [entries, bytes] = [0, 0];
	let fault: string | undefined;
	const links = new Links();
	try {
		await extract({
			file,
			cwd: folder,
			// Not strict: that would give up while files are still being written.
			onwarn: (_code, message) => {
				fault ??= String(message);
			},
			preserveOwner: process.geteuid?.() === 0, // nobody else could
			filter: (name, entry) => {
				entries += 1;
				bytes += entry.size ?? 0;
				if (entries > maxEntries) fault ??= `more than ${maxEntries} entries`;
				if (bytes > maxBytes) fault ??= `more than ${maxBytes} bytes`;
				const type = 'type' in entry ? entry.type : 'File';
				for (const each of [name, ...(type === 'Link' && 'linkpath' in entry ? [entry.linkpath ?? ''] : [])]) {
					if (each.startsWith('/') || each.split('/').includes('..')) fault ??= `the path ${JSON.stringify(each)}`;
				}
				if (fault !== undefined || !('type' in entry) || links.take(name, entry)) return false;
				// Device nodes and pipes have no use in a read-only folder.
				return !['CharacterDevice', 'BlockDevice', 'FIFO'].includes(type);
			},
		});
		fault ??= await links.make(folder);
	} catch (error) {
		throw invalidBase(`${file}: ${error instanceof Error ? error.message : String(error)}`, error);
	}
	if (fault !== undefined) throw invalidBase(`${file}: expected a root-file-system archive, got one with ${fault}`);
}

/** Whether a root of that shape has an `/etc/hosts`, over which another can be attached. */
export function hasHostsFile({base, layers}: RootShape): boolean {
	if (base === 'host' && layers.length === 0) return true;
	const holders = [...layers].reverse().concat(base === 'host' ? [] : [base]);
	const found = holders.map((holder) => lstatSync(path.join(holder, hostsFile), {throwIfNoEntry: false}));
	return found.find((status) => status !== undefined)?.isFile() === true;
}

/** The plan of a launcher's root. */
export function planLauncher({base, layers, targets, network, devices, writable}: RootShape): RootPlan {
	const operations: Operation[] =
		base === 'host' && layers.length === 0 ? planHost(network) : planFolders(base, layers, network);
	operations.push(['program', path.join(nativeDirectory(), 'init'), '/forktree/native/init']);
	operations.push(['program', path.join(nativeDirectory(), 'launcher'), '/forktree/native/launcher']);
	operations.push(['dir', '', '/tmp'], ['dir', '', '/proc']);
	const there = new Set(operations.map(([, , target]) => target));
	for (const target of targets) {
		const [, top = ''] = target.split('/');
		// What lies in a folder of the base, which is read-only, has to be there.
		if (!there.has(`/${top}`)) operations.push(['dir', '', target]);
	}
	operations.push(...planDevices(devices));
	const sharedNetwork = network === 'host';
	return {operations, argv: ['/forktree/native/launcher'], environment: {}, sharedNetwork, writable};
}

function planHost(network: RootShape['network']): Operation[] {
	const operations: Operation[] = [];
	for (const name of hostFolders) {
		const folder = `/${name}`;
		if (!existsSync(folder)) continue;
		if (lstatSync(folder).isSymbolicLink()) operations.push(['link', readlinkSync(folder), folder]);
		else operations.push(['bind', folder, folder]);
	}
	for (const folder of hostEtcFolders) if (existsSync(folder)) operations.push(['bind', folder, folder]);
	for (const file of hostFiles) if (existsSync(file)) operations.push(['copy', file, file]);
	operations.push(['file', passwd, '/etc/passwd'], ['file', group, '/etc/group']);
	if (network === 'host') {
		for (const file of networkFiles) if (existsSync(file)) operations.push(['copy', file, file]);
	} else {
		operations.push(['file', hosts, '/etc/hosts'], ['file', nsswitch, '/etc/nsswitch.conf']);
	}
	return operations;
}

/** Every top-level folder by itself, so that proc, dev and tmp can be ours; those that several have as an overlay. */
function planFolders(base: string, layers: readonly string[], network: RootShape['network']): Operation[] {
	const operations: Operation[] = [];
	// The topmost first.
	const lowers = [...[...layers].reverse(), ...(base === 'host' ? ['/'] : [base])];
	const names = new Set(lowers.flatMap((lower) => readdirSync(lower)));
	for (const name of [...names].sort()) {
		if (ownFolders.has(name)) continue;
		const holders = lowers.filter((lower) => existsOrLink(path.join(lower, name)) && isShown(lower, name));
		const [top] = holders;
		if (top === undefined) continue;
		const source = path.join(top, name);
		const target = `/${name}`;
		const status = lstatSync(source);
		if (status.isSymbolicLink()) operations.push(['link', readlinkSync(source), target]);
		else if (status.isFile()) operations.push(['copy', source, target]);
		else if (status.isDirectory()) operations.push(planFolder(holders, name));
	}
	const etc = operations.some(([, , target]) => target === '/etc');
	if (network === 'host' && !etc) {
		for (const file of networkFiles) if (existsSync(file)) operations.push(['copy', file, file]);
	}
	return operations;
}

/** Of the host as a base only system folders are shown. */
function isShown(lower: string, name: string): boolean {
	return lower !== '/' || hostFolders.includes(name);
}

function existsOrLink(file: string): boolean {
	return lstatSync(file, {throwIfNoEntry: false}) !== undefined;
}

function planFolder(holders: readonly string[], name: string): Operation {
	const folders: string[] = [];
	for (const holder of holders) {
		const folder = path.join(holder, name);
		if (!lstatSync(folder).isDirectory()) break; // what is below a file or a link is hidden by it
		folders.push(folder);
	}
	const target = `/${name}`;
	if (folders.length === 1) return ['bind', folders[0] as string, target];
	// Colons separate the folders, commas the options, see the kernel's overlayfs.rst.
	return ['overlay', folders.map((folder) => folder.replaceAll(/[\\:,]/g, '\\$&')).join(':'), target];
}
