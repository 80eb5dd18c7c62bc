# SPDX-License-Identifier: Apache-2.0
# For work on the programs: make, make unit, tools/lint.
#   make STATIC=1 CC=$MUSL_CC        static
#   make CC=$CLANG                   with clang
{
  mkShell,
  cmocka,
  gitMinimal,
  llvmPackages_19,
  mandoc,
  pkgsStatic,
  qemu,
  shellcheck,
}:
mkShell {
  packages = [
    cmocka
    gitMinimal
    llvmPackages_19.clang-tools
    mandoc
    qemu
    shellcheck
  ];
  # Not in PATH: each brings a `cc` of its own.
  CLANG = "${llvmPackages_19.clang}/bin/clang";
  MUSL_CC = "${pkgsStatic.stdenv.cc}/bin/${pkgsStatic.stdenv.cc.targetPrefix}cc";
}
