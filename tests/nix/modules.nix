# SPDX-License-Identifier: Apache-2.0
# A stand-in for lib.evalModules: options, defaults, types, and refusal of what
# isn't declared. No mkIf, no priorities.
let
  inherit (builtins)
    all
    attrNames
    catAttrs
    concatMap
    filter
    foldl'
    isFunction
    isPath
    map
    mapAttrs
    ;

  show = builtins.concatStringsSep ".";
  isOption = value: value._type or "" == "option";

  # Sets of sets; no option may be declared twice.
  union =
    a: b:
    a
    // mapAttrs (
      name: value:
      if !(a ? ${name}) then
        value
      else if isOption value then
        throw "${name} is declared twice"
      else
        union a.${name} value
    ) b;
in
{
  evalModules =
    {
      modules,
      specialArgs ? { },
      prefix ? [ ],
    }:
    let
      # The whole file, as { options, config }.
      load =
        module:
        let
          imported = if isPath module then import module else module;
          arguments = specialArgs // { inherit config; };
          value = if isFunction imported then imported arguments else imported;
        in
        {
          options = value.options or { };
          config = value.config or (removeAttrs value [ "options" ]);
        };
      loaded = map load modules;
      options = foldl' union { } (map (module: module.options) loaded);

      option =
        path: declared: definitions:
        if definitions == [ ] then
          declared.default or (throw "${show path} is used but not defined")
        else if !all declared.type.check definitions then
          throw "a definition of ${show path} is not of its type"
        else
          declared.type.merge path (map (value: { inherit value; }) definitions);

      # The values at this place of the tree, from all modules' definitions.
      evaluate =
        path: declared: definitions:
        let
          undeclared = filter (key: !(declared ? ${key})) (concatMap attrNames definitions);
          below =
            key: value:
            (if isOption value then option else evaluate) (path ++ [ key ]) value (
              catAttrs key definitions
            );
        in
        if undeclared != [ ] then
          throw "${show path} has no option ${toString undeclared}"
        else
          mapAttrs below declared;

      config = evaluate prefix options (map (module: module.config) loaded);
    in
    {
      inherit config options;
    };
}
