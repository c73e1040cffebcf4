/** Makes wheels and source distributions, and serves them as a package index of this machine. */
import {execFileSync} from 'node:child_process';
import {createHash} from 'node:crypto';
import {chmodSync, mkdtempSync, readFileSync, rmSync} from 'node:fs';
import {createServer, type IncomingMessage, type ServerResponse} from 'node:http';
import {createServer as createTlsServer} from 'node:https';
import type {AddressInfo} from 'node:net';
import {tmpdir} from 'node:os';
import path from 'node:path';
import {python} from './runtime.ts';

const program = `
import io, json, sys, tarfile, zipfile
folder = sys.argv[1]
for spec in json.loads(sys.argv[2]):
    name, version = spec['name'].replace('-', '_'), spec['version']
    metadata = f"Metadata-Version: 2.1\\nName: {spec['name']}\\nVersion: {version}\\n"
    metadata += ''.join(f'Provides-Extra: {extra}\\n' for extra in spec.get('extras', []))
    metadata += ''.join(f'Requires-Dist: {requirement}\\n' for requirement in spec.get('requires', []))
    text = spec.get('text', '')
    if 'build' in spec:
        info = f'{name}-{version}.dist-info'
        made = {f'{name}.py': text, f'{info}/METADATA': metadata, f'{info}/RECORD': '',
                f'{info}/WHEEL': 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n'}
        needed = [required.replace('-', '_') for required in spec['build']]
        project = {
            'PKG-INFO': metadata,
            'pyproject.toml': f'[build-system]\\nrequires = {json.dumps(spec["build"])}\\n'
                              'build-backend = "backend"\\nbackend-path = ["."]\\n',
            'backend.py': 'import importlib, zipfile\\n'
                          'def build_wheel(folder, settings=None, metadata=None):\\n'
                          f'    for module in {needed!r}: importlib.import_module(module)\\n'
                          f'    with zipfile.ZipFile(folder + "/{name}-{version}-py3-none-any.whl", "w") as wheel:\\n'
                          f'        for file, content in {made!r}.items(): wheel.writestr(file, content)\\n'
                          f'    return "{name}-{version}-py3-none-any.whl"\\n',
        }
        with tarfile.open(f'{folder}/{name}-{version}.tar.gz', 'w:gz') as sdist:
            for file, content in project.items():
                entry = tarfile.TarInfo(f'{name}-{version}/{file}')
                entry.size = len(content.encode())
                sdist.addfile(entry, io.BytesIO(content.encode()))
        continue
    if spec.get('sdist'):
        with tarfile.open(f'{folder}/{name}-{version}.tar.gz', 'w:gz') as sdist:
            for file, content in {'PKG-INFO': metadata, 'setup.py': 'raise SystemExit("ran")', f'{name}.py': text}.items():
                entry = tarfile.TarInfo(f'{name}-{version}/{file}')
                entry.size = len(content)
                sdist.addfile(entry, io.BytesIO(content.encode()))
        continue
    tag, info = spec.get('tag', 'py3-none-any'), f'{name}-{version}.dist-info'
    files = {f'{name}.py': text, f'{info}/METADATA': metadata,
             f'{info}/WHEEL': f'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: {tag}\\n', f'{info}/RECORD': '',
             **spec.get('files', {})}
    with zipfile.ZipFile(f'{folder}/{name}-{version}-{tag}.whl', 'w') as wheel:
        for file, content in files.items():
            wheel.writestr(zipfile.ZipInfo(file), content)
`;

/** What an archive is made of. */
export type ArchiveSpec = {
	readonly name: string;
	readonly version: string;
	readonly sdist?: boolean;
	readonly tag?: string;
	readonly requires?: readonly string[];
	readonly extras?: readonly string[];
	/** Of its one module. */
	readonly text?: string;
	/** Of a source distribution: it can be built, and that needs these, by their names; they are imported then. */
	readonly build?: readonly string[];
	/** Further files of a wheel, by whatever paths. */
	readonly files?: Readonly<Record<string, string>>;
};

/** Makes archives in a folder. */
export function makeArchives(folder: string, specs: readonly ArchiveSpec[]): void {
	execFileSync(python, ['-I', '-S', '-c', program, folder, JSON.stringify(specs)]);
}

/** The name of an archive. */
export function fileName({name, version, sdist, tag}: ArchiveSpec): string {
	const stem = `${name.replaceAll('-', '_')}-${version}`;
	return sdist ? `${stem}.tar.gz` : `${stem}-${tag ?? 'py3-none-any'}.whl`;
}

export function sha256Of(bytes: Uint8Array): string {
	return createHash('sha256').update(bytes).digest('hex');
}

/** Answers a request in place of the index. @returns whether it did */
export type Interruption = (request: IncomingMessage, response: ServerResponse) => boolean;

export type IndexOptions = {
	/** PEP 691; else PEP 503, without hashes. */
	readonly json?: boolean;
	/** Asks for this `name:password`. */
	readonly authorization?: string;
	readonly interrupt?: Interruption;
	/** Serves with encryption, by a certificate that only it knows; what is served may be kept. */
	readonly tls?: boolean;
};

/** A package index on the loopback interface. */
export class PackageIndex implements AsyncDisposable {
	readonly folder = mkdtempSync(path.join(tmpdir(), 'forktree-test-index-'));
	/** Paths that were asked for. */
	readonly requests: string[] = [];
	readonly #specs: readonly ArchiveSpec[];
	readonly #options: IndexOptions;
	readonly #server: ReturnType<typeof createServer>;

	private constructor(specs: readonly ArchiveSpec[], options: IndexOptions) {
		this.#specs = specs;
		this.#options = options;
		chmodSync(this.folder, 0o755); // a sandbox may be shown it
		makeArchives(this.folder, specs);
		const answer = (request: IncomingMessage, response: ServerResponse) => this.#answer(request, response);
		this.#server = options.tls ? createTlsServer(this.#makeCertificate(), answer) : createServer(answer);
	}

	/** Where its certificate is. */
	get certificate(): string {
		return path.join(this.folder, 'certificate.pem');
	}

	#makeCertificate(): {readonly key: Buffer; readonly cert: Buffer} {
		const key = path.join(this.folder, 'key.pem');
		const subject = ['-subj', '/CN=index', '-addext', 'subjectAltName=IP:127.0.0.1'];
		const kind = [
			'-newkey',
			'ec',
			'-pkeyopt',
			'ec_paramgen_curve:P-256',
			'-nodes',
			'-addext',
			'basicConstraints=CA:FALSE',
		];
		const files = ['-keyout', key, '-out', this.certificate];
		execFileSync('openssl', ['req', '-x509', '-days', '2', ...kind, ...subject, ...files], {stdio: 'ignore'});
		return {key: readFileSync(key), cert: readFileSync(this.certificate)};
	}

	static async start(specs: readonly ArchiveSpec[], options: IndexOptions = {}): Promise<PackageIndex> {
		const index = new PackageIndex(specs, options);
		await new Promise<void>((resolve) => index.#server.listen(0, '127.0.0.1', resolve));
		return index;
	}

	get origin(): string {
		return `http${this.#options.tls ? 's' : ''}://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
	}

	/** For --index-url. */
	get url(): string {
		return `${this.origin}/simple/`;
	}

	bytes(spec: ArchiveSpec): Buffer {
		return readFileSync(path.join(this.folder, fileName(spec)));
	}

	sha256(spec: ArchiveSpec): string {
		return sha256Of(this.bytes(spec));
	}

	#answer(request: IncomingMessage, response: ServerResponse): void {
		const {authorization, interrupt} = this.#options;
		const url = request.url ?? '';
		this.requests.push(url);
		if (this.#options.tls) response.setHeader('Cache-Control', 'max-age=600');
		if (interrupt?.(request, response)) return;
		const expected = authorization === undefined ? undefined : `Basic ${Buffer.from(authorization).toString('base64')}`;
		if (expected !== undefined && request.headers.authorization !== expected) {
			response.writeHead(401, {'WWW-Authenticate': 'Basic realm="index"'}).end();
			return;
		}
		const [, area, name = ''] = url.split('/');
		const found = this.#specs.filter((spec) => (area === 'files' ? fileName(spec) === name : spec.name === name));
		if (found.length === 0) response.writeHead(404).end();
		else if (area === 'files') this.#serve(request, response, this.bytes(found[0] as ArchiveSpec));
		else this.#page(response, found);
	}

	#page(response: ServerResponse, specs: readonly ArchiveSpec[]): void {
		if (this.#options.json) {
			const files = specs.map((spec) => ({
				filename: fileName(spec),
				url: `../../files/${fileName(spec)}`,
				hashes: {sha256: this.sha256(spec)},
				size: this.bytes(spec).length,
			}));
			response.setHeader('Content-Type', 'application/vnd.pypi.simple.v1+json');
			response.end(JSON.stringify({meta: {'api-version': '1.1'}, name: specs[0]?.name, files}));
		} else {
			const links = specs.map((spec) => `<a href="../../files/${fileName(spec)}">${fileName(spec)}</a>`);
			response.setHeader('Content-Type', 'text/html');
			response.end(`<!DOCTYPE html><html><body>${links.join('\n')}</body></html>`);
		}
	}

	/** With ranges: uv reads a wheel's metadata without the rest. */
	#serve(request: IncomingMessage, response: ServerResponse, bytes: Buffer): void {
		const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') ?? [];
		response.setHeader('Accept-Ranges', 'bytes');
		response.setHeader('ETag', `"${sha256Of(bytes)}"`);
		if (request.method === 'HEAD') {
			response.writeHead(200, {'Content-Length': bytes.length}).end();
		} else if (first === undefined) response.end(bytes);
		else {
			const to = Math.min(last === '' || last === undefined ? bytes.length - 1 : Number(last), bytes.length - 1);
			response.writeHead(206, {'Content-Range': `bytes ${first}-${to}/${bytes.length}`});
			response.end(bytes.subarray(Number(first), to + 1));
		}
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.close();
	}

	async close(): Promise<void> {
		this.#server.closeAllConnections();
		await new Promise((resolve) => this.#server.close(resolve));
		rmSync(this.folder, {recursive: true, force: true});
	}
}
