/** A seccomp filter against programs that lie in no file system: memfd_create(2) is refused. */
import {constants, endianness} from 'node:os';
import process from 'node:process';

/** How the kernel names an architecture in linux/audit.h, and the call's number there. */
const calls: Readonly<Record<string, {readonly architecture: number; readonly memfdCreate: number}>> = {
	x64: {architecture: 0xc000_003e, memfdCreate: 319},
	arm64: {architecture: 0xc000_00b7, memfdCreate: 279},
};

// Of linux/filter.h and linux/seccomp.h.
const load = 0x20;
const jumpIfEqual = 0x15;
const answer = 0x06;
const allow = 0x7fff_0000;
const refuse = 0x0005_0000 + constants.errno.EPERM;
/** Where struct seccomp_data has them. */
const numberAt = 0;
const architectureAt = 4;

type Instruction = readonly [code: number, ifTrue: number, ifFalse: number, value: number];

function encode(instructions: readonly Instruction[]): Buffer {
	const bytes = Buffer.alloc(instructions.length * 8);
	for (const [index, [code, ifTrue, ifFalse, value]] of instructions.entries()) {
		bytes.writeUInt16LE(code, index * 8);
		bytes.writeUInt8(ifTrue, index * 8 + 2);
		bytes.writeUInt8(ifFalse, index * 8 + 3);
		bytes.writeUInt32LE(value, index * 8 + 4);
	}
	return bytes;
}

function makeGuard(): Buffer {
	const here = calls[process.arch];
	if (here === undefined || endianness() !== 'LE') throw new Error(`expected x64 or arm64, got ${process.arch}`);
	// Calls of other architectures end a sandbox by the filter that it has in any case.
	return encode([
		[load, 0, 0, architectureAt],
		[jumpIfEqual, 0, 3, here.architecture],
		[load, 0, 0, numberAt],
		[jumpIfEqual, 0, 1, here.memfdCreate],
		[answer, 0, 0, refuse],
	]);
}

const allowAll = encode([[answer, 0, 0, allow]]);
let guard: Buffer | undefined;

/**
 * That filter, before another one: jumps are relative, so that it can stand in front.
 * @param profile the instructions of another filter; none: empty
 */
export function refuseMemoryFiles(profile: Uint8Array): Uint8Array {
	guard ??= makeGuard();
	return Buffer.concat([guard, profile.length > 0 ? profile : allowAll]);
}
