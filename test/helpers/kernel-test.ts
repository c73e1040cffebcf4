/** Tests that need sandboxes, and those that need root's: where they can't run they say in their title why. */
import process from 'node:process';
import test, {type ExecutionContext} from 'ava';

export const mustRun = process.env.FORKTREE_MUST_RUN === '1';

/** Why sandboxes can't be made here; undefined when they can. */
export const refusal = process.platform === 'linux' ? undefined : 'needs Linux';
/** Whether we are root: an ordinary user's sandboxes lack a few things, and what is then expected differs. */
export const isRoot = process.geteuid?.() === 0;

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

/** As {@link serialKernelTest}, of what only root can have. The suite is run as both, so the other's run may pass it over in any case. */
export function rootTest(title: string, run: Implementation): void {
	if (isRoot) declare(test.serial, title, run);
	else test.serial.skip(`${title} [skipped: needs root]`, run);
}

/** As {@link rootTest}, of what an ordinary user meets. */
export function userTest(title: string, run: Implementation): void {
	if (isRoot) test.serial.skip(`${title} [skipped: needs an ordinary user]`, run);
	else declare(test.serial, title, run);
}

/** One that fails until a known defect is mended; then it says so. It runs alone in its file. */
export function serialFailingKernelTest(title: string, run: Implementation): void {
	declare(test.serial.failing, title, run);
}
