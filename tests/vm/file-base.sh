# Sourced after base-cuts.sh: all of it on one filesystem, the script's $filesystem.

volume=/mnt/source/volume target=/mnt/target/volume
export LOCKSTEP_STATE_DIR=/mnt/state
mkdir -p /mnt

make_all() {
  make_filesystem
  start "$disk"
  mkdir /mnt/source /mnt/target
}
start() { must mount -t "$filesystem" "$1" /mnt; }
stop() { must umount /mnt; }
images() { ls -A /mnt/source/.lockstep-snapshots 2>/dev/null; }
nothing_is_held() { :; }
