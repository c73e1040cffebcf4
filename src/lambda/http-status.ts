/** What HTTP calls a failed call. */
import type {ErrorCode, OutcomeCode} from '../errors.ts';

const statuses: Readonly<Partial<Record<ErrorCode | OutcomeCode, number>>> = {
	UnknownFunction: 404,
	MethodNotAllowed: 405,
	QueueFull: 429,
	// The sandbox died, and this is all that is known.
	Evicted: 502,
	Exited: 502,
	Killed: 502,
	ProtocolError: 502,
	BudgetExceeded: 503,
	RuntimeClosed: 503,
	Timeout: 504,
	OutOfMemory: 507,
};

/** The status of an answer to a call that failed so: of the handler's exceptions, and of whatever has none of its own, it is 500. */
export function httpStatus(code: ErrorCode | OutcomeCode): number {
	return statuses[code] ?? 500;
}
