# SPDX-License-Identifier: Apache-2.0
# The five programs, by way of the Makefile: static in a static package set,
# dynamic in others. Unit tests are part of the build.
{
  lib,
  stdenv,
  cmocka,
}:
let
  inherit (stdenv.cc) targetPrefix;
  inherit (stdenv.hostPlatform) isStatic;
in
stdenv.mkDerivation {
  pname = "tcp-proxy";
  version = lib.fileContents ../VERSION;

  # Only what the build reads, so that no other edit changes the output.
  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../Makefile
      ../VERSION
      ../man
      ../src
      ../tests/fortify.c
      ../tests/unit
    ];
  };

  makeFlags = [
    "CC=${targetPrefix}cc"
    "AR=${targetPrefix}ar"
    "READELF=${targetPrefix}readelf"
    "PREFIX=${placeholder "out"}"
  ]
  ++ lib.optional isStatic "STATIC=1";
  enableParallelBuilding = true;

  doCheck = true;
  checkTarget = "unit";
  checkInputs = [ cmocka ];

  stripAllList = [ "bin" ];

  # A static program stands alone: the build fails if it names a store path.
  ${if isStatic then "allowedReferences" else null} = [ ];

  meta = {
    description = "Five small programs that bridge TCP and AF_VSOCK";
    license = lib.licenses.asl20;
    platforms = lib.platforms.linux;
  };
}
