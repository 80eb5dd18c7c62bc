# SPDX-License-Identifier: Apache-2.0
# Stand-ins for the packages that we use: a build is a shell script that runs
# with this machine's tools. machine.nix says what the machine has:
#   { upx = "/path/of/upx" or null; cmocka-musl = ./folder; }
{
  lib,
  system,
  machine,
}:
let
  # The end keeps bash from becoming the last command itself, which Nix may take
  # for stuck when it closes its output before it ends.
  script =
    name: text:
    derivation {
      inherit name system;
      builder = "/bin/bash";
      PATH = "/usr/bin:/bin";
      args = [
        "-ec"
        "${text}\n:"
      ];
    };

  # For tools that are in /usr/bin anyway, and for those that nobody builds.
  nothing = name: script name "mkdir -p $out/bin";

  # A compiler and its tools under prefixed names; like nixpkgs' wrapper, the
  # compiler takes further flags from the environment.
  compiler =
    targetPrefix: cc:
    script "cc" ''
      mkdir -p $out/bin
      {
        echo '#!/bin/sh'
        echo 'exec ${cc} $NIX_CFLAGS_COMPILE "$@" $NIX_LDFLAGS'
      } >$out/bin/${targetPrefix}cc
      chmod +x $out/bin/${targetPrefix}cc
      for tool in ar readelf; do
        ln -s /usr/bin/$tool $out/bin/${targetPrefix}$tool
      done
    ''
    // {
      inherit targetPrefix;
    };

  makeSet =
    {
      isStatic,
      targetPrefix,
      cc,
      cmocka,
    }:
    let
      platform = { inherit isStatic system; };
      set = {
        inherit cmocka lib pkgsStatic;
        callPackage = lib.callPackageWith set;

        stdenv = {
          cc = compiler targetPrefix cc;
          hostPlatform = platform;
          buildPlatform = platform // {
            canExecute = _: true;
          };
          mkDerivation =
            {
              meta ? { },
              passthru ? { },
              pname ? "",
              version ? "",
              ...
            }@arguments:
            derivation (
              {
                name = "${pname}-${version}";
                inherit system;
                inherit (set.stdenv) cc;
                builder = "/bin/bash";
                args = [
                  "-e"
                  ./builder.sh
                ];
              }
              // removeAttrs arguments [
                "meta"
                "passthru"
              ]
            )
            // {
              inherit meta pname version;
            }
            // passthru;
        };

        runCommand =
          name: environment: buildCommand:
          set.stdenv.mkDerivation ({ inherit name buildCommand; } // environment);
        runCommandCC = set.runCommand;
        writeText =
          name: text:
          set.runCommand name { inherit text; } ''
            printf %s "$text" >$out
          '';
        mkShell = arguments: set.stdenv.mkDerivation ({ name = "shell"; } // arguments);

        upx = script "upx" (
          if machine.upx == null then
            ''
              echo 'this machine has no upx'
              exit 1
            ''
          else
            ''
              mkdir -p $out/bin
              ln -s ${machine.upx} $out/bin/upx
            ''
        );
        bintools = nothing "bintools";
        gitMinimal = nothing "git";
        llvmPackages_19.clang = nothing "clang";
        llvmPackages_19.clang-tools = nothing "clang-tools";
        mandoc = nothing "mandoc";
        nixfmt-tree = nothing "nixfmt-tree";
        qemu = nothing "qemu";
        shellcheck = nothing "shellcheck";
      };
    in
    set;

  pkgsStatic = makeSet {
    isStatic = true;
    targetPrefix = "${builtins.head (builtins.split "-" system)}-unknown-linux-musl-";
    cc = "/usr/bin/musl-gcc";
    cmocka = machine.cmocka-musl;
  };
in
makeSet {
  isStatic = false;
  targetPrefix = "";
  cc = "/usr/bin/gcc";
  cmocka = nothing "cmocka";
}
