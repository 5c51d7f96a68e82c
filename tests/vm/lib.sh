# Sourced by the guest scripts of tests/vm. A script says what it finds, and
# ends with 1 at the first thing that is not as it must be.

say() { echo "$*"; }
fail() { echo "FAILED: $*"; exit 1; }

CMP=/usr/bin/cmp         # by its path: busybox prefers its own, which is slow

# must COMMAND...: shows its output only if it fails.
must() {
  "$@" >/tmp/must 2>&1 || { cat /tmp/must; fail "$*"; }
}

RECORDED=/tmp/recorded

# record NAME COMMAND...: keeps the output as $RECORDED/NAME, and shows it
# between marks by which the runner finds it (tests/vm/run --record).
record() {
  recorded=$RECORDED/$1
  mkdir -p "$RECORDED"
  echo "--- recorded $*"
  shift
  "$@" >"$recorded" || fail "$*"
  cat "$recorded"
  echo "--- end"
}

sectors() { blockdev --getsz "$1"; }
drop_caches() { sync; echo 3 >/proc/sys/vm/drop_caches; }

# put_noise DEVICE KIB AT_KIB: random bytes, on the disk when it returns.
put_noise() {
  dd if=/dev/urandom of="$1" bs=1k count="$2" seek="$3" conv=fsync,notrunc 2>/dev/null ||
    fail "writing to $1"
}

# blank DEVICE: zeros all over.
blank() { must dd if=/dev/zero of="$1" bs=64k count=$(($(sectors "$1") / 128)) conv=fsync; }

# LVM sees these disks only: one that was made from another has its identity.
use_disks() {
  cat >/etc/lvm/lvmlocal.conf <<CONF
devices { global_filter = [ $(for disk in "$@"; do printf '"a|^%s$|", ' "$disk"; done) "r|.*|" ] }
CONF
}
