/** Tests that need sandboxes: they run as root, and else say in their title why they do not. */
import process from 'node:process';
import test, {type ExecutionContext} from 'ava';

export const mustRun = process.env.FORKTREE_MUST_RUN === '1';

/** Why sandboxes can't be made here; undefined when they can. */
export const refusal =
	process.platform !== 'linux' ? 'needs Linux' : process.geteuid?.() === 0 ? undefined : 'needs root';

type Implementation = (t: ExecutionContext) => void | Promise<void>;

function declare(
	declaration: (title: string, implementation: Implementation) => void,
	title: string,
	run: Implementation,
) {
	if (refusal === undefined) declaration(title, run);
	else if (mustRun) test(title, (t) => t.fail(`FORKTREE_MUST_RUN is set, and this test ${refusal}`));
	else test.skip(`${title} [skipped: ${refusal}]`, run);
}

/** A test that runs beside others of its file. */
export function kernelTest(title: string, run: Implementation): void {
	declare(test, title, run);
}

/** A test that runs alone in its file, before those that don't. */
export function serialKernelTest(title: string, run: Implementation): void {
	declare(test.serial, title, run);
}

/** One that fails until a known defect is mended; then it says so. It runs alone in its file. */
export function serialFailingKernelTest(title: string, run: Implementation): void {
	declare(test.serial.failing, title, run);
}
