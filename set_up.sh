#!/bin/sh
# Make or update the virtual environment of this repository: set_up.sh VENV PYTHON [TARGET]
#
# Called by the Makefile, for whose TARGET the environment is wanted. One that is newer than what it
# is made from is left as it is. The stamp is the last thing written, so a set-up that was broken off
# is taken up again. Packages that were cut off while being written have no RECORD yet: they are
# dropped and installed again.
venv=${1:?name a folder: make VENV=.venv} python=$2 target=${3:-test}
case "$venv" in -*) venv=./$venv ;; esac  # a folder, no option
# The wheels of torch name NVIDIA's libraries and link to most of them: without those it cannot be
# imported. These it loads on use alone, which there is only with a device.
left_out="triton|nvidia-cusolver"
for device in /dev/nvidia[0-9]* /dev/dxg; do
  [ ! -e "$device" ] || left_out=none
done
if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/.installed" 2>/dev/null)" = "$left_out" ] &&
  [ -z "$(find requirements.lock pyproject.toml set_up.sh -newer "$venv/.installed")" ]; then
  exit
fi
if [ -e "$venv/bin/python" ] && ! [ -e "$venv/pyvenv.cfg" ] && ! [ -d "$venv/conda-meta" ]; then
  echo "$venv holds a Python that is no virtual environment. Name another: make $target VENV=.venv" >&2
  exit 1
fi
hint="Name another: make $target PYTHON=python3.12"
if "$venv/bin/python" -c "" 2>/dev/null; then
  python="$venv/bin/python"
  hint="Remove $venv and run make again."
fi
version=$("$python" -c "import platform; print(platform.python_version())" 2>/dev/null)
case "$version" in
  3.1[1-9]* | 3.[2-9][0-9]*) ;;
  "") echo "Python 3.11 or newer is needed; $python does not run. $hint" >&2; exit 1 ;;
  *) echo "Python 3.11 or newer is needed; $python is $version. $hint" >&2; exit 1 ;;
esac
if [ "$python" = "$venv/bin/python" ]; then
  echo "Bringing $venv up to date"
else
  case $left_out in
    none) echo "Setting up $venv for an NVIDIA device (7 GB, a few minutes, once)" ;;
    *) echo "Setting up $venv without Triton and cuSOLVER, as no NVIDIA device is found (5 GB, a few minutes, once)" ;;
  esac
  # Of a set-up whose Python is gone nothing but the links to it is removed: the folder may hold more.
  [ ! -e "$venv/pyvenv.cfg" ] || rm -f "$venv/bin/python" "$venv"/bin/python3*
  "$python" -m venv --without-pip "$venv" || exit 1
fi
for record in "$venv"/lib/python3*/site-packages/*.dist-info; do
  [ ! -d "$record" ] || [ -e "$record/RECORD" ] || rm -rf "$record"
done
"$venv/bin/python" -m ensurepip --default-pip >/dev/null || {
  echo "pip could not be installed (on Debian and Ubuntu: apt install python3-venv)" >&2
  exit 1
}
install() { "$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check "$@"; }
# Lines of the lock whose package matches, or with != does not.
locked() { awk -v names="^($1)==" "/^[^ ]/ {own = (\$0 ~ names)} own $2 1" requirements.lock; }
wanted="$venv/wanted.txt"
# uv is several times as fast as pip; where it fails pip tries, with the index that it is set up for.
locked uv == >"$wanted"
install -r "$wanted"
locked "$left_out" != >"$wanted"
VIRTUAL_ENV="$venv" "$venv/bin/uv" pip install --quiet --system-certs --no-deps -r "$wanted" ||
  install --no-deps -r "$wanted" || exit 1
install --no-deps --no-build-isolation -e . || exit 1
"$venv/bin/python" -m jupytext_config \
  --settings-file "$venv/etc/jupyter/labconfig/default_setting_overrides.json" \
  set-default-viewer python || exit 1
rm -f "$wanted"
echo "$left_out" >"$venv/.installed"
echo "$venv is ready"
