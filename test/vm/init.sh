#!/bin/busybox sh
# First program of the machine that run.sh boots: finds its disk, puts the tree to be tested on it, and goes on there.
/bin/busybox mount -t devtmpfs devtmpfs /dev
for module in virtio_pci virtio_blk overlay; do /bin/busybox modprobe "$module" 2>/dev/null; done
# For swap: what is written to memory has been written at once. With a disk that is slow the kernel kills before swap is full.
/bin/busybox modprobe brd rd_nr=1 rd_size=524288 2>/dev/null
/bin/busybox mount -t ext4 /dev/vda /root || exec /bin/busybox poweroff -f
/bin/busybox tar -C /root/forktree -xf /dev/vdb
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /forktree/test/vm/guest.sh
