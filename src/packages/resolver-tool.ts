/** The two programs that resolve requirements, uv and pip: how each is asked, and what its answers mean. */
import type {SandboxMount} from '../sandbox/sandbox-options.ts';
import {type Found, readPipReport, readPylock} from './resolver-output.ts';

/** Where things are in a resolver's sandbox. */
export const inSandbox = {
	cache: '/cache',
	work: '/work',
	built: '/built',
	stubs: '/stubs',
	archives: '/archives',
	local: '/local',
} as const;

/** What a resolver is asked. */
export type Question = {
	/** Whether there are constraints, in the file {@link constraintsFile}. */
	readonly isConstrained: boolean;
	readonly prereleases: boolean;
	/** Whether what is asked for is all that there is to find, by hash: from whatever index, and without what it requires. */
	readonly isComplete: boolean;
	/** Whether it must not use the network. */
	readonly offline: boolean;
};

/** What a refusal is about. */
export type Refusal = 'noMatch' | 'noSolution' | 'hashes' | 'unauthorized' | 'other';

/** A program that resolves. */
export type ResolverTool = {
	readonly name: 'uv' | 'pip';
	readonly version: string;
	readonly mounts: readonly SandboxMount[];
	readonly env: Readonly<Record<string, string>>;
	/** Whether hashes in the requirements are left to it. It would refuse the wheels that are built here. */
	readonly checksHashes: boolean;
	/** Whether it takes a project from the first index that has it. */
	readonly firstIndexOnly: boolean;
	/** Whether it takes a file of `--find-links` rather than one of the same version of an index. */
	readonly prefersLinks: boolean;
	/** Reads requirements from stdin. */
	argv(question: Question): readonly string[];
	/** @throws {SyntaxError} for what is not its output */
	read(stdout: string): Found[];
	/** Normalised names of which its words say that there are, or could be, no wheels. */
	wheelless(words: string): string[];
	refusal(words: string): Refusal;
	/** Says on stdout where it looks, as options in lines; it reads options from stdin. */
	readonly indexesArgv: readonly string[];
};

export const constraintsFile = '/tmp/constraints.txt';
/** Its stdout has what it tells of its work as well, such as what a conflict is about. */
const pipReport = '/tmp/report.json';

// Its cache is shared with other users: those of the sandboxes that come after.
const AS_EVERYBODY = 'umask 0; exec "$@"';
// pip makes some files for itself alone, whatever the umask.
const THEN_FOR_EVERYBODY = `umask 0; "$@" 1>&2; code=$?
[ ! -f ${pipReport} ] || cat ${pipReport}
find ${inSandbox.cache} -uid "$(id -u)" ! -perm -6 -exec chmod a+rwX {} + 2>/dev/null
exit $code`;

/** @param folder holds the program, named `uv`, and nothing else */
export function uvTool(version: string, folder: string, python: string): ResolverTool {
	const start = ['sh', '-c', AS_EVERYBODY, 'sh', '/uv/uv', 'pip', 'compile', '-'];
	const always = [
		'--quiet',
		'--no-header',
		'--no-build',
		'--no-python-downloads',
		'--color=never',
		`--python=${python}`,
	];
	return {
		name: 'uv',
		version,
		mounts: [{source: folder, target: '/uv'}],
		env: {UV_CACHE_DIR: inSandbox.cache},
		checksHashes: false,
		firstIndexOnly: true,
		prefersLinks: true,
		argv: ({isConstrained, prereleases, isComplete, offline}) => [
			...start,
			...always,
			'--format=pylock.toml',
			...(isConstrained ? [`--constraints=${constraintsFile}`] : []),
			...(prereleases ? ['--prerelease=allow'] : []),
			...(isComplete ? ['--no-deps', '--index-strategy=unsafe-best-match'] : []),
			...(offline ? ['--offline', '--no-index'] : []),
		],
		read: readPylock,
		wheelless: (words) => namesIn(words, /Wheels are required for `([^`]+)`/g),
		refusal: (words) => {
			if (UV_UNAUTHORIZED.test(words)) return 'unauthorized';
			if (!/No solution found/.test(words)) return 'other';
			if (UV_MISSING.test(words)) return 'noMatch';
			// In a longer story what is not there is what others have asked for.
			return /And because/.test(words) || !UV_UNAVAILABLE.test(words) ? 'noSolution' : 'noMatch';
		},
		indexesArgv: [...start, ...always, '--emit-index-url', '--emit-find-links'],
	};
}

const UV_UNAUTHORIZED = /lack of valid authentication credentials|\b40[13] (?:Unauthorized|Forbidden)\b/;
/** Of a file; when a page is refused, pip says nothing but that there is no distribution. */
const PIP_UNAUTHORIZED = /\b40[13] Client Error/;
const UV_MISSING = /was not found in|no (?:usable )?wheels/;
const UV_UNAVAILABLE = /there (?:is|are) no versions? of|(?:is|are) available|cannot be found|not satisfied by/;

const PIP_INDEX = `from pip._internal.models.index import PyPI; open('${pipReport}', 'w').write('--index-url ' + PyPI.simple_url)`;

export function pipTool(version: string, python: string): ResolverTool {
	const run = ['sh', '-c', THEN_FOR_EVERYBODY, 'sh', python, '-I'];
	return {
		name: 'pip',
		version,
		mounts: [],
		env: {PIP_CACHE_DIR: inSandbox.cache, TMPDIR: inSandbox.work, PIP_ROOT_USER_ACTION: 'ignore'},
		checksHashes: true,
		firstIndexOnly: false,
		prefersLinks: false,
		argv: ({isConstrained, prereleases, isComplete, offline}) => [
			...run,
			...['-m', 'pip', 'install', '--dry-run', '--ignore-installed', `--report=${pipReport}`, '--only-binary=:all:'],
			...['--no-input', '--disable-pip-version-check', '--no-color', '--progress-bar=off'],
			'--requirement=/dev/stdin',
			...(isConstrained ? [`--constraint=${constraintsFile}`] : []),
			...(prereleases ? ['--pre'] : []),
			...(isComplete ? ['--no-deps'] : []),
			...(offline ? ['--no-index'] : []),
		],
		read: readPipReport,
		wheelless: (words) => namesIn(words, /No matching distribution found for ([A-Za-z0-9][\w.-]*)/g),
		refusal: (words) => {
			if (/DO NOT MATCH THE HASHES|Hashes are required|--require-hashes/.test(words)) return 'hashes';
			if (PIP_UNAUTHORIZED.test(words)) return 'unauthorized';
			if (/Retrying \(Retry|Could not fetch URL|Max retries exceeded/.test(words)) return 'other';
			if (/No matching distribution found/.test(words)) return 'noMatch';
			return /ResolutionImpossible/.test(words) ? 'noSolution' : 'other';
		},
		indexesArgv: [...run, '-c', PIP_INDEX],
	};
}

function namesIn(words: string, pattern: RegExp): string[] {
	return [...new Set([...words.matchAll(pattern)].map(([, name = '']) => name.replace(/[-_.]+/g, '-').toLowerCase()))];
}
