import {chmodSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync} from 'node:fs';
import {rm} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import {pathToFileURL} from 'node:url';
import test, {type ExecutionContext} from 'ava';
import {Credentials} from '../../src/packages/credentials.ts';
import {readInstallerSettings, readNetworkSettings} from '../../src/packages/installer-settings.ts';
import {temporaryFolder} from '../helpers/runtime.ts';

/** Runs with nothing configured but these variables, and a home of its own. */
async function withHome<T>(
	t: ExecutionContext,
	variables: (home: string) => Readonly<Record<string, string>>,
	run: (home: string, folder: string, credentials: Credentials) => Promise<T>,
): Promise<T> {
	const home = await temporaryFolder();
	t.teardown(() => rm(home, {recursive: true, force: true}));
	const before = {...process.env};
	for (const name of Object.keys(process.env)) {
		if (/^(?:PIP|UV|XDG|SSL)_|_proxy$|_CA_BUNDLE$|^NETRC$/i.test(name)) delete process.env[name];
	}
	Object.assign(process.env, {HOME: home, XDG_CONFIG_DIRS: path.join(home, 'xdg')}, variables(home));
	try {
		const folder = path.join(home, 'copies');
		mkdirSync(folder);
		return await run(home, folder, new Credentials());
	} finally {
		for (const name of Object.keys(process.env)) if (before[name] === undefined) delete process.env[name];
		Object.assign(process.env, before);
	}
}

function put(file: string, text: string): void {
	mkdirSync(path.dirname(file), {recursive: true});
	writeFileSync(file, text, {mode: 0o600});
}

test.serial('variables that say where to look are passed, others are not', async (t) => {
	const variables = {
		PIP_CONFIG_FILE: '/dev/null',
		PIP_INDEX_URL: 'https://somebody:secret@example.org/simple',
		PIP_EXTRA_INDEX_URL: 'https://a.example.org/simple https://b.example.org/simple',
		PIP_TARGET: '/elsewhere',
		PIP_REQUIRE_VIRTUALENV: '1',
		UV_INDEX: 'first=https://c.example.org/simple',
		UV_INDEX_FIRST_PASSWORD: 'hidden',
		UV_INDEX_OTHER_PASSWORD: 'unused',
		UV_CACHE_DIR: '/elsewhere',
		HTTPS_PROXY: 'http://proxy:3128',
		no_proxy: 'localhost',
		AWS_SECRET: 'x',
	};
	await withHome(
		t,
		() => variables,
		async (_home, folder, credentials) => {
			const pip = await readInstallerSettings('pip', folder, [], credentials);
			const {PIP_CONFIG_FILE, PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, HTTPS_PROXY, no_proxy} = variables;
			const {UV_INDEX, UV_INDEX_FIRST_PASSWORD, UV_INDEX_OTHER_PASSWORD} = variables;
			t.deepEqual(pip.env, {PIP_CONFIG_FILE, PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, HTTPS_PROXY, no_proxy});
			t.is(pip.indexUrl, PIP_INDEX_URL);
			t.deepEqual(pip.extraIndexUrls, PIP_EXTRA_INDEX_URL.split(' '));
			t.deepEqual(pip.mounts, []);
			t.is(credentials.for('https://example.org/six.whl'), 'somebody:secret');
			const uv = await readInstallerSettings('uv', folder, [], credentials);
			t.deepEqual(uv.env, {UV_INDEX, UV_INDEX_FIRST_PASSWORD, UV_INDEX_OTHER_PASSWORD, HTTPS_PROXY, no_proxy});
			t.is(credentials.mask('hidden, unused'), '****, ****');
			t.is(credentials.for('https://c.example.org/six.whl'), ':hidden');
		},
	);
});

test.serial('configuration files are copied to where installers look', async (t) => {
	await withHome(
		t,
		() => ({}),
		async (home, folder, credentials) => {
			put(path.join(home, 'xdg/pip/pip.conf'), '[global]\nindex-url = https://old.example.org/simple\ntimeout = 5\n');
			put(
				path.join(home, '.config/pip/pip.conf'),
				'[global]\nindex-url = https://me:secret@example.org/simple\n# find-links = /no\nextra-index-url =\n    https://a.example.org/simple\n    https://b.example.org/simple\n[freeze]\nindex-url = https://no.example.org\n',
			);
			put(path.join(home, '.netrc'), 'machine example.org login me password "netrc-only"\n');
			const {env, mounts, indexUrl, extraIndexUrls} = await readInstallerSettings('pip', folder, [], credentials);
			t.is(indexUrl, 'https://me:secret@example.org/simple');
			t.deepEqual(extraIndexUrls, ['https://a.example.org/simple', 'https://b.example.org/simple']);
			t.deepEqual(mounts, [{source: folder, target: '/config'}]);
			t.like(env, {HOME: '/config', XDG_CONFIG_HOME: '/config/.config'});
			t.is(credentials.mask('netrc-only'), '****');
			for (const file of ['etc/pip/pip.conf', '.config/pip/pip.conf', '.netrc']) {
				t.is(statSync(path.join(folder, file)).mode & 0o777, 0o644, file);
			}
		},
	);
});

test.serial('uv’s own configuration, and another file in its place', async (t) => {
	await withHome(
		t,
		() => ({}),
		async (home, folder, credentials) => {
			const links = path.join(home, 'links');
			mkdirSync(links);
			put(
				path.join(home, '.config/uv/uv.toml'),
				`[pip]\nfind-links = ["${links}", "https://example.org/page"]\n[[index]]\nurl = "https://me:secret@example.org/simple"\n`,
			);
			const {env, mounts} = await readInstallerSettings('uv', folder, [], credentials);
			t.is(credentials.for('https://example.org/six.whl'), 'me:secret');
			t.is(env.UV_FIND_LINKS, '/links/0,https://example.org/page');
			t.deepEqual(mounts, [
				{source: links, target: '/links/0'},
				{source: folder, target: '/config'},
			]);
			put(path.join(home, 'other.toml'), 'offline = true\n');
			process.env.UV_CONFIG_FILE = path.join(home, 'other.toml');
			const other = await readInstallerSettings('uv', folder, [], credentials);
			t.is(other.env.UV_CONFIG_FILE, '/config/.config/uv/uv.toml');
			t.is(readFileSync(path.join(folder, '.config/uv/uv.toml'), 'utf8'), 'offline = true\n');
		},
	);
});

test.serial('folders of archives are made visible, and known by where they are', async (t) => {
	await withHome(
		t,
		(home) => ({PIP_FIND_LINKS: `${home}/one https://example.org/page ${home}/missing /usr/share`}),
		async (home, folder, credentials) => {
			for (const name of ['one', 'two words']) mkdirSync(path.join(home, name));
			const two = pathToFileURL(path.join(home, 'two words')).href;
			const settings = await readInstallerSettings('pip', folder, [two], credentials);
			t.is(settings.env.PIP_FIND_LINKS, `/links/0 https://example.org/page ${home}/missing /usr/share`);
			t.is(settings.toSandbox(two), 'file:///links/1');
			t.is(settings.toHost('file:///links/1/a%20b.whl'), `${two}/a%20b.whl`);
			for (const other of [
				'file:///links/10/x',
				'file:///etc/passwd',
				'file:///links/1/../../etc/passwd',
				'https://x/',
				'',
			]) {
				t.is(settings.toHost(other), undefined, other);
			}
		},
	);
});

test.serial('certificates are copied when they are not visible anyway', async (t) => {
	await withHome(
		t,
		(home) => ({
			PIP_CONFIG_FILE: '/dev/null',
			PIP_CERT: `${home}/own.pem`,
			SSL_CERT_FILE: '/etc/ssl/certs/ca-certificates.crt',
			SSL_CERT_DIR: `/etc/ssl/certs:${home}/certs`,
		}),
		async (home, folder, credentials) => {
			put(path.join(home, 'own.pem'), 'own');
			mkdirSync(path.join(home, 'certs'));
			const {env, mounts} = await readInstallerSettings('pip', folder, [], credentials);
			t.like(env, {
				PIP_CERT: '/config/certificates/0.pem',
				SSL_CERT_FILE: '/etc/ssl/certs/ca-certificates.crt',
				SSL_CERT_DIR: '/etc/ssl/certs:/links/0',
			});
			t.is(readFileSync(path.join(folder, 'certificates/0.pem'), 'utf8'), 'own');
			t.true(mounts.some(({target}) => target === '/config'));
			t.false(existsSync(path.join(folder, 'certs')));
			chmodSync(folder, 0o755);
			const network = await readNetworkSettings(folder, credentials);
			t.is(network.env.PIP_CERT, '/config/certificates/0.pem');
		},
	);
});
