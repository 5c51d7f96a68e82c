# Sourced after lib.sh: runs whose source is /dev/vg/volume, and what they leave in
# the volume group.

volume=/dev/vg/volume
export LOCKSTEP_STATE_DIR=/tmp/state

sync_target() { # OPTION...
  status=0
  lockstep sync "$volume" "$target" --yes --json --snapshot lvm "$@" >/tmp/events 2>/tmp/said || status=$?
}
# sync_slowly OPTION...: in the background as $slow; back once it has begun to overwrite.
sync_slowly() {
  # Else the events of the run before could be taken for this one's.
  rm -f /tmp/events
  lockstep sync "$volume" "$target" --yes --json --snapshot lvm --limit-rate 500K "$@" >/tmp/events 2>/tmp/said &
  slow=$!
  until grep -q '"state":"inconsistent"' /tmp/events 2>/dev/null; do
    kill -0 "$slow" || show "it ended by itself"
    sleep 0.2
  done
}
# The first field of that name: the source's comes before the targets'.
summary() { tail -n 1 /tmp/events | grep -o "\"$1\":\"\{0,1\}[0-9a-z-]*" | head -n 1 | sed 's/.*[":]//'; }
show() { cat /tmp/said /tmp/events; fail "$*"; }
gate_status() { status=0; lockstep gate "$target" >/dev/null 2>&1 || status=$?; echo "$status"; }
same() { drop_caches; $CMP "$1" "$target"; }

snapshots() { lvs --noheadings -o lv_name vg | tr -d ' ' | grep '^lockstep-'; }

# expect_snapshots COUNT WHEN: and nothing else of a snapshot.
expect_snapshots() {
  [ "$(snapshots | wc -l)" = "$1" ] || show "$2: these snapshots are left: $(snapshots)"
  nothing_is_held "$2"
}

nothing_is_held() { # WHEN
  if dmsetup status vg-pool-tpool >/tmp/status 2>/dev/null; then
    held=$(awk '{ print $7 }' /tmp/status)
    [ "$held" = - ] || show "$1: the pool's metadata snapshot is held: $held"
    tags=$(lvs --noheadings -o lv_tags vg/pool | tr -d ' ')
    [ -z "$tags" ] || fail "$1: the pool is tagged $tags"
  fi
}

# Programs that lockstep starts are found in /bin first: these write down that they
# were called, and do what a test wants to happen just before or just after.
# intercept PROGRAM: runs /tmp/before-PROGRAM and /tmp/after-PROGRAM, if they are there.
intercept() {
  real=$(command -v "$1")
  cat >/bin/"$1" <<CALLED
#!/bin/sh
echo "$1 \$*" >>/tmp/calls
[ ! -e /tmp/before-$1 ] || . /tmp/before-$1
status=0
$real "\$@" || status=\$?
[ ! -e /tmp/after-$1 ] || . /tmp/after-$1
exit \$status
CALLED
  chmod +x /bin/"$1"
}
