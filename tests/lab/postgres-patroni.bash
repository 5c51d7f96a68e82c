# Sourced by postgres-cluster: PostgreSQL under Patroni, with an etcd of its own.

# Both standbys stay down: Patroni, which may rewind, would repair the first one otherwise.
LOST_TIMELINE="selected new timeline ID: .*"
LOST_LOG="requested WAL segment .* has already been removed"
declare -A API_PORT PATRONI

make_cluster() {
  local node etcd peers
  read -r API_PORT[db1] API_PORT[db2] API_PORT[db3] etcd peers <<<"$(python3 -c '
import socket
sockets = [socket.socket() for _ in range(5)]
for it in sockets:
    it.bind(("127.0.0.1", 0))
print(*(it.getsockname()[1] for it in sockets))')"
  command -v etcd patroni curl >/dev/null || die "Patroni, etcd or curl is missing: run tools/setup"
  etcd --data-dir "$WORK/etcd" --listen-client-urls "http://127.0.0.1:$etcd" \
    --advertise-client-urls "http://127.0.0.1:$etcd" --listen-peer-urls "http://127.0.0.1:$peers" \
    --initial-advertise-peer-urls "http://127.0.0.1:$peers" --initial-cluster "default=http://127.0.0.1:$peers" \
    >"$WORK/log-etcd" 2>&1 &
  ETCD=$!
  for node in "${NODES[@]}"; do patroni_file "$node" "$etcd" >"$WORK/$node.yml"; done
  start_patroni db1
  until_true 60 answers db1 primary || die "Patroni makes no leader"
  fill_primary
  for node in "${STANDBYS[@]}"; do start_patroni "$node"; done
  for node in "${STANDBYS[@]}"; do until_true 60 answers "$node" replica || die "Patroni makes no $node"; done
}

patroni_file() {
  cat <<YAML
scope: lab
name: $1
restapi: { listen: "127.0.0.1:${API_PORT[$1]}", connect_address: "127.0.0.1:${API_PORT[$1]}" }
etcd3: { host: "127.0.0.1:$2" }
bootstrap:
  dcs:
    ttl: 20
    loop_wait: 2
    retry_timeout: 5
    postgresql:
      use_pg_rewind: true
      use_slots: true
      parameters: { wal_keep_size: 0, max_wal_size: 128MB }
    slots: { db1: { type: physical }, db2: { type: physical }, db3: { type: physical } }
  initdb: [ { encoding: UTF8 }, { locale: C }, data-checksums ]
postgresql:
  listen: "127.0.0.1:${PORT[$1]}"
  connect_address: "127.0.0.1:${PORT[$1]}"
  data_dir: $WORK/$1/main
  bin_dir: $PG_BIN
  pgpass: $WORK/socket/pgpass-$1
  authentication:
    superuser: { username: postgres, password: none }
    replication: { username: replicator, password: none }
    rewind: { username: postgres, password: none }
  pg_hba: [ "local all all trust", "host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust" ]
  parameters: { unix_socket_directories: "$WORK/socket", shared_buffers: 64MB }
YAML
}

answers() { curl -s -f -m 5 -o /dev/null "http://127.0.0.1:${API_PORT[$1]}/$2"; }

start_patroni() {
  (
    cd /
    exec setsid setpriv --reuid postgres --regid postgres --init-groups patroni "$WORK/$1.yml" \
      </dev/null >>"$WORK/log-patroni-$1" 2>&1
  ) &
  PATRONI[$1]=$!
}
stop_standby() {
  kill "${PATRONI[$1]}"
  until_true 30 eval "! kill -0 ${PATRONI[$1]} 2>/dev/null" || die "Patroni of $1 does not end"
}

break_first() {
  stop_standby db2
  start_instance db2
  FIRST_LOG=$WORK/socket/log-db2
  promote_and_write
}
break_second() {
  SECOND_LOG=$WORK/log-patroni-db3
  damage_and_outrun
  start_patroni db3
}

install_hooks() {
  install_hooks_of patroni
  PRIMARY_HOOK=$WORK/hooks/member STANDBY_HOOK=$WORK/hooks/member
  cat >>"$WORK/hooks/settings" <<SETTINGS
case \$LOCKSTEP_NODE in
  db1) api=${API_PORT[db1]} ;;
  db2) api=${API_PORT[db2]} ;;
  db3) api=${API_PORT[db3]} ;;
esac
PG_BIN=$PG_BIN
OWN_API=http://127.0.0.1:\$api
LEADER_API=http://127.0.0.1:${API_PORT[db1]}
CURL_OPTIONS=
PAUSE=yes
patronis() { pgrep -u postgres -f "patroni $WORK/\$LOCKSTEP_NODE.yml"; }
start_patroni() {
  (
    cd /
    exec setsid setpriv --reuid postgres --regid postgres --init-groups patroni $WORK/\$LOCKSTEP_NODE.yml \\
      </dev/null >>$WORK/log-patroni-\$LOCKSTEP_NODE 2>&1
  ) &
}
stop_patroni() {
  ! patroni=\$(patronis) || kill \$patroni
  until_true 60 has_no_patroni
}
has_no_patroni() { ! patronis >/dev/null; }
SETTINGS
}

# The leader can be any of them.
volume_roles() {
  printf 'primary = { probe = ["%s/hooks/member", "role"] }\n' "$WORK"
  echo 'replicas = ["db1", "db2", "db3"]'
}

end_flavour() {
  local node patroni
  for node in "${NODES[@]}"; do
    # Those that a hook has started are no children of ours.
    for patroni in $(pgrep -u postgres -f "patroni $WORK/$node.yml"); do
      kill "$patroni"
    done
  done
  until_true 20 eval "! pgrep -u postgres -f 'patroni $WORK/' >/dev/null"
  kill "${ETCD:-}" 2>/dev/null
}
