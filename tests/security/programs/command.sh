#!/bin/sh
# Stand-in for a scheduler command. It records the environments and arguments of its process and all parents, and then
# behaves as the file "mode" requests. Calls by root come from the tests themselves and are passed on unchanged.
name=$(basename "$0")
real=/usr/libexec/hpchub-probe/$name
[ "$(id -u)" = 0 ] && exec "$real" "$@"
seen=$(mktemp -d "/run/hpchub-probe/seen/$name.XXXXXXXX")
process=$$
while [ "$process" -gt 1 ]; do
  cat "/proc/$process/environ" > "$seen/environ.$process" 2> /dev/null
  cat "/proc/$process/cmdline" > "$seen/cmdline.$process" 2> /dev/null
  process=$(sed -n 's/^PPid:\t//p' "/proc/$process/status")
done
case $(cat "/run/hpchub-probe/mode.$name" 2> /dev/null) in
fail)
  echo "slurm_load_jobs error: Zero Bytes were transmitted or received" >&2
  exit 1
  ;;
rubbish)
  echo 'Segmentation fault $(touch /run/hpchub-probe/seen/injected) RUNN'
  exit 0
  ;;
half)
  "$real" "$@" | head -c 9
  exit 0
  ;;
hang) exec sleep 600 ;;
injection)
  printf '%s\n' '$(touch /run/hpchub-probe/seen/injected)' '1;touch /run/hpchub-probe/seen/injected' '`touch /run/hpchub-probe/seen/injected`'
  exit 0
  ;;
esac
exec "$real" "$@"
