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
          "apps are described" = builtins.all (app: app.meta.description != "") (
            builtins.attrValues tcp-proxy.apps.${system}
          );
          "the shell" = builtins.isString tcp-proxy.devShells.${system}.default.drvPath;
          "the formatter" = builtins.isString tcp-proxy.formatter.${system}.drvPath;
          "the overlay" =
            same final.tcp-proxy gnu.networking.tcp-proxy.uncompressed
            && same final.tcp-proxy-compressed gnu.networking.tcp-proxy.compressed;
        };

      # The text of a unit, given modules and settings of services.tcp-proxy.
      unitWith =
        modules: settings: name:
        (lib.nixosSystem {
          modules = modules ++ [
            tcp-proxy.nixosModules.default
            {
              nixpkgs.hostPlatform = "x86_64-linux";
              services.tcp-proxy = settings;
            }
          ];
        }).config.systemd.units."tcp-proxy-${name}".text or (throw "there is none");
      unit = unitWith [ ];
      instance = {
        program = "vsock-to-ip";
        settings.ip-addr = "100%:80";
        settings.max-connections = 7;
      };
      # The socket of an instance whose listener is systemd's.
      socket =
        program: flag: address:
        unit {
          instances.a = {
            inherit program;
            socketActivation = true;
            settings.${flag} = address;
          };
        } "a.socket";
      listens =
        program: flag: address: stream:
        has (socket program flag address) "\nListenStream=${stream}\n";
      has = text: part: builtins.length (builtins.split part text) > 1;
      fails = text: !(builtins.tryEval (builtins.stringLength text)).success;
      refuses = settings: fails (unit settings "a.service");
      module = {
        "two instances" =
          let
            text = unit {
              instances.a = instance;
              instances.b = instance;
            };
          in
          has (text "a.service") "vsock-to-ip.*a" && has (text "b.service") "vsock-to-ip.*b";
        "flags" =
          has (unit { instances.a = instance; } "a.service")
            "/bin/vsock-to-ip\" \"--ip-addr=100%%:80\" \"--max-connections=7\"\n";
        "flags without values" =
          let
            text =
              paired:
              unit {
                instances.a = {
                  program = "vsock-to-ip";
                  settings = { inherit paired; };
                };
              } "a.service";
          in
          has (text true) "/bin/vsock-to-ip\" \"--paired\"\n" && has (text false) "/bin/vsock-to-ip\"\n";
        "what systemd has elsewhere" =
          let
            text = unit { instances.a = instance; } "a.service";
          in
          builtins.all (has text) [
            "\nLimitNOFILE=524288\n"
            "\nRestart=on-failure\n"
            "\nRestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX AF_VSOCK\n"
            "\nStartLimitIntervalSec=0\n"
            "\nSystemCallFilter=@system-service\nSystemCallFilter=~@aio "
            "\nUMask=0077\n"
          ]
          && !has text "EnvironmentFile"
          && has (socket "ip-to-vsock" "ip-addr" "[::]:443") "\nFreeBind=true\n"
          && has (socket "vsock-to-ip" "vsock-addr" "any:1") "\nTriggerLimitBurst=5\n";
        "no writable code without UPX" =
          has (unit { instances.a = instance; } "a.service") "MemoryDenyWriteExecute=true";
        "writable code for UPX" = has (unit {
          package = tcp-proxy.packages.x86_64-linux.default;
          instances.a = instance;
        } "a.service") "MemoryDenyWriteExecute=false";
        "other modules can add to lists" =
          let
            text = unitWith [
              {
                systemd.services.tcp-proxy-a.serviceConfig = {
                  AmbientCapabilities = [ "CAP_NET_RAW" ];
                  CapabilityBoundingSet = [ "CAP_NET_RAW" ];
                  DeviceAllow = [ "/dev/null rw" ];
                };
              }
            ] { instances.a = instance; } "a.service";
          in
          builtins.all (has text) [
            "\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n"
            "\nAmbientCapabilities=CAP_NET_RAW\n"
            "\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE\n"
            "\nCapabilityBoundingSet=CAP_NET_RAW\n"
            "\nDeviceAllow=/dev/null rw\n"
          ];
        "no socket without activation" = fails (unit { instances.a = instance; } "a.socket");
        "with a socket, no flag for the listener" =
          let
            settings.instances.a = {
              program = "ip-to-vsock";
              socketActivation = true;
              settings = {
                ip-addr = "[::]:443";
                vsock-addr = "88:4000";
              };
            };
            text = unit settings "a.service";
          in
          has text "/bin/ip-to-vsock\" \"--vsock-addr=88:4000\"\n"
          && has text "\nRequires=tcp-proxy-a.socket\n"
          && has text "\nX-StopIfChanged=false\n";
        "sockets for TCP" =
          listens "ip-to-vsock" "ip-addr" "[::]:443" "\\[::]:443"
          && listens "port-to-vsock-transparent" "ip-addr" "0.0.0.0:1200" "0.0.0.0:1200";
        "sockets for vsock" =
          listens "vsock-to-ip" "vsock-addr" "any:4000" "vsock::4000"
          && listens "vsock-to-ip-transparent" "vsock-addr" "4294967295:1" "vsock::1"
          && listens "vsock-to-ip" "vsock-addr" "local:4000" "vsock:1:4000"
          && listens "vsock-to-ip" "vsock-addr" "16:4000" "vsock:16:4000";
        "a socket for a name is refused" = fails (socket "ip-to-vsock" "ip-addr" "localhost:443");
        "a socket without a listener is refused" = fails (
          socket "ip-to-vsock" "vsock-addr" "88:4000"
        );
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
