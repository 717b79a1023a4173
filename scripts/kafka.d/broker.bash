# Sourced by scripts/kafka: one broker, in the directory that use_dir names. Must not know of others:
# cluster.bash calls these functions for each of three.
# shellcheck shell=bash disable=SC2154,SC2034,SC2317  # variables and calls are in scripts/kafka

# From here on the functions work on the broker of that directory.
use_dir() {
  dir=$1
  conf=$dir/server.properties
  own_settings=$dir/own.properties # what --set said
  pid_file=$dir/pid
  log=$dir/logs/server.log
  out=$dir/logs/stdout.log
  tls_dir=$dir/tls
  node= # its number, in a cluster
}

# ---- what is there ---------------------------------------------------------

# The value of a key in the settings of the last `up` in a directory (ours unless another is given);
# empty if there are none.
setting() {
  local file=${2:-$dir}/server.properties
  [ ! -f "$file" ] || sed -n "s/^$1=//p" "$file"
}

# The port of a listener in the settings of a directory.
listener_port() { setting listeners "${2-}" | sed -nE "s|.*\b$1://127\.0\.0\.1:([0-9]+).*|\1|p"; }

# Fills old_port and old_tls from the settings of the last `up`.
read_settings() {
  local listeners
  listeners=$(setting listeners)
  old_port=
  old_controller_port=
  old_tls=false
  [ -n "$listeners" ] || return 0
  old_port=$(listener_port PLAINTEXT)
  old_controller_port=$(listener_port CONTROLLER)
  [[ $listeners != *SASL_SSL* ]] || old_tls=true
}

# Prints the broker's pid if that process is the broker of this directory.
running() {
  local pid argv
  pid=$(cat "$pid_file" 2>/dev/null) || return 1
  [[ $pid =~ ^[0-9]+$ ]] || return 1
  # a dead child that nobody waited for has an empty command line
  mapfile -d '' -t argv 2>/dev/null <"/proc/$pid/cmdline" || return 1
  [ "${argv[*]: -2}" = "kafka.Kafka $conf" ] || return 1
  printf '%s\n' "$pid"
}

# True once that process holds no port any more: it is gone, or its last thread waits to be buried.
gone() {
  local threads
  threads=(/proc/"$1"/task/*/stat)
  [ -e "${threads[0]}" ] || return 0
  [ ${#threads[@]} -eq 1 ] && grep -q ') Z ' "${threads[0]}" 2>/dev/null
}

# True if something listens on that loopback port.
taken() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# True if the broker at that port answers within so many seconds; of a cluster's node, also that the
# others take it for alive.
answers() {
  local found
  found=$(kcat -L -b "127.0.0.1:$1" -m "$2" 2>/dev/null) || return 1
  [ -z "${3-}" ] || grep -q "^  broker $3 at " <<<"$found"
}

# One `up`, `down` or `wipe` at a time works in the directory.
lock_dir() {
  mkdir -p "$dir"
  while
    exec 9>"$dir/.lock"
    flock 9
    # `wipe` may have deleted the file while we waited
    [ ! "$dir/.lock" -ef "/proc/$BASHPID/fd/9" ]
  do mkdir -p "$dir"; done
}

# ---- up --------------------------------------------------------------------

# The folder of a Java that this Kafka runs on: JAVA_HOME's, the PATH's, or an installed one.
java_home() {
  local home version
  for home in "${JAVA_HOME-}" "$(readlink -f "$(command -v java)")" /usr/lib/jvm/*; do
    home=${home%/bin/java}
    if [ -z "$home" ] || [ ! -x "$home/bin/java" ]; then continue; fi
    version=$("$home/bin/java" -version 2>&1 | sed -nE 's/.* version "([0-9]+).*/\1/p')
    if [ "${version:-0}" -ge "$java_least" ]; then
      printf '%s\n' "$home"
      return
    fi
  done
  die "no Java $java_least or newer found; run scripts/setup --kafka"
}

# Fills `java` with the command and the options that every run shares.
find_java() {
  : "${java_dir:=$(java_home)}"
  java=("$java_dir/bin/java" -Djava.awt.headless=true "-XX:ErrorFile=$dir/logs/hs_err.log"
    "-Dlog4j2.configurationFile=$dir/log4j2.properties"
    "-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://$tls_dir/jwks.json" -cp "$libs/*")
}

# 16 random bytes in base64 for URLs, beginning with a letter.
new_id() {
  printf 'm%sA\n' "$(head -c 64 /dev/urandom | base64 -w 0 | tr -dc 'A-Za-z0-9' | head -c 20)"
}

format_storage() {
  local id
  if [ -n "$node" ]; then
    id=$(cluster_fact cluster.id)
  elif [ -n "$join" ]; then
    id=$(sed -n 's/^cluster.id=//p' "$join/data/meta.properties")
  else
    id=$(new_id)
  fi
  "${java[@]}" -XX:TieredStopAtLevel=1 -Xshare:auto kafka.tools.StorageTool format \
    --cluster-id "$id" --config "$conf" \
    --add-scram "SCRAM-SHA-256=[name=$user,password=$password]" \
    --add-scram "SCRAM-SHA-512=[name=$user,password=$password]" >"$out" 2>&1 && {
    rm -f "$log" # nothing but the list of all settings
    return 0
  }
  cat "$out" >&2
  rm -rf "$dir/data"
  die "could not format the storage in $dir/data"
}

# Starts the broker as a session of its own, with none of our descriptors but its log.
spawn() {
  local heap tuning
  read -ra heap <<<"${KAFKA_HEAP_OPTS:--Xms256m -Xmx512m}"
  read -ra tuning <<<"${KAFKA_JVM_PERFORMANCE_OPTS:--XX:+UseG1GC -XX:MaxGCPauseMillis=20}"
  (
    cd "$dir" || exit
    exec </dev/null >>"$out" 2>&1
    exec setsid "$root/scripts/guard" run "${java[@]}" "${heap[@]}" "${tuning[@]}" \
      -XX:+ExitOnOutOfMemoryError kafka.Kafka "$conf"
  ) &
  printf '%s\n' $! >"$pid_file"
  spawned+=("$dir")
}

fail_with_log() {
  printf 'kafka: %s; the end of its log:\n' "$1" >&2
  tail -qn 20 "$log" "$out" >&2 2>/dev/null || true
  for dir in "${spawned[@]}"; do
    use_dir "$dir"
    stop KILL >/dev/null 2>&1 || true
  done
  exit 1
}

wait_until_up() {
  local deadline=$((SECONDS + up_limit)) pid
  pid=$(cat "$pid_file")
  until taken "$port" && answers "$port" 5 "$node"; do
    ! gone "$pid" || fail_with_log "the broker ended before it was up"
    [ "$SECONDS" -lt "$deadline" ] || fail_with_log "the broker did not answer within $up_limit s"
    sleep 0.05
  done
  disown "$pid" 2>/dev/null || true
}

# Takes a block of ports for this directory, until `wipe`: while its broker is down, nobody listens
# on them, and still they are its own. False if another has it.
claim() {
  local link=$claims/$1
  mkdir -p "$claims"
  [ -e "$link" ] || rm -f "$link" # that directory is no more
  ln -sT "$dir" "$link" 2>/dev/null
}

find_free_ports() {
  local try candidate
  for try in {1..200}; do
    port=$((20000 + RANDOM % 2000 * 5))
    for candidate in "$port" $((port + 1)) $((port + 2)) $((port + 3)) $((port + 4)); do
      if taken "$candidate"; then continue 2; fi
    done
    if claim "$port"; then return 0; fi
  done
  die "found no five free ports in a row after $try tries"
}

# Part of a sentence: why that port, when it is one of the last `up` in the directory.
had_it() { [[ ,$(setting listeners), != *:"$1",* ]] || printf ', which %s had before,' "$dir"; }

check_ports() {
  local candidate ports=("$port")
  [ -n "$join" ] || ports+=("$controller_port")
  ! $tls || ports+=($((port + 2)) $((port + 3)) $((port + 4)))
  for candidate in "${ports[@]}"; do
    if [ "$candidate" -lt 1 ] || [ "$candidate" -gt 65535 ]; then die "not a port: $candidate"; fi
    if taken "$candidate"; then
      die "port $candidate$(had_it "$candidate") is in use by another program; stop that, or choose another with --port"
    fi
  done
}

# Already up: fine if it is what was asked for.
same_as_running() {
  local wish=${port:-$old_port}
  [ "$wish" != free ] || wish=$old_port
  if [ "$wish" != "$old_port" ]; then
    die "the broker of this directory is up at localhost:$old_port; move it with: scripts/kafka restart --port $wish"
  elif $tls && ! $old_tls; then
    die "the broker is up without TLS and SASL; add them with: scripts/kafka restart --tls-sasl"
  fi
  answers "$old_port" 10 || die "the broker runs, but does not answer at localhost:$old_port; see scripts/kafka log"
  printf 'localhost:%s\n' "$old_port"
}

# Ports and listeners are those of the last `up` in the directory, unless others are asked for.
keep_settings() {
  if [ -z "$port" ]; then
    port=$old_port
    controller_port=${controller_port:-$old_controller_port}
  fi
  ! $old_tls || tls=true
}

up() {
  if running >/dev/null; then
    same_as_running
    return
  fi
  keep_settings
  "$root/scripts/setup" --kafka 9>&-
  [ "$port" != free ] || find_free_ports
  port=${port:-9092}
  [ -z "$join" ] || controller_port=$(listener_port CONTROLLER "$join")
  controller_port=${controller_port:-$((port + 1))}
  [ -n "$join" ] || [ ! -f "$conf" ] || [ "$(setting node.id)" = 1 ] ||
    die "this is a second broker; give it the first one's directory with --join"
  check_ports
  prepare
  spawn
  wait_until_up
  printf 'localhost:%s\n' "$port"
}

# Writes all that the broker reads.
prepare() {
  mkdir -p "$dir/logs"
  [ ${#sets[@]} -eq 0 ] || printf '%s\n' "${sets[@]}" >"$own_settings"
  rm -f "$out"
  if $tls && [ ! -f "$tls_dir/server.pem" ]; then make_certificates; fi
  if $tls && [ ! -f "$tls_dir/jwks.json" ]; then make_token_key; fi
  write_settings >"$conf"
  write_log_settings >"$dir/log4j2.properties"
  find_java
  [ -f "$dir/data/meta.properties" ] || format_storage
}

# ---- down ------------------------------------------------------------------

# Stops the broker by that signal.
stop() {
  local pid
  if pid=$(running); then
    kill "-$1" "$pid" 2>/dev/null || true
    await_end "$pid"
  fi
  rm -f "$pid_file"
}

# Waits for the end of a broker that got a signal; SIGKILL follows when it takes too long.
await_end() {
  local deadline=$((SECONDS + down_limit))
  until gone "$1"; do
    if [ $SECONDS -ge $deadline ]; then
      printf 'kafka: not down after %s s; killed it\n' "$down_limit" >&2
      kill -KILL "$1" 2>/dev/null || true
      deadline=$((SECONDS + down_limit))
    fi
    sleep 0.05
  done
}

signal() { if $kill_it; then echo KILL; else echo TERM; fi; }

# Deletes what `up` made, and nothing else that may be in the directory.
wipe() {
  stop "$(signal)"
  wipe_files
  rmdir "$dir" 2>/dev/null || true
  [ "$dir" != "$root/var/kafka" ] || rmdir "$root/var" 2>/dev/null || true
}

wipe_files() {
  [ ! -d "$claims" ] || find "$claims" -lname "$dir" -delete
  rm -rf "$dir/data" "$dir/tls" "$dir/tls.new" "$dir/logs" "$conf" "$own_settings" \
    "$dir/log4j2.properties" "$dir/.lock"
}

# ---- looking ---------------------------------------------------------------

# True if it answers.
status() {
  local pid
  if ! pid=$(running); then
    echo down
    return 1
  elif ! answers "$old_port" 5; then
    printf 'process %s runs, but does not answer at localhost:%s\n' "$pid" "$old_port"
    return 1
  fi
  printf 'up at localhost:%s (process %s)\n' "$old_port" "$pid"
  if $old_tls; then
    printf 'SSL localhost:%s, SASL_SSL localhost:%s, SASL_PLAINTEXT localhost:%s; %s\n' \
      $((old_port + 2)) $((old_port + 3)) $((old_port + 4)) "$tls_dir/ca.crt"
  fi
}

show_log() {
  [ -f "$log" ] || [ -f "$out" ] || die "there is no log in $dir/logs"
  if [ -s "$out" ]; then
    echo "== standard output"
    tail -n "$lines" "$out"
    echo "== log"
  fi
  exec tail -n "$lines" ${follow:+"$follow"} "$log"
}
