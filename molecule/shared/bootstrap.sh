# Functions that bin/test, bin/demo, bin/bench and bin/hpchub share. Each program sets `repository` and `program`, and
# then sources this file. It installs what Python needs, so that Python can do the rest. It works on a fresh Debian 12
# or 13 that has nothing but git.

# The Debian packages that the lab needs. netavark needs iptables on Debian 12 and nftables on Debian 13.
packages="ca-certificates openssh-client python3 python3-venv mmdebstrap podman crun netavark aardvark-dns"
packages="$packages iptables nftables"
# The Debian packages of the servers and programs that unit tests use.
servers="apache2-bin libapache2-mod-auth-cas libapache2-mod-auth-gssapi libapache2-mod-auth-mellon"
servers="$servers libapache2-mod-auth-openidc libapache2-mod-authnz-pam libpam-wrapper slapd ldap-utils"
servers="$servers libapache2-mod-shib shibboleth-sp-utils xmlsec1"
servers="$servers krb5-kdc krb5-admin-server krb5-user curl libfaketime age"
servers="$servers tigervnc-standalone-server dbus-daemon r-base-core"
system_python=/usr/bin/python3
cache="$HOME/.cache/hpchub"

export PYTHONPATH="$repository/molecule/shared:$repository/src"
# Python writes its bytecode to the cache, because the checkout may belong to another user. The bytecode is worth
# having: without it, each Ansible task takes twice as long.
export PYTHONPYCACHEPREFIX="$cache/pycache"
unset PYTHONDONTWRITEBYTECODE

fail() {
  echo "$program: $*" >&2
  exit 1
}

log() {
  echo "[$program] $*" >&2
}

# Run the program again as root, unless it runs as root already. Containers that run systemd need root.
become_root() {
  [ "$(id -u)" -eq 0 ] && return
  command -v sudo >/dev/null ||
    fail "the lab's containers need root, and sudo is not installed. To fix this, run the same command as root"
  sudo -n true 2>/dev/null || [ -t 0 ] ||
    fail "the lab's containers need root, and sudo asks for a password. To fix this, run the same command with sudo"
  log "the lab's containers need root; continuing with sudo"
  kept=HPCHUB_DEBIAN_MIRROR,http_proxy,https_proxy,no_proxy,SSL_CERT_FILE,PIP_INDEX_URL,UV_INDEX_URL
  exec sudo -H --preserve-env="$kept" "$repository/$program" "$@"
}

# Print the given Debian packages that are not installed.
missing_packages() {
  command -v dpkg-query >/dev/null ||
    fail "this machine does not run Debian. To fix this, use Debian 12 or 13, for example in a virtual machine"
  for package in "$@"; do
    dpkg-query --show --showformat='${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || printf ' %s' "$package"
  done
}

# Install the given Debian packages that are not installed. This function needs root.
need_packages() {
  missing=$(missing_packages "$@")
  [ -n "$missing" ] || return 0
  log "installing$missing"
  mkdir -p "$cache"
  {
    # An interrupted run can leave a package half configured.
    dpkg --configure -a
    apt-get update -q
    # shellcheck disable=SC2086 # $missing is a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
  } >"$cache/apt.log" 2>&1 ||
    fail "apt-get cannot install$missing ($(grep -m1 '^E:' "$cache/apt.log" || echo "see $cache/apt.log")). To fix this, check the network and /etc/apt/sources.list, and run the same command again"
}

# Install the programs of a PostgreSQL server. The tests start servers of their own, so Debian's server does not run.
need_postgresql() {
  for found in /usr/lib/postgresql/*/bin/initdb; do
    [ ! -x "$found" ] || return 0
  done
  need_packages postgresql
  [ ! -d /run/systemd/system ] || systemctl --quiet disable --now postgresql
}

# Install what unit tests use: Apache's modules, an LDAP server, a KDC, a PAM module for tests, age for backups,
# TigerVNC for desktops, and R for RStudio.
# The tests start servers of their own, so Debian's do not run.
need_servers() {
  # shellcheck disable=SC2086 # $servers is a list of words
  [ -n "$(missing_packages $servers)" ] || return 0
  # shellcheck disable=SC2086 # $servers is a list of words
  need_packages $servers
  [ ! -d /run/systemd/system ] || systemctl --quiet disable --now slapd krb5-kdc krb5-admin-server
}

# Ensure that the system's Python can create a virtual environment. Only root installs packages for this.
need_python() {
  "$system_python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && return
  [ "$(id -u)" -ne 0 ] || need_packages ca-certificates python3 python3-venv
  "$system_python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "$system_python is missing, is older than Python 3.11, or lacks the module venv. To fix this on Debian 12 or 13, run: sudo apt-get install python3 python3-venv"
}

# Create the Python environment of the hashed lock file, unless it exists. Set `python` to its interpreter.
need_environment() {
  [ -x "$system_python" ] || need_python
  lock="$repository/requirements-dev.lock"
  venv="$cache/venv-$(cat "$lock" "$system_python" | sha256sum | cut -c1-12)"
  python="$venv/bin/python"
  # Ansible, uv and pip have their own lists of certificate authorities. Debian's list also has the site's authority.
  bundle=/etc/ssl/certs/ca-certificates.crt
  if [ -e "$bundle" ]; then
    export SSL_CERT_FILE="${SSL_CERT_FILE:-$bundle}" PIP_CERT="${PIP_CERT:-$bundle}"
  fi
  export PATH="$venv/bin:$PATH"
  [ ! -e "$venv/.complete" ] || return 0
  need_python
  mkdir -p "$cache"
  # Two programs that start at the same time must not create the environment twice.
  (
    flock 9
    [ -e "$venv/.complete" ] || create_environment
  ) 9>"$cache/environment.lock"
}

create_environment() {
  log "creating the Python environment in $venv (about half a minute)"
  rm -rf "$venv"
  {
    "$system_python" -m venv "$venv" &&
      # uv comes from the same lock file, and installs the other packages.
      awk '/^uv==/ {on = 1} on {print} on && !/\\$/ {exit}' "$lock" >"$venv/uv.lock" &&
      "$python" -m pip install -q --require-hashes -r "$venv/uv.lock" &&
      "$venv/bin/uv" pip install -q --python "$python" --require-hashes -r "$lock"
  } >"$cache/environment.log" 2>&1 ||
    fail "the Python packages cannot be installed ($(tail -n 1 "$cache/environment.log")). To fix this, check the network and the proxy settings, and run the same command again. The log is $cache/environment.log"
  touch "$venv/.complete"
  # `. ~/.cache/hpchub/venv/bin/activate` gives you the newest environment in your shell.
  ln -sfn "$venv" "$cache/venv"
}
