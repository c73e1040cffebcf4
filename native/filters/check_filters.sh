#!/bin/sh
# Makes both headers anew and compares them with the committed ones; exits
# non-zero when they differ. With --write, replaces the committed ones.
set -eu
cd "$(dirname "$0")"

case "${1-}" in
  "" | --write) ;;
  *)
    echo "usage: check_filters.sh [--write]" >&2
    exit 2
    ;;
esac

cxx=${CXX:-c++}
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

if ! command -v "$cxx" >/dev/null 2>&1; then
  echo "check_filters.sh: no C++ compiler ($cxx); install g++ or set CXX" >&2
  exit 2
fi
if ! printf '#include <seccomp.h>\nint main() {}\n' |
  "$cxx" -x c++ - -o "$temporary/probe" -lseccomp 2>/dev/null; then
  echo "check_filters.sh: libseccomp is missing; install it with" \
    "'apt-get install libseccomp-dev'" >&2
  exit 2
fi

"$cxx" -std=c++17 -O1 -Wall -Wextra -Werror make_filters.cc compact.cc \
  -o "$temporary/make_filters" -lseccomp

status=0
for arch in x64 arm64; do
  header=filters_$arch.h
  "$temporary/make_filters" "$arch" >"$temporary/$header"
  if [ "${1-}" = --write ]; then
    cp "$temporary/$header" "$header"
  elif ! diff -u "$header" "$temporary/$header"; then
    echo "check_filters.sh: $header is out of date;" \
      "run check_filters.sh --write" >&2
    status=1
  fi
done
exit $status
