# SPDX-License-Identifier: Apache-2.0
# Stand-ins for the option types that we use, made and asked like nixpkgs' own:
# `check` refuses values, and `merge` makes the option's value of its place and
# all its definitions, each a set with the definition as its `value`.
{ evalModules, nameValuePair }:
let
  inherit (builtins)
    all
    attrNames
    attrValues
    catAttrs
    concatLists
    concatMap
    concatStringsSep
    elem
    head
    isAttrs
    isBool
    isInt
    isList
    isString
    length
    listToAttrs
    map
    ;
  values = catAttrs "value";
in
rec {
  mkOptionType =
    {
      name,
      check ? _: true,
      merge ? mergeEqualOption,
    }:
    {
      inherit name check merge;
    };
  mergeEqualOption =
    loc: defs:
    if all (value: value == head (values defs)) (values defs) then
      head (values defs)
    else
      throw "${concatStringsSep "." loc} is defined twice";

  types = rec {
    bool = mkOptionType {
      name = "bool";
      check = isBool;
    };
    int = mkOptionType {
      name = "int";
      check = isInt;
    };
    str = mkOptionType {
      name = "str";
      check = isString;
    };
    anything = mkOptionType { name = "anything"; };
    package = mkOptionType {
      name = "package";
      check = value: value.type or "" == "derivation";
    };
    enum =
      names:
      mkOptionType {
        name = "enum";
        check = value: elem value names;
      };
    either =
      a: b:
      mkOptionType {
        name = "either";
        check = value: a.check value || b.check value;
      };
    listOf =
      element:
      mkOptionType {
        name = "listOf";
        check = value: isList value && all element.check value;
        merge = _: defs: concatLists (values defs);
      };
    attrsOf =
      element:
      mkOptionType {
        name = "attrsOf";
        check = value: isAttrs value && all element.check (attrValues value);
        merge =
          loc: defs:
          let
            defsOf = key: map (value: { inherit value; }) (catAttrs key (values defs));
            merged = key: nameValuePair key (element.merge (loc ++ [ key ]) (defsOf key));
          in
          listToAttrs (map merged (concatMap attrNames (values defs)));
      };
    submodule =
      module:
      mkOptionType {
        name = "submodule";
        check = isAttrs;
        merge =
          loc: defs:
          (evalModules {
            prefix = loc;
            modules = [ module ] ++ map (config: { inherit config; }) (values defs);
          }).config;
      };
  };
}
