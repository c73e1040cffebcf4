import {chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync} from 'node:fs';
import {rm} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import {pathToFileURL} from 'node:url';
import test, {type ExecutionContext} from 'ava';
import {Credentials} from '../../src/packages/credentials.ts';
import {readInstallerSettings, readNetworkSettings} from '../../src/packages/installer-settings.ts';
import {writeKeyring} from '../helpers/keyring.ts';
import {temporaryFolder} from '../helpers/runtime.ts';

const never = new AbortController().signal;

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
			const pip = await readInstallerSettings('pip', folder, [], credentials, never);
			const {PIP_CONFIG_FILE, PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, HTTPS_PROXY, no_proxy} = variables;
			const {UV_INDEX, UV_INDEX_FIRST_PASSWORD, UV_INDEX_OTHER_PASSWORD} = variables;
			t.deepEqual(pip.env, {PIP_CONFIG_FILE, PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, HTTPS_PROXY, no_proxy});
			t.is(pip.indexUrl, PIP_INDEX_URL);
			t.deepEqual(pip.extraIndexUrls, PIP_EXTRA_INDEX_URL.split(' '));
			t.deepEqual(pip.mounts, []);
			t.is(credentials.for('https://example.org/six.whl'), 'somebody:secret');
			const uv = await readInstallerSettings('uv', folder, [], credentials, never);
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
			const {env, mounts, indexUrl, extraIndexUrls} = await readInstallerSettings(
				'pip',
				folder,
				[],
				credentials,
				never,
			);
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
			const {env, mounts} = await readInstallerSettings('uv', folder, [], credentials, never);
			t.is(credentials.for('https://example.org/six.whl'), 'me:secret');
			t.is(env.UV_FIND_LINKS, '/links/0,https://example.org/page');
			t.deepEqual(mounts, [
				{source: links, target: '/links/0'},
				{source: folder, target: '/config'},
			]);
			put(path.join(home, 'other.toml'), 'offline = true\n');
			process.env.UV_CONFIG_FILE = path.join(home, 'other.toml');
			const other = await readInstallerSettings('uv', folder, [], credentials, never);
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
			const settings = await readInstallerSettings('pip', folder, [two], credentials, never);
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
			const {env, mounts} = await readInstallerSettings('pip', folder, [], credentials, never);
			t.like(env, {
				PIP_CERT: '/config/certificates/0.pem',
				SSL_CERT_FILE: '/etc/ssl/certs/ca-certificates.crt',
				SSL_CERT_DIR: '/etc/ssl/certs:/links/0',
			});
			t.is(readFileSync(path.join(folder, 'certificates/0.pem'), 'utf8'), 'own');
			t.true(mounts.some(({target}) => target === '/config'));
			t.false(existsSync(path.join(folder, 'certs')));
			chmodSync(folder, 0o755);
			const network = await readNetworkSettings(folder, credentials, never);
			t.is(network.env.PIP_CERT, '/config/certificates/0.pem');
		},
	);
});

/** A keyring that answers everything, on `PATH`; answers what it was asked. */
function answerAll(home: string): () => string[] {
	const log = path.join(home, 'asked');
	const answer = `case "$3" in --mode) printf 'its\\nof %s\\n' "$2" ;; *) echo "of $3" ;; esac`;
	writeKeyring(home, `echo "$*" >> ${log}\n${answer}`);
	process.env.PATH = `${home}:${process.env.PATH}`;
	return () => (existsSync(log) ? readFileSync(log, 'utf8').split('\n').slice(0, -1).sort() : []);
}

test.serial(
	'uv: a keyring is asked for indexes of the configuration that lack a password, when it is to be',
	async (t) => {
		await withHome(
			t,
			() => ({
				UV_INDEX: 'first=https://me@a.example/simple other=https://b.example/simple https://me:known@c.example/',
				UV_INDEX_OTHER_USERNAME: 'you',
				UV_INDEX_FIRST_PASSWORD: 'known',
				UV_KEYRING_PROVIDER: 'subprocess',
				UV_FIND_LINKS: 'https://me@links.example/',
				NETRC: '/nowhere',
			}),
			async (home, folder, credentials) => {
				const asked = answerAll(home);
				put(
					path.join(home, '.config/uv/uv.toml'),
					[
						'keyring-provider = "disabled"',
						'extra-index-url = ["https://me@d.example/simple/", "https://e.example/simple/", "file:///nowhere"]',
						'[[index]]',
						'url = "https://f.example/simple/"',
						'authenticate = "always"',
					].join('\n'),
				);
				const {env} = await readInstallerSettings('uv', folder, ['https://me@g.example/'], credentials, never);
				t.deepEqual(asked(), [
					'get https://b.example/simple you',
					'get https://d.example/simple/ me',
					'get https://f.example/simple/ --mode creds',
				]);
				t.is(env.UV_KEYRING_PROVIDER, 'subprocess');
				t.is(env.PATH, '/config/bin:/usr/local/bin:/usr/bin:/bin');
				const answers = [
					['https://b.example/simple', 'you', 'of you'],
					['https://d.example/simple', 'me', 'of me'],
					['https://f.example/simple', 'its', 'of https://f.example/simple/'],
				];
				t.is(
					env.FORKTREE_KEYRING,
					answers
						.flat()
						.map((line) => `${line}\n`)
						.join(''),
				);
				t.is(credentials.for('https://d.example/a.whl'), 'me:of me');
				t.is(credentials.for('https://f.example/a.whl'), 'its:of https://f.example/simple/');
				t.is(credentials.for('https://e.example/a.whl'), undefined);
				t.is(credentials.mask('of me, of you'), '****, ****');
				const files = readdirSync(folder, {recursive: true, encoding: 'utf8'}).filter((file) => file.includes('.'));
				t.false(
					files.some(
						(file) =>
							statSync(path.join(folder, file)).isFile() &&
							readFileSync(path.join(folder, file), 'utf8').includes('of me'),
					),
				);
				// A program of ours needs no program to ask, and what was asked for just now is known.
				const network = await readNetworkSettings(path.join(home, 'more'), credentials, never);
				t.deepEqual(
					Object.keys(network.env).filter((name) => /KEYRING|^PATH$/.test(name)),
					[],
				);
				t.is(asked().length, 3);
			},
		);
	},
);

test.serial('pip: a keyring is asked when it is to be; the password goes into addresses', async (t) => {
	await withHome(
		t,
		() => ({
			PIP_EXTRA_INDEX_URL: 'https://me@b.example/simple file:///nowhere https://c.example/ https://you@d.example/',
		}),
		async (home, folder, credentials) => {
			const asked = answerAll(home);
			put(
				path.join(home, '.netrc'),
				'machine d.example login you password known\nmachine b.example\n\tlogin other\n\tpassword no\n',
			);
			put(
				path.join(home, '.config/pip/pip.conf'),
				'[global]\nindex-url = https://a+b@a.example/simple\nkeyring-provider = subprocess\n',
			);
			const {env, indexUrl, extraIndexUrls} = await readInstallerSettings('pip', folder, [], credentials, never);
			t.deepEqual(asked(), ['get https://a.example/simple a+b', 'get https://b.example/simple me']);
			t.is(indexUrl, 'https://a+b:of%20a%2Bb@a.example/simple');
			t.deepEqual(extraIndexUrls, [
				'https://me:of%20me@b.example/simple',
				'file:///nowhere',
				'https://c.example/',
				'https://you@d.example/',
			]);
			t.like(env, {
				PIP_INDEX_URL: indexUrl,
				PIP_EXTRA_INDEX_URL: extraIndexUrls.join(' '),
				PIP_KEYRING_PROVIDER: 'disabled',
				PATH: undefined,
			});
			t.is(credentials.for('https://a.example/a.whl'), 'a+b:of a+b');
		},
	);
});

for (const provider of [undefined, 'disabled', 'import', 'auto', 'native']) {
	test.serial(`no keyring is asked with ${provider ?? 'no'} keyring provider`, async (t) => {
		await withHome(
			t,
			() => ({
				...(provider === undefined ? {} : {UV_KEYRING_PROVIDER: provider, PIP_KEYRING_PROVIDER: provider}),
				UV_DEFAULT_INDEX: 'https://me@a.example/simple',
				PIP_INDEX_URL: 'https://me@a.example/simple',
			}),
			async (home, folder, credentials) => {
				const asked = answerAll(home);
				for (const tool of ['uv', 'pip'] as const) {
					const {env} = await readInstallerSettings(tool, folder, [], credentials, never);
					t.deepEqual(
						Object.keys(env).filter((name) => /KEYRING|^PATH$/.test(name)),
						[],
					);
				}
				await readNetworkSettings(folder, credentials, never);
				t.deepEqual(asked(), []);
			},
		);
	});
}
