#!/bin/sh
# Runs on the host when the packages are installed; makes a system of them, then its root file system as an image.
# Usage: customize.sh ROOT WORK BEGIN_MIB   (the file system begins there on WORK/disk.raw; WORK/boot is filled)
set -eu
root=$1
guest=$2/guest
boot=$2/boot
disk=$2/disk.raw
begin_mib=$3

# Everything here is meant to be read by everybody but what is named below.
cp -r "$guest/root/." "$root/"
chmod 0440 "$root/etc/sudoers.d/vagrant"
chroot "$root" useradd --create-home --shell /bin/bash --password '*' vagrant
chroot "$root" chown -R vagrant:vagrant /home/vagrant
chmod 0700 "$root/home/vagrant" "$root/home/vagrant/.ssh"
chmod 0600 "$root/home/vagrant/.ssh/authorized_keys"

# Made anew by each machine.
rm -f "$root"/etc/ssh/ssh_host_* "$root/var/lib/systemd/random-seed"
: > "$root/etc/machine-id"
# Nothing of the place where the box was built.
rm -rf "$root/etc/apt/sources.list" "$root"/etc/apt/sources.list.d/* "$root/etc/apt/apt.conf.d/99mmdebstrap" \
    "$root/etc/apt/auth.conf.d" "$root/etc/resolv.conf"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/* "$root"/var/log/* "$root"/tmp/*

chroot "$root" systemctl --quiet set-default multi-user.target
chroot "$root" systemctl --quiet enable ssh.service systemd-networkd.service
while read -r unit; do
    case $unit in "" | "#"*) ;; *) ln -sf /dev/null "$root/etc/systemd/system/$unit" ;; esac
done < "$guest/masked"

# The kernel and the modules that it needs to see the disk leave the file system: they go into the boot partition.
kernel=$(ls "$root/lib/modules")
mkdir -p "$boot/modules"
mv "$root/boot/vmlinuz-$kernel" "$boot/vmlinuz"
mv "$root/bin/busybox" "$boot/busybox"
number=100
for module in virtio_pci virtio_blk virtio_net ext4; do
    chroot "$root" modprobe -S "$kernel" --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r path; do
    number=$((number + 1))
    cp "$root$path" "$boot/modules/$number-$(basename "$path")"
done
rm -rf "$root/boot" "$root"/vmlinuz* "$root"/initrd*

umount "$root/proc" "$root/sys" 2>/dev/null || true
size_mib=$(($(stat --format=%s "$disk") / 1048576 - begin_mib))
# The disk is new and all zeros: nothing of it has to be written, neither now nor by the guest's kernel later.
mke2fs -q -F -t ext4 -L picolab -m 0 -E "assume_storage_prezeroed=1,root_owner=0:0,offset=$((begin_mib * 1048576))" \
    -d "$root" "$disk" "${size_mib}M"
chmod -R a+rX "$boot"
