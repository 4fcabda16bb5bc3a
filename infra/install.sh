#!/bin/sh
# Installs the locked environment into the folder that is given; again only what changed.
# Every file is checked against its hash in requirements.txt, uv itself first.
set -eu

venv=$1
begun=$(date +%s)

say() { printf '  [%3s s] %s\n' "$(($(date +%s) - begun))" "$1"; }
fail() { printf '%s\n  %s\n' "$1" "$2" >&2; exit 1; }
supported() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; }

# The first Python that is supported and really starts: a launcher may be there without its version.
find_python() {
    for name in ${PYTHON:-} python3 python3.12 python3.11 python; do
        if command -v "$name" >/dev/null 2>&1 && supported "$name"; then
            printf '%s' "$name"
            return
        fi
    done
}

if [ -x "$venv/bin/python" ] && ! supported "$venv/bin/python"; then
    fail "$venv holds a Python that is not 3.11 or 3.12." "Remove the folder $venv and call make again."
fi

if [ ! -x "$venv/bin/python" ]; then
    python=$(find_python)
    [ -n "$python" ] || fail "No Python 3.11 or 3.12 was found." \
        "Install one (Debian, Ubuntu: apt install python3 python3-venv), or name it: make PYTHON=/path/to/python3.11"
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -c 'import venv, ensurepip' 2>/dev/null || fail "$python has no module venv or ensurepip." \
        "Install it (Debian, Ubuntu: apt install python$version-venv) and call make again."
    say "making $venv with Python $version"
    "$python" -m venv "$venv" || { rm -rf "$venv"; fail "$venv could not be made." "The lines above say why."; }
fi

if ! "$venv/bin/uv" --version >/dev/null 2>&1; then
    say "installing uv"
    # uv's own lines of the lock: from its name to the last line that ends in a backslash, and one more
    sed -n '/^uv==/,/[^\\]$/p' requirements.txt | sed '/^ *#/d' > "$venv/uv.txt"
    "$venv/bin/python" -m ensurepip >/dev/null 2>&1 || true
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$venv/uv.txt" \
        || fail "uv could not be installed." "The lines above say why; is there a network?"
fi

export VIRTUAL_ENV="$venv"
say "installing the locked requirements (the first time takes minutes)"
"$venv/bin/uv" pip sync --quiet --require-hashes --compile-bytecode requirements.txt \
    || fail "The requirements could not be installed." "The lines above say why; call make again."
say "installing Touchline itself"
"$venv/bin/uv" pip install --quiet --no-deps --no-build-isolation -e . \
    || fail "Touchline itself could not be installed." "The lines above say why."
say "installed"
