# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154,SC2086 # the variables come from Nix
#
# What nixpkgs' standard environment does, as far as our packages need it.
export PATH=$cc/bin:/usr/bin:/bin
for input in $nativeBuildInputs; do
	PATH=$input/bin:$PATH
done
for input in $checkInputs; do
	export NIX_CFLAGS_COMPILE="$NIX_CFLAGS_COMPILE -I$input/include"
	export NIX_LDFLAGS="$NIX_LDFLAGS -L$input/lib"
done
umask 022
cd "$NIX_BUILD_TOP"

if [ -n "$buildCommand" ]; then
	eval "$buildCommand"
	exit
fi

cp -r "$src" source
chmod -R u+w source
cd source
make -j2 $makeFlags
[ -z "$doCheck" ] || make -j2 -O $makeFlags "$checkTarget"
make $makeFlags install
for folder in $stripAllList; do
	strip "$out/$folder"/*
done
