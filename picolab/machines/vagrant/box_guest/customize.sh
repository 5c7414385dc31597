#!/bin/sh
# Runs on the host when the packages are installed; makes a system of them, then its root file system as an image.
# Usage: customize.sh ROOT WORK BEGIN_MIB   (the file system begins there on WORK/disk.raw; WORK/boot is filled)
set -eu
root=$1
guest=$2/guest
boot=$2/boot
disk=$2/disk.raw
begin_mib=$3
# Without root these files are another user's for the kernel; who builds must be able to remove them, come what may.
trap 'chmod -R a+rwX "$boot"/*' EXIT

# The kernel is unpacked, not installed: its initrd, and all that makes one, would be three times as large.
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
cd "$boot"
package=$(apt-cache depends --important linux-image-cloud-amd64 | awk '$1 == "Depends:" && $2 ~ /^linux-image/ { print $2 }')
apt-get download --quiet "$package"
dpkg-deb --fsys-tarfile "$package"_*.deb | tar --extract --no-same-owner ./boot ./lib/modules
rm "$package"_*.deb
kernel=$(ls lib/modules)
mv "boot/vmlinuz-$kernel" vmlinuz
mkdir -p "$root/usr/lib/modules"
mv "lib/modules/$kernel" "$root/usr/lib/modules/"
rm -r boot lib
cp "$root/bin/busybox" busybox
# Drivers of hardware that no machine of libvirt's shows.
find "$root/usr/lib/modules/$kernel/kernel/drivers" -mindepth 1 -maxdepth 1 \
    ! -name block ! -name char ! -name net ! -name virtio -exec rm -r {} +
find "$root/usr/lib/modules/$kernel/kernel/drivers/net" -mindepth 1 -maxdepth 1 -type d -exec rm -r {} +
chroot "$root" depmod "$kernel"
# What the disk and the network card need, in the order in which it is loaded.
mkdir modules
number=100
for module in virtio_pci virtio_blk virtio_net virtio_rng ext4; do
    chroot "$root" modprobe -S "$kernel" --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r path; do
    number=$((number + 1))
    cp "$root$path" "modules/$number-$(basename "$path")"
done

cp -r "$guest/root/." "$root/"
chmod 0440 "$root/etc/sudoers.d/vagrant"
chmod 0755 "$root"/usr/local/sbin/*
chroot "$root" useradd --create-home --shell /bin/bash --password '*' vagrant
chroot "$root" chown -R vagrant:vagrant /home/vagrant
chmod 0700 "$root/home/vagrant" "$root/home/vagrant/.ssh"
chmod 0600 "$root/home/vagrant/.ssh/authorized_keys"

chroot "$root" sh -c "$(cat "$guest/agent.sh")" <"$guest/agent.pyz"

chroot "$root" systemctl --quiet set-default multi-user.target
chroot "$root" systemctl --quiet enable ssh.service network.service
mkdir -p "$root/etc/systemd/system-generators"
while read -r unit; do
    case $unit in
    "" | "#"*) ;;
    *-generator) ln -s /dev/null "$root/etc/systemd/system-generators/$unit" ;;
    *) ln -sf /dev/null "$root/etc/systemd/system/$unit" ;;
    esac
done <"$guest/masked"

# Made anew by each machine.
rm -f "$root"/etc/ssh/ssh_host_* "$root/var/lib/systemd/random-seed"
: >"$root/etc/machine-id"
# Nothing of the place where the box was built.
rm -rf "$root/etc/apt" "$root/etc/resolv.conf" "$root/var/lib/apt" "$root"/var/cache/* "$root"/var/log/* "$root"/tmp/*

# So that a program that cannot start here is refused before a boot.
dpkg-query --admindir="$root/var/lib/dpkg" --show --showformat='${Version}\n' libc6 >"$boot/guest-files"
(cd "$root" && find usr/bin usr/sbin usr/local/bin usr/local/sbin usr/lib usr/lib64 -maxdepth 2 ! -type d) >>"$boot/guest-files"

# What is mounted here is the host's, and is not for the image.
for folder in proc sys; do
    umount --lazy "$root/$folder" 2>/dev/null || true
    [ -z "$(ls -A "$root/$folder")" ]
done
size_mib=$(($(stat --format=%s "$disk") / 1048576 - begin_mib))
# The disk is new and all zeros: nothing of it has to be written, neither now nor by the guest's kernel later.
mke2fs -q -F -t ext4 -L picolab -m 0 -E "assume_storage_prezeroed=1,root_owner=0:0,offset=$((begin_mib * 1048576))" \
    -d "$root" "$disk" "${size_mib}M"
