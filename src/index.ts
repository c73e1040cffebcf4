/** The public names. */
export {
	type ErrorCode,
	errorCodes,
	ForktreeError,
	MethodNotAllowedError,
	type OutcomeCode,
	outcomeCodes,
	SandboxDeadError,
	SyscallError,
} from './errors.ts';
export {
	type DoctorCheck,
	type DoctorCheckName,
	type DoctorOptions,
	type DoctorReport,
	type DoctorStatus,
	doctor,
	doctorChecks,
} from './lambda/doctor.ts';
export type {HttpHead, HttpListener, HttpRequest} from './lambda/http.ts';
export {httpStatus} from './lambda/http-status.ts';
export {checkName as checkFunctionName} from './lambda/name.ts';
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
export {
	createRuntime,
	type DeployReport,
	type FunctionDescription,
	type InvokeOptions,
	type Runtime,
	type RuntimeEvents,
	type RuntimeStats,
	type SourceDescription,
} from './lambda/runtime.ts';
export type {DeploySource} from './lambda/source.ts';
export type {ChunkStream} from './lambda/stream.ts';
export type {CronTrigger, KafkaTrigger, Triggers} from './lambda/triggers.ts';
export type {RecordedCalls} from './lambda/workload.ts';
export {
	type DamagedPackage,
	type ExportReport,
	type GarbageReport,
	type GcOptions,
	type ImportReport,
	openPackages,
	type PackageCache,
	type PackageCacheEvents,
	type PackageDetails,
	type PackageInfo,
	type PackagePhase,
	type PackagesOptions,
	type PackagesReport,
	type VerifyReport,
} from './packages/package-cache.ts';
export {type Pins, readPins} from './packages/pins.ts';
export type {EvictionCandidate, EvictionPolicy} from './sandbox/evictor.ts';
export type {Isolation, IsolationLevel, UnenforcedLimit} from './sandbox/isolation.ts';
export type {Limits} from './sandbox/limits.ts';
export type {Reached} from './sandbox/network/connection.ts';
export type {Lookup as NameLookup, RefusalCode} from './sandbox/network/dial.ts';
export type {NetworkEvents} from './sandbox/network/gateway.ts';
export type {NetworkOptions} from './sandbox/network/settings.ts';
export type {ExecError, ExecErrorCode, ExecLimitHit, ExecOptions, ExecResult} from './sandbox/run.ts';
export type {Sandbox, SandboxEvents, SandboxStats} from './sandbox/sandbox.ts';
export type {
	SandboxLimits,
	SandboxMount,
	SandboxOptions,
	SandboxPoolOptions,
	SandboxWritable,
} from './sandbox/sandbox-options.ts';
export {
	createSandboxPool,
	type RunOptions,
	type SandboxPool,
	type SandboxPoolEvents,
	type SandboxPoolStats,
} from './sandbox/sandbox-pool.ts';
export type {SeccompArgument, SeccompConditions, SeccompProfile, SeccompRule} from './sandbox/seccomp-profile.ts';
export {type CleanupOptions, type CleanupReport, forceCleanup} from './sandbox/state-dir.ts';
export {type CallsHalf, parseCalls, readCalls} from './zygote/calls.ts';
export {type Evaluation, evaluateTree, type Lookup} from './zygote/evaluate.ts';
export {explainNode, type NodeExplanation, type NodeMatch, type Obstacle} from './zygote/explain.ts';
export {type FitCall, type FitInput, type FitOptions, fitTree, type PackageCost} from './zygote/fit.ts';
export {refitTree} from './zygote/refit.ts';
export {type FlatNode, flattenTree, readTree, type TreeNode, writeTree} from './zygote/tree.ts';
