/** The public names. */
export {errorCodes, type ErrorCode, ForktreeError, outcomeCodes, type OutcomeCode, SyscallError} from './errors.ts';
export {
	doctor,
	type DoctorCheck,
	type DoctorCheckName,
	doctorChecks,
	type DoctorOptions,
	type DoctorReport,
	type DoctorStatus,
} from './lambda/doctor.ts';
export {
	createRuntime,
	type FunctionDescription,
	type InvokeOptions,
	type Runtime,
	type RuntimeEvents,
	type RuntimeStats,
} from './lambda/runtime.ts';
export type {DeployOptions, RuntimeOptions} from './lambda/options.ts';
export type {
	Failure,
	JsonValue,
	LimitHit,
	Outcome,
	OutcomeError,
	OutcomeMemory,
	StartKind,
	Success,
	Timings,
} from './lambda/outcome.ts';
export type {DeploySource} from './lambda/source.ts';
export type {ChunkStream} from './lambda/stream.ts';
export type {Limits} from './sandbox/limits.ts';
