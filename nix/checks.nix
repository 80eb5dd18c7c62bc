# SPDX-License-Identifier: Apache-2.0
# For nix flake check. The unit tests are part of the builds.
{
  pkgs,
  gnu,
  musl,
  nixosSystem,
  source,
}:
let
  inherit (pkgs) lib;
  programs = import ./programs.nix;

  # An instance of each program, under the program's name.
  nixos = nixosSystem {
    modules = [
      ./module.nix
      {
        nixpkgs.hostPlatform = pkgs.stdenv.hostPlatform.system;
        services.tcp-proxy.instances = lib.genAttrs programs (program: {
          inherit program;
          settings.log-level = "warn";
        });
      }
    ];
  };
  unit =
    program:
    pkgs.writeText "tcp-proxy-${program}.service"
      nixos.config.systemd.units."tcp-proxy-${program}.service".text;
in
{
  gnu = gnu.uncompressed;
  musl = musl.uncompressed;
  gnu-compressed = gnu.compressed;
  musl-compressed = musl.compressed;

  # The musl flavour needs nothing but a kernel.
  static = pkgs.runCommand "tcp-proxy-static" { nativeBuildInputs = [ pkgs.bintools ]; } ''
    for program in ${toString programs}; do
      readelf -lW ${musl.uncompressed}/bin/$program >headers
      if grep -E 'INTERP|DYNAMIC' headers; then
        echo "$program is not static"
        exit 1
      fi
    done
    if grep -rF ${builtins.storeDir} ${musl.uncompressed}; then
      echo 'musl names the store'
      exit 1
    fi
    touch $out
  '';

  # The units are left in the output, for systemd-analyze.
  module = pkgs.runCommand "tcp-proxy-module" { } (
    ''
      mkdir $out
    ''
    + lib.concatMapStrings (program: ''
      cp ${unit program} $out/tcp-proxy-${program}.service
      grep '^ExecStart=.*/bin/${program}" "--log-level=warn"$' ${unit program}
      grep '^DynamicUser=true$' ${unit program}
      grep '^MemoryDenyWriteExecute=true$' ${unit program}
    '') programs
  );

  lint =
    pkgs.runCommandCC "tcp-proxy-lint"
      {
        nativeBuildInputs = [
          pkgs.gitMinimal
          pkgs.llvmPackages_19.clang-tools
          pkgs.mandoc
          pkgs.shellcheck
        ];
      }
      ''
        cp -r ${source} source
        chmod -R u+w source
        cd source
        git init -q
        git add . # lint asks git which files there are
        sh tools/lint
        touch $out
      '';
}
