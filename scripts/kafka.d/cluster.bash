# Sourced by scripts/kafka: a cluster of three nodes, each in a directory of its own below $cluster, the
# directory of --dir. Each node is a broker and a voter of the controllers' quorum.
# shellcheck shell=bash disable=SC2154,SC2034,SC2317  # variables and calls are in scripts/kafka

cluster=$dir
facts=$cluster/cluster.properties # what holds until wipe: id, listeners, ports
first_port=$port wants_tls=$tls   # what the options say; use_node has its own

# True if the directory holds a cluster.
is_cluster() { [ -f "$facts" ]; }

cluster_fact() { sed -n "s/^$1=//p" "$facts"; }

# From here on the functions of broker.bash work on that node.
use_node() {
  use_dir "$cluster/$1"
  node=$1
  tls_dir=$cluster/tls
  tls=$(cluster_fact tls)
  port=$(cluster_fact "port.$1")
  controller_port=$((port + 1))
  read_settings
}

cluster_voters() {
  local each list=()
  for each in 1 2 3; do list+=("$each@127.0.0.1:$(($(cluster_fact "port.$each") + 1))"); done
  (IFS=, && echo "${list[*]}")
}

# The advertised listeners, the one that --advertise names with this node's port of it.
cluster_advertised() {
  local advertise name ports
  advertise=$(cluster_fact advertise)
  name=${advertise%%=*}
  IFS=, read -ra ports <<<"${advertise#*=}"
  sed -E "s#(^|,)$name://localhost:[0-9]+#\1$name://localhost:${ports[node - 1]-}#" <<<"$1"
}

# Keeps what the options say about the cluster as a whole, or checks it against what was kept.
settle_facts() {
  local each
  if is_cluster; then
    each=$(cluster_fact port.1)
    case $first_port in
    "" | free | "$each") ;;
    *) die "the cluster in $cluster has the port $each until wipe, not $first_port; leave --port out" ;;
    esac
    if [ "$wants_tls $(cluster_fact tls)" = "true false" ]; then
      die "the cluster in $cluster was made without --tls-sasl; wipe it first"
    fi
    [ -z "$advertise" ] || [ "$advertise" = "$(cluster_fact advertise)" ] ||
      die "the cluster in $cluster was made with another --advertise; wipe it first"
  else
    [ ! -f "$cluster/server.properties" ] || die "$cluster holds a single broker; wipe it first"
    printf '%s\n' "cluster.id=$(new_id)" "tls=$wants_tls" "advertise=$advertise" >"$facts.new"
    mv "$facts.new" "$facts"
  fi
  for each in 1 2 3; do
    [ -z "$(cluster_fact "port.$each")" ] || continue
    mkdir -p "$cluster/$each"
    use_dir "$cluster/$each"
    case $first_port in
    free) find_free_ports ;;
    *) port=$((${first_port:-9092} + 5 * (each - 1))) ;;
    esac
    printf 'port.%s=%s\n' "$each" "$port" >>"$facts"
  done
}

# Starts those of the nodes that do not run, all of them before it waits for any: none answers alone.
cluster_up() {
  local each list=() down=()
  settle_facts
  for each in "${nodes[@]}"; do
    use_node "$each"
    running >/dev/null || down+=("$each")
    list+=("localhost:$port")
  done
  [ ${#down[@]} -eq 0 ] || "$root/scripts/setup" --kafka 9>&-
  for each in "${down[@]}"; do
    use_node "$each"
    check_ports
  done
  for each in "${down[@]}"; do
    use_node "$each"
    prepare
  done
  for each in "${down[@]}"; do
    use_node "$each"
    find_java
    spawn
  done
  for each in "${nodes[@]}"; do
    use_node "$each"
    wait_until_up
  done
  (IFS=, && echo "${list[*]}")
}

# Signals all of the nodes before it waits for any: they end beside each other.
cluster_stop() {
  local each pid pids=()
  for each in "${nodes[@]}"; do
    use_node "$each"
    if pid=$(running); then
      kill "-$1" "$pid" 2>/dev/null || true
      pids+=("$pid")
    fi
  done
  for pid in "${pids[@]}"; do await_end "$pid"; done
  for each in "${nodes[@]}"; do rm -f "$cluster/$each/pid"; done
}

cluster_wipe() {
  local each
  [ -z "$node_named" ] || die "wipe removes the whole cluster; leave --node out"
  cluster_stop "$(signal)"
  for each in 1 2 3; do
    use_node "$each"
    wipe_files
    rmdir "$dir" 2>/dev/null || true
  done
  rm -rf "$cluster/tls" "$cluster/tls.new" "$facts" "$facts.new" "$cluster/.lock"
  rmdir "$cluster" 2>/dev/null || true
  [ "$cluster" != "$root/var/kafka" ] || rmdir "$root/var" 2>/dev/null || true
}

# True if all of the nodes answer.
cluster_status() {
  local each all=true
  for each in "${nodes[@]}"; do
    use_node "$each"
    printf 'node %s: ' "$each"
    status || all=false
  done
  $all
}
