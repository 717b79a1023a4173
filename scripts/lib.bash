# Sourced by the scripts beside it: what more than one of them does.
# shellcheck shell=bash

# shellcheck disable=SC2034  # for the scripts
root=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." >/dev/null && pwd)

# Runs a command; its output is shown only if it fails.
quietly() {
  local output
  if ! output=$("$@" </dev/null 2>&1); then
    printf '%s\n' "$output" >&2
    return 1
  fi
}

# The value of a name in a build folder's cache; empty if it is not there.
cached() { sed -n "s/^$2:[A-Z]*=//p" "$1/CMakeCache.txt" 2>/dev/null || true; }

# Configures every time (a quarter of a second), so that CMake finds tools and libraries that were
# installed since the last time. Options and a generator that the user chose by hand stay.
configure() {
  local dir=$1 generator=() output
  shift
  # CMake refuses a folder that was copied or moved
  if ! [ "$(cached "$dir" CMAKE_HOME_DIRECTORY)" -ef "$root" ] ||
    ! [ "$(cached "$dir" CMAKE_CACHEFILE_DIR)" -ef "$dir" ]; then
    rm -rf "$dir/CMakeCache.txt" "$dir/CMakeFiles"
  fi
  [ -n "$(cached "$dir" CMAKE_GENERATOR)" ] || generator=(-G Ninja)
  output=$(cmake -S "$root" -B "$dir" "${generator[@]}" "$@" </dev/null 2>&1) && return 0
  # An interrupted first configuration may leave halves of files.
  if [ ! -f "$dir/CMakeFiles/TargetDirectories.txt" ]; then
    rm -rf "$dir/CMakeCache.txt" "$dir/CMakeFiles"
    quietly cmake -S "$root" -B "$dir" -G Ninja "$@"
    return
  fi
  printf '%s\n' "$output" >&2
  return 1
}

# Configures and builds a folder; further arguments go to cmake. Two builds of a folder at once would
# disturb each other: the second waits.
build_in() {
  local dir=$1
  mkdir -p "$dir"
  (
    flock 9
    configure "$@" 9>&- && quietly cmake --build "$dir" --parallel "$(nproc)" 9>&-
  ) 9>"$dir/.lock"
}

# Whether the tests of a build folder that failed may run once more, by themselves: in CI, which sets
# MOONBUS_TEST_AGAIN, up to three of them. Says which they are, and leaves in `again` a pattern for
# ctest -R that selects them; --rerun-failed goes by numbers, which another selection changes.
may_run_again() {
  local names=()
  if [ "${MOONBUS_TEST_AGAIN-}" != 1 ] || [ ! -f "$1/Testing/Temporary/LastTestsFailed.log" ]; then
    return 1
  fi
  mapfile -t names < <(sed 's/^[0-9]*://' "$1/Testing/Temporary/LastTestsFailed.log")
  if [ ${#names[@]} -eq 0 ] || [ ${#names[@]} -gt 3 ]; then return 1; fi
  echo "tests: failed, run once more by themselves: ${names[*]}"
  again="^($(IFS='|' && echo "${names[*]}"))\$"
}
