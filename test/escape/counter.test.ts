/** The same attempts where nothing holds them: they must succeed, or the other tests prove nothing. Only harmless ones. */
import test from 'ava';
import {execa} from 'execa';
import {isRoot, rootTest, serialKernelTest} from '../helpers/kernel-test.ts';
import {python} from '../helpers/runtime.ts';
import {together} from './attempts.ts';
import {Host, type HostFacts} from './host.ts';
import {attemptsFolder, makeSecret} from './kinds.ts';

const program = `
import json, sys
sys.path.insert(0, sys.argv[1])
import f
print(json.dumps(f.f(json.loads(sys.argv[2]))))
`;

let host: Host;
let facts: HostFacts;

serialKernelTest('there is a host to be reached', async (t) => {
	host = await Host.create();
	facts = await host.facts(attemptsFolder, []);
	t.not(facts.port, 0);
});

test.after.always(async () => host?.close());

/** @param wrapper a program that runs the interpreter */
async function runUnheld(wrapper: readonly string[], attempts: readonly string[]): Promise<unknown> {
	const event = JSON.stringify({attempts, host: facts});
	const [file = '', ...words] = [...wrapper, python, '-I', '-B', '-c', program, attemptsFolder, event];
	const {stdout} = await execa(file, words, {timeout: 20_000, env: {SECRET: makeSecret()}});
	return JSON.parse(stdout) as unknown;
}

type Counter = {
	readonly title: string;
	readonly wrapper: readonly string[];
	readonly answers: Readonly<Record<string, string>>;
};

/** What anybody can. */
const ofAnybody = {
	'kcmp: a child': 'done',
	'ptrace: be traced': 'done',
	'ptrace: seize a child': 'done',
	'process_vm_readv: a child': 'done',
	'pidfd_getfd: of a child': 'done',
	'keys: add_key': 'done',
	'kernel: io_uring_setup': 'done',
	'kernel: personality without ASLR': 'done',
	'unshare: user': 'done',
	'clone: user': 'done',
	'sibling: its environment': 'found',
	'sibling: its secret in memory that came from the zygote': 'found',
	'network: an abstract socket of the host': 'connected',
	'network: a port on the host’s loopback': 'connected',
	'network: a socket file of the host': 'connected',
	'network: names and statistics of the host': 'found',
};

const plain: Counter = isRoot
	? {
			title: 'a plain process of root',
			wrapper: [],
			answers: {
				...ofAnybody,
				'setns: own uts': 'done',
				'ids: setuid 0': 'done',
				'chroot: /tmp': 'done',
				'open_tree: a clone of /usr': 'done',
				'fsopen: a tmpfs': 'done',
				'filter: one of one’s own that allows everything': 'done',
				'signal: pids of the host': 'reached',
				'pidfd_open: pids of the host': 'reached',
				'socket: a raw one': 'done',
				'socket: for packets': 'done',
				'read: folders of the host': 'opened',
				'capabilities: of a file': 'done',
			},
		}
	: {title: 'a plain process of an ordinary user', wrapper: [], answers: ofAnybody};

const others: readonly Counter[] = [
	{
		title: 'a process of root in namespaces of its own',
		wrapper: ['unshare', '--mount', '--uts', '--ipc', '--net'],
		answers: {
			'mount: a tmpfs on /tmp': 'done',
			'mount: by a set-uid program': 'status 0',
			'mount: the root bound at /tmp': 'done',
			'netlink: an interface taken down': 'done',
			'network: a port on the host’s loopback': 'ENETUNREACH',
			'umount: /tmp': 'done',
		},
	},
];

for (const {title, wrapper, answers} of [plain, ...others]) {
	const declare = title === plain.title ? serialKernelTest : rootTest;
	declare(`${title} succeeds with what sandboxes must not`, async (t) => {
		const attempts = Object.keys(answers);
		t.deepEqual(await runUnheld(wrapper, attempts), answers);
		const held = Object.assign({}, ...Object.values(together)) as Record<string, string>;
		for (const attempt of attempts) t.not(held[attempt], answers[attempt], attempt);
	});
}

serialKernelTest('what reaches the host is counted', (t) => {
	t.is(host.connections, 3);
});
