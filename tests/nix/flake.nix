# SPDX-License-Identifier: Apache-2.0
# A stand-in for nixpkgs: just what our flake asks of it, made of this machine's
# own compilers and tools, for machines that can't get nixpkgs. It has nothing
# to do with how nixpkgs builds. tools/check-nix copies it and adds machine.nix.
{
  description = "A stand-in for nixpkgs";

  outputs =
    { self }:
    let
      basics = import ./lib.nix;
      legacyPackages = basics.genAttrs [ "x86_64-linux" "aarch64-linux" ] (
        system:
        import ./packages.nix {
          inherit lib system;
          machine = import ./machine.nix;
        }
      );
      lib = basics // {
        nixosSystem = import ./nixos.nix { inherit lib legacyPackages; };
      };
    in
    {
      inherit lib legacyPackages;
    };
}
