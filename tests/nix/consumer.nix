# SPDX-License-Identifier: Apache-2.0
# A foreign flake that uses ours in every way: as an input, through the module,
# and as a folder of its own, the way a monorepo has it. `failures` names what
# is not as it should be. tools/check-nix makes a flake.nix of this.
{
  outputs =
    {
      self,
      nixpkgs,
      tcp-proxy,
    }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];

      # The folder, as an existing monorepo calls it.
      monorepo = systemConfig: {
        networking.tcp-proxy = import ./networking/tcp-proxy {
          inherit nixpkgs systemConfig;
          fenix = throw "not needed";
        };
      };

      same = a: b: a.drvPath == b.drvPath;

      outputsOf =
        system: flavour:
        let
          ours = tcp-proxy.legacyPackages.${system}.${flavour}.networking.tcp-proxy;
          door = self.legacyPackages.${system}.${flavour}.networking.tcp-proxy;
          flat = tcp-proxy.packages.${system};
        in
        {
          "default is compressed" = same ours.default ours.compressed;
          "compressed isn't uncompressed" = !same ours.compressed ours.uncompressed;
          "flat names" =
            same flat."tcp-proxy-${flavour}" ours.uncompressed
            && same flat."tcp-proxy-${flavour}-compressed" ours.compressed;
          "the door" =
            same door.default ours.default
            && same door.compressed ours.compressed
            && same door.uncompressed ours.uncompressed;
        };

      restOf =
        system:
        let
          inherit (tcp-proxy.legacyPackages.${system}) gnu musl;
          prev = nixpkgs.legacyPackages.${system};
          final = prev // tcp-proxy.overlays.default final prev;
        in
        {
          "the default package" =
            same tcp-proxy.packages.${system}.default
              musl.networking.tcp-proxy.compressed;
          "gnu isn't musl" =
            !same gnu.networking.tcp-proxy.uncompressed musl.networking.tcp-proxy.uncompressed;
          "five apps" = builtins.length (builtins.attrNames tcp-proxy.apps.${system}) == 5;
          "the shell" = builtins.isString tcp-proxy.devShells.${system}.default.drvPath;
          "the formatter" = builtins.isString tcp-proxy.formatter.${system}.drvPath;
          "the overlay" =
            same final.tcp-proxy gnu.networking.tcp-proxy.uncompressed
            && same final.tcp-proxy-compressed gnu.networking.tcp-proxy.compressed;
        };

      # The text of a unit, given the settings of services.tcp-proxy.
      unit =
        settings: name:
        (lib.nixosSystem {
          modules = [
            tcp-proxy.nixosModules.default
            {
              nixpkgs.hostPlatform = "x86_64-linux";
              services.tcp-proxy = settings;
            }
          ];
        }).config.systemd.units."tcp-proxy-${name}.service".text;
      instance = {
        program = "vsock-to-ip";
        settings.ip-addr = "100%:80";
        settings.max-connections = 7;
      };
      has = text: part: builtins.length (builtins.split part text) > 1;
      refuses = settings: !(builtins.tryEval (builtins.stringLength (unit settings "a"))).success;
      module = {
        "two instances" =
          let
            text = unit {
              instances.a = instance;
              instances.b = instance;
            };
          in
          has (text "a") "vsock-to-ip.*a" && has (text "b") "vsock-to-ip.*b";
        "flags" =
          has (unit { instances.a = instance; } "a")
            "/bin/vsock-to-ip\" \"--ip-addr=100%%:80\" \"--max-connections=7\"\n";
        "no writable code without UPX" =
          has (unit { instances.a = instance; } "a") "MemoryDenyWriteExecute=true";
        "writable code for UPX" = has (unit {
          package = tcp-proxy.packages.x86_64-linux.default;
          instances.a = instance;
        } "a") "MemoryDenyWriteExecute=false";
        "an unknown program is refused" = refuses { instances.a.program = "cat"; };
        "no program is refused" = refuses { instances.a.settings = { }; };
        "an unknown option is refused" = refuses { instances.a = instance // { flags = [ ]; }; };
        "a flag that is a list is refused" = refuses {
          instances.a = instance // {
            settings.ip-addr = [ ];
          };
        };
      };

      failed =
        where: results:
        map (name: "${where}: ${name}") (
          builtins.filter (name: !results.${name}) (builtins.attrNames results)
        );
    in
    {
      legacyPackages = lib.genAttrs systems (system: {
        gnu = monorepo {
          inherit system;
          static = false;
        };
        musl = monorepo {
          inherit system;
          static = true;
        };
      });

      failures =
        builtins.concatMap (
          system:
          failed "${system} gnu" (outputsOf system "gnu")
          ++ failed "${system} musl" (outputsOf system "musl")
          ++ failed system (restOf system)
        ) systems
        ++ failed "module" module;
    };
}
