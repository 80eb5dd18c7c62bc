# SPDX-License-Identifier: Apache-2.0
# Stand-ins for the packages that we use: a build is a shell script that runs
# with this machine's tools. machine.nix says what the machine has:
#   { upx = "/path/of/upx" or null; cmocka = ./folder; cmocka-musl = ./folder; }
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
      PATH = "/usr/bin:/bin:/usr/sbin:/sbin";
      args = [
        "-euc"
        "${text}\n:"
      ];
    };

  # Links to this machine's commands of these names.
  commands =
    name: list:
    script name ''
      mkdir -p $out/bin
      for command in ${toString list}; do
        ln -s "$(command -v "$command")" $out/bin
      done
    '';

  # For what nobody builds.
  nothing = name: script name "mkdir -p $out/bin";

  # The compiler's flags for the headers of these Debian packages, and no others.
  only =
    flag: packages:
    let
      headers = script "headers" ''
        mkdir -p $out
        find $(dpkg -L ${packages} | grep ^/usr/include/) -maxdepth 0 ! -type d \
          -exec cp -s --parents -t $out {} +
      '';
    in
    "${flag} ${headers}/usr/include ${flag} ${headers}/usr/include/$(gcc -print-multiarch)";
  glibc = only "-isystem" "libc6-dev linux-libc-dev";

  # What every build has.
  tools = commands "tools" [
    "awk"
    "basename"
    "bash"
    "cat"
    "chmod"
    "cmp"
    "cp"
    "cut"
    "date"
    "diff"
    "dirname"
    "env"
    "expr"
    "false"
    "find"
    "grep"
    "gzip"
    "head"
    "id"
    "install"
    "ln"
    "ls"
    "make"
    "mkdir"
    "mktemp"
    "mv"
    "nproc"
    "od"
    "printf"
    "readlink"
    "rm"
    "rmdir"
    "sed"
    "seq"
    "sh"
    "sleep"
    "sort"
    "stat"
    "tail"
    "tar"
    "tee"
    "test"
    "timeout"
    "touch"
    "tr"
    "true"
    "uname"
    "uniq"
    "wc"
    "xargs"
    "xz"
  ];

  # A compiler, by a prefixed name, and its tools. Like nixpkgs' wrapper, it puts
  # its flags before and behind those of the build, takes further ones from the
  # environment, and knows only the headers of libc and the kernel.
  compiler =
    targetPrefix: name: command:
    script name ''
      mkdir -p $out/bin
      cat >$out/bin/${targetPrefix}${name} <<END
      #!/bin/bash
      case " \$* " in
      *' -c '* | *' -E '* | *' -fsyntax-only '*)
        NIX_LDFLAGS=
        ;;
      esac
      exec ${command} -O2 -U_FORTIFY_SOURCE -fstack-protector-strong \
        --param ssp-buffer-size=4 -fPIC -fno-strict-overflow \
        -fstack-clash-protection -Wformat -Wformat-security \
        -Werror=format-security "\$@" -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3 \
        \$NIX_CFLAGS_COMPILE \$NIX_LDFLAGS
      END
      chmod +x $out/bin/${targetPrefix}${name}
      for tool in ar nm objdump readelf strip; do
        ln -s $(command -v $tool) $out/bin/${targetPrefix}$tool
      done
      ln -s $(command -v as) $(command -v ld) $out/bin # for the compiler
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
          cc = compiler targetPrefix "cc" cc;
          hostPlatform = platform;
          buildPlatform = platform // {
            canExecute = _: true;
          };
          # Of a set, or of a function from what comes of it to a set.
          mkDerivation =
            given:
            let
              finalAttrs = arguments // {
                finalPackage = result;
              };
              arguments = if builtins.isFunction given then given finalAttrs else given;
              outputs = arguments.outputs or [ "out" ];
              result =
                derivation (
                  {
                    name = "${arguments.pname}-${arguments.version}";
                    inherit system tools;
                    inherit (set.stdenv) cc;
                    STRIP = "${targetPrefix}strip";
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
                  version = arguments.version or "";
                  meta = {
                    outputsToInstall = outputs;
                  }
                  // arguments.meta or { };
                }
                // arguments.passthru or { };
            in
            result;
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

        # nixpkgs' one asks for more than the version.
        testers.testVersion =
          { package, command }:
          set.runCommand "version" { nativeBuildInputs = [ package ]; } ''
            ${command} | grep -Fw ${package.version} >$out
          '';

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
        bintools = commands "bintools" [ "readelf" ];
        gitMinimal = commands "git" [ "git" ];
        llvmPackages_19.clang = compiler "" "clang" (toString [
          "/usr/bin/clang -nostdinc -isystem $(clang -print-resource-dir)/include"
          glibc
        ]);
        llvmPackages_19.clang-tools = commands "clang-tools" [
          "clang-format"
          "clang-tidy"
        ];
        mandoc = commands "mandoc" [ "mandoc" ];
        nixfmt-tree = nothing "nixfmt-tree";
        qemu = nothing "qemu";
        shellcheck = commands "shellcheck" [ "shellcheck" ];
      };
    in
    set;

  pkgsStatic = makeSet {
    isStatic = true;
    targetPrefix = "${builtins.head (builtins.split "-" system)}-unknown-linux-musl-";
    cc = toString [
      "env REALGCC=/usr/bin/gcc /usr/bin/musl-gcc" # knows musl's headers
      "-fzero-call-used-regs=used-gpr"
      (only "-idirafter" "linux-libc-dev")
    ];
    cmocka = machine.cmocka-musl;
  };
in
makeSet {
  isStatic = false;
  targetPrefix = "";
  cc = toString [
    "/usr/bin/gcc -nostdinc -isystem $(gcc -print-file-name=include)"
    "-fzero-call-used-regs=used-gpr ${glibc}"
  ];
  cmocka = machine.cmocka;
}
