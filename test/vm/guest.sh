#!/bin/bash
# What the machine of run.sh does once it has its disk: sets up what an init system would, runs the tests, and ends.
export PATH=/usr/local/bin:/usr/bin:/usr/sbin:/forktree/tools LANG=C.UTF-8 CI=1
# Random input tells nothing about kernels.
export FORKTREE_MUST_RUN=1 FORKTREE_FUZZ_SECONDS=2 FORKTREE_TEST_PATIENCE=5
console=/dev/ttyS0
groups=/sys/fs/cgroup

set_up() {
	mount -t proc proc /proc
	mount -t sysfs sysfs /sys
	mkdir -p /dev/pts /dev/shm
	mount -t devpts devpts /dev/pts
	mount -t tmpfs -o mode=1777 tmpfs /dev/shm
	mount -t tmpfs -o mode=755 tmpfs /run
	mount -t cgroup2 -o nsdelegate cgroup2 "$groups"
	for name in stdin:0 stdout:1 stderr:2 fd:; do ln -sfn "/proc/self/fd/${name#*:}" "/dev/${name%:*}"; done
	busybox ifconfig lo up
	busybox hostname machine
	stty -F "$console" -onlcr
	mkswap /dev/ram0 >/dev/null && swapon /dev/ram0
}

# A group of our own, as every process has that an init system started; an ordinary user's is given to the user.
enter_group() {
	mkdir "$groups/$1"
	echo $$ >"$groups/$1/cgroup.procs"
	[ "$1" != root ] || return 0
	echo '+memory +pids +cpu' >"$groups/cgroup.subtree_control"
	chown "$1" "$groups/$1"{,/cgroup.procs,/cgroup.threads,/cgroup.subtree_control}
}

set_up || exit
cd /forktree || exit
mapfile -d '' -t command <command
user=${command[0]} ids=${command[1]}
enter_group "$user"
uname -a
if [ "$user" = root ]; then
	HOME=/root "${command[@]:2}"
else
	install -d -o "$user" -m 700 "/home/$user"
	[ "$ids" = no ] || echo "$user:100000:65536" | tee /etc/subuid >/etc/subgid
	find /forktree -path /forktree/node_modules -prune -o -exec chown "$user" {} +
	HOME=/home/$user setpriv --reuid "$user" --regid "$user" --clear-groups "${command[@]:2}"
fi >"$console" 2>&1
echo $? >/dev/ttyS1
sync
exec busybox poweroff -f
