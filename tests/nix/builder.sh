# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154,SC2086 # the variables come from Nix
#
# What nixpkgs' standard environment does, as far as our packages need it: what
# is in PATH, and which headers and libraries there are, is what was asked for.
export PATH=$cc/bin:$tools/bin
for input in $nativeBuildInputs; do
	PATH=$input/bin:$PATH
done
for input in $buildInputs ${doCheck:+$checkInputs}; do
	export NIX_CFLAGS_COMPILE="$NIX_CFLAGS_COMPILE -isystem $input/include"
	export NIX_LDFLAGS="$NIX_LDFLAGS -L$input/lib"
done
umask 022
cd "$NIX_BUILD_TOP" || exit

if [ -n "$buildCommand" ]; then
	eval "$buildCommand"
	exit
fi

cp -r "$src" source
chmod -R u+w source
cd source || exit
make -j2 $makeFlags
[ -z "$doCheck" ] || make -j2 -O $makeFlags "$checkTarget"
make $makeFlags install
for folder in $stripAllList; do
	$STRIP "$out/$folder"/*
done
