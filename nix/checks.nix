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
  programs = lib.attrNames (import ./programs.nix);

  # An instance of each program, under the program's name, and one of each whose
  # listener is systemd's.
  nixos = nixosSystem {
    modules = [
      ./module.nix
      {
        nixpkgs.hostPlatform = pkgs.stdenv.hostPlatform.system;
        services.tcp-proxy.instances = lib.listToAttrs (
          lib.concatMap (program: [
            (lib.nameValuePair program {
              inherit program;
              settings.log-level = "warn";
            })
            (lib.nameValuePair "${program}-socket" {
              inherit program;
              socketActivation = true;
              settings = {
                ip-addr = "127.0.0.1:4000";
                vsock-addr = "any:4000";
              };
            })
          ]) programs
        );
      }
    ];
  };
  unit = name: pkgs.writeText name nixos.config.systemd.units.${name}.text;
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
      cp ${unit "tcp-proxy-${program}.service"} $out/tcp-proxy-${program}.service
      cp ${unit "tcp-proxy-${program}-socket.service"} $out/tcp-proxy-${program}-socket.service
      cp ${unit "tcp-proxy-${program}-socket.socket"} $out/tcp-proxy-${program}-socket.socket
      cd $out
      grep '^ExecStart=.*/bin/${program}" "--log-level=warn"$' tcp-proxy-${program}.service
      for service in tcp-proxy-${program}.service tcp-proxy-${program}-socket.service; do
        grep '^DynamicUser=true$' $service
        grep '^MemoryDenyWriteExecute=true$' $service
        grep '^X-StopIfChanged=false$' $service
        if grep '^ProcSubset=' $service; then
          exit 1 # see module.nix
        fi
      done
      grep -E '^ListenStream=(127.0.0.1|vsock:):4000$' tcp-proxy-${program}-socket.socket
    '') programs
  );

  lint =
    pkgs.runCommandCC "tcp-proxy-lint"
      {
        strictDeps = true;
        CLANG = "${pkgs.llvmPackages_19.clang}/bin/clang"; # it has a `cc`, too
        buildInputs = [ pkgs.cmocka ];
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
// lib.mapAttrs' (program: lib.nameValuePair "version-${program}") gnu.uncompressed.tests
