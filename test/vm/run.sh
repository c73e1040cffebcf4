#!/usr/bin/env bash
# Runs tests on another kernel than this machine's, with pure cgroup v2: boots it in a virtual machine, with KVM if it is there.
#   test/vm/run.sh [5.15 | 6.1 | 6.12] [--user [--ids]] [--quick | FILE... | -- COMMAND...]
# Without a kernel 6.1; with --user as an ordinary user, with --ids one that was given ids for newuidmap; without anything else all
# files that need sandboxes. Needs apt, qemu-system-x86, e2fsprogs, debian-archive-keyring and a clone that is built; it changes nothing of the system, and needs no rights but that to use /dev/kvm.
# FORKTREE_VM_CACHE: folder for what is downloaded, by default .state/vm. FORKTREE_VM_ACCEL: kvm or tcg. FORKTREE_VM_DEBIAN and
# FORKTREE_VM_UBUNTU (for 5.15): addresses of mirrors, by default those of this machine's apt.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${FORKTREE_VM_CACHE:-$root/.state/vm}

suite=(test/kernel test/sandbox test/lambda test/zygote test/escape)
# What differs most between kernels: groups, limits, swap. Less than four minutes without KVM, on two free cores.
quick=(test/kernel/cgroup.test.ts test/sandbox/pool-{limits,swap}.test.ts)
# What Debian's own installation would have, without what it is started by.
packages=(bash busybox-static coreutils dash findutils grep gzip libseccomp2 libstdc++6 mount openssl procps python3 python3-pip sed tar uidmap util-linux)
# The mirror that this machine's apt has.
mirror_of() {
	apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' | awk -v "label=$1" '$1 == label && !found++ { print $2 }'
}
debian=${FORKTREE_VM_DEBIAN:-$(mirror_of Debian)}
ubuntu=${FORKTREE_VM_UBUNTU:-$(mirror_of Ubuntu)}
debian_key=/usr/share/keyrings/debian-archive-keyring.gpg

fail() {
	printf 'run.sh: %s\n' "$1" >&2
	exit 2
}

kernel=6.1
case ${1:-} in
5.15 | 6.1 | 6.12)
	kernel=$1
	shift
	;;
esac
user=root ids=no
if [ "${1:-}" = --user ]; then
	user=tester
	shift
	if [ "${1:-}" = --ids ]; then
		ids=yes
		shift
	fi
fi
# One after the other: without KVM several at once would wait for each other longer than anything may take.
ava=(node node_modules/ava/entrypoints/cli.mjs --timeout=20m --serial --concurrency=1)
command=("${ava[@]}" "${suite[@]}")
deadline=7200
case ${1:-} in
--quick)
	command=("${ava[@]}" "${quick[@]}")
	deadline=600
	;;
--)
	shift
	command=("$@")
	;;
-*) fail "expected --quick, -- or files, got $1" ;;
?*) command=("${ava[@]}" "$@") ;;
esac

# Only the others compile programs.
disk_kind=quick
[ "${1:-}" = --quick ] || disk_kind=full
[ "$disk_kind" = quick ] || packages+=(g++)

for tool in apt-get dpkg-deb flock mke2fs node qemu-system-x86_64 setpriv xz zstd; do
	command -v "$tool" >/dev/null || fail "expected $tool; on Debian and Ubuntu: apt-get install e2fsprogs qemu-system-x86 xz-utils zstd"
done
[ -e "$root/build/Release/forktree.node" ] || fail 'expected a clone that is built: npm ci && npm run build'

mkdir -p "$cache"
exec {lock}>"$cache/lock"
flock -w 600 "$lock" || fail "expected $cache to be free within ten minutes"
rm -rf "$cache"/work-* # of one that was killed
work=$(mktemp -d "$cache/work-XXXXXX")
machine=
trap '[ -z "$machine" ] || kill "$machine" 2>/dev/null || true; wait; rm -rf "$work"' EXIT
trap 'exit 143' HUP INT TERM

# An apt that knows one release and has nothing installed, so that it fetches all that a package needs: apt-get or apt-cache, arguments.
declare -A sources=(
	[bookworm]="deb [signed-by=$debian_key] $debian bookworm main"
	[trixie]="deb [signed-by=$debian_key] $debian trixie main"
	[jammy]="deb [signed-by=$work/ubuntu/usr/share/keyrings/ubuntu-archive-keyring.gpg] $ubuntu jammy-updates main"
)
apt_of() {
	local release=$1 program=$2 home=$work/apt-$1
	shift 2
	if [ ! -e "$home" ]; then
		mkdir -p "$home"/{lists,cache,archives}/partial
		: >"$home/status"
		printf '%s\n' "${sources[$release]}" >"$home/sources"
		apt_of "$release" apt-get update >&2
	fi
	"$program" -qq -o Dir::Etc::sourcelist="$home/sources" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
		-o Dir::State::lists="$home/lists" -o Dir::State::status="$home/status" -o Dir::Cache="$home/cache" \
		-o Dir::Cache::archives="$home/archives" -o APT::Sandbox::User=root -o Acquire::Languages=none \
		-o APT::Architecture=amd64 -o Acquire::Retries=3 -o Acquire::http::Timeout=30 "$@"
}

# A tree in which /bin and the like are links, as on every system today; some packages name the one and some the other.
make_tree() {
	[ ! -e "$1/usr" ] || return 0
	mkdir -p "$1"/usr/{bin,lib,lib64,sbin}
	for folder in bin lib lib64 sbin; do ln -s "usr/$folder" "$1/$folder"; done
}

# Files of a package belong to root, whoever runs this.
unpack() {
	dpkg-deb --fsys-tarfile "$1" | tar -C "$2" -x --keep-directory-symlink --no-same-owner -p
}

# Unpacks one package of a release, without what it depends on: release, name, folder.
fetch() {
	make_tree "$3"
	(cd "$work" && apt_of "$1" apt-get download "$2" >&2)
	unpack "$work/$2"_*.deb "$3"
}

# The kernel and an initrd with what it needs to find its disk.
make_kernel() {
	local release=$1 meta=$2 image=$work/kernel initrd=$work/initrd names name module
	mapfile -t names < <(apt_of "$release" apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$meta" |
		grep -E '^linux-(image|modules)-[0-9]' | sort -u)
	[ "${#names[@]}" -gt 0 ] || fail "expected $meta to bring a kernel"
	for name in "${names[@]}"; do fetch "$release" "$name" "$image"; done
	fetch bookworm busybox-static "$work/busybox"

	name=$(ls "$image/lib/modules/")
	mkdir -p "$initrd"/{bin,dev,root} "$initrd/lib/modules/$name"
	cp "$work/busybox/usr/bin/busybox" "$initrd/bin/"
	cp "$here/init.sh" "$initrd/init"
	while read -r module; do
		case $module in
		*.xz) xz -dc "$module" >"$initrd/lib/modules/$name/$(basename "$module" .xz)" ;;
		*.zst) zstd -qdc "$module" >"$initrd/lib/modules/$name/$(basename "$module" .zst)" ;;
		*) cp "$module" "$initrd/lib/modules/$name/" ;;
		esac
	done < <(find "$image/lib/modules/" -regex '.*/\(virtio\|virtio_ring\|virtio_pci.*\|virtio_blk\|overlay\|brd\)\.ko.*')
	"$initrd/bin/busybox" depmod -b "$initrd" "$name"
	(cd "$initrd" && find . | ./bin/busybox cpio -o -H newc) | gzip -1 >"$work/initrd.gz"
	mkdir "$work/done"
	mv "$image/boot/vmlinuz-$name" "$work/done/vmlinuz"
	mv "$work/initrd.gz" "$work/done/initrd"
	rm -rf "$cache/kernel-$kernel"-*
	mv "$work/done" "$kernel_files"
}

# The root's files: Debian's, this machine's Node.js, and what the tests import.
make_root() {
	local tree=$work/root archive python
	make_tree "$tree"
	mkdir -p "$tree"/{dev,etc,forktree,home,proc,root,run,sys,tmp,usr/local/bin,var/tmp}
	chmod 1777 "$tree/tmp" "$tree/var/tmp"
	apt_of bookworm apt-get install --download-only --no-install-recommends -y "${packages[@]}" >&2
	for archive in "$work"/apt-bookworm/archives/*.deb; do unpack "$archive" "$tree"; done
	printf '%s\n' root:x:0:0::/root:/bin/bash tester:x:1000:1000::/home/tester:/bin/bash nobody:x:65534:65534::/:/bin/false >"$tree/etc/passwd"
	printf '%s\n' root:x:0: tester:x:1000: nogroup:x:65534: >"$tree/etc/group"
	echo '127.0.0.1 localhost' >"$tree/etc/hosts"
	cp "$(readlink -f "$(command -v node)")" "$tree/usr/local/bin/node"
	cp -R --preserve=mode,links,timestamps "$root/node_modules" "$tree/forktree/"
	rm -rf "$tree/forktree/node_modules"/@biomejs "$tree"/usr/share/{doc,info,locale,man}
	/sbin/ldconfig -r "$tree"
	# As its installation does; else every interpreter in a sandbox compiles what it imports.
	python=("$tree"/lib64/ld-linux-x86-64.so.2 --library-path "$tree/lib/x86_64-linux-gnu" "$tree/usr/bin/python3")
	PYTHONHOME=$tree/usr "${python[@]}" -m compileall -q -j 0 -s "$tree" --invalidation-mode unchecked-hash "$tree"/usr/lib/python3* >&2
	truncate -s 3G "$work/root.ext4"
	mke2fs -q -t ext4 -d "$tree" "$work/root.ext4"
	rm -f "$cache/root-$disk_kind"-*.ext4
	mv "$work/root.ext4" "$root_disk"
}

[ -n "$debian" ] || fail 'expected FORKTREE_VM_DEBIAN, the address of a mirror of Debian, since this machine’s apt has none'
[ -n "$ubuntu" ] || [ "$kernel" != 5.15 ] || fail 'expected FORKTREE_VM_UBUNTU, the address of a mirror of Ubuntu, since this machine’s apt has none'
digest() {
	sha256sum | cut -c 1-16
}
kernel_files=$cache/kernel-$kernel-$( (declare -f make_kernel; cat "$here/init.sh") | digest)
if [ ! -e "$kernel_files" ]; then
	case $kernel in
	5.15)
		# Debian has none; it has Ubuntu's key.
		fetch trixie ubuntu-keyring "$work/ubuntu"
		make_kernel jammy linux-image-virtual
		;;
	6.1) make_kernel bookworm linux-image-cloud-amd64 ;;
	6.12) make_kernel trixie linux-image-cloud-amd64 ;;
	esac
fi
root_disk=$cache/root-$disk_kind-$( (node --version; declare -f make_root; printf '%s\n' "${packages[@]}"; cat "$root/package-lock.json") | digest).ext4
[ -e "$root_disk" ] || make_root

# What is to be run, and the tree that it is run in. Tests are compiled here: without KVM that takes long in the machine.
mkdir "$work/compiled"
"$root/node_modules/.bin/tsc" -p "$root/test" --noEmit false --rootDir "$root" --outDir "$work/compiled"
node -e '
	const [, source, target] = process.argv;
	const {ava, ...rest} = JSON.parse(require("node:fs").readFileSync(source, "utf8"));
	const {extensions, nodeArguments, files, ...kept} = ava;
	const compiled = files.map((file) => file.replace(/\.ts$/, ".js"));
	require("node:fs").writeFileSync(target, JSON.stringify({...rest, ava: {...kept, files: compiled}}));
' "$root/package.json" "$work/compiled/package.json"
printf '%s\0' "$user" "$ids" "${command[@]/%.test.ts/.test.js}" >"$work/compiled/command"
# This machine's, if it has one: without KVM pip takes longer to start than anything is waited for.
uv=$(python3 -c 'import uv; print(uv.find_uv_bin())' 2>/dev/null || command -v uv || true)
[ -z "$uv" ] || install -D "$(readlink -f "$uv")" "$work/compiled/tools/uv"
tar -C "$root" --exclude=./.git --exclude=./.state --exclude=./node_modules -cf "$work/checkout" . -C "$work/compiled" .
: >"$work/status"

disk() {
	echo "if=virtio,format=raw,file=$1,cache=unsafe${2:-}"
}
# What its console prints comes on stdout; it ends with us. Accelerator, seconds, further arguments.
boot() {
	local accelerator=$1 seconds=$2
	shift 2
	TMPDIR=$work setpriv --pdeathsig TERM timeout --kill-after=10 "$seconds" qemu-system-x86_64 -nodefaults -no-user-config -no-reboot -display none \
		-machine q35 -accel "$accelerator" -cpu max,-arch-capabilities -smp 2 -m 4096 -device virtio-rng-pci \
		-kernel "$kernel_files/vmlinuz" -initrd "$kernel_files/initrd" \
		-append 'console=ttyS0 quiet loglevel=1 panic=-1 cgroup_no_v1=all mitigations=off' -serial stdio "$@" </dev/null {lock}>&- &
	machine=$!
	local status=0
	wait "$machine" || status=$?
	machine=
	return "$status"
}
# KVM can be there and not work, in a machine that is virtual itself: then what has no disk does not even end.
if [ -z "${FORKTREE_VM_ACCEL:-}" ] && [ ! -e "$cache/accelerator" ]; then
	if [ -w /dev/kvm ] && boot kvm 20 >/dev/null 2>&1; then echo kvm; else echo tcg,thread=multi; fi >"$cache/accelerator"
fi
accelerator=${FORKTREE_VM_ACCEL:-$(<"$cache/accelerator")}

# The root is written to in a file that goes with the machine.
boot "$accelerator" "$deadline" -drive "$(disk "$root_disk" ,snapshot=on)" -drive "$(disk "$work/checkout" ,readonly=on)" \
	-serial "file:$work/status" || fail "expected the machine to end within $deadline seconds, qemu answered $?"
status=$(tr -dc 0-9 <"$work/status")
[ -n "$status" ] || fail 'expected the machine to say how the tests ended'
exit "$status"
