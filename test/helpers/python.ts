/** The interpreter that tests run. */
import process from 'node:process';

export const python = process.env.FORKTREE_TEST_PYTHON ?? '/usr/bin/python3';
