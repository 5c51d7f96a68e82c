# Sourced after lib.sh and log-writes.sh: power cuts while a run makes a snapshot,
# resyncs by what changed since the last one, leaves the new snapshot and its
# index as the next base, and lets go of the old one.
#
# Source, snapshots, state directory and target lie on one disk, which is recorded;
# after each cut the machine "starts again" on what the disk then held, and
#   - gate says consistent only of a target that, by cmp, is the source as it was
#     at the last run or at this one;
#   - the source goes on: new pages, and one that is again what it was two runs ago;
#   - the next run ends well, and cmp agrees. No sample of pages may find that an
#     index was another snapshot's: that would be the alarm of a lying delta;
#   - one snapshot is left, and one index: the new base. Nothing is half made;
#   - the run after that, tried for the last of the cuts, reads only what changed.
#
# A script says where they lie:
#   volume, target            SIZE_KIB long, and LOCKSTEP_STATE_DIR
#   make_all                  makes them on $disk, and starts them
#   start DISK, stop          after a power cut, and before the next one
#   images                    a line for each frozen image of the volume
#   nothing_is_held           fails if anything else is left of a snapshot
#   moments                   how many cuts, besides the beginning and the end

SIZE_KIB=8192
CUTS=${1:-4} SEED=${2:-1}
disk=/dev/vda log=/dev/vdb crashed_disk=/dev/vdc cow=/dev/vdd

sync_target() { lockstep sync "$volume" "$target" --yes --json >/tmp/events 2>/tmp/said; }
# The first field of that name: the source's comes before the targets'.
summary() { tail -n 1 /tmp/events | grep -o "\"$1\":\"\{0,1\}[0-9a-z-]*" | head -n 1 | sed 's/.*[":]//'; }
same() { drop_caches; $CMP -s "$1" "$target"; }

must_sync() { # WHEN
  sync_target || { cat /tmp/said /tmp/events; fail "$1: sync ends with $?"; }
  ! grep -q ALARM /tmp/events || { cat /tmp/events; fail "$1: an index of another snapshot was used"; }
  lockstep gate "$target" >/dev/null 2>&1 || fail "$1: synced, and gate does not say consistent"
  same "$volume" || fail "$1: synced, and not byte-equal"
  nothing_is_left "$1"
}

nothing_is_left() {
  images >/tmp/images
  [ "$(wc -l </tmp/images)" = 1 ] || fail "$1: these images are left: $(cat /tmp/images)"
  ls -A "$LOCKSTEP_STATE_DIR/indexes" | grep -v '\.lock$' | grep -v '\.target\.index$' >/tmp/indexes
  [ "$(wc -l </tmp/indexes)" = 1 ] || fail "$1: these indexes are left: $(cat /tmp/indexes)"
  grep -q '^[0-9a-f]*\.source-[0-9a-f]*\.index$' /tmp/indexes || fail "$1: an index is half made: $(cat /tmp/indexes)"
  nothing_is_held
}

put_back() { # PAGE: as it was two runs ago
  must dd if=/tmp/old of="$volume" bs=4k skip="$1" seek="$1" count=1 conv=fsync,notrunc
}

prepare() {
  make_all
  put_noise "$volume" "$SIZE_KIB" 0
  must_sync "first sync"
  must cp "$volume" /tmp/old
  for page in 0 77 700 1020 1500 2047; do put_noise "$volume" 4 $((page * 4)); done
  put_noise "$volume" 256 4096
  must dd if=/dev/zero of="$volume" bs=1k seek=6144 count=64 conv=fsync,notrunc
  must cp "$volume" /tmp/new
  stop
  must dd if="$disk" of="$crashed_disk" bs=1M conv=fsync
}

record_sync() {
  must dmsetup create logged --table "0 $(sectors "$disk") log-writes $disk $log"
  start /dev/mapper/logged
  must dmsetup message logged 0 mark sync-begins
  sync_target || { cat /tmp/said; fail "recorded sync ends with $?"; }
  must dmsetup message logged 0 mark sync-ended
  [ "$(summary proof)" = delta ] || { cat /tmp/events; fail "the recorded run reads everything"; }
  stop
  must dmsetup remove logged
  log_list "$log" >/tmp/log
}

# CUT PERCENT-OF-CACHE a line: at the beginning and the end, and between just before
# and just after flushes, which is where an order that is wrong would show, spread
# over the whole run; with nothing of what was not flushed, all of it, or any part.
choose_cuts() {
  awk -v cuts="$moments" -v seed="$SEED" '
    $6 == "sync-begins" { first = $1; next }
    $6 == "sync-ended" { last = $1 }
    first == "" || last != "" { next }
    $2 % 4 { flush[++flushes] = $1 }
    END {
      srand(seed)
      print first, 0
      print last, 0
      for (i = 0; i < cuts; i++) {
        at = flush[1 + int(flushes * (i + rand()) / cuts)]
        kind = i % 3
        print at - (kind > 0), kind == 0 ? 0 : kind == 1 ? 100 : int(rand() * 100)
      }
    }' /tmp/log | sort -n -k 1,1 -k 2,2 | uniq
}

judge() { # WHEN; sets verdict
  verdict=inconsistent
  if lockstep gate "$target" >/tmp/gate 2>&1; then
    if same /tmp/new; then verdict=new
    elif same /tmp/old; then verdict=old
    else cat /tmp/gate; fail "$1: gate says consistent, and it is neither the old nor the new source"
    fi
  else
    status=$?
    [ "$status" = 10 ] || { cat /tmp/gate; fail "$1: gate ends with $status"; }
  fi
}

run_after() { # WHEN
  put_noise "$volume" 4 4000
  must_sync "$1, the run after"
  [ "$(summary proof)" = delta ] || { cat /tmp/events; fail "$1: the run after that reads everything"; }
}

cut_and_check() { # CUT PERCENT-OF-CACHE
  when="cut at $1, $2 % of the cache kept"
  crash_at "$log" "$crashed_disk" "$cow" "$1" "$SEED$1" "$2"
  start /dev/mapper/crashed
  judge "$when"
  $CMP -s /tmp/new "$volume" || fail "$when: the source is another"
  found=$(images | wc -l)
  put_back 700
  put_noise "$volume" 4 $((4 * ($1 % 2048)))
  must_sync "$when"
  proof=$(summary proof)
  say "$when: $verdict, $found images; then $proof," \
    "$(summary bytes_read) bytes read: $(sed -n 's/.*"type":"warning".*"message":"\([^"]*\)".*/\1/p' /tmp/events)"
  [ "$1 $2" != "$(tail -n 1 /tmp/cuts)" ] || run_after "$when"
  stop
  must dmsetup remove crashed
  printf '%s\n' "$verdict" "$found-images" "$proof" >>/tmp/verdicts
}

cut_everywhere() {
  prepare
  record_sync
  choose_cuts >/tmp/cuts
  say "recorded: $(wc -l </tmp/log) log entries"
  while read -r cut percent; do cut_and_check "$cut" "$percent"; done </tmp/cuts
  # Otherwise nothing was put to the test.
  for verdict in old inconsistent new 1-images 2-images delta; do
    grep -q "$verdict" /tmp/verdicts || fail "no cut was $verdict"
  done
  say "$(wc -l </tmp/cuts) cuts: $(sort /tmp/verdicts | uniq -c | tr -s ' \n' ' ')"
}
