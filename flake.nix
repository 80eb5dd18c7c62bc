# SPDX-License-Identifier: Apache-2.0
# What others take from here: packages, apps, checks, a shell, an overlay and a
# NixOS module. nix/README.md lists them and says what has been verified.
{
  description = "Five small programs that bridge TCP and AF_VSOCK";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/release-25.11";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      programs = import ./nix/programs.nix;
      forEachSystem = lib.genAttrs [
        "x86_64-linux"
        "aarch64-linux"
      ];
      flavour =
        system: static:
        import ./default.nix {
          inherit nixpkgs;
          systemConfig = { inherit system static; };
        };
      flavours = forEachSystem (system: {
        gnu = flavour system false;
        musl = flavour system true;
      });
    in
    {
      legacyPackages = forEachSystem (
        system: lib.mapAttrs (_: outputs: { networking.tcp-proxy = outputs; }) flavours.${system}
      );

      packages = forEachSystem (
        system: with flavours.${system}; {
          default = musl.compressed;
          tcp-proxy-gnu = gnu.uncompressed;
          tcp-proxy-gnu-compressed = gnu.compressed;
          tcp-proxy-musl = musl.uncompressed;
          tcp-proxy-musl-compressed = musl.compressed;
        }
      );

      apps = forEachSystem (
        system:
        lib.mapAttrs (program: about: {
          type = "app";
          program = "${flavours.${system}.musl.uncompressed}/bin/${program}";
          meta.description = about.description;
        }) programs
      );

      checks = forEachSystem (
        system:
        import ./nix/checks.nix {
          inherit (flavours.${system}) gnu musl;
          inherit (lib) nixosSystem;
          pkgs = nixpkgs.legacyPackages.${system};
          source = self;
        }
      );

      devShells = forEachSystem (system: {
        default = nixpkgs.legacyPackages.${system}.callPackage ./nix/shell.nix { };
      });

      formatter = forEachSystem (system: nixpkgs.legacyPackages.${system}.nixfmt-tree);

      overlays.default = final: prev: {
        tcp-proxy = final.callPackage ./nix/package.nix { };
        tcp-proxy-compressed = final.callPackage ./nix/compressed.nix {
          uncompressed = final.tcp-proxy;
        };
      };

      nixosModules.default = import ./nix/module.nix;
    };
}
