#!/usr/bin/env bash
# Runs a command of this checkout as an ordinary user: as root, for who has no such machine.
#   test/as-user.sh [--no-groups] [--ids] COMMAND [ARGUMENT...]
# The user, a copy of the checkout (with what was built and installed in it) and cgroups that are given to the user are made
# for the run, and removed after it. --no-groups gives none. --ids gives ids for newuidmap besides (Debian's package uidmap).
set -euo pipefail
cd "$(dirname "$0")/.."

groups=yes ids=no
while [[ "${1:-}" = --* ]]; do
	case "$1" in
		--no-groups) groups=no ;;
		--ids) ids=yes ;;
		*) echo "expected --no-groups, --ids or a command, got $1" >&2; exit 2 ;;
	esac
	shift
done
[ $# -gt 0 ] || { echo 'expected a command' >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo 'expected to run as root' >&2; exit 2; }

name="forktree-test-$$"
home=$(mktemp -d "${TMPDIR:-/tmp}/$name-XXXXXX")
given=()

# What the command has left running; it can start more meanwhile.
end_all() {
	local pass pids
	for pass in {1..50}; do
		pids=$(pgrep -u "$name") || return 0
		kill -KILL $pids 2>/dev/null || true
		for pid in $pids; do timeout 5 tail --pid="$pid" -f /dev/null; done
	done
}

clean() {
	local status=$?
	trap '' INT TERM
	end_all
	for group in "${given[@]}"; do
		# What is in them now is this script and what the command has left.
		echo $$ >"$(dirname "$group")/cgroup.procs"
		find "$group" -depth -type d -exec rmdir {} + || status=1
	done
	userdel "$name" 2>/dev/null || status=1
	rm -rf "$home"
	exit "$status"
}
trap clean EXIT

# Ours in each hierarchy of v1 that sandboxes use, or in the one of v2.
give_groups() {
	local mount options parent path
	while read -r mount options; do
		case ",$options," in
			*,memory,* | *,pids,* | *,cpu,* | *,cpuacct,* | *,freezer,*) ;;
			*) continue ;;
		esac
		path=$(awk -F: -v "wanted=,$options," '{ n = split($2, names, ","); for (i = 1; i <= n; i++) if (names[i] != "" && index(wanted, "," names[i] ",")) { print $3; exit } }' /proc/self/cgroup)
		parent="$mount$path"
		[ -d "$parent" ] || parent="$mount"
		give "$parent/$name"
	done < <(awk '$3 == "cgroup" { print $2, $4 }' /proc/mounts)
	[ "${#given[@]}" = 0 ] || return 0
	mount=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
	# Its parent has to hand the controllers down, and so can hold no process but for the root.
	echo '+memory +pids +cpu' >"$mount/cgroup.subtree_control"
	give "$mount/$name"
}

give() {
	local file
	mkdir "$1"
	given+=("$1")
	chown "$name" "$1"
	for file in tasks cgroup.procs cgroup.threads cgroup.subtree_control; do
		[ ! -e "$1/$file" ] || chown "$name" "$1/$file"
	done
	echo $$ >"$1/cgroup.procs"
}

useradd --no-create-home --home-dir "$home" --shell /bin/sh "$name"
if [ "$ids" = yes ]; then
	for file in /etc/subuid /etc/subgid; do grep -q "^$name:" "$file" || echo "$name:1000000000:65536" >>"$file"; done
else
	for file in /etc/subuid /etc/subgid; do sed -i "/^$name:/d" "$file"; done
fi
tar cf - --exclude=./.git --exclude=./.state . | tar xf - -C "$home"
chown -R "$name:" "$home"
[ "$groups" = no ] || give_groups

cd "$home"
status=0
# The interpreter first on root's path may be in a folder that nobody else may enter.
setpriv --reuid "$name" --regid "$name" --init-groups \
	env -i HOME="$home" USER="$name" LOGNAME="$name" LANG=C.UTF-8 TERM="${TERM:-dumb}" PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin \
	${FORKTREE_MUST_RUN:+FORKTREE_MUST_RUN="$FORKTREE_MUST_RUN"} TMPDIR=/tmp "$@" || status=$?
exit "$status"
