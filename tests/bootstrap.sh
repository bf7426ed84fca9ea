# Sourced by ./demo and ./test: makes the virtual environments that they run in. Nothing is installed elsewhere.

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

# environment FOLDER REQUIREMENTS...: a virtual environment that holds what the files ask for; made anew only
# when they change. The files say -r requirements.txt, so that counts too.
environment() {
    folder=$1
    shift
    python=$(find_python) || stop "Python 3.11 or later is needed (Debian, Ubuntu: apt install python3 python3-venv)"
    wanted=$(cat "$@" "$here/requirements.txt" | cksum)
    [ "$(cat "$folder/.wanted" 2>/dev/null)" = "$wanted" ] && return
    echo "installing into ${folder#"$here"/} ..." >&2
    rm -rf "$folder"
    "$python" -m venv "$folder" >"$here/.venv.log" 2>&1 ||
        stop "no virtual environment: install Python's venv module (Debian, Ubuntu: apt install python3-venv)"
    for file in "$@"; do
        "$folder/bin/python" -m pip install --quiet --disable-pip-version-check -r "$file" >"$here/.venv.log" 2>&1 ||
            stop "pip could not install $file: $(grep -v WARNING "$here/.venv.log" | tail -n 1)"
    done
    rm -f "$here/.venv.log"
    echo "$wanted" >"$folder/.wanted"
}

need() {
    command -v "$1" >/dev/null || stop "$1 is needed (Debian, Ubuntu: apt install $2)"
}

need ssh openssh-client
need scp openssh-client
need setpriv util-linux
environment "$here/.venv" "$here/requirements-dev.txt"
PYTHONPATH=$here
export PYTHONPATH
