// Builds the native parts when they are older than their sources; with --prebuild also copies them to prebuilds/.
import {execFileSync} from 'node:child_process';
import {cpSync, existsSync, mkdirSync, readdirSync, rmSync, statSync} from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import {fileURLToPath} from 'node:url';

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');
const products = ['forktree.node', 'keeper', 'init', 'launcher', 'guest.node'];
const built = path.join(root, 'build', 'Release');

/** What the products are made of. */
function sources() {
	const native = path.join(root, 'native');
	const names = readdirSync(native, {recursive: true}).map(String);
	const code = names.filter((name) => /\.(cc|h)$/.test(name) && !/^(bench|fuzz|tests)\b/.test(name));
	return [...code.map((name) => path.join(native, name)), path.join(root, 'binding.gyp')];
}

function newest(files) {
	return Math.max(...files.map((file) => statSync(file).mtimeMs));
}

function isFresh() {
	const files = products.map((name) => path.join(built, name));
	if (!files.every((file) => existsSync(file))) return false;
	const oldest = Math.min(...files.map((file) => statSync(file).mtimeMs));
	return oldest >= newest(sources());
}

function requireCompiler() {
	for (const [tool, debian] of [
		['g++', 'g++'],
		['make', 'make'],
		['python3', 'python3'],
	]) {
		try {
			execFileSync(tool, ['--version'], {stdio: 'ignore'});
		} catch {
			console.error(
				`forktree: building the native parts needs ${tool}; on Debian and Ubuntu: apt-get install ${debian}`,
			);
			process.exit(1);
		}
	}
}

/** The folder whose include/node holds the running Node's own headers, if they are installed. */
function ownHeaders() {
	const prefix = path.join(path.dirname(process.execPath), '..');
	return existsSync(path.join(prefix, 'include', 'node', 'node_api.h')) ? prefix : undefined;
}

function build() {
	requireCompiler();
	const headers = ownHeaders();
	const gyp = path.join(root, 'node_modules', 'node-gyp', 'bin', 'node-gyp.js');
	const options = ['rebuild', '--loglevel=warn', ...(headers === undefined ? [] : [`--nodedir=${headers}`])];
	execFileSync(process.execPath, [gyp, ...options], {
		cwd: root,
		stdio: ['ignore', 2, 2],
		env: {...process.env, MAKEFLAGS: '--silent'},
	});
}

if (!isFresh()) build();
if (process.argv.includes('--prebuild')) {
	const libc = process.report.getReport().header.glibcVersionRuntime === undefined ? 'musl' : 'glibc';
	const target = path.join(root, 'prebuilds', `${process.platform}-${process.arch}-${libc}`);
	rmSync(target, {recursive: true, force: true});
	mkdirSync(target, {recursive: true});
	for (const name of products) cpSync(path.join(built, name), path.join(target, name));
}
