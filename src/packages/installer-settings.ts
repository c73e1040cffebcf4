/**
 * What this machine's user has told installers about indexes, proxies and certificates, so that they find it in a sandbox as
 * well: their variables and configuration files. What decides what is installed, and where to, is ours.
 */
import {statSync} from 'node:fs';
import {chmod, copyFile, mkdir, readFile, writeFile} from 'node:fs/promises';
import {homedir} from 'node:os';
import {dirname, isAbsolute, join, relative, resolve} from 'node:path';
import process from 'node:process';
import {fileURLToPath, pathToFileURL} from 'node:url';
import {parse} from 'smol-toml';
import {baseEnvironment} from '../sandbox/rootfs.ts';
import type {SandboxMount} from '../sandbox/sandbox-options.ts';
import {type Credentials, percentDecode} from './credentials.ts';
import type {Account} from './keyring.ts';
import {courierProgram, courierText, courierVariable} from './keyring-courier.ts';

/** Seen by every program that uses the network. */
const NETWORK = /^(?:https?|ftp|all|no)_proxy$/i;
const CERTIFICATES = ['SSL_CERT_FILE', 'REQUESTS_CA_BUNDLE', 'CURL_CA_BUNDLE'] as const;
const VARIABLES = {
	pip: /^PIP_(?:INDEX_URL|EXTRA_INDEX_URL|NO_INDEX|TRUSTED_HOST|PROXY|TIMEOUT|DEFAULT_TIMEOUT|RETRIES|PRE|USE_FEATURE|USE_DEPRECATED)$/,
	uv: /^UV_(?:INDEX|DEFAULT_INDEX|INDEX_URL|EXTRA_INDEX_URL|INDEX_STRATEGY|INDEX_\w+_(?:USERNAME|PASSWORD)|NO_INDEX|INSECURE_HOST|NATIVE_TLS|SYSTEM_CERTS|HTTP_TIMEOUT|HTTP_CONNECT_TIMEOUT|HTTP_RETRIES|REQUEST_TIMEOUT|CONCURRENT_DOWNLOADS|OFFLINE|PRERELEASE|RESOLUTION|EXCLUDE_NEWER)$/,
} as const;
/** An index can have a name before its address. */
const NAMED = /^([\w-]+)=(?=\w+:\/\/)/;
const SECRET_VARIABLE = /_PASSWORD$/;
/** With or without quotes. */
const NETRC_PASSWORD = /\bpassword\s+"?([^\s"]+)/g;
const NETRC_ENTRY = /\bmachine\s+"?([^\s"]+)(?:(?!\bmachine\s).)*?\blogin\s+"?([^\s"]+)/gs;
/** What every sandbox sees of this machine, see base.ts. */
const VISIBLE = ['/usr', '/etc/ssl/certs'];

const CONFIG = '/config';
const PROGRAMS = 'bin';
const LINKS = '/links';

/** What an installer is given in a sandbox, to find what its user has configured. */
export type InstallerSettings = {
	readonly env: Readonly<Record<string, string>>;
	readonly mounts: readonly SandboxMount[];
	/** What pip is told of indexes, with credentials; undefined: nothing. */
	readonly indexUrl: string | undefined;
	readonly extraIndexUrls: readonly string[];
	/** Where a file of a sandbox is on the host; undefined when it is in no folder that was made visible. */
	toHost(url: string): string | undefined;
	/** Where an address or path of the host is in the sandbox. */
	toSandbox(location: string): string;
};

type Tool = 'pip' | 'uv';

/** An index without a password, for which its user has told installers to ask a keyring. */
type Unopened = {
	/** Without credentials. */
	readonly url: string;
	/** Undefined: the keyring knows it. */
	readonly username: string | undefined;
};

/** What the keyring has of those. */
type Answers = ReadonlyArray<readonly [url: string, account: Account]>;

/**
 * Collects the settings.
 * @param folder an empty folder of the caller's, in one that nobody else may enter: copies of configuration are put there
 * @param locations addresses and paths that need to be visible besides
 * @param signal of the keyring that is asked; undefined when none is to be
 */
export async function readInstallerSettings(
	tool: Tool,
	folder: string,
	locations: readonly string[],
	credentials: Credentials,
	signal: AbortSignal | undefined,
): Promise<InstallerSettings> {
	const collected = new Collected(folder, credentials);
	if (tool === 'pip') await collected.addPip();
	else await collected.addUv();
	await collected.addNetwork();
	if (signal !== undefined) {
		const answers = await collected.askKeyring(signal);
		if (tool === 'pip') collected.tellPip(answers);
		else await collected.tellUv(answers);
	}
	return collected.finish(locations);
}

/** Like {@link readInstallerSettings}, for a program of ours: proxies, certificates and netrc, whoever they were given to. */
export async function readNetworkSettings(
	folder: string,
	credentials: Credentials,
	signal: AbortSignal,
): Promise<InstallerSettings> {
	const collected = new Collected(folder, credentials);
	await collected.addPip();
	await collected.addUv();
	await collected.addNetwork();
	await collected.askKeyring(signal);
	return collected.finish([]);
}

class Collected {
	readonly #folder: string;
	readonly #credentials: Credentials;
	readonly #env: Record<string, string> = {};
	/** By the folder on the host. */
	readonly #links = new Map<string, string>();
	#indexUrl: string | undefined;
	#extraIndexUrls: readonly string[] = [];
	/** Undefined: no keyring is to be asked. */
	#unopened: Unopened[] | undefined;
	#netrc = '';
	#copies = 0;

	constructor(folder: string, credentials: Credentials) {
		this.#folder = folder;
		this.#credentials = credentials;
	}

	async addPip(): Promise<void> {
		const configured = await this.#pipOptions();
		const option = (name: string) =>
			process.env[`PIP_${name.toUpperCase().replaceAll('-', '_')}`] ?? configured.get(name);
		this.#pass(VARIABLES.pip);
		this.#set('PIP_FIND_LINKS', this.#allToSandbox(option('find-links'), /\s+/, ' '));
		this.#set('PIP_CERT', await this.#certificate(option('cert')));
		this.#set('PIP_CLIENT_CERT', await this.#certificate(option('client-cert')));
		this.#indexUrl = this.#learn(option('index-url'))[0];
		this.#extraIndexUrls = this.#learn(option('extra-index-url'));
		if (option('keyring-provider') !== 'subprocess') return;
		for (const url of [this.#indexUrl ?? '', ...this.#extraIndexUrls]) this.#leaveToKeyring(url);
	}

	async addUv(): Promise<void> {
		const own = process.env.UV_CONFIG_FILE ?? join(userConfig(), 'uv/uv.toml');
		const system = [...configFolders().map((each) => join(each, 'uv/uv.toml')), '/etc/uv/uv.toml'];
		const text = await this.#copyFirst([own], '.config/uv/uv.toml');
		const files = [text, await this.#copyFirst(system, 'etc/uv/uv.toml')].map(readUvFile);
		if (process.env.UV_CONFIG_FILE !== undefined) this.#set('UV_CONFIG_FILE', text && `${CONFIG}/.config/uv/uv.toml`);
		this.#pass(VARIABLES.uv);
		const links = process.env.UV_FIND_LINKS ?? files.flatMap((file) => file.links).join(',');
		this.#set('UV_FIND_LINKS', this.#allToSandbox(links, /,/, ','));
		const {UV_DEFAULT_INDEX, UV_INDEX_URL, UV_INDEX, UV_EXTRA_INDEX_URL} = process.env;
		const words = [UV_DEFAULT_INDEX, UV_INDEX_URL, UV_INDEX, UV_EXTRA_INDEX_URL].join(' ');
		const indexes = [...words.split(/[\s,]+/).map(readIndexWord), ...files.flatMap((file) => file.indexes)];
		for (const {name, url} of indexes) {
			this.#credentials.learn(url);
			this.#learnNamed(name, url);
		}
		const provider = process.env.UV_KEYRING_PROVIDER ?? files.find((file) => file.keyringProvider)?.keyringProvider;
		if (provider !== 'subprocess') return;
		for (const {name, url, needsName} of indexes) {
			const {username, password} = namedCredentials(name);
			if (password === '') this.#leaveToKeyring(url, username, needsName);
		}
	}

	async addNetwork(): Promise<void> {
		this.#pass(NETWORK);
		for (const name of CERTIFICATES) this.#set(name, await this.#certificate(process.env[name]));
		this.#set('SSL_CERT_DIR', this.#allToSandbox(process.env.SSL_CERT_DIR, /:/, ':'));
		this.#netrc = await this.#copyFirst([process.env.NETRC ?? join(homedir(), '.netrc')], '.netrc');
		for (const [, password = ''] of this.#netrc.matchAll(NETRC_PASSWORD)) this.#credentials.addSecret(password);
	}

	/** Asks the keyring of this machine, as the installer would, for what netrc does not have. */
	async askKeyring(signal: AbortSignal): Promise<Answers> {
		const logins = new Map([...this.#netrc.matchAll(NETRC_ENTRY)].map(([, host = '', login = '']) => [host, login]));
		const unopened = new Map(this.#unopened?.map((each) => [JSON.stringify(each), each]));
		const asked = [...unopened.values()].filter(({url, username}) => {
			const login = logins.get(new URL(url).hostname);
			return login === undefined || login !== (username ?? login);
		});
		const answers = asked.map(async ({url, username}) => {
			const account = await this.#credentials.ask(url, username, signal);
			return account === undefined ? [] : [[url, account] as const];
		});
		return (await Promise.all(answers)).flat();
	}

	/** In addresses, since not every version of it asks a program. */
	tellPip(answers: Answers): void {
		if (this.#unopened === undefined) return;
		this.#set('PIP_KEYRING_PROVIDER', 'disabled');
		if (answers.length === 0) return;
		this.#indexUrl = this.#indexUrl && withAccount(this.#indexUrl, answers);
		this.#extraIndexUrls = this.#extraIndexUrls.map((url) => withAccount(url, answers));
		this.#set('PIP_INDEX_URL', this.#indexUrl && this.#toSandbox(this.#indexUrl));
		this.#set('PIP_EXTRA_INDEX_URL', this.#extraIndexUrls.map((url) => this.#toSandbox(url)).join(' '));
	}

	/** By a program that it asks, since it has indexes in files as well, and more to say of them than addresses. */
	async tellUv(answers: Answers): Promise<void> {
		if (this.#unopened === undefined) return;
		await mkdir(join(this.#folder, PROGRAMS));
		await writeFile(join(this.#folder, PROGRAMS, 'keyring'), courierProgram);
		await chmod(join(this.#folder, PROGRAMS, 'keyring'), 0o755);
		this.#copies += 1;
		Object.assign(this.#env, {
			PATH: `${CONFIG}/${PROGRAMS}:${baseEnvironment.PATH}`,
			UV_KEYRING_PROVIDER: 'subprocess',
			[courierVariable]: courierText(answers),
		});
	}

	finish(locations: readonly string[]): InstallerSettings {
		for (const location of locations) this.#toSandbox(location);
		const mounts: SandboxMount[] = [...this.#links].map(([source, target]) => ({source, target}));
		if (this.#copies > 0) {
			mounts.push({source: this.#folder, target: CONFIG});
			Object.assign(this.#env, {
				HOME: CONFIG,
				XDG_CONFIG_HOME: `${CONFIG}/.config`,
				XDG_CONFIG_DIRS: `${CONFIG}/etc:${CONFIG}/etc2`,
			});
		}
		return {
			env: this.#env,
			mounts,
			indexUrl: this.#indexUrl,
			extraIndexUrls: this.#extraIndexUrls,
			toHost: (url) => this.#toHost(url),
			toSandbox: (location) => this.#toSandbox(location),
		};
	}

	#set(name: string, value: string | undefined): void {
		if (value !== undefined && value !== '') this.#env[name] = value;
	}

	#pass(names: RegExp): void {
		for (const [name, value] of Object.entries(process.env)) {
			if (!names.test(name) || value === undefined) continue;
			this.#env[name] = value
				.split(/(\s+)/)
				.map((word) => (word.startsWith('file:') ? this.#toSandbox(word) : word))
				.join('');
			if (SECRET_VARIABLE.test(name)) this.#credentials.addSecret(value);
		}
	}

	#learn(value: string | undefined): string[] {
		const urls = value?.split(/[\s,]+/).filter((url) => URL.canParse(url)) ?? [];
		for (const url of urls) this.#credentials.learn(url);
		return urls;
	}

	#learnNamed(name: string, url: string): void {
		const {username, password} = namedCredentials(name);
		if (username + password !== '' && URL.canParse(url)) this.#credentials.set(url, username, password);
	}

	/** Has the keyring asked for the password of an index, if it has a name, or needs one, and no password. */
	#leaveToKeyring(text: string, name = '', needsName = false): void {
		this.#unopened ??= [];
		if (!/^https?:/.test(text) || !URL.canParse(text)) return;
		const url = new URL(text);
		const username = name || percentDecode(url.username);
		if (url.password !== '' || (username === '' && !needsName) || /\p{Cc}/u.test(username)) return;
		url.username = '';
		this.#unopened.push({url: url.href, username: username || undefined});
	}

	#allToSandbox(value: string | undefined, separator: RegExp, joiner: string): string | undefined {
		const locations = value?.split(separator).filter((location) => location !== '');
		return locations?.map((location) => this.#toSandbox(location)).join(joiner);
	}

	/** A folder of the host, by its path or as an address, becomes visible; anything else stays as it is. */
	#toSandbox(location: string): string {
		const path = location.startsWith('file:')
			? pathOf(location)
			: location.includes('://')
				? undefined
				: resolve(location);
		if (path === undefined || VISIBLE.some((folder) => isBelow(path, folder)) || !isFolder(path)) return location;
		const target = this.#links.get(path) ?? `${LINKS}/${this.#links.size}`;
		this.#links.set(path, target);
		return location.startsWith('file:') ? pathToFileURL(target).href : target;
	}

	#toHost(url: string): string | undefined {
		const path = pathOf(url);
		for (const [source, target] of this.#links) {
			if (path !== undefined && isBelow(path, target)) return pathToFileURL(join(source, relative(target, path))).href;
		}
		return undefined;
	}

	/** A file of certificates is copied, unless it is visible as it is: its folder may hold what is nobody's business. */
	async #certificate(path: string | undefined): Promise<string | undefined> {
		if (path === undefined || !isAbsolute(path) || VISIBLE.some((folder) => isBelow(path, folder))) return path;
		const name = `certificates/${this.#copies}.pem`;
		return (await this.#copy(path, name)) ? `${CONFIG}/${name}` : path;
	}

	async #copyFirst(candidates: readonly string[], name: string): Promise<string> {
		for (const path of candidates) {
			if (await this.#copy(path, name)) return readFile(join(this.#folder, name), 'utf8');
		}
		return '';
	}

	async #copy(path: string, name: string): Promise<boolean> {
		if (!isFile(path)) return false;
		const target = join(this.#folder, name);
		await mkdir(dirname(target), {recursive: true});
		await copyFile(path, target);
		await chmod(target, 0o644);
		this.#copies += 1;
		return true;
	}

	/** The options of its configuration files, later files over earlier ones. */
	async #pipOptions(): Promise<Map<string, string>> {
		const {PIP_CONFIG_FILE} = process.env;
		if (PIP_CONFIG_FILE === '/dev/null') {
			this.#set('PIP_CONFIG_FILE', PIP_CONFIG_FILE);
			return new Map();
		}
		const user = [join(homedir(), '.pip/pip.conf'), join(userConfig(), 'pip/pip.conf')];
		const layers = [
			[configFolders().map((each) => join(each, 'pip/pip.conf')), 'etc/pip/pip.conf'],
			[['/etc/pip.conf'], 'etc2/pip/pip.conf'],
			[user.slice(0, 1), '.pip/pip.conf'],
			[user.slice(1), '.config/pip/pip.conf'],
			[PIP_CONFIG_FILE === undefined ? [] : [PIP_CONFIG_FILE], 'pip.conf'],
		] as const;
		const options = new Map<string, string>();
		for (const [candidates, name] of layers) {
			for (const [key, value] of iniOptions(await this.#copyFirst(candidates, name))) options.set(key, value);
		}
		if (PIP_CONFIG_FILE !== undefined) this.#set('PIP_CONFIG_FILE', `${CONFIG}/pip.conf`);
		return options;
	}
}

/** Options of `[global]` and `[install]`: the latter is what applies to installing. */
function iniOptions(text: string): Array<[name: string, value: string]> {
	const options: Array<[string, string]> = [];
	let isOurs = false;
	for (const line of text.split(/\r?\n/)) {
		const [, section] = /^\[(.*)\]\s*$/.exec(line) ?? [];
		const [, name, value] = /^([\w-]+)\s*[=:]\s*(.*)$/.exec(line) ?? [];
		const last = options.at(-1);
		if (section !== undefined) isOurs = section === 'global' || section === 'install';
		else if (!isOurs || /^\s*[#;]/.test(line)) continue;
		else if (name !== undefined) options.push([name.replaceAll('_', '-'), value?.trim() ?? '']);
		else if (/^\s+\S/.test(line) && last !== undefined) last[1] = `${last[1]} ${line.trim()}`.trim();
	}
	return options;
}

/** What a configuration of uv says of where to look. */
type UvFile = {
	readonly links: readonly string[];
	readonly indexes: readonly UvIndex[];
	readonly keyringProvider: string | undefined;
};

type UvIndex = {
	/** Empty when it has none. */
	readonly name: string;
	readonly url: string;
	/** Whether it is never asked without a name and a password. */
	readonly needsName: boolean;
};

/** An address with the password for the name that it has. */
function withAccount(text: string, answers: Answers): string {
	const url = new URL(text);
	const {username} = url;
	url.username = '';
	const [, account] =
		answers.find(([each, known]) => each === url.href && known.username === percentDecode(username)) ?? [];
	return account === undefined
		? text
		: Object.assign(url, {username, password: encodeURIComponent(account.password)}).href;
}

/** Reads an address that can have a name before it, as in `name=https://…`. */
function readIndexWord(word: string): UvIndex {
	return {name: NAMED.exec(word)?.[1] ?? '', url: word.replace(NAMED, ''), needsName: false};
}

/** uv has the credentials of an index that has a name in variables with that name. */
function namedCredentials(name: string): {readonly username: string; readonly password: string} {
	const variable = `UV_INDEX_${name.toUpperCase().replaceAll(/[^A-Z0-9]/g, '_')}`;
	const {[`${variable}_USERNAME`]: username = '', [`${variable}_PASSWORD`]: password = ''} = process.env;
	return name === '' ? {username: '', password: ''} : {username, password};
}

function readUvFile(text: string): UvFile {
	try {
		const file = parse(text);
		const pip = tablesOf([file.pip])[0] ?? {};
		const all = (key: string) => [pip[key] ?? file[key]].flat().filter((each) => typeof each === 'string');
		const named = tablesOf([file.index, pip.index].flat()).map(({name, url, authenticate}) => {
			return {name: `${name ?? ''}`, url: `${url}`, needsName: authenticate === 'always'};
		});
		const others = [...all('index-url'), ...all('extra-index-url')].map(readIndexWord);
		return {links: all('find-links'), indexes: [...others, ...named], keyringProvider: all('keyring-provider')[0]};
	} catch {
		return {links: [], indexes: [], keyringProvider: undefined}; // uv says what is wrong
	}
}

function tablesOf(values: readonly unknown[]): Array<{readonly [key: string]: unknown}> {
	return values.filter((value) => typeof value === 'object' && value !== null) as Array<{
		readonly [key: string]: unknown;
	}>;
}

function userConfig(): string {
	return process.env.XDG_CONFIG_HOME ?? join(homedir(), '.config');
}

function configFolders(): string[] {
	return (process.env.XDG_CONFIG_DIRS ?? '/etc/xdg').split(':').filter((folder) => folder !== '');
}

function pathOf(url: string): string | undefined {
	try {
		return fileURLToPath(url);
	} catch {
		return undefined;
	}
}

function isBelow(path: string, folder: string): boolean {
	return path === folder || path.startsWith(`${folder}/`);
}

function isFolder(path: string): boolean {
	return statSync(path, {throwIfNoEntry: false})?.isDirectory() === true;
}

function isFile(path: string): boolean {
	return statSync(path, {throwIfNoEntry: false})?.isFile() === true;
}
