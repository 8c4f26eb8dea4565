//! The shape of the code: what no compiler checks.

mod circles;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

const LINES_MAX: usize = 600;

/// A text file of the crate, by its path from the crate's root.
struct SourceFile {
    path: String,
    text: String,
}

impl SourceFile {
    /// The lines with their numbers.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// Those lines in which `is_bad` finds something, as `path:line: text`.
    fn offences(&self, is_bad: impl Fn(&str) -> bool) -> Vec<String> {
        let offences = self.lines().filter(|(_, line)| is_bad(line));
        offences.map(|(number, line)| format!("{}:{number}: {}", self.path, line.trim())).collect()
    }

    fn is_this(&self) -> bool {
        self.path == "tests/it/tidy.rs"
    }

    fn is_under(&self, directory: &str) -> bool {
        self.path.starts_with(directory)
    }

    /// The top-level module that a file of `src` belongs to.
    fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        Some(inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs"))
    }

    /// Whether it holds unit tests only. What they use is no dependency of the module.
    fn is_unit_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }
}

fn read_below(directory: &Path, root: &Path, files: &mut Vec<SourceFile>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("the directory can be read").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            read_below(&path, root, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("source files are text");
            let path = path.strip_prefix(root).expect("it was found below the root");
            files.push(SourceFile { path: path.to_string_lossy().replace('\\', "/"), text });
        }
    }
}

/// All Rust files of the crate.
fn sources() -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for directory in ["src", "tests", "examples", "benches"] {
        read_below(&root.join(directory), root, &mut files);
    }
    assert!(files.iter().any(|file| file.path == "src/lib.rs"), "the sources were not found");
    files
}

#[track_caller]
fn assert_none(offences: Vec<String>, rule: &str) {
    assert!(offences.is_empty(), "{rule}:\n{}", offences.join("\n"));
}

/// The modules of `src`, from the ground up. A module knows itself and those on lower layers, and no other.
const LAYERS: [&[&str]; 13] = [
    // What names nobody: parking, the machine, structures of types.
    &["blocking", "host", "schema", "timestamp"],
    &["codec"],
    // Facts about jobs, and what the actors of a process say to each other of them.
    &["job"],
    &["protocol"],
    // What tasks and clients both talk to, and workers among themselves.
    &["peer", "port", "service"],
    // A flow as it runs, and as users write it.
    &["dataplane"],
    &["flow"],
    &["link"],
    // Both legs of the link, and what hosts the actors. Only what is above joins them.
    &["bridge", "handle", "launch", "worker"],
    &["manager"],
    &["environment", "store"],
    &["node"],
    // A user like any other.
    &["cli"],
];

/// Only a client's side and a worker's speak over the link: `manager` answers and orders there, `environment` lays it, a handle
/// asks over it.
const LINK_KNOWN_BY: [&str; 8] = ["link", "manager", "environment", "handle", "bridge", "node", "cli", "worker"];

/// The modules named by the `use crate::..` declarations and the `crate::..` paths of a file, with their lines.
fn imports(file: &SourceFile) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    // A `use crate::{` over several lines names modules at the first level of its braces.
    let mut depth = None;
    for (number, line) in file.lines() {
        // What unit tests use is no dependency of the module.
        if line == "mod tests {" {
            break;
        }
        let code = line.split("//").next().unwrap_or_default();
        let mut rest = code;
        if depth.is_none()
            && let Some((_, braced)) = code.split_once("use crate::{")
        {
            depth = Some(1);
            rest = braced;
        }
        if let Some(open) = &mut depth {
            let mut name = String::new();
            for character in rest.chars() {
                match character {
                    '{' => *open += 1,
                    '}' => *open -= 1,
                    _ => {}
                }
                if *open == 1 && (character.is_alphanumeric() || character == '_') {
                    name.push(character);
                    continue;
                }
                // What follows `::` on the first level is not a module of the root.
                if *open <= 1 && character == ':' || (*open <= 2 && character == '{') || ",}".contains(character) {
                    if !name.is_empty() {
                        found.push((number, std::mem::take(&mut name)));
                    }
                } else {
                    name.clear();
                }
            }
            if !name.is_empty() {
                found.push((number, name));
            }
            if *open == 0 {
                depth = None;
            }
            continue;
        }
        for (at, _) in code.match_indices("crate::") {
            let name: String = code[at + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            found.push((number, name));
        }
    }
    found
}

#[test]
fn imports_point_one_way() {
    let sources = sources();
    let layer = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let roots = ["lib", "main", "fuzz"];
    let modules: BTreeSet<&str> = sources.iter().filter_map(SourceFile::module).collect();
    let placed: BTreeSet<&str> = LAYERS.iter().flat_map(|layer| *layer).copied().chain(roots).collect();
    assert_eq!(modules, placed, "each module has its layer");
    let mut offences = Vec::new();
    for file in sources.iter().filter(|file| !file.is_unit_test()) {
        let Some(module) = file.module().filter(|module| !roots.contains(module)) else { continue };
        for (number, import) in imports(file) {
            // Names of the crate's root, as documentation links use them, are no modules.
            let Some(theirs) = layer(&import) else { continue };
            let is_below = layer(module).is_some_and(|mine| theirs < mine) || import == module;
            let uses_link = import == "link" && !LINK_KNOWN_BY.contains(&module);
            if (!is_below || uses_link) && !is_allowed(&file.path, &import) {
                offences.push(format!("{}:{number}: `{module}` must not know `{import}`", file.path));
            }
        }
    }
    assert_none(offences, "imports in a wrong direction");
}

/// Imports against the rule, each with its reason.
fn is_allowed(path: &str, import: &str) -> bool {
    let exceptions: [(&str, &str, &str); 0] = [];
    exceptions.iter().any(|(file, module, _reason)| *file == path && *module == import)
}

#[test]
fn the_import_reader_sees_what_it_has_to() {
    let text = "use crate::flow::Stream;\nuse crate::{\n    job::{Job, manager},\n    worker::Worker,\n};\n\
                let x = crate::environment::y(); // crate::comment::here\nuse crate::{link, port::Input};\n";
    let file = SourceFile { path: "src/x.rs".to_owned(), text: text.to_owned() };
    let found: Vec<(usize, String)> = imports(&file);
    let expected = [(1, "flow"), (3, "job"), (4, "worker"), (6, "environment"), (7, "link"), (7, "port")];
    let only_modules: Vec<(usize, &str)> = found
        .iter()
        .map(|(number, name)| (*number, name.as_str()))
        .filter(|(_, name)| name.starts_with(char::is_lowercase))
        .collect();
    assert_eq!(only_modules, expected);
}

#[test]
fn bincode_is_named_in_one_file() {
    let named = sources().into_iter().filter(|file| !file.is_this() && file.path != "src/codec.rs");
    let offences = named.flat_map(|file| file.offences(|line| line.contains("bincode")));
    assert_none(offences.collect(), "bincode is named outside of src/codec.rs");
}

#[test]
fn unsafe_code_is_where_it_was_measured_and_proved() {
    let allowed = ["src/flow/filter.rs", "src/dataplane/wide.rs"];
    let others = sources().into_iter().filter(|file| !file.is_this() && !allowed.contains(&file.path.as_str()));
    let offences =
        others.flat_map(|file| file.offences(|line| line.contains("unsafe_code") || line.contains("unsafe {")));
    assert_none(offences.collect(), "unsafe code, which only what valgrind runs in the gate may hold");
}

#[test]
fn sockets_are_named_where_connections_are_made() {
    let makers = ["src/bridge/tcp.rs", "src/bridge/tls.rs", "src/node/serving.rs"];
    let others = sources()
        .into_iter()
        .filter(|file| file.is_under("src/") && !file.is_unit_test() && !makers.contains(&&*file.path));
    let names = |line: &str| line.contains("TcpStream") || line.contains("TcpListener");
    assert_none(others.flat_map(|file| file.offences(names)).collect(), "sockets");
}

#[test]
fn frames_and_hellos_do_no_io() {
    let pure = ["src/bridge/frame.rs", "src/bridge/hello.rs", "src/codec.rs", "src/codec/guard.rs"];
    let io = |line: &str| ["tokio", "actix", "Instant", "std::net", "std::fs"].iter().any(|name| line.contains(name));
    let files = sources().into_iter().filter(|file| pure.contains(&&*file.path));
    assert_none(files.flat_map(|file| file.offences(io)).collect(), "I/O or a clock in pure code");
}

#[test]
fn clocks_threads_and_randomness_come_from_the_host() {
    let takes = [
        "Instant::now",
        "SystemTime::now",
        ".elapsed()",
        "tokio::time",
        "time::timeout",
        "run_later",
        "run_interval",
        "spawn_blocking",
        "getrandom",
        "RandomState",
        "thread::spawn",
        "thread::Builder",
        "spawn_local(",
        "actix_rt::",
        "Arbiter",
        "LocalSet",
        "JoinSet",
        "runtime::Builder",
        "tokio::spawn",
    ];
    // Where a simulated run never comes: what a user of the crate would write, and the disk.
    let real = ["src/cli.rs", "src/cli/", "src/main.rs", "src/fuzz.rs", "src/store.rs", "src/store/"];
    let others = sources().into_iter().filter(|file| {
        let is_real = real.iter().any(|path| file.is_under(path)) || file.path.ends_with("/fuzz.rs");
        let is_host = file.module() == Some("host");
        file.is_under("src/") && !is_real && !is_host && !file.is_unit_test()
    });
    let offences = others.flat_map(|mut file| {
        // Their tables are only looked up, or sorted.
        let has_tables = ["src/bridge.rs", "src/schema.rs"].contains(&&*file.path);
        if let Some(tests) = file.text.find("\nmod tests {") {
            file.text.truncate(tests);
        }
        file.offences(|line| {
            let code = line.split("//").next().unwrap_or_default();
            // Through the host it may be spawned.
            let code = code.replace("host.spawn_local(", "").replace("host().spawn_local(", "");
            takes.iter().any(|what| code.contains(what) && !(has_tables && *what == "RandomState"))
        })
    });
    assert_none(offences.collect(), "taken from the machine past `host`");
}

#[test]
fn no_file_is_too_long() {
    let long = sources().into_iter().filter(|file| file.text.lines().count() > LINES_MAX);
    let offences = long.map(|file| format!("{}: {} lines", file.path, file.text.lines().count()));
    assert_none(offences.collect(), "files of more than 600 lines");
}

#[test]
fn nothing_waits_by_sleeping() {
    let tested = sources().into_iter().filter(|file| file.is_under("tests/") && !file.is_this());
    let sleeps = |line: &str| line.contains("thread::sleep") || line.contains("time::sleep");
    assert_none(tested.flat_map(|file| file.offences(sleeps)).collect(), "tests that sleep");
}

#[test]
fn nothing_is_left_to_do() {
    let unfinished =
        |line: &str| ["todo!", "unimplemented!", "dbg!"].iter().any(|macro_name| line.contains(macro_name));
    let files = sources().into_iter().filter(|file| !file.is_this());
    assert_none(files.flat_map(|file| file.offences(unfinished)).collect(), "unfinished code");
}

#[test]
fn no_comment_speaks_of_the_tracker_or_of_a_machine() {
    let speaks = |line: &str| {
        let marks = ["issue #", "issues/", "TODO", "FIXME", "XXX", "/tmp/"];
        marks.iter().any(|mark| line.contains(mark)) || has_number_sign(line)
    };
    let files = sources().into_iter().filter(|file| !file.is_this());
    assert_none(files.flat_map(|file| file.offences(speaks)).collect(), "marks that mean nothing to a reader");
}

/// Whether the line has something like `#12` in a comment.
fn has_number_sign(line: &str) -> bool {
    let Some((_, comment)) = line.split_once("//") else { return false };
    comment.split('#').skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[test]
fn no_module_lives_in_a_mod_rs() {
    let offences = sources().into_iter().filter(|file| file.path.ends_with("/mod.rs")).map(|file| file.path);
    assert_none(offences.collect(), "`foo.rs` beside `foo/` instead");
}

#[test]
fn every_test_module_is_in_the_one_binary() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let main = std::fs::read_to_string(root.join("it/main.rs")).expect("there is a main.rs");
    let mut offences = Vec::new();
    for entry in std::fs::read_dir(root.join("it")).expect("it can be read") {
        let name = entry.expect("it can be read").file_name().to_string_lossy().into_owned();
        let Some(module) = name.strip_suffix(".rs").filter(|module| *module != "main") else { continue };
        if !main.contains(&format!("mod {module};")) {
            offences.push(format!("tests/it/{name} is not listed in main.rs"));
        }
    }
    let others = std::fs::read_dir(&root).expect("it can be read").map(|entry| entry.expect("it can be read").path());
    offences
        .extend(others.filter(|path| path.is_file()).map(|path| format!("{} is a binary of its own", path.display())));
    assert_none(offences, "tests outside of the one binary");
}

#[test]
fn no_stage_knows_actix_or_a_clock() {
    // The step loop, heads, counters, and what is about time: `process`.
    let clocks = ["task.rs", "head.rs", "counters.rs", "process/"];
    let of_flow = sources()
        .into_iter()
        .filter(|file| (file.is_under("src/flow") || file.is_under("src/dataplane")) && !file.is_unit_test());
    let offences = of_flow.flat_map(|file| {
        let inside = ["src/flow/", "src/dataplane/"].iter().find_map(|module| file.path.strip_prefix(module));
        let has_clock = clocks.iter().any(|clock| inside.is_some_and(|at| at.starts_with(clock)));
        file.offences(|line| {
            let code = line.split("//").next().unwrap_or_default();
            // What a service takes is a message of actix; the stages behind it know none.
            let is_message = code.trim() == "use actix::Message;";
            code.contains("actix::") && !is_message
                || !has_clock && (code.contains("Instant") || code.contains("SystemTime"))
        })
    });
    assert_none(offences.collect(), "a stage that knows an actor or a clock");
}

#[test]
fn the_completion_rules_are_pure() {
    let rules = sources().into_iter().filter(|file| {
        let within = file.is_under("src/manager/completion.rs") || file.is_under("src/manager/completion/");
        within && !file.is_unit_test() && !file.is_under("src/manager/completion/model")
    });
    let impure =
        ["actix", "tokio", "Instant", "SystemTime", "std::fs", "std::io", "std::net", "std::thread", "parking_lot"];
    let offences = rules.flat_map(|file| {
        file.offences(|line| {
            let code = line.split("//").next().unwrap_or_default();
            impure.iter().any(|name| code.contains(name))
        })
    });
    assert_none(offences.collect(), "rules that are not pure");
}

#[test]
fn each_invariant_of_the_architecture_names_a_test_that_holds_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let text = std::fs::read_to_string(path).expect("it is there");
    let sources = sources();
    let is_there = |module: &str| {
        let path = format!("tests/it/{}.rs", module.replace("::", "/"));
        sources.iter().any(|file| file.path == path && file.text.contains("#[test]"))
    };
    let exists = |test: &str| {
        let Some((module, name)) = test.rsplit_once("::") else { return false };
        let module = module.replace("::", "/");
        let files = [format!("tests/it/{module}.rs"), format!("src/{module}.rs")];
        let wanted = format!("fn {name}(");
        sources.iter().any(|file| files.contains(&file.path) && file.text.contains(&wanted))
    };
    let mut offences = Vec::new();
    let mut invariants = 0;
    for line in text.lines().filter(|line| line.starts_with("**Invariant:**")) {
        invariants += 1;
        if line.contains(" By construction: ") {
            continue;
        }
        let named = line.split_once(" Held by ").map(|(_, tests)| tests).unwrap_or_default();
        let tests: Vec<&str> = named.split('`').skip(1).step_by(2).collect();
        if tests.is_empty() || !tests.iter().all(|test| exists(test) || is_there(test)) {
            offences.push(line.to_owned());
        }
    }
    assert!(invariants > 15, "they were not found");
    assert_none(offences, "an invariant that names no test, or one that is not there");
}
