# Sourced by ./demo, ./test and others, with the checkout in $here: makes the virtual environments that they run in.
# Those that set elsewhere=yes before also run from a checkout that their user may not write to.

stop() {
    echo "$1" >&2
    exit 2
}

find_python() {
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    return 1
}

old_python() {
    python3 -c 'import sys; print("python3 is %d.%d.%d" % sys.version_info[:3])' 2>/dev/null || echo "there is no python3"
}

is_made() {
    [ -x "$venv/bin/python" ] && [ "$(cat "$venv/.wanted" 2>/dev/null)" = "$wanted" ]
}

# environment FOLDER REQUIREMENTS...: a virtual environment that holds what the files ask for; made anew only
# when they change. The files say -r requirements.txt, so that counts too. $venv names it: FOLDER, or the folder of
# that name in $state where FOLDER is not up to date and this user may not change it.
environment() {
    venv=$1
    shift
    wanted=$(cat "$@" "$here/requirements.txt" | cksum)
    is_made && return
    if [ "$state" != "$here" ]; then
        venv=$state/${venv##*/}
        is_made && return
    fi
    exec 9<"$state"
    flock 9 || : # another run may be installing just now; some file systems know no locks
    is_made || install_into "$@"
    exec 9<&-
}

install_into() {
    echo "installing into ${venv#"$here"/} ..." >&2
    rm -rf "$venv" || stop "$venv is out of date and cannot be removed: remove it, as root if need be"
    "$python" -m venv "$venv" >"$venv.log" 2>&1 ||
        stop "no virtual environment: install Python's venv module (Debian, Ubuntu: apt install python3-venv); $venv.log"
    for file in "$@"; do
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$file" >"$venv.log" 2>&1 ||
            stop "pip could not install $file: $(grep -v WARNING "$venv.log" | tail -n 1)"
    done
    rm -f "$venv.log"
    echo "$wanted" >"$venv/.wanted" || stop "$venv cannot be written"
}

need() {
    command -v "$1" >/dev/null || stop "$1 is needed (Debian, Ubuntu: apt install $2)"
}

need ssh openssh-client
need scp openssh-client
need setpriv util-linux
need flock util-linux
id -un >/dev/null 2>&1 || stop "user $(id -u) has no name, which ssh asks for: run this as a user of /etc/passwd"
python=$(find_python) || stop "Python 3.11 or later is required; $(old_python) (Debian, Ubuntu: apt install python3 python3-venv)"

if [ "$(id -u)" = 0 ]; then # with sudo it may be another user's, and libraries would leave files of root there
    HOME=$("$python" -I -B "$here/tests/places.py" home) || exit 2
fi

# Where this checkout's virtual environments and caches go: into it, or to the user's cache folder.
state=$("$python" -I -B "$here/tests/places.py" state) || exit 2
if [ "$state" != "$here" ]; then
    [ "${elsewhere:-}" = yes ] || stop "$here cannot be written by $(id -un): use a checkout of your own"
    mkdir -p "$state" || stop "$state cannot be made: name another cache folder in AUDIO_PIPELINE_CACHE"
    export PYTHONPYCACHEPREFIX="${PYTHONPYCACHEPREFIX-$state/pycache}"
    export RUFF_CACHE_DIR="$state/ruff" MYPY_CACHE_DIR="$state/mypy" HYPOTHESIS_STORAGE_DIRECTORY="$state/hypothesis"
    export PYTEST_ADDOPTS="-o 'cache_dir=$state/pytest' ${PYTEST_ADDOPTS:-}"
fi
environment "$here/.venv" "$here/requirements-dev.txt"
export PYTHONPATH="$here"
not_by_proxy=${no_proxy:-${NO_PROXY:-}}
not_by_proxy=127.0.0.1,localhost${not_by_proxy:+,$not_by_proxy} # where the servers are
export no_proxy="$not_by_proxy" NO_PROXY="$not_by_proxy"
