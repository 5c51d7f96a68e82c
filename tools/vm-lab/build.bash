# Sourced by tools/vm: the parts of the guest that are the same at every boot,
# built once in $CACHE. A name there says what it was made from, so a part is
# either there and right, or not there.
#
#   kernel-RELEASE_VERSION+KEY/   vmlinuz, and the modules that a guest can load
#   guest-KEY.cpio                those modules, busybox, LVM and their libraries

KEEP_DAYS=7              # of parts that were made and replaced
KERNEL_PACKAGE=linux-image-cloud-amd64
MODULES=(
  virtio_pci virtio_blk virtio_console
  dm_mod dm_thin_pool dm_snapshot dm_flakey dm_log_writes dm_era dm_delay
  loop nbd sch_netem
  xfs btrfs
)
PROGRAMS=(
  /sbin/lvm /sbin/dmsetup /usr/sbin/pdata_tools
  /sbin/mkfs.ext4 /sbin/e2fsck /sbin/blockdev
  /usr/bin/cmp           # that of busybox reads byte by byte
)
LVM_VERBS=(
  pvcreate pvs vgcreate vgchange vgremove vgs
  lvcreate lvchange lvconvert lvextend lvremove lvs
)
PDATA_VERBS=(thin_check thin_delta thin_dump thin_ls)
PACKAGES=(busybox-static lvm2 dmsetup thin-provisioning-tools e2fsprogs util-linux diffutils libc6)

# The shared libraries of a program, at the same paths as here.
copy_libraries() {
  local program=$1 root=$2 library
  ldd "$program" 2>/dev/null | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "$root${library%/*}"
    cp -L "$library" "$root$library"
  done || true   # a static program has none
}

pack() {
  (cd "$1" && find . -print0 | cpio --quiet --null -o -H newc -R 0:0) >"$2"
}

# One builder at a time; the others find what it made.
lock_cache() {
  mkdir -p "$CACHE"
  exec {CACHE_LOCK}>"$CACHE/lock"
  flock "$CACHE_LOCK"
}
unlock_cache() { exec {CACHE_LOCK}>&-; }

# RELEASE and VERSION of the newest kernel that the package index knows.
newest_kernel() {
  local depends
  depends=$(apt-cache show --no-all-versions "$KERNEL_PACKAGE" 2>/dev/null | sed -n 's/^Depends: //p')
  [[ $depends =~ linux-image-([^ ]+)\ \(=\ ([^\)]+)\) ]] || return 1
  RELEASE=${BASH_REMATCH[1]} VERSION=${BASH_REMATCH[2]}
}

# Unpacked, never installed: this machine keeps its own kernel.
unpack_kernel() {
  local tree=$WORK/kernel
  (cd "$WORK" && apt-get -qq -o APT::Sandbox::User=root download "linux-image-$RELEASE=$VERSION") ||
    die "cannot download linux-image-$RELEASE"
  dpkg -x "$WORK/linux-image-$RELEASE"_*.deb "$tree"
  rm "$WORK/linux-image-$RELEASE"_*.deb
}

# The modules named above and what they need.
pick_modules() {
  local tree=$1 into=$2 module path
  depmod -b "$tree" "$RELEASE"
  for module in "${MODULES[@]}"; do
    modprobe -d "$tree" -S "$RELEASE" --show-depends "$module" || die "the kernel has no module $module"
  done | sed -n 's/^insmod //p' | sort -u | while read -r path; do
    install -D -m 644 "$path" "$into${path#"$tree"}"
  done
  cp "$tree/lib/modules/$RELEASE"/modules.{order,builtin,builtin.modinfo} "$into/lib/modules/$RELEASE/"
  depmod -b "$into" "$RELEASE"
}

fetch_kernel() {
  local part
  ((EUID != 0)) || apt-get -qq update || echo "vm: the package index stays as it is" >&2
  newest_kernel || die "the package index does not know $KERNEL_PACKAGE: apt-get update"
  lock_cache
  part=kernel-${RELEASE}_$VERSION+$(modules_key)
  if [[ ! -e $CACHE/$part ]]; then
    unpack_kernel
    mkdir "$WORK/$part"
    cp "$WORK/kernel/boot/vmlinuz-$RELEASE" "$WORK/$part/vmlinuz"
    pick_modules "$WORK/kernel" "$WORK/$part"
    rm -rf "$WORK/kernel"
    install_part "$part"
  fi
  unlock_cache
}

# Into the cache under its name only when it is whole.
install_part() {
  rm -rf "$CACHE/.$1"
  cp -R "$WORK/$1" "$CACHE/.$1"
  mv -T "$CACHE/.$1" "$CACHE/$1"
  rm -rf "${WORK:?}/$1"
}

# A kernel was unpacked for the modules that were wanted then.
modules_key() { sha256sum <<<"${MODULES[*]}" | cut -c 1-8; }

cached_kernel() {
  KERNEL=$(cd "$CACHE" 2>/dev/null && printf '%s\n' kernel-*+"$(modules_key)" | sort -V | tail -n 1) || KERNEL=''
  [[ -e $CACHE/$KERNEL/vmlinuz ]]
}

guest_key() {
  {
    echo "$KERNEL"
    cat "$HERE/vm-lab/build.bash" "$HERE/vm-lab/lvm.conf"
    dpkg-query -W -f='${Package} ${Version}\n' "${PACKAGES[@]}"
  } | sha256sum | cut -c 1-16
}

fill_guest() {
  local root=$1 program verb
  mkdir -p "$root"/{bin,dev,proc,sys,tmp,run,mnt,root,sbin,usr/bin,usr/sbin,etc/lvm,var/lib}
  cp -R "$CACHE/$KERNEL/lib" "$root/"
  cp -L "$(command -v busybox)" "$root/bin/busybox"
  for program in "${PROGRAMS[@]}"; do
    cp -L "$program" "$root$program"
    copy_libraries "$program" "$root"
  done
  ln -s /bin/busybox "$root/sbin/modprobe"   # where the kernel and LVM look for it
  for verb in "${LVM_VERBS[@]}"; do ln -s lvm "$root/sbin/$verb"; done
  for verb in "${PDATA_VERBS[@]}"; do ln -s pdata_tools "$root/usr/sbin/$verb"; done
  cp "$HERE/vm-lab/lvm.conf" "$root/etc/lvm/"
  cp /etc/mke2fs.conf "$root/etc/"
  # Written by mount(8) of busybox and asked by programs; there is only one truth.
  ln -s /proc/mounts "$root/etc/mtab"
}

check_packages() {
  local package
  for package in "${PACKAGES[@]}" cpio kmod; do
    dpkg-query -W "$package" >/dev/null 2>&1 || die "$package is missing: run tools/setup"
  done
}

# Sets KERNEL and GUEST_PARTS.
build_guest() {
  cached_kernel || { fetch_kernel; cached_kernel; }
  GUEST_PARTS=guest-$(guest_key).cpio
  [[ ! -e $CACHE/$GUEST_PARTS ]] || return 0
  check_packages
  lock_cache
  fill_guest "$WORK/parts"
  pack "$WORK/parts" "$WORK/$GUEST_PARTS"
  rm -rf "$WORK/parts"
  # Checkouts that share the cache may each have another one.
  find "$CACHE" -maxdepth 1 -name 'guest-*.cpio' -mtime "+$KEEP_DAYS" -delete
  install_part "$GUEST_PARTS"
  unlock_cache
}
