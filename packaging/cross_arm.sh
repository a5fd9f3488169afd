#!/usr/bin/env bash
# A wheel for 64-bit ARM Linux without such a machine: cross-built by Debian's compiler for the Python that .venv-dist
# has, then installed beside Debian's Python for ARM and run under an emulator, answering as PyTorch did.
# Argument: the folder of packaging/make_sample.py. Needs Debian's g++-aarch64-linux-gnu, qemu-user, and apt.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
sample="$(cd "$1" && pwd)"
tools="$root/.venv-dist/bin"
work="$root/build/cross-arm"
for tool in aarch64-linux-gnu-g++ qemu-aarch64 apt-get dpkg-deb; do
  command -v "$tool" >/dev/null || { echo "dist-arm: skipped, there is no $tool here"; exit 0; }
done
python="$("$tools/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
digits="${python/./}"
rm -rf "$work"
mkdir -p "$work/wheels" "$work/lists" "$work/debs" "$root/dist"

"$tools/python" -m build --sdist --outdir "$work" "$root"
# From CPython 3.12 on the wheel is abi3, and the first name is not used.
_PYTHON_HOST_PLATFORM=linux-aarch64 \
CMAKE_ARGS="-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
  -DSKBUILD_SOABI=cpython-$digits-aarch64-linux-gnu" \
  "$tools/python" -m pip wheel --quiet --no-deps --wheel-dir "$work" "$work"/*.tar.gz
PATH="$tools:$PATH" "$tools/python" -m auditwheel repair --wheel-dir "$work/dist" "$work"/*.whl
"$tools/python" "$root/packaging/check_wheels.py" "$work/dist"

# Debian's Python for ARM, unpacked into a folder: nothing of this machine's packages changes.
apt=(apt-get -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::Lists="$work/lists"
     -o Dir::Cache="$work" -o Dir::State::status=/dev/null -o APT::Sandbox::User=root -qq)
"${apt[@]}" update
if ! (cd "$work/debs" && "${apt[@]}" download "python$python-minimal" "libpython$python-minimal" \
      "libpython$python-stdlib" libc6 libstdc++6 libgcc-s1 libssl3 libexpat1 zlib1g libffi8 libbz2-1.0 liblzma5 \
      libsqlite3-0 libuuid1); then
  echo "dist-arm: this Debian has no Python $python for ARM: the wheel is built, and was not run"
  cp "$work/dist"/*.whl "$root/dist/"
  exit 0
fi
for deb in "$work/debs"/*.deb; do dpkg-deb --extract "$deb" "$work/arm"; done
arm=(qemu-aarch64 -L "$work/arm")
"${arm[@]}" "$work/arm/usr/bin/python$python" -m venv --without-pip "$work/venv"
"$tools/python" -m pip install --quiet --only-binary :all: --implementation cp --python-version "$python" --abi "cp$digits" \
  --abi abi3 --abi none --platform manylinux_2_36_aarch64 --platform manylinux_2_34_aarch64 \
  --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
  --target "$work/venv/lib/python$python/site-packages" "$work/dist"/*.whl
"${arm[@]}" "$work/venv/bin/python" -I "$root/packaging/check_install.py" "$sample"
cp "$work/dist"/*.whl "$root/dist/"
