# Sourced after lib.sh and log-writes.sh: power cuts while a run overwrites a target and
# keeps what it overwrites, while `undo` puts that back, and between the two.
#
# Target and state directory lie on one disk, which is recorded; the source does not.
# After each cut the machine "starts again" on what the disk then held, and
#   - gate says consistent only of a target that, by cmp, is what it was before the run,
#     or the source;
#   - then, in turn: `undo`; `undo` that is killed, and again; the same run again, which
#     finishes, and `undo`;
#   - an undo that ends with 0 leaves, by cmp, what there was before the run, and gate
#     says so. One that finds nothing to restore finds it there already;
#   - nothing is left of an undo that was restored. What a cut before it was written down
#     leaves, such as an image, the next run removes.
#
# A script says where they lie:
#   target                    SIZE_KIB long, and LOCKSTEP_STATE_DIR
#   make_all                  makes them on $disk, and starts them
#   start DISK, stop          after a power cut, and before the next one
#   kept_in                   what the undo is, by the run's summary
#   nothing_is_held           fails if anything is left of an image
#   moments                   how many cuts in the run, and how many in the rollback
#   verdicts                  what some cut must have left: old, mixed, inconsistent or new;
#                             and what some undo must have done: restored, nothing
#   is_excused                whether /tmp/events tell why no image can be made at all;
#                             then, and only then, the same run may refuse to overwrite

SIZE_KIB=4096
CUTS=${1:-4} SEED=${2:-1}
disk=/dev/vda log=/dev/vdb crashed_disk=/dev/vdc cow=/dev/vdd
source=/tmp/new before=/tmp/old

sync_target() {
  lockstep sync "$source" "$target" --yes --json --snapshot none "$@" >/tmp/events 2>/tmp/said
}
must_sync() { # WHEN OPTION...
  when=$1
  shift
  sync_target "$@" || { cat /tmp/said /tmp/events; fail "$when: sync ends with $?"; }
  is_synced "$when"
}
is_synced() { # WHEN
  same "$source" || fail "$1: synced, and not byte-equal"
  is_open || fail "$1: synced, and gate does not say consistent"
}
same() { drop_caches; $CMP -s "$1" "$target"; }
is_open() { lockstep gate "$target" >/tmp/gate 2>&1; }
kind() { tail -n 1 /tmp/events | sed -n 's/.*"undo":{"kind":"\([a-z-]*\)".*/\1/p'; }

# undo_target: in undone, whether it was restored or there was nothing to restore.
undo_target() { # WHEN
  status=0
  lockstep undo "$target" --yes --json >/tmp/events 2>/tmp/said || status=$?
  case $status in
    0) undone=restored ;;
    7) undone=nothing ;;
    *) cat /tmp/said /tmp/events; fail "$1: undo ends with $status" ;;
  esac
  same "$before" || { cat /tmp/said; fail "$1: undo ends with $status, and the target is not what it was"; }
}

prepare() {
  put_noise "$before" "$SIZE_KIB" 0
  make_all
  source=$before must_sync "first sync" --undo off
  stop
  must cp "$before" "$source"
  # A stretch in every extent, single pages, zeros where there were none.
  for at in 0 512 1024 1536 2048 2560 3072 3584; do put_noise "$source" 64 "$at"; done
  for page in 77 700 1020; do put_noise "$source" 4 $((page * 4)); done
  must dd if=/dev/zero of="$source" bs=1k seek=3200 count=64 conv=notrunc
  must dd if="$disk" of="$crashed_disk" bs=1M conv=fsync
}

record_both() {
  must dmsetup create logged --table "0 $(sectors "$disk") log-writes $disk $log"
  start /dev/mapper/logged
  must dmsetup message logged 0 mark sync-begins
  # Slow enough for several flushes of a log: all that waits shares one.
  must_sync "recorded sync" --undo require --limit-rate 500K
  [ "$(kind)" = "$kept_in" ] || { cat /tmp/events; fail "it is kept in: $(kind)"; }
  must dmsetup message logged 0 mark sync-ended
  undo_target "recorded undo"
  [ "$undone" = restored ] || fail "the recorded undo restores nothing"
  must dmsetup message logged 0 mark undo-ended
  stop
  must dmsetup remove logged
  log_list "$log" >/tmp/log
}

# CUT PERCENT-OF-CACHE a line: at the beginning, between run and rollback and at the end,
# and in both just before and just after flushes, which is where an order that is wrong
# would show; with nothing of what was not flushed, all of it, or any part. And in the
# middle of what the run has to say at most between two flushes: the overwriting.
choose_cuts() {
  awk -v cuts="$moments" -v seed="$SEED" '
    function spread(flushes, i, at, kind) {
      for (i = 0; i < cuts && flushes; i++) {
        at = flush[1 + int(flushes * (i + rand()) / cuts)]
        kind = i % 3
        print at - (kind > 0), kind == 0 ? 0 : kind == 1 ? int(rand() * 100) : 100
      }
    }
    BEGIN { srand(seed) }
    $6 == "sync-begins" || $6 == "sync-ended" || $6 == "undo-ended" {
      spread(flushes)
      if ($6 == "sync-ended") print widest - 1, 50
      begun = $6 != "undo-ended"
      flushes = unflushed = 0
      print $1, 0
      next
    }
    !begun { next }
    $2 % 4 {
      flush[++flushes] = $1
      if (unflushed > most) { most = unflushed; widest = $1 }
      unflushed = 0
    }
    int($2 / 4) % 2 == 0 { unflushed += $4 }' /tmp/log | sort -n -k 1,1 -k 2,2 | uniq
}

judge() { # WHEN; sets verdict
  verdict=inconsistent
  if is_open; then
    if same "$source"; then verdict=new
    elif same "$before"; then verdict=old
    else cat /tmp/gate; fail "$1: gate says consistent, and it is neither what it was nor the source"
    fi
  else
    status=$?
    [ "$status" = 10 ] || { cat /tmp/gate; fail "$1: gate ends with $status"; }
    same "$source" || same "$before" || verdict=mixed
  fi
}

kill_undo() { # TENTHS: after that time
  lockstep undo "$target" --yes --json >/tmp/events 2>/tmp/said &
  killed=$!
  sleep "$(($1 / 10)).$(($1 % 10))"
  kill -9 "$killed" 2>/dev/null
  wait "$killed" 2>/dev/null
}

nothing_is_left() { # WHEN
  left=$(find "$LOCKSTEP_STATE_DIR/undo" -type f ! -name '*.lock')
  [ -z "$left" ] || fail "$1: these are left: $left"
  nothing_is_held "$1"
}

run_again() { # WHEN; sets way
  status=0
  sync_target --undo require || status=$?
  if [ "$status" = 0 ]; then
    is_synced "$1"
  elif [ "$status" = 3 ] && is_excused; then
    way="a run that refused"
  else
    cat /tmp/said /tmp/events
    fail "$1: sync ends with $status"
  fi
}

cut_and_check() { # NUMBER CUT PERCENT-OF-CACHE
  when="cut at $2, $3 % of the cache kept"
  crash_at "$log" "$crashed_disk" "$cow" "$2" "$SEED$2" "$3"
  start /dev/mapper/crashed
  judge "$when"
  found=$verdict
  case $(($1 % 3)) in
    0) way="undo" ;;
    1)
      way="killed undo"
      kill_undo $((($2 * 7 + SEED) % 15))
      judge "$when, a killed undo"
      ;;
    2)
      way="the same run"
      run_again "$when, the same run"
      ;;
  esac
  undo_target "$when, $way"
  [ "$way $undone" != "the same run nothing" ] || fail "$when: the run that went on has no undo"
  is_open || [ "$undone" = nothing ] || { cat /tmp/gate; fail "$when, $way: restored, and gate does not say so"; }
  say "$when: $found; after $way $undone"
  [ "$undone" = nothing ] || nothing_is_left "$when, $way"
  stop
  must dmsetup remove crashed
  printf '%s\n' "$found" "$undone" >>/tmp/verdicts
}

cut_everywhere() {
  prepare
  record_both
  choose_cuts >/tmp/cuts
  say "recorded: $(wc -l </tmp/log) log entries"
  number=0
  while read -r cut percent; do
    number=$((number + 1))
    cut_and_check "$number" "$cut" "$percent"
  done </tmp/cuts
  # Otherwise nothing was put to the test.
  for verdict in $verdicts; do
    grep -q "$verdict" /tmp/verdicts || fail "no cut was $verdict"
  done
  say "$(wc -l </tmp/cuts) cuts: $(sort /tmp/verdicts | uniq -c | tr -s ' \n' ' ')"
}
