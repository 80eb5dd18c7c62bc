# SPDX-License-Identifier: Apache-2.0
# The door for other flakes, which may have this folder anywhere:
#   import ./networking/tcp-proxy { inherit nixpkgs systemConfig; }
# systemConfig.static chooses musl and static, or else glibc and dynamic. What
# else is passed is ignored. Each of the three has bin/ with the five programs.
{ nixpkgs, systemConfig, ... }:
let
  ordinary = nixpkgs.legacyPackages.${systemConfig.system};
  pkgs = if systemConfig.static then ordinary.pkgsStatic else ordinary;
in
rec {
  default = compressed;
  compressed = pkgs.callPackage ./nix/compressed.nix { inherit uncompressed; };
  uncompressed = pkgs.callPackage ./nix/package.nix { };
}
