# Sourced by postgres-cluster: PostgreSQL alone.

LOST_TIMELINE="highest timeline .* of the primary is behind recovery timeline .*"
LOST_LOG="requested WAL segment .* has already been removed"

make_cluster() {
  local node
  as_postgres "$PG_BIN/initdb" -N -D "$WORK/db1/main" -A trust -E UTF8 --locale=C --data-checksums >/dev/null
  cat >>"$WORK/db1/main/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
shared_buffers = 64MB
max_wal_size = 128MB
wal_keep_size = 0
CONF
  start_instance db1
  fill_primary
  ask db1 "create role replicator login replication"
  for node in "${STANDBYS[@]}"; do
    as_postgres "$PG_BIN/pg_basebackup" -N -D "$WORK/$node/main" -R -C -S "$node" -X stream -c fast \
      -d "host=127.0.0.1 port=${PORT[db1]} user=replicator application_name=$node"
    start_instance "$node"
  done
}

stop_standby() { stop_instance "$1" fast; }

break_first() {
  FIRST_LOG=$WORK/socket/log-db2
  promote_and_write
  start_instance db2
}
break_second() {
  SECOND_LOG=$WORK/socket/log-db3
  damage_and_outrun
  start_instance db3
}

install_hooks() {
  install_hooks_of postgresql
  PRIMARY_HOOK=$WORK/hooks/primary STANDBY_HOOK=$WORK/hooks/standby
  cat >>"$WORK/hooks/settings" <<SETTINGS
control() { as_postgres $PG_BIN/pg_ctl "\$@" -s -w -t 100 -D "\$PGDATA" </dev/null; }
start_postgresql() {
  control start -l $WORK/socket/log-\$LOCKSTEP_NODE \\
    -o "-p \$own -c unix_socket_directories='$WORK/socket'"
}
stop_postgresql() { ! control status >/dev/null || control stop -m fast; }
SETTINGS
}

volume_roles() {
  echo 'primary = "db1"'
  echo 'replicas = ["db2", "db3"]'
}

end_flavour() { :; }
