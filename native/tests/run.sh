#!/usr/bin/env bash
# Builds the native parts that do not need Node with sanitizers, and runs their tests; also those of the filters.
# CXX names the compiler; by default clang++ if it is there, else g++.
set -euo pipefail
cd "$(dirname "$0")/.."

cxx=${CXX:-$(command -v clang++ || command -v g++ || true)}
if [ -z "$cxx" ]; then
	echo 'run.sh: expected a C++ compiler; on Debian and Ubuntu: apt-get install g++' >&2
	exit 2
fi
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

warnings=(-std=c++17 -Wall -Wextra -Werror)
sanitize=(-g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all)

"$cxx" "${warnings[@]}" "${sanitize[@]}" keeper/*.cc -o "$out/keeper" &
keeper=$!
"$cxx" "${warnings[@]}" "${sanitize[@]}" tests/native_test.cc addon/accept.cc addon/groups.cc addon/pages.cc addon/process.cc addon/tree.cc guest/landlock.cc guest/network.cc keeper/message.cc keeper/plan.cc keeper/system.cc -o "$out/native_test" &
native_test=$!
# What may run on several threads. The keeper has one, and must: a thread can't unshare a user namespace; nor does the
# thread sanitizer know a child that shares memory, by which programs are spawned, or the thread that a timer of the C library starts.
"$cxx" "${warnings[@]}" -g -O1 -fsanitize=thread tests/native_test.cc addon/accept.cc addon/groups.cc addon/pages.cc addon/process.cc addon/tree.cc guest/landlock.cc guest/network.cc keeper/message.cc keeper/plan.cc keeper/system.cc -o "$out/threads_test" &
threads_test=$!
"$cxx" "${warnings[@]}" -O1 filters/filters_test.cc -o "$out/filters_test" &
filters_test=$!
freestanding=(-O2 -ffreestanding -fno-stack-protector -fno-pie -nostdlib -static)
"$cxx" "${warnings[@]}" "${freestanding[@]}" guest/init.cc -o "$out/init"
wait "$keeper"
wait "$native_test"
wait "$threads_test"
wait "$filters_test"

"$out/native_test" "$out/keeper" "$out/init"
"$out/threads_test" --threads
"$out/filters_test" >"$out/filters.txt" || {
	grep -v '^ok' "$out/filters.txt"
	exit 1
}
tail -n 1 "$out/filters.txt"
