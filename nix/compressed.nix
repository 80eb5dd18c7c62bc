# SPDX-License-Identifier: Apache-2.0
# The same programs, packed by UPX and tried out as far as the build can.
{
  lib,
  stdenv,
  runCommand,
  upx,
  uncompressed,
}:
let
  inherit (stdenv.hostPlatform) isStatic;
  canRun = stdenv.buildPlatform.canExecute stdenv.hostPlatform;
in
runCommand "tcp-proxy-compressed-${uncompressed.version}"
  (
    {
      inherit (uncompressed) meta version;
      outputs = [
        "out"
        "man"
      ];
      strictDeps = true;
      nativeBuildInputs = [ upx ];
      passthru.compressed = true; # see nix/module.nix
    }
    // lib.optionalAttrs isStatic { allowedReferences = [ ]; }
  )
  (
    ''
      cp -r ${uncompressed.man} $man
      cp -r ${uncompressed} $out
      chmod -R u+w $out
      upx -q $out/bin/*
      upx -q -t $out/bin/*
    ''
    + lib.optionalString canRun ''
      for program in $out/bin/*; do
        $program --version | grep -F ${uncompressed.version}
      done
    ''
    # Packed, the paths of the shared libraries are hidden from Nix, which would
    # not know that they are needed.
    + lib.optionalString (!isStatic) ''
      mkdir -p $out/nix-support
      echo ${uncompressed} >$out/nix-support/packed-from
    ''
  )
