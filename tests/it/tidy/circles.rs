//! Circles of files: files each of which imports, over others, all of the rest.
//!
//! Who names something that a module re-exports imports the file that defines it, not the module. Not seen are: names that
//! a file re-exports and uses itself (as the root of a module does), names that come by a glob, methods called on a
//! value whose type is not named, and what macros make. Modules within a file are read as if they were the file.

use std::collections::{BTreeMap, BTreeSet};

use super::{SourceFile, assert_none, sources};

const CIRCLE_MAX: usize = 4;

/// Over how many re-exports a name is followed; without an end, misread ones could lead round in a circle.
const RE_EXPORTS_MAX: usize = 8;

/// `crate::a::b` as `[a, b]`; the root is empty.
type Module = Vec<String>;

/// The file of a module, and a name in it.
type Name = (Module, String);

/// By module, whom it imports, and by which names.
type Imports = BTreeMap<Module, BTreeMap<Module, BTreeSet<String>>>;

fn module_of(file: &SourceFile) -> Option<Module> {
    let path = file.path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let is_root = path == "lib";
    (!file.is_unit_test()).then(|| path.split('/').filter(|_| !is_root).map(str::to_owned).collect())
}

/// The code of a file, without comments and without the unit tests at its end.
fn code_of(file: &SourceFile) -> String {
    let code = file.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The `use` declarations of some code, whether each re-exports, and its tree; and the code without them.
fn declarations(code: &str) -> (Vec<(bool, &str)>, String) {
    let (mut found, mut others) = (Vec::new(), String::new());
    for statement in code.split(';') {
        let visibility = |at: usize| statement[..at].rsplit('\n').next().unwrap_or_default().trim();
        let mut starts = statement.match_indices("use ").map(|(at, _)| at);
        let start = starts.find(|at| visibility(*at).is_empty() || visibility(*at).starts_with("pub"));
        if let Some(at) = start {
            found.push((!visibility(at).is_empty(), statement[at + 4..].trim()));
        }
        others.push_str(&statement[..start.unwrap_or(statement.len())]);
        others.push('\n');
    }
    (found, others)
}

/// The paths of a tree like `a::{b, c::{d, e as f}}`, each with the name that it has from there on.
fn paths(tree: &str, prefix: &str) -> Vec<(Vec<String>, String)> {
    if let Some((head, inner)) = tree.split_once('{') {
        let (prefix, mut depth) = (format!("{prefix}{}", head.trim()), 0);
        let inner = inner.trim_end().strip_suffix('}').unwrap_or(inner);
        let is_separator = |character| {
            depth += i32::from(character == '{') - i32::from(character == '}');
            character == ',' && depth == 0
        };
        let parts: Vec<&str> = inner.split(is_separator).map(str::trim).filter(|part| !part.is_empty()).collect();
        return parts.into_iter().flat_map(|part| paths(part, &prefix)).collect();
    }
    let whole = format!("{prefix}{tree}");
    let (path, alias) = whole.split_once(" as ").unwrap_or((&whole, ""));
    let path = path.strip_suffix("::self").unwrap_or(path);
    let path: Vec<String> = path.split("::").map(|part| part.trim().to_owned()).collect();
    let alias = if alias.is_empty() { path.last().cloned().unwrap_or_default() } else { alias.trim().to_owned() };
    vec![(path, alias)]
}

/// Whatever stands in the code itself and could be a path, like `crate::a::B`.
fn paths_within(code: &str) -> Vec<Vec<String>> {
    let in_path = |character: char| character.is_alphanumeric() || character == '_' || character == ':';
    let words = code.split(|character| !in_path(character)).filter(|word| word.contains("::"));
    words.map(|word| word.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect()).collect()
}

/// What a path that stands in the module `here` leads to: a module that has a file, and the name in it, if there is one.
fn resolve(path: &[String], here: &Module, modules: &BTreeSet<Module>) -> Option<(Module, Option<String>)> {
    let mut whole = here.clone();
    let ups = path.iter().take_while(|part| *part == "super").count();
    whole.truncate(here.len() - ups.min(here.len()));
    let rest = match path.first()?.as_str() {
        "crate" => {
            whole.clear();
            &path[1..]
        }
        "self" => &path[1..],
        "super" => &path[ups..],
        first if modules.contains(&[here.as_slice(), &[first.to_owned()]].concat()) => path,
        _ => return None,
    };
    whole.extend_from_slice(rest);
    let length = (0..=whole.len()).rev().find(|length| modules.contains(&whole[..*length]))?;
    let name = whole.get(length).cloned();
    whole.truncate(length);
    Some((whole, name))
}

/// Which file imports which, and by which names.
fn imports_of(sources: &[SourceFile]) -> Imports {
    let code: BTreeMap<Module, String> =
        sources.iter().filter_map(|file| Some((module_of(file)?, code_of(file)))).collect();
    let modules: BTreeSet<Module> = code.keys().cloned().collect();
    let mut imported: BTreeMap<Name, Name> = BTreeMap::new();
    let mut named: Vec<(&Module, Module, String)> = Vec::new();
    for (here, code) in &code {
        let (declarations, others) = declarations(code);
        for (is_re_export, tree) in declarations {
            for (path, alias) in paths(tree, "").into_iter().filter(|(_, alias)| alias != "*") {
                let Some((module, name)) = resolve(&path, here, &modules) else { continue };
                let name = name.unwrap_or_else(|| "self".to_owned());
                imported.insert((here.clone(), alias), (module.clone(), name.clone()));
                if !is_re_export {
                    named.push((here, module, name));
                }
            }
        }
        let within = paths_within(&others).into_iter().filter_map(|path| resolve(&path, here, &modules));
        named.extend(within.filter_map(|(module, name)| Some((here, module, name?))));
    }
    let mut imports = Imports::new();
    for (here, module, name) in named {
        let mut defined = (module, name);
        for _ in 0..RE_EXPORTS_MAX {
            defined = imported.get(&defined).cloned().unwrap_or(defined);
        }
        if defined.0 != *here {
            imports.entry(here.clone()).or_default().entry(defined.0).or_default().insert(defined.1);
        }
    }
    imports
}

/// Whatever `from` imports, over however many files.
fn reached<'a>(from: &'a Module, imports: &'a Imports) -> BTreeSet<&'a Module> {
    let (mut reached, mut to_do) = (BTreeSet::new(), vec![from]);
    while let Some(module) = to_do.pop() {
        to_do.extend(imports.get(module).into_iter().flat_map(BTreeMap::keys).filter(|next| reached.insert(*next)));
    }
    reached
}

/// All circles of more than one file.
fn circles(imports: &Imports) -> BTreeSet<BTreeSet<&Module>> {
    let reach: BTreeMap<&Module, BTreeSet<&Module>> =
        imports.keys().map(|module| (module, reached(module, imports))).collect();
    let circle = |module: &&Module| -> BTreeSet<&Module> {
        reach[*module]
            .iter()
            .filter(|other| reach.get(*other).is_some_and(|back| back.contains(*module)))
            .copied()
            .collect()
    };
    reach.keys().map(circle).filter(|circle| circle.len() > 1).collect()
}

/// What ties the files of a circle.
fn ties(circle: &BTreeSet<&Module>, imports: &Imports) -> String {
    let mut lines = vec![format!("{} files:", circle.len())];
    for from in circle {
        for (to, names) in imports[*from].iter().filter(|(to, _)| circle.contains(to)) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            lines.push(format!("  {} takes of {}: {}", from.join("::"), to.join("::"), names.join(", ")));
        }
    }
    lines.join("\n")
}

#[test]
fn no_more_than_four_files_import_each_other_in_a_circle() {
    let imports = imports_of(&sources());
    assert!(imports.len() > 100, "the imports were not found");
    let large = circles(&imports).into_iter().filter(|circle| circle.len() > CIRCLE_MAX);
    assert_none(large.map(|circle| ties(&circle, &imports)).collect(), "circles of more than four files");
}

#[test]
fn the_circle_finder_sees_what_it_has_to() {
    let file = |path: &str, text: &str| SourceFile { path: path.to_owned(), text: text.to_owned() };
    let sources = [
        file("src/lib.rs", "pub use a::{Far as Near};"),
        file(
            "src/a.rs",
            "mod b;\npub(crate) use self::{\n    b::Thing,\n    d::{Far, Further},\n};\nuse self::d::Further;",
        ),
        file("src/a/b.rs", "use super::c::{self, Other as O};"),
        file("src/a/c.rs", "// use super::e::Never;\nfn f() {\n    crate::a::Thing;\n}"),
        file("src/a/d.rs", "use std::fmt;\nuse super::e;"),
        file("src/a/e.rs", "use crate::Near;\n#[cfg(test)]\nmod tests {\n    use super::super::b::Thing;\n}"),
        file("src/a/tests.rs", "use super::e;"),
    ];
    let imports = imports_of(&sources);
    let found: Vec<Vec<String>> =
        circles(&imports).iter().map(|circle| circle.iter().map(|module| module.join("::")).collect()).collect();
    assert_eq!(found, [["a::b", "a::c"], ["a::d", "a::e"]]);
}
