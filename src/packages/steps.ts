/** What the store does to install a distribution, one step each, so that it can be tested with other steps. */
import type {Archive, LockedDistribution} from './lock.ts';
import type {DistributionMetadata, ImportCost} from './metadata.ts';

/** What an installation is busy with. */
export type InstallPhase = 'downloading' | 'building' | 'compiling';

/** Options of every step. */
export type StepOptions = {
	readonly signal: AbortSignal;
	readonly onProgress?: ((phase: InstallPhase, detail?: string) => void) | undefined;
};

/** The steps. Each leaves what it was given to fill to its caller, also when it fails. */
export type InstallSteps = {
	/** Downloads an archive to `file`, in a folder that exists, and checks its hash. */
	fetch(archive: Archive, file: string, options: StepOptions): Promise<void>;
	/** Builds a wheel from a source distribution; answers its path in `folder`. */
	build(distribution: LockedDistribution, sdist: string, folder: string, options: StepOptions): Promise<string>;
	/** Fills an empty folder (of mode 0777, in one of 0700) with a wheel's files and their byte code. */
	unpack(
		distribution: LockedDistribution,
		wheel: string,
		folder: string,
		options: StepOptions,
	): Promise<DistributionMetadata>;
	/** Measures what importing one folder of a set takes, by itself and when what it needs of the others is imported. */
	measure(
		set: {
			readonly modules: readonly string[];
			/** Of each other folder its modules. */
			readonly others: ReadonlyArray<readonly string[]>;
			readonly folders: readonly string[];
			readonly ofIndex: number;
		},
		options: StepOptions,
	): Promise<ImportCost>;
};
