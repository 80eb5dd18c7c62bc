# SPDX-License-Identifier: Apache-2.0
# The five programs, by way of the Makefile: static in a static package set,
# dynamic in others. Unit tests are part of the build.
{
  lib,
  stdenv,
  cmocka,
  testers,
}:
let
  inherit (stdenv.cc) targetPrefix;
  inherit (stdenv.hostPlatform) isStatic;
in
stdenv.mkDerivation (
  finalAttrs:
  {
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
        ../tests/address_ip.h
        ../tests/fortify.c
        ../tests/rules.h
        ../tests/unit
      ];
    };

    outputs = [
      "out"
      "man"
    ];
    strictDeps = true;
    enableParallelBuilding = true;

    makeFlags = [
      "CC=${targetPrefix}cc"
      "AR=${targetPrefix}ar"
      "READELF=${targetPrefix}readelf"
      "PREFIX=${placeholder "out"}"
      "MANDIR=${placeholder "man"}/share/man"
    ]
    ++ lib.optional isStatic "STATIC=1";

    doCheck = true;
    checkTarget = "unit";
    checkInputs = [ cmocka ];

    # By default only what debuggers read is stripped. The names are a sixth of
    # a program, and of no use to anybody else.
    stripAllList = [ "bin" ];

    passthru.tests = lib.mapAttrs (
      program: _:
      testers.testVersion {
        package = finalAttrs.finalPackage;
        command = "${program} --version";
      }
    ) (import ./programs.nix);

    # No mainProgram: none of the five is.
    meta = {
      description = "Five small programs that bridge TCP and AF_VSOCK";
      # That of the original: this one has no public address yet, which is why
      # the changelog is the source's own file.
      homepage = "https://github.com/marlinprotocol/oyster-monorepo";
      changelog = "file://${toString ../CHANGELOG.md}";
      license = lib.licenses.asl20;
      platforms = lib.platforms.linux;
    };
  }
  // lib.optionalAttrs isStatic {
    # It stands alone: the build fails if an output names a store path.
    allowedReferences = [ ];
  }
)
