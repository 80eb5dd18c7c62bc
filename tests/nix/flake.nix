# SPDX-License-Identifier: Apache-2.0
# A stand-in for nixpkgs: just what our flake asks of it, made of this machine's
# own compilers and tools, for machines that can't get nixpkgs. tools/check-nix
# copies it and adds machine.nix, which may name a folder with nixpkgs' own lib.
{
  description = "A stand-in for nixpkgs";

  outputs =
    { self }:
    let
      machine = import ./machine.nix;
      own = import ./lib.nix;
      # nixpkgs' reading of folders needs Nix 2.14.
      basics =
        if !machine ? lib then
          own
        else if builtins ? readFileType then
          import machine.lib
        else
          import machine.lib // { inherit (own) fileset; };
      legacyPackages = basics.genAttrs [ "x86_64-linux" "aarch64-linux" ] (
        system:
        import ./packages.nix {
          inherit lib machine system;
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
