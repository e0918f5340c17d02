#!/bin/sh
# Boots systemd or OpenRC on an overlay of this machine's root, in the namespaces that it is called in:
# boot.sh FOLDER systemd|openrc. The overlay is mounted in FOLDER.
set -e
folder=$1
init=$2
mount --make-rprivate /
mount -t tmpfs tmpfs "$folder"
mkdir "$folder/upper" "$folder/work" "$folder/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$folder/root"
cd "$folder/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
# Nothing of the machine itself may be changed: no devices but these, and settings outside of net/ are read only.
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/net dev/pts dev/shm
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
mknod -m 666 dev/net/tun c 10 200
ln -s /proc/self/fd dev/fd
: > dev/console
for part in kernel vm fs dev debug abi user; do
    [ -d "proc/sys/$part" ] || continue
    mount --bind "proc/sys/$part" "proc/sys/$part"
    mount -o remount,bind,ro "proc/sys/$part"
done
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=755 tmpfs run
mkdir run/lock
mount -t tmpfs -o mode=1777 tmpfs tmp
rm -rf etc/adit var/lib/adit etc/systemd/system usr/local/bin/adit
mkdir -p etc/systemd/system
: > etc/machine-id
for unit in systemd-sysctl.service systemd-modules-load.service systemd-udevd.service systemd-udev-trigger.service \
    systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-remount-fs.service systemd-binfmt.service \
    systemd-update-utmp.service systemd-random-seed.service systemd-timesyncd.service systemd-networkd.service \
    systemd-resolved.service systemd-tmpfiles-setup-dev.service systemd-tmpfiles-clean.timer dev-hugepages.mount \
    sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount dev-mqueue.mount proc-sys-fs-binfmt_misc.automount \
    kmod-static-nodes.service getty.target remote-fs.target; do
    ln -s /dev/null "etc/systemd/system/$unit"
done
# Services of the machine's own packages are not started.
rm -rf etc/init.d etc/rc?.d etc/runlevels
ln -s /lib/systemd/system/basic.target etc/systemd/system/default.target
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
if [ "$init" = openrc ]; then
    mkdir -p etc/init.d etc/runlevels/default run/openrc
    for part in daemons exclusive failed hotplugged inactive init.d options scheduled started starting stopping tmp wasinactive; do
        mkdir "run/openrc/$part"
    done
    echo default > run/openrc/softlevel
    printf '#!/sbin/openrc-run\ndepend() { provide net; }\nstart() { :; }\n' > etc/init.d/network
    chmod +x etc/init.d/network
    # The first process waits for those that lost theirs.
    exec env -i PATH=$PATH chroot . sh -c 'rc-service network start && touch /run/started; while :; do sleep 1; done'
fi
exec env -i container=adit PATH=$PATH \
    chroot . /lib/systemd/systemd --system --log-target=console --log-level=warning --show-status=no
