#!/usr/bin/env bash
# Builds the fuzz targets and runs each for SECONDS, two at a time.
#   native/fuzz/run.sh SECONDS [TARGET...]
# CXX names the compiler, which must be clang; by default clang++. Programs, inputs that were found and those that failed
# are kept in .state/fuzz; the next run begins with them and with the committed corpus.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! [[ ${1:-} =~ ^[1-9][0-9]*$ ]]; then
	echo 'usage: native/fuzz/run.sh SECONDS [TARGET...]' >&2
	exit 2
fi
seconds=$1
shift
targets=("$@")
if [ "$#" -eq 0 ]; then targets=(frames hand_over message plan); fi

cxx=${CXX:-clang++}
if ! command -v "$cxx" >/dev/null; then
	echo "run.sh: expected clang, got no $cxx; on Debian and Ubuntu: apt-get install clang" >&2
	exit 2
fi
kept=.state/fuzz
mkdir -p "$kept"

sources() {
	echo "native/fuzz/$1.cc"
	case $1 in
	message) echo native/keeper/message.cc native/keeper/system.cc ;;
	plan) echo native/keeper/message.cc native/keeper/plan.cc native/keeper/system.cc ;;
	esac
}

build() {
	# shellcheck disable=SC2046
	"$cxx" -std=c++17 -Wall -Wextra -Werror -g -O1 -fno-omit-frame-pointer -fsanitize=fuzzer,address,undefined \
		-fno-sanitize-recover=all $(sources "$1") -o "$kept/$1"
}

fuzz() {
	mkdir -p "$kept/corpus/$1"
	if "$kept/$1" -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
		-artifact_prefix="$kept/$1-" "$kept/corpus/$1" "native/fuzz/corpus/$1" >"$kept/$1.log" 2>&1; then
		echo "$1: $(sed -n 's/^stat::number_of_executed_units: *//p' "$kept/$1.log") inputs in $seconds s"
		return
	fi
	tail -n 60 "$kept/$1.log"
	echo "$1: failed; to reproduce: $kept/$1 $(sed -n 's/.*Test unit written to //p' "$kept/$1.log")"
	return 1
}

both() {
	build "$1" && fuzz "$1"
}

failed=0
for ((at = 0; at < ${#targets[@]}; at += 2)); do
	jobs=()
	for target in "${targets[@]:at:2}"; do
		both "$target" &
		jobs+=("$!")
	done
	for job in "${jobs[@]}"; do wait "$job" || failed=1; done
done
exit "$failed"
