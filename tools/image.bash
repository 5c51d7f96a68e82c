# Sourced by make-image and check-replica: one ext4 image on a loop device,
# with a PostgreSQL cluster in its folder `pg`. Whatever was attached, mounted
# or started is undone when the script ends, however it ends.
#
# Everything private is in $WORK, which `postgres` can enter: the mount point
# and the server's socket. The server has no TCP port, so any number run.

die() { echo "${0##*/}: $*" >&2; exit 1; }

open_work() {
  ((EUID == 0)) || die "mounting needs root"
  PG_BIN=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
  [[ -x $PG_BIN/initdb ]] || die "PostgreSQL is missing: run tools/setup"
  WORK=$(mktemp -d /tmp/lockstep-image.XXXXXX)
  trap close_work EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  chmod 755 "$WORK"
  mkdir "$WORK/mnt" "$WORK/socket"
  chown postgres: "$WORK/socket"
}

close_work() {
  local status=$?
  trap - EXIT
  trap '' INT TERM HUP
  as_postgres "$PG_BIN/pg_ctl" stop -s -m immediate -D "$WORK/mnt/pg" 2>/dev/null || true
  # `mount -o loop` frees the loop device with the mount.
  if mountpoint -q "$WORK/mnt"; then
    umount "$WORK/mnt" || umount -l "$WORK/mnt" || status=1
  fi
  rm -rf --one-file-system "$WORK" ${SCRATCH:+"$SCRATCH"}
  exit "$status"
}

mount_image() { mount -t ext4 -o loop "$1" "$WORK/mnt"; }
unmount_image() { umount "$WORK/mnt"; }

# Away from the caller's folder, which postgres may not be able to enter.
as_postgres() { (cd / && runuser -u postgres -- "$@"); }

start_postgres() {
  as_postgres "$PG_BIN/pg_ctl" start -s -w -t 120 -D "$WORK/mnt/pg" -l "$WORK/socket/log" \
    -o "-c listen_addresses='' -c unix_socket_directories='$WORK/socket'" </dev/null || {
    tail -n 20 "$WORK/socket/log" >&2
    die "PostgreSQL does not start"
  }
}

# A fast stop writes a checkpoint.
stop_postgres() { as_postgres "$PG_BIN/pg_ctl" stop -s -w -t 120 -m fast -D "$WORK/mnt/pg"; }

query() { as_postgres "$PG_BIN/psql" -X -q -A -t -h "$WORK/socket" -d bench -v ON_ERROR_STOP=1 -c "$1"; }
