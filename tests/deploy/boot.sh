#!/bin/sh
# Boot systemd over this system's files: what it writes is in memory, and gone with it.
#
#   unshare --mount tests/deploy/boot.sh FOLDER   an empty one; the name of the control group is the folder's
set -eu

folder=$1
case ${2-} in
    '')
        mkdir "$folder/groups" "$folder/files"
        mount -t cgroup2 cgroup2 "$folder/groups"
        mkdir "$folder/groups/${folder##*/}"
        echo $$ >"$folder/groups/${folder##*/}/cgroup.procs"
        exec unshare --cgroup --ipc --uts --pid --fork --kill-child "$0" "$folder" first
        ;;
esac

root=$folder/files/root
mount -t tmpfs tmpfs "$folder/files"
mkdir "$root" "$folder/files/upper" "$folder/files/work"
mount -t overlay -o "xino=on,lowerdir=/,upperdir=$folder/files/upper,workdir=$folder/files/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"

# Of this system's services none but the log, which leaves the kernel's own, and its audit, alone.
rm -rf "$root"/etc/systemd/system/* "$root"/usr/lib/systemd/system/*.target.wants
mkdir "$root/usr/lib/systemd/system/sysinit.target.wants"
ln -s ../systemd-journald.service "$root/usr/lib/systemd/system/sysinit.target.wants/"
ln -s /dev/null "$root/etc/systemd/system/systemd-journald-audit.socket"
mkdir -p "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\n' >"$root/etc/systemd/journald.conf.d/machine.conf"

mkdir -p "$root/mnt/outside"
cd "$root"
pivot_root . mnt/outside
umount -l /mnt/outside
exec env container=test /usr/lib/systemd/systemd --unit=basic.target
