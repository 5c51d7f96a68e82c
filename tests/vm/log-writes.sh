# Sourced after lib.sh: reads what dm-log-writes recorded, and makes the disks
# that a power cut could have left.
#
# The log is a superblock and then entries, each a header of one sector:
#
#   superblock   magic u64, version u64, entries u64, sector size u32
#   entry        sector u64, sectors u64, flags u64, data length u64
#   flags        1 flush, 2 FUA, 4 discard, 8 mark, 16 metadata
#
# A header is followed by the written data, or in its own sector by a mark's
# text; a discard has no data. A write enters the log, in the order of
# completion, with the first flush that makes it durable: just before that. One
# with FUA enters as soon as it is done, and so does a mark: they overtake
# writes that nobody flushed yet.
#
# As text, one entry a line: INDEX FLAGS SECTOR SECTORS AT [MARK], AT being the
# sector of the log with the data.

LOG_MAGIC=0x6a736677736872
FLUSH=1 FUA=2 DISCARD=4 MARK=8

u64() { od -A n -t u8 -v -j "$2" -N "$3" "$1"; }

# log_list LOG
log_list() {
  set -- "$1" $(u64 "$1" 0 24)
  [ "$2" = $((LOG_MAGIC)) ] && [ "$3" = 1 ] || fail "$1 is not a log of writes: $2 $3"
  log_entry=0 log_at=1
  while [ "$log_entry" -lt "$4" ]; do
    log_header "$1" $(u64 "$1" $((log_at * 512)) 32)
    log_entry=$((log_entry + 1))
  done
}

# log_header LOG SECTOR SECTORS FLAGS LENGTH
log_header() {
  log_mark=
  log_data=$3
  [ $(($4 & DISCARD)) = 0 ] || log_data=0
  if [ $(($4 & MARK)) != 0 ]; then
    log_mark=$(dd if="$1" bs=1 skip=$((log_at * 512 + 32)) count="$5" 2>/dev/null)
    log_data=0
  fi
  echo "$log_entry $4 $2 $3 $((log_at + 1)) $log_mark"
  log_at=$((log_at + 1 + log_data))
}

# log_apply LOG DISK <ENTRIES: writes them, in their order.
log_apply() {
  while read -r _ log_flags log_sector log_sectors log_from _; do
    if [ "$log_sectors" = 0 ] || [ $((log_flags & MARK)) != 0 ]; then
      continue
    elif [ $((log_flags & DISCARD)) != 0 ]; then
      dd if=/dev/zero of="$2" bs=512 seek="$log_sector" count="$log_sectors" conv=notrunc 2>/dev/null
    else
      dd if="$1" of="$2" bs=512 skip="$log_from" seek="$log_sector" count="$log_sectors" conv=notrunc 2>/dev/null
    fi || fail "replaying sector $log_sector"
  done
}

# A power cut when entry CUT is done leaves what log_flushed lists, and on top
# of it what log_cached does.

# log_flushed CUT <ENTRIES: those before the last flush, which are on the disk.
# A flush that has data itself flushes what came before, not that data.
log_flushed() {
  awk -v cut="$1" '
    $1 <= cut { line[++lines] = $0; if ($2 % 2) flush = lines }
    END { for (i = 1; i < flush; i++) print line[i] }'
}

# log_cached CUT SEED PERCENT <ENTRIES: those since the last flush. With FUA
# they are on the disk; of the others PERCENT are, in any choice, as a cache
# writes back what it likes. One in four of these is torn: only its first pages
# got there.
log_cached() {
  awk -v cut="$1" -v seed="$2" -v percent="$3" '
    $1 > cut { exit }
    { if ($2 % 2) entries = 0; line[++entries] = $0 }
    END {
      srand(seed)
      for (i = 1; i <= entries; i++) {
        $0 = line[i]
        if (int($2 / 2) % 2 == 0) {
          if (rand() * 100 >= percent) continue
          if (percent < 100 && $4 > 8 && rand() < 0.25) $4 = 8 * int(rand() * $4 / 8)
        }
        print
      }
    }'
}

# crash_at LOG DISK COW CUT SEED PERCENT: /dev/mapper/crashed becomes the disk
# that a cut at CUT leaves, by what /tmp/log lists. DISK is the disk of the
# beginning, and gets what was flushed before the cut, so cuts come in their
# order; what the cache wrote back, and what is written after starting again,
# goes to a snapshot above it, on COW.
log_replayed=0
crash_at() {
  log_flushed "$4" </tmp/log >/tmp/flushed
  tail -n "+$((log_replayed + 1))" /tmp/flushed | log_apply "$1" "$2" || exit 1
  log_replayed=$(wc -l </tmp/flushed)
  must dd if=/dev/zero of="$3" bs=4k count=1 conv=fsync,notrunc   # no snapshot from before
  drop_caches
  must dmsetup create crashed --table "0 $(sectors "$2") snapshot $2 $3 N 8"
  log_cached "$4" "$5" "$6" </tmp/log >/tmp/cached
  log_apply "$1" /dev/mapper/crashed </tmp/cached || exit 1
  drop_caches
}
