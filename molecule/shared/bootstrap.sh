# Sourced by bin/demo and bin/test, after they have set `repository` and `program`: what must be there before Python
# can take over. Works on a fresh Debian 12 or 13 with nothing but git.

packages="ca-certificates openssh-client python3 python3-venv mmdebstrap podman crun netavark aardvark-dns"
# netavark calls the one on Debian 12 and the other on Debian 13.
packages="$packages iptables nftables"
cache="$HOME/.cache/hpchub"

export PYTHONPATH="$repository/molecule/shared:$repository/src"
# The checkout may belong to somebody else: nothing is written there. But it is written: without its compiled modules
# Ansible takes twice as long for a task.
export PYTHONPYCACHEPREFIX="$cache/pycache"
unset PYTHONDONTWRITEBYTECODE

fail() {
  echo "$program: $*" >&2
  exit 1
}

say() {
  echo "[$program] $*" >&2
}

# Start again as root if need be: containers that run systemd need it.
become_root() {
  [ "$(id -u)" -eq 0 ] && return
  command -v sudo >/dev/null || fail "this is not root, and there is no sudo; mend: run it as root"
  sudo -n true 2>/dev/null || [ -t 0 ] || fail "this is not root, and sudo asks for a password; mend: run it with sudo"
  say "containers that run systemd need root: going on with sudo"
  kept=HPCHUB_DEBIAN_MIRROR,http_proxy,https_proxy,no_proxy,SSL_CERT_FILE,PIP_INDEX_URL,UV_INDEX_URL
  exec sudo -H --preserve-env="$kept" "$repository/$program" "$@"
}

# Print those of the Debian packages named that are not installed.
missing_packages() {
  command -v dpkg-query >/dev/null || fail "this is not Debian; mend: use Debian 12 or 13, or a virtual machine with it"
  for package in "$@"; do
    dpkg-query --show --showformat='${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || printf ' %s' "$package"
  done
}

# Install those of the Debian packages named that are missing.
need_packages() {
  missing=$(missing_packages "$@")
  [ -n "$missing" ] || return 0
  say "installing$missing"
  mkdir -p "$cache"
  {
    # An earlier run may have been interrupted at a bad moment.
    dpkg --configure -a
    apt-get update -q
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
  } >"$cache/apt.log" 2>&1 ||
    fail "apt-get cannot install$missing ($(grep -m1 '^E:' "$cache/apt.log" || echo "see $cache/apt.log")); mend: check the network and /etc/apt/sources.list, then run the same command again"
}

# Make the Python environment of the hashed lock, and leave its interpreter in $python.
need_environment() {
  lock="$repository/requirements-dev.lock"
  venv="$cache/venv-$(cat "$lock" /usr/bin/python3 | sha256sum | cut -c1-12)"
  python="$venv/bin/python"
  # Ansible, uv and pip each look elsewhere for whom to trust; a site's own authority is in Debian's bundle.
  bundle=/etc/ssl/certs/ca-certificates.crt
  if [ -e "$bundle" ]; then
    export SSL_CERT_FILE="${SSL_CERT_FILE:-$bundle}" PIP_CERT="${PIP_CERT:-$bundle}"
  fi
  export PATH="$venv/bin:$PATH"
  if [ -e "$venv/.complete" ]; then
    return
  fi
  say "making the Python environment in $venv (about half a minute)"
  mkdir -p "$cache"
  rm -rf "$venv"
  {
    /usr/bin/python3 -m venv "$venv" &&
      # uv comes from the same lock, and installs the rest of it.
      awk '/^uv==/ {on = 1} on {print} on && !/\\$/ {exit}' "$lock" >"$venv/uv.lock" &&
      "$python" -m pip install -q --require-hashes -r "$venv/uv.lock" &&
      "$venv/bin/uv" pip install -q --python "$python" --require-hashes -r "$lock"
  } >"$cache/environment.log" 2>&1 ||
    fail "the Python packages cannot be installed ($(tail -n 1 "$cache/environment.log")); mend: check the network or the proxy settings (log: $cache/environment.log), then run the same command again"
  touch "$venv/.complete"
  # For people who want it in their shell.
  ln -sfn "$venv" "$cache/venv"
}
