#!/usr/bin/env bash
# Fetches the photos into data/PetImages/{Cat,Dog}/N.jpg; see --help.
# Runs on Linux and on the bash 3.2 of macOS; catsdogs/data/archive.py does all unpacking and checking.

set -u

usage() {
    cat <<'END'
Usage: ./download_data.sh [microsoft | kaggle | zip FILE | synthetic]

Puts the photos into data/PetImages/Cat and data/PetImages/Dog.
  microsoft   25,000 photos, 786 MB, from Microsoft; no account needed (default)
  kaggle      the same photos, and 12,500 unlabelled ones into data/test; needs a Kaggle account
  zip FILE    from an archive you have: Microsoft's, or Kaggle's with or without its outer archive
  synthetic       a few hundred synthetic cats and dogs, without any download

Run it again after any interruption: a download goes on where it stopped, and photos that are
there are left alone (synthetic ones give way to real ones).

Environment:
  CATSDOGS_DATA         the folder to use instead of data/
  CATSDOGS_URL          another address of Microsoft's archive
  CATSDOGS_TRIES        how often a download is tried (10)
  CATSDOGS_PAUSE        seconds between two tries (5)
  CATSDOGS_COMPETITION  the one Kaggle competition to use (dogs-vs-cats,
                        then dogs-vs-cats-redux-kernels-edition)
  CATSDOGS_KAGGLE       the kaggle command (.venv/bin/kaggle, else kaggle)
  CATSDOGS_SYNTHETIC        how many cats and how many dogs to draw (240)

Exit status: 0 the photos are there, 1 they are not, 2 wrong usage,
3 no source could be reached (no network, or nothing at the address any more), 130 interrupted.
END
}

say() { printf '%s\n' "$@" >&2; }
fail() { say "$@"; exit 1; }
unreachable() { say "$@"; exit 3; }

project=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 1
home=https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F
home=$home/kagglecatsanddogs_5340.zip
home_sha256=b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9
redux=dogs-vs-cats-redux-kernels-edition
new_token='open https://www.kaggle.com/settings/api and click "Generate New Token"'

# --- commands that can be interrupted ----------------------------------------------------------

child='' meter=''

# attend COMMAND...: runs it, and stops it as soon as this script is told to stop; bash would
# otherwise wait for its end first. The command's status is returned.
attend() {
    "$@" &
    child=$!
    wait "$child"
    local status=$?
    child=''
    return "$status"
}

# listen COMMAND...: attends to it and puts what it prints to stdout into $reply. It passes through
# a file without a name, so that nothing of it can stay on the disk.
listen() {
    local scratch status
    scratch=$(mktemp "${TMPDIR:-/tmp}/catsdogs.XXXXXX") || exit 1
    # shellcheck disable=SC2094  # written by the command and read after it, each from the start
    exec 4>"$scratch" 5<"$scratch"
    rm -f "$scratch"
    attend "$@" >&4
    status=$?
    reply=$(cat <&5)
    exec 4>&- 5<&-
    return "$status"
}

# shellcheck disable=SC2317,SC2329  # called by the traps below
stop() {
    trap '' INT TERM HUP
    [ -z "$child" ] || { kill "$child"; wait "$child"; } 2>/dev/null
    say "" "Stopped. Nothing half-made was left; run this again to go on where it stopped."
    exit 130
}
trap stop INT TERM HUP
trap '[ -z "$meter" ] || kill "$meter" 2>/dev/null' EXIT

archive() { attend "$python" -m catsdogs.data.archive "$@"; }

size() { if [ -f "$1" ]; then wc -c <"$1" | tr -d ' '; else echo 0; fi; }

# --- microsoft ---------------------------------------------------------------------------------

# fetch URL FILE: downloads with as many tries as needed, going on where the last one ended.
fetch() {
    local url=$1 part=$2.part shown try=1 before status came=0
    local tries=${CATSDOGS_TRIES:-10} pause=${CATSDOGS_PAUSE:-5}
    local others="./download_data.sh kaggle, zip FILE or synthetic (see --help)"
    shown=$(printf '%s' "${url%%\?*}" | sed 's|//[^/@]*@|//|')  # an address may carry a password
    [ ! -f "$2" ] || return 0
    command -v curl >/dev/null || fail "curl is needed to download and was not found: install it," \
        "or download $shown yourself and use: ./download_data.sh zip FILE"
    say "Downloading $shown"
    while :; do
        before=$(size "$part")
        [ "$before" = 0 ] || say "Going on after $((before / 1000000)) MB."
        listen curl --fail --location "$curl_output" --continue-at - --connect-timeout 8 \
            --speed-limit 1000 --speed-time 30 --output "$part" --write-out '%{http_code}' --url "$url"
        status=$?
        [ "$(size "$part")" = "$before" ] || came=1
        case $status/$reply in
            0/* | 22/416)
                # 416: there is nothing after what we have, so it is all of it, or of something else.
                archive verify "$part" && break
                status=$?
                [ "$status" = 1 ] || exit "$status"
                rm -f "$part"
                [ "$before" != 0 ] || fail "That was the answer of $shown; it was removed." \
                    "Run this again later, or set CATSDOGS_URL to another address, or use $others."
                say "What had come before did not fit: starting over." ;;
            22/40[134] | 22/410)
                unreachable "The server answered $reply: there is no archive at $shown any more." \
                    "Set CATSDOGS_URL to another address of it, or use $others." ;;
            23/*)
                fail "The disk of $data is full: $(size "$part") bytes of the archive have come." \
                    "Make room, then run this again to go on from there." ;;
            33/*)
                say "The server cannot go on in the middle: starting over."
                rm -f "$part" ;;
            1/* | 3/*)
                fail "curl cannot make sense of the address $shown." "Correct CATSDOGS_URL, or unset it." ;;
            5/* | 6/* | 7/* | 28/000 | 35/* | 56/000 | 60/*)
                # Nothing answers at all: more tries are worth it only if it worked a moment ago.
                [ "$came" = 1 ] || unreachable "Cannot reach $shown (curl: $status): is there a network?" \
                    "Run this again later, or use $others." ;;
        esac
        if [ "$try" -ge "$tries" ]; then
            [ "$came" = 1 ] ||
                unreachable "No answer from $shown in $tries tries (HTTP $reply, curl: $status)." \
                "Run this again later, set CATSDOGS_URL to another address of it, or use $others."
            fail "The connection was lost $tries times; the $(size "$part") bytes that came are kept." \
                "Run this again to go on from there."
        fi
        try=$((try + 1))
        attend sleep "$pause"
    done
    mv "$part" "$2"
}

microsoft() {
    local url=${CATSDOGS_URL:-$home} sha256='' name
    name=${url%%[?#]*}
    name=${name##*/}
    # Parts of two addresses must not be mixed, so the address is part of the file's name.
    if [ "$url" = "$home" ]; then
        sha256=$home_sha256
    else
        name=$(printf '%s' "$url" | cksum | cut -d ' ' -f 1)-$name
    fi
    fetch "$url" "$downloads/$name" || exit
    archive unpack microsoft "$downloads/$name" --ours --sha256 "$sha256" || exit
}

# --- kaggle ------------------------------------------------------------------------------------

# Where kaggle 2.x finds credentials, in its own order; only the place is named, never what is there.
credentials() {
    local place config=${KAGGLE_CONFIG_DIR:-$HOME/.kaggle}
    [ -n "${KAGGLE_CONFIG_DIR:-}" ] || [ -d "$config" ] || config=${XDG_CONFIG_HOME:-$HOME/.config}/kaggle
    if [ -n "${KAGGLE_API_TOKEN:+set}" ]; then echo KAGGLE_API_TOKEN; return; fi
    for place in "$HOME/.kaggle/access_token" "$HOME/.kaggle/access_token.txt"; do
        if [ -s "$place" ]; then echo "$place"; return; fi
    done
    if [ -n "${KAGGLE_USERNAME:+set}" ] && [ -n "${KAGGLE_KEY:+set}" ]; then
        echo "KAGGLE_USERNAME and KAGGLE_KEY"; return
    fi
    for place in "$config/kaggle.json" "$HOME/.kaggle/credentials.json"; do
        if [ -s "$place" ]; then echo "$place"; return; fi
    done
}

# Shows how much has come while kaggle, which is kept quiet, downloads into FOLDER.
watch() {
    while sleep 2 && kill -0 $$ 2>/dev/null; do
        printf '\r%s MB so far ' "$(($(du -sk "$1" | cut -f 1) / 1000))" >&2
    done
}

# kaggle_download COMPETITION FOLDER [FILE]: returns 0, or 1 when the rules are not accepted;
# every other refusal ends the script.
kaggle_download() {
    local competition=$1 folder=$2 status where
    { set +x; } 2>/dev/null  # what kaggle says is never shown: with VERBOSE it holds the token
    say "Asking Kaggle for $competition${3:+/$3}"
    mkdir -p "$folder" || exit 1
    if [ -t 2 ]; then watch "$folder" 9>&- & meter=$!; fi
    # shellcheck disable=SC2016  # the inner shell expands "$@"
    listen sh -c 'exec "$@" 2>&1' sh env VERBOSE=false VERBOSE_OUTPUT=false \
        "$kaggle" competitions download "$competition" ${3:+-f "$3"} -p "$folder" -q
    status=$?
    if [ -n "$meter" ]; then kill "$meter"; wait "$meter" 2>/dev/null; meter=''; fi
    [ "$status" != 0 ] || return 0
    rmdir "$folder" "$downloads" 2>/dev/null
    where=$(credentials)
    case $reply in
        *"Authentication required"* | *"Invalid credentials"* | *"401 Client Error"* | *Unauth*)
            [ -n "$where" ] || fail "No Kaggle credentials were found: $new_token." \
                "Save the token as ~/.kaggle/access_token, or put it in KAGGLE_API_TOKEN, then run again."
            fail "Kaggle refused the credentials in $where (401): they are wrong, or no longer valid." \
                "To get new ones, $new_token; put the token in their place, then run this again." ;;
        *rules* | *"403 Client Error"* | *Forbidden* | *Permission*denied*)
            return 1 ;;
        *ConnectionError* | *"Max retries exceeded"* | *"Failed to resolve"* | *"timed out"*)
            unreachable "Cannot reach Kaggle: is there a network?" \
                "Run this again later, or use ./download_data.sh microsoft, zip FILE or synthetic." ;;
        *"404 Client Error"* | *"Not Found"*)
            fail "Kaggle has nothing called $competition${3:+/$3} (404)." \
                "Unset CATSDOGS_COMPETITION, or use ./download_data.sh microsoft." ;;
        *"No space left"*)
            fail "The disk of $data is full." "Make room, then run this again to go on from there." ;;
        *)
            fail "The kaggle command failed (exit status $status)." \
                "To see why, run: kaggle competitions download $competition -p \"$folder\"" ;;
    esac
}

# from_kaggle [--test-only]
from_kaggle() {
    local competition file folder rules
    kaggle=${CATSDOGS_KAGGLE:-$project/.venv/bin/kaggle}
    [ -n "${CATSDOGS_KAGGLE:-}" ] || [ -x "$kaggle" ] || kaggle=kaggle
    command -v "$kaggle" >/dev/null || fail "The kaggle command was not found." \
        "Run \`make install\` first, or use ./download_data.sh microsoft."
    for competition in ${CATSDOGS_COMPETITION:-dogs-vs-cats $redux}; do
        folder=$downloads/$competition${1:-} file=''
        if [ -n "${1:-}" ]; then file=test.zip; [ "$competition" != dogs-vs-cats ] || file=test1.zip; fi
        kaggle_download "$competition" "$folder" $file || continue
        # The archive's name is Kaggle's to choose; .kaggle-partial marks one that is incomplete.
        for file in "$folder"/*; do
            case $file in *.kaggle-partial) continue ;; esac
            [ -f "$file" ] && [ ! -f "$file.kaggle-partial" ] || continue
            archive unpack kaggle "$file" --ours ${1:+"$1"} || exit
            rm -rf "$folder"
            return
        done
        fail "The kaggle command ended well but left no archive in $folder." "Run this again."
    done
    competition=${CATSDOGS_COMPETITION:-$redux}
    rules=https://www.kaggle.com/competitions/$competition/rules
    fail "Kaggle refused the download (403): your account has not accepted the rules of $competition." \
        "Open $rules, click \"Late Submission\" (or \"Join Competition\"), accept, and run this again."
}

# -----------------------------------------------------------------------------------------------

source=${1:-microsoft} file=${2:-}
[ "$source" != drawn ] || source=synthetic  # what earlier versions called it
case $source/$# in
    -h/* | --help/*) usage; exit 0 ;;
    microsoft/[01] | kaggle/1 | synthetic/1 | zip/2) ;;
    *) usage >&2; exit 2 ;;
esac

# From here on we are in the project, so that Python finds catsdogs and nothing else by that name.
case $file in '' | /*) ;; *) file=$PWD/$file ;; esac
case ${CATSDOGS_DATA:-} in '' | /* | '~'*) ;; *) export CATSDOGS_DATA="$PWD/$CATSDOGS_DATA" ;; esac
cd "$project" || exit 1
export PYTHONPATH="$project${PYTHONPATH:+:$PYTHONPATH}"
python=.venv/bin/python
[ -x "$python" ] || python=python3
if [ "$source" = zip ]; then
    [ -f "$file" ] ||
        fail "There is no file $file." "Give the path of an archive: ./download_data.sh zip FILE"
    [ -r "$file" ] || fail "The file $file may not be read." "Change its permissions, then run this again."
fi

data=$("$python" -c 'import sys
if sys.version_info < (3, 9): sys.exit(1)
from catsdogs import paths
print(paths.data())' 2>/dev/null) ||
    fail "Python 3.9 or newer is needed and was not found as $python." "Install it, then run this again."
downloads=$data/downloads
mkdir -p "$downloads" 2>/dev/null ||
    fail "The folder $downloads cannot be made." "Set CATSDOGS_DATA to a folder that you may write to."
# Held open by us and by all we start, the file is a lock that ends with the last of us, however we end.
{ exec 9>>"$data/.lock"; } 2>/dev/null ||
    fail "The folder $data cannot be written to." "Mend that, or set CATSDOGS_DATA to another folder."
if [ -t 2 ]; then curl_output=--progress-bar; else curl_output=--silent; fi

archive check "$source"
answer=$?
case $answer/$source in
    10/microsoft) microsoft ;;
    10/kaggle) from_kaggle ;;
    11/kaggle) from_kaggle --test-only ;;
    10/zip) archive unpack zip "$file" || exit ;;
    10/synthetic) archive draw || exit ;;
    *) rmdir "$downloads" 2>/dev/null; exit "$answer" ;;
esac
rmdir "$downloads" 2>/dev/null
exit 0
